/* SPDX-License-Identifier: Apache-2.0 */
#include "datagram.h"
#include "probe.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

union address {
	struct sockaddr any;
	struct sockaddr_in v4;
	struct sockaddr_in6 v6;
};

static socklen_t loopback(int family, uint16_t port, union address *address)
{
	if (family == AF_INET6) {
		address->v6 = (struct sockaddr_in6){.sin6_family = AF_INET6, .sin6_addr = IN6ADDR_LOOPBACK_INIT,
						    .sin6_port = htons(port)};
		return sizeof(address->v6);
	}
	address->v4 = (struct sockaddr_in){.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK),
					   .sin_port = htons(port)};
	return sizeof(address->v4);
}

int datagram_receiver(int family, uint16_t *port)
{
	union address address;
	socklen_t size = loopback(family, 0, &address);
	int receiver = socket(family, SOCK_DGRAM | SOCK_CLOEXEC, 0);

	if (receiver < 0 || bind(receiver, &address.any, size) < 0 || getsockname(receiver, &address.any, &size) < 0)
		fail_errno("a UDP socket on loopback");
	*port = ntohs(family == AF_INET6 ? address.v6.sin6_port : address.v4.sin_port);
	return receiver;
}

bool datagram_reaches(int receiver, int family, uint16_t port, int patience_ms)
{
	union address address;
	socklen_t size = loopback(family, port, &address);
	struct pollfd ready = {.fd = receiver, .events = POLLIN};
	int sender = socket(family, SOCK_DGRAM | SOCK_CLOEXEC, 0);

	if (sender < 0)
		fail_errno("a UDP socket");
	sendto(sender, "x", 1, MSG_DONTWAIT, &address.any, size);
	bool reached = poll(&ready, 1, patience_ms) == 1;
	close(sender);
	return reached;
}

bool datagram_arrives(int family, int patience_ms)
{
	uint16_t port;
	int receiver = datagram_receiver(family, &port);
	bool arrived = datagram_reaches(receiver, family, port, patience_ms);

	close(receiver);
	return arrived;
}
