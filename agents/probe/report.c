/* SPDX-License-Identifier: Apache-2.0 */
#include "report.h"

#include <sys/utsname.h>
#include <unistd.h>

/* Decodes one UTF-8 sequence (RFC 3629: no overlong forms, no surrogates, up to U+10FFFF). Returns its bytes, or 0. */
static size_t decode_utf8(const unsigned char *bytes, uint32_t *code)
{
	static const uint32_t least[] = {0, 0, 0x80, 0x800, 0x10000};
	size_t size;

	if (bytes[0] >= 0xc2 && bytes[0] <= 0xdf)
		size = 2;
	else if ((bytes[0] & 0xf0) == 0xe0)
		size = 3;
	else if (bytes[0] >= 0xf0 && bytes[0] <= 0xf4)
		size = 4;
	else
		return 0;
	*code = bytes[0] & (0x7fu >> size);
	for (size_t i = 1; i < size; i++) {
		if ((bytes[i] & 0xc0) != 0x80)
			return 0;
		*code = *code << 6 | (bytes[i] & 0x3f);
	}
	return *code < least[size] || *code > 0x10ffff || (*code >= 0xd800 && *code <= 0xdfff) ? 0 : size;
}

static size_t add_escaped(struct text *text, const unsigned char *bytes)
{
	uint32_t code = 0xfffd;
	size_t size;

	if (bytes[0] == '"' || bytes[0] == '\\') {
		text_add(text, "\\%c", bytes[0]);
		return 1;
	}
	if (bytes[0] >= 0x20 && bytes[0] < 0x7f) {
		text_add_bytes(text, (const char *)bytes, 1);
		return 1;
	}
	if (bytes[0] < 0x80) {
		text_add(text, "\\u%04x", bytes[0]);
		return 1;
	}
	size = decode_utf8(bytes, &code);
	if (size == 0) {
		code = 0xfffd;
		size = 1;
	}
	if (code >= 0x10000) {
		text_add(text, "\\u%04x\\u%04x", 0xd800 + (code - 0x10000) / 0x400, 0xdc00 + (code - 0x10000) % 0x400);
	} else {
		text_add(text, "\\u%04x", code);
	}
	return size;
}

void json_string(struct text *text, const char *value)
{
	const unsigned char *at = (const unsigned char *)value;

	text_add(text, "\"");
	while (*at)
		at += add_escaped(text, at);
	text_add(text, "\"");
}

static void add_member(struct text *text, const char *name, const char *value)
{
	text_add(text, "\"%s\":", name);
	json_string(text, value);
}

static void add_seconds(struct text *text, const char *name, uint64_t microseconds)
{
	text_add(text, "\"%s\":%llu.%03llu", name, (unsigned long long)(microseconds / 1000000),
		 (unsigned long long)(microseconds / 1000 % 1000));
}

static void add_kernel(struct text *text)
{
	struct utsname names = {0};
	char cmdline[4096];

	uname(&names);
	read_text("/proc/cmdline", cmdline, sizeof(cmdline));
	text_add(text, "\"kernel\":{");
	add_member(text, "release", names.release);
	text_add(text, ",");
	add_member(text, "version", names.version);
	text_add(text, ",");
	add_member(text, "machine", names.machine);
	text_add(text, ",");
	add_member(text, "cmdline", cmdline);
	text_add(text, "}");
}

static void add_root(struct text *text)
{
	struct root_facts root;

	facts_root(&root);
	text_add(text, "\"root\":{");
	add_member(text, "device", root.device);
	text_add(text, ",");
	add_member(text, "source", root.source);
	text_add(text, ",");
	add_member(text, "fstype", root.fstype);
	text_add(text, ",");
	add_member(text, "options", root.options);
	text_add(text, "}");
}

static void add_machine(struct text *text, const struct report *report)
{
	text_add(text, "\"memory\":{\"total_kib\":%llu,\"available_kib\":%llu},\"vcpus\":%ld", report->memory.total_kib,
		 report->memory.available_kib, report->vcpus);
}

static void add_outcome(struct text *text, const struct outcome *outcome)
{
	static const char *const words[] = {
		[RESULT_NONE] = "fail", [RESULT_PASS] = "pass", [RESULT_FAIL] = "fail", [RESULT_SKIP] = "skip"};

	text_add(text, "{");
	add_member(text, "name", outcome->probe->name);
	text_add(text, ",");
	add_member(text, "result", words[outcome->verdict.result]);
	text_add(text, ",");
	add_member(text, "detail", outcome->verdict.detail);
	text_add(text, ",\"duration_us\":%llu}", (unsigned long long)outcome->duration_us);
}

void report_write(struct text *text, const struct report *report)
{
	char init[64];

	read_text("/proc/1/comm", init, sizeof(init));
	text_add(text, "{\"schema\":%d,\"agent\":{", REPORT_SCHEMA);
	add_member(text, "name", AGENT_NAME);
	text_add(text, ",");
	add_member(text, "version", AGENT_VERSION);
	text_add(text, "},");
	add_kernel(text);
	text_add(text, ",\"pid1\":%s,", getpid() == 1 ? "true" : "false");
	add_member(text, "init", init);
	text_add(text, ",");
	add_seconds(text, "uptime_s", report->started_us);
	text_add(text, ",");
	add_seconds(text, "ready_s", report->ready_us);
	text_add(text, ",");
	add_root(text);
	text_add(text, ",");
	add_machine(text, report);
	text_add(text, ",\"probes\":[");
	for (size_t i = 0; i < report->count; i++) {
		if (i)
			text_add(text, ",");
		add_outcome(text, &report->outcomes[i]);
	}
	text_add(text, "]}");
}
