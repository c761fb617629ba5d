/* SPDX-License-Identifier: Apache-2.0
 *
 * Kernel modules: one of the root's own is loaded by finit_module(2), as modprobe does, and unloaded again.
 */
#include "probe.h"
#include "util.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/utsname.h>
#include <unistd.h>

/* A driver may want a device that this machine lacks: then the next one is tried. */
#define TRIED_MAX 16

/* The name that the kernel knows a module by: the file's, with underscores. Returns false for one that is too long. */
static bool module_name(const char *path, char *name, size_t size)
{
	const char *file = strrchr(path, '/');
	size_t length;

	file = file ? file + 1 : path;
	length = strcspn(file, ".");
	if (length >= size)
		return false;
	for (size_t i = 0; i < length; i++)
		name[i] = file[i] == '-' ? '_' : file[i];
	name[length] = '\0';
	return true;
}

static bool is_loaded(const char *name)
{
	char line[4096];
	FILE *modules = fopen("/proc/modules", "re");
	size_t length = strlen(name);
	bool found = false;

	while (modules && !found && fgets(line, sizeof(line), modules))
		found = strncmp(line, name, length) == 0 && line[length] == ' ';
	if (modules)
		fclose(modules);
	return found;
}

/* Loads a file. Returns 0, or the errno. */
static int load(const char *path)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	int error = 0;

	if (fd < 0)
		return errno;
	if (syscall(SYS_finit_module, fd, "", 0) < 0)
		error = errno;
	close(fd);
	return error;
}

/* Opens the list of the running kernel's modules, in whose folder the probe is then. */
static FILE *open_list(void)
{
	struct utsname self;
	char folder[128];

	if (!exists("/proc/modules"))
		fail("the kernel has no modules");
	if (uname(&self) < 0)
		fail_errno("uname");
	snprintf(folder, sizeof(folder), "/lib/modules/%s", self.release);
	if (chdir(folder) < 0 && errno == ENOENT)
		skip("this root has no modules for %s", self.release);
	FILE *list = fopen("modules.dep", "re");
	if (!list)
		fail_errno("%s/modules.dep", folder);
	return list;
}

/* Tries modules until one is loaded: one that is there already proves nothing about this root's. */
void probe_modules(void)
{
	char line[4096], name[64];
	int tried = 0, error = 0;
	FILE *list = open_list();

	while (tried < TRIED_MAX && fgets(line, sizeof(line), list)) {
		char *colon = strchr(line, ':');
		/* One that needs no other: nothing follows the colon. */
		if (!colon || strcmp(colon, ":\n") != 0)
			continue;
		*colon = '\0';
		if (!module_name(line, name, sizeof(name)) || is_loaded(name))
			continue;
		tried++;
		error = load(line);
		if (error)
			continue;
		if (!is_loaded(name))
			fail("%s was loaded, but /proc/modules does not have it", name);
		if (syscall(SYS_delete_module, name, O_NONBLOCK) < 0)
			fail_errno("unloading %s", name);
		pass("%s was loaded and unloaded", name);
	}
	if (!tried)
		fail("modules.dep names no module that needs no other");
	fail("none of %d modules was loaded; the last one, %s: %s", tried, name, strerror(error));
}
