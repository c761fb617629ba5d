/* SPDX-License-Identifier: Apache-2.0
 *
 * On other systems this is what rtas_errd and drmgr do. Formats and names are PAPR's: events of section HP, indicator
 * 9001 (isolation), and connectors of devices that come (DRC), each with an index.
 */
#include "papr.h"
#include "probe.h"
#include "util.h"

#include <dirent.h>
#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifdef SYS_rtas

#define EVENTS "/proc/powerpc/rtas/error_log"
#define DLPAR "/sys/kernel/dlpar"
#define PCI_DEVICES "/sys/bus/pci/devices"

#define INDICATOR_ISOLATION 9001
enum isolation { ISOLATED, USABLE };

/* As a program reads it: the kernel's own count, then the event. PAPR's numbers are big-endian. */
struct event {
	uint32_t count;
	uint8_t fixed_header[4];
	uint32_t extended_length; /* of what follows */
	unsigned char version_6_header[16], sections[8192];
};

struct section {
	uint16_t id; /* two letters */
	uint16_t length;
	uint8_t version, subtype;
	uint16_t creator;
	uint8_t resource, action, index_follows, reserved;
	uint32_t index;
};

#define SECTION_HOTPLUG 0x4850
enum { RESOURCE_PCI = 5 };
enum { ACTION_ADD = 1, ACTION_REMOVE = 2 };

/* asm/rtas.h, which is not for programs. */
struct rtas_args {
	uint32_t token, argument_count, result_count, values[16];
	uint64_t kernels_own;
};

static uint32_t big_endian_number(const char *path)
{
	uint32_t number = 0;
	int fd = open(path, O_RDONLY | O_CLOEXEC);

	if (fd >= 0 && read(fd, &number, sizeof(number)) != sizeof(number))
		number = 0;
	if (fd >= 0)
		close(fd);
	return be32toh(number);
}

static void set_isolation(uint32_t index, enum isolation state)
{
	struct rtas_args args = {
		.token = htobe32(big_endian_number("/proc/device-tree/rtas/set-indicator")),
		.argument_count = htobe32(3),
		.result_count = htobe32(1),
		.values = {htobe32(INDICATOR_ISOLATION), htobe32(index), htobe32(state)},
	};

	if (syscall(SYS_rtas, &args) < 0)
		fail_errno("rtas");
	if (args.values[3] != 0)
		fail("set-indicator of 0x%x to %d: %d", index, state, (int)be32toh(args.values[3]));
}

static void change_device_tree(const char *action, uint32_t index)
{
	char request[64];

	snprintf(request, sizeof(request), "dt %s index 0x%x", action, index);
	if (write_text(DLPAR, request) < 0)
		fail_errno("%s: %s", DLPAR, request);
}

static void take_in(uint32_t index)
{
	set_isolation(index, USABLE);
	change_device_tree("add", index);
	if (write_text("/sys/bus/pci/rescan", "1") < 0)
		fail_errno("/sys/bus/pci/rescan");
}

static void let_go(uint32_t index)
{
	char path[512];
	struct dirent *entry;
	DIR *folder = opendir(PCI_DEVICES);

	while (folder && (entry = readdir(folder))) {
		snprintf(path, sizeof(path), PCI_DEVICES "/%s/of_node/ibm,my-drc-index", entry->d_name);
		if (big_endian_number(path) != index)
			continue;
		snprintf(path, sizeof(path), PCI_DEVICES "/%s/remove", entry->d_name);
		if (write_text(path, "1") < 0)
			fail_errno("%s", path);
	}
	if (folder)
		closedir(folder);
	change_device_tree("remove", index);
	set_isolation(index, ISOLATED);
}

static void obey(const struct event *event)
{
	struct section section;
	size_t end = be32toh(event->extended_length) - sizeof(event->version_6_header);

	for (size_t at = 0; at + sizeof(section) <= end && end <= sizeof(event->sections);) {
		memcpy(&section, event->sections + at, sizeof(section));
		if (be16toh(section.id) == SECTION_HOTPLUG && section.resource == RESOURCE_PCI) {
			if (section.action == ACTION_ADD)
				take_in(be32toh(section.index));
			if (section.action == ACTION_REMOVE)
				let_go(be32toh(section.index));
		}
		if (section.length == 0)
			return;
		at += be16toh(section.length);
	}
}

void papr_pci_events(void)
{
	struct event event;
	char resources[64];
	int fd = open(EVENTS, O_RDONLY | O_NONBLOCK | O_CLOEXEC);

	if (fd < 0)
		return;
	if (read_text(DLPAR, resources, sizeof(resources)) <= 0 || !has_word(resources, "dt"))
		skip("this kernel adds no device nodes by itself (%s)", DLPAR);
	while (read(fd, &event, sizeof(event)) > 0)
		obey(&event);
	if (errno != EAGAIN)
		fail_errno(EVENTS);
	close(fd);
}

#else

void papr_pci_events(void)
{
}

#endif
