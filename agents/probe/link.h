/* SPDX-License-Identifier: Apache-2.0
 *
 * Network devices made over rtnetlink, and frames sent between them. Each call ends the probe when it cannot be done.
 */
#ifndef OSBUILDER_LINK_H
#define OSBUILDER_LINK_H

#include "netlink.h"

#include <stdbool.h>

/* IEEE's local experimental EtherType: nothing else in the guest sends it. */
#define ETHERTYPE_PROBE 0x88b5

/* RTM_NEWLINK for a device of a kind; the caller adds what the kind needs and ends the message with send_link. */
struct link_request {
	struct netlink netlink;
	size_t info;
};

/* `lower`: the device below it, or NULL. With new_namespace >= 0 it is born in that network namespace. */
void begin_link(struct link_request *request, const char *name, const char *kind, const char *lower, int new_namespace);
void send_link(struct link_request *request, const char *kind);

/* Makes the pair `name`, `peer`; with peer_namespace >= 0 the peer is born in that network namespace. */
void make_veth(const char *name, const char *peer, int peer_namespace);
void make_bridge(const char *name);
void add_port(const char *bridge, const char *port);
void bring_up(const char *name);
void set_address(const char *name, const char *address); /* IPv4, /24 */

/* Enters a new network namespace and returns the one that was left. */
int leave_namespace(void);
void enter_namespace(int namespace);
int this_namespace(void);

/* Writes the six bytes of a device's hardware address. */
void hardware_address(const char *name, unsigned char *address);

int packet_socket(void);
/* Receives the probe's frames from one device, as a protocol does: after traffic control has seen them. */
int protocol_socket(const char *name);

/* Whether a frame of that size, sent through `from` on one of its namespace's devices, is received on `to`. */
bool frame_arrives(int from, const char *from_name, int to, size_t size, int attempts);
/* The same, of a frame to one hardware address, of six bytes; those of frame_arrives are for everybody. */
bool frame_arrives_at(const unsigned char *destination, int from, const char *from_name, int to, size_t size, int attempts);
void send_frame(int from, const char *from_name, int to);

#endif
