/* SPDX-License-Identifier: Apache-2.0
 *
 * What a running kernel is looked into with: its types, its functions as they are called, its own configuration
 * (Documentation/trace/ftrace.rst, Documentation/trace/kprobetrace.rst, Documentation/bpf/btf.rst).
 */
#include "bpf.h"
#include "probe.h"
#include "util.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/btf.h>
#include <linux/perf_event.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#define BTF_FILE "/sys/kernel/btf/vmlinux"
#define GZIP_MAGIC 0x1f

/* What every open(2) goes through, on each architecture. */
#define TRACED "do_sys_openat2"
#define EVENT "osbuilder/opened"

static void mount_at(const char *folder, const char *type)
{
	if (mkdir(folder, 0755) < 0 || mount("probe", folder, type, MS_NOSUID, NULL) < 0)
		fail_errno("mount -t %s", type);
}

static void set(const char *path, const char *text)
{
	if (write_text(path, text) < 0)
		fail_errno("writing %s to %s", text, path);
}

static void open_something(void)
{
	int fd = open("/dev/null", O_RDONLY | O_CLOEXEC);

	if (fd < 0)
		fail_errno("/dev/null");
	close(fd);
}

void probe_btf(void)
{
	struct btf_header header;
	int fd = open(BTF_FILE, O_RDONLY | O_CLOEXEC);

	if (fd < 0)
		fail_errno(BTF_FILE);
	if (read(fd, &header, sizeof(header)) != (ssize_t)sizeof(header))
		fail_errno("reading " BTF_FILE);
	close(fd);
	if (header.magic != BTF_MAGIC || !header.type_len)
		fail(BTF_FILE ": magic %#x, %u bytes of types", header.magic, header.type_len);
	pass("%u KiB of types", header.type_len >> 10);
}

/* Whether a line of the trace names the function. */
static bool traced(void)
{
	char line[512];
	FILE *trace = fopen("tracing/trace", "re");
	bool found = false;

	if (!trace)
		fail_errno("tracing/trace");
	while (!found && fgets(line, sizeof(line), trace))
		found = line[0] != '#' && strstr(line, TRACED);
	fclose(trace);
	return found;
}

void probe_ftrace(void)
{
	mount_at("tracing", "tracefs");
	set("tracing/set_ftrace_filter", TRACED);
	set("tracing/current_tracer", "function");
	open_something();
	if (!traced())
		fail("the trace has no call of " TRACED);
	pass("calls of " TRACED " traced");
}

void undo_ftrace(void)
{
	mount_at("tracing", "tracefs");
	write_text("tracing/current_tracer", "nop");
	/* A filter goes when its file is opened for nothing but new ones. */
	int fd = open("tracing/set_ftrace_filter", O_WRONLY | O_TRUNC | O_CLOEXEC);

	if (fd >= 0)
		close(fd);
}

/* Loads a program that tells through the array when it was run. What it returns says that the event counts. */
static int load_teller(int map)
{
	const struct bpf_insn instructions[] = {
		BPF_ELEMENT(BPF_REG_1, map), BPF_SET(BPF_REG_2, 1), BPF_STORE(BPF_REG_1, 0, BPF_REG_2),
		BPF_SET(BPF_REG_0, 1),       BPF_RETURN(),
	};
	int program = bpf_load(BPF_PROG_TYPE_KPROBE, instructions, sizeof(instructions) / sizeof(*instructions));

	if (program < 0)
		fail_errno("loading a program for kprobes");
	return program;
}

/* Opens an event of tracefs for this process, off. */
static int open_event(void)
{
	struct perf_event_attr attributes;
	unsigned long long id;

	if (!read_number("tracing/events/" EVENT "/id", &id))
		fail("the event " EVENT " has no number");
	memset(&attributes, 0, sizeof(attributes));
	attributes.type = PERF_TYPE_TRACEPOINT;
	attributes.size = sizeof(attributes);
	attributes.config = id;
	attributes.disabled = 1;
	int event = (int)syscall(SYS_perf_event_open, &attributes, 0, -1, -1, PERF_FLAG_FD_CLOEXEC);
	if (event < 0)
		fail_errno("perf_event_open");
	return event;
}

void probe_kprobe(void)
{
	uint64_t told = 0, count = 0;

	mount_at("tracing", "tracefs");
	set("tracing/kprobe_events", "p:" EVENT " " TRACED);
	int map = bpf_array(sizeof(told));
	if (map < 0)
		fail_errno("a BPF array");
	int program = load_teller(map), event = open_event();
	if (ioctl(event, PERF_EVENT_IOC_SET_BPF, program) < 0 || ioctl(event, PERF_EVENT_IOC_ENABLE, 0) < 0)
		fail_errno("attaching a program to a kprobe");
	open_something();
	if (read(event, &count, sizeof(count)) != (ssize_t)sizeof(count) || bpf_read(map, &told) < 0)
		fail_errno("reading what was counted");
	close(event);
	if (!count || !told)
		fail("%llu calls were counted, and the program was%s run", (unsigned long long)count, told ? "" : " not");
	pass("a call of " TRACED " counted, and a BPF program run there");
}

void undo_kprobe(void)
{
	mount_at("tracing", "tracefs");
	write_text("tracing/kprobe_events", "-:" EVENT);
}

void probe_diagnostics(void)
{
	unsigned char magic = 0;
	int fd = open("/proc/config.gz", O_RDONLY | O_CLOEXEC);

	if (fd < 0 || read(fd, &magic, 1) != 1)
		fail_errno("/proc/config.gz");
	close(fd);
	if (magic != GZIP_MAGIC)
		fail("/proc/config.gz is no gzip file");
	if (!exists("/proc/sysrq-trigger"))
		fail("there is no /proc/sysrq-trigger");
	mount_at("debug", "debugfs");
	if (!exists("debug/dynamic_debug/control"))
		fail("debugfs has no dynamic_debug/control");
	pass("configuration, SysRq and dynamic debug are there");
}
