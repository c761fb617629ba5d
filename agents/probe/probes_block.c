/* SPDX-License-Identifier: Apache-2.0
 *
 * Block devices: the root's mapping, pmem, loop.
 */
#include "facts.h"
#include "loop.h"
#include "probe.h"
#include "util.h"

#include <dirent.h>
#include <linux/loop.h>
#include <string.h>
#include <unistd.h>

void probe_root_dax(void)
{
	struct root_facts root;

	if (!facts_root(&root))
		fail("/proc/self/mountinfo names no root");
	if (strncmp(root.device, "/dev/pmem", 9) != 0)
		skip("the root is not on pmem (%s %s)", root.fstype, root.device[0] ? root.device : root.source);
	/* ext4 says dax=always, xfs the same; "dax" alone is what kernels before 5.8 say. */
	if (!has_word(root.options, "dax=always") && !has_word(root.options, "dax"))
		fail("%s is mounted without dax (%s)", root.device, root.options);
	pass("%s is mounted with dax", root.device);
}

/* Whether a folder lists anything but . and .. */
static bool holds_anything(const char *path)
{
	DIR *folder = opendir(path);
	struct dirent *entry;
	bool found = false;

	if (!folder)
		return false;
	while (!found && (entry = readdir(folder)))
		found = entry->d_name[0] != '.';
	closedir(folder);
	return found;
}

void probe_pmem(void)
{
	unsigned long long sectors = 0, dax = 0;

	if (!exists("/sys/block/pmem0")) {
		/* ACPI0012 is the firmware's NVDIMM root device: there even if the kernel has no driver for it. */
		if (holds_anything("/sys/bus/nd/devices") || exists("/sys/bus/acpi/devices/ACPI0012:00"))
			fail("an NVDIMM is attached, but there is no pmem0");
		skip("no NVDIMM is attached");
	}
	read_number("/sys/block/pmem0/size", &sectors);
	if (!read_number("/sys/block/pmem0/queue/dax", &dax) || dax != 1)
		fail("pmem0 is there, but does not support DAX");
	pass("pmem0, %llu MiB, DAX", sectors / 2048);
}

void probe_loop(void)
{
	char pattern[4096], got[4096], path[LOOP_PATH_SIZE];
	int backing = memory_file(0);

	for (size_t i = 0; i < sizeof(pattern); i++)
		pattern[i] = (char)(i * 7);
	for (int block = 0; block < 16; block++)
		if (write_all(backing, pattern, sizeof(pattern)) < 0)
			fail_errno("filling the backing file");
	int device = loop_attach(backing, LO_FLAGS_READ_ONLY, path);
	if (pread(device, got, sizeof(got), 15 * 4096) != (ssize_t)sizeof(got))
		fail_errno("reading %s", path);
	if (memcmp(got, pattern, sizeof(got)) != 0)
		fail("%s does not read as its backing file", path);
	pass("%s attached and read", path);
}
