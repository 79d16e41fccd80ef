/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * sample.c - a plugin that gives itself away when it is used too late.
 *
 * Its function reads a table that init_module() fills and cleanup_module()
 * poisons. A call that is still running, or begins, after cleanup_module() gets a
 * wrong answer; one that does so after dlclose() crashes.
 */
#include "sample.h"

int init_module(void);
void cleanup_module(void);
uint32_t sample_answer(uint32_t x);

static volatile uint32_t table[SAMPLE_TABLE];

int init_module(void)
{
	for (uint32_t i = 0; i < SAMPLE_TABLE; i++)
		table[i] = sample_entry(i);
	return 0;
}

void cleanup_module(void)
{
	for (uint32_t i = 0; i < SAMPLE_TABLE; i++)
		table[i] = UINT32_C(0xdeadbeef);
}

uint32_t sample_answer(uint32_t x)
{
	for (int round = 0; round < SAMPLE_ROUNDS; round++)
		x = x * UINT32_C(1664525) + table[x >> 24];
	return x;
}
