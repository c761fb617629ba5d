/* SPDX-License-Identifier: Apache-2.0
 *
 * The machine's paravirtual devices: bound to a driver, and used once.
 */
#include "probe.h"
#include "util.h"
#include "virtio.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/virtio_ids.h>
#include <net/if.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/sysinfo.h>
#include <linux/vm_sockets.h> /* some releases of it need sys/socket.h first */
#include <unistd.h>

/* vsock to this very machine, through the loopback transport. */
static bool vsock_loopback(void)
{
	struct sockaddr_vm address = {.svm_family = AF_VSOCK, .svm_cid = VMADDR_CID_LOCAL, .svm_port = VMADDR_PORT_ANY};
	socklen_t size = sizeof(address);
	char byte;
	int server = socket(AF_VSOCK, SOCK_STREAM | SOCK_CLOEXEC, 0);
	int client = socket(AF_VSOCK, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (bind(server, (void *)&address, size) < 0 || listen(server, 1) < 0 ||
	    getsockname(server, (void *)&address, &size) < 0)
		return false;
	address.svm_cid = VMADDR_CID_LOCAL;
	if (connect(client, (void *)&address, size) < 0)
		return false;
	int peer = accept4(server, NULL, NULL, SOCK_CLOEXEC);
	return peer >= 0 && write_all(client, "x", 1) == 0 && read(peer, &byte, 1) == 1;
}

void probe_vsock(void)
{
	char folder[256];
	unsigned int cid = 0;
	int fd = socket(AF_VSOCK, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (fd < 0)
		fail_errno("socket(AF_VSOCK)");
	bool loopback = vsock_loopback();
	/* The loopback transport is a bonus: it proves nothing about a device. */
	virtio_require(VIRTIO_ID_VSOCK, folder, sizeof(folder));
	int device = open("/dev/vsock", O_RDONLY | O_CLOEXEC);
	if (device < 0)
		fail_errno("/dev/vsock");
	if (ioctl(device, IOCTL_VM_SOCKETS_GET_LOCAL_CID, &cid) < 0)
		fail_errno("IOCTL_VM_SOCKETS_GET_LOCAL_CID");
	if (cid <= VMADDR_CID_HOST || cid == VMADDR_CID_ANY)
		fail("the guest's CID is %u", cid);
	pass("CID %u%s", cid, loopback ? "; loopback too" : "");
}

void probe_virtio_console(void)
{
	char folder[256], path[300], port[64], name[128];

	virtio_require(VIRTIO_ID_CONSOLE, folder, sizeof(folder));
	snprintf(path, sizeof(path), "%s/virtio-ports", folder);
	if (first_entry(path, "vport", port, sizeof(port)) < 0)
		fail("attached, but it has no port");
	snprintf(path, sizeof(path), "/sys/class/virtio-ports/%.64s/name", port);
	if (read_text(path, name, sizeof(name)) <= 0)
		pass("port %s, a console", port);
	pass("port %s, %s", port, name);
}

void probe_virtio_blk(void)
{
	char folder[256], path[300], name[64], block[4096];

	virtio_require(VIRTIO_ID_BLOCK, folder, sizeof(folder));
	snprintf(path, sizeof(path), "%s/block", folder);
	if (first_entry(path, "vd", name, sizeof(name)) < 0)
		fail("attached, but it has no disk");
	snprintf(path, sizeof(path), "/dev/%s", name);
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		fail_errno("%s", path);
	if (read(fd, block, sizeof(block)) != (ssize_t)sizeof(block))
		fail_errno("reading %s", path);
	pass("%s read", path);
}

/* Reads the start of a disk, and writes its path. */
static void read_disk(const char *name, char *path, size_t size)
{
	char block[4096];

	snprintf(path, size, "/dev/%s", name);
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		fail_errno("%s", path);
	if (read(fd, block, sizeof(block)) != (ssize_t)sizeof(block))
		fail_errno("reading %s", path);
	close(fd);
}

void probe_virtio_scsi(void)
{
	char folder[256], path[80], name[64];

	virtio_require(VIRTIO_ID_SCSI, folder, sizeof(folder));
	/* Disks are found while the guest goes on booting. */
	for (int attempt = 0; attempt < 300; attempt++, sleep_ms(10))
		if (first_entry("/sys/block", "sd", name, sizeof(name)) == 0) {
			read_disk(name, path, sizeof(path));
			pass("%s read", path);
		}
	fail("attached, but it has no disk");
}

void probe_virtio_pmem(void)
{
	char folder[256], path[80], name[64];

	virtio_require(VIRTIO_ID_PMEM, folder, sizeof(folder));
	if (!pmem_disk(true, name, sizeof(name)))
		fail("attached, but there is no pmem device");
	read_disk(name, path, sizeof(path));
	pass("%s read", path);
}

static bool has_carrier(const char *interface)
{
	char path[128];
	unsigned long long carrier;

	snprintf(path, sizeof(path), "/sys/class/net/%s/carrier", interface);
	for (int attempt = 0; attempt < 300; attempt++, sleep_ms(10))
		if (read_number(path, &carrier) && carrier == 1)
			return true;
	return false;
}

void probe_virtio_net(void)
{
	char folder[256], path[300], name[IFNAMSIZ], address[32];
	unsigned long long flags = 0;

	virtio_require(VIRTIO_ID_NET, folder, sizeof(folder));
	snprintf(path, sizeof(path), "%s/net", folder);
	if (first_entry(path, "", name, sizeof(name)) < 0)
		fail("attached, but it has no interface");
	snprintf(path, sizeof(path), "/sys/class/net/%s/flags", name);
	read_number(path, &flags);
	snprintf(path, sizeof(path), "/sys/class/net/%s/address", name);
	if (read_text(path, address, sizeof(address)) <= 0)
		fail_errno("%s", path);
	bool was_up = flags & IFF_UP;
	if (!was_up && interface_set_up(name, true) < 0)
		fail_errno("bringing %s up", name);
	bool carrier = has_carrier(name);
	/* Under another init its network manager may have taken the interface over meanwhile. */
	if (!was_up && getppid() == 1)
		interface_set_up(name, false);
	if (!carrier)
		fail("%s has no carrier", name);
	pass("%s, %s, carrier", name, address);
}

void probe_virtio_rng(void)
{
	char folder[256], current[64], bytes[16];

	virtio_require(VIRTIO_ID_RNG, folder, sizeof(folder));
	if (read_text("/sys/class/misc/hw_random/rng_current", current, sizeof(current)) < 0)
		fail_errno("rng_current");
	if (strncmp(current, "virtio_rng", 10) != 0)
		fail("attached, but the current source is %s", current);
	int fd = open("/dev/hwrng", O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	if (fd < 0)
		fail_errno("/dev/hwrng");
	ssize_t got = read(fd, bytes, sizeof(bytes));
	/* poll(2) would not wait for it. */
	for (int attempt = 0; attempt < 150 && got < 0 && errno == EAGAIN; attempt++) {
		sleep_ms(20);
		got = read(fd, bytes, sizeof(bytes));
	}
	if (got <= 0)
		fail_errno("reading /dev/hwrng");
	pass("%s, %zd bytes read", current, got);
}

void probe_virtio_balloon(void)
{
	char folder[256];

	virtio_require(VIRTIO_ID_BALLOON, folder, sizeof(folder));
	pass("attached, driver bound");
}

/* linux/virtio_balloon.h: VIRTIO_BALLOON_F_REPORTING. What driver and device agreed on is a text of 0 and 1, bit 0 first. */
#define BALLOON_REPORTING 5
/* The kernel collects free pages for 2 s before it reports them (mm/page_reporting.c), from the driver's start on. */
#define REPORTED_WITHIN_MS 6000

/* Adds up the interrupts of a line of /proc/interrupts: a number for each CPU behind the colon. */
static unsigned long long interrupts_of(const char *line)
{
	unsigned long long sum = 0;
	const char *at = strchr(line, ':');
	char *end;

	for (at = at ? at + 1 : line;; at = end) {
		unsigned long long count = strtoull(at, &end, 10);

		if (end == at || *end != ' ')
			return sum;
		sum += count;
	}
}

/* How often a device said that it had read what is in its queues. False: its interrupts are not its own, or not listed (on
 * s390x they are all adapters'). The queue of reports may have a line of its own; else it shares one with queues that are
 * only used when the host asks for memory. */
static bool queue_interrupts(const char *device, unsigned long long *count)
{
	char line[8192], plain[80], queues[80], reports[80];
	bool found = false;
	FILE *interrupts = fopen("/proc/interrupts", "re");

	snprintf(plain, sizeof(plain), "%s", device);
	snprintf(queues, sizeof(queues), "%.64s-virtqueues", device);
	snprintf(reports, sizeof(reports), "%.64s-reporting_vq", device);
	while (interrupts && fgets(line, sizeof(line), interrupts)) {
		line[strcspn(line, "\n")] = '\0';
		const char *name = strrchr(line, ' ');
		/* One that others have as well lists their names, with commas. */
		if (!name || strchr(line, ',') ||
		    (strcmp(name + 1, plain) != 0 && strcmp(name + 1, queues) != 0 && strcmp(name + 1, reports) != 0))
			continue;
		*count = interrupts_of(line);
		found = true;
	}
	if (interrupts)
		fclose(interrupts);
	return found;
}

/* As many blocks the kernel leaves free, above the watermark below which it looks for memory (mm/page_reporting.c). */
#define BLOCKS_KEPT 32

/* How much memory (bytes) has to be free before the kernel reports any; 0: it does not say. */
static unsigned long long reported_beyond(void)
{
	unsigned long long order, min_free_kib = 0;

	if (!read_number("/sys/module/page_reporting/parameters/page_reporting_order", &order) || order > 30)
		return 0;
	read_number("/proc/sys/vm/min_free_kbytes", &min_free_kib);
	return ((unsigned long long)BLOCKS_KEPT << order) * (unsigned long long)sysconf(_SC_PAGESIZE) +
	       min_free_kib * 1024 * 5 / 4;
}

void probe_free_page_reporting(void)
{
	struct sysinfo memory;
	char folder[256], path[300], features[80];
	unsigned long long count = 0;

	virtio_require(VIRTIO_ID_BALLOON, folder, sizeof(folder));
	snprintf(path, sizeof(path), "%s/features", folder);
	if (read_text(path, features, sizeof(features)) <= BALLOON_REPORTING)
		fail_errno("%s", path);
	if (features[BALLOON_REPORTING] != '1')
		skip("the balloon does not offer it, or this kernel does not take it");
	const char *device = strrchr(folder, '/') + 1;
	if (!queue_interrupts(device, &count))
		pass("agreed on with the balloon, whose answers are not counted here");
	for (int waited_ms = 0; count == 0 && waited_ms < REPORTED_WITHIN_MS; waited_ms += 20) {
		sleep_ms(20);
		queue_interrupts(device, &count);
	}
	unsigned long long beyond = reported_beyond();
	if (count == 0 && sysinfo(&memory) == 0 && (unsigned long long)memory.freeram * memory.mem_unit <= beyond)
		pass("agreed on with the balloon; the kernel reports what is free beyond %llu MiB, and %llu MiB are", beyond >> 20,
		     (unsigned long long)memory.freeram * memory.mem_unit >> 20);
	if (count == 0)
		fail("agreed on with the balloon, which has seen no report within %d s", REPORTED_WITHIN_MS / 1000);
	pass("the balloon has read reports of free pages (%llu interrupts)", count);
}
