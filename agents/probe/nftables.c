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

void ruleset_begin(struct netlink *netlink, uint8_t family, const char *chain_type, uint32_t hook)
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

void ruleset_send(struct netlink *netlink)
{
	bracket(netlink, NFNL_MSG_BATCH_END);
	if (netlink_send(netlink, NETLINK_NETFILTER) < 0)
		fail_errno("loading the ruleset");
}

size_t rule_begin(struct netlink *netlink, uint8_t family)
{
	begin(netlink, NFT_MSG_NEWRULE, family);
	netlink_put_text(netlink, NFTA_RULE_TABLE, TABLE);
	netlink_put_text(netlink, NFTA_RULE_CHAIN, CHAIN);
	return netlink_nest(netlink, NFTA_RULE_EXPRESSIONS);
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

void put_drop(struct netlink *netlink)
{
	struct expression expression = expression_begin(netlink, "immediate");

	netlink_put_u32(netlink, NFTA_IMMEDIATE_DREG, htonl(NFT_REG_VERDICT));
	size_t data = netlink_nest(netlink, NFTA_IMMEDIATE_DATA);
	size_t verdict = netlink_nest(netlink, NFTA_DATA_VERDICT);
	netlink_put_u32(netlink, NFTA_VERDICT_CODE, htonl(NF_DROP));
	netlink_nest_end(netlink, verdict);
	netlink_nest_end(netlink, data);
	expression_end(netlink, expression);
}

void put_match(struct netlink *netlink, const char *name, uint32_t revision, const void *info, size_t size)
{
	char padded[128] = {0};
	size_t aligned = (size + 7) & ~(size_t)7;

	if (aligned > sizeof(padded))
		fail("match %s: its %zu bytes do not fit", name, size);
	memcpy(padded, info, size);
	struct expression expression = expression_begin(netlink, "match");
	netlink_put_text(netlink, NFTA_MATCH_NAME, name);
	netlink_put_u32(netlink, NFTA_MATCH_REV, htonl(revision));
	netlink_put(netlink, NFTA_MATCH_INFO, padded, aligned);
	expression_end(netlink, expression);
}
