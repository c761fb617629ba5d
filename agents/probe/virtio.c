/* SPDX-License-Identifier: Apache-2.0 */
#include "virtio.h"
#include "probe.h"
#include "util.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define VIRTIO_DEVICES "/sys/bus/virtio/devices"
#define PCI_DEVICES "/sys/bus/pci/devices"
#define PCI_VENDOR_VIRTIO 0x1af4
#define PCI_MODERN_BASE 0x1040 /* virtio 1.0, 4.1.2: device number + 0x1040; older ones carry it as subsystem */

int first_entry(const char *folder, const char *prefix, char *name, size_t size)
{
	struct dirent **entries;
	int status = -1;
	int count = scandir(folder, &entries, NULL, alphasort);

	for (int i = 0; i < count; i++) {
		const char *entry = entries[i]->d_name;

		if (status < 0 && entry[0] != '.' && strncmp(entry, prefix, strlen(prefix)) == 0) {
			snprintf(name, size, "%s", entry);
			status = 0;
		}
	}
	while (count > 0)
		free(entries[--count]);
	if (count == 0)
		free(entries);
	return status;
}

bool pmem_disk(bool virtio, char *name, size_t size)
{
	for (int number = 0; number < 16; number++) {
		char path[64];

		snprintf(path, sizeof(path), "/sys/block/pmem%d/device", number);
		/* .../virtio3/ndbus0/region0/namespace0.0 */
		char *device = realpath(path, NULL);
		bool found = device && !strstr(device, "/virtio") == !virtio;
		free(device);
		if (!found)
			continue;
		snprintf(name, size, "pmem%d", number);
		return true;
	}
	return false;
}

/* Whether the PCI bus lists a virtio device with that number. */
static bool on_pci(unsigned int id)
{
	char path[512];
	struct dirent *entry;
	bool found = false;
	DIR *folder = opendir(PCI_DEVICES);

	while (folder && !found && (entry = readdir(folder))) {
		unsigned long long vendor = 0, device = 0, subsystem = 0;

		snprintf(path, sizeof(path), PCI_DEVICES "/%s/vendor", entry->d_name);
		if (!read_number(path, &vendor) || vendor != PCI_VENDOR_VIRTIO)
			continue;
		snprintf(path, sizeof(path), PCI_DEVICES "/%s/device", entry->d_name);
		read_number(path, &device);
		snprintf(path, sizeof(path), PCI_DEVICES "/%s/subsystem_device", entry->d_name);
		read_number(path, &subsystem);
		found = device >= PCI_MODERN_BASE ? device - PCI_MODERN_BASE == id : subsystem == id;
	}
	if (folder)
		closedir(folder);
	return found;
}

static bool on_virtio(unsigned int id, char *path, size_t size)
{
	struct dirent *entry;
	bool found = false;
	DIR *folder = opendir(VIRTIO_DEVICES);

	while (folder && !found && (entry = readdir(folder))) {
		unsigned long long device;
		char file[512];

		snprintf(file, sizeof(file), VIRTIO_DEVICES "/%s/device", entry->d_name);
		found = read_number(file, &device) && device == id;
		if (found)
			snprintf(path, size, VIRTIO_DEVICES "/%.64s", entry->d_name);
	}
	if (folder)
		closedir(folder);
	return found;
}

bool virtio_pci_address(unsigned int id, char *address, size_t size)
{
	char link[512];

	if (!on_virtio(id, link, sizeof(link)))
		return false;
	/* .../pci0000:00/0000:00:04.0/virtio1 */
	char *device = realpath(link, NULL);
	char *last = device ? strrchr(device, '/') : NULL;
	if (last)
		*last = '\0';
	char *parent = last ? strrchr(device, '/') : NULL;
	char bus[512];
	snprintf(bus, sizeof(bus), PCI_DEVICES "/%.64s", parent ? parent + 1 : "none");
	bool found = exists(bus);
	if (found)
		snprintf(address, size, "%.64s", parent + 1);
	free(device);
	return found;
}

void virtio_require(unsigned int id, char *folder, size_t size)
{
	char driver[512];

	if (!exists("/sys/bus/virtio"))
		fail("the kernel has no virtio bus");
	if (!on_virtio(id, folder, size)) {
		if (on_pci(id))
			fail("attached to the PCI bus, but the kernel has no driver for virtio over PCI");
		skip("no such device is attached");
	}
	snprintf(driver, sizeof(driver), "%s/driver", folder);
	if (!exists(driver))
		fail("attached, but the kernel has no driver for it");
}
