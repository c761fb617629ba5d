/* SPDX-License-Identifier: Apache-2.0
 *
 * Sockets and the network devices that containers are wired with. Each probe has a network namespace of its own.
 */
#include "link.h"
#include "probe.h"
#include "util.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/if_ether.h>
#include <linux/if_link.h>
#include <linux/if_tun.h>
#include <linux/rtnetlink.h>
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

void probe_packet_socket(void)
{
	int receiver = packet_socket();

	send_frame(packet_socket(), "lo", receiver);
	pass("a raw frame was sent and received on loopback");
}

void probe_veth(void)
{
	int sender = packet_socket(); /* stays in the namespace it was made in */
	int outside = leave_namespace();

	make_veth("inside", "outside", outside);
	bring_up("inside");
	int receiver = packet_socket();
	enter_namespace(outside);
	bring_up("outside");
	send_frame(sender, "outside", receiver);
	pass("a frame crossed from one network namespace to another");
}

void probe_bridge(void)
{
	make_bridge("br0");
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

static void make_macvlan(const char *name, const char *lower)
{
	struct link_request request;

	begin_link(&request, name, "macvlan", lower, -1);
	size_t data = netlink_nest(&request.netlink, IFLA_INFO_DATA);
	netlink_put_u32(&request.netlink, IFLA_MACVLAN_MODE, MACVLAN_MODE_BRIDGE);
	netlink_nest_end(&request.netlink, data);
	send_link(&request, "macvlan");
	bring_up(name);
}

/* Two devices on one card: each gets what comes for its own address alone, and what the other sends to it. */
void probe_macvlan(void)
{
	unsigned char first[6], second[6];

	make_veth("lower", "wire", -1);
	bring_up("wire");
	bring_up("lower");
	make_macvlan("mac0", "lower");
	make_macvlan("mac1", "lower");
	hardware_address("mac0", first);
	hardware_address("mac1", second);
	int at_first = protocol_socket("mac0"), at_second = protocol_socket("mac1"), at_wire = protocol_socket("wire");
	int sender = packet_socket();
	if (!frame_arrives_at(first, sender, "wire", at_first, 64, 20))
		fail("a frame from the wire does not arrive at the device that has its address");
	if (frame_arrives_at(first, sender, "wire", at_second, 64, 1))
		fail("a frame from the wire arrives at a device with another address");
	if (!frame_arrives(sender, "mac0", at_wire, 64, 20))
		fail("a frame for everybody does not leave through the card");
	if (!frame_arrives_at(second, sender, "mac0", at_second, 64, 20))
		fail("a frame from one device to another on the same card does not arrive");
	pass("frames came from the wire and went to it, and from one device to another, each to its own address");
}

static void make_vlan(const char *name, const char *lower)
{
	struct link_request request;
	uint16_t id = 5;

	begin_link(&request, name, "vlan", lower, -1);
	size_t data = netlink_nest(&request.netlink, IFLA_INFO_DATA);
	netlink_put(&request.netlink, IFLA_VLAN_ID, &id, sizeof(id));
	netlink_nest_end(&request.netlink, data);
	send_link(&request, "vlan");
	bring_up(lower);
	bring_up(name);
}

void probe_vlan(void)
{
	make_veth("left", "right", -1);
	make_vlan("left.5", "left");
	make_vlan("right.5", "right");
	send_frame(packet_socket(), "left.5", protocol_socket("right.5"));
	pass("a frame came out of the VLAN that it was sent into");
}

/* What the kernel itself gave an interface at boot: ip=ADDRESS:SERVER:GATEWAY:NETMASK:HOST:DEVICE:... */
void probe_ip_config(void)
{
	char cmdline[4096], fields[256], got[INET_ADDRSTRLEN];
	const char *wanted = NULL, *name = NULL;
	struct ifreq request = {0};
	size_t length;

	read_text("/proc/cmdline", cmdline, sizeof(cmdline));
	const char *value = cmdline_value(cmdline, "ip", &length);
	if (!value)
		skip("the kernel line has no ip=");
	snprintf(fields, sizeof(fields), "%.*s", (int)length, value);
	char *rest = fields;
	for (int field = 0; rest && field < 6; field++) {
		const char *text = strsep(&rest, ":");
		wanted = field == 0 ? text : wanted;
		name = field == 5 ? text : name;
	}
	if (!*wanted || !name || !*name)
		fail("ip=%.*s names no address and device", (int)length, value);
	snprintf(request.ifr_name, sizeof(request.ifr_name), "%s", name);
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (fd < 0 || ioctl(fd, SIOCGIFADDR, &request) < 0)
		fail_errno("the address of %s", request.ifr_name);
	inet_ntop(AF_INET, &((struct sockaddr_in *)&request.ifr_addr)->sin_addr, got, sizeof(got));
	if (strcmp(got, wanted) != 0)
		fail("%s has the address %s, not %s", request.ifr_name, got, wanted);
	pass("%s has %s", request.ifr_name, got);
}

/* Two devices on one lower device, in two namespaces: a datagram goes from the one to the other. */
void probe_ipvlan(void)
{
	static const char *const names[] = {"near", "far"};
	struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(0x0a630002), .sin_port = htons(4444)};
	struct link_request request;
	char byte;

	int near = this_namespace();
	leave_namespace();
	int far = this_namespace();
	enter_namespace(near);
	make_veth("lower", "wire", -1);
	bring_up("wire");
	bring_up("lower");
	for (size_t i = 0; i < COUNT_OF(names); i++) {
		uint16_t mode = IPVLAN_MODE_L2;

		begin_link(&request, names[i], "ipvlan", "lower", i ? far : -1);
		size_t data = netlink_nest(&request.netlink, IFLA_INFO_DATA);
		netlink_put(&request.netlink, IFLA_IPVLAN_MODE, &mode, sizeof(mode));
		netlink_nest_end(&request.netlink, data);
		send_link(&request, "ipvlan");
	}
	set_address("near", "10.99.0.1");
	bring_up("near");
	int sender = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	enter_namespace(far);
	set_address("far", "10.99.0.2");
	bring_up("far");
	int receiver = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (sender < 0 || receiver < 0 || bind(receiver, (void *)&address, sizeof(address)) < 0)
		fail_errno("a UDP socket");
	struct pollfd ready = {.fd = receiver, .events = POLLIN};
	for (int attempt = 0; attempt < 20; attempt++) {
		sendto(sender, "x", 1, 0, (void *)&address, sizeof(address));
		if (poll(&ready, 1, 100) == 1 && recv(receiver, &byte, 1, 0) == 1)
			pass("a datagram went from one device to another on the same card");
	}
	fail("datagrams do not arrive");
}

/* One end of the tunnel, over a device that has its address already. */
static void make_vxlan(const char *lower, const char *remote)
{
	struct link_request request;
	struct in_addr address;
	uint16_t port = htons(4789);

	inet_pton(AF_INET, remote, &address);
	begin_link(&request, "vx0", "vxlan", NULL, -1);
	size_t data = netlink_nest(&request.netlink, IFLA_INFO_DATA);
	netlink_put_u32(&request.netlink, IFLA_VXLAN_ID, 42);
	netlink_put_u32(&request.netlink, IFLA_VXLAN_LINK, if_nametoindex(lower));
	netlink_put(&request.netlink, IFLA_VXLAN_GROUP, &address, sizeof(address));
	netlink_put(&request.netlink, IFLA_VXLAN_PORT, &port, sizeof(port));
	netlink_nest_end(&request.netlink, data);
	send_link(&request, "vxlan");
	bring_up("vx0");
}

void probe_vxlan(void)
{
	int sender = packet_socket(); /* stays in the namespace it was made in */
	int outside = leave_namespace();

	make_veth("inside", "outside", outside);
	set_address("inside", "10.99.0.2");
	bring_up("inside");
	make_vxlan("inside", "10.99.0.1");
	int receiver = protocol_socket("vx0");
	enter_namespace(outside);
	set_address("outside", "10.99.0.1");
	bring_up("outside");
	make_vxlan("outside", "10.99.0.2");
	send_frame(sender, "vx0", receiver);
	pass("a frame went through the tunnel");
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
