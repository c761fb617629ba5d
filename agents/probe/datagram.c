/* SPDX-License-Identifier: Apache-2.0 */
#include "datagram.h"
#include "probe.h"

#include <arpa/inet.h>
#include <errno.h>
#include <net/if.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/ioctl.h>
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

bool datagram_is_refused(int family)
{
	union address address;
	uint16_t port;
	int receiver = datagram_receiver(family, &port);
	socklen_t size = loopback(family, port, &address);
	int sender = socket(family, SOCK_DGRAM | SOCK_CLOEXEC, 0);

	if (sender < 0 || connect(sender, &address.any, size) < 0)
		fail_errno("a UDP socket");
	/* The answer may be there before send returns. */
	bool refused = send(sender, "x", 1, MSG_DONTWAIT) < 0 && errno == ECONNREFUSED;
	struct pollfd ready = {.fd = sender};
	if (!refused && poll(&ready, 1, 2000) == 1)
		refused = recv(sender, &address, sizeof(address), MSG_DONTWAIT) < 0 && errno == ECONNREFUSED;
	close(sender);
	close(receiver);
	return refused;
}

/* Gives loopback a second address. */
static void add_loopback_address(struct in_addr address)
{
	struct ifreq request = {.ifr_name = "lo:1"};
	struct sockaddr_in *wanted = (void *)&request.ifr_addr;
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);

	wanted->sin_family = AF_INET;
	wanted->sin_addr = address;
	if (fd < 0 || ioctl(fd, SIOCSIFADDR, &request) < 0)
		fail_errno("a second address for loopback");
	close(fd);
}

bool datagram_is_masqueraded(void)
{
	struct sockaddr_in outside = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(0x0a000001)};
	struct sockaddr_in inside = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	struct sockaddr_in seen = {0};
	socklen_t size = sizeof(outside);
	char byte;

	add_loopback_address(outside.sin_addr);
	int receiver = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	int sender = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (receiver < 0 || sender < 0 || bind(receiver, (void *)&outside, size) < 0 ||
	    bind(sender, (void *)&inside, size) < 0 || getsockname(receiver, (void *)&outside, &size) < 0)
		fail_errno("a UDP socket on loopback");
	if (sendto(sender, "x", 1, 0, (void *)&outside, size) < 0)
		fail_errno("sending to another address of this machine");
	struct pollfd ready = {.fd = receiver, .events = POLLIN};
	if (poll(&ready, 1, 2000) != 1 || recvfrom(receiver, &byte, 1, 0, (void *)&seen, &size) != 1)
		fail("nothing came that was to be masqueraded");
	close(receiver);
	close(sender);
	return seen.sin_addr.s_addr == outside.sin_addr.s_addr;
}
