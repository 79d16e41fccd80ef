/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * filter.h - the part of a filter that all of them have: the init and exit functions, and what
 * shows whether a packet comes before the one or after the other. A filter defines
 *
 *     static enum verdict look_at(struct packet *packet);
 */
#ifndef FILTER_H
#define FILTER_H

#include "packets.h"

#ifndef VERSION
#define VERSION 1
#endif

int init_module(void);
void cleanup_module(void);
extern const struct filter filter;

static enum verdict look_at(struct packet *packet);

static volatile int in_service;

/* Called by the host before anybody can find the filter in service. */
int init_module(void)
{
	in_service = 1;
	return 0;
}

/* Called by the host when no thread is in the filter, and none will be. */
void cleanup_module(void)
{
	in_service = 0;
}

static enum verdict run(struct packet *packet)
{
	return in_service ? look_at(packet) : STALE;
}

const struct filter filter = { .version = VERSION, .run = run };

#endif
