/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * plugin.c - a module that does nothing.
 */
#ifdef HOOKS
int init_module(void)
{
	return 0;
}

void cleanup_module(void)
{
}
#endif

long answer(void)
{
	return 42;
}
