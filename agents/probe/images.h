/* SPDX-License-Identifier: Apache-2.0
 *
 * Filesystems that a loop device can be mounted from, in memory. Each call returns a descriptor, or ends the probe.
 */
#ifndef OSBUILDER_IMAGES_H
#define OSBUILDER_IMAGES_H

int image_xfs(void);   /* 16 MiB, empty */
int image_ext4(void);  /* 3 MiB, with a journal; empty */
int image_erofs(void); /* 8 KiB: plain, "erofs"; packed, IMAGE_PACKED_LINES times "osbuilder\n", compressed with LZ4 */

#define IMAGE_PACKED_LINES 1200

#endif
