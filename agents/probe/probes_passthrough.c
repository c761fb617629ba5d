/* SPDX-License-Identifier: Apache-2.0
 *
 * Devices that a guest hands on to its containers as they are (linux/vfio.h), and the IOMMU that confines them.
 */
#include "probe.h"
#include "util.h"
#include "virtio.h"

#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/vfio.h>
#include <linux/virtio_ids.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

void probe_vfio(void)
{
	char device[64];
	int container = open("/dev/vfio/vfio", O_RDWR | O_CLOEXEC);

	if (container < 0)
		fail_errno("/dev/vfio/vfio");
	if (ioctl(container, VFIO_GET_API_VERSION) != VFIO_API_VERSION)
		fail("the version of the interface is not %d", VFIO_API_VERSION);
	bool type1 = ioctl(container, VFIO_CHECK_EXTENSION, VFIO_TYPE1v2_IOMMU) == 1;
	if (!type1 && ioctl(container, VFIO_CHECK_EXTENSION, VFIO_SPAPR_TCE_v2_IOMMU) != 1)
		fail("no way to map memory for a device");
	if (first_entry("/sys/bus/pci/devices", "", device, sizeof(device)) == 0 &&
	    !exists("/sys/bus/pci/drivers/vfio-pci"))
		fail("no driver for PCI devices");
	pass("a container was opened; memory can be mapped the %s way", type1 ? "type 1" : "sPAPR");
}

#define DEVICES "/sys/bus/pci/devices"
#define VFIO_PCI "/sys/bus/pci/drivers/vfio-pci"

/* The usual driver of a device: none of its own choice. */
static void give_back(const char *address)
{
	char path[128];

	snprintf(path, sizeof(path), DEVICES "/%s/driver_override", address);
	write_text(path, "\n");
	write_text(VFIO_PCI "/unbind", address);
	write_text("/sys/bus/pci/drivers_probe", address);
}

void undo_vfio_device(void)
{
	char address[64];

	if (first_entry(VFIO_PCI, "0000:", address, sizeof(address)) == 0)
		give_back(address);
}

/* Takes a device from its driver, for VFIO. */
static void take(const char *address)
{
	char path[128];

	snprintf(path, sizeof(path), DEVICES "/%s/driver_override", address);
	if (write_text(path, "vfio-pci") < 0)
		fail_errno("%s", path);
	snprintf(path, sizeof(path), DEVICES "/%s/driver/unbind", address);
	if (write_text(path, address) < 0)
		fail_errno("%s", path);
	if (write_text("/sys/bus/pci/drivers_probe", address) < 0)
		fail_errno("binding %s to vfio-pci", address);
}

/* Opens the group that a device is in. */
static int open_group(const char *address)
{
	char path[128], target[256];

	snprintf(path, sizeof(path), DEVICES "/%s/iommu_group", address);
	ssize_t length = readlink(path, target, sizeof(target) - 1);
	if (length < 0)
		fail_errno("%s", path);
	target[length] = '\0';
	snprintf(path, sizeof(path), "/dev/vfio/%.16s", strrchr(target, '/') ? strrchr(target, '/') + 1 : target);
	int group = open(path, O_RDWR | O_CLOEXEC);
	if (group < 0)
		fail_errno("%s", path);
	return group;
}

/* Puts a group into a container that maps a page of memory where the device may see it. */
static void map_page(int container, int group)
{
	struct vfio_group_status status = {.argsz = sizeof(status)};
	size_t size = (size_t)sysconf(_SC_PAGESIZE);
	void *page = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct vfio_iommu_type1_dma_map map = {.argsz = sizeof(map), .flags = VFIO_DMA_MAP_FLAG_READ | VFIO_DMA_MAP_FLAG_WRITE,
					       .vaddr = (uintptr_t)page, .iova = 1 << 20, .size = size};

	if (ioctl(group, VFIO_GROUP_GET_STATUS, &status) < 0 || !(status.flags & VFIO_GROUP_FLAGS_VIABLE))
		fail("the device is in a group with others, which have drivers");
	if (ioctl(group, VFIO_GROUP_SET_CONTAINER, &container) < 0)
		fail_errno("a container of the device's group");
	if (ioctl(container, VFIO_SET_IOMMU, VFIO_TYPE1v2_IOMMU) < 0) {
		if (errno == EPERM)
			skip("this IOMMU remaps no interrupts (vfio_iommu_type1.allow_unsafe_interrupts)");
		fail_errno("the IOMMU of the device's group");
	}
	if (page == MAP_FAILED || ioctl(container, VFIO_IOMMU_MAP_DMA, &map) < 0)
		fail_errno("mapping a page for the device");
}

void probe_vfio_device(void)
{
	char address[64], name[64];
	uint16_t vendor = 0;

	if (first_entry("/sys/class/iommu", "", name, sizeof(name)) < 0)
		skip("no IOMMU is attached that the kernel drives");
	/* The one device that nobody misses for a moment. */
	if (!virtio_pci_address(VIRTIO_ID_RNG, address, sizeof(address)))
		skip("there is no virtio-rng on the PCI bus, the device that is taken");
	take(address);
	int container = open("/dev/vfio/vfio", O_RDWR | O_CLOEXEC), group = open_group(address);
	if (container < 0)
		fail_errno("/dev/vfio/vfio");
	map_page(container, group);
	struct vfio_region_info config = {.argsz = sizeof(config), .index = VFIO_PCI_CONFIG_REGION_INDEX};
	int device = ioctl(group, VFIO_GROUP_GET_DEVICE_FD, address);
	if (device < 0 || ioctl(device, VFIO_DEVICE_GET_REGION_INFO, &config) < 0)
		fail_errno("opening %s", address);
	if (pread(device, &vendor, sizeof(vendor), (off_t)config.offset) != sizeof(vendor))
		fail_errno("reading the configuration of %s", address);
	if (le16toh(vendor) != 0x1af4)
		fail("%s says that its vendor is %#x", address, le16toh(vendor));
	pass("%s was taken from its driver, opened, and a page mapped for it", address);
}

void probe_iommu(void)
{
	char name[64], group[64];

	if (!exists("/sys/kernel/iommu_groups"))
		fail("the kernel knows no IOMMU");
	if (first_entry("/sys/class/iommu", "", name, sizeof(name)) < 0)
		skip("no IOMMU is attached that the kernel drives");
	if (first_entry("/sys/kernel/iommu_groups", "", group, sizeof(group)) < 0)
		fail("%s is attached, but no device is behind it", name);
	pass("%s; devices are in groups", name);
}
