/* SPDX-License-Identifier: Apache-2.0
 *
 * The older iptables interface: whole tables, loaded over a socket option (linux/netfilter_ipv4/ip_tables.h,
 * linux/netfilter_ipv6/ip6_tables.h). Each probe has a network namespace of its own.
 */
#include "datagram.h"
#include "probe.h"

/* Before linux/if.h and linux/in.h, which leave out what they find here. */
#include <arpa/inet.h>
#include <net/if.h>

#include <errno.h>
#include <linux/netfilter/nf_nat.h>
#include <linux/netfilter/x_tables.h>
#include <linux/netfilter_ipv4/ip_tables.h>
#include <linux/netfilter_ipv4/ipt_REJECT.h>
#include <linux/netfilter_ipv6/ip6_tables.h>
#include <linux/netfilter_ipv6/ip6t_REJECT.h>
#include <stddef.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

/* The two differ in the size of an entry alone; the socket options have the same numbers. */
_Static_assert(sizeof(struct ipt_replace) == sizeof(struct ip6t_replace), "a table's header is the same");
_Static_assert(sizeof(struct ipt_getinfo) == sizeof(struct ip6t_getinfo), "what a table tells is the same");
_Static_assert(IPT_SO_SET_REPLACE == IP6T_SO_SET_REPLACE && IPT_SO_GET_INFO == IP6T_SO_GET_INFO, "so are the options");

#define PATIENCE_MS 3000
#define DROPPED_MS 50

struct table {
	int family;
	int fd;
	struct ipt_getinfo info;
	struct xt_counters counters[32]; /* of the entries that it has now, which the kernel hands back */
	_Alignas(struct ipt_replace) char data[sizeof(struct ipt_replace) + 2048];
	size_t length; /* of the entries, which come after the header */
};

static int level(const struct table *table)
{
	return table->family == AF_INET6 ? IPPROTO_IPV6 : IPPROTO_IP;
}

static void open_table(struct table *table, int family, const char *name)
{
	socklen_t size = sizeof(table->info);

	memset(table, 0, sizeof(*table));
	table->family = family;
	table->fd = socket(family, SOCK_RAW | SOCK_CLOEXEC, IPPROTO_RAW);
	if (table->fd < 0)
		fail_errno("raw socket");
	strcpy(table->info.name, name);
	if (getsockopt(table->fd, level(table), IPT_SO_GET_INFO, &table->info, &size) < 0)
		fail_errno("table %s", name);
	if (table->info.num_entries > COUNT_OF(table->counters))
		fail("table %s has %u entries in a new namespace", name, table->info.num_entries);
}

/* An entry that matches a protocol (0: every packet), with its target, whose size is a multiple of 8. */
static void put_entry(struct table *table, uint16_t protocol, const void *target, size_t target_size)
{
	struct ipt_replace *header = (void *)table->data;
	char *at = table->data + sizeof(*header) + table->length;
	size_t entry_size = table->family == AF_INET6 ? sizeof(struct ip6t_entry) : sizeof(struct ipt_entry);

	if (sizeof(*header) + table->length + entry_size + target_size > sizeof(table->data))
		fail("the table does not fit");
	if (table->family == AF_INET6)
		*(struct ip6t_entry *)at = (struct ip6t_entry){.ipv6.proto = protocol,
							       .ipv6.flags = protocol ? IP6T_F_PROTO : 0,
							       .target_offset = (__u16)entry_size,
							       .next_offset = (__u16)(entry_size + target_size)};
	else
		*(struct ipt_entry *)at = (struct ipt_entry){.ip.proto = protocol,
							     .target_offset = (__u16)entry_size,
							     .next_offset = (__u16)(entry_size + target_size)};
	memcpy(at + entry_size, target, target_size);
	table->length += entry_size + target_size;
	header->num_entries++;
}

static struct xt_standard_target verdict(int verdict)
{
	/* A verdict that ends the way through the table is a negative number; 0 and above are offsets. */
	return (struct xt_standard_target){.target.u.user.target_size = sizeof(struct xt_standard_target),
					   .verdict = -verdict - 1};
}

/* Loads the table with one rule on a hook: of UDP, with that target. All else is accepted. */
static void load_table(struct table *table, unsigned int hook, const void *target, size_t target_size)
{
	struct ipt_replace *header = (void *)table->data;
	struct xt_standard_target accept = verdict(NF_ACCEPT);
	struct xt_error_target end = {.target.u.user = {.target_size = sizeof(end), .name = XT_ERROR_TARGET},
				      .errorname = XT_ERROR_TARGET};

	strcpy(header->name, table->info.name);
	header->valid_hooks = table->info.valid_hooks;
	header->num_counters = table->info.num_entries;
	header->counters = table->counters;
	for (unsigned int i = 0; i < NF_INET_NUMHOOKS; i++) {
		if (!(header->valid_hooks & 1u << i))
			continue;
		header->hook_entry[i] = (unsigned int)table->length;
		if (i == hook)
			put_entry(table, IPPROTO_UDP, target, target_size);
		header->underflow[i] = (unsigned int)table->length;
		put_entry(table, 0, &accept, sizeof(accept));
	}
	put_entry(table, 0, &end, sizeof(end));
	header->size = (unsigned int)table->length;
	if (setsockopt(table->fd, level(table), IPT_SO_SET_REPLACE, header, (socklen_t)(sizeof(*header) + table->length)) < 0)
		fail_errno("loading table %s", table->info.name);
	close(table->fd);
}

static void put_name(struct xt_entry_target *target, const char *name, size_t size)
{
	strcpy(target->u.user.name, name);
	target->u.user.target_size = (__u16)size;
}

/* -t nat -A OUTPUT -p udp -j REDIRECT --to-ports PORT: revision 0, whose parameters differ. */
static void redirect_to(int family, uint16_t port)
{
	struct table table;
	__be16 to = htons(port);
	struct {
		struct xt_entry_target target;
		struct nf_nat_ipv4_multi_range_compat ranges;
	} __attribute__((aligned(8))) v4 = {
		.ranges = {.rangesize = 1,
			   .range[0] = {.flags = NF_NAT_RANGE_PROTO_SPECIFIED, .min.all = to, .max.all = to}}};
	struct {
		struct xt_entry_target target;
		struct nf_nat_range range;
	} __attribute__((aligned(8))) v6 = {
		.range = {.flags = NF_NAT_RANGE_PROTO_SPECIFIED, .min_proto.all = to, .max_proto.all = to}};

	put_name(&v4.target, "REDIRECT", sizeof(v4));
	put_name(&v6.target, "REDIRECT", sizeof(v6));
	open_table(&table, family, "nat");
	if (family == AF_INET6)
		load_table(&table, NF_INET_LOCAL_OUT, &v6, sizeof(v6));
	else
		load_table(&table, NF_INET_LOCAL_OUT, &v4, sizeof(v4));
}

/* -A OUTPUT -p udp -j REJECT, as firewalls answer: whoever sends is told. */
static void reject(int family)
{
	struct table table;
	struct {
		struct xt_entry_target target;
		union {
			struct ipt_reject_info v4;
			struct ip6t_reject_info v6;
		} how;
	} __attribute__((aligned(8))) rule = {0};

	if (family == AF_INET6)
		rule.how.v6.with = IP6T_ICMP6_PORT_UNREACH;
	else
		rule.how.v4.with = IPT_ICMP_PORT_UNREACHABLE;
	put_name(&rule.target, "REJECT", sizeof(rule));
	open_table(&table, family, "filter");
	load_table(&table, NF_INET_LOCAL_OUT, &rule, sizeof(rule));
}

/* A rule of that table drops what programs send, and no more does once another is loaded. */
static void drop_in_table(int family, const char *name)
{
	struct table table;
	struct xt_standard_target drop = verdict(NF_DROP), accept = verdict(NF_ACCEPT);

	open_table(&table, family, name);
	load_table(&table, NF_INET_LOCAL_OUT, &drop, sizeof(drop));
	if (datagram_arrives(family, DROPPED_MS))
		fail("a datagram went out through a rule of table %s that drops it", name);
	open_table(&table, family, name);
	load_table(&table, NF_INET_LOCAL_OUT, &accept, sizeof(accept));
	if (!datagram_arrives(family, PATIENCE_MS))
		fail("a datagram was dropped through a rule of table %s that accepts it", name);
}

static void try_tables(int family)
{
	struct table table;
	struct xt_standard_target drop = verdict(NF_DROP), accept = verdict(NF_ACCEPT);
	uint16_t port;

	open_table(&table, family, "filter");
	load_table(&table, NF_INET_LOCAL_IN, &accept, sizeof(accept));
	if (!datagram_arrives(family, PATIENCE_MS))
		fail("a datagram did not arrive through a rule that accepts it");
	open_table(&table, family, "filter");
	load_table(&table, NF_INET_LOCAL_IN, &drop, sizeof(drop));
	if (datagram_arrives(family, DROPPED_MS))
		fail("a datagram arrived through a rule that drops it");
	reject(family);
	if (!datagram_is_refused(family))
		fail("whoever sent a datagram was not told that a rule rejects it");
	open_table(&table, family, "filter");
	load_table(&table, NF_INET_LOCAL_IN, &accept, sizeof(accept));
	drop_in_table(family, "mangle");
	drop_in_table(family, "raw");
	int receiver = datagram_receiver(family, &port);
	redirect_to(family, port);
	if (!datagram_reaches(receiver, family, 9, PATIENCE_MS))
		fail("a datagram was not redirected to another port");
	pass("tables filter, mangle, raw and nat loaded: datagrams were dropped, rejected and redirected");
}

void probe_iptables_legacy(void)
{
	try_tables(AF_INET);
}

void probe_ip6tables_legacy(void)
{
	try_tables(AF_INET6);
}
