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
//     if (plugin.drain(std::chrono::seconds(1)))        // the unloader: shut the door, wait
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
// What the operations mean, their memory ordering, their safety in threads and signal
// handlers, and the Linux functions they come from stand in module_ref.h, at the functions that
// are named here. The header adds no state and no lock of its own: it can be mixed with
// the C functions, on the same counters and hosts (adopt, native(), release()).
//
// Errors: a function that fails throws std::system_error, whose code() is the errno in
// std::generic_category(), to be compared with std::errc, and whose what() begins with the words
// of module_last_error(). What is no failure but an answer (the door is shut, a counter's time is up,
// there is no such module) is a return value; a module that is not unloaded is an error. Functions that
// are noexcept throw nothing.
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
#include <functional>
#include <limits>
#include <memory>
#include <new>
#include <string>
#include <string_view>
#include <system_error>
#include <type_traits>
#include <utility>

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

	/// One more reference, also while a drain is under way; nothing, of nothing. As
	/// module_ref_get().
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

/// Takes a reference, unless the door is shut. As module_ref_try_get().
inline guard try_get(::module_ref &ref) noexcept
{
	return module_ref_try_get_inline(&ref) ? guard(adopt, ref) : guard();
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

/// Shuts the door and waits until the last reference is given back. As module_ref_drain().
/// The caller holds none.
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

/// A reference counter that can be shut. All functions but the constructors and the
/// destructor may be called from any thread.
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

	/// Takes a reference, unless the door is shut: nothing then. Wait-free, and
	/// async-signal-safe. As module_ref_try_get().
	guard try_get() noexcept
	{
		return modref::try_get(ref_);
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

	/// Takes a reference, unless the module is being unloaded or is gone, or there is none:
	/// an empty one then. As module_try_get().
	inline reference try_get() const noexcept;

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

/// Keeps the struct of a module, not its code: for asking about it, and for trying to get it,
/// for as long as one likes. Copyable; an empty one is to nothing.
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

/// A reference to a module, which keeps its code where it is; or nothing. Gives it back when it
/// ends. Movable, and not copyable: clone() takes one more.
class [[nodiscard]] reference : public module_view {
public:
	reference() noexcept = default;

	/// Owns a reference that module_find_get(), module_try_get() or module_get() has taken.
	reference(adopt_t, ::module *mod) noexcept : module_view(mod)
	{
	}

	reference(reference &&other) noexcept : module_view(other.release())
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

	/// Gives up the reference without giving it back: module_put() is the caller's now.
	::module *release() noexcept
	{
		return std::exchange(mod_, nullptr);
	}

	void swap(reference &other) noexcept
	{
		std::swap(mod_, other.mod_);
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

inline reference module_view::try_get() const noexcept
{
	return ::module_try_get(mod_) ? reference(adopt, mod_) : reference();
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
};

constexpr load_flags operator|(load_flags a, load_flags b) noexcept
{
	return static_cast<load_flags>(static_cast<unsigned>(a) | static_cast<unsigned>(b));
}

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

/// Has a function called for every module that comes, is live or goes, until it ends; see
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

	/// The same, and by force after that: also if it is held, or has no exit function. No code is
	/// unmapped under a holder. As module_unload() with MODULE_UNLOAD_FORCE.
	///
	/// @return as unload(): false while it is held.
	///
	/// @throw std::system_error as unload(), but for what force is for.
	bool force_unload(const std::string &name, timeout wait = timeout())
	{
		return detail::checked(::module_unload(native(), c_name(name), MODULE_UNLOAD_FORCE,
						       wait.ns())) == 0;
	}

	/// Puts the object at path in the place of a module, and then lets the old one go. As
	/// module_replace().
	///
	/// @return true if the old one is gone from memory; false if the new one is in service and
	/// the old one still mapped: last_unloaded() says why.
	///
	/// @throw std::system_error with the old one in service as before: as load() and unload().
	bool replace(const std::string &name, const std::string &path, timeout wait = timeout())
	{
		return detail::checked(::module_replace(
			       native(), c_name(name),
			       detail::c_text(path, "the path has a NUL inside"), wait.ns())) == 0;
	}

	/// Unmaps what was unloaded by force, or replaced, while it was held, and is not any
	/// more. As module_host_reap().
	///
	/// @return how many are gone from memory.
	int reap()
	{
		return detail::checked(::module_host_reap(native()));
	}

	/// Has function(mod, now) called for every module that comes, is live or goes, on the thread
	/// that loads or unloads it, with a const module_view& and a state; higher priorities first. As
	/// module_notifier_register().
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
		std::string out;

		for (;;) {
			const std::int64_t length = get(native(), out.data(), out.size());

			if (length < 0)
				detail::fail(static_cast<int>(length), "the host is closed");
			// A NUL follows what was written.
			if (static_cast<std::size_t>(length) < out.size()) {
				out.resize(static_cast<std::size_t>(length));
				return out;
			}
			out.resize(static_cast<std::size_t>(length) + 1);
		}
	}

	std::shared_ptr<detail::owned_host> owned_;
};

} // namespace modref

#endif // MODULE_REF_HPP
