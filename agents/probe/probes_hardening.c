/* SPDX-License-Identifier: Apache-2.0
 *
 * What the kernel does against attackers, as far as it shows: addresses that each boot draws (arch/x86/mm/kaslr.c,
 * Documentation/arch/x86/x86_64/mm.rst), page tables of programs without the kernel, and what it says of its processor's
 * faults.
 */
#include "bpf.h"
#include "probe.h"
#include "util.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/auxv.h>
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

/* What a kernel says of itself while it starts. */
static bool log_says(const char *words)
{
	static char log[1 << 17];
	int length = klogctl(SYSLOG_ACTION_READ_ALL, log, sizeof(log) - 1);

	log[length > 0 ? length : 0] = '\0';
	return strstr(log, words) != NULL;
}

/* On other architectures than x86_64 the text is looked at, and not the memory. */
static unsigned long long text_address(void)
{
	struct layout layout = {0};

	read_text_addresses(&layout);
	return layout.text;
}

static void text_is(unsigned long long text, bool moved) __attribute__((noreturn));
static void text_is(unsigned long long text, bool moved)
{
	if (!text)
		fail("the kernel does not name its symbols, which show where its text is");
	if (!moved)
		fail("the text is where it always is (0x%llx)", text);
	pass("the text is at 0x%llx", text);
}

/* The text is moved by multiples of that, on aarch64 and riscv64. */
#define TEXT_STEP (1ULL << 21)
/* KIMAGE_VADDR of aarch64, which is behind the modules: their room grew in 6.5 (arch/arm64/include/asm/memory.h). */
static const unsigned long long ARM64_TEXTS[] = {0xffff800080000000ULL, 0xffff800008000000ULL};

static void judge_arm64(void) __attribute__((noreturn));
static void judge_arm64(void)
{
	unsigned long long text = text_address(), base = text & ~(TEXT_STEP - 1);

	/* What a kernel without its symbols says (arch/arm64/kernel/kaslr.c). */
	if (!text && log_says("KASLR enabled"))
		pass("the kernel's log says so; it does not name its symbols");
	text_is(text, base != ARM64_TEXTS[0] && base != ARM64_TEXTS[1]);
}

/* KERNEL_LINK_ADDR (arch/riscv/include/asm/pgtable.h): the last 2 GiB. */
#define RISCV_TEXT 0xffffffff80000000ULL
#define RISCV_SEED "/sys/firmware/devicetree/base/chosen/kaslr-seed"

/* Since 6.7 the kernel draws with what the device tree hands over, since 6.11 with the processor's own source (Zkr). */
static bool riscv_has_seed(void)
{
	char cpus[4096];

	if (exists(RISCV_SEED) && release_is_at_least(6, 7))
		return true;
	return release_is_at_least(6, 11) && read_text("/proc/cpuinfo", cpus, sizeof(cpus)) > 0 && strstr(cpus, "_zkr");
}

static void judge_riscv(void) __attribute__((noreturn));
static void judge_riscv(void)
{
	unsigned long long text = text_address();
	bool moved = (text & ~(TEXT_STEP - 1)) != RISCV_TEXT;

	if (text && !moved && !riscv_has_seed())
		skip("nobody hands this kernel a seed to draw with (kaslr-seed, Zkr): its text is at 0x%llx", text);
	/* Within 1 GiB there are some 500 places, and that is one of them. */
	if (text && !moved)
		skip("the text is where it always is (0x%llx), or was drawn to be there", text);
	text_is(text, moved);
}

/* Where the text of s390x is when nothing was drawn (arch/s390/boot/startup.c). Before 6.10 it has its physical address.
 * Since then it is in the last 512 MiB of the kernel's space, which ends where tables of three levels do, or of four: at
 * CONFIG_KERNEL_IMAGE_BASE, or, where the draw failed, at the very end. */
#define S390_TEXT_PHYSICAL 0x100000ULL
#define S390_TEXT_ROOM (512ULL << 20)
static const unsigned long long S390_ENDS[] = {1ULL << 42, 1ULL << 53};

static bool s390_moved(unsigned long long text)
{
	for (size_t i = 0; i < COUNT_OF(S390_ENDS); i++)
		if (text >= S390_ENDS[i] - S390_TEXT_ROOM && text < S390_ENDS[i])
			return false;
	return text != S390_TEXT_PHYSICAL;
}

/* The kernel draws with a function of the instruction KMC (cipher message with chaining; z/Architecture Principles of
 * Operation, Message-Security Assist) or does not draw at all (arch/s390/boot/kaslr.c). Function 0 says which ones this
 * processor has. */
#define S390_KMC_PRNG 67

static bool s390_has_prng(void)
{
	unsigned char functions[16] = {0};
#ifdef __s390x__
	/* Register 0 has the function, 1 the place for the answer; the other two are not looked at. */
	if (getauxval(AT_HWCAP) & 1u << 3) /* HWCAP_MSA (asm/elf.h) */
		__asm__ volatile("lghi 0,0\n\tlgr 1,%0\n\t.insn rre,0xb92f0000,2,4" : : "a"(functions) : "0", "1", "cc", "memory");
#endif
	return functions[S390_KMC_PRNG / 8] & 0x80 >> S390_KMC_PRNG % 8;
}

static void judge_s390(void) __attribute__((noreturn));
static void judge_s390(void)
{
	unsigned long long text = text_address();

	if (text && !s390_moved(text) && !s390_has_prng())
		skip("this processor has no random numbers to draw with (KMC-PRNG): the text is at 0x%llx", text);
	text_is(text, s390_moved(text));
}

void probe_kaslr(void)
{
	char cmdline[4096];
	struct layout layout = {0};

	if (read_text("/proc/cmdline", cmdline, sizeof(cmdline)) > 0 && has_word(cmdline, "nokaslr"))
		skip("nokaslr is on the kernel line");
	if (machine_is("aarch64"))
		judge_arm64();
	if (machine_is("riscv64"))
		judge_riscv();
	if (machine_is("s390x"))
		judge_s390();
	if (!machine_is("x86_64"))
		skip("the kernel has no KASLR for 64-bit servers of this architecture");
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

/* What says on an architecture's kernel line that its programs have page tables without the kernel, and what that they
 * have not, whatever the processor needs. */
struct isolation {
	const char *machine;
	const char *on[2], *off[2];
	bool (*there)(void);
};

static bool x86_isolates(void)
{
	char line[4096];
	bool found = false;
	FILE *cpus = fopen("/proc/cpuinfo", "re");

	while (cpus && !found && fgets(line, sizeof(line), cpus))
		found = strncmp(line, "flags\t", 6) == 0 && has_word(line, "pti");
	if (cpus)
		fclose(cpus);
	return found;
}

/* The file tells it of a processor at fault alone, the log of each (arch/arm64/kernel/cpufeature.c). */
static bool arm64_isolates(void)
{
	char said[128];

	return log_says("detected: Kernel page table isolation") ||
	       (read_text(FAULTS "/meltdown", said, sizeof(said)) > 0 && strcmp(said, "Mitigation: PTI") == 0);
}

static const struct isolation ISOLATIONS[] = {
	{"x86_64", {"pti=on", "pti=on"}, {"nopti", "pti=off"}, x86_isolates},
	{"aarch64", {"kpti=1", "kpti=on"}, {"kpti=0", "kpti=off"}, arm64_isolates},
};

void probe_pti(void)
{
	const struct isolation *isolation = NULL;
	char cmdline[4096], said[128];

	for (size_t i = 0; i < COUNT_OF(ISOLATIONS); i++)
		if (machine_is(ISOLATIONS[i].machine))
			isolation = &ISOLATIONS[i];
	if (!isolation)
		skip("the kernel isolates page tables on x86_64 and aarch64 alone");
	if (read_text("/proc/cmdline", cmdline, sizeof(cmdline)) < 0)
		fail_errno("/proc/cmdline");
	bool wanted = has_word(cmdline, isolation->on[0]) || has_word(cmdline, isolation->on[1]);
	bool unwanted = has_word(cmdline, isolation->off[0]) || has_word(cmdline, isolation->off[1]) ||
			has_word(cmdline, "mitigations=off");
	if (isolation->there())
		pass("programs have page tables without the kernel%s", wanted ? ", as the kernel line says" : "");
	if (wanted)
		fail("the kernel line says %s, but the kernel does not isolate its page tables", isolation->on[0]);
	if (unwanted)
		skip("it is turned off on the kernel line");
	if (read_text(FAULTS "/meltdown", said, sizeof(said)) <= 0)
		fail_errno(FAULTS "/meltdown");
	if (strcmp(said, "Not affected") != 0)
		fail("meltdown: %s, and the kernel does not isolate its page tables", said);
	skip("this processor does not need it, and the kernel line does not say %s", isolation->on[0]);
}
