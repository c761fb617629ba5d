/* SPDX-License-Identifier: Apache-2.0
 *
 * The report: one line of JSON (README.md has its schema), and the two ways in which it leaves the guest.
 */
#ifndef OSBUILDER_REPORT_H
#define OSBUILDER_REPORT_H

#include "facts.h"
#include "probe.h"
#include "util.h"

/* Adds a JSON string in ASCII: everything else is escaped, bytes that are not UTF-8 become U+FFFD. */
void json_string(struct text *text, const char *value);

struct report {
	uint64_t started_us; /* CLOCK_BOOTTIME when the agent started, and when its probes were done */
	uint64_t ready_us;
	/* Both before the probes: what these plug or leave behind is not what the guest began with. */
	struct memory_facts memory;
	long vcpus; /* online */
	const struct outcome *outcomes;
	size_t count;
};

/* Writes the report as one line, without a line end. */
void report_write(struct text *text, const struct report *report);

/* The raw line through the virtio-serial port PORT_NAME. Returns once the host has taken it: 0, or -1 with errno
 * (ENODEV: there is no such port). */
int report_to_port(const struct text *report);

/* The line between markers, twice, on the console, with kernel messages held back meanwhile. Returns 0, or -1. */
int report_to_console(const struct text *report);

/* The raw line on standard output. Returns 0, or -1. */
int report_to_stdout(const struct text *report);

#endif
