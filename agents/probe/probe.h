/* SPDX-License-Identifier: Apache-2.0
 *
 * What every part of the agent shares: a probe, its verdict, and how a probe speaks.
 *
 * A probe is a function that runs in a forked child of the agent. It ends by calling pass(), fail(), fail_errno() or
 * skip(), none of which return: whatever the probe holds (descriptors, namespaces, mounts) goes with the child.
 */
#ifndef OSBUILDER_PROBE_H
#define OSBUILDER_PROBE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define AGENT_NAME "osbuilder-probe"
#define AGENT_VERSION "1.0.0"
#define REPORT_SCHEMA 1
#define PORT_NAME "org.osbuilder.report"

#define COUNT_OF(array) (sizeof(array) / sizeof((array)[0]))

enum result { RESULT_NONE, RESULT_PASS, RESULT_FAIL, RESULT_SKIP };

/* Lives in memory shared by the agent and the probe's child. */
struct verdict {
	enum result result;
	char detail[240];
};

/* What the runner prepares in the child before it calls the probe. */
enum room {
	ROOM_NONE = 0,
	ROOM_SCRATCH = 1 << 0, /* own mount namespace; the working directory is an empty tmpfs */
	ROOM_NET = 1 << 1,     /* own network namespace, loopback up */
	ROOM_IPC = 1 << 2,     /* own IPC namespace */
};

struct probe {
	const char *name;
	const char *proves; /* one line */
	void (*run)(void);
	unsigned int rooms;
	unsigned int seconds; /* that it may take; 0: as long as probes usually may */
	/* Both run in the agent, before the child and after it has ended, however it ended; either may be NULL. */
	void (*prepare)(void);
	void (*cleanup)(void);
	/* The same, but in a child of its own, in the same rooms as the probe: for what is undone through a mount. */
	void (*undo)(void);
};

struct outcome {
	const struct probe *probe;
	struct verdict verdict;
	uint64_t duration_us;
};

/* Ends the calling probe. */
void pass(const char *format, ...) __attribute__((noreturn, format(printf, 1, 2)));
void fail(const char *format, ...) __attribute__((noreturn, format(printf, 1, 2)));
void fail_errno(const char *format, ...) __attribute__((noreturn, format(printf, 1, 2)));
void skip(const char *format, ...) __attribute__((noreturn, format(printf, 1, 2)));

/* table.c */
extern const struct probe PROBES[];
extern const size_t PROBE_COUNT;
const struct probe *probe_find(const char *name, size_t length);

/* runner.c: runs one probe in a child with a time limit; never fails itself, reaps whatever else has died. */
void probe_run(const struct probe *probe, struct outcome *outcome);
void runner_prepare(void);

/* One group a file; table.c lists them. */
#define DECLARE(name) void probe_##name(void)
/* probes_fs.c */
DECLARE(tmpfs);
DECLARE(tmpfs_xattr);
DECLARE(tmpfs_acl);
DECLARE(devtmpfs);
DECLARE(proc);
DECLARE(sysfs);
DECLARE(overlayfs);
DECLARE(ext4);
DECLARE(xfs);
DECLARE(erofs);
DECLARE(plan9);
DECLARE(virtiofs);
DECLARE(fuse);
/* probes_binfmt.c */
DECLARE(binfmt_misc);
void undo_binfmt_misc(void);
/* probes_block.c */
DECLARE(root_dax);
DECLARE(pmem);
DECLARE(loop);
DECLARE(gpt);
/* probes_dm.c */
DECLARE(device_mapper);
DECLARE(dm_verity);
DECLARE(root_verity);
DECLARE(dm_crypt);
DECLARE(dm_integrity);
DECLARE(dm_thin);
void cleanup_device_mapper(void);
/* probes_cgroup.c */
DECLARE(cgroup2);
DECLARE(cgroup2_cpu);
DECLARE(cgroup2_cpuset);
DECLARE(cgroup2_io);
DECLARE(cgroup2_memory);
DECLARE(cgroup2_pids);
DECLARE(cgroup2_freeze);
DECLARE(cgroup2_hugetlb);
DECLARE(cgroup2_misc);
DECLARE(cgroup2_io_weight);
DECLARE(bpf_cgroup_device);
void prepare_cgroup(void);
void cleanup_cgroup(void);
void prepare_cgroup_hugetlb(void);
void cleanup_cgroup_hugetlb(void);
/* probes_cgroup1.c */
DECLARE(cgroup1);
void undo_cgroup1_devices(void);
DECLARE(cgroup1_cpuacct);
void undo_cgroup1_cpuacct(void);
DECLARE(cgroup1_freezer);
void undo_cgroup1_freezer(void);
DECLARE(cgroup1_net_cls);
void undo_cgroup1_net_cls(void);
DECLARE(cgroup1_net_prio);
void undo_cgroup1_net_prio(void);
DECLARE(cgroup1_perf);
void undo_cgroup1_perf(void);
/* probes_cgroup1_limits.c */
DECLARE(cgroup1_memory);
void undo_cgroup1_memory(void);
DECLARE(cgroup1_cpu);
void undo_cgroup1_cpu(void);
DECLARE(cgroup1_cpuset);
void undo_cgroup1_cpuset(void);
DECLARE(cgroup1_pids);
void undo_cgroup1_pids(void);
DECLARE(cgroup1_hugetlb);
void undo_cgroup1_hugetlb(void);
DECLARE(cgroup1_blkio);
void undo_cgroup1_blkio(void);
/* probes_ns.c */
DECLARE(mount_namespace);
DECLARE(uts_namespace);
DECLARE(ipc_namespace);
DECLARE(pid_namespace);
DECLARE(net_namespace);
DECLARE(cgroup_namespace);
DECLARE(time_namespace);
DECLARE(user_namespace);
/* probes_sandbox.c */
DECLARE(seccomp);
DECLARE(bpf);
DECLARE(bpf_jit);
DECLARE(keyring);
/* probes_lsm.c */
DECLARE(security_modules);
DECLARE(landlock);
DECLARE(yama);
void prepare_yama(void);
void cleanup_yama(void);
DECLARE(selinux);
DECLARE(apparmor);
void undo_apparmor(void);
DECLARE(lockdown);
/* probes_events.c */
DECLARE(epoll);
DECLARE(eventfd);
DECLARE(io_uring);
DECLARE(timerfd);
DECLARE(signalfd);
DECLARE(pidfd);
DECLARE(inotify);
DECLARE(fanotify);
DECLARE(posix_mqueue);
DECLARE(sysvipc);
/* probes_net.c */
DECLARE(unix_socket);
DECLARE(inet);
DECLARE(inet6);
DECLARE(packet_socket);
DECLARE(ip_config);
DECLARE(veth);
DECLARE(bridge);
DECLARE(macvlan);
DECLARE(vlan);
DECLARE(ipvlan);
DECLARE(vxlan);
DECLARE(tun);
/* probes_tc.c */
DECLARE(tc_redirect);
DECLARE(tc_police);
DECLARE(tc_rate);
DECLARE(tc_bpf);
/* probes_netfilter.c */
DECLARE(nftables);
DECLARE(nftables_nat);
DECLARE(nftables_fib);
DECLARE(nftables_balance);
DECLARE(nftables_log);
DECLARE(nftables_xtables);
DECLARE(tproxy);
DECLARE(bridge_netfilter);
/* probes_xtables.c */
#define XTABLES_SECONDS 30
DECLARE(xtables_matches);
DECLARE(xtables_conntrack);
DECLARE(xtables_targets);
/* probes_iptables.c */
DECLARE(iptables_legacy);
DECLARE(ip6tables_legacy);
/* probes_virtio.c */
DECLARE(vsock);
DECLARE(virtio_console);
DECLARE(virtio_blk);
DECLARE(virtio_scsi);
DECLARE(virtio_pmem);
DECLARE(virtio_net);
DECLARE(virtio_rng);
DECLARE(virtio_balloon);
DECLARE(free_page_reporting);
/* probes_passthrough.c */
DECLARE(vfio);
DECLARE(vfio_device);
void undo_vfio_device(void);
DECLARE(iommu);
/* probes_platform.c */
DECLARE(uefi);
DECLARE(vmgenid);
DECLARE(power_button);
/* probes_plug.c */
#define PLUG_SECONDS 34
DECLARE(cpu_plug);
DECLARE(memory_plug);
DECLARE(virtio_mem_plug);
DECLARE(pci_plug);
DECLARE(pcie_plug);
DECLARE(shpc_plug);
/* probes_crash.c */
DECLARE(core_dump);
void prepare_core_dump(void);
void cleanup_core_dump(void);
DECLARE(kallsyms);
/* probes_debug.c */
DECLARE(btf);
DECLARE(ftrace);
void undo_ftrace(void);
DECLARE(kprobe);
void undo_kprobe(void);
DECLARE(diagnostics);
/* probes_hardening.c */
DECLARE(kaslr);
DECLARE(mitigations);
DECLARE(pti);
/* probes_modules.c */
DECLARE(modules);
/* probes_machine.c */
DECLARE(entropy);
DECLARE(memory);
DECLARE(vcpus);
DECLARE(ptp);
DECLARE(clock);
DECLARE(hugepages);
DECLARE(kmsg);
DECLARE(memory_hotplug);
DECLARE(cpu_hotplug);
void undo_offline_cpus(void);
#undef DECLARE

#endif
