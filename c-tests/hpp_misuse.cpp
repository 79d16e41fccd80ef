// SPDX-License-Identifier: MIT OR Apache-2.0
//
// hpp_misuse.cpp - what module_ref.hpp does not let compile. MISUSE is the number of a mistake; 0
// is the same program without one, so that each of them fails for its own reason.
#include <chrono>

#include "module_ref.hpp"

int main()
{
	modref::counter counter;
	modref::host host;
	modref::guard guard = counter.try_get();
	modref::reference reference = host.find("nothing");
	modref::notifier notifier;
	modref::handle handle;
#if MISUSE == 1
	modref::guard twice = guard;
#elif MISUSE == 2
	modref::reference twice = reference;
#elif MISUSE == 3
	modref::counter twice = counter;
#elif MISUSE == 4
	modref::counter moved = std::move(counter);
#elif MISUSE == 5
	modref::host twice = host;
#elif MISUSE == 6
	modref::notifier twice = notifier;
#elif MISUSE == 7
	counter.try_get();
#elif MISUSE == 8
	counter.drain(std::chrono::seconds(1));
#elif MISUSE == 9
	counter.try_release();
#elif MISUSE == 10
	counter.drain(1);
#elif MISUSE == 11
	host.find("nothing");
#elif MISUSE == 12
	reference.symbol<long (*)()>("answer");
#elif MISUSE == 13
	host.on_event([](const modref::module_view &, modref::state) {});
#elif MISUSE == 14
	notifier = host.on_event([](const modref::module_view &, modref::state) { return true; });
#elif MISUSE == 15
	auto twice = reference.symbol<long()>("answer"), copy = twice;
#elif MISUSE == 16
	int held = guard;
#else
	modref::guard second = guard.clone(), moved = std::move(second);
	modref::reference third = reference.clone();
	modref::handle copy = handle;
	modref::host other = std::move(host);
	bool held = moved && third && copy && counter.drain(std::chrono::seconds(1)) &&
		    counter.try_release();

	notifier = other.on_event([](const modref::module_view &, modref::state) { return 0; });
	return held ? static_cast<int>(reference.symbol<long()>("answer")()) : 0;
#endif
}
