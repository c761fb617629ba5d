/* SPDX-License-Identifier: Apache-2.0
 *
 * UDP over loopback, to see what a rule does with it. Each call ends the probe when there are no sockets.
 */
#ifndef OSBUILDER_DATAGRAM_H
#define OSBUILDER_DATAGRAM_H

#include <stdbool.h>
#include <stdint.h>

/* A socket of the family (AF_INET, AF_INET6) that is bound to its loopback address, and to which port. */
int datagram_receiver(int family, uint16_t *port);

/* Sends a datagram to that port of the loopback address; whether the receiver has it within the time. */
bool datagram_reaches(int receiver, int family, uint16_t port, int patience_ms);

/* Whether a datagram to a receiver of its own arrives within the time. What loopback delivers at all it has delivered
 * when send returns, so that a short time is enough to see that one was dropped. */
bool datagram_arrives(int family, int patience_ms);

/* Whether who sends a datagram over loopback to a port that somebody listens at is told that it was refused. */
bool datagram_is_refused(int family);

/* Whether a datagram from 127.0.0.1 to another address of this machine comes with that address as its source, as
 * masquerading has it (127.0.0.1 itself never leaves a machine). Ends the probe when it does not come at all. */
bool datagram_is_masqueraded(void);

#endif
