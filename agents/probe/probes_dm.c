/* SPDX-License-Identifier: Apache-2.0
 *
 * Device mapper (linux/dm-ioctl.h): each target is set up over loop devices in memory, and does its work once.
 */
#include "facts.h"
#include "loop.h"
#include "probe.h"
#include "util.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/dm-ioctl.h>
#include <linux/fs.h>
#include <linux/loop.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#define NAME "osbuilder-probe"
#define POOL_NAME "osbuilder-probe-pool"
#define BLOCK 4096
#define SECTOR 512

struct dm_request {
	struct dm_ioctl header;
	char body[2048];
};

struct mapped {
	unsigned int major_number, minor_number;
	char path[32];
};

static void dm_request(struct dm_request *request, const char *name)
{
	memset(request, 0, sizeof(*request));
	request->header.version[0] = DM_VERSION_MAJOR;
	request->header.data_size = sizeof(*request);
	request->header.data_start = sizeof(request->header);
	snprintf(request->header.name, sizeof(request->header.name), "%s", name);
}

static int dm_open(void)
{
	int fd = open("/dev/mapper/control", O_RDWR | O_CLOEXEC);

	if (fd < 0)
		fail_errno("/dev/mapper/control");
	return fd;
}

void cleanup_device_mapper(void)
{
	/* The pool below what stands on it. Others (udev) may still be looking at a device that was just made. */
	static const char *const names[] = {NAME, POOL_NAME};
	struct dm_request request;
	int fd = open("/dev/mapper/control", O_RDWR | O_CLOEXEC);

	for (size_t i = 0; fd >= 0 && i < COUNT_OF(names); i++)
		for (int attempt = 0; attempt < 50; attempt++) {
			dm_request(&request, names[i]);
			if (ioctl(fd, DM_DEV_REMOVE, &request) == 0 || errno != EBUSY)
				break;
			sleep_ms(10);
		}
	if (fd >= 0)
		close(fd);
}

/* Makes a device of one target and starts it. */
static struct mapped map(const char *name, uint64_t sectors, const char *type, const char *parameters, uint32_t flags)
{
	struct dm_request request;
	struct mapped mapped;
	int fd = dm_open();

	dm_request(&request, name);
	if (ioctl(fd, DM_DEV_CREATE, &request) < 0)
		fail_errno("DM_DEV_CREATE");
	/* linux/kdev_t.h: 12 bits of the major number stand between the two parts of the minor number. */
	mapped.major_number = (unsigned int)(request.header.dev >> 8 & 0xfff);
	mapped.minor_number = (unsigned int)((request.header.dev & 0xff) | (request.header.dev >> 12 & 0xfff00));
	snprintf(mapped.path, sizeof(mapped.path), "/dev/dm-%u", mapped.minor_number);
	dm_request(&request, name);
	request.header.target_count = 1;
	request.header.flags = flags;
	struct dm_target_spec *target = (void *)request.body;
	target->length = sectors;
	target->next = sizeof(request.body);
	snprintf(target->target_type, sizeof(target->target_type), "%s", type);
	snprintf(request.body + sizeof(*target), sizeof(request.body) - sizeof(*target), "%s", parameters);
	if (ioctl(fd, DM_TABLE_LOAD, &request) < 0)
		fail_errno("loading a table of target %s", type);
	dm_request(&request, name);
	if (ioctl(fd, DM_DEV_SUSPEND, &request) < 0) /* without DM_SUSPEND_FLAG: resume */
		fail_errno("resuming the device");
	close(fd);
	return mapped;
}

static int open_mapped(const struct mapped *mapped, int mode)
{
	int fd = open(mapped->path, mode | O_CLOEXEC);

	if (fd < 0)
		fail_errno("%s", mapped->path);
	return fd;
}

void probe_device_mapper(void)
{
	struct dm_request request;
	int fd = dm_open();

	dm_request(&request, "");
	if (ioctl(fd, DM_VERSION, &request) < 0)
		fail_errno("DM_VERSION");
	unsigned int minor_version = request.header.version[1];
	/* "error" is the one target that is never a module. */
	map(NAME, 8, "error", "", 0);
	dm_request(&request, NAME);
	if (ioctl(fd, DM_DEV_STATUS, &request) < 0)
		fail_errno("DM_DEV_STATUS");
	if (request.header.target_count != 1 || !(request.header.flags & DM_ACTIVE_PRESENT_FLAG))
		fail("the device has no active table");
	pass("device mapper 4.%u; device made, table loaded, resumed", minor_version);
}

/* SHA-256 of 4096 zeros. A device of one block has no tree: the root hash is the block's. */
#define ZERO_BLOCK_HASH "ad7facb2586fc6e966c004d7d1d16b024f5805ff7cb47c7a85dabd8b48892ca7"

static bool verified(const char *loop, const char *root_hash)
{
	char parameters[256], block[BLOCK];

	snprintf(parameters, sizeof(parameters), "1 %s %s %d %d 1 1 sha256 %s -", loop, loop, BLOCK, BLOCK, root_hash);
	struct mapped mapped = map(NAME, BLOCK / SECTOR, "verity", parameters, DM_READONLY_FLAG);
	int device = open_mapped(&mapped, O_RDONLY);
	bool whole = pread(device, block, BLOCK, 0) == BLOCK;
	if (!whole && errno != EIO)
		fail_errno("reading %s", mapped.path);
	close(device);
	cleanup_device_mapper();
	return whole;
}

void probe_dm_verity(void)
{
	char loop[LOOP_PATH_SIZE], other_hash[] = ZERO_BLOCK_HASH;

	loop_attach(memory_file(16 * BLOCK), LO_FLAGS_READ_ONLY, loop);
	other_hash[0] = 'b';
	if (!verified(loop, ZERO_BLOCK_HASH))
		fail("a block that has its hash was refused");
	if (verified(loop, other_hash))
		fail("a block with another hash was read");
	pass("a block with its hash was read, one with another hash was not");
}

/* Asks for the one target of a device: what its table says, or with flags 0 its status. Returns the text. */
static const char *target_text(struct dm_request *request, dev_t device, uint32_t flags)
{
	int fd = dm_open();

	dm_request(request, "");
	request->header.flags = flags;
	/* linux/kdev_t.h, as in map(). */
	request->header.dev = (minor(device) & 0xff) | major(device) << 8 | (uint64_t)(minor(device) & ~0xffu) << 12;
	if (ioctl(fd, DM_TABLE_STATUS, request) < 0)
		fail_errno("DM_TABLE_STATUS");
	close(fd);
	if (request->header.target_count != 1 || request->header.flags & DM_BUFFER_FULL_FLAG)
		fail("the root's table has %u targets, or a long one", request->header.target_count);
	return request->body + sizeof(struct dm_target_spec);
}

/* Documentation/admin-guide/device-mapper/verity.rst: VERSION DATA HASH DATA_SIZE HASH_SIZE BLOCKS START ALGORITHM HASH */
static void read_root_hash(const char *table, char *hash, size_t size)
{
	for (int word = 0; word < 8; word++) {
		table += strcspn(table, " ");
		table += strspn(table, " ");
	}
	snprintf(hash, size, "%.*s", (int)strcspn(table, " "), table);
}

void probe_root_verity(void)
{
	struct dm_request request;
	struct root_facts root;
	struct stat status;
	char hash[129];

	if (!facts_root(&root))
		fail("/proc/self/mountinfo names no root");
	if (strncmp(root.device, "/dev/dm-", 8) != 0)
		skip("the root is not a mapped device (%s %s)", root.fstype, root.device[0] ? root.device : root.source);
	if (stat(root.device, &status) < 0)
		fail_errno("%s", root.device);
	const char *table = target_text(&request, status.st_rdev, DM_STATUS_TABLE_FLAG);
	const struct dm_target_spec *target = (const void *)request.body;
	if (strcmp(target->target_type, "verity") != 0)
		skip("the root's target is %s", target->target_type);
	if (!(request.header.flags & DM_READONLY_FLAG))
		fail("%s is not read-only", root.device);
	read_root_hash(table, hash, sizeof(hash));
	/* V as long as every block that was read had its hash, C from the first that had not. */
	const char *verdict = target_text(&request, status.st_rdev, 0);
	if (verdict[0] != 'V')
		fail("%s has read a corrupted block (status %.8s)", root.device, verdict);
	pass("%s is verified, root hash %s", root.device, hash);
}

#define CRYPT_KEY "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f" \
		  "202122232425262728292a2b2c2d2e2f303132333435363738393a3b3c3d3e3f"
#define CRYPT_SIZE (1 << 20)

void probe_dm_crypt(void)
{
	char loop[LOOP_PATH_SIZE], parameters[256], clear[BLOCK], got[BLOCK];
	int backing = memory_file(CRYPT_SIZE);

	loop_attach(backing, 0, loop);
	snprintf(parameters, sizeof(parameters), "aes-xts-plain64 %s 0 %s 0", CRYPT_KEY, loop);
	struct mapped mapped = map(NAME, CRYPT_SIZE / SECTOR, "crypt", parameters, 0);
	int device = open_mapped(&mapped, O_RDWR);
	memset(clear, 'c', BLOCK);
	if (pwrite(device, clear, BLOCK, BLOCK) != BLOCK || fsync(device) < 0)
		fail_errno("writing to %s", mapped.path);
	if (pread(backing, got, BLOCK, BLOCK) != BLOCK)
		fail_errno("reading the backing file");
	/* Equal halves of what was written would be equal in what is stored, were it not for the place's part in it. */
	if (memcmp(got, clear, 16) == 0 || memcmp(got, got + SECTOR, 16) == 0)
		fail("what was stored is not encrypted");
	if (ioctl(device, BLKFLSBUF) < 0 || pread(device, got, BLOCK, BLOCK) != BLOCK)
		fail_errno("reading %s", mapped.path);
	if (memcmp(got, clear, BLOCK) != 0)
		fail("%s does not read as it was written", mapped.path);
	pass("written, stored encrypted (aes-xts-plain64), read back");
}

#define INTEGRITY_SIZE (4u << 20)
#define INTEGRITY_MAPPED (1u << 20)
#define INTEGRITY_AT (16 * BLOCK)
#define SECRET "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f"

/* Past the page cache: a page of it may be larger than a block, and its other blocks were never written. */
static char *direct_block(void)
{
	char *block = mmap(NULL, BLOCK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (block == MAP_FAILED)
		fail_errno("a page of memory");
	return block;
}

/* Where a device holds what is stored at a place that only its target knows: the first sector with these bytes. */
static off_t find_stored(int backing, const char *bytes)
{
	char sector[SECTOR];

	for (off_t at = 0; at < INTEGRITY_SIZE; at += SECTOR)
		if (pread(backing, sector, SECTOR, at) == SECTOR && memcmp(sector, bytes, SECTOR) == 0)
			return at;
	fail("what was written is nowhere in the backing file");
}

static void flip_a_bit(int backing, off_t at)
{
	char byte;

	if (pread(backing, &byte, 1, at) != 1)
		fail_errno("reading the backing file");
	byte ^= 1;
	if (pwrite(backing, &byte, 1, at) != 1)
		fail_errno("writing to the backing file");
}

/* Writes a block and reads it back. */
static void write_and_read(int device, const char *path, const char *written, char *got)
{
	if (pwrite(device, written, BLOCK, INTEGRITY_AT) != BLOCK || fsync(device) < 0)
		fail_errno("writing to %s", path);
	if (pread(device, got, BLOCK, INTEGRITY_AT) != BLOCK)
		fail_errno("reading %s", path);
	if (memcmp(got, written, BLOCK) != 0)
		fail("%s does not read as it was written", path);
}

/* What a checksum of the place, keyed or not, finds out: EILSEQ is what the target says, EIO what some kernels make of it. */
static bool is_refused(int device, char *got)
{
	return pread(device, got, BLOCK, INTEGRITY_AT) < 0 && (errno == EILSEQ || errno == EIO || errno == EBADMSG);
}

/* An empty device becomes one of the target (Documentation/admin-guide/device-mapper/dm-integrity.rst): START, TAG_SIZE,
 * MODE (D: no journal), and that the tags are the target's own. */
static void integrity_by_itself(char *written, char *got)
{
	char loop[LOOP_PATH_SIZE], parameters[256];
	int backing = memory_file(INTEGRITY_SIZE);

	loop_attach(backing, 0, loop);
	snprintf(parameters, sizeof(parameters), "%s 0 32 D 1 internal_hash:hmac(sha256):%s", loop, SECRET);
	struct mapped mapped = map(NAME, INTEGRITY_MAPPED / SECTOR, "integrity", parameters, 0);
	int device = open_mapped(&mapped, O_RDWR | O_DIRECT);
	memset(written, 'i', BLOCK);
	write_and_read(device, mapped.path, written, got);
	off_t stored = find_stored(backing, written);
	flip_a_bit(backing, stored);
	if (!is_refused(device, got))
		fail("a block was read that somebody had changed");
	flip_a_bit(backing, stored);
	if (pread(device, got, BLOCK, INTEGRITY_AT) != BLOCK || memcmp(got, written, BLOCK) != 0)
		fail("a block was not read that is as it was written");
	close(device);
	cleanup_device_mapper();
}

/* As `cryptsetup luksFormat --integrity aead` has it: the lower target keeps a place for each sector's tag and nonce, which
 * the cipher above it fills. Whatever is changed below is refused. */
static void integrity_below_crypt(char *written, char *got)
{
	char loop[LOOP_PATH_SIZE], parameters[256], sector[SECTOR];
	int backing = memory_file(INTEGRITY_SIZE);

	loop_attach(backing, 0, loop);
	snprintf(parameters, sizeof(parameters), "%s 0 28 D 0", loop);
	struct mapped lower = map(POOL_NAME, INTEGRITY_MAPPED / SECTOR, "integrity", parameters, 0);
	snprintf(parameters, sizeof(parameters), "capi:gcm(aes)-random %s 0 %u:%u 0 1 integrity:28:aead", SECRET,
		 lower.major_number, lower.minor_number);
	struct mapped mapped = map(NAME, INTEGRITY_MAPPED / SECTOR, "crypt", parameters, 0);
	int device = open_mapped(&mapped, O_RDWR | O_DIRECT);
	memset(written, 'a', BLOCK);
	write_and_read(device, mapped.path, written, got);
	/* The lower device tells where the first sector is: what it reads there is what is stored. */
	int stored = open_mapped(&lower, O_RDONLY | O_DIRECT);
	if (pread(stored, got, BLOCK, INTEGRITY_AT) != BLOCK)
		fail_errno("reading %s", lower.path);
	memcpy(sector, got, SECTOR);
	close(stored);
	if (memcmp(sector, written, SECTOR) == 0)
		fail("what was stored is not encrypted");
	flip_a_bit(backing, find_stored(backing, sector));
	if (!is_refused(device, got))
		fail("an encrypted block was read that somebody had changed");
	close(device);
}

void probe_dm_integrity(void)
{
	char *written = direct_block(), *got = direct_block();

	integrity_by_itself(written, got);
	integrity_below_crypt(written, got);
	pass("written and read, and refused once changed: with hmac(sha256), and below crypt with gcm(aes)");
}

static void message(const char *name, const char *text)
{
	struct dm_request request;
	int fd = dm_open();

	dm_request(&request, name);
	struct dm_target_msg *target = (void *)request.body;
	snprintf(target->message, sizeof(request.body) - sizeof(*target), "%s", text);
	if (ioctl(fd, DM_TARGET_MSG, &request) < 0)
		fail_errno("%s", text);
	close(fd);
}

#define THIN_METADATA_SIZE (2u << 20)
#define THIN_DATA_SIZE (1u << 20)
#define THIN_SIZE (16u << 20)
#define THIN_BLOCK_SECTORS 128

void probe_dm_thin(void)
{
	char metadata[LOOP_PATH_SIZE], data[LOOP_PATH_SIZE], parameters[128], written[BLOCK], got[BLOCK];
	off_t at = THIN_SIZE - BLOCK;

	/* An empty metadata device becomes that of a new pool. */
	loop_attach(memory_file(THIN_METADATA_SIZE), 0, metadata);
	loop_attach(memory_file(THIN_DATA_SIZE), 0, data);
	snprintf(parameters, sizeof(parameters), "%s %s %d 0", metadata, data, THIN_BLOCK_SECTORS);
	struct mapped pool = map(POOL_NAME, THIN_DATA_SIZE / SECTOR, "thin-pool", parameters, 0);
	message(POOL_NAME, "create_thin 0");
	snprintf(parameters, sizeof(parameters), "%u:%u 0", pool.major_number, pool.minor_number);
	struct mapped thin = map(NAME, THIN_SIZE / SECTOR, "thin", parameters, 0);
	int device = open_mapped(&thin, O_RDWR);
	memset(written, 't', BLOCK);
	if (pwrite(device, written, BLOCK, at) != BLOCK || fsync(device) < 0)
		fail_errno("writing to %s", thin.path);
	if (ioctl(device, BLKFLSBUF) < 0 || pread(device, got, BLOCK, at) != BLOCK)
		fail_errno("reading %s", thin.path);
	if (memcmp(got, written, BLOCK) != 0)
		fail("%s does not read as it was written", thin.path);
	pass("a volume of %u MiB on a pool of %u was written and read at its end", THIN_SIZE >> 20, THIN_DATA_SIZE >> 20);
}
