/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * stack.c - the plugin under test: a stack of numbers. FIXED is the version in which pop() of an
 * empty stack is an error instead of a crash.
 */
#include <stddef.h>

enum { DEPTH = 4 };

static long items[DEPTH];
static size_t used;

int init_module(void);
void cleanup_module(void);
int push(long item);
long pop(void);
size_t depth(void);

/* Every load begins empty: its variables are its own. */
int init_module(void)
{
	used = 0;
	return 0;
}

void cleanup_module(void)
{
	used = 0;
}

/* 0, or -1 if there is no room. */
int push(long item)
{
	if (used == DEPTH)
		return -1;
	items[used++] = item;
	return 0;
}

/* The last number, or -1 if there is none. */
long pop(void)
{
#ifdef FIXED
	if (used == 0)
		return -1;
#endif
	return items[--used];
}

size_t depth(void)
{
	return used;
}
