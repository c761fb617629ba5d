/* SPDX-License-Identifier: Apache-2.0
 *
 * Loop devices over memory, for probes that need a block device and must not touch one of the machine's.
 */
#ifndef OSBUILDER_LOOP_H
#define OSBUILDER_LOOP_H

#include <stddef.h>

#define LOOP_PATH_SIZE 32

/* A file in memory of that size, holes all through. Ends the probe when there is none. */
int memory_file(size_t size);

/* Attaches a file (LO_FLAGS_*) and writes the device's path. The device lets go of the file when the last one that holds
 * it open is gone; the descriptor that is returned is one. Ends the probe when it cannot be. */
int loop_attach(int backing, unsigned int flags, char path[LOOP_PATH_SIZE]);

#endif
