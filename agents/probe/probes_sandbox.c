/* SPDX-License-Identifier: Apache-2.0
 *
 * What confines a workload besides namespaces and groups: system call filters, BPF, keys.
 */
#include "bpf.h"
#include "probe.h"
#include "util.h"

#include <errno.h>
#include <linux/filter.h>
#include <linux/keyctl.h>
#include <linux/seccomp.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

/* r0 = 0; exit: as a socket filter it drops every packet. */
static const struct bpf_insn DROP_ALL[] = {BPF_SET(BPF_REG_0, 0), BPF_RETURN()};

void probe_seccomp(void)
{
	struct sock_filter instructions[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_getppid, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog filter = {.len = COUNT_OF(instructions), .filter = instructions};

	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
		fail_errno("PR_SET_NO_NEW_PRIVS");
	if (syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &filter) < 0)
		fail_errno("SECCOMP_SET_MODE_FILTER");
	if (syscall(SYS_getppid) != -1 || errno != EPERM)
		fail("the filtered call was not refused");
	pass("a filter refused getppid(2)");
}

void probe_bpf(void)
{
	int pair[2];
	char byte;
	int program = bpf_load(BPF_PROG_TYPE_SOCKET_FILTER, DROP_ALL, COUNT_OF(DROP_ALL));

	if (program < 0)
		fail_errno("BPF_PROG_LOAD");
	if (socketpair(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0, pair) < 0)
		fail_errno("socketpair");
	if (setsockopt(pair[1], SOL_SOCKET, SO_ATTACH_BPF, &program, sizeof(program)) < 0)
		fail_errno("SO_ATTACH_BPF");
	send(pair[0], "x", 1, MSG_DONTWAIT);
	if (recv(pair[1], &byte, 1, MSG_DONTWAIT) != -1)
		fail("a packet came through a filter that drops all");
	pass("a socket filter was loaded, attached and dropped a packet");
}

void probe_bpf_jit(void)
{
	int program = bpf_load(BPF_PROG_TYPE_SOCKET_FILTER, DROP_ALL, COUNT_OF(DROP_ALL));

	if (program < 0)
		fail_errno("BPF_PROG_LOAD");
	long size = bpf_jited_size(program);
	if (size < 0)
		fail_errno("BPF_OBJ_GET_INFO_BY_FD");
	if (size == 0)
		fail("the program is interpreted");
	pass("the program was compiled to %ld bytes", size);
}

void probe_keyring(void)
{
	char payload[16];
	long key = syscall(SYS_add_key, "user", "osbuilder-probe", "secret", 6, KEY_SPEC_PROCESS_KEYRING);

	if (key < 0)
		fail_errno("add_key");
	long size = syscall(SYS_keyctl, KEYCTL_READ, key, payload, sizeof(payload));
	if (size != 6 || memcmp(payload, "secret", 6) != 0)
		fail("the key does not read back as it was added");
	pass("a key was added and read");
}
