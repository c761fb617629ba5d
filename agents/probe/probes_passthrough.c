/* SPDX-License-Identifier: Apache-2.0
 *
 * Devices that a guest hands on to its containers as they are (linux/vfio.h), and the IOMMU that confines them.
 */
#include "probe.h"
#include "util.h"
#include "virtio.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/vfio.h>
#include <stdio.h>
#include <sys/ioctl.h>
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
