/* SPDX-License-Identifier: Apache-2.0
 *
 * Traffic control over rtnetlink (linux/pkt_sched.h, linux/pkt_cls.h). Each call ends the probe when it cannot be done.
 */
#ifndef OSBUILDER_TC_H
#define OSBUILDER_TC_H

#include "netlink.h"

#include <linux/pkt_sched.h>
#include <linux/rtnetlink.h>
#include <stddef.h>
#include <stdint.h>

#define INGRESS_HANDLE TC_H_MAKE(TC_H_INGRESS, 0)

struct tc_request {
	struct netlink netlink;
	size_t options;
};

/* Between the two calls, the options of the kind are put. */
void begin_tc(struct tc_request *request, uint16_t type, struct tcmsg header, const char *kind);
void begin_filter(struct tc_request *request, const char *name, uint32_t parent, const char *kind);
void send_tc(struct tc_request *request, const char *what);

/* A queueing discipline without options. */
void add_qdisc(const char *name, const char *kind, uint32_t parent, uint32_t handle);

/* The action of a filter, in its kind's attribute for actions, with the parameters of the action's kind. */
void put_action(struct tc_request *request, uint16_t attribute, const char *kind, uint16_t parameters, const void *value,
		size_t size);

#endif
