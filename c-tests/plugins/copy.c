/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * A plugin with a copy of the library of its own, linked in statically: whatever it does with the
 * host's counters it does by that copy.
 */
#include "copy.h"

/* The host's. A constructor may run before the one of the copy. */
extern struct module_ref taken_by_constructor;

__attribute__((constructor(101))) static void on_load(void)
{
	module_ref_try_get(&taken_by_constructor);
}

const struct copy the_copy = COPY;
