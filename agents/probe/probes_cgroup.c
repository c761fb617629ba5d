/* SPDX-License-Identifier: Apache-2.0
 *
 * Control groups, version 2 (Documentation/admin-guide/cgroup-v2.rst). Each controller is set, and then seen to hold.
 */
#include "bpf.h"
#include "probe.h"
#include "util.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <sys/wait.h>
#include <unistd.h>

#define ROOT "/sys/fs/cgroup"
#define GROUP ROOT "/osbuilder-probe"

/* The controllers that the root handed to its children before the probe: cleanup_cgroup() takes the others back. */
static char enabled_before[256];

void prepare_cgroup(void)
{
	read_text(ROOT "/cgroup.subtree_control", enabled_before, sizeof(enabled_before));
}

void cleanup_cgroup(void)
{
	char enabled[256], *rest = NULL;

	if (exists(GROUP)) {
		write_text(GROUP "/cgroup.freeze", "0");
		write_text(GROUP "/cgroup.kill", "1");
		/* A group can go when its last process has been reaped; the kernel takes a moment for that. */
		for (int attempt = 0; attempt < 50 && rmdir(GROUP) < 0 && errno == EBUSY; attempt++)
			sleep_ms(10);
	}
	if (read_text(ROOT "/cgroup.subtree_control", enabled, sizeof(enabled)) <= 0)
		return;
	for (char *name = strtok_r(enabled, " ", &rest); name; name = strtok_r(NULL, " ", &rest)) {
		char change[sizeof(enabled) + 1];

		if (has_word(enabled_before, name))
			continue;
		snprintf(change, sizeof(change), "-%s", name);
		write_text(ROOT "/cgroup.subtree_control", change);
	}
}

/* Makes the probe's group, with a controller switched on in it (NULL: none needed). */
static void make_group(const char *controller)
{
	struct statfs status;
	char known[256], change[64];

	if (statfs(ROOT, &status) < 0)
		fail_errno(ROOT);
	if (status.f_type != CGROUP2_SUPER_MAGIC)
		fail("%s is not a cgroup2 mount", ROOT);
	if (controller) {
		if (read_text(ROOT "/cgroup.controllers", known, sizeof(known)) < 0)
			fail_errno(ROOT "/cgroup.controllers");
		if (!has_word(known, controller))
			fail("no %s controller (there are: %s)", controller, known);
		snprintf(change, sizeof(change), "+%s", controller);
		if (write_text(ROOT "/cgroup.subtree_control", change) < 0)
			fail_errno("enabling %s", controller);
	}
	if (mkdir(GROUP, 0755) < 0)
		fail_errno("mkdir %s", GROUP);
}

static void set(const char *file, const char *value)
{
	char path[128];

	snprintf(path, sizeof(path), GROUP "/%s", file);
	if (write_text(path, value) < 0)
		fail_errno("writing \"%s\" to %s", value, file);
}

static void expect(const char *file, const char *value)
{
	char path[128], got[128];

	snprintf(path, sizeof(path), GROUP "/%s", file);
	if (read_text(path, got, sizeof(got)) < 0)
		fail_errno("reading %s", file);
	if (strcmp(got, value) != 0)
		fail("%s says \"%s\" after \"%s\" was written", file, got, value);
}

/* Starts a process that runs `work` once it is inside the group, and exits with what it returns (0: as expected). */
static pid_t start_inside(int (*work)(void))
{
	int gate[2];
	char byte = 0, number[16];

	if (pipe2(gate, O_CLOEXEC) < 0)
		fail_errno("pipe");
	pid_t child = fork();
	if (child < 0)
		fail_errno("fork");
	if (child == 0) {
		if (read(gate[0], &byte, 1) != 1)
			_exit(1);
		_exit(work());
	}
	snprintf(number, sizeof(number), "%d", (int)child);
	set("cgroup.procs", number);
	if (write_all(gate[1], &byte, 1) < 0)
		fail_errno("pipe");
	return child;
}

static int run_inside(int (*work)(void))
{
	int status;

	if (waitpid(start_inside(work), &status, 0) < 0)
		fail_errno("waitpid");
	return status;
}

static int is_inside(void)
{
	char own[512];

	if (read_text("/proc/self/cgroup", own, sizeof(own)) < 0)
		return 2;
	return strstr(own, "0::/osbuilder-probe") ? 0 : 1;
}

void probe_cgroup2(void)
{
	char controllers[256];

	make_group(NULL);
	if (run_inside(is_inside) != 0)
		fail("a process moved into a group does not see itself there");
	if (read_text(ROOT "/cgroup.controllers", controllers, sizeof(controllers)) < 0)
		fail_errno("cgroup.controllers");
	pass("group made, process moved; controllers: %s", controllers);
}

void probe_cgroup2_cpu(void)
{
	make_group("cpu");
	set("cpu.weight", "200");
	expect("cpu.weight", "200");
	set("cpu.max", "50000 100000");
	expect("cpu.max", "50000 100000");
	pass("weight and quota kept");
}

static int sees_only_cpu_0(void)
{
	cpu_set_t cpus;

	if (sched_getaffinity(0, sizeof(cpus), &cpus) < 0)
		return 2;
	return CPU_COUNT(&cpus) == 1 && CPU_ISSET(0, &cpus) ? 0 : 1;
}

void probe_cgroup2_cpuset(void)
{
	make_group("cpuset");
	set("cpuset.cpus", "0");
	expect("cpuset.cpus", "0");
	if (run_inside(sees_only_cpu_0) != 0)
		fail("a process in a group with cpuset.cpus=0 may run elsewhere");
	pass("a process was confined to CPU 0");
}

void probe_cgroup2_io(void)
{
	make_group("io");
	if (!exists(GROUP "/io.stat"))
		fail_errno("io.stat");
	if (!exists(GROUP "/io.max"))
		fail("io.stat is there, but no io.max (block throttling)");
	pass("io.stat and io.max");
}

static int use_64_mib(void)
{
	size_t size = 64 << 20;
	char *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (memory == MAP_FAILED)
		return 2;
	for (size_t at = 0; at < size; at += 4096)
		memory[at] = 1;
	return 0;
}

void probe_cgroup2_memory(void)
{
	make_group("memory");
	set("memory.max", "8388608");
	expect("memory.max", "8388608");
	if (exists(GROUP "/memory.swap.max"))
		set("memory.swap.max", "0");
	int status = run_inside(use_64_mib);
	if (!WIFSIGNALED(status) || WTERMSIG(status) != SIGKILL)
		fail("a process took 64 MiB in a group with memory.max=8 MiB (wait status %#x)", (unsigned int)status);
	pass("a process beyond memory.max was killed");
}

static int fork_is_refused(void)
{
	pid_t child = fork();

	if (child == 0)
		_exit(0);
	return child < 0 && errno == EAGAIN ? 0 : 1;
}

void probe_cgroup2_pids(void)
{
	make_group("pids");
	set("pids.max", "1");
	expect("pids.max", "1");
	if (run_inside(fork_is_refused) != 0)
		fail("fork was not refused with pids.max=1");
	pass("fork beyond pids.max was refused");
}

static int wait_forever(void)
{
	while (pause())
		;
	return 1;
}

static bool events_say(const char *event)
{
	char events[128];

	for (int attempt = 0; attempt < 200; attempt++, sleep_ms(10))
		if (read_text(GROUP "/cgroup.events", events, sizeof(events)) > 0 && strstr(events, event))
			return true;
	return false;
}

void probe_cgroup2_freeze(void)
{
	int status;

	make_group(NULL);
	pid_t child = start_inside(wait_forever);
	if (!events_say("populated 1"))
		fail("the group is not populated");
	set("cgroup.freeze", "1");
	if (!events_say("frozen 1"))
		fail("the group did not freeze");
	set("cgroup.freeze", "0");
	set("cgroup.kill", "1");
	if (waitpid(child, &status, 0) < 0 || !WIFSIGNALED(status))
		fail("cgroup.kill left the process running");
	pass("frozen, thawed, killed");
}

static int open_is_denied(void)
{
	int fd = open("/dev/null", O_RDWR | O_CLOEXEC);

	return fd < 0 && errno == EPERM ? 0 : 1;
}

void probe_bpf_cgroup_device(void)
{
	/* r0 = 0; exit: every access to every device is denied. */
	static const struct bpf_insn deny[] = {BPF_SET(BPF_REG_0, 0), BPF_RETURN()};

	make_group(NULL);
	int program = bpf_load(BPF_PROG_TYPE_CGROUP_DEVICE, deny, COUNT_OF(deny));
	if (program < 0)
		fail_errno("loading a device program");
	int group = open(GROUP, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (group < 0)
		fail_errno("opening the group");
	if (bpf_attach(program, group, BPF_CGROUP_DEVICE, BPF_F_ALLOW_MULTI) < 0)
		fail_errno("attaching a device program");
	if (run_inside(open_is_denied) != 0)
		fail("/dev/null could be opened where a program denies every device");
	pass("a device program denied /dev/null");
}
