/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * counting.c - a plugin that gets and puts inline, and is unloaded later.
 */
#define MODULE_REF_INLINE
#include "module_ref_inline.h"

void count_rounds(struct module_ref *ref, long rounds);

void count_rounds(struct module_ref *ref, long rounds)
{
	while (rounds-- > 0)
		if (module_ref_try_get(ref))
			module_ref_put(ref);
}
