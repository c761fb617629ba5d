/* SPDX-License-Identifier: Apache-2.0
 *
 * What a process does inside a control group to find a limit: the same for both versions of control groups. Each returns
 * what the process exits with; 0 is what the probe hopes for.
 */
#ifndef OSBUILDER_INSIDE_H
#define OSBUILDER_INSIDE_H

#include <stdint.h>

#define BURN_NS 30000000ull

/* Takes that much time of the first CPU. */
int burn(void);

/* Microseconds: a tenth of a CPU. What takes 30 ms of it waits for its third period. */
#define QUOTA_US "10000"
#define PERIOD_US "100000"
#define QUOTA_LEAST_MS 150

/* 0: the process may run on the first CPU and on no other. */
int sees_only_cpu_0(void);

/* Writes to 64 MiB of memory. */
int use_64_mib(void);

/* 0: a child was refused. */
int fork_is_refused(void);

/* A disk in memory, for a limit of what is written to it. */
struct slow_disk {
	char number[32]; /* MAJOR:MINOR */
	int backing, writer;
	int loop; /* of /dev/loopN */
};

#define DISK_BYTES_PER_S (64 << 10)
#define DISK_WRITTEN_BYTES (96 << 10)
/* What a limit of that rate lets pass at once is less than the rest. */
#define DISK_LEAST_MS 500

/* Makes the disk that write_to_disk writes to. Ends the probe when there is none. */
struct slow_disk make_slow_disk(void);

/* Takes the disk away. A loop device remembers for a minute which groups wrote to it, and holds them meanwhile. */
void drop_slow_disk(const struct slow_disk *disk);

/* Past the page cache, so that it is this process that waits. */
int write_to_disk(void);

#endif
