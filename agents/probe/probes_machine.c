/* SPDX-License-Identifier: Apache-2.0
 *
 * The machine itself: entropy, memory, processors, clock, log, hotplug.
 */
#include "facts.h"
#include "hugepages.h"
#include "probe.h"
#include "util.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/ptp_clock.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <time.h>
#include <unistd.h>

/* Documentation: linux/posix-timers.h, clock_getres(2): a descriptor as a dynamic clock. */
#define FD_TO_CLOCKID(fd) ((clockid_t)((~(unsigned int)(fd) << 3) | 3))

void probe_entropy(void)
{
	unsigned char bytes[32];

	if (getrandom(bytes, sizeof(bytes), GRND_NONBLOCK) != (ssize_t)sizeof(bytes))
		fail_errno("getrandom(GRND_NONBLOCK)");
	pass("ready %.3f s after start", (double)boottime_us() / 1e6);
}

void probe_memory(void)
{
	struct memory_facts facts;
	size_t size = 8 << 20;
	long page = sysconf(_SC_PAGESIZE);

	if (!facts_memory(&facts))
		fail("/proc/meminfo names no MemTotal and MemAvailable");
	char *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (memory == MAP_FAILED)
		fail_errno("mmap of 8 MiB");
	for (size_t at = 0; at < size; at += (size_t)page)
		memory[at] = (char)(at / (size_t)page);
	for (size_t at = 0; at < size; at += (size_t)page)
		if (memory[at] != (char)(at / (size_t)page))
			fail("a page does not hold what was written");
	pass("8 MiB used; %llu of %llu KiB available", facts.available_kib, facts.total_kib);
}

void probe_vcpus(void)
{
	char present[64], online[64];
	cpu_set_t one, all;
	int ran = 0;

	if (read_text("/sys/devices/system/cpu/present", present, sizeof(present)) <= 0 ||
	    read_text("/sys/devices/system/cpu/online", online, sizeof(online)) <= 0)
		fail_errno("/sys/devices/system/cpu");
	if (strcmp(present, online) != 0)
		fail("present: %s, but online: %s", present, online);
	if (sched_getaffinity(0, sizeof(all), &all) < 0)
		fail_errno("sched_getaffinity");
	for (int cpu = 0; cpu < CPU_SETSIZE; cpu++) {
		if (!CPU_ISSET(cpu, &all))
			continue;
		CPU_ZERO(&one);
		CPU_SET(cpu, &one);
		if (sched_setaffinity(0, sizeof(one), &one) < 0)
			fail_errno("moving to CPU %d", cpu);
		if (sched_getcpu() != cpu)
			fail("moved to CPU %d, but runs on %d", cpu, sched_getcpu());
		ran++;
	}
	if (ran == 1)
		skip("this guest has one");
	pass("online: %s; ran on %d", online, ran);
}

void probe_ptp(void)
{
	char name[64];
	struct ptp_clock_caps caps;
	struct timespec now;

	if (!exists("/sys/class/ptp"))
		fail("the kernel has no PTP clocks");
	/* KVM offers its clock only where the host's own is the TSC: its absence is the host's doing. */
	if (!exists("/dev/ptp0"))
		skip("no PTP clock is offered");
	if (read_text("/sys/class/ptp/ptp0/clock_name", name, sizeof(name)) <= 0)
		fail_errno("clock_name");
	int fd = open("/dev/ptp0", O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		fail_errno("/dev/ptp0");
	if (ioctl(fd, PTP_CLOCK_GETCAPS, &caps) < 0)
		fail_errno("PTP_CLOCK_GETCAPS");
	if (clock_gettime(FD_TO_CLOCKID(fd), &now) < 0)
		fail_errno("reading %s", name);
	pass("%s read", name);
}

void probe_clock(void)
{
	struct timespec now;
	struct tm day;

	if (clock_gettime(CLOCK_REALTIME, &now) < 0)
		fail_errno("clock_gettime");
	/* A kernel that nobody told the time begins at 1970. */
	if (!gmtime_r(&now.tv_sec, &day) || day.tm_year + 1900 < 2025)
		fail("it is %lld s after 1970", (long long)now.tv_sec);
	pass("it is %d-%02d-%02d", day.tm_year + 1900, day.tm_mon + 1, day.tm_mday);
}

void probe_hugepages(void)
{
	unsigned long long size_kib = huge_page_kib();
	char *memory = map_huge((size_t)size_kib << 10);

	if (memory == MAP_FAILED)
		fail_errno("mapping a page of %llu KiB", size_kib);
	memory[0] = 1;
	pass("a page of %llu KiB mapped and written", size_kib);
}

void probe_kmsg(void)
{
	char record[8192];
	int fd = open("/dev/kmsg", O_RDONLY | O_NONBLOCK | O_CLOEXEC);

	if (fd < 0)
		fail_errno("/dev/kmsg");
	ssize_t got = read(fd, record, sizeof(record));
	/* EPIPE: the oldest record was overwritten meanwhile; the next read continues after it. */
	if (got < 0 && errno == EPIPE)
		got = read(fd, record, sizeof(record));
	if (got <= 0)
		fail_errno("reading a record");
	pass("a record was read");
}

void probe_memory_hotplug(void)
{
	char block[32], online[32];

	if (read_text("/sys/devices/system/memory/block_size_bytes", block, sizeof(block)) <= 0)
		fail_errno("/sys/devices/system/memory/block_size_bytes");
	if (read_text("/sys/devices/system/memory/auto_online_blocks", online, sizeof(online)) <= 0)
		fail_errno("auto_online_blocks");
	if (strcmp(online, "offline") == 0)
		fail("new memory stays offline until somebody asks for it");
	pass("blocks of 0x%s bytes, new ones: %s", block, online);
}

/* The last CPU's switch; false where there is one CPU alone. */
static bool last_cpu(char *path, size_t size)
{
	char present[64];
	size_t length;

	if (read_text("/sys/devices/system/cpu/present", present, sizeof(present)) <= 0)
		fail_errno("/sys/devices/system/cpu/present");
	/* A list such as 0-3: those that may come yet are not in it. */
	for (length = strlen(present); length > 0 && isdigit((unsigned char)present[length - 1]);)
		length--;
	int last = atoi(present + length);
	snprintf(path, size, "/sys/devices/system/cpu/cpu%d/online", last);
	return last > 0;
}

void undo_offline_cpus(void)
{
	char path[64], state[8];

	for (long cpu = sysconf(_SC_NPROCESSORS_CONF) - 1; cpu >= 0; cpu--) {
		snprintf(path, sizeof(path), "/sys/devices/system/cpu/cpu%ld/online", cpu);
		if (read_text(path, state, sizeof(state)) > 0 && strcmp(state, "0") == 0)
			write_text(path, "1");
	}
}

void probe_cpu_hotplug(void)
{
	char states[4096], path[64];

	if (read_text("/sys/devices/system/cpu/hotplug/states", states, sizeof(states)) <= 0)
		fail_errno("/sys/devices/system/cpu/hotplug/states");
	if (!exists("/sys/devices/system/cpu/cpu0/hotplug"))
		fail("cpu0 has no hotplug state");
	if (!last_cpu(path, sizeof(path)))
		skip("the hotplug state machine is there; this guest has one CPU");
	long before = sysconf(_SC_NPROCESSORS_ONLN);
	if (write_text(path, "0") < 0 || sysconf(_SC_NPROCESSORS_ONLN) != before - 1)
		fail_errno("taking the last CPU offline");
	if (write_text(path, "1") < 0 || sysconf(_SC_NPROCESSORS_ONLN) != before)
		fail_errno("bringing the last CPU back");
	pass("the last of %ld CPUs went offline and came back", before);
}
