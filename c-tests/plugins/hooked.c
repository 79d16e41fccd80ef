/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * hooked.c - a plugin whose init and exit functions call back into the program that loads
 * it, which exports what they call. Compiled several times:
 *
 *   ANSWER     what answer() returns (1)
 *   NO_INIT, NO_EXIT   without one, the other, or both
 *   EXPORTS    the name of one more function to export
 *   USES       the name of another plugin's function, for uses() to call
 *   CONSTANT   __this_module is
 */
#include "module_ref.h"

#include <stdatomic.h>

#ifndef ANSWER
#define ANSWER 1
#endif

int init_module(void);
void cleanup_module(void);
long answer(void);
void *call_back(void *(*function)(void *), void *argument);

/* The program's, if it has them. */
extern int on_init(struct module *self) __attribute__((weak));
extern void on_exit_of(struct module *self) __attribute__((weak));

#ifdef CONSTANT
struct module *const __this_module = 0;
#else
struct module *__this_module;
#endif
static volatile long count = ANSWER;
static _Atomic long called_back;

#ifndef NO_INIT
int init_module(void)
{
	return on_init ? on_init(__this_module) : 0;
}
#endif

#ifndef NO_EXIT
void cleanup_module(void)
{
	if (on_exit_of)
		on_exit_of(__this_module);
	count = -1;
}
#endif

/* Another number once the exit function has run. */
long answer(void)
{
	return count;
}

/* Code of the plugin on the stack of whatever function is. */
void *call_back(void *(*function)(void *), void *argument)
{
	void *result = function(argument);

	/* Not the last call, so that there is something to come back to. */
	atomic_fetch_add(&called_back, 1);
	return result;
}

#ifdef EXPORTS
long EXPORTS(void);
long EXPORTS(void)
{
	return ANSWER;
}
#endif

#ifdef USES
long USES(void);
long uses(void);
long uses(void)
{
	return USES();
}
#endif
