/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * relay.c - a plugin that needs the sample plugin, by DT_NEEDED, and passes calls on to it.
 */
#include "sample.h"

uint32_t sample_answer(uint32_t x);
uint32_t relay_answer(uint32_t x);
uint32_t (*relay_source(void))(uint32_t x);

uint32_t relay_answer(uint32_t x)
{
	return sample_answer(x);
}

/* The very function that calls are passed on to. */
uint32_t (*relay_source(void))(uint32_t x)
{
	return sample_answer;
}
