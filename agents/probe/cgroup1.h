/* SPDX-License-Identifier: Apache-2.0
 *
 * A group in the hierarchy of one controller of version 1, for one probe at a time. It needs a working folder of its own.
 */
#ifndef OSBUILDER_CGROUP1_H
#define OSBUILDER_CGROUP1_H

#define GROUP "mnt/osbuilder-probe"

/* Mounts the hierarchy of one controller, and makes the probe's group in it. Ends the probe when it cannot: skip where
 * version 2 has groups with that controller. */
void make_group(const char *controller);

/* Mounts a controller's hierarchy again, and removes the group. The hierarchy goes with its last group, and so does the
 * controller's absence from version 2. */
void undo_group(const char *controller);

/* Writes to a file of the group. Ends the probe when it cannot. */
void set(const char *file, const char *value);

/* Runs `work` in a process of the group: its wait status. Ends the probe when no process can be put there. */
int status_inside(int (*work)(void));

/* The same, of work that ends by itself: what it returns. */
int run_inside(int (*work)(void));

#define UNDO(name, controller)                                                                                         \
	void undo_cgroup1_##name(void)                                                                                 \
	{                                                                                                              \
		undo_group(controller);                                                                                \
	}

#endif
