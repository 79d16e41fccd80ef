/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * plugin.c - a module that tells the fuzz target of everything that happens to it.
 */

/* In the target's own program. */
void fuzz_event(int plugin, char what);

__attribute__((constructor)) static void mapped(void)
{
	fuzz_event(ANSWER, 'm');
}

__attribute__((destructor)) static void unmapped(void)
{
	fuzz_event(ANSWER, 'u');
}

#ifdef INIT
int init_module(void)
{
	fuzz_event(ANSWER, 'i');
	return INIT;
}
#endif

#ifdef EXIT
void cleanup_module(void)
{
	fuzz_event(ANSWER, 'x');
}
#endif

long answer(void)
{
	return ANSWER;
}
