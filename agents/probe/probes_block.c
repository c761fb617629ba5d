/* SPDX-License-Identifier: Apache-2.0
 *
 * Block devices: the root's mapping, pmem, loop, device mapper.
 */
#include "facts.h"
#include "probe.h"
#include "util.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/dm-ioctl.h>
#include <linux/loop.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#define DM_PROBE_NAME "osbuilder-probe"

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
	char pattern[4096], got[4096], path[32];
	int control = open("/dev/loop-control", O_RDWR | O_CLOEXEC);
	int backing = memfd_create("loop", MFD_CLOEXEC);

	if (control < 0)
		fail_errno("/dev/loop-control");
	if (backing < 0)
		fail_errno("memfd_create");
	for (size_t i = 0; i < sizeof(pattern); i++)
		pattern[i] = (char)(i * 7);
	for (int block = 0; block < 16; block++)
		if (write_all(backing, pattern, sizeof(pattern)) < 0)
			fail_errno("filling the backing file");
	int number = ioctl(control, LOOP_CTL_GET_FREE);
	if (number < 0)
		fail_errno("LOOP_CTL_GET_FREE");
	snprintf(path, sizeof(path), "/dev/loop%d", number);
	int device = open(path, O_RDONLY | O_CLOEXEC);
	if (device < 0)
		fail_errno("%s", path);
	/* AUTOCLEAR: the device lets go of the file when this process ends. */
	struct loop_config config = {.fd = (__u32)backing, .info.lo_flags = LO_FLAGS_AUTOCLEAR | LO_FLAGS_READ_ONLY};
	if (ioctl(device, LOOP_CONFIGURE, &config) < 0)
		fail_errno("LOOP_CONFIGURE %s", path);
	if (pread(device, got, sizeof(got), 15 * 4096) != (ssize_t)sizeof(got))
		fail_errno("reading %s", path);
	if (memcmp(got, pattern, sizeof(got)) != 0)
		fail("%s does not read as its backing file", path);
	pass("%s attached and read", path);
}

struct dm_request {
	struct dm_ioctl header;
	char body[2048];
};

static void dm_request(struct dm_request *request, const char *name)
{
	memset(request, 0, sizeof(*request));
	request->header.version[0] = DM_VERSION_MAJOR;
	request->header.data_size = sizeof(*request);
	request->header.data_start = sizeof(request->header);
	snprintf(request->header.name, sizeof(request->header.name), "%s", name);
}

static int dm_open(void)
{
	int fd = open("/dev/mapper/control", O_RDWR | O_CLOEXEC);

	if (fd < 0)
		fail_errno("/dev/mapper/control");
	return fd;
}

void cleanup_device_mapper(void)
{
	struct dm_request request;
	int fd = open("/dev/mapper/control", O_RDWR | O_CLOEXEC);

	if (fd < 0)
		return;
	dm_request(&request, DM_PROBE_NAME);
	ioctl(fd, DM_DEV_REMOVE, &request);
	close(fd);
}

void probe_device_mapper(void)
{
	struct dm_request request;
	int fd = dm_open();

	dm_request(&request, "");
	if (ioctl(fd, DM_VERSION, &request) < 0)
		fail_errno("DM_VERSION");
	unsigned int minor_version = request.header.version[1];
	dm_request(&request, DM_PROBE_NAME);
	if (ioctl(fd, DM_DEV_CREATE, &request) < 0)
		fail_errno("DM_DEV_CREATE");
	/* "error" is the one target that is never a module. */
	dm_request(&request, DM_PROBE_NAME);
	request.header.target_count = 1;
	struct dm_target_spec *target = (void *)request.body;
	target->length = 8;
	target->next = sizeof(*target);
	snprintf(target->target_type, sizeof(target->target_type), "error");
	if (ioctl(fd, DM_TABLE_LOAD, &request) < 0)
		fail_errno("DM_TABLE_LOAD");
	dm_request(&request, DM_PROBE_NAME);
	if (ioctl(fd, DM_DEV_SUSPEND, &request) < 0) /* without DM_SUSPEND_FLAG: resume */
		fail_errno("resuming the device");
	dm_request(&request, DM_PROBE_NAME);
	if (ioctl(fd, DM_DEV_STATUS, &request) < 0)
		fail_errno("DM_DEV_STATUS");
	if (request.header.target_count != 1 || !(request.header.flags & DM_ACTIVE_PRESENT_FLAG))
		fail("the device has no active table");
	pass("device mapper 4.%u; device made, table loaded, resumed", minor_version);
}

static void require_target(const char *name)
{
	struct dm_request request;
	int fd = dm_open();

	/* Loads the target's module where there is one; kernels before 5.4 have no such call. */
	dm_request(&request, name);
	if (ioctl(fd, DM_GET_TARGET_VERSION, &request) < 0) {
		if (errno == EINVAL)
			fail("the kernel has no target %s", name);
		fail_errno("DM_GET_TARGET_VERSION %s", name);
	}
	const struct dm_target_versions *target = (const void *)request.body;
	pass("target %s %u.%u.%u", name, target->version[0], target->version[1], target->version[2]);
}

void probe_dm_verity(void)
{
	require_target("verity");
}

void probe_dm_crypt(void)
{
	require_target("crypt");
}
