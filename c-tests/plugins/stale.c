/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * stale.c - gives out pointers that are stale once it is unloaded.
 */
int (*give_callback(void))(int);
int *give_table(void);

static int table[64] = { 1, 2, 3 };

static int fired(int n)
{
	return table[n] + 1;
}

int (*give_callback(void))(int)
{
	return fired;
}

int *give_table(void)
{
	return table;
}
