/* SPDX-License-Identifier: Apache-2.0
 *
 * Namespaces: each is entered, and something is seen to be separate.
 */
#include "probe.h"
#include "util.h"

#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/shm.h>
#include <sys/stat.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#ifndef CLONE_NEWTIME
#define CLONE_NEWTIME 0x00000080
#endif

#define SHM_KEY 0x6f736270 /* in an IPC namespace of the probe's own */

static void enter(int flag, const char *name)
{
	if (unshare(flag) < 0)
		fail_errno("unshare(%s)", name);
}

#define WRONG 255 /* what a child's work returns when nothing failed, but what it saw is wrong */

/* Runs `work` in a child and fails the probe unless it returns 0; other values are an errno, or WRONG. */
static void in_child(int (*work)(void), const char *otherwise)
{
	int status;
	pid_t child = fork();

	if (child < 0)
		fail_errno("fork");
	if (child == 0)
		_exit(work());
	if (waitpid(child, &status, 0) < 0)
		fail_errno("waitpid");
	if (!WIFEXITED(status) || WEXITSTATUS(status) == WRONG)
		fail("%s", otherwise);
	if (WEXITSTATUS(status) != 0)
		fail("%s: %s", otherwise, strerror(WEXITSTATUS(status)));
}

static int mount_apart(void)
{
	if (unshare(CLONE_NEWNS) < 0 || mount("probe", "mnt", "tmpfs", 0, NULL) < 0 || mkdir("mnt/apart", 0755) < 0)
		return errno;
	return 0;
}

void probe_mount_namespace(void)
{
	if (mkdir("mnt", 0755) < 0)
		fail_errno("mkdir");
	in_child(mount_apart, "no mount in a mount namespace of its own");
	if (exists("mnt/apart"))
		fail("a mount made in another mount namespace is seen here");
	pass("a mount inside is not seen outside");
}

static int rename_host(void)
{
	struct utsname names;

	if (unshare(CLONE_NEWUTS) < 0 || sethostname("osbuilder-probe", 15) < 0 || uname(&names) < 0)
		return errno;
	return strcmp(names.nodename, "osbuilder-probe") == 0 ? 0 : WRONG;
}

void probe_uts_namespace(void)
{
	struct utsname names;

	in_child(rename_host, "no host name in a UTS namespace of its own");
	if (uname(&names) < 0)
		fail_errno("uname");
	if (strcmp(names.nodename, "osbuilder-probe") == 0)
		fail("a host name set in another UTS namespace is seen here");
	pass("a host name set inside is not seen outside");
}

void probe_ipc_namespace(void)
{
	if (shmget(SHM_KEY, 4096, IPC_CREAT | IPC_EXCL | 0600) < 0)
		fail_errno("shmget");
	enter(CLONE_NEWIPC, "CLONE_NEWIPC");
	if (shmget(SHM_KEY, 4096, 0600) >= 0)
		fail("shared memory of another IPC namespace is seen here");
	if (errno != ENOENT)
		fail_errno("shmget");
	pass("shared memory outside is not seen inside");
}

static int is_pid_1(void)
{
	return getpid() == 1 ? 0 : WRONG;
}

void probe_pid_namespace(void)
{
	enter(CLONE_NEWPID, "CLONE_NEWPID");
	in_child(is_pid_1, "the first process of a PID namespace is not its PID 1");
	pass("the first process inside is PID 1");
}

void probe_net_namespace(void)
{
	enter(CLONE_NEWNET, "CLONE_NEWNET");
	struct if_nameindex *interfaces = if_nameindex();
	if (!interfaces)
		fail_errno("if_nameindex");
	/* Some kernels give every namespace fallback tunnels (sit0, tunl0); the machine's own devices stay outside. */
	for (size_t i = 0; interfaces[i].if_index; i++)
		if (strncmp(interfaces[i].if_name, "eth", 3) == 0 || strncmp(interfaces[i].if_name, "en", 2) == 0)
			fail("%s is seen in a new network namespace", interfaces[i].if_name);
	if (interface_set_up("lo", true) < 0)
		fail_errno("bringing its loopback up");
	pass("has a loopback of its own and no other network device");
}

void probe_cgroup_namespace(void)
{
	char text[1024], *rest = NULL;

	enter(CLONE_NEWCGROUP, "CLONE_NEWCGROUP");
	if (read_text("/proc/self/cgroup", text, sizeof(text)) <= 0)
		fail_errno("/proc/self/cgroup");
	for (char *line = strtok_r(text, "\n", &rest); line; line = strtok_r(NULL, "\n", &rest)) {
		size_t length = strlen(line);

		if (length < 2 || strcmp(line + length - 2, ":/") != 0)
			fail("inside, /proc/self/cgroup still says %s", line);
	}
	pass("its own group is the root inside");
}

static time_t monotonic_before;

static int clock_is_ahead(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec >= monotonic_before + 100000 ? 0 : WRONG;
}

void probe_time_namespace(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	monotonic_before = now.tv_sec;
	enter(CLONE_NEWTIME, "CLONE_NEWTIME");
	/* CLOCK_MONOTONIC is 1 */
	if (write_text("/proc/self/timens_offsets", "1 100000 0") < 0)
		fail_errno("/proc/self/timens_offsets");
	in_child(clock_is_ahead, "the clock inside is not ahead by what was set");
	pass("the monotonic clock inside is ahead by what was set");
}

void probe_user_namespace(void)
{
	char uid_map[32], gid_map[32];

	snprintf(uid_map, sizeof(uid_map), "0 %u 1", (unsigned int)geteuid());
	snprintf(gid_map, sizeof(gid_map), "0 %u 1", (unsigned int)getegid());
	enter(CLONE_NEWUSER | CLONE_NEWNS, "CLONE_NEWUSER | CLONE_NEWNS");
	if (write_text("/proc/self/setgroups", "deny") < 0)
		fail_errno("/proc/self/setgroups");
	if (write_text("/proc/self/gid_map", gid_map) < 0)
		fail_errno("/proc/self/gid_map");
	if (write_text("/proc/self/uid_map", uid_map) < 0)
		fail_errno("/proc/self/uid_map");
	if (getuid() != 0 || getgid() != 0)
		fail("mapped to 0:0, but is %u:%u", (unsigned int)getuid(), (unsigned int)getgid());
	if (mount("probe", ".", "tmpfs", 0, NULL) < 0)
		fail_errno("mounting tmpfs as its root");
	pass("mapped to root inside; may mount there");
}
