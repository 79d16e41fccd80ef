// SPDX-License-Identifier: MIT OR Apache-2.0
//
// atexit.cpp - a plugin whose code the C library has to run at its end, or at the process's.
#include <cstdlib>

namespace {
struct tracked {
	volatile int lives = 1;
	~tracked() { lives = 0; }
};
tracked object;
}

extern "C" int init_module()
{
	return std::atexit([] { object.lives = 2; });
}

extern "C" void cleanup_module()
{
}
