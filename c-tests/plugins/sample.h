/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * sample.h - what the sample plugin computes, for those who check its answers.
 */
#ifndef SAMPLE_H
#define SAMPLE_H

#include <stdint.h>

enum { SAMPLE_TABLE = 256, SAMPLE_ROUNDS = 8 };

/* What a live table holds. */
static inline uint32_t sample_entry(uint32_t index)
{
	return (index + 1) * UINT32_C(2654435761);
}

#endif
