/* SPDX-License-Identifier: Apache-2.0
 *
 * Packet filtering: nftables over netlink (linux/netfilter/nf_tables.h; numbers are big-endian there), and the older
 * iptables interface. Each probe has a network namespace of its own.
 */
#include "netlink.h"
#include "probe.h"
#include "util.h"

#include <arpa/inet.h>
#include <errno.h>
#include <linux/netfilter.h>
#include <linux/netfilter/nf_tables.h>
#include <linux/netfilter/nfnetlink.h>
#include <net/if.h>
#include <netinet/in.h>
#include <poll.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

/* linux/netfilter_ipv4/ip_tables.h clashes with the C library's netinet/in.h. */
#define IPT_SO_GET_INFO 64
struct ipt_info {
	char name[32];
	unsigned int valid_hooks;
	unsigned int hook_entry[5];
	unsigned int underflow[5];
	unsigned int num_entries;
	unsigned int size;
};

#define TABLE "osbuilder-probe"
#define CHAIN "chain"

static void begin(struct netlink *netlink, uint16_t command, uint8_t family)
{
	struct nfgenmsg header = {.nfgen_family = family, .version = NFNETLINK_V0};
	uint16_t type = (uint16_t)(NFNL_SUBSYS_NFTABLES << 8 | command);

	netlink_begin(netlink, type, NLM_F_CREATE | NLM_F_ACK, &header, sizeof(header));
}

static void bracket(struct netlink *netlink, uint16_t type)
{
	struct nfgenmsg header = {.nfgen_family = AF_UNSPEC, .version = NFNETLINK_V0,
				  .res_id = htons(NFNL_SUBSYS_NFTABLES)};

	netlink_begin(netlink, type, 0, &header, sizeof(header));
}

/* A table with one chain on a hook, in one transaction that the caller adds rules to and sends. */
static void begin_ruleset(struct netlink *netlink, uint8_t family, const char *chain_type, uint32_t hook)
{
	memset(netlink, 0, sizeof(*netlink));
	bracket(netlink, NFNL_MSG_BATCH_BEGIN);
	begin(netlink, NFT_MSG_NEWTABLE, family);
	netlink_put_text(netlink, NFTA_TABLE_NAME, TABLE);
	begin(netlink, NFT_MSG_NEWCHAIN, family);
	netlink_put_text(netlink, NFTA_CHAIN_TABLE, TABLE);
	netlink_put_text(netlink, NFTA_CHAIN_NAME, CHAIN);
	size_t nest = netlink_nest(netlink, NFTA_CHAIN_HOOK);
	netlink_put_u32(netlink, NFTA_HOOK_HOOKNUM, htonl(hook));
	netlink_put_u32(netlink, NFTA_HOOK_PRIORITY, 0);
	netlink_nest_end(netlink, nest);
	netlink_put_text(netlink, NFTA_CHAIN_TYPE, chain_type);
}

struct rule {
	size_t list;
	size_t element;
	size_t data;
};

/* A rule of one expression, whose attributes the caller puts in between. */
static struct rule begin_rule(struct netlink *netlink, uint8_t family, const char *expression)
{
	struct rule rule;

	begin(netlink, NFT_MSG_NEWRULE, family);
	netlink_put_text(netlink, NFTA_RULE_TABLE, TABLE);
	netlink_put_text(netlink, NFTA_RULE_CHAIN, CHAIN);
	rule.list = netlink_nest(netlink, NFTA_RULE_EXPRESSIONS);
	rule.element = netlink_nest(netlink, NFTA_LIST_ELEM);
	netlink_put_text(netlink, NFTA_EXPR_NAME, expression);
	rule.data = netlink_nest(netlink, NFTA_EXPR_DATA);
	return rule;
}

static void end_rule(struct netlink *netlink, struct rule rule)
{
	netlink_nest_end(netlink, rule.data);
	netlink_nest_end(netlink, rule.element);
	netlink_nest_end(netlink, rule.list);
}

static void send_ruleset(struct netlink *netlink)
{
	bracket(netlink, NFNL_MSG_BATCH_END);
	if (netlink_send(netlink, NETLINK_NETFILTER) < 0)
		fail_errno("loading the ruleset");
}

/* Whether a datagram sent to this host arrives within the time. */
static bool datagram_arrives(int patience_ms)
{
	struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t size = sizeof(address);
	int receiver = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	int sender = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);

	if (receiver < 0 || sender < 0 || bind(receiver, (void *)&address, size) < 0 ||
	    getsockname(receiver, (void *)&address, &size) < 0)
		fail_errno("a UDP socket on loopback");
	sendto(sender, "x", 1, MSG_DONTWAIT, (void *)&address, size);
	struct pollfd ready = {.fd = receiver, .events = POLLIN};
	bool arrived = poll(&ready, 1, patience_ms) == 1;
	close(sender);
	close(receiver);
	return arrived;
}

void probe_nftables(void)
{
	struct netlink netlink;

	if (!datagram_arrives(3000))
		fail("no datagram over loopback, before any rule");
	begin_ruleset(&netlink, NFPROTO_INET, "filter", NF_INET_LOCAL_IN);
	struct rule rule = begin_rule(&netlink, NFPROTO_INET, "immediate");
	netlink_put_u32(&netlink, NFTA_IMMEDIATE_DREG, htonl(NFT_REG_VERDICT));
	size_t data = netlink_nest(&netlink, NFTA_IMMEDIATE_DATA);
	size_t verdict = netlink_nest(&netlink, NFTA_DATA_VERDICT);
	netlink_put_u32(&netlink, NFTA_VERDICT_CODE, htonl(NF_DROP));
	netlink_nest_end(&netlink, verdict);
	netlink_nest_end(&netlink, data);
	end_rule(&netlink, rule);
	send_ruleset(&netlink);
	/* What loopback delivers at all it has delivered when send returns. */
	if (datagram_arrives(50))
		fail("a datagram arrived through a rule that drops all");
	pass("table, chain and rule made; the rule dropped a datagram");
}

/* Gives loopback a second address, one that masquerading may choose (127.0.0.1 never leaves the host). */
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

void probe_nftables_nat(void)
{
	struct netlink netlink;
	struct sockaddr_in outside = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(0x0a000001)};
	struct sockaddr_in inside = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	struct sockaddr_in seen = {0};
	socklen_t size = sizeof(outside);
	char byte;

	add_loopback_address(outside.sin_addr);
	begin_ruleset(&netlink, NFPROTO_IPV4, "nat", NF_INET_POST_ROUTING);
	end_rule(&netlink, begin_rule(&netlink, NFPROTO_IPV4, "masq"));
	send_ruleset(&netlink);
	int receiver = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	int sender = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (receiver < 0 || sender < 0 || bind(receiver, (void *)&outside, size) < 0 ||
	    bind(sender, (void *)&inside, size) < 0 || getsockname(receiver, (void *)&outside, &size) < 0)
		fail_errno("a UDP socket on loopback");
	if (sendto(sender, "x", 1, 0, (void *)&outside, size) < 0)
		fail_errno("sending through the masquerading chain");
	struct pollfd ready = {.fd = receiver, .events = POLLIN};
	if (poll(&ready, 1, 2000) != 1 || recvfrom(receiver, &byte, 1, 0, (void *)&seen, &size) != 1)
		fail("nothing came through the masquerading chain");
	if (seen.sin_addr.s_addr != outside.sin_addr.s_addr)
		fail("a datagram came through the masquerading chain with its own source address");
	pass("a nat chain masqueraded a datagram");
}

void probe_iptables_legacy(void)
{
	struct ipt_info info = {.name = "filter"};
	socklen_t size = sizeof(info);
	int fd = socket(AF_INET, SOCK_RAW | SOCK_CLOEXEC, IPPROTO_RAW);

	if (fd < 0)
		fail_errno("raw socket");
	if (getsockopt(fd, IPPROTO_IP, IPT_SO_GET_INFO, &info, &size) < 0)
		fail_errno("table filter");
	pass("table filter, %u entries", info.num_entries);
}
