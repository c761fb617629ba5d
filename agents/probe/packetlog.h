/* SPDX-License-Identifier: Apache-2.0
 *
 * Packets that rules write to the kernel's log.
 */
#ifndef OSBUILDER_PACKETLOG_H
#define OSBUILDER_PACKETLOG_H

#include <stdbool.h>

/* A probe's prepare and cleanup: the rules of other network namespaces than the first one are logged as well. */
void prepare_packet_log(void);
void cleanup_packet_log(void);

/* The kernel's log from here on. Ends the probe when there is none. */
int packet_log_open(void);

/* Whether it has a datagram with that prefix by now. */
bool packet_log_has(int log, const char *prefix);

#endif
