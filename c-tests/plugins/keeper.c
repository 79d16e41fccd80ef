/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * keeper.c - a plugin that counts its calls, and hands the count over to the one that replaces it.
 */
#include <errno.h>
#include <module_ref.h>
#include <stdatomic.h>
#include <stdlib.h>

uintptr_t keeper_call(void);
int save_module(struct module_saved *out);
int restore_module(const struct module_saved *in);

static _Atomic uintptr_t calls;

/* How many calls there were, this one included. */
uintptr_t keeper_call(void)
{
	return atomic_fetch_add(&calls, 1) + 1;
}

int save_module(struct module_saved *out)
{
	uintptr_t *kept = malloc(sizeof(*kept));

	if (!kept)
		return -ENOMEM;
	/* The next generation begins with what is handed over, and with nothing else. */
	*kept = atomic_exchange(&calls, 0);
	*out = (struct module_saved){ .version = 1, .data = kept, .size = sizeof(*kept) };
	return 0;
}

int restore_module(const struct module_saved *in)
{
	if (in->version != 1 || in->size != sizeof(calls))
		return -EPROTO;
	atomic_store(&calls, *(const uintptr_t *)in->data);
	return 0;
}
