/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * counting.c - a plugin that gets and puts inline, and is unloaded later.
 */
#define _GNU_SOURCE
#define MODULE_REF_INLINE
#include "module_ref_inline.h"
#include "rseq.h"

long count_rounds(struct module_ref *ref, long rounds);

/* How often a get or a put has left the kernel a descriptor in this code. */
static long left(void)
{
	if (!module_ref_area)
		return 0;
	return *(volatile long *)(volatile void *)(rseq_area() + 8) != 0;
}

long count_rounds(struct module_ref *ref, long rounds)
{
	long n = 0;

	while (rounds-- > 0)
		if (module_ref_try_get(ref)) {
			n += left();
			module_ref_put(ref);
			n += left();
		}
	return n;
}
