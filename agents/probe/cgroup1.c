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
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

void make_group(const char *controller)
{
	if (mkdir("mnt", 0755) < 0)
		fail_errno("mkdir mnt");
	if (mount("probe", "mnt", "cgroup", 0, controller) < 0) {
		if (errno == EBUSY)
			skip("version 2 has groups with the controller %s", controller);
		fail_errno("mount -t cgroup -o %s", controller);
	}
	if (mkdir(GROUP, 0755) < 0)
		fail_errno("mkdir %s", GROUP);
}

void undo_group(const char *controller)
{
	char number[16];

	if (mkdir("mnt", 0755) < 0 || mount("probe", "mnt", "cgroup", 0, controller) < 0)
		return;
	/* What is frozen does not even die. */
	if (exists(GROUP "/freezer.state"))
		write_text(GROUP "/freezer.state", "THAWED");
	while (read_text(GROUP "/cgroup.procs", number, sizeof(number)) > 0 && kill(atoi(number), SIGKILL) == 0)
		sleep_ms(10);
	/* It goes once its processes have been reaped; the kernel takes a moment for that. */
	for (int attempt = 0; attempt < 50 && rmdir(GROUP) < 0 && errno == EBUSY; attempt++)
		sleep_ms(10);
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
