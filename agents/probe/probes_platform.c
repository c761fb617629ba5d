/* SPDX-License-Identifier: Apache-2.0
 *
 * What the machine tells its guest beside devices: its firmware's tables, that it is a copy of another, that it shall
 * end.
 */
#include "probe.h"
#include "util.h"

#include <dirent.h>
#include <fcntl.h>
#include <linux/input.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#define LONG_BITS (8 * sizeof(long))
#define ACPI_DEVICES "/sys/bus/acpi/devices"

/* Whether ACPI names a device with that in its identifiers. */
static bool acpi_names(const char *identifier)
{
	struct dirent *entry;
	bool found = false;
	DIR *folder = opendir(ACPI_DEVICES);

	while (folder && !found && (entry = readdir(folder))) {
		char path[512], alias[256];

		snprintf(path, sizeof(path), ACPI_DEVICES "/%s/modalias", entry->d_name);
		found = read_text(path, alias, sizeof(alias)) > 0 && strstr(alias, identifier);
	}
	if (folder)
		closedir(folder);
	return found;
}

/* Whether a driver has a device: its folder has a link to each, and one to itself as a module. */
static bool drives_something(const char *driver)
{
	struct dirent *entry;
	bool found = false;
	DIR *folder = opendir(driver);

	while (folder && !found && (entry = readdir(folder)))
		found = entry->d_type == DT_LNK && strcmp(entry->d_name, "module") != 0;
	if (folder)
		closedir(folder);
	return found;
}

void probe_uefi(void)
{
	unsigned long long bits;

	if (!exists("/sys/firmware/efi"))
		skip("it was started without UEFI firmware, or its kernel does not know of it");
	if (!read_number("/sys/firmware/efi/fw_platform_size", &bits))
		fail("/sys/firmware/efi/fw_platform_size: expected a number");
	if (!exists("/sys/firmware/acpi/tables/DSDT"))
		fail("the firmware's ACPI tables are not used");
	pass("started by UEFI firmware of %llu bits, with ACPI's tables", bits);
}

/* The driver is ACPI's own before 6.10, and a platform driver since. */
void probe_vmgenid(void)
{
	static const char *const drivers[] = {"/sys/bus/platform/drivers/vmgenid", "/sys/bus/acpi/drivers/vmgenid"};
	bool known = false;

	for (size_t i = 0; i < COUNT_OF(drivers); i++) {
		known = known || exists(drivers[i]);
		if (drives_something(drivers[i]))
			pass("the machine's generation is watched");
	}
	if (!known && !release_is_at_least(6, 10) && !exists("/sys/bus/acpi"))
		skip("the driver is ACPI's, which the machine has not");
	if (!known)
		fail("the kernel has no driver for it");
	if (acpi_names("VM_GEN") || acpi_names("VMGENCTR"))
		fail("attached, but the driver has not taken it");
	skip("no such device is attached");
}

/* Whether an input device has the key. */
static bool has_key(int device, unsigned int key)
{
	unsigned long keys[KEY_MAX / LONG_BITS + 1] = {0};

	return ioctl(device, EVIOCGBIT(EV_KEY, sizeof(keys)), keys) > 0 && keys[key / LONG_BITS] >> key % LONG_BITS & 1;
}

void probe_power_button(void)
{
	char path[64], name[128] = "";

	if (!exists("/sys/class/input"))
		fail("the kernel has no input devices");
	for (int number = 0; number < 32; number++) {
		snprintf(path, sizeof(path), "/dev/input/event%d", number);
		int device = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
		bool found = device >= 0 && has_key(device, KEY_POWER);
		if (found && ioctl(device, EVIOCGNAME(sizeof(name) - 1), name) < 0)
			fail_errno("the name of %s", path);
		if (device >= 0)
			close(device);
		if (found)
			pass("%s is %s", name, path);
	}
	if (acpi_names("LNXPWRBN") || acpi_names("PNP0C0C") || exists("/proc/device-tree/gpio-keys"))
		fail("the machine has one, and no input device has its key");
	skip("the machine has none");
}
