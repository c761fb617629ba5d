/* SPDX-License-Identifier: Apache-2.0
 *
 * Block devices: the root's mapping, pmem, loop.
 */
#include "facts.h"
#include "loop.h"
#include "probe.h"
#include "util.h"
#include "virtio.h"

#include <dirent.h>
#include <endian.h>
#include <linux/loop.h>
#include <stdio.h>
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
	char name[16], path[64], other[16];

	if (!pmem_disk(false, name, sizeof(name))) {
		/* ACPI0012 is the firmware's NVDIMM root device: there even if the kernel has no driver for it. */
		bool attached = holds_anything("/sys/bus/nd/devices") && !pmem_disk(true, other, sizeof(other));
		if (attached || exists("/sys/bus/acpi/devices/ACPI0012:00"))
			fail("an NVDIMM is attached, but it has no pmem device");
		skip("no NVDIMM is attached");
	}
	snprintf(path, sizeof(path), "/sys/block/%s/size", name);
	read_number(path, &sectors);
	snprintf(path, sizeof(path), "/sys/block/%s/queue/dax", name);
	if (!read_number(path, &dax) || dax != 1)
		fail("%s is there, but does not support DAX", name);
	pass("%s, %llu MiB, DAX", name, sectors / 2048);
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

#define SECTOR 512
#define SECTORS 2048

/* UEFI specification 2.10, 5.3: a protective MBR, a header and one partition of two sectors. */
static void write_gpt(unsigned char *disk)
{
	struct {
		char signature[8];
		uint32_t revision, size, crc, zero;
		uint64_t own, alternate, first, last;
		unsigned char guid[16];
		uint64_t entries;
		uint32_t count, entry_size, entries_crc;
	} __attribute__((packed)) header = {
		.signature = "EFI PART", .revision = htole32(0x10000), .size = htole32(sizeof(header)), .own = htole64(1),
		.alternate = htole64(SECTORS - 1), .first = htole64(34), .last = htole64(SECTORS - 34), .guid = {1},
		.entries = htole64(2), .count = htole32(1), .entry_size = htole32(128)};
	struct {
		unsigned char type[16], guid[16];
		uint64_t first, last, attributes;
		uint16_t name[36];
	} __attribute__((packed)) entry = {.type = {2}, .guid = {3}, .first = htole64(40), .last = htole64(41)};

	header.entries_crc = htole32(crc32(&entry, sizeof(entry)));
	header.crc = htole32(crc32(&header, sizeof(header)));
	disk[446 + 4] = 0xee;
	disk[446 + 8] = 1;
	disk[446 + 12] = 0xff;
	disk[446 + 13] = 0xff;
	disk[446 + 14] = 0xff;
	disk[446 + 15] = 0xff;
	disk[510] = 0x55;
	disk[511] = 0xaa;
	memcpy(disk + SECTOR, &header, sizeof(header));
	memcpy(disk + 2 * SECTOR, &entry, sizeof(entry));
}

void probe_gpt(void)
{
	unsigned char disk[3 * SECTOR] = {0};
	char path[LOOP_PATH_SIZE], file[96];
	unsigned long long sectors = 0;
	int backing = memory_file(SECTORS * SECTOR);

	write_gpt(disk);
	if (pwrite(backing, disk, sizeof(disk), 0) != (ssize_t)sizeof(disk))
		fail_errno("writing a partition table");
	loop_attach(backing, LO_FLAGS_PARTSCAN, path);
	snprintf(file, sizeof(file), "/sys/block/%s/%sp1/size", path + strlen("/dev/"), path + strlen("/dev/"));
	if (!read_number(file, &sectors))
		fail("%s has no partition", path);
	if (sectors != 2)
		fail("the partition has %llu sectors, not 2", sectors);
	pass("%sp1 was found in a GPT", path);
}
