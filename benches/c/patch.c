/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * patch.c - the patch's counter as a shared library.
 */
#include "peers/patch.h"

bool patch_try_get(struct patch_ref *ref)
{
	return patch_try_get_inline(ref);
}

void patch_put(struct patch_ref *ref)
{
	patch_put_inline(ref);
}
