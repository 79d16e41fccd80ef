// SPDX-License-Identifier: MIT OR Apache-2.0
//
// module_ref.hpp - module_ref.h for C++: references that are given back by themselves, errors as
// std::system_error, times as std::chrono durations.
//
//     static modref::counter plugin;                    // or counter(modref::mode::percpu)
//
//     if (modref::guard use = plugin.try_get())         // any thread: may I use it?
//             call_into_it();                           // until use goes out of scope
//
//     if (plugin.drain(std::chrono::seconds(1)))        // the unloader: close it, wait
//             take_it_out();
//
// and the same for a plugin that a host loads and unloads:
//
//     modref::host host;
//     host.load("./plugin.so");
//     auto answer = host.find("plugin").symbol<long()>("answer");
//     std::printf("the answer is %ld\n", answer());
//     answer.reset();
//     host.unload("plugin", std::chrono::seconds(1));
//
// module_ref.h says what the operations mean, at the functions that are named here: their memory
// ordering, their safety in threads and signal handlers, and the Linux functions they come from.
// The header adds no state and no lock of its own: it can be mixed with the C functions, on the
// same counters and hosts (adopt, native(), release()).
//
// Errors: a function that fails throws std::system_error, whose code() is the errno in
// std::generic_category(), to be compared with std::errc, and whose what() begins with the words of
// module_last_error(). An answer (the counter is closed, its time is up, there is no such module)
// is a return value; a module that is not unloaded is an error. Functions that are noexcept throw
// nothing.
//
// Threads: an object of a class below may be used by several threads at a time where its
// functions say so; otherwise it is like an int. The counters and modules that they refer to are
// shared, of course.
//
// Plugins may include this header, and stay unloadable: nothing in it makes a unique symbol or
// a thread-local. As in C, the last reference to a module must not be given back by the
// module's own code, and this header's functions are compiled into what includes it: a guard or
// reference in a plugin's code is not what keeps that plugin.
//
// For C++17 and later, by gcc and clang, with exceptions.

#ifndef MODULE_REF_HPP
#define MODULE_REF_HPP

#include <cerrno>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <exception>
#include <functional>
#include <limits>
#include <memory>
#include <new>
#include <string>
#include <string_view>
#include <system_error>
#include <type_traits>
#include <utility>
#include <vector>

#include "module_ref_inline.h"

#if __cplusplus < 201703L
#error "module_ref.hpp needs C++17 or later: -std=c++17. For older C++ there is module_ref.h"
#endif

// "modref", because module_ref and module are the C library's types, and the latter nearly
// a keyword.
namespace modref {

// ---- errors and times -----------------------------------------------------------------

namespace detail {

[[noreturn]] inline void fail(int rc, const char *words)
{
	throw std::system_error(-rc, std::generic_category(), words);
}

// The result of a function of the host, which has left words if it failed.
inline int checked(int rc)
{
	if (rc < 0)
		fail(rc, ::module_last_error());
	return rc;
}

// A text for C. One with a NUL inside would be cut short there, and name something else.
inline const char *c_text(const std::string &text, const char *what)
{
	if (text.find('\0') != std::string::npos)
		fail(-EINVAL, what);
	return text.c_str();
}

// What one of the functions of C writes that are given a buffer.
template <class Get> std::string text(Get get)
{
	/* Room for most: what is written may have taken long to find out. */
	std::string out(1023, '\0');

	for (;;) {
		const std::int64_t length = get(out.data(), out.size());

		if (length < 0)
			fail(static_cast<int>(length), ::module_last_error());
		// A NUL follows what was written.
		if (static_cast<std::size_t>(length) < out.size()) {
			out.resize(static_cast<std::size_t>(length));
			return out;
		}
		out.resize(static_cast<std::size_t>(length) + 1);
	}
}

} // namespace detail

/// Says that a reference, or a handle, which C code or release() has given is to be owned.
struct adopt_t {
	explicit adopt_t() = default;
};
constexpr adopt_t adopt{};

/// How long to wait. Any std::chrono duration is one: it is rounded up to nanoseconds; zero,
/// a negative one and a NaN do not wait; 292 years and more are 292 years.
class timeout {
public:
	/// Does not wait.
	constexpr timeout() noexcept = default;

	template <class Rep, class Period>
	constexpr timeout(std::chrono::duration<Rep, Period> wait) noexcept : ns_(count(wait))
	{
	}

	/// Waits until this moment, by the moment's own clock as it is now.
	template <class Clock, class Duration>
	static timeout until(std::chrono::time_point<Clock, Duration> moment)
	{
		const auto now = Clock::now();

		return now < moment ? timeout(moment - now) : timeout();
	}

	/// Waits for as long as it takes.
	static constexpr timeout forever() noexcept
	{
		timeout always;

		always.ns_ = -1;
		return always;
	}

	/// As the C functions take it: negative is for ever.
	constexpr std::int64_t ns() const noexcept
	{
		return ns_;
	}

private:
	template <class Rep, class Period>
	static constexpr std::int64_t count(std::chrono::duration<Rep, Period> wait) noexcept
	{
		using exact = std::chrono::duration<long double, std::nano>;
		constexpr std::int64_t longest = std::numeric_limits<std::int64_t>::max();

		if (!(wait > wait.zero()))
			return 0;
		if (exact(wait).count() >= static_cast<long double>(longest))
			return longest;
		return std::chrono::ceil<std::chrono::nanoseconds>(wait).count();
	}

	std::int64_t ns_ = 0;
};

// ---- counters ---------------------------------------------------------------------------

/// How a counter counts.
enum class mode {
	atomic = MODULE_REF_ATOMIC, ///< in one shared word
	percpu = MODULE_REF_PERCPU, ///< in per-CPU slots beside the word
};

/// A reference to what a counter stands for, or nothing. Gives it back when it ends. Movable,
/// and not copyable: clone() takes one more.
class [[nodiscard]] guard {
public:
	/// Nothing.
	guard() noexcept = default;

	/// Owns a reference that module_ref_try_get() or module_ref_get() has taken.
	guard(adopt_t, ::module_ref &ref) noexcept : ref_(&ref)
	{
	}

	guard(guard &&other) noexcept : ref_(other.release())
	{
	}

	guard &operator=(guard &&other) noexcept
	{
		guard taken(std::move(other));

		swap(taken);
		return *this;
	}

	guard(const guard &) = delete;
	guard &operator=(const guard &) = delete;

	~guard()
	{
		reset();
	}

	/// Whether there is a reference.
	explicit operator bool() const noexcept
	{
		return ref_ != nullptr;
	}

	/// Gives the reference back now. As module_ref_put().
	void reset() noexcept
	{
		if (::module_ref *ref = release())
			module_ref_put_inline(ref);
	}

	/// One more reference, even while a drain is under way; of nothing, nothing. As module_ref_get().
	guard clone() const noexcept
	{
		if (!ref_)
			return guard();
		::module_ref_get(ref_);
		return guard(adopt, *ref_);
	}

	/// Gives up the reference without giving it back: module_ref_put() is the caller's now.
	/// NULL if there was none.
	::module_ref *release() noexcept
	{
		return std::exchange(ref_, nullptr);
	}

	void swap(guard &other) noexcept
	{
		std::swap(ref_, other.ref_);
	}

	friend void swap(guard &a, guard &b) noexcept
	{
		a.swap(b);
	}

private:
	::module_ref *ref_ = nullptr;
};

/// Takes a reference, unless the counter is closed. As module_ref_try_get().
inline guard try_get(::module_ref &ref) noexcept
{
	return module_ref_try_get_inline(&ref) ? guard(adopt, ref) : guard();
}

/// Takes a reference even if the counter is closed, as long as somebody holds one. As
/// module_ref_get_if_held().
inline guard get_if_held(::module_ref &ref) noexcept
{
	return ::module_ref_get_if_held(&ref) ? guard(adopt, ref) : guard();
}

/// Releases the counter if nobody holds a reference. As module_ref_try_release().
///
/// @return true to the one caller who has released it; false if references are held.
///
/// @throw std::system_error device_or_resource_busy while another thread's release or drain
/// is under way; connection_already_in_progress (EALREADY) if it has been released before;
/// invalid_argument if it is destroyed; what membarrier(2) says if that is refused.
[[nodiscard]] inline bool try_release(::module_ref &ref)
{
	const int rc = ::module_ref_try_release(&ref);

	if (rc == -EWOULDBLOCK)
		return false;
	if (rc < 0)
		detail::fail(rc, "the counter cannot be released");
	return true;
}

/// Closes the counter and waits until the last reference is given back. As module_ref_drain(). The
/// caller holds none.
///
/// @return true to the one caller who has released it; false if time was up: the counter is
/// live, as before.
///
/// @throw std::system_error as try_release().
[[nodiscard]] inline bool drain(::module_ref &ref, timeout wait)
{
	const int rc = ::module_ref_drain(&ref, wait.ns());

	if (rc == -ETIMEDOUT)
		return false;
	if (rc < 0)
		detail::fail(rc, "the counter cannot be drained");
	return true;
}

/// Makes a released counter live again; for the one who has released it. As
/// module_ref_reinit().
///
/// @throw std::system_error device_or_resource_busy unless it is released; invalid_argument if
/// it is destroyed.
inline void reinit(::module_ref &ref)
{
	const int rc = ::module_ref_reinit(&ref);

	if (rc < 0)
		detail::fail(rc, "the counter cannot be made live again: only a released one can");
}

/// A reference counter that can be closed. All functions but the constructors and the destructor
/// may be called from any thread.
///
/// Its address is its identity: it is neither copied nor moved. A static counter in shared-word
/// mode is there before any code runs (constant initialisation). It ends with the other static
/// objects, though, and no try_get() may come after that: where threads may outlive main(), have a
/// static ::module_ref = MODULE_REF_INIT, and use it by the functions above.
class counter {
public:
	/// Live, held by nobody, in shared-word mode.
	constexpr counter() noexcept = default;

	/// In per-CPU mode, if that is asked for and this system can; mode() says what it became.
	/// As module_ref_init_percpu().
	///
	/// @throw std::system_error not_enough_memory.
	explicit counter(modref::mode wanted)
	{
		const int rc = wanted == modref::mode::percpu ? ::module_ref_init_percpu(&ref_) : 0;

		if (rc < 0)
			detail::fail(rc, "no slots for a per-CPU counter");
	}

	counter(const counter &) = delete;
	counter &operator=(const counter &) = delete;

	/// As module_ref_destroy(): of a counter that is released, or that nobody holds. If it is
	/// held the misuse handler is told.
	~counter()
	{
		::module_ref_destroy(&ref_);
	}

	/// Takes a reference; or gives nothing, if the counter is closed. Wait-free, and
	/// async-signal-safe. As module_ref_try_get().
	guard try_get() noexcept
	{
		return modref::try_get(ref_);
	}

	/// A reference even while others drain, as long as somebody holds one. As
	/// module_ref_get_if_held().
	guard get_if_held() noexcept
	{
		return modref::get_if_held(ref_);
	}

	/// As modref::try_release().
	[[nodiscard]] bool try_release()
	{
		return modref::try_release(ref_);
	}

	/// As modref::drain().
	[[nodiscard]] bool drain(timeout wait)
	{
		return modref::drain(ref_, wait);
	}

	/// As modref::reinit().
	void reinit()
	{
		modref::reinit(ref_);
	}

	/// References held, for people and logs; -1 if released. As module_ref_count().
	std::int64_t count() const noexcept
	{
		return ::module_ref_count(&ref_);
	}

	/// How it counts. As module_ref_mode().
	modref::mode mode() const noexcept
	{
		return static_cast<modref::mode>(::module_ref_mode(&ref_));
	}

	/// The counter, for the C functions.
	::module_ref &native() noexcept
	{
		return ref_;
	}

private:
	::module_ref ref_ = MODULE_REF_INIT;
};

// ---- modules ------------------------------------------------------------------------------

/// Where a module is between its load and its end.
enum class state {
	live = MODULE_STATE_LIVE,
	coming = MODULE_STATE_COMING,
	going = MODULE_STATE_GOING,
	unformed = MODULE_STATE_UNFORMED,
};

class reference;
class handle;

/// Makes a reference tracked: module_holders() and the words of a refused unload then name the file
/// and line of the track(), the thread, and the reference's age. It costs an allocation, and a lock
/// that all modules share.
///
///     if (modref::reference plugin = host.find("plugin", modref::track()))
///
/// What is passed is what std::source_location::current() has, which is C++20's.
class track {
public:
	explicit track(const char *file = __builtin_FILE(), unsigned line = __builtin_LINE()) noexcept
		: file_(file), line_(line)
	{
	}

private:
	friend class reference;

	const char *file_;
	unsigned line_;
};

namespace detail
{
/// A tracked reference, at a place that stays, with its label.
struct note {
	::module_track track{};
	char label[256];
};
}

/// What can be asked about a module that somebody keeps: one that a handle or a reference is to,
/// or that a notifier is told of. It keeps nothing itself. All functions may be called from any
/// thread.
class module_view {
public:
	/// No module. C++ only: to the C functions NULL is code that is not a module.
	module_view() noexcept = default;

	explicit module_view(::module *mod) noexcept : mod_(mod)
	{
	}

	/// Whether there is a module.
	explicit operator bool() const noexcept
	{
		return mod_ != nullptr;
	}

	/// Its name, for as long as the module is kept; a NUL follows. As module_name().
	std::string_view name() const noexcept
	{
		return ::module_name(mod_);
	}

	/// As module_state(): going, for ever, once it is unloaded.
	modref::state state() const noexcept
	{
		return static_cast<modref::state>(::module_state(mod_));
	}

	/// References held, for people and logs; -1 once it is unloaded. As module_refcount().
	std::int64_t refcount() const noexcept
	{
		return ::module_refcount(mod_);
	}

	/// Who stands in its code now, or points into it, a line each. As module_dangling().
	///
	/// @throw std::system_error device_or_resource_busy if another thread is unloading it.
	std::string dangling() const
	{
		return detail::text([this](char *buf, std::size_t len) {
			return ::module_dangling(mod_, buf, len);
		});
	}

	/// Takes a reference, unless the module is being unloaded or is gone, or there is none:
	/// an empty one then. As module_try_get().
	inline reference try_get() const noexcept;

	/// The same, tracked, if there is memory for that.
	inline reference try_get(const track &place) const noexcept;

	/// A handle to it. As module_handle_get().
	inline handle to_handle() const noexcept;

	/// Makes it depend on provider until it is unloaded. As module_add_dependency().
	///
	/// @throw std::system_error as that has it: resource_deadlock_would_occur for a cycle,
	/// cross_device_link for two hosts, no_such_file_or_directory if either is being unloaded.
	void depend_on(const module_view &provider) const
	{
		detail::checked(::module_add_dependency(mod_, provider.mod_));
	}

	/// Keeps it for good. As module_pin().
	///
	/// @throw std::system_error no_such_file_or_directory if it is being unloaded.
	void pin(const std::string &why) const
	{
		detail::checked(
			::module_pin(mod_, detail::c_text(why, "the reason has a NUL inside")));
	}

	/// The module, for the C functions.
	::module *native() const noexcept
	{
		return mod_;
	}

	/// The same load of the same module: a later load of the name is another one.
	friend bool operator==(const module_view &a, const module_view &b) noexcept
	{
		return a.mod_ == b.mod_;
	}

	friend bool operator!=(const module_view &a, const module_view &b) noexcept
	{
		return a.mod_ != b.mod_;
	}

protected:
	::module *mod_ = nullptr;
};

/// Keeps the record of a module, not its code: to ask about it, and to try to get it, for as long
/// as you like. Copyable; an empty one is to nothing.
class handle : public module_view {
public:
	handle() noexcept = default;

	/// Owns a handle that module_load() or module_handle_get() has given.
	handle(adopt_t, ::module *mod) noexcept : module_view(mod)
	{
	}

	handle(const handle &other) noexcept
		: module_view(other.mod_ ? ::module_handle_get(other.mod_) : nullptr)
	{
	}

	handle(handle &&other) noexcept : module_view(other.release())
	{
	}

	handle &operator=(handle other) noexcept
	{
		std::swap(mod_, other.mod_);
		return *this;
	}

	~handle()
	{
		::module_handle_put(mod_);
	}

	/// Gives up the handle: module_handle_put() is the caller's now.
	::module *release() noexcept
	{
		return std::exchange(mod_, nullptr);
	}
};

template <class T> class symbol;

/// A reference to a module, which keeps its code mapped; or nothing. It gives itself back when it
/// ends. Movable, and not copyable: clone() takes one more.
class [[nodiscard]] reference : public module_view {
public:
	reference() noexcept = default;

	/// Owns a reference that module_find_get(), module_try_get() or module_get() has taken.
	reference(adopt_t, ::module *mod) noexcept : module_view(mod)
	{
	}

	reference(reference &&other) noexcept
		: module_view(std::exchange(other.mod_, nullptr)),
		  note_(std::exchange(other.note_, nullptr))
	{
	}

	reference &operator=(reference &&other) noexcept
	{
		reference taken(std::move(other));

		swap(taken);
		return *this;
	}

	reference(const reference &) = delete;
	reference &operator=(const reference &) = delete;

	~reference()
	{
		reset();
	}

	/// Gives the reference back now. As module_put().
	void reset() noexcept
	{
		::module_put(release());
	}

	/// One more reference; nothing, of nothing. As module_get().
	reference clone() const noexcept
	{
		::module_get(mod_);
		return reference(adopt, mod_);
	}

	/// The same, tracked, if there is memory for that and the module is not closed.
	reference clone(const track &place) const noexcept
	{
		return clone().tracked(place);
	}

	/// This reference, which is tracked from now on, as clone() has it.
	reference tracked(const track &place) && noexcept
	{
		detail::note *note = mod_ && !note_ ? new (std::nothrow) detail::note : nullptr;

		if (note) {
			std::size_t length = std::strlen(place.file_), most = sizeof(note->label) - 16;

			std::snprintf(note->label, sizeof(note->label), "%s:%u",
				      place.file_ + (length > most ? length - most : 0),
				      place.line_);
			if (::module_try_get_tracked(mod_, &note->track, note->label)) {
				::module_put(mod_);
				note_ = note;
			} else {
				delete note;
			}
		}
		return std::move(*this);
	}

	/// Gives up the reference without giving it back: module_put() is the caller's now. It is
	/// not tracked any more.
	::module *release() noexcept
	{
		if (note_) {
			::module_get(mod_);
			::module_put_tracked(mod_, &note_->track);
			delete std::exchange(note_, nullptr);
		}
		return std::exchange(mod_, nullptr);
	}

	void swap(reference &other) noexcept
	{
		std::swap(mod_, other.mod_);
		std::swap(note_, other.note_);
	}

	friend void swap(reference &a, reference &b) noexcept
	{
		a.swap(b);
	}

	/// The address of a symbol of the module's object, or of one that it needs; to be used
	/// only while this reference, or another one, is held. It may wait for the dynamic linker: keep
	/// what is called often. As module_symbol().
	///
	/// @throw std::system_error no_such_file_or_directory if there is none, or no module.
	void *address(const std::string &name) const
	{
		void *at = ::module_symbol(
			mod_, detail::c_text(name, "the name of a symbol has a NUL inside"));

		if (!at)
			detail::fail(-ENOENT, ::module_last_error());
		return at;
	}

	/// The same, of the type that the caller knows it to have, and with a reference of its
	/// own: symbol<long(int)>("answer") can be called, symbol<int>("counter") read and
	/// written.
	///
	/// @throw std::system_error as address().
	template <class T> modref::symbol<T> symbol(const std::string &name) const;

private:
	detail::note *note_ = nullptr;
};

/// A function or variable of a module, which keeps the module for as long as it exists.
/// Movable, and not copyable.
template <class T> class symbol {
	static_assert(std::is_function_v<T> ||
			      (std::is_object_v<T> && !std::is_function_v<std::remove_pointer_t<T>>),
		      "the type of a symbol is that of the function or the variable itself: "
		      "long(int), not long (*)(int)");

public:
	/// The address, for as long as this exists; NULL after a move or reset().
	T *get() const noexcept
	{
		return holder_ ? at_ : nullptr;
	}

	T &operator*() const noexcept
	{
		return *get();
	}

	T *operator->() const noexcept
	{
		return get();
	}

	/// Calls it.
	template <class... Args>
	std::invoke_result_t<T &, Args...> operator()(Args &&...args) const
	{
		return std::invoke(*get(), std::forward<Args>(args)...);
	}

	explicit operator bool() const noexcept
	{
		return get() != nullptr;
	}

	/// The reference that it has.
	const reference &holder() const noexcept
	{
		return holder_;
	}

	/// Gives the reference back now.
	void reset() noexcept
	{
		holder_.reset();
	}

private:
	friend class reference;

	symbol(reference holder, void *at) noexcept
		: holder_(std::move(holder)), at_(reinterpret_cast<T *>(at))
	{
	}

	reference holder_;
	T *at_;
};

template <class T> modref::symbol<T> reference::symbol(const std::string &name) const
{
	void *at = address(name);

	return modref::symbol<T>(clone(), at);
}

namespace detail
{
/// How many integers and pointers go to a function in registers.
#if defined(__x86_64__)
constexpr std::size_t whole_registers = 6;
#else
constexpr std::size_t whole_registers = 8;
#endif

template <class T> constexpr bool is_floating = std::is_same_v<T, float> || std::is_same_v<T, double>;

template <class T>
constexpr bool is_whole = (std::is_integral_v<T> && std::numeric_limits<T>::digits <= 64) || std::is_enum_v<T> ||
			  std::is_pointer_v<T> || std::is_reference_v<T>;

/// What is returned for nothing.
struct nothing {
};
}

/// A function of a module that anybody may call at any time: as module_gate(). A call takes a
/// reference for as long as it lasts; once the module is being unloaded it returns the value that
/// was given here.
///
///     modref::gate<int(int)> on_event(plugin, *plugin.symbol<int(int)>("on_event"), -1);
///     library_register(on_event.get());
///
/// The address stays good when this object, which can be copied, is gone. All arguments must go in
/// registers.
template <class T> class gate;

template <class R, class... Args> class gate<R(Args...)> {
	static_assert(((detail::is_whole<Args> || detail::is_floating<Args>)&&...) &&
			      (std::size_t{ detail::is_whole<Args> } + ... + 0) <= detail::whole_registers &&
			      (std::size_t{ detail::is_floating<Args> } + ... + 0) <= 8,
		      "the arguments of a gate have to go in registers");
	static_assert(std::is_void_v<R> || detail::is_floating<R> ||
			      (detail::is_whole<R> && !std::is_reference_v<R>),
		      "what a gate returns has to go in a register");

public:
	/// What a refused call returns.
	using value = std::conditional_t<std::is_void_v<R>, detail::nothing, std::decay_t<R>>;

	/// One that leads to a function of the module.
	///
	/// @throw std::system_error no_such_file_or_directory if there can be none, with the words of
	/// module_last_error().
	gate(const module_view &mod, R (*function)(Args...), value refused = value())
		: gate(::module_gate(mod.native(), reinterpret_cast<void *>(function), bits(refused)))
	{
	}

	/// One that leads to what the module of this name, whichever it is, exports as symbol. As
	/// module_gate_follow().
	///
	/// @throw std::system_error as above.
	gate(const module_view &mod, const std::string &symbol, value refused = value())
		: gate(::module_gate_follow(mod.native(),
					    detail::c_text(symbol, "the name of a symbol has a NUL inside"),
					    bits(refused)))
	{
	}

	R operator()(Args... args) const
	{
		return at_(std::forward<Args>(args)...);
	}

	/// The address.
	R (*get() const noexcept)(Args...)
	{
		return at_;
	}

	/// How many calls were refused. As module_gate_refused().
	std::uint64_t refused() const
	{
		return ::module_gate_refused(reinterpret_cast<const void *>(at_));
	}

private:
	explicit gate(void *at) : at_(reinterpret_cast<R (*)(Args...)>(at))
	{
		if (!at)
			detail::fail(-ENOENT, ::module_last_error());
	}

	static std::uintptr_t bits(value refused)
	{
		std::uintptr_t bits = 0;

		if constexpr (!std::is_void_v<R>)
			std::memcpy(&bits, &refused, sizeof(refused));
		return bits;
	}

	R (*at_)(Args...);
};

inline reference module_view::try_get() const noexcept
{
	return ::module_try_get(mod_) ? reference(adopt, mod_) : reference();
}

inline reference module_view::try_get(const track &place) const noexcept
{
	return try_get().tracked(place);
}

inline handle module_view::to_handle() const noexcept
{
	return mod_ ? handle(adopt, ::module_handle_get(mod_)) : handle();
}

// ---- the host -------------------------------------------------------------------------------

/// How to load. Combine them by |.
enum class load_flags : unsigned {
	none = 0,
	atomic = MODULE_LOAD_ATOMIC, ///< count references in one shared word, not per CPU
	copy = MODULE_LOAD_COPY,     ///< load a copy of the file in memory
	shared = MODULE_LOAD_SHARED, ///< replacements may be bound to its unique symbols
	deletable = MODULE_LOAD_DELETABLE, ///< unmap it although it asks never to be
};

constexpr load_flags operator|(load_flags a, load_flags b) noexcept
{
	return static_cast<load_flags>(static_cast<unsigned>(a) | static_cast<unsigned>(b));
}

/// How to replace.
enum class replace_flags : unsigned {
	none = 0,
	/// End the old module before the new one begins. The new one goes on with what the old one saved.
	stop_first = MODULE_REPLACE_STOP_FIRST,
};

namespace detail {

// The C host, which ends with the last of its host object and the notifiers.
class owned_host {
public:
	owned_host() = default;

	owned_host(const owned_host &) = delete;
	owned_host &operator=(const owned_host &) = delete;

	~owned_host()
	{
		if (owned_ && host_)
			::module_host_free(host_); // one with modules stays, with them
	}

	::module_host *get() const noexcept
	{
		return host_;
	}

	void begin(::module_host *host, bool owned) noexcept
	{
		host_ = host;
		owned_ = owned;
	}

	int end() noexcept
	{
		const int rc = ::module_host_free(host_);

		if (rc == 0) {
			host_ = nullptr;
			owned_ = false;
		}
		return rc;
	}

private:
	::module_host *host_ = nullptr;
	bool owned_ = false;
};

// What a notifier is to do. Shared, because it may be ended by what it does.
class event : public std::enable_shared_from_this<event> {
public:
	event() = default;
	event(const event &) = delete;
	event &operator=(const event &) = delete;
	virtual ~event() = default;

	// Nothing is thrown into C: an exception refuses the module.
	int tell(::module *mod, enum ::module_state now) noexcept
	{
		try {
			return call(module_view(mod), static_cast<modref::state>(now));
		} catch (const std::system_error &error) {
			const std::error_condition why = error.code().default_error_condition();

			return why.category() == std::generic_category() && why.value() > 0 ?
				       -why.value() :
				       -ECANCELED;
		} catch (const std::bad_alloc &) {
			return -ENOMEM;
		} catch (...) {
			return -ECANCELED;
		}
	}

private:
	virtual int call(const module_view &mod, modref::state now) = 0;
};

template <class Function> class event_of final : public event {
public:
	template <class Given> explicit event_of(Given &&given) : function_(std::forward<Given>(given))
	{
	}

private:
	int call(const module_view &mod, modref::state now) override
	{
		using result = std::invoke_result_t<Function &, const module_view &, modref::state>;

		static_assert(std::is_void_v<result> || std::is_same_v<result, int>,
			      "a notifier returns nothing, or an int: 0 or a negative errno");
		if constexpr (std::is_void_v<result>) {
			std::invoke(function_, mod, now);
			return 0;
		} else {
			return std::invoke(function_, mod, now);
		}
	}

	Function function_;
};

// One for each object, so that the function outlives the notifiers of that object's code.
extern "C" __attribute__((visibility("hidden"))) inline int
modref_notify(::module *mod, enum ::module_state now, void *data) noexcept
{
	// It may end the notifier; this keeps the function until it has returned.
	const std::shared_ptr<event> keep = static_cast<event *>(data)->shared_from_this();

	return keep->tell(mod, now);
}

} // namespace detail

/// Calls a function for every module that comes, becomes live or goes, until this object ends; see
/// host::on_event(). Movable, and not copyable.
class [[nodiscard]] notifier {
public:
	/// Nothing.
	notifier() noexcept = default;

	notifier(notifier &&other) noexcept = default;

	notifier &operator=(notifier &&other) noexcept
	{
		notifier taken(std::move(other));

		std::swap(host_, taken.host_);
		std::swap(event_, taken.event_);
		std::swap(call_, taken.call_);
		return *this;
	}

	notifier(const notifier &) = delete;
	notifier &operator=(const notifier &) = delete;

	~notifier()
	{
		reset();
	}

	/// Ends it now. When this returns no other thread is in the function, and none will be; it
	/// may be called from the function itself. As module_notifier_unregister().
	void reset() noexcept
	{
		if (event_)
			::module_notifier_unregister(host_->get(), call_, event_.get());
		event_.reset();
		host_.reset();
	}

	explicit operator bool() const noexcept
	{
		return event_ != nullptr;
	}

private:
	friend class host;

	notifier(std::shared_ptr<detail::owned_host> host, std::shared_ptr<detail::event> event,
		 int priority)
		: host_(std::move(host)), call_(detail::modref_notify)
	{
		detail::checked(
			::module_notifier_register(host_->get(), call_, event.get(), priority));
		event_ = std::move(event);
	}

	std::shared_ptr<detail::owned_host> host_;
	std::shared_ptr<detail::event> event_;
	// As it was registered: this may end in another object's code, which has its own.
	::module_notifier_fn call_ = nullptr;
};

/// A module that host::open() has opened, whose code stays where it is meanwhile; or nothing.
/// Movable, and not copyable.
class [[nodiscard]] user : public module_view {
public:
	user() noexcept = default;

	/// Owns what module_open() has given.
	user(adopt_t, ::module *mod) noexcept : module_view(mod)
	{
	}

	user(user &&other) noexcept : module_view(std::exchange(other.mod_, nullptr))
	{
	}

	user &operator=(user &&other) noexcept
	{
		std::swap(mod_, other.mod_);
		return *this;
	}

	/// Closes it if it is open; if it is the last one, and the module is held, it stays.
	~user()
	{
		if (mod_)
			::module_close(mod_, 0);
	}

	/// Closes it. As module_close().
	///
	/// @return what that returns: 0, 1 or 2.
	///
	/// @throw std::system_error as host::unload(), with the module open as before.
	int close(timeout wait)
	{
		const int rc = detail::checked(::module_close(mod_, wait.ns()));

		mod_ = nullptr;
		return rc;
	}
};

/// A thread that keeps a module's code mapped until it has ended, which the module's exit function
/// has it do. As module_thread_create(). It is joined when this ends, or join() is called. Movable.
class [[nodiscard]] module_thread {
public:
	module_thread() noexcept = default;

	/// Starts it.
	///
	/// @throw std::system_error as module_thread_create(); std::bad_alloc.
	template <class Function> module_thread(const module_view &mod, Function &&function)
	{
		using body = std::decay_t<Function>;
		auto run = std::make_unique<body>(std::forward<Function>(function));

		detail::checked(::module_thread_create(
			&thread_, nullptr, mod.native(),
			[](void *data) -> void * {
				const std::unique_ptr<body> own(static_cast<body *>(data));

				(*own)();
				return nullptr;
			},
			run.get()));
		run.release();
		joinable_ = true;
	}

	module_thread(module_thread &&other) noexcept
		: thread_(other.thread_), joinable_(std::exchange(other.joinable_, false))
	{
	}

	module_thread &operator=(module_thread &&other) noexcept
	{
		std::swap(thread_, other.thread_);
		std::swap(joinable_, other.joinable_);
		return *this;
	}

	~module_thread()
	{
		join();
	}

	/// Waits until it has ended, once.
	void join() noexcept
	{
		if (std::exchange(joinable_, false))
			::pthread_join(thread_, nullptr);
	}

private:
	::pthread_t thread_{};
	bool joinable_ = false;
};

/// A table of modules, and the means to load, find, unload and replace them. Movable, and not
/// copyable. All functions but the constructors, assignment, close() and the destructor may be
/// called from any thread.
class host {
public:
	/// A host without modules. As module_host_new().
	host() : owned_(new detail::owned_host)
	{
		owned_->begin(::module_host_new(), true);
	}

	/// A host that module_host_new() has made, which is owned from now on.
	///
	/// @throw std::bad_alloc with the host still the caller's.
	host(adopt_t, ::module_host *native) : owned_(new detail::owned_host)
	{
		owned_->begin(native, true);
	}

	/// The process's own host, module_host_default(), which never ends.
	static host process()
	{
		host own(adopt, nullptr);

		own.owned_->begin(::module_host_default(), false);
		return own;
	}

	host(host &&other) noexcept = default;
	host &operator=(host &&other) noexcept = default;
	host(const host &) = delete;
	host &operator=(const host &) = delete;

	/// Ends it, when its notifiers have ended too. A host that still has modules stays for
	/// ever, with them: unload them first, or see close().
	~host() = default;

	/// Ends it, and says so if it cannot. As module_host_free(). Any other use of a closed
	/// host throws invalid_argument, or finds nothing.
	///
	/// @throw std::system_error device_or_resource_busy while it has modules, or notifiers that
	/// on_event() made, and for the process's own host.
	void close()
	{
		if (owned_.use_count() > 1)
			detail::fail(-EBUSY, "the host has notifiers: end them before it");
		detail::checked(owned_ ? owned_->end() : ::module_host_free(nullptr));
	}

	/// Calls see with a ::module_info of each module, until see returns something other than 0, which
	/// this returns. As module_host_each(). An exception of see is thrown on after that.
	template <class See> int each(See &&see) const
	{
		struct {
			std::remove_reference_t<See> &see;
			std::exception_ptr thrown;
		} call{ see, nullptr };
		const int rc = ::module_host_each(
			native(),
			[](const ::module_info *info, void *data) noexcept {
				auto &to = *static_cast<decltype(call) *>(data);

				try {
					return static_cast<int>(to.see(*info));
				} catch (...) {
					to.thrown = std::current_exception();
					return 1;
				}
			},
			&call);

		if (call.thrown)
			std::rethrow_exception(call.thrown);
		return rc;
	}

	/// Unloads all modules. As module_host_shutdown().
	///
	/// @return how many are left; module_last_error() says why.
	std::int64_t shutdown(timeout wait)
	{
		return ::module_host_shutdown(native(), wait.ns());
	}

	/// The module at that address, or none. As module_get_by_address().
	reference get_by_address(const void *address) const noexcept
	{
		::module *mod = ::module_get_by_address(native(), address);

		return mod ? reference(adopt, mod) : reference();
	}

	/// One user more of a module, which is loaded if there is none. As module_open().
	///
	/// @throw std::system_error as load().
	user open(const std::string &path, const std::string &name = std::string())
	{
		::module *mod = nullptr;

		detail::checked(::module_open(native(),
					      detail::c_text(path, "the path has a NUL inside"),
					      name.empty() ? nullptr : c_name(name), &mod));
		return user(adopt, mod);
	}

	/// Loads the shared object at path as a module of this name, or of the file's up to ".so".
	/// As module_load_flags().
	///
	/// @return a handle to it.
	///
	/// @throw std::system_error as module_load() has it: file_exists, no_such_file_or_directory,
	/// executable_format_error, what init_module() returned, and so on.
	handle load(const std::string &path, const std::string &name = std::string(),
			    load_flags flags = load_flags::none)
	{
		::module *mod = nullptr;

		detail::checked(::module_load_flags(
			native(), detail::c_text(path, "the path has a NUL inside"),
			name.empty() ? nullptr : c_name(name), static_cast<unsigned>(flags), &mod));
		return handle(adopt, mod);
	}

	/// The module of that name, with a reference; an empty one if there is none, or if it is
	/// being unloaded. As module_find_get().
	///
	/// @throw std::system_error invalid_argument for a name with a NUL inside.
	reference find(const std::string &name) const
	{
		return reference(adopt, ::module_find_get(native(), c_name(name)));
	}

	/// The same, tracked, if there is memory for that.
	reference find(const std::string &name, const track &place) const
	{
		return find(name).tracked(place);
	}

	/// As find(), and waits while a thread loads, unloads or replaces the module of that name. As
	/// module_find_get_wait().
	///
	/// @return an empty one if there is none of that name, or if waiting was of no use.
	///
	/// @throw std::system_error invalid_argument for a name with a NUL inside.
	reference find_wait(const std::string &name, timeout wait = timeout::forever()) const
	{
		return reference(adopt, ::module_find_get_wait(native(), c_name(name), wait.ns()));
	}

	/// Unloads a module that nobody holds, or waits until nobody does. The caller holds no
	/// reference to it, and is not its code. As module_unload().
	///
	/// @return true if it is gone from memory; false if it is unloaded and still mapped:
	/// last_unloaded() says why.
	///
	/// @throw std::system_error with the module as it was: no_such_file_or_directory;
	/// operation_would_block if it is held or others depend on it; timed_out;
	/// device_or_resource_busy; and what else module_unload() has.
	bool unload(const std::string &name, timeout wait = timeout())
	{
		return detail::checked(::module_unload(native(), c_name(name), 0, wait.ns())) == 0;
	}

	/// The same, and by force after that: even if it is held, or has no exit function. No code is
	/// unmapped under a holder. As module_unload() with MODULE_UNLOAD_FORCE.
	///
	/// @return as unload(): false while it is held.
	///
	/// @throw std::system_error as unload(), except for what force overrides.
	bool force_unload(const std::string &name, timeout wait = timeout())
	{
		return detail::checked(::module_unload(native(), c_name(name), MODULE_UNLOAD_FORCE,
						       wait.ns())) == 0;
	}

	/// Puts the object at path in the place of a module, and then lets the old one go. As
	/// module_replace_flags().
	///
	/// @return true if the old one is gone from memory; false if the new one is in service and
	/// the old one still mapped: last_unloaded() says why.
	///
	/// @throw std::system_error with the old one in service as before: as load() and unload().
	bool replace(const std::string &name, const std::string &path, timeout wait = timeout(),
		     replace_flags flags = replace_flags::none)
	{
		return replace_set({ { name, path } }, wait, flags);
	}

	/// Puts the object at each path in the place of the module of that name, all in one step: pairs
	/// of a name and a path. As module_replace_set().
	///
	/// @return as replace(), of all old ones.
	///
	/// @throw std::system_error with all old ones in service as before.
	bool replace_set(const std::vector<std::pair<std::string, std::string>> &set,
			 timeout wait = timeout(), replace_flags flags = replace_flags::none)
	{
		std::vector<::module_replacement> all;

		for (const auto &[name, path] : set)
			all.push_back({ c_name(name), detail::c_text(path, "the path has a NUL inside") });
		return detail::checked(::module_replace_set(native(), all.data(), all.size(),
							    static_cast<unsigned>(flags), wait.ns())) == 0;
	}

	/// Unmaps what was unloaded by force, or replaced, while it was held, and is not any
	/// more. As module_host_reap().
	///
	/// @return how many are gone from memory.
	int reap()
	{
		return detail::checked(::module_host_reap(native()));
	}

	/// Registers function(mod, now), which is called for every module that comes, becomes live or
	/// goes, on the thread that loads or unloads it, with a const module_view& and a state; higher
	/// priorities first. As module_notifier_register().
	///
	/// It returns nothing, or an int: 0, or a negative errno, which refuses a module that is
	/// coming. An exception does so too: a std::system_error with its errno, std::bad_alloc with
	/// not_enough_memory, all others with operation_canceled. For a module that is live or
	/// going, whatever it returns or throws is ignored.
	///
	/// @return what has it called, for as long as that exists. A plugin that registers one ends
	/// it before it is unloaded, in its exit function.
	///
	/// @throw std::system_error invalid_argument if the host is closed; std::bad_alloc.
	template <class Function> notifier on_event(Function &&function, int priority = 0)
	{
		// Not make_shared(), here and below: it has a static, which gcc makes unique.
		return notifier(owned(),
				std::shared_ptr<detail::event>(
					new detail::event_of<std::decay_t<Function>>(
						std::forward<Function>(function))),
				priority);
	}

	/// The modules, in the format of /proc/modules. As module_host_list().
	std::string list() const
	{
		return text(::module_host_list);
	}

	/// Sets what becomes of the addresses of modules that this host unloads from now on. As
	/// module_host_after_unload().
	void after_unload(module_after_unload what)
	{
		if (const int rc = ::module_host_after_unload(native(), what))
			detail::fail(rc, "the host is closed, or there is no such end");
	}

	/// Refuses loads and replacements while unloaded modules that are still mapped have more bytes
	/// than this. As module_host_limit_residents().
	void limit_residents(std::size_t bytes)
	{
		detail::checked(::module_host_limit_residents(native(), bytes));
	}

	/// What was unloaded last: "name unmapped", or "name resident: " and the reason. As
	/// module_host_last_unloaded().
	std::string last_unloaded() const
	{
		return text(::module_host_last_unloaded);
	}

	/// Whether an unload was ever forced. As module_host_tainted().
	bool tainted() const noexcept
	{
		return ::module_host_tainted(native());
	}

	/// The host, for the C functions; NULL if it is closed or was moved from.
	::module_host *native() const noexcept
	{
		return owned_ ? owned_->get() : nullptr;
	}

private:
	static const char *c_name(const std::string &name)
	{
		return detail::c_text(name, "the name of a module has a NUL inside");
	}

	const std::shared_ptr<detail::owned_host> &owned() const
	{
		if (!native())
			detail::fail(-EINVAL, "the host is closed");
		return owned_;
	}

	std::string text(std::int64_t (*get)(::module_host *, char *, std::uintptr_t)) const
	{
		return detail::text([this, get](char *buf, std::size_t size) {
			return get(owned()->get(), buf, size);
		});
	}

	std::shared_ptr<detail::owned_host> owned_;
};

/// Tells from a file alone what will keep it in memory, or may crash the program once it is
/// unmapped: a finding a line; empty if there is none. As module_check_file().
///
/// @throw std::system_error the errno, and module_last_error()'s words; also invalid_argument for a
/// path with a NUL inside.
inline std::string check_file(const std::string &path)
{
	const char *const file = detail::c_text(path, "the path has a NUL inside");

	return detail::text([file](char *buf, std::size_t size) {
		return ::module_check_file(file, buf, size);
	});
}

/// Which module an address belongs to, in words; "" if none. As module_describe_address(), but not
/// async-signal-safe.
inline std::string describe_address(const void *address)
{
	return detail::text([address](char *buf, std::size_t size) {
		return ::module_describe_address(address, buf, size);
	});
}

/// Makes a stale call say whose code it was before the process dies, or stops doing so. As
/// module_crash_reports().
inline void crash_reports(bool on)
{
	if (const int rc = ::module_crash_reports(on))
		detail::fail(rc, "the handler cannot be set");
}

} // namespace modref

#endif // MODULE_REF_HPP
