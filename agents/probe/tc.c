/* SPDX-License-Identifier: Apache-2.0 */
#include "tc.h"
#include "probe.h"

#include <arpa/inet.h>
#include <errno.h>
#include <linux/if_ether.h>
#include <linux/pkt_cls.h>
#include <net/if.h>
#include <string.h>

void begin_tc(struct tc_request *request, uint16_t type, struct tcmsg header, const char *kind)
{
	memset(request, 0, sizeof(*request));
	header.tcm_family = AF_UNSPEC;
	netlink_begin(&request->netlink, type, NLM_F_CREATE | NLM_F_EXCL | NLM_F_ACK, &header, sizeof(header));
	netlink_put_text(&request->netlink, TCA_KIND, kind);
	request->options = netlink_nest(&request->netlink, TCA_OPTIONS);
}

void send_tc(struct tc_request *request, const char *what)
{
	netlink_nest_end(&request->netlink, request->options);
	if (netlink_send(&request->netlink, NETLINK_ROUTE) < 0)
		fail_errno("%s", what);
}

void add_qdisc(const char *name, const char *kind, uint32_t parent, uint32_t handle)
{
	struct tc_request request;
	struct tcmsg header = {.tcm_ifindex = (int)if_nametoindex(name), .tcm_parent = parent, .tcm_handle = handle};

	memset(&request, 0, sizeof(request));
	header.tcm_family = AF_UNSPEC;
	netlink_begin(&request.netlink, RTM_NEWQDISC, NLM_F_CREATE | NLM_F_EXCL | NLM_F_ACK, &header, sizeof(header));
	netlink_put_text(&request.netlink, TCA_KIND, kind);
	if (netlink_send(&request.netlink, NETLINK_ROUTE) < 0)
		fail_errno("qdisc %s", kind);
}

void begin_filter(struct tc_request *request, const char *name, uint32_t parent, const char *kind)
{
	struct tcmsg header = {.tcm_ifindex = (int)if_nametoindex(name), .tcm_parent = parent,
			       .tcm_info = TC_H_MAKE(1u << 16, htons(ETH_P_ALL))};

	begin_tc(request, RTM_NEWTFILTER, header, kind);
}

void put_action(struct tc_request *request, uint16_t attribute, const char *kind, uint16_t parameters, const void *value,
		size_t size)
{
	size_t actions = netlink_nest(&request->netlink, attribute);
	size_t first = netlink_nest(&request->netlink, 1);

	netlink_put_text(&request->netlink, TCA_ACT_KIND, kind);
	size_t options = netlink_nest(&request->netlink, TCA_ACT_OPTIONS);
	netlink_put(&request->netlink, parameters, value, size);
	netlink_nest_end(&request->netlink, options);
	netlink_nest_end(&request->netlink, first);
	netlink_nest_end(&request->netlink, actions);
}
