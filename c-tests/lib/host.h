/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * host.h - what the tests of the module host share.
 */
#ifndef HOST_H
#define HOST_H

#include <dirent.h>

#include "module_ref.h"
#include "process.h"
#include "tap.h"

#define SECOND INT64_C(1000000000)
#define MILLISECOND INT64_C(1000000)

/* A plugin beside the program. */
static inline const char *plugin(const char *file)
{
	static __thread char paths[4][PATH_MAX];
	static __thread unsigned next;
	const char *path = beside_program(paths[next++ % 4], file);

	need(path);
	return path;
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
