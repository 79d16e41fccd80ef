// SPDX-License-Identifier: MIT OR Apache-2.0
#ifndef CXX_SHARED_HPP
#define CXX_SHARED_HPP

#define MODULE_REF_INLINE
#include "module_ref_inline.h"

// An inline function of C++, so in a section group, with the sequences in it.
inline bool visit(module_ref &ref)
{
	if (!module_ref_try_get(&ref))
		return false;
	module_ref_put(&ref);
	return true;
}

bool visit_from_other_unit(module_ref &ref);

#endif
