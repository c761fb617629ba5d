/* SPDX-License-Identifier: Apache-2.0
 *
 * Traffic control (linux/pkt_sched.h, linux/pkt_cls.h): what is redirected, policed, slowed down or judged by a program.
 * Each probe has a network namespace of its own, and sees with its own frames that the rule holds.
 */
#include "bpf.h"
#include "link.h"
#include "probe.h"
#include "tc.h"
#include "util.h"

#include <arpa/inet.h>
#include <errno.h>
#include <linux/if_ether.h>
#include <linux/pkt_cls.h>
#include <linux/pkt_sched.h>
#include <linux/rtnetlink.h>
#include <linux/tc_act/tc_mirred.h>
#include <net/if.h>
#include <string.h>

/* A u32 filter on what comes in, that matches everything and does one thing with it. */
static void add_u32(const char *name, const char *action, uint16_t attribute, const void *parameters, size_t size)
{
	struct {
		struct tc_u32_sel selector;
		struct tc_u32_key key;
	} all = {.selector = {.flags = TC_U32_TERMINAL, .nkeys = 1}};
	struct tc_request request;

	begin_filter(&request, name, INGRESS_HANDLE, "u32");
	netlink_put(&request.netlink, TCA_U32_SEL, &all, sizeof(all));
	put_action(&request, TCA_U32_ACT, action, attribute, parameters, size);
	send_tc(&request, "filter u32");
}

static void make_pair(const char *near, const char *far)
{
	make_veth(near, far, -1);
	bring_up(near);
	bring_up(far);
}

void probe_tc_redirect(void)
{
	struct tc_mirred redirect = {.action = TC_ACT_STOLEN, .eaction = TCA_EGRESS_REDIR};

	make_pair("from", "in");
	make_pair("out", "to");
	int there = protocol_socket("to");
	add_qdisc("in", "ingress", TC_H_INGRESS, INGRESS_HANDLE);
	redirect.ifindex = if_nametoindex("out");
	add_u32("in", "mirred", TCA_MIRRED_PARMS, &redirect, sizeof(redirect));
	send_frame(packet_socket(), "from", there);
	pass("a frame that came in was sent out through another device");
}

void probe_tc_police(void)
{
	struct tc_police police = {.action = TC_POLICE_SHOT, .mtu = 200};

	make_pair("from", "to");
	int sender = packet_socket(), receiver = protocol_socket("to");
	if (!frame_arrives(sender, "from", receiver, 900, 20))
		fail("frames do not arrive, before any rule");
	add_qdisc("to", "ingress", TC_H_INGRESS, INGRESS_HANDLE);
	add_u32("to", "police", TCA_POLICE_TBF, &police, sizeof(police));
	send_frame(sender, "from", receiver);
	if (frame_arrives(sender, "from", receiver, 900, 1))
		fail("a frame arrived that is longer than the policed length");
	pass("a frame longer than the policed length was dropped, a shorter one was not");
}

#define RATE 20000u /* bytes/s */
#define FRAME 1000u
#define FRAMES 8

/* A rate whose burst is one frame. A link layer that is named needs no table of transmission times. */
static void add_rate_class(const char *name)
{
	struct tc_ratespec rate = {.linklayer = TC_LINKLAYER_ETHERNET, .cell_log = 3, .rate = RATE};
	/* The kernel's ticks of packet scheduling are of 64 ns (/proc/net/psched). */
	uint32_t burst = (uint32_t)(1000000000ull * FRAME / RATE / 64);
	struct tc_htb_opt class = {.rate = rate, .ceil = rate, .buffer = burst, .cbuffer = burst, .quantum = 1500};
	struct tc_htb_glob all = {.version = 3, .rate2quantum = 10, .defcls = 1};
	struct tc_request request;
	struct tcmsg header = {.tcm_ifindex = (int)if_nametoindex(name), .tcm_parent = TC_H_ROOT, .tcm_handle = 1 << 16};

	begin_tc(&request, RTM_NEWQDISC, header, "htb");
	netlink_put(&request.netlink, TCA_HTB_INIT, &all, sizeof(all));
	send_tc(&request, "qdisc htb");
	header.tcm_parent = header.tcm_handle;
	header.tcm_handle |= 1;
	begin_tc(&request, RTM_NEWTCLASS, header, "htb");
	netlink_put(&request.netlink, TCA_HTB_PARMS, &class, sizeof(class));
	send_tc(&request, "class htb");
	add_qdisc(name, "fq", header.tcm_handle, 2 << 16);
}

static void add_tbf(const char *name)
{
	struct tc_ratespec rate = {.linklayer = TC_LINKLAYER_ETHERNET, .cell_log = 3, .rate = 1000000};
	struct tc_tbf_qopt bucket = {.rate = rate, .limit = 100000, .buffer = 1000000};
	struct tc_request request;
	struct tcmsg header = {.tcm_ifindex = (int)if_nametoindex(name), .tcm_parent = TC_H_ROOT, .tcm_handle = 1 << 16};

	begin_tc(&request, RTM_NEWQDISC, header, "tbf");
	netlink_put(&request.netlink, TCA_TBF_PARMS, &bucket, sizeof(bucket));
	send_tc(&request, "qdisc tbf");
}

void probe_tc_rate(void)
{
	make_pair("from", "to");
	int sender = packet_socket(), receiver = protocol_socket("to");
	send_frame(sender, "from", receiver);
	add_tbf("to");
	add_rate_class("from");
	uint64_t start_us = boottime_us();
	for (int frame = 0; frame < FRAMES; frame++)
		if (!frame_arrives(sender, "from", receiver, FRAME, 20))
			fail("a frame does not arrive through the class");
	uint64_t took_us = boottime_us() - start_us;
	/* All but the burst had to wait; half of the time that they should take is far from none. */
	if (took_us < 1000000ull * (FRAMES - 2) * FRAME / RATE / 2)
		fail("%d frames took %llu us, faster than their rate", FRAMES, (unsigned long long)took_us);
	pass("htb with fq below, tbf; %d frames took %llu ms", FRAMES, (unsigned long long)took_us / 1000);
}

void probe_tc_bpf(void)
{
	static const struct bpf_insn drop[] = {BPF_SET(BPF_REG_0, TC_ACT_SHOT), BPF_RETURN()};
	struct tc_request request;

	make_pair("from", "to");
	int sender = packet_socket(), receiver = protocol_socket("to");
	send_frame(sender, "from", receiver);
	int program = bpf_load(BPF_PROG_TYPE_SCHED_CLS, drop, COUNT_OF(drop));
	if (program < 0)
		fail_errno("BPF_PROG_LOAD");
	add_qdisc("to", "clsact", TC_H_CLSACT, INGRESS_HANDLE);
	begin_filter(&request, "to", TC_H_MAKE(TC_H_CLSACT, TC_H_MIN_INGRESS), "bpf");
	netlink_put_u32(&request.netlink, TCA_BPF_FD, (uint32_t)program);
	netlink_put_text(&request.netlink, TCA_BPF_NAME, "drop");
	netlink_put_u32(&request.netlink, TCA_BPF_FLAGS, TCA_BPF_FLAG_ACT_DIRECT);
	send_tc(&request, "filter bpf");
	if (frame_arrives(sender, "from", receiver, 64, 1))
		fail("a frame arrived through a program that drops all");
	pass("a program was attached and dropped a frame");
}
