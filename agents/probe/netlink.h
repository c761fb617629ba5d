/* SPDX-License-Identifier: Apache-2.0
 *
 * Just enough netlink (RFC 3549, linux/netlink.h): build messages in one buffer, send it, read the acknowledgements.
 */
#ifndef OSBUILDER_NETLINK_H
#define OSBUILDER_NETLINK_H

#include <linux/netlink.h>
#include <stddef.h>
#include <stdint.h>

struct netlink {
	_Alignas(8) char data[4096];
	size_t length;
	size_t message; /* where the message that is being built begins */
	unsigned int acks;
};

/* Begins a message with its protocol's own header. NLM_F_REQUEST is implied; NLM_F_ACK is what netlink_send waits for. */
void netlink_begin(struct netlink *netlink, uint16_t type, uint16_t flags, const void *header, size_t header_size);

void netlink_put(struct netlink *netlink, uint16_t type, const void *value, size_t size);
void netlink_put_text(struct netlink *netlink, uint16_t type, const char *text);
void netlink_put_u32(struct netlink *netlink, uint16_t type, uint32_t value); /* in this machine's byte order */

/* Between the two calls, attributes are put into the nest. */
size_t netlink_nest(struct netlink *netlink, uint16_t type);
void netlink_nest_end(struct netlink *netlink, size_t nest);

/* Sends what was built through a new socket of that protocol. Returns 0, or -1 with the errno of the first message
 * that was refused. */
int netlink_send(struct netlink *netlink, int protocol);

#endif
