/* SPDX-License-Identifier: Apache-2.0 */
#include "loop.h"
#include "probe.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/loop.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

int memory_file(size_t size)
{
	int fd = memfd_create("probe", MFD_CLOEXEC);

	if (fd < 0 || ftruncate(fd, (off_t)size) < 0)
		fail_errno("a file in memory");
	return fd;
}

int loop_attach(int backing, unsigned int flags, char path[LOOP_PATH_SIZE])
{
	struct loop_config config = {.fd = (__u32)backing, .info.lo_flags = LO_FLAGS_AUTOCLEAR | flags};
	int mode = flags & LO_FLAGS_READ_ONLY ? O_RDONLY : O_RDWR;
	int control = open("/dev/loop-control", O_RDWR | O_CLOEXEC);

	if (control < 0)
		fail_errno("/dev/loop-control");
	/* Somebody else may take the free one first. */
	for (int attempt = 0; attempt < 8; attempt++) {
		int number = ioctl(control, LOOP_CTL_GET_FREE);
		if (number < 0)
			fail_errno("LOOP_CTL_GET_FREE");
		snprintf(path, LOOP_PATH_SIZE, "/dev/loop%d", number);
		int device = open(path, mode | O_CLOEXEC);
		if (device < 0)
			fail_errno("%s", path);
		if (ioctl(device, LOOP_CONFIGURE, &config) == 0) {
			close(control);
			return device;
		}
		if (errno != EBUSY)
			fail_errno("LOOP_CONFIGURE %s", path);
		close(device);
	}
	fail("no loop device stays free");
}
