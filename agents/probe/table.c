/* SPDX-License-Identifier: Apache-2.0
 *
 * Every probe by name. A name, once released, keeps its meaning: kernel fragments and users refer to it.
 */
#include "probe.h"

#include <string.h>

const struct probe PROBES[] = {
	{.name = "root-dax", .proves = "the pmem root is mounted with dax", .run = probe_root_dax},
	{.name = "root-verity", .proves = "the mapped root is verified block by block", .run = probe_root_verity},
	{.name = "pmem", .proves = "an attached NVDIMM is a DAX block device", .run = probe_pmem},
	{.name = "tmpfs", .proves = "tmpfs mounts and keeps a file", .run = probe_tmpfs, .rooms = ROOM_SCRATCH},
	{.name = "tmpfs-xattr", .proves = "tmpfs keeps trusted attributes", .run = probe_tmpfs_xattr, .rooms = ROOM_SCRATCH},
	{.name = "devtmpfs", .proves = "devtmpfs mounts and holds devices", .run = probe_devtmpfs, .rooms = ROOM_SCRATCH},
	{.name = "proc", .proves = "proc mounts and shows processes", .run = probe_proc, .rooms = ROOM_SCRATCH},
	{.name = "sysfs", .proves = "sysfs mounts and lists devices", .run = probe_sysfs, .rooms = ROOM_SCRATCH},
	{.name = "overlayfs", .proves = "an overlay copies up and whites out", .run = probe_overlayfs, .rooms = ROOM_SCRATCH},
	{.name = "ext4", .proves = "the kernel knows ext4", .run = probe_ext4},
	{.name = "xfs", .proves = "xfs mounts and keeps a file", .run = probe_xfs, .rooms = ROOM_SCRATCH},
	{.name = "erofs", .proves = "erofs mounts and reads compressed files", .run = probe_erofs, .rooms = ROOM_SCRATCH},
	{.name = "9p", .proves = "9p mounts through its virtio transport", .run = probe_plan9, .rooms = ROOM_SCRATCH},
	{.name = "virtiofs", .proves = "the kernel knows virtiofs", .run = probe_virtiofs},
	{.name = "fuse", .proves = "a FUSE mount talks to its server", .run = probe_fuse, .rooms = ROOM_SCRATCH},
	{.name = "loop", .proves = "a file is read through a loop device", .run = probe_loop},
#define DEVICE_MAPPER(suffix, what, function)                                                                          \
	{.name = suffix, .proves = what, .run = function, .prepare = cleanup_device_mapper,                            \
	 .cleanup = cleanup_device_mapper}
	DEVICE_MAPPER("device-mapper", "a mapped device is made and loaded", probe_device_mapper),
	DEVICE_MAPPER("dm-verity", "verity reads a block with its hash and no other", probe_dm_verity),
	DEVICE_MAPPER("dm-crypt", "crypt stores encrypted what is written", probe_dm_crypt),
	DEVICE_MAPPER("dm-thin", "a thin volume is larger than its pool", probe_dm_thin),
#undef DEVICE_MAPPER
	{.name = "dm-integrity", .proves = "device mapper has the integrity target", .run = probe_dm_integrity},
#define CGROUP(suffix, what, function)                                                                                 \
	{.name = suffix, .proves = what, .run = function, .prepare = prepare_cgroup, .cleanup = cleanup_cgroup}
	CGROUP("cgroup2", "a process is moved into a cgroup2 group", probe_cgroup2),
	CGROUP("cgroup2-cpu", "a group keeps CPU weight and quota", probe_cgroup2_cpu),
	CGROUP("cgroup2-cpuset", "a group confines processes to CPUs", probe_cgroup2_cpuset),
	CGROUP("cgroup2-io", "a group accounts and throttles block I/O", probe_cgroup2_io),
	CGROUP("cgroup2-memory", "a group's memory limit is enforced", probe_cgroup2_memory),
	CGROUP("cgroup2-pids", "a group's process limit is enforced", probe_cgroup2_pids),
	CGROUP("cgroup2-freeze", "a group freezes, thaws and is killed", probe_cgroup2_freeze),
	CGROUP("bpf-cgroup-device", "a BPF program denies devices to a group", probe_bpf_cgroup_device),
#undef CGROUP
	{.name = "cgroup1", .proves = "a group of the devices controller has no devices", .run = probe_cgroup1,
	 .rooms = ROOM_SCRATCH},
	{.name = "mount-namespace", .proves = "mounts are separate", .run = probe_mount_namespace, .rooms = ROOM_SCRATCH},
	{.name = "uts-namespace", .proves = "host names are separate", .run = probe_uts_namespace},
	{.name = "ipc-namespace", .proves = "System V IPC is separate", .run = probe_ipc_namespace, .rooms = ROOM_IPC},
	{.name = "pid-namespace", .proves = "process numbers are separate", .run = probe_pid_namespace},
	{.name = "net-namespace", .proves = "network devices are separate", .run = probe_net_namespace},
	{.name = "cgroup-namespace", .proves = "the group hierarchy's root is separate", .run = probe_cgroup_namespace},
	{.name = "time-namespace", .proves = "clocks are separate", .run = probe_time_namespace},
	{.name = "user-namespace", .proves = "users are separate and root inside may mount", .run = probe_user_namespace,
	 .rooms = ROOM_SCRATCH},
	{.name = "seccomp", .proves = "a filter refuses a system call", .run = probe_seccomp},
	{.name = "bpf", .proves = "a BPF program is loaded and runs", .run = probe_bpf},
	{.name = "bpf-jit", .proves = "BPF programs are compiled", .run = probe_bpf_jit},
	{.name = "keyring", .proves = "a key is added and read", .run = probe_keyring},
	{.name = "security-modules", .proves = "Landlock and Yama are on", .run = probe_security_modules,
	 .rooms = ROOM_SCRATCH},
	{.name = "landlock", .proves = "a process shuts itself out of a folder", .run = probe_landlock,
	 .rooms = ROOM_SCRATCH},
	{.name = "yama",
	 .proves = "a process is traced by no sibling",
	 .run = probe_yama,
	 .prepare = prepare_yama,
	 .cleanup = cleanup_yama},
	{.name = "selinux", .proves = "SELinux is on where it was chosen", .run = probe_selinux, .rooms = ROOM_SCRATCH},
	{.name = "apparmor", .proves = "AppArmor is on where it was chosen", .run = probe_apparmor, .rooms = ROOM_SCRATCH},
	{.name = "lockdown", .proves = "the kernel is locked down for good", .run = probe_lockdown, .rooms = ROOM_SCRATCH},
	{.name = "epoll", .proves = "epoll reports an event", .run = probe_epoll},
	{.name = "eventfd", .proves = "eventfd counts", .run = probe_eventfd},
	{.name = "timerfd", .proves = "timerfd fires", .run = probe_timerfd},
	{.name = "signalfd", .proves = "signalfd delivers a signal", .run = probe_signalfd},
	{.name = "pidfd", .proves = "pidfd signals and awaits a process", .run = probe_pidfd},
	{.name = "inotify", .proves = "inotify reports a write", .run = probe_inotify, .rooms = ROOM_SCRATCH},
	{.name = "fanotify", .proves = "fanotify reports a write", .run = probe_fanotify, .rooms = ROOM_SCRATCH},
	{.name = "posix-mqueue", .proves = "a POSIX message queue works and is listed", .run = probe_posix_mqueue,
	 .rooms = ROOM_SCRATCH | ROOM_IPC},
	{.name = "sysvipc", .proves = "System V memory, messages and semaphores work", .run = probe_sysvipc, .rooms = ROOM_IPC},
	{.name = "unix-socket", .proves = "Unix sockets connect", .run = probe_unix_socket},
	{.name = "inet", .proves = "TCP over IPv4 loopback", .run = probe_inet, .rooms = ROOM_NET},
	{.name = "inet6", .proves = "TCP over IPv6 loopback", .run = probe_inet6, .rooms = ROOM_NET},
	{.name = "packet-socket", .proves = "raw frames are sent and received", .run = probe_packet_socket, .rooms = ROOM_NET},
	{.name = "veth", .proves = "a veth pair joins two network namespaces", .run = probe_veth, .rooms = ROOM_NET},
	{.name = "bridge", .proves = "a bridge forwards between ports", .run = probe_bridge, .rooms = ROOM_NET},
	{.name = "macvlan", .proves = "a macvlan device is made and brought up", .run = probe_macvlan, .rooms = ROOM_NET},
	{.name = "ipvlan", .proves = "two ipvlan devices talk", .run = probe_ipvlan, .rooms = ROOM_NET},
	{.name = "vxlan", .proves = "a frame goes through a VXLAN tunnel", .run = probe_vxlan, .rooms = ROOM_NET},
	{.name = "tc-redirect", .proves = "a filter redirects frames", .run = probe_tc_redirect, .rooms = ROOM_NET},
	{.name = "tc-police", .proves = "a filter drops long frames", .run = probe_tc_police, .rooms = ROOM_NET},
	{.name = "tc-rate", .proves = "a class keeps its rate", .run = probe_tc_rate, .rooms = ROOM_NET},
	{.name = "tc-bpf", .proves = "a BPF program drops frames", .run = probe_tc_bpf, .rooms = ROOM_NET},
	{.name = "tun", .proves = "a tun device hands packets to a process", .run = probe_tun, .rooms = ROOM_NET},
	{.name = "nftables", .proves = "an nftables rule drops a packet", .run = probe_nftables, .rooms = ROOM_NET},
	{.name = "nftables-nat", .proves = "an nftables chain masquerades", .run = probe_nftables_nat, .rooms = ROOM_NET},
	{.name = "iptables-legacy", .proves = "the legacy filter table answers", .run = probe_iptables_legacy, .rooms = ROOM_NET},
	{.name = "vsock", .proves = "vsock has an address on an attached device", .run = probe_vsock},
	{.name = "virtio-console", .proves = "virtio-console has a port", .run = probe_virtio_console},
	{.name = "virtio-blk", .proves = "virtio-blk reads", .run = probe_virtio_blk},
	{.name = "virtio-scsi", .proves = "a disk of virtio-scsi reads", .run = probe_virtio_scsi},
	{.name = "virtio-pmem", .proves = "virtio-pmem reads", .run = probe_virtio_pmem},
	{.name = "virtio-net", .proves = "virtio-net has a carrier", .run = probe_virtio_net},
	{.name = "virtio-rng", .proves = "virtio-rng feeds /dev/hwrng", .run = probe_virtio_rng},
	{.name = "virtio-balloon", .proves = "virtio-balloon is driven", .run = probe_virtio_balloon},
	{.name = "vfio", .proves = "VFIO maps memory for devices", .run = probe_vfio},
	{.name = "iommu", .proves = "an attached IOMMU has devices behind it", .run = probe_iommu},
	{.name = "modules", .proves = "a module is loaded", .run = probe_modules},
	{.name = "entropy", .proves = "the random pool is ready", .run = probe_entropy},
	{.name = "memory", .proves = "memory is there and holds what is written", .run = probe_memory},
	{.name = "vcpus", .proves = "every present CPU is online and runs", .run = probe_vcpus},
	{.name = "ptp", .proves = "the hypervisor's PTP clock is read", .run = probe_ptp},
	{.name = "clock", .proves = "the time of day is known", .run = probe_clock},
	{.name = "hugepages", .proves = "a huge page is mapped", .run = probe_hugepages},
	{.name = "kmsg", .proves = "the kernel log is read through /dev/kmsg", .run = probe_kmsg},
	{.name = "memory-hotplug", .proves = "memory blocks can come online", .run = probe_memory_hotplug},
	{.name = "cpu-hotplug", .proves = "CPUs can come and go", .run = probe_cpu_hotplug},
};

const size_t PROBE_COUNT = COUNT_OF(PROBES);

const struct probe *probe_find(const char *name, size_t length)
{
	for (size_t i = 0; i < PROBE_COUNT; i++)
		if (strlen(PROBES[i].name) == length && strncmp(PROBES[i].name, name, length) == 0)
			return &PROBES[i];
	return NULL;
}
