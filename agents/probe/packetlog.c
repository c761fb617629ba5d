/* SPDX-License-Identifier: Apache-2.0 */
#include "packetlog.h"
#include "probe.h"
#include "util.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#define LOG_ALL_NAMESPACES "/proc/sys/net/netfilter/nf_log_all_netns"

static bool logging_widened;

/* The rules of other network namespaces than the first log nothing, unless this says so; it is only there in the first. */
void prepare_packet_log(void)
{
	unsigned long long all;

	logging_widened = read_number(LOG_ALL_NAMESPACES, &all) && all == 0 && write_text(LOG_ALL_NAMESPACES, "1") == 0;
}

void cleanup_packet_log(void)
{
	if (logging_widened)
		write_text(LOG_ALL_NAMESPACES, "0");
}

int packet_log_open(void)
{
	int log = open("/dev/kmsg", O_RDONLY | O_NONBLOCK | O_CLOEXEC);

	if (log < 0 || lseek(log, 0, SEEK_END) < 0)
		fail_errno("/dev/kmsg");
	return log;
}

bool packet_log_has(int log, const char *prefix)
{
	char record[8192];
	ssize_t got;

	/* EPIPE: records were lost before they were read; what follows is still there. */
	while ((got = read(log, record, sizeof(record) - 1)) > 0 || (got < 0 && errno == EPIPE)) {
		record[got > 0 ? got : 0] = '\0';
		if (strstr(record, prefix) && strstr(record, "PROTO=UDP"))
			return true;
	}
	return false;
}
