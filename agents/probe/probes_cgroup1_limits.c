/* SPDX-License-Identifier: Apache-2.0
 *
 * Control groups, version 1: the controllers that version 2 has as well. One that version 2 has groups of cannot be had.
 * Each is set, and then seen to hold.
 */
#include "cgroup1.h"
#include "hugepages.h"
#include "inside.h"
#include "probe.h"
#include "util.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>

UNDO(memory, "memory")
UNDO(cpu, "cpu")
UNDO(cpuset, "cpuset")
UNDO(pids, "pids")
UNDO(hugetlb, "hugetlb")
UNDO(blkio, "blkio")

void probe_cgroup1_memory(void)
{
	make_group("memory");
	set("memory.limit_in_bytes", "8388608");
	int status = status_inside(use_64_mib);
	if (!WIFSIGNALED(status) || WTERMSIG(status) != SIGKILL)
		fail("a process took 64 MiB in a group with 8 MiB (wait status %#x)", (unsigned int)status);
	pass("a process beyond memory.limit_in_bytes was killed");
}

void probe_cgroup1_cpu(void)
{
	make_group("cpu");
	set("cpu.shares", "512");
	set("cpu.cfs_period_us", PERIOD_US);
	set("cpu.cfs_quota_us", QUOTA_US);
	uint64_t before_us = boottime_us();
	if (run_inside(burn) != 0)
		fail("a process in a group cannot move to the first CPU");
	unsigned int took_ms = (unsigned int)((boottime_us() - before_us) / 1000);
	if (took_ms < QUOTA_LEAST_MS)
		fail("%llu ms of a CPU took %u ms with a tenth of it", BURN_NS / 1000000, took_ms);
	pass("%llu ms of a CPU took %u ms with a tenth of it", BURN_NS / 1000000, took_ms);
}

/* Unlike in version 2, a group has no CPUs until it is given some, and nobody can enter it. */
void probe_cgroup1_cpuset(void)
{
	make_group("cpuset");
	if (write_text(GROUP "/cgroup.procs", "0") == 0 || errno != ENOSPC)
		fail("a group without CPUs let a process in");
	set("cpuset.cpus", "0");
	set("cpuset.mems", "0");
	if (run_inside(sees_only_cpu_0) != 0)
		fail("a process in a group with cpuset.cpus=0 may run elsewhere");
	pass("a group without CPUs was shut; a process was confined to CPU 0");
}

void probe_cgroup1_pids(void)
{
	make_group("pids");
	set("pids.max", "1");
	if (run_inside(fork_is_refused) != 0)
		fail("fork was not refused with pids.max=1");
	pass("fork beyond pids.max was refused");
}

void probe_cgroup1_hugetlb(void)
{
	unsigned long long size_kib = huge_page_kib();
	char file[64], one_page[32];

	make_group("hugetlb");
	huge_page_file(size_kib, "limit_in_bytes", file, sizeof(file));
	snprintf(one_page, sizeof(one_page), "%llu", size_kib << 10);
	set(file, one_page);
	int within = status_inside(use_huge_page);
	set(file, "0");
	int beyond = status_inside(use_huge_page);
	if (within != 0)
		fail("a process got no huge page, with a limit of one (wait status %#x)", (unsigned int)within);
	if (!WIFSIGNALED(beyond) || WTERMSIG(beyond) != SIGBUS)
		fail("a process got a huge page, with a limit of none (wait status %#x)", (unsigned int)beyond);
	pass("a page of %llu KiB within the limit was given, one beyond it was not", size_kib);
}

void probe_cgroup1_blkio(void)
{
	char limit[64];

	make_group("blkio");
	struct slow_disk disk = make_slow_disk();
	snprintf(limit, sizeof(limit), "%s %d", disk.number, DISK_BYTES_PER_S);
	set("blkio.throttle.write_bps_device", limit);
	uint64_t before_us = boottime_us();
	if (run_inside(write_to_disk) != 0)
		fail("writing to disk %s", disk.number);
	unsigned int took_ms = (unsigned int)((boottime_us() - before_us) / 1000);
	drop_slow_disk(&disk);
	if (took_ms < DISK_LEAST_MS)
		fail("%d KiB were written in %u ms with %s", DISK_WRITTEN_BYTES >> 10, took_ms, limit);
	pass("%d KiB took %u ms at %d KiB/s", DISK_WRITTEN_BYTES >> 10, took_ms, DISK_BYTES_PER_S >> 10);
}
