/* SPDX-License-Identifier: Apache-2.0
 *
 * Packet filtering with nftables. Each probe has a network namespace of its own, and sees with its own packets that the
 * rule holds.
 */
#include "datagram.h"
#include "link.h"
#include "nftables.h"
#include "packetlog.h"
#include "probe.h"
#include "util.h"

/* Before linux/if.h, which leaves out what it finds here. */
#include <net/if.h>

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/netfilter.h>
#include <linux/netfilter/nf_tables.h>
#include <linux/netfilter/xt_owner.h>
#include <linux/netfilter/xt_physdev.h>
#include <linux/rtnetlink.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

/* How long a datagram may take that has to arrive, and is waited for that must not. */
#define PATIENCE_MS 3000
#define DROPPED_MS 50

static void require_loopback(void)
{
	if (!datagram_arrives(AF_INET, PATIENCE_MS))
		fail("no datagram over loopback, before any rule");
}

void probe_nftables(void)
{
	struct netlink netlink;

	require_loopback();
	ruleset_begin(&netlink, NFPROTO_INET, "filter", NF_INET_LOCAL_IN);
	size_t rule = rule_begin(&netlink, NFPROTO_INET);
	put_drop(&netlink);
	rule_end(&netlink, rule);
	ruleset_send(&netlink);
	if (datagram_arrives(AF_INET, DROPPED_MS))
		fail("a datagram arrived through a rule that drops all");
	pass("table, chain and rule made; the rule dropped a datagram");
}

void probe_nftables_nat(void)
{
	struct netlink netlink;

	ruleset_begin(&netlink, NFPROTO_IPV4, "nat", NF_INET_POST_ROUTING);
	size_t rule = rule_begin(&netlink, NFPROTO_IPV4);
	expression_end(&netlink, expression_begin(&netlink, "masq"));
	rule_end(&netlink, rule);
	ruleset_send(&netlink);
	if (!datagram_is_masqueraded())
		fail("a datagram came through the masquerading chain with its own source address");
	pass("a nat chain masqueraded a datagram");
}

/* What goes to an address of that kind (RTN_*) is dropped from now on. */
static void drop_by_destination(uint32_t kind)
{
	struct netlink netlink;

	ruleset_begin(&netlink, NFPROTO_INET, "filter", NF_INET_LOCAL_IN);
	size_t rule = rule_begin(&netlink, NFPROTO_INET);
	struct expression fib = expression_begin(&netlink, "fib");
	netlink_put_u32(&netlink, NFTA_FIB_DREG, htonl(NFT_REG_1));
	netlink_put_u32(&netlink, NFTA_FIB_RESULT, htonl(NFT_FIB_RESULT_ADDRTYPE));
	netlink_put_u32(&netlink, NFTA_FIB_FLAGS, htonl(NFTA_FIB_F_DADDR));
	expression_end(&netlink, fib);
	put_equal(&netlink, &kind, sizeof(kind));
	put_drop(&netlink);
	rule_end(&netlink, rule);
	ruleset_send(&netlink);
}

void probe_nftables_fib(void)
{
	static const int families[] = {AF_INET, AF_INET6};

	drop_by_destination(RTN_BROADCAST);
	for (size_t i = 0; i < COUNT_OF(families); i++)
		if (!datagram_arrives(families[i], PATIENCE_MS))
			fail("a datagram to this machine was dropped as if to a broadcast address");
	drop_by_destination(RTN_LOCAL);
	for (size_t i = 0; i < COUNT_OF(families); i++)
		if (datagram_arrives(families[i], DROPPED_MS))
			fail("a datagram arrived through a rule that drops what is for this machine");
	pass("routes were asked for IPv4 and IPv6: what was for this machine was dropped");
}

/* Drops what the expression that was put last gave this number. */
static void drop_numbered(struct netlink *netlink, size_t rule, uint32_t number)
{
	put_equal(netlink, &number, sizeof(number));
	put_drop(netlink);
	rule_end(netlink, rule);
}

/* Every other datagram is dropped, as it would go to the other one of two endpoints. */
static void drop_in_turn(void)
{
	struct netlink netlink;

	ruleset_begin(&netlink, NFPROTO_INET, "filter", NF_INET_LOCAL_IN);
	size_t rule = rule_begin(&netlink, NFPROTO_INET);
	struct expression turn = expression_begin(&netlink, "numgen");
	netlink_put_u32(&netlink, NFTA_NG_DREG, htonl(NFT_REG_1));
	netlink_put_u32(&netlink, NFTA_NG_MODULUS, htonl(2));
	netlink_put_u32(&netlink, NFTA_NG_TYPE, htonl(NFT_NG_INCREMENTAL));
	expression_end(&netlink, turn);
	drop_numbered(&netlink, rule, 0);
	ruleset_send(&netlink);
}

/* Whatever the hash of their one source is, 0 or 1, datagrams with it are dropped. */
static void drop_by_hash(uint32_t source)
{
	struct netlink netlink;

	ruleset_begin(&netlink, NFPROTO_INET, "filter", NF_INET_LOCAL_IN);
	for (uint32_t number = 0; number < 2; number++) {
		size_t rule = rule_begin(&netlink, NFPROTO_INET);
		put_immediate(&netlink, &source, sizeof(source));
		struct expression hash = expression_begin(&netlink, "hash");
		netlink_put_u32(&netlink, NFTA_HASH_SREG, htonl(NFT_REG_1));
		netlink_put_u32(&netlink, NFTA_HASH_DREG, htonl(NFT_REG_1));
		netlink_put_u32(&netlink, NFTA_HASH_LEN, htonl(sizeof(source)));
		netlink_put_u32(&netlink, NFTA_HASH_MODULUS, htonl(2));
		netlink_put_u32(&netlink, NFTA_HASH_SEED, htonl(1));
		expression_end(&netlink, hash);
		drop_numbered(&netlink, rule, number);
	}
	ruleset_send(&netlink);
}

void probe_nftables_balance(void)
{
	int arrived = 0;

	require_loopback();
	drop_in_turn();
	for (int i = 0; i < 8; i++)
		arrived += datagram_arrives(AF_INET, 4 * DROPPED_MS);
	if (arrived != 4)
		fail("%d of 8 datagrams arrived through a rule that drops every other", arrived);
	drop_by_hash(INADDR_LOOPBACK);
	for (int i = 0; i < 2; i++)
		if (datagram_arrives(AF_INET, DROPPED_MS))
			fail("a datagram arrived whose hash is neither 0 nor 1");
	pass("datagrams were told apart in turn, and by a hash");
}

#define LOG_PREFIX "osbuilder-probe-rule "

void probe_nftables_log(void)
{
	struct netlink netlink;
	int log = packet_log_open();

	ruleset_begin(&netlink, NFPROTO_INET, "filter", NF_INET_LOCAL_IN);
	size_t rule = rule_begin(&netlink, NFPROTO_INET);
	struct expression expression = expression_begin(&netlink, "log");
	netlink_put_text(&netlink, NFTA_LOG_PREFIX, LOG_PREFIX);
	netlink_put_u32(&netlink, NFTA_LOG_LEVEL, htonl(NFT_LOGLEVEL_DEBUG));
	expression_end(&netlink, expression);
	rule_end(&netlink, rule);
	ruleset_send(&netlink);
	require_loopback();
	if (!packet_log_has(log, LOG_PREFIX))
		fail("a rule logs datagrams, but the kernel's log has none");
	pass("a rule put a datagram into the kernel's log");
}

/* Sends as another user, whom the socket then belongs to. */
static bool datagram_arrives_from(uid_t user, int patience_ms)
{
	if (seteuid(user) < 0)
		fail_errno("seteuid(%u)", user);
	bool arrived = datagram_arrives(AF_INET, patience_ms);
	if (seteuid(0) < 0)
		fail_errno("seteuid(0)");
	return arrived;
}

/* As `iptables-nft -A OUTPUT -m owner --uid-owner 1337 -j DROP`, which is what a mesh tells its proxy's packets by. */
void probe_nftables_xtables(void)
{
	struct xt_owner_match_info owner = {.uid_min = 1337, .uid_max = 1337, .match = XT_OWNER_UID};
	struct netlink netlink;

	require_loopback();
	ruleset_begin(&netlink, NFPROTO_IPV4, "filter", NF_INET_LOCAL_OUT);
	size_t rule = rule_begin(&netlink, NFPROTO_IPV4);
	put_match(&netlink, "owner", 1, &owner, sizeof(owner));
	put_drop(&netlink);
	rule_end(&netlink, rule);
	ruleset_send(&netlink);
	if (!datagram_arrives_from(1338, PATIENCE_MS))
		fail("the datagram of a user whom no rule names was dropped");
	if (datagram_arrives_from(1337, DROPPED_MS))
		fail("a datagram arrived of the user whose are dropped");
	pass("an xtables match told two users' datagrams apart");
}

/* A rule on what comes in hands datagrams for any address and port to a socket that listens elsewhere. */
void probe_tproxy(void)
{
	struct sockaddr_in proxy = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	struct sockaddr_in wanted = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(0x7f000002), .sin_port = htons(9)};
	socklen_t size = sizeof(proxy);
	struct netlink netlink;
	int on = 1;

	int receiver = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0), sender = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (receiver < 0 || sender < 0 || setsockopt(receiver, IPPROTO_IP, IP_TRANSPARENT, &on, sizeof(on)) < 0 ||
	    bind(receiver, (void *)&proxy, size) < 0 || getsockname(receiver, (void *)&proxy, &size) < 0)
		fail_errno("a transparent UDP socket");
	ruleset_begin(&netlink, NFPROTO_IPV4, "filter", NF_INET_PRE_ROUTING);
	size_t rule = rule_begin(&netlink, NFPROTO_IPV4);
	put_immediate(&netlink, &proxy.sin_port, sizeof(proxy.sin_port));
	struct expression expression = expression_begin(&netlink, "tproxy");
	netlink_put_u32(&netlink, NFTA_TPROXY_FAMILY, htonl(NFPROTO_IPV4));
	netlink_put_u32(&netlink, NFTA_TPROXY_REG_PORT, htonl(NFT_REG_1));
	expression_end(&netlink, expression);
	rule_end(&netlink, rule);
	ruleset_send(&netlink);
	struct pollfd ready = {.fd = receiver, .events = POLLIN};
	if (sendto(sender, "x", 1, 0, (void *)&wanted, sizeof(wanted)) < 0)
		fail_errno("sending to 127.0.0.2");
	if (poll(&ready, 1, PATIENCE_MS) != 1)
		fail("a datagram for another address did not come to the proxy");
	pass("a datagram for another address and port came to the proxy");
}

/* Whether a datagram comes from one namespace's address to the other's. */
static bool crosses(int sender, int receiver, int attempts)
{
	struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(0x0a630002), .sin_port = htons(4444)};
	struct pollfd ready = {.fd = receiver, .events = POLLIN};
	char byte;

	/* Those that waited for the other's hardware address came all at once. */
	while (recv(receiver, &byte, 1, MSG_DONTWAIT) == 1)
		;
	for (int attempt = 0; attempt < attempts; attempt++) {
		sendto(sender, "x", 1, MSG_DONTWAIT, (void *)&address, sizeof(address));
		if (poll(&ready, 1, 100) == 1 && recv(receiver, &byte, 1, 0) == 1)
			return true;
	}
	return false;
}

/* A namespace behind a port of the bridge, and a UDP socket in it. */
static int socket_behind(int bridge, const char *port, const char *address)
{
	struct sockaddr_in own = {.sin_family = AF_INET, .sin_port = htons(4444)};

	inet_pton(AF_INET, address, &own.sin_addr);
	leave_namespace();
	make_veth("eth0", port, bridge);
	set_address("eth0", address);
	bring_up("eth0");
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (fd < 0 || bind(fd, (void *)&own, sizeof(own)) < 0)
		fail_errno("a UDP socket");
	enter_namespace(bridge);
	add_port("br0", port);
	bring_up(port);
	return fd;
}

void probe_bridge_netfilter(void)
{
	struct xt_physdev_info bridged = {.bitmask = XT_PHYSDEV_OP_BRIDGED};
	int bridge = this_namespace();
	struct netlink netlink;

	make_bridge("br0");
	bring_up("br0");
	int sender = socket_behind(bridge, "port0", "10.99.0.1"), receiver = socket_behind(bridge, "port1", "10.99.0.2");
	if (!crosses(sender, receiver, 20))
		fail("datagrams do not cross the bridge, before any rule");
	ruleset_begin(&netlink, NFPROTO_IPV4, "filter", NF_INET_FORWARD);
	size_t rule = rule_begin(&netlink, NFPROTO_IPV4);
	put_match(&netlink, "physdev", 0, &bridged, sizeof(bridged));
	put_drop(&netlink);
	rule_end(&netlink, rule);
	ruleset_send(&netlink);
	if (crosses(sender, receiver, 2))
		fail("a datagram crossed the bridge through a rule that drops what is bridged");
	pass("a rule for IP dropped what was bridged from one port to another");
}
