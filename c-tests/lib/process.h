/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * process.h - what this process is made of: files beside the program, and what is mapped.
 */
#ifndef PROCESS_H
#define PROCESS_H

#include <libgen.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

/* The path of a file beside the program; NULL if that is not known, or too long. */
static inline const char *beside_program(char path[PATH_MAX], const char *file)
{
	char program[PATH_MAX];
	ssize_t n = readlink("/proc/self/exe", program, sizeof(program) - 1);
	int length;

	if (n < 0)
		return NULL;
	program[n] = '\0';
	length = snprintf(path, PATH_MAX, "%s/%s", dirname(program), file);
	return length < PATH_MAX ? path : NULL;
}

/* How many lines of /proc/self/maps have that text: 0 if nothing of it is mapped, -1 if nobody can
 * tell. */
static inline int mapped(const char *text)
{
	FILE *maps = fopen("/proc/self/maps", "r");
	char line[PATH_MAX + 128];
	int n = 0;

	if (!maps)
		return -1;
	while (fgets(line, sizeof(line), maps))
		n += strstr(line, text) != NULL;
	fclose(maps);
	return n;
}

#endif
