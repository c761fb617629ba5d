/* SPDX-License-Identifier: Apache-2.0
 *
 * Sockets and the network devices that containers are wired with. Each probe has a network namespace of its own.
 */
#include "netlink.h"
#include "probe.h"
#include "util.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/if_ether.h>
#include <linux/if_link.h>
#include <linux/if_tun.h>
#include <linux/rtnetlink.h>
#include <linux/sockios.h>
#include <linux/veth.h>
#include <net/if.h>
#include <netinet/in.h>
#include <netpacket/packet.h>
#include <poll.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

void probe_unix_socket(void)
{
	/* An abstract name: nothing on any filesystem. */
	struct sockaddr_un name = {.sun_family = AF_UNIX, .sun_path = "\0osbuilder-probe"};
	char byte;
	int server = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	int client = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (server < 0 || client < 0)
		fail_errno("socket");
	if (bind(server, (void *)&name, sizeof(name)) < 0 || listen(server, 1) < 0)
		fail_errno("bind");
	if (connect(client, (void *)&name, sizeof(name)) < 0)
		fail_errno("connect");
	int peer = accept4(server, NULL, NULL, SOCK_CLOEXEC);
	if (peer < 0 || write_all(client, "x", 1) < 0 || read(peer, &byte, 1) != 1)
		fail_errno("sending a byte");
	pass("connected; a byte came through");
}

static void talk_over_tcp(int family, struct sockaddr *address, socklen_t size)
{
	char byte;
	int server = socket(family, SOCK_STREAM | SOCK_CLOEXEC, 0);
	int client = socket(family, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (server < 0 || client < 0)
		fail_errno("socket");
	if (bind(server, address, size) < 0 || listen(server, 1) < 0)
		fail_errno("bind");
	if (getsockname(server, address, &size) < 0)
		fail_errno("getsockname");
	if (connect(client, address, size) < 0)
		fail_errno("connect");
	int peer = accept4(server, NULL, NULL, SOCK_CLOEXEC);
	if (peer < 0 || write_all(client, "x", 1) < 0 || read(peer, &byte, 1) != 1)
		fail_errno("sending a byte");
	pass("TCP over loopback; a byte came through");
}

void probe_inet(void)
{
	struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};

	talk_over_tcp(AF_INET, (void *)&address, sizeof(address));
}

void probe_inet6(void)
{
	struct sockaddr_in6 address = {.sin6_family = AF_INET6, .sin6_addr = IN6ADDR_LOOPBACK_INIT};

	talk_over_tcp(AF_INET6, (void *)&address, sizeof(address));
}

/* Sends a frame on one interface (a namespace's own descriptor) and expects it on the other. */
static void send_frame(int from, const char *from_name, int to)
{
	struct sockaddr_ll address = {.sll_family = AF_PACKET, .sll_ifindex = (int)if_nametoindex(from_name)};
	unsigned char frame[64] = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2, 0, 0, 0, 0, 1, 0x88, 0xb5, 'o', 's', 'b'};
	unsigned char got[128];

	for (int attempt = 0; attempt < 20; attempt++) {
		struct pollfd ready = {.fd = to, .events = POLLIN};

		/* 0x88b5 is IEEE's local experimental EtherType: nothing else in the guest sends it. */
		sendto(from, frame, sizeof(frame), 0, (void *)&address, sizeof(address));
		while (poll(&ready, 1, 100) == 1)
			if (recv(to, got, sizeof(got), 0) >= (ssize_t)sizeof(frame) && memcmp(got, frame, sizeof(frame)) == 0)
				return;
	}
	fail("frames sent on %s do not arrive", from_name);
}

static int packet_socket(void)
{
	int fd = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, htons(ETH_P_ALL));

	if (fd < 0)
		fail_errno("socket(AF_PACKET)");
	return fd;
}

void probe_packet_socket(void)
{
	int receiver = packet_socket();

	send_frame(packet_socket(), "lo", receiver);
	pass("a raw frame was sent and received on loopback");
}

/* RTM_NEWLINK for a device of a kind; the caller adds what the kind needs and ends the message with send_link. */
struct link_request {
	struct netlink netlink;
	size_t info;
};

static void begin_link(struct link_request *request, const char *name, const char *kind, const char *lower)
{
	struct ifinfomsg header = {.ifi_family = AF_UNSPEC};

	memset(request, 0, sizeof(*request));
	netlink_begin(&request->netlink, RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL | NLM_F_ACK, &header, sizeof(header));
	netlink_put_text(&request->netlink, IFLA_IFNAME, name);
	if (lower)
		netlink_put_u32(&request->netlink, IFLA_LINK, if_nametoindex(lower));
	request->info = netlink_nest(&request->netlink, IFLA_LINKINFO);
	netlink_put_text(&request->netlink, IFLA_INFO_KIND, kind);
}

static void send_link(struct link_request *request, const char *kind)
{
	netlink_nest_end(&request->netlink, request->info);
	if (netlink_send(&request->netlink, NETLINK_ROUTE) < 0)
		fail_errno("creating a %s device", kind);
}

/* Makes the pair `name`, `peer`; with peer_namespace >= 0 the peer is born in that network namespace. */
static void make_veth(const char *name, const char *peer, int peer_namespace)
{
	struct link_request request;
	struct ifinfomsg header = {.ifi_family = AF_UNSPEC};

	begin_link(&request, name, "veth", NULL);
	size_t data = netlink_nest(&request.netlink, IFLA_INFO_DATA);
	size_t other = netlink_nest(&request.netlink, VETH_INFO_PEER);
	/* The peer's nest holds a whole link message: its header, then attributes. */
	if (request.netlink.length + sizeof(header) > sizeof(request.netlink.data))
		fail("veth: the request does not fit");
	memcpy(request.netlink.data + request.netlink.length, &header, sizeof(header));
	request.netlink.length += NLMSG_ALIGN(sizeof(header));
	netlink_put_text(&request.netlink, IFLA_IFNAME, peer);
	if (peer_namespace >= 0)
		netlink_put_u32(&request.netlink, IFLA_NET_NS_FD, (uint32_t)peer_namespace);
	netlink_nest_end(&request.netlink, other);
	netlink_nest_end(&request.netlink, data);
	send_link(&request, "veth");
}

static void bring_up(const char *name)
{
	if (interface_set_up(name, true) < 0)
		fail_errno("bringing %s up", name);
}

void probe_veth(void)
{
	int outside = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC);
	int sender = packet_socket(); /* stays in the namespace it was made in */

	if (outside < 0)
		fail_errno("/proc/self/ns/net");
	if (unshare(CLONE_NEWNET) < 0)
		fail_errno("unshare(CLONE_NEWNET)");
	make_veth("inside", "outside", outside);
	bring_up("inside");
	int receiver = packet_socket();
	if (setns(outside, CLONE_NEWNET) < 0)
		fail_errno("setns");
	bring_up("outside");
	send_frame(sender, "outside", receiver);
	pass("a frame crossed from one network namespace to another");
}

/* SIOCBRADDIF needs the bridge's name and the port's index. */
static void add_port(const char *bridge, const char *port)
{
	struct ifreq request = {.ifr_ifindex = (int)if_nametoindex(port)};
	int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);

	snprintf(request.ifr_name, sizeof(request.ifr_name), "%s", bridge);
	if (fd < 0 || ioctl(fd, SIOCBRADDIF, &request) < 0)
		fail_errno("adding %s to %s", port, bridge);
	close(fd);
}

void probe_bridge(void)
{
	struct link_request request;

	begin_link(&request, "br0", "bridge", NULL);
	send_link(&request, "bridge");
	make_veth("left", "port0", -1);
	make_veth("right", "port1", -1);
	add_port("br0", "port0");
	add_port("br0", "port1");
	static const char *const names[] = {"br0", "port0", "port1", "left", "right"};
	for (size_t i = 0; i < COUNT_OF(names); i++)
		bring_up(names[i]);
	int receiver = packet_socket();
	struct sockaddr_ll address = {.sll_family = AF_PACKET, .sll_protocol = htons(ETH_P_ALL),
				      .sll_ifindex = (int)if_nametoindex("right")};
	if (bind(receiver, (void *)&address, sizeof(address)) < 0)
		fail_errno("bind");
	send_frame(packet_socket(), "left", receiver);
	pass("a frame was forwarded from one port to another");
}

void probe_macvlan(void)
{
	struct link_request request;

	make_veth("lower", "wire", -1);
	begin_link(&request, "mac0", "macvlan", "lower");
	size_t data = netlink_nest(&request.netlink, IFLA_INFO_DATA);
	netlink_put_u32(&request.netlink, IFLA_MACVLAN_MODE, MACVLAN_MODE_BRIDGE);
	netlink_nest_end(&request.netlink, data);
	send_link(&request, "macvlan");
	bring_up("wire");
	bring_up("lower");
	bring_up("mac0");
	pass("made on a veth and brought up");
}

void probe_tun(void)
{
	struct ifreq request = {.ifr_name = "tun0", .ifr_flags = IFF_TUN | IFF_NO_PI};
	struct pollfd ready = {.events = POLLIN};
	unsigned char packet[128];
	int fd = open("/dev/net/tun", O_RDWR | O_CLOEXEC);

	if (fd < 0)
		fail_errno("/dev/net/tun");
	if (ioctl(fd, TUNSETIFF, &request) < 0)
		fail_errno("TUNSETIFF");
	bring_up("tun0");
	int sender = socket(AF_PACKET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	struct sockaddr_ll address = {.sll_family = AF_PACKET, .sll_protocol = htons(ETH_P_IP),
				      .sll_ifindex = (int)if_nametoindex("tun0")};
	/* A first byte of 0x45 makes it an IPv4 packet to the device. */
	if (sender < 0 || sendto(sender, "\x45osbuilder", 10, 0, (void *)&address, sizeof(address)) < 0)
		fail_errno("sending through tun0");
	ready.fd = fd;
	while (poll(&ready, 1, 2000) == 1) {
		ssize_t got = read(fd, packet, sizeof(packet));

		if (got == 10 && memcmp(packet, "\x45osbuilder", 10) == 0)
			pass("a packet sent to the interface was read from /dev/net/tun");
	}
	fail("a packet sent to the interface did not arrive at /dev/net/tun");
}
