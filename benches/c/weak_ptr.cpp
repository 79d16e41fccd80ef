// SPDX-License-Identifier: MIT OR Apache-2.0
//
// weak_ptr.cpp - what C++ programs use instead: std::weak_ptr::lock().

#include <cstdlib>
#include <memory>

#include "candidates.h"

namespace {

struct alignas(APART) Counter {
	std::shared_ptr<long> strong = std::make_shared<long>(42);
	std::weak_ptr<long> weak = strong;
};

Counter counters[MOST_THREADS];

void pairs(int counter, long n)
{
	while (n-- > 0) {
		std::shared_ptr<long> held = counters[counter].weak.lock();

		if (!held)
			abort();
		__asm__ volatile("" ::: "memory");
	}
}

} // namespace

extern "C" {
extern const candidate weak_ptr = {
	"weak_ptr",
	"std::weak_ptr::lock",
	false,
	"counts references; nobody gets one after the last has gone",
	"whoever leaves last frees it; nobody can wait for that; one cache line",
	nullptr,
	nullptr,
	nullptr,
	pairs,
};
}
