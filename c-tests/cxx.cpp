// SPDX-License-Identifier: MIT OR Apache-2.0
//
// cxx.cpp - the headers in C++17: they compile without a warning, and link.

#include <cerrno>
#include <thread>
#include <vector>

#include "cxx_shared.hpp"
#include "tap.h"

namespace {

module_ref at_rest = MODULE_REF_INIT;

struct plugin {
	char name;
	module_ref ref;
};

} // namespace

int main()
{
	plugin p{};

	static_assert(alignof(plugin) == 16, "the alignment reaches what it is embedded in");
	is(module_ref_init_percpu(&p.ref), 0, "init");
	std::vector<std::thread> users;
	for (int i = 0; i < 4; i++)
		users.emplace_back([&p] {
			for (int n = 0; n < 100000; n++)
				if (n % 2 ? !visit(p.ref) : !visit_from_other_unit(p.ref))
					break;
		});
	for (auto &user : users)
		user.join();
	is(module_ref_count(&p.ref), 0, "threads come and go");
	is(module_ref_drain(&p.ref, 0), 0, "drain");
	is(module_ref_try_release(&p.ref), -EALREADY, "twice");
	module_ref_destroy(&p.ref);
	is(module_ref_try_release(&at_rest), 0, "a static one");
	return tap_done();
}
