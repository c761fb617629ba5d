/* SPDX-License-Identifier: Apache-2.0
 *
 * Control groups, version 1 (Documentation/admin-guide/cgroup-v1), for systems that mount them: the controllers that
 * version 2 does not have.
 */
#include "cgroup1.h"
#include "datagram.h"
#include "inside.h"
#include "probe.h"
#include "tc.h"
#include "util.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/if_ether.h>
#include <linux/perf_event.h>
#include <linux/pkt_cls.h>
#include <net/if.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static const char *const CONTROLLERS[] = {"cpuset",  "cpu",     "cpuacct",  "blkio", "memory", "devices",
					  "freezer", "net_cls", "net_prio", "pids",  "hugetlb"};

/* A controller is a line that begins with its name and a tab. */
static bool listed(const char *list, const char *controller)
{
	char start[32];

	snprintf(start, sizeof(start), "\n%s\t", controller);
	return strstr(list, start) != NULL;
}

UNDO(devices, "devices")
UNDO(cpuacct, "cpuacct")
UNDO(freezer, "freezer")
UNDO(net_cls, "net_cls")
UNDO(net_prio, "net_prio")
UNDO(perf, "perf_event")

/* 0, or the errno of what was refused. */
static int open_null(void)
{
	return open("/dev/null", O_RDONLY | O_CLOEXEC) < 0 ? errno : 0;
}

void probe_cgroup1(void)
{
	char list[4096];

	if (read_text("/proc/cgroups", list, sizeof(list)) <= 0)
		fail_errno("/proc/cgroups");
	for (size_t i = 0; i < COUNT_OF(CONTROLLERS); i++)
		if (!listed(list, CONTROLLERS[i]))
			fail("no controller %s", CONTROLLERS[i]);
	make_group("devices");
	int before = run_inside(open_null);
	int denied = write_text(GROUP "/devices.deny", "a");
	int after = denied < 0 ? 0 : run_inside(open_null);
	if (before)
		fail("/dev/null inside a new group: %s", strerror(before));
	if (denied < 0 || after != EPERM)
		fail("a group without devices was not refused /dev/null");
	pass("%zu controllers; a group was refused its devices", COUNT_OF(CONTROLLERS));
}

void probe_cgroup1_cpuacct(void)
{
	unsigned long long before = 0, used_ns = 0;

	make_group("cpuacct");
	bool told = read_number(GROUP "/cpuacct.usage", &before);
	int burnt = run_inside(burn);
	told = told && read_number(GROUP "/cpuacct.usage", &used_ns);
	if (!told)
		fail("cpuacct.usage has no number");
	if (burnt || before || used_ns < BURN_NS)
		fail("a group took %llu ns, cpuacct.usage says %llu (%llu before)", BURN_NS, used_ns, before);
	pass("a group's %llu ms on a CPU were counted", used_ns / 1000000);
}

static bool state_becomes(const char *wanted)
{
	char state[32];

	for (int attempt = 0; attempt < 200; attempt++, sleep_ms(10))
		if (read_text(GROUP "/freezer.state", state, sizeof(state)) > 0 && strcmp(state, wanted) == 0)
			return true;
	return false;
}

void probe_cgroup1_freezer(void)
{
	char number[16];
	int status;

	make_group("freezer");
	pid_t child = fork();
	if (child < 0)
		fail_errno("fork");
	while (child == 0)
		pause();
	snprintf(number, sizeof(number), "%d", (int)child);
	bool frozen = write_text(GROUP "/cgroup.procs", number) == 0 &&
		      write_text(GROUP "/freezer.state", "FROZEN") == 0 && state_becomes("FROZEN");
	kill(child, SIGKILL);
	sleep_ms(50);
	/* Unlike in version 2, what is frozen does not even die. */
	bool held = waitpid(child, &status, WNOHANG) == 0;
	bool thawed = write_text(GROUP "/freezer.state", "THAWED") == 0 && state_becomes("THAWED");
	if (held)
		waitpid(child, &status, 0);
	if (!frozen || !held)
		fail("a group did not freeze");
	if (!thawed)
		fail("a group did not thaw");
	pass("a process was killed while frozen, and died once thawed");
}

/* What leaves through loopback and has a class of net_cls goes to police, which drops all that is longer than 1 byte. */
static void drop_classes(void)
{
	struct tc_police police = {.action = TC_POLICE_SHOT, .mtu = 1};
	/* This kind of filter wants a handle from whoever makes it. */
	struct tcmsg header = {.tcm_ifindex = (int)if_nametoindex("lo"), .tcm_handle = 1,
			       .tcm_parent = TC_H_MAKE(TC_H_CLSACT, TC_H_MIN_EGRESS),
			       .tcm_info = TC_H_MAKE(1u << 16, htons(ETH_P_ALL))};
	struct tc_request request;

	add_qdisc("lo", "clsact", TC_H_CLSACT, INGRESS_HANDLE);
	begin_tc(&request, RTM_NEWTFILTER, header, "cgroup");
	put_action(&request, TCA_CGROUP_ACT, "police", TCA_POLICE_TBF, &police, sizeof(police));
	send_tc(&request, "filter cgroup");
}

static int send_within_3_s(void)
{
	return datagram_arrives(AF_INET, 3000) ? 0 : 1;
}

static int send_within_50_ms(void)
{
	return datagram_arrives(AF_INET, 50) ? 0 : 1;
}

void probe_cgroup1_net_cls(void)
{
	drop_classes();
	make_group("net_cls");
	int before = run_inside(send_within_3_s);
	bool set = write_text(GROUP "/net_cls.classid", "0x10001") == 0;
	int after = run_inside(send_within_50_ms);
	if (before)
		fail("a datagram of a group without a class was dropped");
	if (!set || !after)
		fail("a datagram of a group with a class was not dropped");
	pass("a filter dropped what a group sent once it had a class");
}

void probe_cgroup1_net_prio(void)
{
	char map[256];

	make_group("net_prio");
	if (write_text(GROUP "/net_prio.ifpriomap", "lo 5") < 0)
		fail_errno("net_prio.ifpriomap");
	if (read_text(GROUP "/net_prio.ifpriomap", map, sizeof(map)) <= 0 || !strstr(map, "lo 5"))
		fail("net_prio.ifpriomap does not keep a priority: %s", map);
	pass("a priority on an interface is kept");
}

/* Opens an event that counts on the first CPU, for the group's processes alone. */
static int open_event(void)
{
	struct perf_event_attr clock = {.type = PERF_TYPE_SOFTWARE, .size = sizeof(clock),
					.config = PERF_COUNT_SW_CPU_CLOCK};
	int group = open(GROUP, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	if (group < 0)
		fail_errno("opening the group");
	int event = (int)syscall(SYS_perf_event_open, &clock, group, 0, -1, PERF_FLAG_PID_CGROUP | PERF_FLAG_FD_CLOEXEC);
	if (event < 0)
		fail_errno("an event of a group");
	return event;
}

static unsigned long long count_of(int event)
{
	unsigned long long count;

	if (read(event, &count, sizeof(count)) != sizeof(count))
		fail_errno("reading an event");
	return count;
}

void probe_cgroup1_perf(void)
{
	make_group("perf_event");
	int event = open_event();
	if (burn())
		fail_errno("moving to the first CPU");
	unsigned long long outside_ns = count_of(event);
	if (run_inside(burn))
		fail("a group's process cannot move to the first CPU");
	unsigned long long inside_ns = count_of(event) - outside_ns;
	if (outside_ns > BURN_NS / 10)
		fail("an event of a group counted %llu ms of what is not in it", outside_ns / 1000000);
	if (inside_ns < BURN_NS / 2)
		fail("an event counted %llu of the %llu ms that a group took", inside_ns / 1000000, BURN_NS / 1000000);
	pass("an event counted a group's %llu ms on a CPU, and nothing else", inside_ns / 1000000);
}
