/* SPDX-License-Identifier: Apache-2.0
 *
 * What arrives while the guest runs. The kernel line says what the host plugs when it is asked (osbuilder.plug=); a
 * probe asks on the console, then waits until the thing is there, and uses it.
 */
#include "facts.h"
#include "papr.h"
#include "probe.h"
#include "util.h"
#include "virtio.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

/* For all that a probe waits for together: less than a probe's time. PCI bridges blink for 5 s before they do as they
 * were asked, as for a person who may change their mind. */
#define WAIT_MS 8000
#define BLINKING_WAIT_MS ((PLUG_SECONDS - 4) * 1000)
#define STEP_MS 20

static uint64_t waits_until_us;
static unsigned int wait_ms;

/* The console is shared: what was asked may have been torn by a kernel message. The host answers once. */
#define ASK_AGAIN_MS 1000

#define CPUS "/sys/devices/system/cpu"
#define MEMORY "/sys/devices/system/memory"
#define PCI_DEVICES "/sys/bus/pci/devices"

static bool may_wait(void)
{
	return boottime_us() < waits_until_us;
}

/* Ends the probe unless the host plugs such a thing; from now on it waits, for so long at most. */
static void require_host(const char *what, unsigned int patience_ms)
{
	char cmdline[4096];
	size_t length = 0;

	if (read_text("/proc/cmdline", cmdline, sizeof(cmdline)) <= 0)
		fail_errno("/proc/cmdline");
	char *list = (char *)cmdline_value(cmdline, "osbuilder.plug", &length);
	if (list)
		list[length] = '\0';
	if (!list || !has_word(list, what))
		skip("the host plugs none (osbuilder.plug=%s)", what);
	wait_ms = patience_ms;
	waits_until_us = boottime_us() + patience_ms * 1000ULL;
}

static void ask(const char *what)
{
	char line[64];
	int console = open("/dev/console", O_WRONLY | O_NOCTTY | O_CLOEXEC);

	snprintf(line, sizeof(line), "\n@osbuilder-plug %s @osbuilder-end\n", what);
	if (console < 0 || write_all(console, line, strlen(line)) < 0)
		fail_errno("asking on /dev/console");
	close(console);
}

/* Asks, and waits until `came` is true of `context`. Returns the milliseconds it took; ends the probe if it never is. */
static unsigned int await(const char *what, bool (*came)(void *context), void *context)
{
	uint64_t began_us = boottime_us();

	for (unsigned int steps = 0; may_wait(); steps++, sleep_ms(STEP_MS)) {
		if (steps % (ASK_AGAIN_MS / STEP_MS) == 0)
			ask(what);
		if (came(context))
			return (unsigned int)((boottime_us() - began_us) / 1000);
	}
	fail("asked for %s on the console, and it did not come in %u s", what, wait_ms / 1000);
}

struct names {
	struct dirent **entries;
	int count;
};

static struct names names_of(const char *folder)
{
	struct names names;

	names.count = scandir(folder, &names.entries, NULL, alphasort);
	if (names.count < 0)
		fail_errno("%s", folder);
	return names;
}

/* A name that a folder lists now and did not before; false: there is none. */
static bool new_name(const char *folder, const struct names *before, char *name, size_t size)
{
	struct names now = names_of(folder);
	bool found = false;

	for (int i = 0; i < now.count && !found; i++) {
		bool known = false;

		for (int k = 0; k < before->count && !known; k++)
			known = strcmp(now.entries[i]->d_name, before->entries[k]->d_name) == 0;
		found = !known;
		snprintf(name, size, "%.63s", now.entries[i]->d_name);
	}
	while (now.count > 0)
		free(now.entries[--now.count]);
	free(now.entries);
	return found;
}

/* -- a vCPU ------------------------------------------------------------------------------------------------------- */

struct new_cpu {
	cpu_set_t before;
	int number;
};

/* Numbers and ranges, as sysfs lists them: 0-3,5. `kind`: present, possible. */
static void list_cpus(const char *kind, cpu_set_t *cpus)
{
	char path[64], list[256];

	CPU_ZERO(cpus);
	snprintf(path, sizeof(path), CPUS "/%s", kind);
	if (read_text(path, list, sizeof(list)) <= 0)
		fail_errno("%s", path);
	for (char *save, *range = strtok_r(list, ",", &save); range; range = strtok_r(NULL, ",", &save)) {
		int first, last;
		int numbers = sscanf(range, "%d-%d", &first, &last);

		for (int number = first; numbers > 0 && number <= (numbers == 2 ? last : first); number++)
			CPU_SET(number, cpus);
	}
}

static bool cpu_came(void *context)
{
	struct new_cpu *cpu = context;
	cpu_set_t now;

	list_cpus("present", &now);
	for (cpu->number = 0; cpu->number < CPU_SETSIZE; cpu->number++)
		if (CPU_ISSET(cpu->number, &now) && !CPU_ISSET(cpu->number, &cpu->before))
			return true;
	return false;
}

static void set_online(int number, const char *state)
{
	char path[64], now[8] = "";

	snprintf(path, sizeof(path), CPUS "/cpu%d/online", number);
	/* Its device is announced a moment before all of its files are there. */
	for (int attempt = 0; attempt < 50 && !exists(path); attempt++)
		sleep_ms(STEP_MS);
	if (read_text(path, now, sizeof(now)) > 0 && strcmp(now, state) == 0)
		return;
	if (write_text(path, state) < 0)
		fail_errno("writing %s to %s", state, path);
}

void probe_cpu_plug(void)
{
	struct new_cpu cpu;
	cpu_set_t possible, one;

	require_host("cpu", WAIT_MS);
	list_cpus("present", &cpu.before);
	list_cpus("possible", &possible);
	/* On x86 it is decided at boot, and without our patch only where the kernel knows its hypervisor by name. */
	if (CPU_EQUAL(&possible, &cpu.before))
		skip("this kernel has made room for no further CPU");
	unsigned int ms = await("cpu", cpu_came, &cpu);
	CPU_ZERO(&one);
	CPU_SET(cpu.number, &one);
	/* It comes, goes and comes again: that is what agents and runtimes do with it. */
	for (int time = 0; time < 2; time++) {
		set_online(cpu.number, "1");
		if (sched_setaffinity(0, sizeof(one), &one) < 0)
			fail_errno("moving to CPU %d", cpu.number);
		if (sched_getcpu() != cpu.number)
			fail("moved to CPU %d, but runs on %d", cpu.number, sched_getcpu());
		if (time == 0)
			set_online(cpu.number, "0");
	}
	pass("CPU %d came after %u ms; it ran, went offline, came back and ran", cpu.number, ms);
}

/* -- memory ------------------------------------------------------------------------------------------------------- */

/* The host adds 128 MiB or more; what the kernel keeps of it to describe it is less than an eighth. */
#define PLUGGED_KIB (128ULL << 10)
#define USABLE_KIB (PLUGGED_KIB / 8 * 7)

struct new_memory {
	struct memory_facts before, now;
	struct names blocks;
	char block[64];
};

/* MemTotal has grown before the block it grew by says that it is online: it is "going-online" for a moment. */
static bool memory_came(void *context)
{
	struct new_memory *memory = context;
	char path[128], state[16];

	if (!facts_memory(&memory->now) || memory->now.total_kib < memory->before.total_kib + USABLE_KIB ||
	    !new_name(MEMORY, &memory->blocks, memory->block, sizeof(memory->block)))
		return false;
	snprintf(path, sizeof(path), MEMORY "/%s/state", memory->block);
	return read_text(path, state, sizeof(state)) > 0 && strcmp(state, "online") == 0;
}

/* The physical address of a page of this process: proc_pid_pagemap(5). */
static unsigned long long physical_address(int pagemap, const char *page, unsigned long long page_size)
{
	uint64_t entry = 0;

	if (pread(pagemap, &entry, sizeof(entry), (off_t)((uintptr_t)page / page_size * sizeof(entry))) != sizeof(entry))
		fail_errno("/proc/self/pagemap");
	return (entry & ((1ULL << 55) - 1)) * page_size;
}

/* Writes one page after the other until one lies there. There is no need for all: what is free comes first. */
static void use(unsigned long long start, unsigned long long end, unsigned long long most_kib)
{
	size_t page_size = (size_t)sysconf(_SC_PAGESIZE), size = (size_t)most_kib << 10;
	int pagemap = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	char *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (pagemap < 0 || memory == MAP_FAILED)
		fail_errno("/proc/self/pagemap, or %zu bytes of memory", size);
	for (size_t at = 0; at < size; at += page_size) {
		memset(memory + at, 0x5a, page_size);
		unsigned long long where = physical_address(pagemap, memory + at, page_size);
		if (where < start || where >= end)
			continue;
		for (size_t byte = 0; byte < page_size; byte++)
			if (memory[at + byte] != 0x5a)
				fail("a page at 0x%llx does not hold what was written", where);
		close(pagemap);
		munmap(memory, size);
		return;
	}
	fail("none of %zu KiB was given from what came", size >> 10);
}

static void plug_memory(const char *what)
{
	struct new_memory memory;
	char text[64];
	unsigned long long number, size;

	require_host(what, WAIT_MS);
	if (!facts_memory(&memory.before))
		fail("/proc/meminfo names no MemTotal and MemAvailable");
	memory.blocks = names_of(MEMORY);
	unsigned int ms = await(what, memory_came, &memory);
	if (sscanf(memory.block, "memory%llu", &number) != 1 ||
	    read_text(MEMORY "/block_size_bytes", text, sizeof(text)) <= 0 || sscanf(text, "%llx", &size) != 1)
		fail("%s came, of a number or a size that cannot be read", memory.block);
	use(number * size, (number + 1) * size, memory.before.available_kib + PLUGGED_KIB / 4);
	pass("%llu KiB more are usable after %u ms; a page of %s is written and read",
	     memory.now.total_kib - memory.before.total_kib, ms, memory.block);
}

void probe_memory_plug(void)
{
	plug_memory("memory");
}

void probe_virtio_mem_plug(void)
{
	plug_memory("virtio-mem");
}

/* -- a disk on a PCI bus ---------------------------------------------------------------------------------------- */

struct new_device {
	struct names before;
	char name[64];
};

static bool device_came(void *context)
{
	struct new_device *device = context;

	papr_pci_events();
	return new_name(PCI_DEVICES, &device->before, device->name, sizeof(device->name));
}

static bool device_went(void *context)
{
	struct new_device *device = context;
	char path[128];

	papr_pci_events();
	snprintf(path, sizeof(path), PCI_DEVICES "/%s", device->name);
	return !exists(path);
}

/* Opens the disk of a virtio device on the PCI bus; -1: it is not there yet, or not ready. */
static int open_disk(const char *device, char *node, size_t size)
{
	char path[256], virtio[64], disk[64];

	snprintf(path, sizeof(path), PCI_DEVICES "/%s", device);
	if (first_entry(path, "virtio", virtio, sizeof(virtio)) < 0)
		return -1;
	snprintf(path, sizeof(path), PCI_DEVICES "/%s/%s/block", device, virtio);
	if (first_entry(path, "vd", disk, sizeof(disk)) < 0)
		return -1;
	snprintf(node, size, "/dev/%s", disk);
	return open(node, O_RDONLY | O_CLOEXEC);
}

static void plug_disk(const char *what, unsigned int patience_ms)
{
	struct new_device device;
	char gone[16], path[80], block[4096];
	int fd = -1;

	require_host(what, patience_ms);
	device.before = names_of(PCI_DEVICES);
	unsigned int came = await(what, device_came, &device);
	for (; (fd = open_disk(device.name, path, sizeof(path))) < 0; sleep_ms(STEP_MS))
		if (!may_wait())
			fail("%s came, but no disk of it", device.name);
	if (read(fd, block, sizeof(block)) != (ssize_t)sizeof(block))
		fail_errno("reading %s", path);
	close(fd);
	snprintf(gone, sizeof(gone), "%s-gone", what);
	unsigned int went = await(gone, device_went, &device);
	pass("%s came after %u ms; %s was read; it was gone after %u ms", device.name, came, path, went);
}

void probe_pci_plug(void)
{
	plug_disk("pci", WAIT_MS);
}

void probe_pcie_plug(void)
{
	plug_disk("pcie", BLINKING_WAIT_MS);
}

void probe_shpc_plug(void)
{
	plug_disk("shpc", BLINKING_WAIT_MS);
}
