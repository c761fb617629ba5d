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
#define BPF_COPY(register, source)                                                                                     \
	((struct bpf_insn){.code = BPF_ALU64 | BPF_MOV | BPF_X, .dst_reg = (register), .src_reg = (source)})
/* Stores a register of 64 bits at an address that another one holds. */
#define BPF_STORE(address, offset, source)                                                                             \
	((struct bpf_insn){.code = BPF_STX | BPF_MEM | BPF_DW, .dst_reg = (address), .src_reg = (source), .off = (offset)})
/* The address of an array's element 0: two instructions. */
#define BPF_ELEMENT(register, map)                                                                                     \
	((struct bpf_insn){.code = BPF_LD | BPF_DW | BPF_IMM, .dst_reg = (register), .src_reg = BPF_PSEUDO_MAP_VALUE,     \
			   .imm = (map)}),                                                                             \
		((struct bpf_insn){0})
#define BPF_RETURN() ((struct bpf_insn){.code = BPF_JMP | BPF_EXIT})

/* Each returns a descriptor or 0, or -1 with errno. */
int bpf_load(enum bpf_prog_type type, const struct bpf_insn *instructions, size_t count);
int bpf_attach(int program, int target, enum bpf_attach_type type, unsigned int flags);

/* An array of one element of `size` bytes, and what it holds. */
int bpf_array(uint32_t size);
int bpf_read(int map, void *element);

/* Bytes of machine code that the program was compiled to; 0: it is interpreted. -1 with errno. */
long bpf_jited_size(int program);

#endif
