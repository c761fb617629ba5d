/* SPDX-License-Identifier: Apache-2.0
 *
 * What the kernel does against attackers, as far as it shows: addresses that each boot draws (arch/x86/mm/kaslr.c,
 * Documentation/arch/x86/x86_64/mm.rst), and what it says of its processor's faults.
 */
#include "bpf.h"
#include "probe.h"
#include "util.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/klog.h>
#include <sys/socket.h>
#include <sys/utsname.h>
#include <unistd.h>

#define GIB (1ULL << 30)
#define SYSLOG_ACTION_READ_ALL 3 /* syslog(2) */

static bool machine_is(const char *name)
{
	struct utsname names;

	return uname(&names) == 0 && strcmp(names.machine, name) == 0;
}

/* Where a kernel's things lie whose addresses were not drawn. */
#define TEXT_VIRTUAL 0xffffffff81000000ULL
#define TEXT_PHYSICAL 0x1000000ULL
/* With four levels of page tables, and with five. */
static const unsigned long long DIRECT_MAPS[] = {0xffff888000000000ULL, 0xff11000000000000ULL};
static const unsigned long long VMALLOCS[] = {0xffffc90000000000ULL, 0xffa0000000000000ULL};
/* Stacks are among the first that vmalloc hands out. */
#define VMALLOC_BEGINNING (4 * GIB)

/* arch/x86/include/uapi/asm/bootparam.h, struct setup_header. */
#define LOADFLAGS 0x211
#define LOADFLAGS_KASLR 0x02
#define HEADER 0x202
#define HEADER_MAGIC 0x53726448 /* "HdrS": somebody followed the boot protocol. PVH's entry leaves it out. */

struct boot {
	bool pvh;
	bool drawn; /* the flag that makes the kernel draw addresses */
};

static struct boot how_booted(void)
{
	unsigned char data[4096] = {0};
	uint32_t magic;
	int fd = open("/sys/kernel/boot_params/data", O_RDONLY | O_CLOEXEC);

	if (fd < 0 || read(fd, data, sizeof(data)) != (ssize_t)sizeof(data))
		fail_errno("/sys/kernel/boot_params/data");
	close(fd);
	memcpy(&magic, data + HEADER, sizeof(magic));
	return (struct boot){.pvh = magic != HEADER_MAGIC, .drawn = data[LOADFLAGS] & LOADFLAGS_KASLR};
}

struct layout {
	unsigned long long text, text_physical; /* 0: not told */
	unsigned long long memory_end;          /* physical */
	unsigned long long on_stack, in_memory; /* an address in vmalloc's region, and one in the direct map */
};

static void read_text_addresses(struct layout *layout)
{
	char line[256];
	unsigned long long start, end;
	FILE *iomem = fopen("/proc/iomem", "re"), *symbols = fopen("/proc/kallsyms", "re");

	while (iomem && fgets(line, sizeof(line), iomem)) {
		if (sscanf(line, " %llx-%llx", &start, &end) != 2)
			continue;
		if (strstr(line, ": Kernel code"))
			layout->text_physical = start;
		if (strstr(line, ": System RAM") && end > layout->memory_end)
			layout->memory_end = end;
	}
	while (symbols && !layout->text && fgets(line, sizeof(line), symbols))
		if (strstr(line, " T _text\n") || strstr(line, " T _stext\n"))
			sscanf(line, "%llx", &layout->text);
}

/* A BPF program that is run once writes down where it is: its stack is the kernel's, its array is the kernel's memory. */
static void read_memory_addresses(struct layout *layout)
{
	uint64_t found[2] = {0};
	int pair[2], map = bpf_array(sizeof(found));

	if (map < 0)
		fail_errno("BPF_MAP_CREATE");
	const struct bpf_insn program[] = {
		BPF_ELEMENT(BPF_REG_1, map),
		BPF_COPY(BPF_REG_2, BPF_REG_1),
		BPF_STORE(BPF_REG_1, 0, BPF_REG_10),
		BPF_STORE(BPF_REG_1, 8, BPF_REG_2),
		BPF_SET(BPF_REG_0, 0),
		BPF_RETURN(),
	};
	int loaded = bpf_load(BPF_PROG_TYPE_SOCKET_FILTER, program, COUNT_OF(program));
	if (loaded < 0)
		fail_errno("BPF_PROG_LOAD");
	if (socketpair(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0, pair) < 0 ||
	    setsockopt(pair[1], SOL_SOCKET, SO_ATTACH_BPF, &loaded, sizeof(loaded)) < 0)
		fail_errno("SO_ATTACH_BPF");
	send(pair[0], "x", 1, MSG_DONTWAIT);
	if (bpf_read(map, found) < 0 || !found[0] || !found[1])
		fail_errno("the program did not say where it ran");
	layout->on_stack = found[0];
	layout->in_memory = found[1];
}

static bool is_within(unsigned long long address, const unsigned long long *bases, unsigned long long size)
{
	return (address >= bases[0] && address - bases[0] < size) || (address >= bases[1] && address - bases[1] < size);
}

static bool text_moved(const struct layout *layout)
{
	return (layout->text && layout->text != TEXT_VIRTUAL) ||
	       (layout->text_physical && layout->text_physical != TEXT_PHYSICAL);
}

/* KIMAGE_VADDR of aarch64, which is behind the modules: their room grew in 6.5 (arch/arm64/include/asm/memory.h). The text
 * is moved by multiples of 2 MiB. Its memory is not looked at. */
static const unsigned long long ARM64_TEXTS[] = {0xffff800080000000ULL, 0xffff800008000000ULL};
#define ARM64_STEP (1ULL << 21)

/* What a kernel without its symbols says of itself (arch/arm64/kernel/kaslr.c). */
static bool log_says(const char *words)
{
	static char log[1 << 17];
	int length = klogctl(SYSLOG_ACTION_READ_ALL, log, sizeof(log) - 1);

	log[length > 0 ? length : 0] = '\0';
	return strstr(log, words) != NULL;
}

static void judge_text(void) __attribute__((noreturn));
static void judge_text(void)
{
	struct layout layout = {0};

	read_text_addresses(&layout);
	if (!layout.text && log_says("KASLR enabled"))
		pass("the kernel's log says so; it does not name its symbols");
	if (!layout.text)
		fail("the kernel neither names its symbols nor says in its log that it draws addresses");
	unsigned long long base = layout.text & ~(ARM64_STEP - 1);
	if (base == ARM64_TEXTS[0] || base == ARM64_TEXTS[1])
		fail("the text is where it always is (0x%llx)", layout.text);
	pass("the text is at 0x%llx", layout.text);
}

void probe_kaslr(void)
{
	char cmdline[4096];
	struct layout layout = {0};

	if (read_text("/proc/cmdline", cmdline, sizeof(cmdline)) > 0 && has_word(cmdline, "nokaslr"))
		skip("nokaslr is on the kernel line");
	if (machine_is("aarch64"))
		judge_text();
	if (!machine_is("x86_64"))
		skip("what is drawn is looked at on x86_64 and aarch64");
	struct boot boot = how_booted();
	read_text_addresses(&layout);
	read_memory_addresses(&layout);
	bool text = text_moved(&layout);
	/* Both are drawn together; either may come to lie where it always did. */
	bool memory = !is_within(layout.in_memory, DIRECT_MAPS, layout.memory_end + 1) ||
		      !is_within(layout.on_stack, VMALLOCS, VMALLOC_BEGINNING);
	const char *entry = boot.pvh ? "entered through PVH" : "entered by the boot protocol";

	if (!boot.drawn && boot.pvh && !memory)
		skip("%s, where this kernel draws no addresses", entry);
	if (!memory)
		fail("%s: memory is where it always is (0x%llx)", entry, layout.in_memory & ~(GIB - 1));
	/* A kernel without its symbols tells only the physical address, which is drawn from few in a small guest. */
	if (!text && !boot.pvh && layout.text)
		fail("%s: the text is where it always is (0x%llx)", entry, layout.text);
	pass("%s: memory is at 0x%llx, vmalloc at 0x%llx; the text %s", entry, layout.in_memory & ~(GIB - 1),
	     layout.on_stack & ~(GIB - 1), text ? "was moved" : "is where it was loaded");
}

#define FAULTS "/sys/devices/system/cpu/vulnerabilities"

void probe_mitigations(void)
{
	/* What the kernel alone can mend; for others a hypervisor has to show it the means. The last of them takes firmware
	 * on other architectures than x86_64. */
	static const char *const ours[] = {"spectre_v1", "meltdown", "spectre_v2"};
	size_t count = machine_is("x86_64") ? COUNT_OF(ours) : COUNT_OF(ours) - 1;
	char path[128], cmdline[4096], said[COUNT_OF(ours)][128];

	if (read_text("/proc/cmdline", cmdline, sizeof(cmdline)) > 0 && has_word(cmdline, "mitigations=off"))
		skip("mitigations=off is on the kernel line");
	if (machine_is("riscv64") && !exists(FAULTS))
		skip("this kernel names no faults of this architecture's processors");
	for (size_t i = 0; i < COUNT_OF(ours); i++) {
		snprintf(path, sizeof(path), FAULTS "/%s", ours[i]);
		if (read_text(path, said[i], sizeof(said[i])) <= 0)
			fail_errno("%s", path);
		if (i < count && strncmp(said[i], "Vulnerable", 10) == 0)
			fail("%s: %s", ours[i], said[i]);
	}
	pass("spectre_v1: %.40s; meltdown: %.40s; spectre_v2: %.60s", said[0], said[1], said[2]);
}
