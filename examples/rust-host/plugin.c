/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * plugin.c - a plugin in C: it multiplies a number. -DFACTOR=n makes another version.
 */
#include <stdint.h>

#ifndef FACTOR
#define FACTOR 2
#endif
#define TEXT_(x) #x
#define TEXT(x) TEXT_(x)

const char *describe(void);
int64_t step(int64_t number);

const char *describe(void)
{
	return "multiplies by " TEXT(FACTOR) ", in C";
}

int64_t step(int64_t number)
{
	return number * FACTOR;
}
