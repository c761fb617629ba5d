/* SPDX-License-Identifier: Apache-2.0 */
#include "link.h"
#include "probe.h"
#include "util.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/if_ether.h>
#include <linux/if_link.h>
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
#include <unistd.h>

void begin_link(struct link_request *request, const char *name, const char *kind, const char *lower, int new_namespace)
{
	struct ifinfomsg header = {.ifi_family = AF_UNSPEC};

	memset(request, 0, sizeof(*request));
	netlink_begin(&request->netlink, RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL | NLM_F_ACK, &header, sizeof(header));
	netlink_put_text(&request->netlink, IFLA_IFNAME, name);
	if (lower)
		netlink_put_u32(&request->netlink, IFLA_LINK, if_nametoindex(lower));
	if (new_namespace >= 0)
		netlink_put_u32(&request->netlink, IFLA_NET_NS_FD, (uint32_t)new_namespace);
	request->info = netlink_nest(&request->netlink, IFLA_LINKINFO);
	netlink_put_text(&request->netlink, IFLA_INFO_KIND, kind);
}

void send_link(struct link_request *request, const char *kind)
{
	netlink_nest_end(&request->netlink, request->info);
	if (netlink_send(&request->netlink, NETLINK_ROUTE) < 0)
		fail_errno("creating a %s device", kind);
}

void make_veth(const char *name, const char *peer, int peer_namespace)
{
	struct link_request request;
	struct ifinfomsg header = {.ifi_family = AF_UNSPEC};

	begin_link(&request, name, "veth", NULL, -1);
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

void make_bridge(const char *name)
{
	struct link_request request;

	begin_link(&request, name, "bridge", NULL, -1);
	send_link(&request, "bridge");
}

/* SIOCBRADDIF needs the bridge's name and the port's index. */
void add_port(const char *bridge, const char *port)
{
	struct ifreq request = {.ifr_ifindex = (int)if_nametoindex(port)};
	int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);

	snprintf(request.ifr_name, sizeof(request.ifr_name), "%s", bridge);
	if (fd < 0 || ioctl(fd, SIOCBRADDIF, &request) < 0)
		fail_errno("adding %s to %s", port, bridge);
	close(fd);
}

void bring_up(const char *name)
{
	if (interface_set_up(name, true) < 0)
		fail_errno("bringing %s up", name);
}

void set_address(const char *name, const char *address)
{
	struct ifreq request = {0};
	struct sockaddr_in *wanted = (void *)&request.ifr_addr;
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);

	snprintf(request.ifr_name, sizeof(request.ifr_name), "%s", name);
	wanted->sin_family = AF_INET;
	inet_pton(AF_INET, address, &wanted->sin_addr);
	if (fd < 0 || ioctl(fd, SIOCSIFADDR, &request) < 0)
		fail_errno("address %s for %s", address, name);
	wanted->sin_addr.s_addr = htonl(0xffffff00);
	if (ioctl(fd, SIOCSIFNETMASK, &request) < 0)
		fail_errno("the network of %s", name);
	close(fd);
}

int this_namespace(void)
{
	int namespace = open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC);

	if (namespace < 0)
		fail_errno("/proc/thread-self/ns/net");
	return namespace;
}

int leave_namespace(void)
{
	int left = this_namespace();

	if (unshare(CLONE_NEWNET) < 0)
		fail_errno("unshare(CLONE_NEWNET)");
	return left;
}

void enter_namespace(int namespace)
{
	if (setns(namespace, CLONE_NEWNET) < 0)
		fail_errno("setns");
}

int packet_socket(void)
{
	int fd = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, htons(ETH_P_ALL));

	if (fd < 0)
		fail_errno("socket(AF_PACKET)");
	return fd;
}

int protocol_socket(const char *name)
{
	struct sockaddr_ll address = {.sll_family = AF_PACKET, .sll_protocol = htons(ETHERTYPE_PROBE),
				      .sll_ifindex = (int)if_nametoindex(name)};
	int fd = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, 0);

	if (fd < 0 || bind(fd, (void *)&address, sizeof(address)) < 0)
		fail_errno("a packet socket on %s", name);
	return fd;
}

void hardware_address(const char *name, unsigned char *address)
{
	struct ifreq request = {0};
	int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);

	snprintf(request.ifr_name, sizeof(request.ifr_name), "%s", name);
	if (fd < 0 || ioctl(fd, SIOCGIFHWADDR, &request) < 0)
		fail_errno("the hardware address of %s", name);
	memcpy(address, request.ifr_hwaddr.sa_data, ETH_ALEN);
	close(fd);
}

bool frame_arrives_at(const unsigned char *destination, int from, const char *from_name, int to, size_t size, int attempts)
{
	struct sockaddr_ll address = {.sll_family = AF_PACKET, .sll_ifindex = (int)if_nametoindex(from_name)};
	unsigned char frame[1024] = {0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 1, ETHERTYPE_PROBE >> 8, ETHERTYPE_PROBE & 0xff,
				     'o', 's', 'b'};
	unsigned char got[2048];

	memcpy(frame, destination, ETH_ALEN);
	/* What was sent again before, and came late, is no answer to this. */
	while (recv(to, got, sizeof(got), MSG_DONTWAIT) > 0)
		;
	for (int attempt = 0; attempt < attempts; attempt++) {
		struct pollfd ready = {.fd = to, .events = POLLIN};

		sendto(from, frame, size, 0, (void *)&address, sizeof(address));
		while (poll(&ready, 1, 100) == 1)
			if (recv(to, got, sizeof(got), 0) >= (ssize_t)size && memcmp(got, frame, size) == 0)
				return true;
	}
	return false;
}

bool frame_arrives(int from, const char *from_name, int to, size_t size, int attempts)
{
	static const unsigned char everybody[ETH_ALEN] = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff};

	return frame_arrives_at(everybody, from, from_name, to, size, attempts);
}

void send_frame(int from, const char *from_name, int to)
{
	if (!frame_arrives(from, from_name, to, 64, 20))
		fail("frames sent on %s do not arrive", from_name);
}
