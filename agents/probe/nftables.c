/* SPDX-License-Identifier: Apache-2.0 */
#include "nftables.h"
#include "probe.h"

#include <arpa/inet.h>
#include <linux/netfilter.h>
#include <linux/netfilter/nf_tables.h>
#include <linux/netfilter/nf_tables_compat.h>
#include <linux/netfilter/nfnetlink.h>
#include <string.h>
#include <sys/socket.h>

#define TABLE "osbuilder-probe"
#define CHAIN "chain"

static void begin(struct netlink *netlink, uint16_t command, uint8_t family)
{
	struct nfgenmsg header = {.nfgen_family = family, .version = NFNETLINK_V0};
	uint16_t type = (uint16_t)(NFNL_SUBSYS_NFTABLES << 8 | command);

	netlink_begin(netlink, type, NLM_F_CREATE | NLM_F_APPEND | NLM_F_ACK, &header, sizeof(header));
}

static void bracket(struct netlink *netlink, uint16_t type)
{
	struct nfgenmsg header = {.nfgen_family = AF_UNSPEC, .version = NFNETLINK_V0,
				  .res_id = htons(NFNL_SUBSYS_NFTABLES)};

	netlink_begin(netlink, type, 0, &header, sizeof(header));
}

void chain_begin(struct netlink *netlink, const struct chain *chain)
{
	memset(netlink, 0, sizeof(*netlink));
	bracket(netlink, NFNL_MSG_BATCH_BEGIN);
	begin(netlink, NFT_MSG_NEWTABLE, chain->family);
	netlink_put_text(netlink, NFTA_TABLE_NAME, chain->table);
	begin(netlink, NFT_MSG_NEWCHAIN, chain->family);
	netlink_put_text(netlink, NFTA_CHAIN_TABLE, chain->table);
	netlink_put_text(netlink, NFTA_CHAIN_NAME, CHAIN);
	size_t nest = netlink_nest(netlink, NFTA_CHAIN_HOOK);
	netlink_put_u32(netlink, NFTA_HOOK_HOOKNUM, htonl(chain->hook));
	netlink_put_u32(netlink, NFTA_HOOK_PRIORITY, htonl((uint32_t)chain->priority));
	netlink_nest_end(netlink, nest);
	netlink_put_text(netlink, NFTA_CHAIN_TYPE, chain->type);
}

void ruleset_begin(struct netlink *netlink, uint8_t family, const char *chain_type, uint32_t hook)
{
	struct chain chain = {.table = TABLE, .type = chain_type, .family = family, .hook = hook};

	chain_begin(netlink, &chain);
}

int ruleset_try(struct netlink *netlink)
{
	bracket(netlink, NFNL_MSG_BATCH_END);
	return netlink_send(netlink, NETLINK_NETFILTER);
}

void ruleset_send(struct netlink *netlink)
{
	if (ruleset_try(netlink) < 0)
		fail_errno("loading the ruleset");
}

static void rule_of(struct netlink *netlink, uint8_t family, const char *table)
{
	begin(netlink, NFT_MSG_NEWRULE, family);
	netlink_put_text(netlink, NFTA_RULE_TABLE, table);
	netlink_put_text(netlink, NFTA_RULE_CHAIN, CHAIN);
}

size_t rule_begin(struct netlink *netlink, uint8_t family)
{
	rule_of(netlink, family, TABLE);
	return netlink_nest(netlink, NFTA_RULE_EXPRESSIONS);
}

size_t chain_rule_begin(struct netlink *netlink, const struct chain *chain, uint8_t protocol)
{
	rule_of(netlink, chain->family, chain->table);
	size_t compat = netlink_nest(netlink, NFTA_RULE_COMPAT);
	netlink_put_u32(netlink, NFTA_RULE_COMPAT_PROTO, htonl(protocol));
	netlink_put_u32(netlink, NFTA_RULE_COMPAT_FLAGS, 0);
	netlink_nest_end(netlink, compat);
	size_t rule = netlink_nest(netlink, NFTA_RULE_EXPRESSIONS);
	struct expression expression = expression_begin(netlink, "meta");
	netlink_put_u32(netlink, NFTA_META_DREG, htonl(NFT_REG_1));
	netlink_put_u32(netlink, NFTA_META_KEY, htonl(NFT_META_L4PROTO));
	expression_end(netlink, expression);
	put_equal(netlink, &protocol, sizeof(protocol));
	return rule;
}

void rule_end(struct netlink *netlink, size_t rule)
{
	netlink_nest_end(netlink, rule);
}

struct expression expression_begin(struct netlink *netlink, const char *name)
{
	struct expression expression;

	expression.element = netlink_nest(netlink, NFTA_LIST_ELEM);
	netlink_put_text(netlink, NFTA_EXPR_NAME, name);
	expression.data = netlink_nest(netlink, NFTA_EXPR_DATA);
	return expression;
}

void expression_end(struct netlink *netlink, struct expression expression)
{
	netlink_nest_end(netlink, expression.data);
	netlink_nest_end(netlink, expression.element);
}

static void put_data(struct netlink *netlink, uint16_t type, const void *value, size_t size)
{
	size_t data = netlink_nest(netlink, type);

	netlink_put(netlink, NFTA_DATA_VALUE, value, size);
	netlink_nest_end(netlink, data);
}

void put_immediate(struct netlink *netlink, const void *value, size_t size)
{
	struct expression expression = expression_begin(netlink, "immediate");

	netlink_put_u32(netlink, NFTA_IMMEDIATE_DREG, htonl(NFT_REG_1));
	put_data(netlink, NFTA_IMMEDIATE_DATA, value, size);
	expression_end(netlink, expression);
}

void put_equal(struct netlink *netlink, const void *value, size_t size)
{
	struct expression expression = expression_begin(netlink, "cmp");

	netlink_put_u32(netlink, NFTA_CMP_SREG, htonl(NFT_REG_1));
	netlink_put_u32(netlink, NFTA_CMP_OP, htonl(NFT_CMP_EQ));
	put_data(netlink, NFTA_CMP_DATA, value, size);
	expression_end(netlink, expression);
}

static void put_verdict(struct netlink *netlink, uint32_t code)
{
	struct expression expression = expression_begin(netlink, "immediate");

	netlink_put_u32(netlink, NFTA_IMMEDIATE_DREG, htonl(NFT_REG_VERDICT));
	size_t data = netlink_nest(netlink, NFTA_IMMEDIATE_DATA);
	size_t verdict = netlink_nest(netlink, NFTA_DATA_VERDICT);
	netlink_put_u32(netlink, NFTA_VERDICT_CODE, htonl(code));
	netlink_nest_end(netlink, verdict);
	netlink_nest_end(netlink, data);
	expression_end(netlink, expression);
}

void put_drop(struct netlink *netlink)
{
	put_verdict(netlink, NF_DROP);
}

void put_accept(struct netlink *netlink)
{
	put_verdict(netlink, NF_ACCEPT);
}

/* How the two kinds of xtables extension are put: the attributes have the same order. */
static void put_xtables(struct netlink *netlink, const char *kind, const char *name, uint32_t revision, const void *info,
			size_t size)
{
	char padded[384] = {0};
	size_t aligned = (size + 7) & ~(size_t)7;

	_Static_assert((int)NFTA_MATCH_NAME == NFTA_TARGET_NAME && (int)NFTA_MATCH_REV == NFTA_TARGET_REV &&
			       (int)NFTA_MATCH_INFO == NFTA_TARGET_INFO,
		       "a match and a target have the same attributes");
	if (aligned > sizeof(padded))
		fail("%s %s: its %zu bytes do not fit", kind, name, size);
	memcpy(padded, info, size);
	struct expression expression = expression_begin(netlink, kind);
	netlink_put_text(netlink, NFTA_MATCH_NAME, name);
	netlink_put_u32(netlink, NFTA_MATCH_REV, htonl(revision));
	netlink_put(netlink, NFTA_MATCH_INFO, padded, aligned);
	expression_end(netlink, expression);
}

void put_match(struct netlink *netlink, const char *name, uint32_t revision, const void *info, size_t size)
{
	put_xtables(netlink, "match", name, revision, info, size);
}

void put_target(struct netlink *netlink, const char *name, uint32_t revision, const void *info, size_t size)
{
	put_xtables(netlink, "target", name, revision, info, size);
}
