/* SPDX-License-Identifier: Apache-2.0 */
#include "init.h"
#include "probe.h"
#include "util.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <linux/reboot.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <sys/utsname.h>
#include <sys/vfs.h>
#include <sys/wait.h>
#include <unistd.h>

#define END_LIMIT_MS 30000

struct mount_point {
	const char *path;
	const char *type;
	unsigned long flags;
	const char *options;
};

static const struct mount_point MOUNT_POINTS[] = {
	{"/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL},
	{"/sys", "sysfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL},
	{"/dev", "devtmpfs", MS_NOSUID, "mode=755"},
	{"/dev/pts", "devpts", MS_NOSUID | MS_NOEXEC, "gid=5,mode=620,ptmxmode=666"},
	{"/dev/shm", "tmpfs", MS_NOSUID | MS_NODEV, "mode=1777"},
	{"/run", "tmpfs", MS_NOSUID | MS_NODEV, "mode=755"},
	{"/tmp", "tmpfs", MS_NOSUID | MS_NODEV, "mode=1777"},
	{"/sys/fs/cgroup", "cgroup2", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL},
};

static const struct {
	const char *target;
	const char *path;
} LINKS[] = {
	{"/proc/self/fd", "/dev/fd"},
	{"/proc/self/fd/0", "/dev/stdin"},
	{"/proc/self/fd/1", "/dev/stdout"},
	{"/proc/self/fd/2", "/dev/stderr"},
};

static bool in_memory(const char *path)
{
	struct statfs status;

	return statfs(path, &status) == 0 && (status.f_type == RAMFS_MAGIC || status.f_type == TMPFS_MAGIC);
}

/* A missing folder is made only where that writes to memory: an initrd's root, or /dev. A disk is never written to. */
static void mount_at(const struct mount_point *point)
{
	char parent[64];

	snprintf(parent, sizeof(parent), "%s", point->path);
	*(strrchr(parent, '/') + 1) = '\0';
	if (!exists(point->path) && in_memory(parent))
		mkdir(point->path, 0755);
	/* EBUSY: the kernel (CONFIG_DEVTMPFS_MOUNT) or an initrd has mounted it already. */
	if (mount(point->type, point->path, point->type, point->flags, point->options) < 0 && errno != EBUSY)
		dprintf(STDERR_FILENO, AGENT_NAME ": mounting %s on %s: %s\n", point->type, point->path, strerror(errno));
}

/* The kernel opens /dev/console for PID 1, unless the initrd has none; then it is there once devtmpfs is. */
static void open_console(void)
{
	if (fcntl(STDERR_FILENO, F_GETFD) >= 0)
		return;
	int fd = open("/dev/console", O_RDWR | O_NOCTTY);
	if (fd < 0)
		fd = open("/dev/null", O_RDWR);
	for (int standard = 0; fd >= 0 && standard <= 2; standard++)
		if (fd != standard && fcntl(standard, F_GETFD) < 0)
			dup2(fd, standard);
	if (fd > 2)
		close(fd);
}

static void awaited(sigset_t *set)
{
	sigemptyset(set);
	sigaddset(set, SIGCHLD);
	sigaddset(set, SIGTERM);
	sigaddset(set, SIGINT);
	sigaddset(set, SIGPWR);
}

void init_system(void)
{
	sigset_t set;

	umask(0);
	for (size_t i = 0; i < COUNT_OF(MOUNT_POINTS); i++)
		mount_at(&MOUNT_POINTS[i]);
	for (size_t i = 0; i < COUNT_OF(LINKS); i++)
		if (in_memory("/dev") && symlink(LINKS[i].target, LINKS[i].path) < 0 && errno != EEXIST)
			dprintf(STDERR_FILENO, AGENT_NAME ": %s: %s\n", LINKS[i].path, strerror(errno));
	umask(022);
	open_console();
	awaited(&set);
	sigprocmask(SIG_BLOCK, &set, NULL);
	/* Ctrl-Alt-Del arrives as SIGINT instead of resetting the machine. */
	reboot(LINUX_REBOOT_CMD_CAD_OFF);
	if (interface_set_up("lo", true) < 0)
		dprintf(STDERR_FILENO, AGENT_NAME ": bringing loopback up: %s\n", strerror(errno));
}

void stay_as_init(void)
{
	sigset_t set;
	int number = SIGCHLD;

	awaited(&set);
	while (number == SIGCHLD || number < 0) {
		while (waitpid(-1, NULL, WNOHANG) > 0)
			;
		number = sigwaitinfo(&set, NULL);
	}
}

/* An x86 machine without ACPI (QEMU's microvm, Firecracker) has no power switch: asked to power off, its kernel halts
 * and the monitor runs on. What ends it is a reset, which such monitors take as the end (QEMU: -no-reboot). */
static bool has_power_switch(void)
{
	struct utsname names;

	if (uname(&names) < 0 || strcmp(names.machine, "x86_64") != 0)
		return true;
	return exists("/sys/firmware/acpi/tables");
}

int end_machine(void)
{
	char init[32] = "";
	bool power_off = has_power_switch();

	sync();
	if (getpid() != 1 && read_text("/proc/1/comm", init, sizeof(init)) > 0 && strcmp(init, "systemd") == 0) {
		/* systemd(1), signals: poweroff.target and reboot.target, units stopped in order. */
		if (kill(1, SIGRTMIN + (power_off ? 4 : 5)) < 0)
			return -1;
		sleep_ms(END_LIMIT_MS);
		return -1;
	}
	reboot(power_off ? LINUX_REBOOT_CMD_POWER_OFF : LINUX_REBOOT_CMD_RESTART);
	return -1;
}
