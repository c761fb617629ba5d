/* SPDX-License-Identifier: Apache-2.0
 *
 * osbuilder-probe: what makes a guest prove itself. It runs the probes that the kernel command line names, reports
 * once, and then ends the machine or stays. README.md says how to talk to it.
 */
#include "init.h"
#include "probe.h"
#include "report.h"
#include "util.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define EXIT_USAGE 2

enum channel { CHANNEL_DEFAULT, CHANNEL_CONSOLE, CHANNEL_PORT, CHANNEL_STDOUT };

struct options {
	char probes[2048]; /* names separated by commas, "none", or "all", which -NAMEs may follow */
	enum channel channel;
	bool then_power_off;
};

static void complain(const char *what, const char *value, size_t length)
{
	fprintf(stderr, AGENT_NAME ": %s \"%.*s\"\n", what, (int)length, value);
}

/* Takes one setting, whoever named it. Returns false, with a complaint, when it makes no sense. */
static bool set_option(struct options *options, const char *key, const char *value, size_t length)
{
	static const struct {
		const char *name;
		enum channel channel;
	} channels[] = {{"console", CHANNEL_CONSOLE}, {"port", CHANNEL_PORT}, {"stdout", CHANNEL_STDOUT}};

	if (strcmp(key, "probes") == 0 && length < sizeof(options->probes)) {
		snprintf(options->probes, sizeof(options->probes), "%.*s", (int)length, value);
		return true;
	}
	if (strcmp(key, "then") == 0 && length == 8 && strncmp(value, "poweroff", length) == 0) {
		options->then_power_off = true;
		return true;
	}
	if (strcmp(key, "then") == 0 && length == 4 && strncmp(value, "stay", length) == 0) {
		options->then_power_off = false;
		return true;
	}
	for (size_t i = 0; strcmp(key, "report") == 0 && i < COUNT_OF(channels); i++) {
		if (strlen(channels[i].name) != length || strncmp(channels[i].name, value, length) != 0)
			continue;
		options->channel = channels[i].channel;
		return true;
	}
	fprintf(stderr, AGENT_NAME ": %s: unknown value \"%.*s\"\n", key, (int)length, value);
	return false;
}

static const char *const KEYS[] = {"probes", "then", "report"};

static void read_kernel_line(struct options *options)
{
	char cmdline[4096], key[64];

	read_text("/proc/cmdline", cmdline, sizeof(cmdline));
	for (size_t i = 0; i < COUNT_OF(KEYS); i++) {
		size_t length;

		snprintf(key, sizeof(key), "osbuilder.%s", KEYS[i]);
		const char *value = cmdline_value(cmdline, key, &length);
		if (value)
			set_option(options, KEYS[i], value, length);
	}
}

/* --KEY=VALUE. Returns false when an argument is none of ours: PID 1 gets what the kernel did not understand. */
static bool read_arguments(struct options *options, int count, char **arguments)
{
	bool good = true;

	for (int i = 1; i < count; i++) {
		bool known = false;

		for (size_t k = 0; k < COUNT_OF(KEYS); k++) {
			size_t length = strlen(KEYS[k]);

			if (strncmp(arguments[i], "--", 2) != 0 || strncmp(arguments[i] + 2, KEYS[k], length) != 0 ||
			    arguments[i][2 + length] != '=')
				continue;
			const char *value = arguments[i] + 3 + length;
			known = true;
			good &= set_option(options, KEYS[k], value, strlen(value));
		}
		if (!known && getpid() != 1) {
			complain("unknown argument", arguments[i], strlen(arguments[i]));
			good = false;
		}
	}
	return good;
}

static int list_probes(void)
{
	for (size_t i = 0; i < PROBE_COUNT; i++)
		printf("%-20s %s\n", PROBES[i].name, PROBES[i].proves);
	return fflush(stdout) == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}

/* A name that no probe has is a failed probe of that name: whoever asked for it must not take silence for a pass. */
static void run_unknown(const char *name, size_t length, struct probe *stand_in, struct outcome *outcome)
{
	char *copy = strndup(name, length);

	*stand_in = (struct probe){.name = copy ? copy : "unknown"};
	*outcome = (struct outcome){.probe = stand_in, .verdict = {.result = RESULT_FAIL}};
	snprintf(outcome->verdict.detail, sizeof(outcome->verdict.detail), "%s %s has no probe of that name", AGENT_NAME,
		 AGENT_VERSION);
}

/* Runs all probes but those of `names` with a dash before them. Returns how many outcomes there are. */
static size_t run_all(const char *names, struct outcome *outcomes)
{
	char excluded[64];
	size_t count = 0;

	for (size_t i = 0; i < PROBE_COUNT; i++) {
		snprintf(excluded, sizeof(excluded), "-%s", PROBES[i].name);
		if (!has_word(names, excluded))
			probe_run(&PROBES[i], &outcomes[count++]);
	}
	return count;
}

/* Runs what is asked for, in the order of asking. Returns how many outcomes there are. */
static size_t run_probes(const char *names, struct outcome **outcomes)
{
	size_t most = PROBE_COUNT, count = 0;

	for (const char *at = names; *at; at++)
		most += *at == ',';
	*outcomes = calloc(most + 1, sizeof(**outcomes));
	struct probe *stand_ins = calloc(most + 1, sizeof(*stand_ins));
	if (!*outcomes || !stand_ins || strcmp(names, "none") == 0)
		return 0;
	if (strcmp(names, "all") == 0 || strncmp(names, "all,", 4) == 0)
		return run_all(names, *outcomes);
	while (*names) {
		size_t length = strcspn(names, ",");
		const struct probe *probe = probe_find(names, length);

		if (probe)
			probe_run(probe, &(*outcomes)[count]);
		else if (length)
			run_unknown(names, length, &stand_ins[count], &(*outcomes)[count]);
		count += length > 0;
		names += length;
		names += *names == ',';
	}
	return count;
}

/* The port where there is one, unless the console was asked for; the console where the port fails. */
static int deliver(enum channel channel, const struct text *report)
{
	if (channel == CHANNEL_STDOUT)
		return report_to_stdout(report);
	if (channel != CHANNEL_CONSOLE) {
		if (report_to_port(report) == 0)
			return 0;
		if (channel == CHANNEL_PORT || errno != ENODEV)
			fprintf(stderr, AGENT_NAME ": port %s: %s; reporting on the console\n", PORT_NAME, strerror(errno));
	}
	return report_to_console(report);
}

static void summarize(const struct report *report)
{
	unsigned int results[RESULT_SKIP + 1] = {0};

	for (size_t i = 0; i < report->count; i++)
		results[report->outcomes[i].verdict.result]++;
	fprintf(stderr, AGENT_NAME ": ready after %.3f s; %u passed, %u failed, %u skipped\n", (double)report->ready_us / 1e6,
		results[RESULT_PASS], results[RESULT_FAIL], results[RESULT_SKIP]);
}

int main(int count, char **arguments)
{
	struct report report = {.started_us = boottime_us()};
	struct options options = {.probes = "all"};
	struct outcome *outcomes = NULL;
	struct text line = {0};
	bool is_init = getpid() == 1;

	if (!is_init && count == 2 && strcmp(arguments[1], "--list") == 0)
		return list_probes();
	if (is_init)
		init_system();
	read_kernel_line(&options);
	if (!read_arguments(&options, count, arguments) && !is_init)
		return EXIT_USAGE;
	if (is_init)
		fprintf(stderr, AGENT_NAME " " AGENT_VERSION ": started; kernel messages from here on may be its probes' doing\n");
	runner_prepare();
	facts_memory(&report.memory);
	report.vcpus = sysconf(_SC_NPROCESSORS_ONLN);
	report.count = run_probes(options.probes, &outcomes);
	report.outcomes = outcomes;
	report.ready_us = boottime_us();
	report_write(&line, &report);
	summarize(&report);
	int status = line.failed ? -1 : deliver(options.channel, &line);
	if (status < 0)
		perror(AGENT_NAME ": the report could not be delivered");
	if (is_init && !options.then_power_off)
		stay_as_init();
	if ((is_init || options.then_power_off) && end_machine() < 0)
		perror(AGENT_NAME ": the machine could not be ended");
	return status < 0 ? EXIT_FAILURE : EXIT_SUCCESS;
}
