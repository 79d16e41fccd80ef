// SPDX-License-Identifier: MIT OR Apache-2.0
//
// throws.cpp - a plugin whose init function throws, which it may not.
#include <stdexcept>

extern "C" int init_module(void);

int init_module(void)
{
	throw std::runtime_error("no coffee");
}
