/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * unforced.h - included before the stress program's files to have it force nothing: a module
 * that is forced out runs its exit function while others use it, which is a race and meant.
 */
/* As the files have it first of all. */
#define _GNU_SOURCE
#include "module_ref.h"

#undef MODULE_UNLOAD_FORCE
#define MODULE_UNLOAD_FORCE 0
