/* SPDX-License-Identifier: Apache-2.0
 *
 * Small files, clocks and strings. Nothing here ends the process or prints.
 */
#ifndef OSBUILDER_UTIL_H
#define OSBUILDER_UTIL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/* Reads a whole small file as a NUL-terminated string without its last newline. Returns its length, or -1 with errno;
 * a file longer than size - 1 is cut. */
ssize_t read_text(const char *path, char *text, size_t size);

/* Writes a string to an existing file in one write(2). Returns 0, or -1 with errno. */
int write_text(const char *path, const char *text);

/* Reads an unsigned number (decimal, 0x hexadecimal) from a file. Returns false if there is none. */
bool read_number(const char *path, unsigned long long *number);

/* Writes all bytes. Returns 0, or -1 with errno. */
int write_all(int fd, const void *data, size_t size);

/* Whether a path exists. */
bool exists(const char *path);

/* Whether a list separated by blanks or commas holds a word. */
bool has_word(const char *list, const char *word);

/* The value of `key=` in a kernel command line (the last one wins, as in the kernel); `*length` is its length.
 * NULL if it is not there. Double quotes around a value are not part of it. */
const char *cmdline_value(const char *cmdline, const char *key, size_t *length);

/* Microseconds since the machine was started, sleep included (CLOCK_BOOTTIME). */
uint64_t boottime_us(void);

void sleep_ms(unsigned int milliseconds);

/* Whether the running kernel is of that version or a later one (uname(2)). */
bool release_is_at_least(int major, int minor);

/* CRC-32 as in IEEE 802.3 and zlib. */
uint32_t crc32(const void *data, size_t size);

/* Sets or clears IFF_UP of an interface of this network namespace. Returns 0, or -1 with errno. */
int interface_set_up(const char *name, bool up);

/* A growing string; `failed` is set when memory ran out, and stays set. */
struct text {
	char *data;
	size_t length;
	size_t size;
	bool failed;
};

void text_add(struct text *text, const char *format, ...) __attribute__((format(printf, 2, 3)));
void text_add_bytes(struct text *text, const char *bytes, size_t length);

#endif
