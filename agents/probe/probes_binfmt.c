/* SPDX-License-Identifier: Apache-2.0
 *
 * Programs of other formats, which run through an interpreter (Documentation/admin-guide/binfmt-misc.rst).
 */
#include "probe.h"
#include "util.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

/* Nothing else begins with it. */
#define MAGIC "osbuilder!"
#define REGISTERED "mnt/osbuilder-probe"

/* What it is exits with when it is given an argument that it does not know, as an interpreter is: the file's name. */
#define EXIT_USAGE 2

/* A process that becomes the file: its exit status. */
static int run_file(const char *path)
{
	int status;
	pid_t child = fork();

	if (child < 0)
		fail_errno("fork");
	if (child == 0) {
		int null = open("/dev/null", O_WRONLY);

		dup2(null, STDERR_FILENO);
		execl(path, path, (char *)NULL);
		_exit(errno == ENOEXEC ? 126 : 127);
	}
	if (waitpid(child, &status, 0) < 0 || !WIFEXITED(status))
		fail("%s did not run to its end", path);
	return WEXITSTATUS(status);
}

static void mount_formats(void)
{
	if (mkdir("mnt", 0755) < 0)
		fail_errno("mkdir mnt");
	if (mount("probe", "mnt", "binfmt_misc", 0, NULL) < 0)
		fail_errno("mount -t binfmt_misc");
}

/* The agent itself is the interpreter: it is the one program that is there in any case. */
void probe_binfmt_misc(void)
{
	/* F: it is opened now, by whoever registers it. */
	static const char rule[] = ":osbuilder-probe:M::" MAGIC "::/proc/self/exe:F";
	int fd = open("program", O_WRONLY | O_CREAT | O_CLOEXEC, 0755);

	if (fd < 0 || write_all(fd, MAGIC, strlen(MAGIC)) < 0)
		fail_errno("a program");
	close(fd);
	mount_formats();
	int before = run_file("./program");
	if (write_text("mnt/register", rule) < 0)
		fail_errno("registering a format");
	int after = run_file("./program");
	if (before != 126)
		fail("a file of no format was run (exit status %d)", before);
	if (after != EXIT_USAGE)
		fail("a program's interpreter was not run (exit status %d)", after);
	pass("a program was run by the interpreter of its format");
}

void undo_binfmt_misc(void)
{
	mount_formats();
	write_text(REGISTERED, "-1");
}
