/* SPDX-License-Identifier: Apache-2.0 */
#include "bpf.h"

#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

static int bpf(enum bpf_cmd command, union bpf_attr *attributes)
{
	return (int)syscall(SYS_bpf, command, attributes, sizeof(*attributes));
}

int bpf_load(enum bpf_prog_type type, const struct bpf_insn *instructions, size_t count)
{
	union bpf_attr attributes;

	memset(&attributes, 0, sizeof(attributes));
	attributes.prog_type = type;
	attributes.insns = (uintptr_t)instructions;
	attributes.insn_cnt = (uint32_t)count;
	attributes.license = (uintptr_t)"Apache-2.0";
	return bpf(BPF_PROG_LOAD, &attributes);
}

int bpf_attach(int program, int target, enum bpf_attach_type type, unsigned int flags)
{
	union bpf_attr attributes;

	memset(&attributes, 0, sizeof(attributes));
	attributes.target_fd = (uint32_t)target;
	attributes.attach_bpf_fd = (uint32_t)program;
	attributes.attach_type = type;
	attributes.attach_flags = flags;
	return bpf(BPF_PROG_ATTACH, &attributes);
}

int bpf_array(uint32_t size)
{
	union bpf_attr attributes;

	memset(&attributes, 0, sizeof(attributes));
	attributes.map_type = BPF_MAP_TYPE_ARRAY;
	attributes.key_size = sizeof(uint32_t);
	attributes.value_size = size;
	attributes.max_entries = 1;
	return bpf(BPF_MAP_CREATE, &attributes);
}

int bpf_read(int map, void *element)
{
	union bpf_attr attributes;
	uint32_t key = 0;

	memset(&attributes, 0, sizeof(attributes));
	attributes.map_fd = (uint32_t)map;
	attributes.key = (uintptr_t)&key;
	attributes.value = (uintptr_t)element;
	return bpf(BPF_MAP_LOOKUP_ELEM, &attributes);
}

long bpf_jited_size(int program)
{
	struct bpf_prog_info info;
	union bpf_attr attributes;

	memset(&info, 0, sizeof(info));
	memset(&attributes, 0, sizeof(attributes));
	attributes.info.bpf_fd = (uint32_t)program;
	attributes.info.info = (uintptr_t)&info;
	attributes.info.info_len = sizeof(info);
	if (bpf(BPF_OBJ_GET_INFO_BY_FD, &attributes) < 0)
		return -1;
	return (long)info.jited_prog_len;
}
