/* SPDX-License-Identifier: Apache-2.0
 *
 * bpf(2), as far as the probes need it. Instructions are built from struct bpf_insn, so that they come out right
 * on either byte order.
 */
#ifndef OSBUILDER_BPF_H
#define OSBUILDER_BPF_H

#include <linux/bpf.h>
#include <stddef.h>
#include <stdint.h>

#define BPF_SET(register, value)                                                                                       \
	((struct bpf_insn){.code = BPF_ALU64 | BPF_MOV | BPF_K, .dst_reg = (register), .imm = (value)})
#define BPF_RETURN() ((struct bpf_insn){.code = BPF_JMP | BPF_EXIT})

/* Each returns a descriptor or 0, or -1 with errno. */
int bpf_load(enum bpf_prog_type type, const struct bpf_insn *instructions, size_t count);
int bpf_attach(int program, int target, enum bpf_attach_type type, unsigned int flags);

/* Bytes of machine code that the program was compiled to; 0: it is interpreted. -1 with errno. */
long bpf_jited_size(int program);

#endif
