/* SPDX-License-Identifier: Apache-2.0 */
#include "facts.h"
#include "util.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void copy_text(char *to, size_t size, const char *from)
{
	snprintf(to, size, "%.*s", (int)(size - 1), from);
}

/* /sys/dev/block/MAJOR:MINOR/uevent says DEVNAME=vda1. */
static void find_device(const char *numbers, char *device, size_t size)
{
	char path[64], uevent[512];

	device[0] = '\0';
	snprintf(path, sizeof(path), "/sys/dev/block/%.32s/uevent", numbers);
	if (read_text(path, uevent, sizeof(uevent)) <= 0)
		return;
	char *rest = NULL;
	for (char *line = strtok_r(uevent, "\n", &rest); line; line = strtok_r(NULL, "\n", &rest))
		if (strncmp(line, "DEVNAME=", 8) == 0)
			snprintf(device, size, "/dev/%s", line + 8);
}

static void add_options(char *options, size_t size, char *more)
{
	char *rest = NULL;

	for (char *word = strtok_r(more, ",", &rest); word; word = strtok_r(NULL, ",", &rest)) {
		size_t length = strlen(options);

		if (!has_word(options, word))
			snprintf(options + length, size - length, "%s%s", length ? "," : "", word);
	}
}

/* proc_pid_mountinfo(5): ID PARENT MAJOR:MINOR ROOT POINT OPTIONS [TAGS...] - TYPE SOURCE SUPER_OPTIONS */
static bool parse_mount(char *line, struct root_facts *root)
{
	char *rest = NULL;
	char *before[6];
	char *after[3];

	for (size_t i = 0; i < 6; i++)
		if (!(before[i] = strtok_r(i ? NULL : line, " ", &rest)))
			return false;
	if (strcmp(before[4], "/") != 0)
		return false;
	char *word = before[5];
	while (word && strcmp(word, "-") != 0)
		word = strtok_r(NULL, " ", &rest);
	for (size_t i = 0; i < 3; i++)
		if (!(after[i] = strtok_r(NULL, " ", &rest)))
			return false;
	copy_text(root->fstype, sizeof(root->fstype), after[0]);
	copy_text(root->source, sizeof(root->source), after[1]);
	find_device(before[2], root->device, sizeof(root->device));
	root->options[0] = '\0';
	add_options(root->options, sizeof(root->options), before[5]);
	add_options(root->options, sizeof(root->options), after[2]);
	return true;
}

bool facts_root(struct root_facts *root)
{
	FILE *file = fopen("/proc/self/mountinfo", "re");
	char *line = NULL;
	size_t size = 0;
	bool found = false;

	memset(root, 0, sizeof(*root));
	if (!file)
		return false;
	/* The last one is what is seen: an initrd may have mounted the real root over its own. */
	while (getline(&line, &size, file) > 0) {
		line[strcspn(line, "\n")] = '\0';
		if (parse_mount(line, root))
			found = true;
	}
	free(line);
	fclose(file);
	return found;
}

bool facts_memory(struct memory_facts *memory)
{
	FILE *file = fopen("/proc/meminfo", "re");
	char line[128];
	int found = 0;

	memset(memory, 0, sizeof(*memory));
	if (!file)
		return false;
	while (fgets(line, sizeof(line), file)) {
		found += sscanf(line, "MemTotal: %llu kB", &memory->total_kib) == 1;
		found += sscanf(line, "MemAvailable: %llu kB", &memory->available_kib) == 1;
	}
	fclose(file);
	return found == 2;
}
