/* SPDX-License-Identifier: Apache-2.0 */
#include "hugepages.h"
#include "probe.h"
#include "util.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/utsname.h>

#define OVERCOMMIT "/proc/sys/vm/nr_overcommit_hugepages"
#define DROP_CACHES "/proc/sys/vm/drop_caches"
#define COMPACT "/proc/sys/vm/compact_memory"
#define TRIES 4

static bool allowance_raised;
static unsigned long long allowance_before;

static int allow(unsigned long long pages)
{
	char text[32];

	snprintf(text, sizeof(text), "%llu", pages);
	return write_text(OVERCOMMIT, text);
}

/* Surplus pages come on demand and go with the mapping: nothing to give back but the allowance. */
void prepare_huge_pages(void)
{
	allowance_raised = read_number(OVERCOMMIT, &allowance_before) && allow(allowance_before + 1) == 0;
}

void cleanup_huge_pages(void)
{
	if (allowance_raised)
		allow(allowance_before);
}

/* On s390x they are a facility of the machine, and the kernel hides all of hugetlb where it is missing. */
static bool machine_has_huge_pages(void)
{
	struct utsname names;
	char cpus[4096];

	if (uname(&names) < 0 || strcmp(names.machine, "s390x") != 0)
		return true;
	return read_text("/proc/cpuinfo", cpus, sizeof(cpus)) <= 0 || strstr(cpus, " edat ");
}

unsigned long long huge_page_kib(void)
{
	unsigned long long size_kib = 0;
	char line[128];
	FILE *meminfo = fopen("/proc/meminfo", "re");

	while (meminfo && fgets(line, sizeof(line), meminfo))
		sscanf(line, "Hugepagesize: %llu kB", &size_kib);
	if (meminfo)
		fclose(meminfo);
	if (size_kib && !allowance_raised)
		fail("%s cannot be raised", OVERCOMMIT);
	if (!size_kib && !machine_has_huge_pages())
		skip("the machine has no huge pages (facility edat)");
	if (!size_kib)
		fail("the kernel has no hugetlb pages");
	return size_kib;
}

/* A page is one piece of memory: in a guest with little of it the caches may be in the way, and go. */
void *map_huge(size_t size)
{
	void *memory = MAP_FAILED;

	for (int tries = 0; tries < TRIES && memory == MAP_FAILED; tries++) {
		if (tries > 0 && (errno != ENOMEM || write_text(DROP_CACHES, "3") < 0 || write_text(COMPACT, "1") < 0))
			break;
		memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB, -1, 0);
	}
	return memory;
}

void huge_page_file(unsigned long long size_kib, const char *suffix, char *file, size_t size)
{
	const char *unit = size_kib >= 1 << 20 ? "GB" : size_kib >= 1 << 10 ? "MB" : "KB";
	unsigned long long count = size_kib >= 1 << 20 ? size_kib >> 20 : size_kib >= 1 << 10 ? size_kib >> 10 : size_kib;

	snprintf(file, size, "hugetlb.%llu%s.%s", count, unit, suffix);
}

int use_huge_page(void)
{
	char *memory = map_huge((size_t)huge_page_kib() << 10);

	if (memory == MAP_FAILED)
		return 2;
	memory[0] = 1;
	return 0;
}
