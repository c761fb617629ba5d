/* SPDX-License-Identifier: Apache-2.0
 *
 * What the guest says about itself besides the probes. Reads /proc and /sys only.
 */
#ifndef OSBUILDER_FACTS_H
#define OSBUILDER_FACTS_H

#include <stdbool.h>

struct root_facts {
	char source[128];  /* as mountinfo names it: "/dev/root" for what the kernel mounted itself */
	char device[128];  /* the block device behind it, "" where there is none */
	char fstype[32];
	char options[512]; /* of the mount, then of the filesystem, each once */
};

struct memory_facts {
	unsigned long long total_kib;
	unsigned long long available_kib;
};

/* Returns false when /proc/self/mountinfo does not name a root. */
bool facts_root(struct root_facts *root);
bool facts_memory(struct memory_facts *memory);

#endif
