/* SPDX-License-Identifier: Apache-2.0
 *
 * Runs a probe in a child of its own, in the rooms it asks for, with a time limit: a probe that crashes or hangs is a
 * failed probe, never a dead agent.
 */
#include "probe.h"
#include "util.h"

#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

/* What a probe may take that does not say. Generous: guests under emulation on a busy machine are a hundred times slower
 * than the real thing. */
#ifndef LIMIT_MS
#define LIMIT_MS 10000
#endif
/* A child that SIGKILL has not ended by then sleeps in the kernel; it is reaped whenever it wakes. */
#define KILL_MS 1000

static struct verdict *shared;

void runner_prepare(void)
{
	sigset_t set;

	/* Child endings are awaited with sigtimedwait(2), so they have to be pending, not delivered. */
	sigemptyset(&set);
	sigaddset(&set, SIGCHLD);
	sigprocmask(SIG_BLOCK, &set, NULL);
	void *page = mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	shared = page == MAP_FAILED ? NULL : page;
}

static void speak(enum result result, const char *format, va_list arguments, int error)
{
	int length = vsnprintf(shared->detail, sizeof(shared->detail), format, arguments);

	if (error && length >= 0 && (size_t)length < sizeof(shared->detail))
		snprintf(shared->detail + length, sizeof(shared->detail) - (size_t)length, ": %s", strerror(error));
	shared->result = result;
}

#define SPEAK(result, error)                               \
	do {                                               \
		int error_number = (error);                \
		va_list arguments;                         \
		va_start(arguments, format);               \
		speak(result, format, arguments, error_number); \
		va_end(arguments);                         \
		_exit(0);                                  \
	} while (0)

void pass(const char *format, ...)
{
	SPEAK(RESULT_PASS, 0);
}

void fail(const char *format, ...)
{
	SPEAK(RESULT_FAIL, 0);
}

void fail_errno(const char *format, ...)
{
	SPEAK(RESULT_FAIL, errno);
}

void skip(const char *format, ...)
{
	SPEAK(RESULT_SKIP, 0);
}

/* The root is never written to: scratch is a tmpfs over whichever of these folders the root has. */
static void enter_scratch(void)
{
	static const char *const folders[] = {"/tmp", "/run", "/mnt", "/dev/shm"};

	if (unshare(CLONE_NEWNS) < 0)
		fail_errno("scratch: unshare(CLONE_NEWNS)");
	if (mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0)
		fail_errno("scratch: making mounts private");
	for (size_t i = 0; i < COUNT_OF(folders); i++) {
		if (!exists(folders[i]))
			continue;
		if (mount("scratch", folders[i], "tmpfs", MS_NOSUID, "mode=755,size=64m") < 0)
			fail_errno("scratch: tmpfs on %s", folders[i]);
		if (chdir(folders[i]) < 0)
			fail_errno("scratch: chdir %s", folders[i]);
		return;
	}
	fail("scratch: none of /tmp, /run, /mnt, /dev/shm exists");
}

static void run_in_child(const struct probe *probe, void (*function)(void)) __attribute__((noreturn));
static void run_in_child(const struct probe *probe, void (*function)(void))
{
	sigset_t none;

	setpgid(0, 0);
	prctl(PR_SET_NAME, probe->name); /* what the kernel log calls it, should it be killed */
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	for (int signal_number = 1; signal_number < NSIG; signal_number++)
		signal(signal_number, SIG_DFL);
	umask(022);
	if (probe->rooms & ROOM_SCRATCH)
		enter_scratch();
	if (probe->rooms & ROOM_IPC && unshare(CLONE_NEWIPC) < 0)
		fail_errno("unshare(CLONE_NEWIPC)");
	if (probe->rooms & ROOM_NET) {
		if (unshare(CLONE_NEWNET) < 0)
			fail_errno("unshare(CLONE_NEWNET)");
		if (interface_set_up("lo", true) < 0)
			fail_errno("bringing loopback up");
	}
	function();
	fail("the probe returned without a verdict");
}

/* Waits for a child, reaping any other (PID 1 inherits orphans). Returns false when the time is over. */
static bool wait_for(pid_t child, unsigned int limit_ms, int *status)
{
	uint64_t end_us = boottime_us() + (uint64_t)limit_ms * 1000;
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGCHLD);
	for (;;) {
		pid_t ended;
		int ended_status;

		while ((ended = waitpid(-1, &ended_status, WNOHANG)) > 0) {
			if (ended == child) {
				*status = ended_status;
				return true;
			}
		}
		uint64_t now_us = boottime_us();
		if (now_us >= end_us)
			return false;
		struct timespec left = {.tv_sec = (time_t)((end_us - now_us) / 1000000),
					.tv_nsec = (long)((end_us - now_us) % 1000000) * 1000};
		sigtimedwait(&set, NULL, &left);
	}
}

static unsigned int limit_ms_of(const struct probe *probe)
{
	return probe->seconds ? probe->seconds * 1000 : LIMIT_MS;
}

/* Runs a function in a child until it ends or its time is over, with all that it started. Returns false if there is no
 * child. */
static bool run_apart(const struct probe *probe, void (*function)(void), bool *in_time, int *status)
{
	pid_t child = fork();

	if (child == 0)
		run_in_child(probe, function);
	if (child < 0)
		return false;
	*in_time = wait_for(child, limit_ms_of(probe), status);
	/* Whatever it started and left behind goes with it. */
	kill(-child, SIGKILL);
	if (!*in_time)
		wait_for(child, KILL_MS, status);
	return true;
}

static void judge(const struct probe *probe, const struct verdict *said, bool in_time, int status,
		  struct verdict *verdict)
{
	verdict->result = RESULT_FAIL;
	if (!in_time)
		snprintf(verdict->detail, sizeof(verdict->detail), "no verdict after %.1f s", limit_ms_of(probe) / 1000.0);
	else if (WIFSIGNALED(status))
		snprintf(verdict->detail, sizeof(verdict->detail), "the probe died of signal %d (%s)", WTERMSIG(status),
			 strsignal(WTERMSIG(status)));
	else if (said->result == RESULT_NONE)
		snprintf(verdict->detail, sizeof(verdict->detail), "the probe exited with status %d and no verdict",
			 WEXITSTATUS(status));
	else
		*verdict = *said;
}

void probe_run(const struct probe *probe, struct outcome *outcome)
{
	uint64_t start_us = boottime_us();
	struct verdict *verdict = &outcome->verdict;
	bool in_time = false;
	int status = 0;

	outcome->probe = probe;
	*verdict = (struct verdict){.result = RESULT_FAIL};
	if (probe->prepare)
		probe->prepare();
	errno = ENOMEM;
	if (shared)
		*shared = (struct verdict){.result = RESULT_NONE};
	if (shared && run_apart(probe, probe->run, &in_time, &status)) {
		struct verdict said = *shared;
		judge(probe, &said, in_time, status, verdict);
	} else {
		snprintf(verdict->detail, sizeof(verdict->detail), "no child for the probe: %s", strerror(errno));
	}
	if (shared && probe->undo)
		run_apart(probe, probe->undo, &in_time, &status);
	if (probe->cleanup)
		probe->cleanup();
	outcome->duration_us = boottime_us() - start_us;
}
