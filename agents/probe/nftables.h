/* SPDX-License-Identifier: Apache-2.0
 *
 * Rulesets of nftables (linux/netfilter/nf_tables.h; numbers are big-endian there): a table with one chain on a hook, and
 * rules in it. Each call ends the probe when it cannot be done.
 */
#ifndef OSBUILDER_NFTABLES_H
#define OSBUILDER_NFTABLES_H

#include "netlink.h"

#include <stddef.h>
#include <stdint.h>

/* A chain on a hook, in a table of its own. Some xtables targets want to be in a table of a certain name. */
struct chain {
	const char *table;
	const char *type;
	uint8_t family;
	uint32_t hook;
	int32_t priority;
};

/* Begins a transaction that makes the table and the chain where they are not there yet. */
void chain_begin(struct netlink *netlink, const struct chain *chain);
/* The same, in the table of the probe's own. */
void ruleset_begin(struct netlink *netlink, uint8_t family, const char *chain_type, uint32_t hook);
void ruleset_send(struct netlink *netlink);
/* The same, but returns -1 with errno where the rules are refused. */
int ruleset_try(struct netlink *netlink);

/* Between the two calls come the rule's expressions, which are judged in their order. */
size_t rule_begin(struct netlink *netlink, uint8_t family);
/* As iptables-nft does: of a protocol (IPPROTO_*) alone, which is told to the xtables matches and targets in it as well. */
size_t chain_rule_begin(struct netlink *netlink, const struct chain *chain, uint8_t protocol);
void rule_end(struct netlink *netlink, size_t rule);

struct expression {
	size_t element;
	size_t data;
};

/* Between the two calls, the expression's attributes are put. */
struct expression expression_begin(struct netlink *netlink, const char *name);
void expression_end(struct netlink *netlink, struct expression expression);

/* Whole expressions: register 1 gets a value; goes on if register 1 holds it; the packet is dropped, accepted. */
void put_immediate(struct netlink *netlink, const void *value, size_t size);
void put_equal(struct netlink *netlink, const void *value, size_t size);
void put_drop(struct netlink *netlink);
void put_accept(struct netlink *netlink);
/* An xtables match or target, by way of nft_compat; `info` is padded to 8 bytes, as xtables has it. */
void put_match(struct netlink *netlink, const char *name, uint32_t revision, const void *info, size_t size);
void put_target(struct netlink *netlink, const char *name, uint32_t revision, const void *info, size_t size);

#endif
