/* SPDX-License-Identifier: Apache-2.0
 *
 * What a process does inside a control group to find a limit.
 */
#include "inside.h"
#include "loop.h"
#include "probe.h"
#include "util.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/loop.h>
#include <sched.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <time.h>
#include <unistd.h>

static uint64_t own_cpu_ns(void)
{
	struct timespec used;

	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &used);
	return (uint64_t)used.tv_sec * 1000000000 + (uint64_t)used.tv_nsec;
}

int burn(void)
{
	cpu_set_t first;

	CPU_ZERO(&first);
	CPU_SET(0, &first);
	if (sched_setaffinity(0, sizeof(first), &first) < 0)
		return 1;
	for (uint64_t until = own_cpu_ns() + BURN_NS; own_cpu_ns() < until;)
		;
	return 0;
}

int sees_only_cpu_0(void)
{
	cpu_set_t cpus;

	if (sched_getaffinity(0, sizeof(cpus), &cpus) < 0)
		return 2;
	return CPU_COUNT(&cpus) == 1 && CPU_ISSET(0, &cpus) ? 0 : 1;
}

int use_64_mib(void)
{
	size_t size = 64 << 20;
	char *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (memory == MAP_FAILED)
		return 2;
	for (size_t at = 0; at < size; at += 4096)
		memory[at] = 1;
	return 0;
}

int fork_is_refused(void)
{
	pid_t child = fork();

	if (child == 0)
		_exit(0);
	return child < 0 && errno == EAGAIN ? 0 : 1;
}

static int written_disk;

struct slow_disk make_slow_disk(void)
{
	struct slow_disk disk;
	struct stat status;
	char path[LOOP_PATH_SIZE];

	disk.backing = loop_attach(memory_file(1 << 20), 0, path);
	disk.writer = written_disk = open(path, O_WRONLY | O_DIRECT | O_CLOEXEC);
	if (disk.writer < 0 || fstat(disk.backing, &status) < 0 || sscanf(path, "/dev/loop%d", &disk.loop) != 1)
		fail_errno("%s", path);
	snprintf(disk.number, sizeof(disk.number), "%u:%u", major(status.st_rdev), minor(status.st_rdev));
	return disk;
}

void drop_slow_disk(const struct slow_disk *disk)
{
	int control = open("/dev/loop-control", O_RDWR | O_CLOEXEC);

	close(disk->writer);
	close(disk->backing);
	if (control >= 0)
		ioctl(control, LOOP_CTL_REMOVE, disk->loop);
}

int write_to_disk(void)
{
	char *block = mmap(NULL, DISK_WRITTEN_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	return block != MAP_FAILED && write_all(written_disk, block, DISK_WRITTEN_BYTES) == 0 ? 0 : 1;
}
