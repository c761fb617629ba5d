/* SPDX-License-Identifier: Apache-2.0
 *
 * The matches and targets of iptables that container engines, CNI plugins, kube-proxy and service meshes put into their
 * rules, loaded as iptables-nft loads them: expressions of nftables (linux/netfilter/nf_tables_compat.h) with the parameters
 * of xtables. Each rule is seen to hold for what it is about, and for nothing else.
 */
#include "datagram.h"
#include "link.h"
#include "nftables.h"
#include "packetlog.h"
#include "probe.h"

/* Before linux/if.h and linux/in.h, which leave out what they find here. */
#include <arpa/inet.h>
#include <net/if.h>
#include <netinet/in.h>
#include <netinet/tcp.h>

#include <linux/netfilter.h>
#include <linux/netfilter/nf_conntrack_common.h>
#include <linux/netfilter/nf_nat.h>
#include <linux/netfilter/nf_tables.h>
#include <linux/netfilter/xt_CT.h>
#include <linux/netfilter/xt_LOG.h>
#include <linux/netfilter/xt_TCPMSS.h>
#include <linux/netfilter/xt_addrtype.h>
#include <linux/netfilter/xt_comment.h>
#include <linux/netfilter/xt_connmark.h>
#include <linux/netfilter/xt_conntrack.h>
#include <linux/netfilter/xt_limit.h>
#include <linux/netfilter/xt_mark.h>
#include <linux/netfilter/xt_multiport.h>
#include <linux/netfilter/xt_recent.h>
#include <linux/netfilter/xt_state.h>
#include <linux/netfilter/xt_statistic.h>
#include <linux/netfilter/xt_tcpudp.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

/* How long a datagram may take that has to arrive, and is waited for that must not. */
#define PATIENCE_MS 3000
#define DROPPED_MS 50

/* Many matches and targets are there once for each. NFPROTO_IPV4 and NFPROTO_IPV6 are the same numbers. */
static const int FAMILIES[] = {AF_INET, AF_INET6};

static const char *family_name(int family)
{
	return family == AF_INET6 ? "IPv6" : "IPv4";
}

/* A match or a target with its parameters. */
struct extension {
	const char *name;
	uint32_t revision;
	const void *info;
	size_t size;
};

#define EXTENSION(extension_name, extension_revision, parameters)                                                      \
	((struct extension){                                                                                           \
		.name = extension_name, .revision = extension_revision, .info = &(parameters), .size = sizeof(parameters)})

static void put_extension_match(struct netlink *netlink, struct extension match)
{
	put_match(netlink, match.name, match.revision, match.info, match.size);
}

static void put_extension_target(struct netlink *netlink, struct extension target)
{
	put_target(netlink, target.name, target.revision, target.info, target.size);
}

/* Rules that an extension is missing for are refused as a whole; the probe's words name it. */
static void load(struct netlink *netlink, const char *name)
{
	if (ruleset_try(netlink) < 0)
		fail_errno("loading a rule with %s", name);
}

static struct chain filter(int family, uint32_t hook)
{
	return (struct chain){.table = "filter", .type = "filter", .family = (uint8_t)family, .hook = hook};
}

/* A network namespace without rules, and with loopback. */
static void start_afresh(void)
{
	close(leave_namespace());
	bring_up("lo");
}

/* From now on datagrams that the match is about are dropped as they come in. */
static void drop_matching(int family, struct extension match)
{
	struct chain in = filter(family, NF_INET_LOCAL_IN);
	struct netlink netlink;

	chain_begin(&netlink, &in);
	size_t rule = chain_rule_begin(&netlink, &in, IPPROTO_UDP);
	put_extension_match(&netlink, match);
	put_drop(&netlink);
	rule_end(&netlink, rule);
	load(&netlink, match.name);
}

/* The target sees datagrams as they come in, before the rules that are added after it. */
static void treat(int family, struct extension target)
{
	struct chain in = filter(family, NF_INET_LOCAL_IN);
	struct netlink netlink;

	chain_begin(&netlink, &in);
	size_t rule = chain_rule_begin(&netlink, &in, IPPROTO_UDP);
	put_extension_target(&netlink, target);
	rule_end(&netlink, rule);
	load(&netlink, target.name);
}

/* A rule that is about something else lets datagrams in, one that is about them does not. */
static void tell_apart(int family, struct extension other, struct extension ours)
{
	drop_matching(family, other);
	if (!datagram_arrives(family, PATIENCE_MS))
		fail("%s, %s: a datagram was dropped that the rule is not about", ours.name, family_name(family));
	drop_matching(family, ours);
	if (datagram_arrives(family, DROPPED_MS))
		fail("%s, %s: a datagram arrived that a rule drops", ours.name, family_name(family));
}

/* -m addrtype --dst-type: Docker and CNI's portmap ask whether an address is this machine's. */
static void try_addrtype(int family)
{
	struct xt_addrtype_info_v1 other = {.dest = XT_ADDRTYPE_MULTICAST}, ours = {.dest = XT_ADDRTYPE_LOCAL};

	start_afresh();
	tell_apart(family, EXTENSION("addrtype", 1, other), EXTENSION("addrtype", 1, ours));
}

/* -m multiport --dports. */
static void try_multiport(int family)
{
	uint16_t port;
	char byte;

	start_afresh();
	int receiver = datagram_receiver(family, &port);
	struct xt_multiport_v1 ports = {.flags = XT_MULTIPORT_DESTINATION, .count = 2, .ports = {9, (uint16_t)(port ^ 1)}};
	drop_matching(family, EXTENSION("multiport", 1, ports));
	if (!datagram_reaches(receiver, family, port, PATIENCE_MS) || recv(receiver, &byte, 1, 0) != 1)
		fail("multiport, %s: a datagram to another port was dropped", family_name(family));
	ports.ports[1] = port;
	drop_matching(family, EXTENSION("multiport", 1, ports));
	if (datagram_reaches(receiver, family, port, DROPPED_MS))
		fail("multiport, %s: a datagram to one of the ports arrived", family_name(family));
	close(receiver);
}

/* -m statistic --mode nth --every 2: kube-proxy chooses one of several endpoints (at random, in the same match). */
static void try_statistic(int family)
{
	struct xt_statistic_info every_other = {.mode = XT_STATISTIC_MODE_NTH, .u.nth.every = 1};
	int arrived = 0;

	start_afresh();
	drop_matching(family, EXTENSION("statistic", 0, every_other));
	for (int i = 0; i < 4; i++)
		arrived += datagram_arrives(family, 4 * DROPPED_MS);
	if (arrived != 2)
		fail("statistic, %s: %d of 4 datagrams arrived through a rule that drops every other", family_name(family),
		     arrived);
}

/* -m recent --set, then --rcheck --hitcount 2: attempts that are counted. */
static void try_recent(int family)
{
	struct xt_recent_mtinfo_v1 noted = {.check_set = XT_RECENT_SET, .name = "probe"};
	struct xt_recent_mtinfo_v1 seen_twice = {.check_set = XT_RECENT_CHECK, .hit_count = 2, .seconds = 60, .name = "probe"};
	struct chain in = filter(family, NF_INET_LOCAL_IN);
	struct netlink netlink;

	memset(&noted.mask, 0xff, sizeof(noted.mask));
	seen_twice.mask = noted.mask;
	start_afresh();
	chain_begin(&netlink, &in);
	size_t rule = chain_rule_begin(&netlink, &in, IPPROTO_UDP);
	put_extension_match(&netlink, EXTENSION("recent", 1, noted));
	rule_end(&netlink, rule);
	load(&netlink, "recent");
	drop_matching(family, EXTENSION("recent", 1, seen_twice));
	if (!datagram_arrives(family, PATIENCE_MS))
		fail("recent, %s: the first datagram was dropped", family_name(family));
	if (datagram_arrives(family, DROPPED_MS))
		fail("recent, %s: a second datagram of the same source arrived", family_name(family));
}

/* -m limit --limit 1/minute --limit-burst 2 -j ACCEPT; all else is dropped. */
static void try_limit(int family)
{
	struct xt_rateinfo two = {.avg = 60 * XT_LIMIT_SCALE, .burst = 2};
	struct chain in = filter(family, NF_INET_LOCAL_IN);
	struct netlink netlink;

	start_afresh();
	chain_begin(&netlink, &in);
	size_t rule = chain_rule_begin(&netlink, &in, IPPROTO_UDP);
	put_extension_match(&netlink, EXTENSION("limit", 0, two));
	put_accept(&netlink);
	rule_end(&netlink, rule);
	rule = chain_rule_begin(&netlink, &in, IPPROTO_UDP);
	put_drop(&netlink);
	rule_end(&netlink, rule);
	load(&netlink, "limit");
	for (int i = 0; i < 2; i++)
		if (!datagram_arrives(family, PATIENCE_MS))
			fail("limit, %s: a datagram within the limit was dropped", family_name(family));
	if (datagram_arrives(family, DROPPED_MS))
		fail("limit, %s: a datagram beyond the limit arrived", family_name(family));
}

/* -m comment: in nearly every rule of kube-proxy. It holds for all packets. */
static void try_comment(int family)
{
	struct xt_comment_info comment = {.comment = "osbuilder-probe"};

	start_afresh();
	drop_matching(family, EXTENSION("comment", 0, comment));
	if (datagram_arrives(family, DROPPED_MS))
		fail("comment, %s: a datagram arrived that a rule with a comment drops", family_name(family));
}

void probe_xtables_matches(void)
{
	for (size_t i = 0; i < COUNT_OF(FAMILIES); i++) {
		start_afresh();
		if (!datagram_arrives(FAMILIES[i], PATIENCE_MS))
			fail("no datagram over loopback, before any rule (%s)", family_name(FAMILIES[i]));
		try_addrtype(FAMILIES[i]);
		try_multiport(FAMILIES[i]);
		try_statistic(FAMILIES[i]);
		try_recent(FAMILIES[i]);
		try_limit(FAMILIES[i]);
		try_comment(FAMILIES[i]);
	}
	pass("addrtype, multiport, statistic, recent, limit and comment, for IPv4 and IPv6");
}

/* What the kernel counts as the last state; programs' headers count one more (linux/netfilter/nf_conntrack_common.h). */
#define STATE_RELATED XT_CONNTRACK_STATE_BIT(IP_CT_RELATED)
#define STATE_NEW XT_CONNTRACK_STATE_BIT(IP_CT_NEW)
#define STATE_UNTRACKED (1 << 8)

/* -m conntrack --ctstate, and its older name -m state --state. */
static void try_state(int family)
{
	struct xt_conntrack_mtinfo3 related = {.match_flags = XT_CONNTRACK_STATE, .state_mask = STATE_RELATED};
	struct xt_conntrack_mtinfo3 new = {.match_flags = XT_CONNTRACK_STATE, .state_mask = STATE_NEW};
	struct xt_state_info related_too = {.statemask = STATE_RELATED}, new_too = {.statemask = STATE_NEW};

	start_afresh();
	tell_apart(family, EXTENSION("conntrack", 3, related), EXTENSION("conntrack", 3, new));
	start_afresh();
	tell_apart(family, EXTENSION("state", 0, related_too), EXTENSION("state", 0, new_too));
}

/* -j CONNMARK --set-mark, -m connmark; then --restore-mark, which a mesh finds again in -m mark. */
static void try_connmark(int family)
{
	struct xt_connmark_tginfo1 marked = {.ctmark = 9, .ctmask = ~0u, .mode = XT_CONNMARK_SET};
	struct xt_connmark_tginfo1 restored = {.ctmask = ~0u, .nfmask = ~0u, .mode = XT_CONNMARK_RESTORE};
	struct xt_connmark_mtinfo1 other = {.mark = 8, .mask = ~0u}, ours = {.mark = 9, .mask = ~0u};
	struct xt_mark_mtinfo1 other_packet = {.mark = 8, .mask = ~0u}, our_packet = {.mark = 9, .mask = ~0u};

	start_afresh();
	treat(family, EXTENSION("CONNMARK", 1, marked));
	tell_apart(family, EXTENSION("connmark", 1, other), EXTENSION("connmark", 1, ours));
	start_afresh();
	treat(family, EXTENSION("CONNMARK", 1, marked));
	treat(family, EXTENSION("CONNMARK", 1, restored));
	tell_apart(family, EXTENSION("mark", 1, other_packet), EXTENSION("mark", 1, our_packet));
}

/* -t raw -A OUTPUT -j CT: before connections are tracked (NF_IP_PRI_RAW). */
static void choose_tracking(int family, const struct xt_ct_target_info_v1 *how)
{
	struct chain raw = filter(family, NF_INET_LOCAL_OUT);
	struct netlink netlink;

	raw.table = "raw";
	raw.priority = -300;
	chain_begin(&netlink, &raw);
	size_t rule = chain_rule_begin(&netlink, &raw, IPPROTO_UDP);
	put_target(&netlink, "CT", 1, how, sizeof(*how));
	rule_end(&netlink, rule);
	load(&netlink, "CT");
}

/* Drops datagrams whose connection is in that zone; nftables asks for it, xtables has no match for it. */
static void drop_zone(int family, uint16_t zone)
{
	struct chain in = filter(family, NF_INET_LOCAL_IN);
	struct netlink netlink;

	chain_begin(&netlink, &in);
	size_t rule = chain_rule_begin(&netlink, &in, IPPROTO_UDP);
	struct expression expression = expression_begin(&netlink, "ct");
	netlink_put_u32(&netlink, NFTA_CT_DREG, htonl(NFT_REG_1));
	netlink_put_u32(&netlink, NFTA_CT_KEY, htonl(NFT_CT_ZONE));
	expression_end(&netlink, expression);
	put_equal(&netlink, &zone, sizeof(zone));
	put_drop(&netlink);
	rule_end(&netlink, rule);
	load(&netlink, "a zone of connections");
}

/* -j CT --notrack, and --zone, by which Istio keeps name queries apart. */
static void try_ct(int family)
{
	struct xt_ct_target_info_v1 untracked = {.flags = XT_CT_NOTRACK}, zoned = {.zone = 5};
	struct xt_conntrack_mtinfo3 new = {.match_flags = XT_CONNTRACK_STATE, .state_mask = STATE_NEW};
	struct xt_conntrack_mtinfo3 none = {.match_flags = XT_CONNTRACK_STATE, .state_mask = STATE_UNTRACKED};

	start_afresh();
	choose_tracking(family, &untracked);
	tell_apart(family, EXTENSION("conntrack", 3, new), EXTENSION("conntrack", 3, none));
	start_afresh();
	choose_tracking(family, &zoned);
	drop_zone(family, 6);
	if (!datagram_arrives(family, PATIENCE_MS))
		fail("CT, %s: a datagram of zone 5 was dropped as one of zone 6", family_name(family));
	drop_zone(family, 5);
	if (datagram_arrives(family, DROPPED_MS))
		fail("CT, %s: a datagram of zone 5 arrived, which a rule drops", family_name(family));
}

void probe_xtables_conntrack(void)
{
	for (size_t i = 0; i < COUNT_OF(FAMILIES); i++) {
		try_state(FAMILIES[i]);
		try_connmark(FAMILIES[i]);
		try_ct(FAMILIES[i]);
	}
	pass("conntrack, state, connmark, CONNMARK and CT (zones, notrack), for IPv4 and IPv6");
}

/* -j MARK --set-mark, -m mark. */
static void try_mark(int family)
{
	struct xt_mark_tginfo2 marked = {.mark = 7, .mask = ~0u};
	struct xt_mark_mtinfo1 other = {.mark = 6, .mask = ~0u}, ours = {.mark = 7, .mask = ~0u};

	start_afresh();
	treat(family, EXTENSION("MARK", 2, marked));
	tell_apart(family, EXTENSION("mark", 1, other), EXTENSION("mark", 1, ours));
}

#define LOG_PREFIX "osbuilder-probe-xt "

static void try_log(int family)
{
	struct xt_log_info info = {.level = 7, .prefix = LOG_PREFIX};
	int log = packet_log_open();

	start_afresh();
	treat(family, EXTENSION("LOG", 0, info));
	if (!datagram_arrives(family, PATIENCE_MS))
		fail("LOG, %s: a datagram did not arrive", family_name(family));
	if (!packet_log_has(log, LOG_PREFIX))
		fail("LOG, %s: a rule logs datagrams, but the kernel's log has none", family_name(family));
	close(log);
}

/* The largest segment that one end of a connection over loopback may send to the other. */
static int segment_size(int family)
{
	struct sockaddr_storage address = {.ss_family = (sa_family_t)family};
	socklen_t size = sizeof(address), size_of_size = sizeof(int);
	int bytes = 0;

	if (family == AF_INET6)
		((struct sockaddr_in6 *)&address)->sin6_addr = in6addr_loopback;
	else
		((struct sockaddr_in *)&address)->sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	int server = socket(family, SOCK_STREAM | SOCK_CLOEXEC, 0), client = socket(family, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (server < 0 || client < 0 || bind(server, (void *)&address, size) < 0 || listen(server, 1) < 0 ||
	    getsockname(server, (void *)&address, &size) < 0 || connect(client, (void *)&address, size) < 0)
		fail_errno("TCP over loopback");
	int peer = accept4(server, NULL, NULL, SOCK_CLOEXEC);
	if (peer < 0 || getsockopt(peer, IPPROTO_TCP, TCP_MAXSEG, &bytes, &size_of_size) < 0)
		fail_errno("TCP_MAXSEG");
	close(peer);
	close(client);
	close(server);
	return bytes;
}

#define CLAMPED 600

/* -p tcp --tcp-flags SYN,RST SYN -j TCPMSS --set-mss: tunnels, whose packets have to be smaller. */
static void try_tcpmss(int family)
{
	struct xt_tcp opens = {.spts = {0, 0xffff}, .dpts = {0, 0xffff}, .flg_mask = 0x06, .flg_cmp = 0x02};
	struct xt_tcpmss_info clamped = {.mss = CLAMPED};
	struct chain out = filter(family, NF_INET_LOCAL_OUT);
	struct netlink netlink;

	start_afresh();
	int before = segment_size(family);
	chain_begin(&netlink, &out);
	size_t rule = chain_rule_begin(&netlink, &out, IPPROTO_TCP);
	put_extension_match(&netlink, EXTENSION("tcp", 0, opens));
	put_extension_target(&netlink, EXTENSION("TCPMSS", 0, clamped));
	rule_end(&netlink, rule);
	load(&netlink, "TCPMSS");
	int after = segment_size(family);
	if (before <= CLAMPED || after > CLAMPED)
		fail("TCPMSS, %s: segments of %d bytes before a rule that clamps them to %d, of %d after", family_name(family),
		     before, CLAMPED, after);
}

static void translate(struct chain chain, struct extension target)
{
	struct netlink netlink;

	chain.table = chain.type = "nat";
	start_afresh();
	chain_begin(&netlink, &chain);
	size_t rule = chain_rule_begin(&netlink, &chain, IPPROTO_UDP);
	put_extension_target(&netlink, target);
	rule_end(&netlink, rule);
	load(&netlink, target.name);
}

/* -t nat -A OUTPUT -j REDIRECT and -j DNAT: a datagram to a port where nobody is comes to the receiver. */
static void try_destinations(void)
{
	struct nf_nat_ipv4_multi_range_compat here = {.rangesize = 1, .range[0].flags = NF_NAT_RANGE_PROTO_SPECIFIED};
	struct nf_nat_range2 there = {.flags = NF_NAT_RANGE_MAP_IPS | NF_NAT_RANGE_PROTO_SPECIFIED,
				      .min_addr.ip = htonl(INADDR_LOOPBACK), .max_addr.ip = htonl(INADDR_LOOPBACK)};
	static const char *const names[] = {"REDIRECT", "DNAT"};

	for (size_t i = 0; i < COUNT_OF(names); i++) {
		const uint16_t port = 4567;
		struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK),
					      .sin_port = htons(port)};

		here.range[0].min.all = here.range[0].max.all = there.min_proto.all = there.max_proto.all = htons(port);
		translate(filter(AF_INET, NF_INET_LOCAL_OUT), i ? EXTENSION("DNAT", 2, there) : EXTENSION("REDIRECT", 0, here));
		int receiver = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
		if (receiver < 0 || bind(receiver, (void *)&address, sizeof(address)) < 0)
			fail_errno("a UDP socket on loopback");
		if (!datagram_reaches(receiver, AF_INET, 9, PATIENCE_MS))
			fail("%s: a datagram did not come where the rule sends it", names[i]);
		close(receiver);
	}
}

void probe_xtables_targets(void)
{
	struct nf_nat_ipv4_multi_range_compat any = {.rangesize = 1};

	for (size_t i = 0; i < COUNT_OF(FAMILIES); i++) {
		try_mark(FAMILIES[i]);
		try_log(FAMILIES[i]);
		try_tcpmss(FAMILIES[i]);
	}
	try_destinations();
	translate(filter(AF_INET, NF_INET_POST_ROUTING), EXTENSION("MASQUERADE", 0, any));
	if (!datagram_is_masqueraded())
		fail("MASQUERADE: a datagram came with its own source address");
	pass("MARK, LOG and TCPMSS for IPv4 and IPv6; REDIRECT, DNAT and MASQUERADE");
}
