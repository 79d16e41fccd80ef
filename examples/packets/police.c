/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * police.c - a filter that keeps one network out: 10.66.0.0/16.
 */
#include "filter.h"

static enum verdict look_at(struct packet *packet)
{
	return packet->source >> 16 == (10u << 8 | 66u) ? DROP : PASS;
}
