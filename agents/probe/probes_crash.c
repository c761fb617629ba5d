/* SPDX-License-Identifier: Apache-2.0
 *
 * What is left of a program that crashes (core(5)), and the names that a crash of the kernel is told with.
 */
#include "probe.h"
#include "util.h"

#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#define CORE_PATTERN "/proc/sys/kernel/core_pattern"
/* Where the process is when it crashes. */
#define OUR_PATTERN "osbuilder-probe.core.%p"

static char pattern_before[256];
static bool pattern_set;

/* There is one for the whole machine, which may hand cores to a program of the system's own. */
void prepare_core_dump(void)
{
	pattern_set = read_text(CORE_PATTERN, pattern_before, sizeof(pattern_before)) >= 0 &&
		      write_text(CORE_PATTERN, OUR_PATTERN) == 0;
}

void cleanup_core_dump(void)
{
	/* An empty one has to be written as a line. */
	if (pattern_set)
		write_text(CORE_PATTERN, pattern_before[0] ? pattern_before : "\n");
}

#define MARK_SIZE 4096

static void fill(unsigned char *mark)
{
	for (size_t i = 0; i < MARK_SIZE; i++)
		mark[i] = (unsigned char)(i * 7 + i / 256);
}

/* Dies of what abort(3) sends, with a page of memory that can be told from any other. */
static void crash(void) __attribute__((noreturn));
static void crash(void)
{
	struct rlimit any = {.rlim_cur = RLIM_INFINITY, .rlim_max = RLIM_INFINITY};
	unsigned char *mark = mmap(NULL, MARK_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (mark == MAP_FAILED || setrlimit(RLIMIT_CORE, &any) < 0 || prctl(PR_SET_DUMPABLE, 1) < 0)
		_exit(1);
	fill(mark);
	raise(SIGABRT);
	_exit(1);
}

/* Whether one of a core's segments holds the page. */
static bool holds_mark(int core, const Elf64_Ehdr *header)
{
	unsigned char wanted[MARK_SIZE], got[MARK_SIZE];

	fill(wanted);
	for (int i = 0; i < header->e_phnum; i++) {
		Elf64_Phdr segment;

		if (pread(core, &segment, sizeof(segment), (off_t)(header->e_phoff + (Elf64_Off)i * sizeof(segment))) !=
		    sizeof(segment))
			return false;
		/* What was mapped next to each other with the same rights is one segment. */
		for (Elf64_Off at = 0; segment.p_type == PT_LOAD && at < segment.p_filesz; at += MARK_SIZE)
			if (pread(core, got, MARK_SIZE, (off_t)(segment.p_offset + at)) == MARK_SIZE &&
			    memcmp(got, wanted, MARK_SIZE) == 0)
				return true;
	}
	return false;
}

void probe_core_dump(void)
{
	char name[64];
	Elf64_Ehdr header;
	int status;

	if (!pattern_set)
		fail("%s cannot be set", CORE_PATTERN);
	pid_t child = fork();
	if (child < 0)
		fail_errno("fork");
	if (child == 0)
		crash();
	if (waitpid(child, &status, 0) < 0)
		fail_errno("waitpid");
	if (!WIFSIGNALED(status) || WTERMSIG(status) != SIGABRT)
		fail("a process that aborts did not die of it (wait status %#x)", (unsigned int)status);
	if (!WCOREDUMP(status))
		fail("a process crashed, and the kernel dumped no core");
	snprintf(name, sizeof(name), "osbuilder-probe.core.%d", (int)child);
	int core = open(name, O_RDONLY | O_CLOEXEC);
	if (core < 0)
		fail_errno("%s", name);
	if (read(core, &header, sizeof(header)) != sizeof(header) || memcmp(header.e_ident, ELFMAG, SELFMAG) != 0 ||
	    header.e_type != ET_CORE)
		fail("%s is not an ELF core", name);
	if (!holds_mark(core, &header))
		fail("the core has not got the process's memory");
	pass("a process that aborted left a core with its memory");
}

/* The smallest kernel has tens of thousands. */
#define LEAST_FUNCTIONS 1000

void probe_kallsyms(void)
{
	char line[512];
	unsigned long functions = 0;
	FILE *symbols = fopen("/proc/kallsyms", "re");

	if (!symbols)
		fail_errno("/proc/kallsyms");
	while (fgets(line, sizeof(line), symbols)) {
		char kind = 0;

		functions += sscanf(line, "%*x %c", &kind) == 1 && (kind == 't' || kind == 'T');
	}
	fclose(symbols);
	if (functions < LEAST_FUNCTIONS)
		fail("the kernel names %lu functions", functions);
	pass("the kernel names %lu functions", functions);
}
