/* SPDX-License-Identifier: Apache-2.0
 *
 * Pages of hugetlb, of the size that this kernel takes where none is named.
 */
#ifndef OSBUILDER_HUGEPAGES_H
#define OSBUILDER_HUGEPAGES_H

#include <stddef.h>

/* A probe's prepare and cleanup: one page may be had on demand, and goes with its mapping. */
void prepare_huge_pages(void);
void cleanup_huge_pages(void);

/* Their size; ends the probe where there are none. */
unsigned long long huge_page_kib(void);

/* A file of the hugetlb controller for pages of that size, such as hugetlb.2MB.max (Documentation/admin-guide/cgroup-v2.rst). */
void huge_page_file(unsigned long long size_kib, const char *suffix, char *file, size_t size);

/* What a process does inside a control group to find a limit: uses one page. 0: it got it; SIGBUS: it was refused. */
int use_huge_page(void);

/* As mmap(2): private memory of huge pages, or MAP_FAILED with errno. */
void *map_huge(size_t size);

#endif
