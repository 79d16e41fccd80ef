/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * tiny.c - the smallest plugin, to be loaded ten thousand times.
 */
long answer(void);

long answer(void)
{
	return 42;
}
