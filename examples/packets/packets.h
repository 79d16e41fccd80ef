/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * packets.h - what the packet processor and its filters agree on.
 */
#ifndef PACKETS_H
#define PACKETS_H

#include <stdint.h>

struct packet {
	uint32_t source;  /* an IPv4 address */
	uint16_t length;
	uint8_t ttl;
	uint8_t mark;     /* which class of service it was put in */
};

enum verdict {
	PASS,
	DROP,
	STALE, /* never: the filter has run before its init function, or after its exit function */
};

/* Every filter exports one of these, called "filter". */
struct filter {
	unsigned version;
	enum verdict (*run)(struct packet *packet);
};

#endif
