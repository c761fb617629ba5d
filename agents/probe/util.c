/* SPDX-License-Identifier: Apache-2.0 */
#include "util.h"

#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <time.h>
#include <sys/utsname.h>
#include <unistd.h>

ssize_t read_text(const char *path, char *text, size_t size)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	size_t length = 0;
	ssize_t got = -1;

	text[0] = '\0';
	if (fd < 0)
		return -1;
	while (length < size - 1 && (got = read(fd, text + length, size - 1 - length)) > 0)
		length += (size_t)got;
	int saved = errno;
	close(fd);
	if (got < 0) {
		errno = saved;
		return -1;
	}
	if (length && text[length - 1] == '\n')
		length--;
	text[length] = '\0';
	return (ssize_t)length;
}

int write_text(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC);

	if (fd < 0)
		return -1;
	ssize_t put = write(fd, text, strlen(text));
	int saved = errno;
	close(fd);
	errno = saved;
	return put == (ssize_t)strlen(text) ? 0 : -1;
}

bool read_number(const char *path, unsigned long long *number)
{
	char text[64];
	char *end;

	if (read_text(path, text, sizeof(text)) <= 0)
		return false;
	errno = 0;
	*number = strtoull(text, &end, 0);
	return errno == 0 && end != text && *end == '\0';
}

int write_all(int fd, const void *data, size_t size)
{
	const char *at = data;

	while (size) {
		ssize_t put = write(fd, at, size);

		if (put < 0 && errno == EINTR)
			continue;
		if (put < 0)
			return -1;
		at += put;
		size -= (size_t)put;
	}
	return 0;
}

bool exists(const char *path)
{
	return access(path, F_OK) == 0;
}

bool has_word(const char *list, const char *word)
{
	size_t length = strlen(word);

	while (*list) {
		size_t here = strcspn(list, " ,\n\t");

		if (here == length && strncmp(list, word, length) == 0)
			return true;
		list += here;
		list += strspn(list, " ,\n\t");
	}
	return false;
}

const char *cmdline_value(const char *cmdline, const char *key, size_t *length)
{
	const char *found = NULL;
	size_t key_length = strlen(key);

	while (*cmdline) {
		size_t here = 0;
		bool quoted = false;

		for (; cmdline[here] && (quoted || cmdline[here] != ' '); here++)
			quoted ^= cmdline[here] == '"';
		if (here > key_length && cmdline[key_length] == '=' && strncmp(cmdline, key, key_length) == 0) {
			found = cmdline + key_length + 1;
			*length = here - key_length - 1;
		}
		cmdline += here;
		cmdline += strspn(cmdline, " ");
	}
	if (found && *length >= 2 && found[0] == '"' && found[*length - 1] == '"') {
		found++;
		*length -= 2;
	}
	return found;
}

uint64_t boottime_us(void)
{
	struct timespec now;

	clock_gettime(CLOCK_BOOTTIME, &now);
	return (uint64_t)now.tv_sec * 1000000 + (uint64_t)now.tv_nsec / 1000;
}

void sleep_ms(unsigned int milliseconds)
{
	struct timespec left = {.tv_sec = milliseconds / 1000, .tv_nsec = (long)(milliseconds % 1000) * 1000000};

	while (nanosleep(&left, &left) < 0 && errno == EINTR)
		;
}

int interface_set_up(const char *name, bool up)
{
	struct ifreq request = {0};
	int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	int status = -1;

	if (fd < 0)
		return -1;
	snprintf(request.ifr_name, sizeof(request.ifr_name), "%s", name);
	if (ioctl(fd, SIOCGIFFLAGS, &request) == 0) {
		if (up)
			request.ifr_flags |= IFF_UP;
		else
			request.ifr_flags &= (short)~IFF_UP;
		status = ioctl(fd, SIOCSIFFLAGS, &request);
	}
	int saved = errno;
	close(fd);
	errno = saved;
	return status;
}

static bool text_room(struct text *text, size_t more)
{
	if (text->failed)
		return false;
	if (text->length + more + 1 <= text->size)
		return true;
	size_t size = (text->length + more + 1) * 2;
	char *data = realloc(text->data, size);
	if (!data) {
		text->failed = true;
		return false;
	}
	text->data = data;
	text->size = size;
	return true;
}

void text_add_bytes(struct text *text, const char *bytes, size_t length)
{
	if (!text_room(text, length))
		return;
	memcpy(text->data + text->length, bytes, length);
	text->length += length;
	text->data[text->length] = '\0';
}

void text_add(struct text *text, const char *format, ...)
{
	char line[512];
	va_list arguments;

	va_start(arguments, format);
	int length = vsnprintf(line, sizeof(line), format, arguments);
	va_end(arguments);
	if (length < 0 || (size_t)length >= sizeof(line))
		text->failed = true;
	else
		text_add_bytes(text, line, (size_t)length);
}

bool release_is_at_least(int major, int minor)
{
	struct utsname names;
	int running[2];

	if (uname(&names) < 0 || sscanf(names.release, "%d.%d", &running[0], &running[1]) != 2)
		return false;
	return running[0] > major || (running[0] == major && running[1] >= minor);
}

uint32_t crc32(const void *data, size_t size)
{
	const unsigned char *bytes = data;
	uint32_t crc = 0xffffffff;

	for (size_t i = 0; i < size; i++) {
		crc ^= bytes[i];
		for (int bit = 0; bit < 8; bit++)
			crc = crc >> 1 ^ (crc & 1 ? 0xedb88320 : 0);
	}
	return ~crc;
}
