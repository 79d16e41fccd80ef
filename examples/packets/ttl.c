/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * ttl.c - a filter that lets no packet live for ever. Version 2 is stricter: it also drops what
 * would die at the next hop.
 */
#include "filter.h"

static enum verdict look_at(struct packet *packet)
{
	if (packet->ttl < VERSION)
		return DROP;
	packet->ttl--;
	return PASS;
}
