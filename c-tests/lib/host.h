/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * host.h - what the tests of the module host share.
 */
#ifndef HOST_H
#define HOST_H

#include <dirent.h>
#include <libgen.h>
#include <limits.h>
#include <string.h>
#include <unistd.h>

#include "module_ref.h"
#include "tap.h"

#define SECOND INT64_C(1000000000)
#define MILLISECOND INT64_C(1000000)

/* A plugin beside the program. */
static inline const char *plugin(const char *file)
{
	static _Thread_local char paths[4][PATH_MAX];
	static _Thread_local unsigned next;
	char program[PATH_MAX], *path = paths[next++ % 4];
	ssize_t n = readlink("/proc/self/exe", program, sizeof(program) - 1);

	need(n > 0);
	program[n] = '\0';
	need(snprintf(path, PATH_MAX, "%s/%s", dirname(program), file) < PATH_MAX);
	return path;
}

/* How many lines of /proc/self/maps have that text: 0 if nothing of it is mapped. */
static inline int mapped(const char *text)
{
	FILE *maps = fopen("/proc/self/maps", "r");
	char line[PATH_MAX + 128];
	int n = 0;

	need(maps);
	while (fgets(line, sizeof(line), maps))
		n += strstr(line, text) != NULL;
	fclose(maps);
	return n;
}

static inline int entries(const char *folder)
{
	DIR *dir = opendir(folder);
	int n = 0;

	need(dir);
	while (readdir(dir))
		n++;
	closedir(dir);
	return n;
}

static inline int open_files(void)
{
	return entries("/proc/self/fd");
}

/* The last error contains this. */
static inline void says(const char *text)
{
	if (!ok(strstr(module_last_error(), text), "and says '%s'", text))
		printf("#   found: %s\n", module_last_error());
}

/* A function of a module, through a cast that C allows. */
static inline long call(struct module *mod, const char *symbol)
{
	void *address = module_symbol(mod, symbol);
	long (*function)(void);

	if (!address)
		return -1;
	memcpy(&function, &address, sizeof(function));
	return function();
}

#endif
