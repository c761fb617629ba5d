/* SPDX-License-Identifier: Apache-2.0
 *
 * Control groups, version 2 (Documentation/admin-guide/cgroup-v2.rst). Each controller is set, and then seen to hold.
 */
#include "bpf.h"
#include "hugepages.h"
#include "inside.h"
#include "loop.h"
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
#include <sys/sysmacros.h>
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
	static const char quota[] = QUOTA_US " " PERIOD_US;

	make_group("cpu");
	set("cpu.weight", "200");
	expect("cpu.weight", "200");
	set("cpu.max", quota);
	expect("cpu.max", quota);
	uint64_t before_us = boottime_us();
	if (run_inside(burn) != 0)
		fail("a process in a group cannot move to the first CPU");
	unsigned int took_ms = (unsigned int)((boottime_us() - before_us) / 1000);
	if (took_ms < QUOTA_LEAST_MS)
		fail("%llu ms of a CPU took %u ms with cpu.max=%s", BURN_NS / 1000000, took_ms, quota);
	pass("weight kept; %llu ms of a CPU took %u ms with a tenth of it", BURN_NS / 1000000, took_ms);
}

void probe_cgroup2_cpuset(void)
{
	if (sysconf(_SC_NPROCESSORS_ONLN) < 2)
		skip("this guest has one CPU");
	make_group("cpuset");
	set("cpuset.cpus", "0");
	expect("cpuset.cpus", "0");
	if (run_inside(sees_only_cpu_0) != 0)
		fail("a process in a group with cpuset.cpus=0 may run elsewhere");
	pass("a process was confined to CPU 0");
}

void probe_cgroup2_io(void)
{
	char limit[64], stat[512];

	make_group("io");
	if (!exists(GROUP "/io.stat") || !exists(GROUP "/io.max"))
		fail_errno("io.stat and io.max (block throttling)");
	if (!exists("/dev/loop-control"))
		pass("io.stat and io.max; there is no disk that may be written");
	struct slow_disk disk = make_slow_disk();
	snprintf(limit, sizeof(limit), "%s wbps=%d", disk.number, DISK_BYTES_PER_S);
	set("io.max", limit);
	uint64_t before_us = boottime_us();
	if (run_inside(write_to_disk) != 0)
		fail("writing to disk %s", disk.number);
	uint64_t took_ms = (boottime_us() - before_us) / 1000;
	if (took_ms < DISK_LEAST_MS)
		fail("%d KiB were written in %llu ms with %s", DISK_WRITTEN_BYTES >> 10, (unsigned long long)took_ms, limit);
	if (read_text(GROUP "/io.stat", stat, sizeof(stat)) < 0 || !strstr(stat, disk.number))
		fail("io.stat does not name the disk %s that was written: %s", disk.number, stat);
	drop_slow_disk(&disk);
	pass("%d KiB were counted, and took %llu ms at %d KiB/s", DISK_WRITTEN_BYTES >> 10, (unsigned long long)took_ms,
	     DISK_BYTES_PER_S >> 10);
}

void probe_cgroup2_memory(void)
{
	make_group("memory");
	set("memory.max", "8388608");
	expect("memory.max", "8388608");
	/* Runtimes write it for each container with a limit, whether there is swap or not. */
	set("memory.swap.max", "0");
	int status = run_inside(use_64_mib);
	if (!WIFSIGNALED(status) || WTERMSIG(status) != SIGKILL)
		fail("a process took 64 MiB in a group with memory.max=8 MiB (wait status %#x)", (unsigned int)status);
	pass("a process beyond memory.max was killed");
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
	if (!events_say("frozen 0"))
		fail("the group did not thaw");
	set("cgroup.kill", "1");
	if (waitpid(child, &status, 0) < 0 || !WIFSIGNALED(status))
		fail("cgroup.kill left the process running");
	pass("frozen, thawed, killed");
}

static void limit_huge_pages(unsigned long long size_kib, unsigned long long limit)
{
	char file[64], value[32];

	huge_page_file(size_kib, "max", file, sizeof(file));
	snprintf(value, sizeof(value), "%llu", limit);
	set(file, value);
	expect(file, value);
}

void prepare_cgroup_hugetlb(void)
{
	prepare_cgroup();
	prepare_huge_pages();
}

void cleanup_cgroup_hugetlb(void)
{
	cleanup_huge_pages();
	cleanup_cgroup();
}

void probe_cgroup2_hugetlb(void)
{
	unsigned long long size_kib = huge_page_kib();

	make_group("hugetlb");
	limit_huge_pages(size_kib, size_kib << 10);
	int within = run_inside(use_huge_page);
	limit_huge_pages(size_kib, 0);
	int beyond = run_inside(use_huge_page);
	if (within != 0)
		fail("a process got no huge page, with a limit of one (wait status %#x)", (unsigned int)within);
	if (!WIFSIGNALED(beyond) || WTERMSIG(beyond) != SIGBUS)
		fail("a process got a huge page, with a limit of none (wait status %#x)", (unsigned int)beyond);
	pass("a page of %llu KiB within the limit was given, one beyond it was not", size_kib);
}

/* What it counts (keys of encrypted guests) only hosts have; without any of it there is nothing to limit. */
void probe_cgroup2_misc(void)
{
	char capacity[256];

	make_group("misc");
	if (read_text(ROOT "/misc.capacity", capacity, sizeof(capacity)) < 0)
		fail_errno("misc.capacity");
	if (write_text(GROUP "/misc.max", "osbuilder-probe 1") == 0 || errno != EINVAL)
		fail("misc.max took a limit of what nobody has");
	char *end = strchr(capacity, ' ');
	if (!end)
		pass("switched on; this machine has nothing that it counts");
	*end = '\0';
	char limit[64];
	snprintf(limit, sizeof(limit), "%.48s 1", capacity);
	set("misc.max", limit);
	pass("switched on; a limit of %s was taken", capacity);
}

void probe_cgroup2_io_weight(void)
{
	char path[LOOP_PATH_SIZE], file[64], schedulers[128] = {0}, before[128] = {0}, usual[32] = "none";

	make_group("io");
	set("io.bfq.weight", "200");
	expect("io.bfq.weight", "default 200");
	int device = loop_attach(memory_file(1 << 20), 0, path);
	snprintf(file, sizeof(file), "/sys/block/%s/queue/scheduler", path + strlen("/dev/"));
	/* none [mq-deadline] bfq */
	if (read_text(file, before, sizeof(before)) < 0 || !sscanf(strchrnul(before, '['), "[%31[^]]", usual))
		fail_errno("%s", file);
	if (write_text(file, "bfq") < 0)
		fail_errno("choosing bfq for %s", path);
	if (read_text(file, schedulers, sizeof(schedulers)) < 0 || !strstr(schedulers, "[bfq]"))
		fail("the scheduler of %s is not bfq: %s", path, schedulers);
	bool written = write_all(device, schedulers, sizeof(schedulers)) == 0 && fsync(device) == 0;
	int error = errno;
	/* Whoever gets this loop device next did not choose it. */
	write_text(file, usual);
	errno = error;
	if (!written)
		fail_errno("writing to %s", path);
	pass("weight kept; a disk was written through bfq");
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
