// SPDX-License-Identifier: MIT OR Apache-2.0
//
// cxx_other.cpp - a second unit with the same inline functions as cxx.cpp: they link.

#include "cxx_shared.hpp"

bool visit_from_other_unit(module_ref &ref)
{
	return visit(ref);
}
