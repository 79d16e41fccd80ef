// SPDX-License-Identifier: MIT OR Apache-2.0
//
// guarded.cpp - a plugin in C++ that uses all of module_ref.hpp itself, and can be unloaded
// nevertheless.
#include <chrono>

#include "module_ref.hpp"

namespace {

using namespace std::chrono_literals;

// A host of the plugin's own, with a notifier, and what it says if it refuses.
long errors()
{
	modref::host host;
	const modref::notifier notifier = host.on_event([](const modref::module_view &, modref::state) {});
	long caught = 0;

	try {
		host.load("/nowhere/to/be.found");
	} catch (const std::system_error &error) {
		caught += error.code() == std::errc::no_such_file_or_directory;
	}
	try {
		host.unload("nothing", 1ms);
	} catch (const std::system_error &) {
		caught++;
	}
	return host.find("nothing") || !host.list().empty() ? -1 : caught;
}

} // namespace

extern "C" long answer()
{
	modref::counter counter(modref::mode::percpu);
	const modref::guard guard = counter.try_get();

	return guard && !counter.drain(1us) && errors() == 2 ? 42 : 0;
}

extern "C" void end(modref::notifier &notifier)
{
	const modref::notifier taken = std::move(notifier);
}
