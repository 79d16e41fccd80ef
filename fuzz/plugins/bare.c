/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * bare.c - a module with nothing to run when it is loaded: the file that is mangled.
 */
long answer(void)
{
	return 42;
}
