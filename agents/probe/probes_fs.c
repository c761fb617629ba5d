/* SPDX-License-Identifier: Apache-2.0
 *
 * Filesystems. They are mounted and used, on a loop device where they need one; of those that need another device or more
 * memory, fsopen(2) says whether the kernel knows the type (and loads its module where there is one).
 */
#include "images.h"
#include "loop.h"
#include "probe.h"
#include "util.h"
#include "virtio.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fuse.h>
#include <linux/loop.h>
#include <linux/magic.h>
#include <linux/virtio_ids.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/vfs.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <unistd.h>

static void make_folder(const char *path)
{
	if (mkdir(path, 0755) < 0)
		fail_errno("mkdir %s", path);
}

static void make_file(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);

	if (fd < 0 || write_all(fd, text, strlen(text)) < 0)
		fail_errno("writing %s", path);
	close(fd);
}

static void expect_file(const char *path, const char *text)
{
	char got[64];

	if (read_text(path, got, sizeof(got)) < 0)
		fail_errno("reading %s", path);
	if (strcmp(got, text) != 0)
		fail("%s holds \"%s\", not the \"%s\" that was written", path, got, text);
}

static void mount_here(const char *type, const char *options)
{
	make_folder("mnt");
	if (mount("probe", "mnt", type, MS_NOSUID, options) < 0)
		fail_errno("mount -t %s", type);
}

/* Ends the probe unless the kernel knows the filesystem type. */
static void require_type(const char *type)
{
	int fd = (int)syscall(SYS_fsopen, type, 0);

	if (fd < 0 && errno == ENODEV)
		fail("the kernel has no filesystem %s", type);
	if (fd < 0)
		fail_errno("fsopen(%s)", type);
	close(fd);
}

void probe_tmpfs(void)
{
	struct statfs status;

	mount_here("tmpfs", "size=1m,mode=700");
	make_file("mnt/file", "tmpfs");
	expect_file("mnt/file", "tmpfs");
	if (statfs("mnt", &status) < 0)
		fail_errno("statfs");
	if (status.f_type != TMPFS_MAGIC)
		fail("mounted as tmpfs, but its magic number is %#lx", (unsigned long)status.f_type);
	pass("mounted, written and read");
}

void probe_tmpfs_xattr(void)
{
	char value[8];

	make_file("file", "");
	if (setxattr("file", "trusted.osbuilder", "probe", 5, 0) < 0)
		fail_errno("setxattr trusted.osbuilder");
	if (getxattr("file", "trusted.osbuilder", value, sizeof(value)) != 5 || memcmp(value, "probe", 5) != 0)
		fail("trusted.osbuilder does not read back as it was written");
	if (setxattr("file", "user.osbuilder", "probe", 5, 0) < 0)
		pass("trusted.* kept; no user.* (%s)", strerror(errno));
	pass("trusted.* and user.* kept");
}

void probe_devtmpfs(void)
{
	struct stat status;

	mount_here("devtmpfs", "mode=755");
	if (stat("mnt/null", &status) < 0)
		fail_errno("null in devtmpfs");
	if (!S_ISCHR(status.st_mode) || status.st_rdev != makedev(1, 3))
		fail("null in devtmpfs is not character device 1:3");
	pass("mounted; holds null");
}

void probe_proc(void)
{
	char text[128], counters[8192];

	mount_here("proc", NULL);
	if (read_text("mnt/self/status", text, sizeof(text)) <= 0)
		fail_errno("self/status");
	if (strncmp(text, "Name:", 5) != 0)
		fail("self/status does not begin with Name:");
	if (read_text("mnt/self/io", text, sizeof(text)) <= 0)
		fail_errno("self/io");
	if (read_text("mnt/vmstat", counters, sizeof(counters)) <= 0 || !strstr(counters, "\npgfault "))
		fail("vmstat does not count faults");
	pass("mounted; self/status, self/io and the counters of vmstat read");
}

void probe_sysfs(void)
{
	mount_here("sysfs", NULL);
	if (!exists("mnt/devices/system/cpu"))
		fail_errno("devices/system/cpu in sysfs");
	pass("mounted; devices are listed");
}

void probe_overlayfs(void)
{
	make_folder("lower");
	make_folder("upper");
	make_folder("work");
	make_file("lower/kept", "lower");
	make_file("lower/changed", "lower");
	make_file("lower/removed", "lower");
	mount_here("overlay", "lowerdir=lower,upperdir=upper,workdir=work");
	expect_file("mnt/kept", "lower");
	if (write_text("mnt/changed", "upper") < 0)
		fail_errno("writing to a lower file");
	expect_file("mnt/changed", "upper");
	expect_file("lower/changed", "lower");
	expect_file("upper/changed", "upper");
	if (unlink("mnt/removed") < 0)
		fail_errno("removing a lower file");
	if (exists("mnt/removed") || !exists("lower/removed"))
		fail("a removed file is still in the overlay, or gone from the lower layer");
	pass("copied up, whited out, lower layer intact");
}

void probe_ext4(void)
{
	require_type("ext4");
	pass("registered");
}

/* Mounts a filesystem that lies in memory, on mnt. */
static void mount_image(int image, const char *type, bool read_only)
{
	char loop[LOOP_PATH_SIZE];

	require_type(type);
	make_folder("mnt");
	loop_attach(image, read_only ? LO_FLAGS_READ_ONLY : 0, loop);
	if (mount(loop, "mnt", type, MS_NOSUID | MS_NODEV | (read_only ? MS_RDONLY : 0), NULL) < 0)
		fail_errno("mount -t %s", type);
}

void probe_xfs(void)
{
	char value[8];

	mount_image(image_xfs(), "xfs", false);
	make_file("mnt/file", "xfs");
	if (setxattr("mnt/file", "user.osbuilder", "probe", 5, 0) < 0)
		fail_errno("setxattr user.osbuilder");
	if (mount(NULL, "mnt", NULL, MS_REMOUNT | MS_RDONLY | MS_NOSUID | MS_NODEV, NULL) < 0)
		fail_errno("remounting read-only");
	expect_file("mnt/file", "xfs");
	if (getxattr("mnt/file", "user.osbuilder", value, sizeof(value)) != 5)
		fail_errno("getxattr user.osbuilder");
	pass("mounted, written and read");
}

void probe_erofs(void)
{
	static const char line[] = "osbuilder\n";
	char got[sizeof(line)];
	int lines = 0;

	mount_image(image_erofs(), "erofs", true);
	expect_file("mnt/plain", "erofs");
	FILE *packed = fopen("mnt/packed", "re");
	if (!packed)
		fail_errno("a compressed file");
	while (fgets(got, sizeof(got), packed) && strcmp(got, line) == 0)
		lines++;
	if (lines != IMAGE_PACKED_LINES || !feof(packed))
		fail("a compressed file holds %d lines of %d", lines, IMAGE_PACKED_LINES);
	pass("mounted; a compressed file was read");
}

/* Mounts the folder that the host shares (osbuilder/guest/shares.py), reads what the host wrote there, and writes. */
static void use_share(const char *type, unsigned int device, const char *options)
{
	char folder[512];

	require_type(type);
	virtio_require(device, folder, sizeof(folder));
	make_folder("mnt");
	if (mount("osbuilder", "mnt", type, MS_NOSUID, options) < 0)
		fail_errno("mount -t %s osbuilder", type);
	expect_file("mnt/from-host", "osbuilder");
	make_folder("mnt/from-guest");
	make_file("mnt/from-guest/file", type);
	if (rename("mnt/from-guest/file", "mnt/from-guest/renamed") < 0)
		fail_errno("rename");
	expect_file("mnt/from-guest/renamed", type);
	if (unlink("mnt/from-guest/renamed") < 0 || rmdir("mnt/from-guest") < 0)
		fail_errno("removing what was written");
	pass("the host's folder mounted; its file read, one written and removed");
}

void probe_plan9(void)
{
	use_share("9p", VIRTIO_ID_9P, "trans=virtio,version=9p2000.L");
}

void probe_virtiofs(void)
{
	use_share("virtiofs", VIRTIO_ID_FS, NULL);
}

void probe_fuse(void)
{
	struct {
		struct fuse_in_header header;
		char body[FUSE_MIN_READ_BUFFER];
	} request;
	char options[64];
	int fd = open("/dev/fuse", O_RDWR | O_CLOEXEC);

	if (fd < 0)
		fail_errno("/dev/fuse");
	make_folder("mnt");
	snprintf(options, sizeof(options), "fd=%d,rootmode=40000,user_id=0,group_id=0", fd);
	if (mount("probe", "mnt", "fuse", MS_NOSUID | MS_NODEV, options) < 0)
		fail_errno("mount -t fuse");
	struct pollfd ready = {.fd = fd, .events = POLLIN};
	if (poll(&ready, 1, 2000) != 1)
		fail("mounted, but no request came within 2 s");
	ssize_t got = read(fd, &request, sizeof(request));
	if (got < (ssize_t)(sizeof(request.header) + sizeof(uint32_t) * 2))
		fail_errno("reading the first request");
	if (request.header.opcode != FUSE_INIT)
		fail("the first request has opcode %u, not FUSE_INIT", request.header.opcode);
	const struct fuse_init_in *init = (const void *)request.body;
	unsigned int major_version = init->major;
	unsigned int minor_version = init->minor;
	pass("mounted; the kernel speaks FUSE %u.%u", major_version, minor_version);
}

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
	make_folder("mnt");
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
