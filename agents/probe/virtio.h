/* SPDX-License-Identifier: Apache-2.0
 *
 * Finds virtio devices by their number (linux/virtio_ids.h).
 */
#ifndef OSBUILDER_VIRTIO_H
#define OSBUILDER_VIRTIO_H

#include <stdbool.h>
#include <stddef.h>

/* Writes the sysfs folder of the first device with that number. Ends the calling probe unless there is one with a
 * driver: skip when none is attached, fail when the kernel has no driver for it (or for the bus it sits on). */
void virtio_require(unsigned int id, char *folder, size_t size);

/* Writes the PCI address of the first device with that number. Returns false if there is none, or it is on another bus. */
bool virtio_pci_address(unsigned int id, char *address, size_t size);

/* Writes the name of the first pmem disk that is virtio-pmem's, or of the first that is not. Returns false if none is. */
bool pmem_disk(bool virtio, char *name, size_t size);

/* Writes the first name that a folder lists (not . or ..) beginning with `prefix`. Returns 0, or -1 if none does. */
int first_entry(const char *folder, const char *prefix, char *name, size_t size);

#endif
