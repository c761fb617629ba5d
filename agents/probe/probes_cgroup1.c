/* SPDX-License-Identifier: Apache-2.0
 *
 * Control groups, version 1 (Documentation/admin-guide/cgroup-v1), for systems that mount them. The controllers that
 * version 2 has are not taken from it: a guest may be using them.
 */
#include "probe.h"
#include "util.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define GROUP "mnt/osbuilder-probe"

static const char *const CONTROLLERS[] = {"cpuset",  "cpu",     "cpuacct",  "blkio", "memory", "devices",
					  "freezer", "net_cls", "net_prio", "pids",  "hugetlb"};

/* A controller is a line that begins with its name and a tab. */
static bool listed(const char *list, const char *controller)
{
	char start[32];

	snprintf(start, sizeof(start), "\n%s\t", controller);
	return strstr(list, start) != NULL;
}

/* Joins the group and opens /dev/null: 0, or the errno of the one that was refused. */
static int open_inside(void)
{
	int status;
	pid_t child = fork();

	if (child < 0)
		fail_errno("fork");
	if (child == 0) {
		if (write_text(GROUP "/cgroup.procs", "0") < 0)
			_exit(255);
		_exit(open("/dev/null", O_RDONLY | O_CLOEXEC) < 0 ? errno : 0);
	}
	if (waitpid(child, &status, 0) < 0 || !WIFEXITED(status) || WEXITSTATUS(status) == 255)
		fail("no process can be put into the group");
	return WEXITSTATUS(status);
}

void probe_cgroup1(void)
{
	char list[4096];

	if (read_text("/proc/cgroups", list, sizeof(list)) <= 0)
		fail_errno("/proc/cgroups");
	for (size_t i = 0; i < COUNT_OF(CONTROLLERS); i++)
		if (!listed(list, CONTROLLERS[i]))
			fail("no controller %s", CONTROLLERS[i]);
	if (mkdir("mnt", 0755) < 0 || mount("probe", "mnt", "cgroup", 0, "devices") < 0)
		fail_errno("mount -t cgroup -o devices");
	if (mkdir(GROUP, 0755) < 0)
		fail_errno("mkdir %s", GROUP);
	int before = open_inside();
	int denied = write_text(GROUP "/devices.deny", "a");
	int after = denied < 0 ? 0 : open_inside();
	/* A group goes once its processes have been reaped; the kernel takes a moment for that. */
	for (int attempt = 0; attempt < 50 && rmdir(GROUP) < 0 && errno == EBUSY; attempt++)
		sleep_ms(10);
	if (before)
		fail("/dev/null inside a new group: %s", strerror(before));
	if (denied < 0 || after != EPERM)
		fail("a group without devices was not refused /dev/null");
	pass("%zu controllers; a group was refused its devices", COUNT_OF(CONTROLLERS));
}
