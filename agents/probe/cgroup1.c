/* SPDX-License-Identifier: Apache-2.0
 *
 * A group in the hierarchy of one controller of version 1 (Documentation/admin-guide/cgroup-v1).
 */
#include "cgroup1.h"
#include "probe.h"
#include "util.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

/* The kernel takes moments: for what dies, for the group that held it, and to hand a controller back. */
#define MOMENTS 200
#define MOMENT_MS 10
/* Under another init version 2 has its controllers for good: no use to wait for long. */
#define MOMENTS_TO_TAKE 50

static int mount_controller(const char *controller)
{
	for (int moment = 0; moment < MOMENTS_TO_TAKE; moment++, sleep_ms(MOMENT_MS))
		if (mount("probe", "mnt", "cgroup", 0, controller) == 0)
			return 0;
		else if (errno != EBUSY)
			return -1;
	errno = EBUSY;
	return -1;
}

void make_group(const char *controller)
{
	if (mkdir("mnt", 0755) < 0)
		fail_errno("mkdir mnt");
	if (mount_controller(controller) < 0) {
		if (errno == EBUSY)
			skip("version 2 has groups with the controller %s", controller);
		fail_errno("mount -t cgroup -o %s", controller);
	}
	if (mkdir(GROUP, 0755) < 0)
		fail_errno("mkdir %s", GROUP);
}

/* What /proc/cgroups says of a controller; false: it has none such. */
static bool state_of(const char *controller, unsigned int *hierarchy, unsigned int *groups)
{
	char list[4096], start[32];

	if (read_text("/proc/cgroups", list, sizeof(list)) <= 0)
		return false;
	snprintf(start, sizeof(start), "\n%s\t", controller);
	const char *line = strstr(list, start);
	return line && sscanf(line + strlen(start), "%u %u", hierarchy, groups) == 2;
}

void undo_group(const char *controller)
{
	unsigned int hierarchy = 1, groups = 2;
	char number[16];

	if (mkdir("mnt", 0755) < 0 || mount("probe", "mnt", "cgroup", 0, controller) < 0)
		return;
	/* What is frozen does not even die. */
	if (exists(GROUP "/freezer.state"))
		write_text(GROUP "/freezer.state", "THAWED");
	while (read_text(GROUP "/cgroup.procs", number, sizeof(number)) > 0 && kill(atoi(number), SIGKILL) == 0)
		sleep_ms(MOMENT_MS);
	/* Pages of the dead on the lists of a CPU that has nothing to do would keep the group for as long as it has not. */
	if (exists(GROUP "/memory.force_empty"))
		write_text(GROUP "/memory.force_empty", "0");
	for (int moment = 0; moment < MOMENTS && rmdir(GROUP) < 0 && errno == EBUSY; moment++)
		sleep_ms(MOMENT_MS);
	/* A hierarchy goes when it is unmounted, unless it has groups then: also such as are on their way out. */
	for (int moment = 0; moment < MOMENTS && state_of(controller, &hierarchy, &groups) && groups > 1; moment++)
		sleep_ms(MOMENT_MS);
	umount("mnt");
	for (int moment = 0; moment < MOMENTS && state_of(controller, &hierarchy, &groups) && hierarchy; moment++)
		sleep_ms(MOMENT_MS);
}

void set(const char *file, const char *value)
{
	char path[128];

	snprintf(path, sizeof(path), GROUP "/%s", file);
	if (write_text(path, value) < 0)
		fail_errno("writing \"%s\" to %s", value, file);
}

/* Beside what `work` returns and what a signal makes of it. */
#define NOT_INSIDE 255

int status_inside(int (*work)(void))
{
	int status;
	pid_t child = fork();

	if (child < 0)
		fail_errno("fork");
	if (child == 0)
		_exit(write_text(GROUP "/cgroup.procs", "0") < 0 ? NOT_INSIDE : work());
	if (waitpid(child, &status, 0) < 0)
		fail_errno("waitpid");
	if (WIFEXITED(status) && WEXITSTATUS(status) == NOT_INSIDE)
		fail("no process can be put into the group");
	return status;
}

int run_inside(int (*work)(void))
{
	int status = status_inside(work);

	if (!WIFEXITED(status))
		fail("a process in the group was killed (wait status %#x)", (unsigned int)status);
	return WEXITSTATUS(status);
}
