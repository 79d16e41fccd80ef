// SPDX-License-Identifier: MIT OR Apache-2.0
//
// hpp.cpp - module_ref.hpp, in C++17 and in C++20.

#include "module_ref.hpp"

#include <atomic>
#include <cerrno>
#include <climits>
#include <cmath>
#include <cstring>
#include <fstream>
#include <future>
#include <string>
#include <thread>
#include <unistd.h>
#include <utility>
#include <vector>

#include "tap.h"

namespace {

void *volatile kept;

using namespace std::chrono_literals;
using clock_type = std::chrono::steady_clock;

// There before any code runs.
#if __cplusplus >= 202002L
constinit
#endif
	modref::counter at_rest;

// ---- what stands at compile time ------------------------------------------------------

template <class T> constexpr bool only_moves()
{
	return !std::is_copy_constructible_v<T> && !std::is_copy_assignable_v<T> &&
	       std::is_nothrow_move_constructible_v<T> && std::is_nothrow_move_assignable_v<T> &&
	       std::is_nothrow_destructible_v<T>;
}

static_assert(only_moves<modref::guard>());
static_assert(only_moves<modref::reference>());
static_assert(only_moves<modref::symbol<long()>>());
static_assert(only_moves<modref::notifier>());
static_assert(only_moves<modref::host>());
static_assert(std::is_nothrow_copy_constructible_v<modref::handle>);
static_assert(std::is_nothrow_move_assignable_v<modref::handle>);
static_assert(!std::is_move_constructible_v<modref::counter>);
static_assert(!std::is_copy_constructible_v<modref::counter>);
static_assert(!std::is_convertible_v<modref::guard, bool>, "only if (guard)");
static_assert(sizeof(modref::guard) == sizeof(void *));
static_assert(sizeof(modref::counter) == sizeof(::module_ref));
static_assert(noexcept(at_rest.try_get()));

static_assert(modref::timeout().ns() == 0);
static_assert(modref::timeout(1ms).ns() == 1000000);
static_assert(modref::timeout(std::chrono::duration<double, std::nano>(0.5)).ns() == 1,
	      "never shorter");
static_assert(modref::timeout(-1s).ns() == 0, "not for ever");
static_assert(modref::timeout(std::chrono::hours::max()).ns() == INT64_MAX);
static_assert(modref::timeout(std::chrono::nanoseconds::max()).ns() == INT64_MAX);
static_assert(modref::timeout(std::chrono::duration<double>(1e300)).ns() == INT64_MAX);
static_assert(modref::timeout(std::chrono::duration<double>(
				      std::numeric_limits<double>::quiet_NaN()))
			      .ns() == 0);
static_assert(modref::timeout::forever().ns() < 0);
static_assert((modref::load_flags::atomic | modref::load_flags::copy) ==
	      static_cast<modref::load_flags>(MODULE_LOAD_ATOMIC | MODULE_LOAD_COPY));

// ---- helpers --------------------------------------------------------------------------------

// A plugin beside the program.
std::string plugin(const std::string &file)
{
	char program[PATH_MAX];
	const ssize_t n = readlink("/proc/self/exe", program, sizeof(program));

	need(n > 0);
	const std::string path(program, static_cast<std::size_t>(n));

	return path.substr(0, path.rfind('/') + 1) + file;
}

bool is_mapped(const std::string &text)
{
	std::ifstream maps("/proc/self/maps");
	std::string line;

	while (std::getline(maps, line))
		if (line.find(text) != std::string::npos)
			return true;
	return false;
}

// The errno that a function throws, 0 if it throws none; its words go to said.
std::string said;

template <class Function> int thrown(Function function)
{
	said.clear();
	try {
		function();
	} catch (const std::system_error &error) {
		said = error.what();
		return error.code().category() == std::generic_category() ? error.code().value() :
									    -1;
	}
	return 0;
}

bool says(const std::string &text)
{
	return said.find(text) != std::string::npos;
}

// ---- counters ---------------------------------------------------------------------------------

unsigned misuses;
module_ref_misuse last_misuse;

void on_misuse(module_ref_misuse what, const module_ref *, const void *)
{
	misuses++;
	last_misuse = what;
}

void guards()
{
	modref::counter counter;
	modref::guard guard = counter.try_get();

	ok(guard && counter.count() == 1, "a guard is a reference");
	modref::guard moved = std::move(guard);
	ok(!guard && moved && counter.count() == 1, "which moves"); // NOLINT: that is the test
	{
		const modref::guard cloned = moved.clone();

		ok(cloned && counter.count() == 2, "and is cloned");
	}
	is(counter.count(), 1, "and ends with its scope");
	modref::guard other = counter.try_get();
	other = std::move(moved);
	is(counter.count(), 1, "what a guard had before an assignment is given back");
	modref::guard &itself = other;
	other = std::move(itself);
	ok(other && counter.count() == 1, "to itself nothing happens");
	module_ref *raw = other.release();
	ok(raw == &counter.native() && !other && counter.count() == 1, "released, it is C's");
	module_ref_get(raw);
	modref::guard adopted(modref::adopt, *raw), again(modref::adopt, *raw);
	is(counter.count(), 2, "and adopted, it is not");
	adopted.reset();
	adopted.reset();
	is(counter.count(), 1, "a reset gives it back, once");
	ok(!adopted.clone() && !modref::guard(), "an empty guard's clone is empty");
	swap(adopted, again);
	ok(adopted && !again, "swapped");
}

void releases()
{
	modref::counter counter;

	{
		const modref::guard guard = at_rest.try_get();

		ok(guard && at_rest.count() == 1, "a static counter");
	}
	{
		const modref::guard guard = counter.try_get();
		const auto began = clock_type::now();

		ok(!counter.try_release(), "a held counter is not released");
		ok(!counter.drain(20ms) && clock_type::now() - began >= 20ms, "nor drained in time");
		ok(!counter.drain(modref::timeout()) && !counter.drain(-1h), "nor without waiting");
		ok(counter.try_get() && counter.get_if_held(), "and is live again");
		is(thrown([&] { counter.reinit(); }), EBUSY, "a live one is not made live again");
		ok(says("only a released one"), "which is said: %s", said.c_str());
	}
	ok(counter.try_release(), "then it is released");
	is(counter.count(), -1, "and has no count");
	ok(!counter.try_get() && !counter.get_if_held(), "and gives no guard");
	is(thrown([&] { (void)counter.try_release(); }), EALREADY, "a second release throws");
	is(thrown([&] { (void)counter.drain(1ms); }), EALREADY, "and a drain");
	counter.reinit();
	ok(counter.try_get(), "live again");

	module_ref raw = MODULE_REF_INIT;
	{
		const modref::guard guard = modref::try_get(raw);

		ok(guard && !modref::drain(raw, 0s), "counters of C have it too");
	}
	ok(modref::drain(raw, 0s), "and are drained");
	is(thrown([&] { (void)modref::try_release(raw); }), EALREADY, "with the same errors");
	modref::reinit(raw);
	ok(modref::try_release(raw), "and back");
	module_ref_destroy(&raw);
	is(thrown([&] { modref::reinit(raw); }), EINVAL, "a destroyed one is no counter");
}

void threads(modref::mode mode)
{
	modref::counter counter(mode);
	std::atomic<bool> closed{ false }, late{ false };
	std::vector<std::thread> users;

	for (int i = 0; i < 4; i++)
		users.emplace_back([&] {
			while (const modref::guard guard = counter.try_get()) {
				const modref::guard more = guard.clone();

				if (closed)
					late = true;
			}
		});
	std::this_thread::sleep_for(20ms);
	const bool drained = counter.drain(modref::timeout::forever());
	closed = true;
	for (std::thread &user : users)
		user.join();
	ok(drained && !late, "threads are drained, %s",
	   counter.mode() == modref::mode::percpu ? "per CPU" : "in one word");
	is(counter.count(), -1, "and gone");
}

void until_a_moment()
{
	const std::int64_t left = modref::timeout::until(clock_type::now() + 1h).ns();

	ok(left > 3500 * INT64_C(1000000000) && left <= 3600 * INT64_C(1000000000), "until a moment");
	is(modref::timeout::until(clock_type::now() - 1h).ns(), 0, "that is past");
	is(modref::timeout::until(clock_type::time_point::min()).ns(), 0, "long past");
	ok(modref::timeout::until(clock_type::time_point::max()).ns() > 0, "or far away");
}

void leaks()
{
	const module_ref_misuse_fn before = module_ref_set_misuse_handler(on_misuse);
	module_ref *ref;

	{
		modref::counter counter;

		ref = counter.try_get().release();
	}
	(void)ref;
	module_ref_set_misuse_handler(before);
	ok(misuses == 1 && last_misuse == MODULE_REF_LEAKED, "a counter that ends held is a leak");
}

// ---- modules ----------------------------------------------------------------------------------

void lives()
{
	modref::host host;
	const modref::handle loaded = host.load(plugin("hooked.so"));
	std::vector<std::string> names;
	std::atomic<bool> ran{ false };

	modref::user one = host.open(plugin("hooked.so"));
	{
		modref::user two = host.open(plugin("hooked.so"), "hooked");

		ok(one == two && loaded.refcount() == 2, "two users of one module");
	}
	is(loaded.refcount(), 1, "of which one has gone");
	ok(host.get_by_address(one.native() ? ::module_symbol(one.native(), "answer") : nullptr),
	   "which an address leads to");
	ok(!host.get_by_address(&host), "and others do not");
	{
		const modref::module_thread thread(one, [&] { ran = true; });
	}
	ok(ran, "a thread of its own");
	host.load(plugin("noexit.so"), "pinned").pin("it is used");
	is(host.each([&](const ::module_info &info) {
		names.emplace_back(info.name);
		return 0;
	}), 0, "each module");
	ok(names == std::vector<std::string>({ "pinned", "hooked" }), "is seen");
	is(thrown([&] {
		host.each([](auto &) -> int {
			throw std::system_error(EINTR, std::generic_category());
		});
	}), EINTR, "until something is thrown");
	is(one.close(1s), 0, "the last one unloads");
	is(host.shutdown(0s), 1, "and one stays");
}

void loading()
{
	modref::host host;
	const modref::handle loaded = host.load(plugin("hooked.so"));

	ok(loaded && loaded.name() == "hooked" && loaded.state() == modref::state::live &&
		   loaded.refcount() == 0,
	   "a module is loaded");
	ok(!host.find("nothing"), "what is not there is not found");
	modref::reference held = host.find("hooked");
	ok(held && held == loaded && held.refcount() == 1, "what is there is, with a reference");

	auto answer = held.symbol<long()>("answer");
	is(answer(), 1, "its function is called");
	is(held.refcount(), 2, "and has a reference of its own");
	kept = held.address("answer");
	ok(held.dangling().find("answer of hooked.so\n") != std::string::npos,
	   "who points into it is told");
	ok(answer.holder() == held, "to the same module");
	ok(held.symbol<void *>("__this_module").get() == held.address("__this_module") &&
		   *held.symbol<void *>("__this_module") == held.native(),
	   "its variable is read");
	is(thrown([&] { held.address("no_such_symbol"); }), ENOENT, "an unknown symbol throws");
	ok(says("no_such_symbol"), "with words: %s", said.c_str());
	is(thrown([&] { held.address(std::string("answer\0x", 8)); }), EINVAL, "a NUL inside, too");

	modref::gate<long()> gate(loaded, answer.get(), -3), follows(loaded, "answer");
	is(gate() + follows(), 2, "gates lead to it");
	ok(modref::gate<long()>(held, answer.get(), -3).get() == gate.get(), "always the same ones");
	is(thrown([&] { modref::gate<void(int &, double)>(held, nullptr); }), ENOENT,
	   "there is none to nothing");
	ok(says("function is NULL"), "with words: %s", said.c_str());
	is(thrown([&] { modref::gate<long()>(held, "no_such_symbol"); }), ENOENT, "nor to no symbol");

	held.reset();
	is(thrown([&] { host.unload("hooked"); }), EWOULDBLOCK, "it is not unloaded under the symbol");
	ok(says("hooked"), "which is said: %s", said.c_str());
	is(thrown([&] { host.unload("hooked", 1ms); }), ETIMEDOUT, "nor in time");
	auto moved = std::move(answer);
	ok(!answer && moved && moved() == 1, "a symbol moves"); // NOLINT: that is the test
	moved.reset();
	ok(!moved && moved.get() == nullptr, "and ends");
	ok(host.unload("hooked", 1s), "then the module is unloaded");
	ok(!is_mapped("hooked.so"), "and unmapped");
	is(gate() * 10 + follows(), -30, "and its gates return what was agreed upon");
	is(static_cast<long>(gate.refused()), 1, "and count");
	ok(loaded.state() == modref::state::going && loaded.refcount() == -1 && !loaded.try_get(),
	   "and its handle gives no reference");
	ok(host.last_unloaded() == "hooked unmapped", "it was the last: %s",
	   host.last_unloaded().c_str());

	const modref::handle later = host.load(plugin("hooked.so"), "hooked");
	ok(later != loaded && !loaded.try_get() && later.try_get(), "a later load is another one");
	is(thrown([&] { host.load(plugin("hooked.so")); }), EEXIST, "a second one throws");
	is(thrown([&] { host.load("/nowhere/to/be.found"); }), ENOENT, "a missing file throws");
	ok(says("/nowhere/to/be.found"), "with words: %s", said.c_str());
	is(thrown([&] { host.load(std::string("x\0y", 3)); }), EINVAL, "a path with a NUL throws");
	is(thrown([&] { (void)host.find(std::string("x\0y", 3)); }), EINVAL, "a name with one, too");
	is(thrown([&] { host.load(plugin("plain.so"), "", static_cast<modref::load_flags>(64)); }),
	   EINVAL, "and unknown flags");
	ok(host.unload("hooked"), "unloaded");
	host.load(plugin("plain.so"), "copied", modref::load_flags::copy | modref::load_flags::atomic);
	ok(!is_mapped(plugin("plain.so")) && host.find("copied").symbol<long()>("answer")() == 1,
	   "flags are passed on");
	ok(host.unload("copied"), "unloaded");
	host.close();
}

void handles()
{
	modref::host host;
	modref::handle one = host.load(plugin("plain.so"), "one"), two = one, none;

	ok(one == two, "a handle is copied");
	one = modref::handle();
	ok(!one && two.name() == "one", "and the copy stays");
	one = two;
	two = std::move(one);
	ok(!one && two.state() == modref::state::live, "and moves"); // NOLINT: that is the test
	modref::handle &itself = two;
	two = itself;
	ok(two.name() == "one", "to itself nothing happens");
	one = modref::handle(modref::adopt, two.release());
	ok(!two && one.to_handle() == one, "released and adopted");
	{
		modref::reference held = one.try_get(), cloned = held.clone();

		is(one.refcount(), 2, "a reference is cloned");
		held = std::move(cloned);
		is(one.refcount(), 1, "what it had is given back");
		modref::reference adopted(modref::adopt, held.release());
		ok(!held && adopted && one.refcount() == 1, "released and adopted");
		swap(held, adopted);
		ok(held && !adopted && !adopted.clone(), "swapped");
	}
	ok(host.unload("one", 1s), "unloaded");
	ok(!none && !none.try_get() && !none.to_handle() && none.name().empty(), "no handle is no module");
	is(thrown([&] { none.depend_on(one); }), EINVAL, "and depends on nothing");
	is(thrown([&] { modref::reference().address("answer"); }), ENOENT, "and has no symbols");
}

void hosts()
{
	modref::host host;
	const modref::handle a = host.load(plugin("plain.so"), "a");
	const modref::handle b = host.load(plugin("hooked.so"), "b");
	const std::string list = host.list();

	ok(list.compare(0, 2, "b ") == 0 && list.find("\na ") != std::string::npos && list.back() == '\n',
	   "modules are listed");
	b.depend_on(a);
	is(thrown([&] { a.depend_on(b); }), EDEADLK, "a cycle throws");
	is(thrown([&] { host.unload("a"); }), EWOULDBLOCK, "what is needed is not unloaded");
	ok(host.replace("b", plugin("hooked2.so")), "replaced");
	is(host.find("b").symbol<long()>("answer")(), 2, "by the new one");
	is(thrown([&] { host.replace("c", plugin("hooked2.so")); }), ENOENT, "what is not there is not");

	ok(host.replace("b", plugin("hooked.so"), 1s, modref::replace_flags::stop_first) &&
		   host.find_wait("b").symbol<long()>("answer")() == 1,
	   "and by one that begins when the old one has ended");
	ok(host.replace_set({ { "a", plugin("plain.so") }, { "b", plugin("hooked2.so") } }, 1s),
	   "two in one step");
	is(host.find("b").symbol<long()>("answer")(), 2, "are replaced");
	is(thrown([&] { host.replace_set({ { "b", plugin("plain.so") }, { "a", plugin("none.so") } }); }),
	   ENOENT, "or neither");
	ok(!host.find_wait("c"), "for what is not there nobody waits");

	modref::reference held = host.find("b");
	is(thrown([&] { host.close(); }), EBUSY, "a host with modules is not closed");
	ok(!host.tainted(), "nothing was forced");
	ok(!host.force_unload("b"), "forced under a holder, it is still mapped");
	ok(host.tainted() && is_mapped("hooked2.so") && host.reap() == 0, "and the host tainted");
	held.reset();
	is(host.reap(), 1, "then it is reaped");
	ok(!is_mapped("hooked2.so"), "and gone");
	ok(host.unload("a"), "unloaded");
	ok(host.list().empty(), "nothing is listed");

	ok(modref::check_file(plugin("noexit.so")).compare(0, 11, "permanent: ") == 0 &&
		   modref::check_file(plugin("plain.so")).empty(),
	   "a file can be checked");
	is(thrown([&] { modref::check_file("/"); }), EISDIR, "a folder throws");
	is(thrown([&] { modref::check_file({ '/', '\0' }); }), EINVAL, "and so does a NUL");

	host.after_unload(MODULE_AFTER_TRAP);
	host.load(plugin("plain.so"), "a");
	const void *const there = host.find("a").address("answer");
	ok(modref::describe_address(there).find("plain.so!answer+0x0, loaded ") == 0, "an address is described");
	host.unload("a");
	ok(modref::describe_address(there).find("plain.so!answer+0x0, unloaded ") == 0, "also afterwards");
	modref::crash_reports(true);
	modref::crash_reports(false);

	modref::host moved = std::move(host);
	ok(moved.native() && !host.native(), "a host moves"); // NOLINT: that is the test
	is(thrown([&] { host.load(plugin("plain.so")); }), EINVAL, "and is of no use then");
	is(thrown([&] { (void)host.on_event([](const modref::module_view &, modref::state) {}); }), EINVAL,
	   "nor has it notifiers");
	is(thrown([&] { host.list(); }), EINVAL, "nor a list");
	ok(!host.find("a") && !host.tainted(), "nor modules");
	moved.close();
	is(thrown([&] { moved.close(); }), EINVAL, "a host is closed once");
	ok(!moved.native(), "and gone");

	modref::host own = modref::host::process();
	ok(own.native() == module_host_default(), "the process has a host");
	is(thrown([&] { own.close(); }), EBUSY, "which is not closed");
	modref::host adopted(modref::adopt, module_host_new());
	adopted.close();
}

// ---- notifiers --------------------------------------------------------------------------------

void notifiers()
{
	modref::host host;
	std::string seen;
	modref::notifier low = host.on_event(
		[&](const modref::module_view &mod, modref::state now) {
			seen += mod.name();
			seen += now == modref::state::coming ? "+ " :
				now == modref::state::live   ? "! " :
							       "- ";
		},
		-1);

	host.load(plugin("plain.so"));
	host.unload("plain");
	ok(seen == "plain+ plain! plain- ", "a notifier is told: %s", seen.c_str());

	seen.clear();
	for (const auto &[what, expected] :
	     { std::pair(0, EPERM), std::pair(1, EXDEV), std::pair(2, ENOMEM), std::pair(3, ECANCELED),
	       std::pair(4, ECANCELED) }) {
		// What a lambda may capture, in C++17.
		const int kind = what;
		const modref::notifier refusing =
			host.on_event([kind](const modref::module_view &, modref::state now) -> int {
				if (now != modref::state::coming)
					throw 1; // nobody minds
				if (kind == 1)
					throw std::system_error(EXDEV, std::system_category(), "no");
				if (kind == 2)
					throw std::bad_alloc();
				if (kind == 3)
					throw 5;
				if (kind == 4)
					throw std::system_error(
						std::make_error_code(std::future_errc::no_state));
				return -EPERM;
			});

		is(thrown([&] { host.load(plugin("plain.so")); }), expected,
		   "refused by a result or exception: %s", said.c_str());
		ok(!host.find("plain"), "and not there");
	}
	ok(seen.empty(), "those behind were not told");
	modref::notifier moved = std::move(low);
	ok(!low && moved, "a notifier moves"); // NOLINT: that is the test
	is(thrown([&] { host.close(); }), EBUSY, "a host with a notifier is not closed");
	host.load(plugin("plain.so"));
	ok(seen == "plain+ plain! ", "and is still told");
	moved = modref::notifier();
	host.unload("plain");
	ok(seen == "plain+ plain! ", "until it ends");
	host.close();
}

// A notifier that ends itself, and one that is there after its host.
void notifiers_end()
{
	auto alive = std::make_shared<int>(0);
	const std::weak_ptr<int> watch = alive;
	modref::notifier own;
	bool right = false;

	{
		modref::host host;

		own = host.on_event([&own, &right, alive = std::move(alive)](const modref::module_view &,
									     modref::state) {
			own.reset();
			right = alive.use_count() == 1 && ++*alive == 1;
		});
		host.load(plugin("plain.so"));
		ok(right && !own, "a notifier may end itself");
		ok(watch.expired(), "and its function is gone when it has returned");
		host.unload("plain");
		own = host.on_event([](const modref::module_view &, modref::state) {});
	}
	own.reset();
	ok(!own, "and may end after the host object");
}

// The header in a plugin leaves nothing that keeps the plugin.
void in_a_plugin()
{
	modref::host host;

	host.load(plugin("guarded.so"));
	is(host.find("guarded").symbol<long()>("answer")(), 42, "a plugin uses the header");
	{
		unsigned told = 0;
		modref::notifier notifier = host.on_event(
			[&told](const modref::module_view &, modref::state) { told++; });

		host.find("guarded").symbol<void(modref::notifier &)>("end")(notifier);
		host.load(plugin("plain.so"));
		ok(!notifier && told == 0, "and ends the program's notifier");
		host.unload("plain");
	}
	ok(host.unload("guarded", 1s), "and is unmapped: %s", host.last_unloaded().c_str());
	ok(!is_mapped("guarded.so"), "really");
}

std::string here(int line)
{
	return std::string(__FILE__) + ":" + std::to_string(line) + ": thread ";
}

void holders()
{
	modref::host host;
	modref::handle plain = host.load(plugin("plain.so"));
	const modref::reference untracked = plain.try_get();
	modref::reference found = host.find("plain", modref::track());
	const int finds = __LINE__ - 1;
	modref::reference cloned = found.clone(modref::track());
	modref::reference got = plain.try_get(modref::track());
	const int gets = __LINE__ - 1;

	is(thrown([&] { host.unload("plain"); }), EWOULDBLOCK, "it is not unloaded under its holders");
	ok(says("held by " + here(finds)), "the first of them is named: %s", said.c_str());
	ok(says("; " + here(gets)) && says("; 1 more, untracked"), "and all that can be");
	modref::reference moved = std::move(found);
	modref::reference released(modref::adopt, got.release());
	cloned = std::move(moved);
	is(thrown([&] { host.unload("plain"); }), EWOULDBLOCK, "still held");
	ok(says("held by " + here(finds)) && !says(here(gets)) && says("; 2 more, untracked"),
	   "by one that has moved, and one that was released: %s", said.c_str());
	ok(!modref::handle().try_get(modref::track()) && !host.find("nothing", modref::track()),
	   "nothing is not tracked");
}

} // namespace

int main()
{
	guards();
	releases();
	threads(modref::mode::atomic);
	threads(modref::mode::percpu);
	until_a_moment();
	leaks();
	lives();
	loading();
	handles();
	hosts();
	notifiers();
	notifiers_end();
	in_a_plugin();
	holders();
	return tap_done();
}
