/* SPDX-License-Identifier: Apache-2.0
 *
 * Security modules: which ones are on, and that they refuse what they are there to refuse. SELinux and AppArmor are off
 * unless the kernel line chooses one; then their probes skip, as long as the kernel has them.
 */
#include "probe.h"
#include "util.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/landlock.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <unistd.h>

/* The same numbers on every architecture (since 5.13); older C libraries do not name them. */
#define SYS_LANDLOCK_CREATE_RULESET 444
#define SYS_LANDLOCK_ADD_RULE 445
#define SYS_LANDLOCK_RESTRICT_SELF 446

#define NOBODY 65534

static void mount_security(char *modules, size_t size)
{
	if (mkdir("security", 0755) < 0 || mount("probe", "security", "securityfs", 0, NULL) < 0)
		fail_errno("mount -t securityfs");
	if (read_text("security/lsm", modules, size) < 0)
		fail_errno("the list of security modules");
}

void probe_security_modules(void)
{
	char modules[256];

	mount_security(modules, sizeof(modules));
	if (!has_word(modules, "landlock") || !has_word(modules, "yama"))
		fail("on: %s; neither landlock nor yama may be missing", modules);
	pass("on: %s", modules);
}

static void make_file_in(const char *folder)
{
	char path[64];

	snprintf(path, sizeof(path), "%s/file", folder);
	if (mkdir(folder, 0755) < 0)
		fail_errno("mkdir %s", folder);
	int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0644);
	if (fd < 0)
		fail_errno("%s", path);
	close(fd);
}

void probe_landlock(void)
{
	struct landlock_ruleset_attr ruleset = {.handled_access_fs = LANDLOCK_ACCESS_FS_READ_FILE};
	struct landlock_path_beneath_attr rule = {.allowed_access = LANDLOCK_ACCESS_FS_READ_FILE};

	make_file_in("allowed");
	make_file_in("other");
	int fd = (int)syscall(SYS_LANDLOCK_CREATE_RULESET, &ruleset, sizeof(ruleset), 0);
	if (fd < 0)
		fail_errno("landlock_create_ruleset");
	rule.parent_fd = open("allowed", O_PATH | O_CLOEXEC);
	if (rule.parent_fd < 0 || syscall(SYS_LANDLOCK_ADD_RULE, fd, LANDLOCK_RULE_PATH_BENEATH, &rule, 0) < 0)
		fail_errno("landlock_add_rule");
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 || syscall(SYS_LANDLOCK_RESTRICT_SELF, fd, 0) < 0)
		fail_errno("landlock_restrict_self");
	if (open("allowed/file", O_RDONLY | O_CLOEXEC) < 0)
		fail_errno("a file that the rules allow");
	if (open("other/file", O_RDONLY | O_CLOEXEC) >= 0 || errno != EACCES)
		fail("a file that the rules do not name was opened");
	pass("a process shut itself out of a folder");
}

/* Becomes nobody, who may be looked into by others of the same user as far as the kernel itself minds. */
static void become_nobody(void)
{
	if (setresgid(NOBODY, NOBODY, NOBODY) < 0 || setresuid(NOBODY, NOBODY, NOBODY) < 0 ||
	    prctl(PR_SET_DUMPABLE, 1, 0, 0, 0) < 0)
		_exit(1);
}

/* Starts a process that waits to be traced; with `anybody` it has said that all may. Returns once it has. */
static pid_t start_traced(bool anybody)
{
	int gate[2];
	char byte;

	if (pipe2(gate, O_CLOEXEC) < 0)
		fail_errno("pipe");
	pid_t child = fork();
	if (child < 0)
		fail_errno("fork");
	if (child == 0) {
		become_nobody();
		if (anybody && prctl(PR_SET_PTRACER, PR_SET_PTRACER_ANY, 0, 0, 0) < 0)
			_exit(1);
		if (write(gate[1], "x", 1) != 1)
			_exit(1);
		for (;;)
			pause();
	}
	close(gate[1]);
	if (read(gate[0], &byte, 1) != 1)
		fail("the process to be traced ended; without Yama it cannot say who may");
	close(gate[0]);
	return child;
}

/* Whether a sibling of the same user, nobody, may trace it: 0, or the errno. */
static int traced_by_sibling(pid_t target)
{
	int status;
	pid_t child = fork();

	if (child < 0)
		fail_errno("fork");
	if (child == 0) {
		become_nobody();
		_exit(ptrace(PTRACE_ATTACH, target, NULL, NULL) == 0 ? 0 : errno);
	}
	if (waitpid(child, &status, 0) < 0 || !WIFEXITED(status))
		fail("the tracing process died");
	kill(target, SIGKILL);
	return WEXITSTATUS(status);
}

#define PTRACE_SCOPE "/proc/sys/kernel/yama/ptrace_scope"

static bool scope_raised;

/* Debian's kernels start with a scope of 0, which refuses nothing; Linux itself starts with 1. */
void prepare_yama(void)
{
	unsigned long long scope;

	scope_raised = read_number(PTRACE_SCOPE, &scope) && scope == 0 && write_text(PTRACE_SCOPE, "1") == 0;
}

void cleanup_yama(void)
{
	if (scope_raised)
		write_text(PTRACE_SCOPE, "0");
}

void probe_yama(void)
{
	unsigned long long scope;

	if (!read_number(PTRACE_SCOPE, &scope))
		fail_errno("kernel.yama.ptrace_scope");
	if (scope == 0)
		fail("kernel.yama.ptrace_scope stays 0");
	if (scope > 1)
		skip("kernel.yama.ptrace_scope was set to %llu", scope);
	int refused = traced_by_sibling(start_traced(false));
	if (refused != EPERM)
		fail("a process was traced by another of its user (%s)", strerror(refused));
	int allowed = traced_by_sibling(start_traced(true));
	if (allowed)
		fail("a process that lets anybody trace it was not traced (%s)", strerror(allowed));
	pass("a process was traced by another only after it had agreed");
}

/* Ends the probe unless a module is on: chosen and not on is a failure, not chosen is a skip. */
static void require_chosen(const char *module, const char *modules, bool in_kernel)
{
	char cmdline[4096];
	size_t length;

	if (has_word(modules, module))
		return;
	if (!in_kernel)
		fail("the kernel has no %s", module);
	if (read_text("/proc/cmdline", cmdline, sizeof(cmdline)) < 0)
		fail_errno("/proc/cmdline");
	const char *chosen = cmdline_value(cmdline, "security", &length);
	if (chosen && length == strlen(module) && strncmp(chosen, module, length) == 0)
		fail("security=%s on the kernel line, but on are: %s", module, modules);
	skip("off: the kernel line does not say security=%s", module);
}

/* SELinux leaves no trace while it is off, but for its functions' names. */
static bool has_function(const char *name)
{
	char line[256];
	FILE *symbols = fopen("/proc/kallsyms", "re");
	bool found = false;

	while (symbols && !found && fgets(line, sizeof(line), symbols)) {
		line[strcspn(line, "\n")] = '\0';
		const char *last = strrchr(line, ' ');
		found = last && strcmp(last + 1, name) == 0;
	}
	if (symbols)
		fclose(symbols);
	return found;
}

/* Until init loads a policy everything runs as the kernel, and a file that has no label counts as unlabeled. */
static void read_domain(const char *path, char *domain, size_t size)
{
	if (read_text(path, domain, size) <= 0)
		fail_errno("%s", path);
	if (strstr(domain, ":kernel_t:") || strstr(domain, ":unlabeled_t:"))
		fail("a policy is loaded, but %s is %s: the image's files have no labels", path, domain);
}

void probe_selinux(void)
{
	char modules[256], enforce[8], version[8], init[128], own[128], file[128] = "";

	mount_security(modules, sizeof(modules));
	bool on = has_word(modules, "selinux");
	require_chosen("selinux", modules, on || has_function("selinux_inode_permission"));
	if (mkdir("mnt", 0755) < 0 || mount("probe", "mnt", "selinuxfs", 0, NULL) < 0)
		fail_errno("mount -t selinuxfs");
	if (read_text("mnt/policyvers", version, sizeof(version)) <= 0 ||
	    read_text("mnt/enforce", enforce, sizeof(enforce)) <= 0)
		fail_errno("selinuxfs");
	if (read_text("/proc/1/attr/current", init, sizeof(init)) > 0 && strcmp(init, "kernel") == 0)
		pass("on, no policy is loaded; it takes policies up to version %s, enforce is %s", version, enforce);
	read_domain("/proc/1/attr/current", init, sizeof(init));
	read_domain("/proc/self/attr/current", own, sizeof(own));
	if (getxattr("/proc/self/exe", "security.selinux", file, sizeof(file) - 1) <= 0 || strstr(file, ":unlabeled_t:"))
		fail("a policy is loaded, but the agent's file has no label: %s", file);
	pass("on, enforce is %s; init is %s, the agent %s from a file of %s", enforce, init, own, file);
}

#define NAMESPACE "security/apparmor/policy/namespaces/osbuilder-probe"

void undo_apparmor(void)
{
	char modules[256];

	mount_security(modules, sizeof(modules));
	rmdir(NAMESPACE);
}

void probe_apparmor(void)
{
	char modules[256];

	mount_security(modules, sizeof(modules));
	require_chosen("apparmor", modules, exists("/sys/module/apparmor"));
	/* A namespace for policies, made and removed: the module is at work, and nothing of the system's is touched. */
	if (mkdir(NAMESPACE, 0755) < 0)
		fail_errno("a namespace for policies");
	if (!exists(NAMESPACE "/profiles"))
		fail("the new namespace has no profiles");
	if (rmdir(NAMESPACE) < 0)
		fail_errno("removing a namespace for policies");
	pass("on; a namespace for policies was made and removed");
}

void probe_lockdown(void)
{
	char modules[256], level[64];

	mount_security(modules, sizeof(modules));
	if (read_text("security/lockdown", level, sizeof(level)) <= 0)
		fail_errno("the level of lockdown");
	if (!strstr(level, "[integrity]") && !strstr(level, "[confidentiality]"))
		fail("the kernel is not locked down: %s", level);
	if (write_text("security/lockdown", "none") == 0 || errno != EPERM)
		fail("lockdown was lifted");
	pass("%s, and it stays", level);
}
