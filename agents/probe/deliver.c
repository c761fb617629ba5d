/* SPDX-License-Identifier: Apache-2.0
 *
 * The ways in which the report leaves the guest.
 */
#include "report.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/klog.h>
#include <termios.h>
#include <unistd.h>

#define PORTS "/sys/class/virtio-ports"
#define PORT_WAIT_MS 5000
#define KLOG_CONSOLE_LEVEL 8 /* SYSLOG_ACTION_CONSOLE_LEVEL, syslog(2) */

static int open_port(void)
{
	char path[512], name[64];
	struct dirent *entry;
	DIR *folder = opendir(PORTS);
	int fd = -1, saved = ENODEV;

	while (folder && (entry = readdir(folder))) {
		snprintf(path, sizeof(path), PORTS "/%s/name", entry->d_name);
		if (read_text(path, name, sizeof(name)) <= 0 || strcmp(name, PORT_NAME) != 0)
			continue;
		snprintf(path, sizeof(path), "/dev/%s", entry->d_name);
		fd = open(path, O_WRONLY | O_NONBLOCK | O_CLOEXEC);
		saved = errno;
		break;
	}
	if (folder)
		closedir(folder);
	errno = saved;
	return fd;
}

/* A port that nobody listens to on the host never takes a byte: hence the limit. */
static int write_patiently(int fd, const char *data, size_t size)
{
	while (size) {
		struct pollfd ready = {.fd = fd, .events = POLLOUT};
		ssize_t put = write(fd, data, size);

		if (put < 0 && errno != EAGAIN && errno != EINTR)
			return -1;
		if (put > 0) {
			data += put;
			size -= (size_t)put;
		} else if (poll(&ready, 1, PORT_WAIT_MS) != 1 || ready.revents & POLLHUP) {
			errno = ETIMEDOUT;
			return -1;
		}
	}
	return 0;
}

int report_to_port(const struct text *report)
{
	int fd = open_port();

	if (fd < 0)
		return -1;
	int status = write_patiently(fd, report->data, report->length);
	if (status == 0)
		status = write_patiently(fd, "\n", 1);
	int saved = errno;
	/* Closing waits for the host's answer to a control message that is sent after the data: a flush. */
	close(fd);
	errno = saved;
	return status;
}

int report_to_console(const struct text *report)
{
	struct text frame = {0};
	char levels[64];
	int fd = open("/dev/console", O_WRONLY | O_NOCTTY | O_CLOEXEC);

	if (fd < 0)
		return -1;
	text_add(&frame, "\n@osbuilder-report %d %zu %08x ", REPORT_SCHEMA, report->length,
		 crc32(report->data, report->length));
	text_add_bytes(&frame, report->data, report->length);
	text_add(&frame, " @osbuilder-end\n");
	if (frame.failed) {
		close(fd);
		errno = ENOMEM;
		return -1;
	}
	bool told = read_text("/proc/sys/kernel/printk", levels, sizeof(levels)) > 0;
	klogctl(KLOG_CONSOLE_LEVEL, NULL, 1);
	/* Twice: others write to the console too, and the checksum tells which copy is whole. */
	int status = write_all(fd, frame.data, frame.length);
	if (status == 0)
		status = write_all(fd, frame.data, frame.length);
	tcdrain(fd);
	/* Not by klogctl(), which takes no level above 8: `debug` on the kernel line is 10. */
	if (told)
		write_text("/proc/sys/kernel/printk", levels);
	close(fd);
	free(frame.data);
	return status;
}

int report_to_stdout(const struct text *report)
{
	if (write_all(STDOUT_FILENO, report->data, report->length) < 0)
		return -1;
	return write_all(STDOUT_FILENO, "\n", 1);
}
