/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * mark.c - a filter that puts packets into classes of service, by their length. It drops
 * nothing.
 */
#include "filter.h"

static enum verdict look_at(struct packet *packet)
{
	packet->mark = packet->length < 128 ? VERSION : 0;
	return PASS;
}
