/* SPDX-License-Identifier: Apache-2.0
 *
 * Filesystems. They are mounted and used, on a loop device where they need one; of those that need another device or more
 * memory, fsopen(2) says whether the kernel knows the type (and loads its module where there is one).
 */
#include "facts.h"
#include "images.h"
#include "loop.h"
#include "probe.h"
#include "util.h"
#include "virtio.h"

#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/fuse.h>
#include <linux/loop.h>
#include <linux/magic.h>
#include <linux/posix_acl.h>
#include <linux/posix_acl_xattr.h>
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

static void expect_attribute(const char *path, const char *name)
{
	char value[8];

	if (setxattr(path, name, "probe", 5, 0) < 0)
		fail_errno("setxattr %s", name);
	if (getxattr(path, name, value, sizeof(value)) != 5 || memcmp(value, "probe", 5) != 0)
		fail("%s does not read back as it was written", name);
}

void probe_tmpfs_xattr(void)
{
	make_file("file", "");
	expect_attribute("file", "trusted.osbuilder");
	if (!release_is_at_least(6, 6))
		pass("trusted.* kept; user.* came to tmpfs in 6.6");
	expect_attribute("file", "user.osbuilder");
	pass("trusted.* and user.* kept");
}

/* Gives a file a list of its own (linux/posix_acl_xattr.h), by which user 1000 may do more than its group. */
static void expect_acl(const char *path)
{
	const struct {
		struct posix_acl_xattr_header header;
		struct posix_acl_xattr_entry entries[5];
	} acl = {
		.header = {htole32(POSIX_ACL_XATTR_VERSION)},
		.entries = {{htole16(ACL_USER_OBJ), htole16(ACL_READ | ACL_WRITE), htole32(ACL_UNDEFINED_ID)},
			    {htole16(ACL_USER), htole16(ACL_READ | ACL_WRITE), htole32(1000)},
			    {htole16(ACL_GROUP_OBJ), htole16(ACL_READ), htole32(ACL_UNDEFINED_ID)},
			    {htole16(ACL_MASK), htole16(ACL_READ | ACL_WRITE), htole32(ACL_UNDEFINED_ID)},
			    {htole16(ACL_OTHER), htole16(0), htole32(ACL_UNDEFINED_ID)}},
	};
	char got[sizeof(acl) + 1];
	struct stat status;

	if (setxattr(path, "system.posix_acl_access", &acl, sizeof(acl), 0) < 0)
		fail_errno("setxattr system.posix_acl_access");
	if (getxattr(path, "system.posix_acl_access", got, sizeof(got)) != (ssize_t)sizeof(acl) ||
	    memcmp(got, &acl, sizeof(acl)) != 0)
		fail("an access control list does not read back as it was written");
	/* What the mode shows of the group is the mask. */
	if (stat(path, &status) < 0 || (status.st_mode & 07777) != 0660)
		fail("the mode of a file with an access control list is %#o", status.st_mode & 07777);
}

/* What a user other than root may do with a file, tried in a process of that user. */
static bool user_can_write(uid_t user, const char *path)
{
	int status;
	pid_t child = fork();

	if (child < 0)
		fail_errno("fork");
	if (child == 0)
		_exit(setgroups(0, NULL) < 0 || setgid(user) < 0 || setuid(user) < 0 || open(path, O_WRONLY) < 0);
	return waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

void probe_tmpfs_acl(void)
{
	/* The room itself is only for root. */
	mount_here("tmpfs", "size=1m,mode=755");
	if (chmod(".", 0755) < 0)
		fail_errno("chmod .");
	make_file("mnt/file", "");
	expect_acl("mnt/file");
	if (!user_can_write(1000, "mnt/file"))
		fail("a user whom the list lets write was refused");
	if (user_can_write(1001, "mnt/file"))
		fail("a user whom the list does not name could write");
	pass("one user could write, as the list says, and another could not");
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

/* Mounts a disk filesystem, and writes a file with all that a container's may have. */
static void use_disk(int image, const char *type)
{
	char value[8];

	mount_image(image, type, false);
	make_file("mnt/file", type);
	expect_attribute("mnt/file", "user.osbuilder");
	expect_acl("mnt/file");
	if (mount(NULL, "mnt", NULL, MS_REMOUNT | MS_RDONLY | MS_NOSUID | MS_NODEV, NULL) < 0)
		fail_errno("remounting read-only");
	expect_file("mnt/file", type);
	if (getxattr("mnt/file", "user.osbuilder", value, sizeof(value)) != 5)
		fail_errno("getxattr user.osbuilder");
	pass("mounted; a file with an attribute and an access control list was written and read");
}

/* Where nothing can be mounted because there are no loop devices (variant minimal), a root of that type is the proof. */
static void expect_root(const char *type)
{
	struct root_facts root;

	require_type(type);
	if (!facts_root(&root))
		fail("/proc/self/mountinfo names no root");
	if (strcmp(root.fstype, type) != 0)
		skip("there are no loop devices, and the root is no %s (%s)", type, root.fstype);
	pass("the root is one, and was started from");
}

void probe_ext4(void)
{
	if (!exists("/dev/loop-control"))
		expect_root("ext4");
	use_disk(image_ext4(), "ext4");
}

void probe_xfs(void)
{
	use_disk(image_xfs(), "xfs");
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
