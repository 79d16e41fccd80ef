/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * module_ref.h - take code out of a running multithreaded program without stopping a
 * thread: reference counters that can be shut, and a host that loads, unloads and replaces
 * shared objects by them.
 *
 * Functions that can fail return a negative errno, or NULL. NULL where something is needed is
 * -EINVAL; NULL for a counter or a module to get and to put stands for code that is always
 * there. Times are in nanoseconds.
 *
 * For C99, C++11 and later, by gcc and clang. This file is generated from the library's
 * source. Do not edit it.
 */

#ifndef MODULE_REF_H
#define MODULE_REF_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define MODULE_REF_VERSION_MAJOR 0
#define MODULE_REF_VERSION_MINOR 1
#define MODULE_REF_VERSION_PATCH 0

#if defined(__GNUC__)
#define MODULE_REF_ALIGNED(n) __attribute__((aligned(n)))
#define MODULE_REF_NORETURN __attribute__((noreturn))
#else
#error "module_ref.h needs a compiler that knows __attribute__((aligned)), as gcc and clang do"
#endif

#if defined(__cplusplus) && defined(__GNUC__)
/* As stat(2) is, module_ref_drain is a structure and a function. */
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wshadow"
#endif

/* For module_load_flags(): count references in one shared word, not per CPU. That takes 16
 * bytes, and no barrier to unload. */
#define MODULE_LOAD_ATOMIC 1u

/* For module_load_flags(): load a copy of the file in memory, so that the file may be
 * written over in place while the module is in use. The copy has no path: debuggers do not
 * find its symbols, and what it needs from its own folder ($ORIGIN) has to be loaded already. */
#define MODULE_LOAD_COPY 2u

/* For module_unload(): unload it also if it is held, or has no exit function. */
#define MODULE_UNLOAD_FORCE 1u

/**
 * The loader's own reference: the counter is live. `MODULE_REF_BASE` of the Linux
 * patch that this library goes back to.
 */
#define MODULE_REF_BASE 1

/**
 * Room for a module's name, with its NUL.
 */
#define MODULE_NAME_LEN 56

/**
 * How a counter counts.
 */
enum module_ref_mode {
  /**
   * In one shared word.
   */
  MODULE_REF_ATOMIC,
  /**
   * In per-CPU slots beside the word.
   */
  MODULE_REF_PERCPU,
};

/**
 * A use of a counter that cannot be right.
 */
enum module_ref_misuse {
  /**
   * A put without a get, while nobody held a reference. It was undone; the counter is
   * as before.
   */
  MODULE_REF_SURPLUS_PUT,
  /**
   * A get found the count in its outermost zone, beyond 2^58, where only a leak
   * of references can bring it. The count is pinned there: the counter can be
   * used, and is never released again.
   */
  MODULE_REF_OVERFLOW,
  /**
   * References are lost for good: a put or a drain of a pinned counter, or a
   * destroy of one that is held.
   */
  MODULE_REF_LEAKED,
  /**
   * module_ref_get(), which needs a reference, on a released or destroyed
   * counter. It was undone; the counter is as before.
   */
  MODULE_REF_STALE_GET,
};

/**
 * Where a module is between its load and its end. Linux: enum module_state.
 */
enum module_state {
  /**
   * In service.
   */
  MODULE_STATE_LIVE,
  /**
   * Its init function is running. It can be found and referenced.
   */
  MODULE_STATE_COMING,
  /**
   * Being unloaded, or unloaded.
   */
  MODULE_STATE_GOING,
  /**
   * Being opened. Nobody can find it.
   */
  MODULE_STATE_UNFORMED,
};

/**
 * One load of a shared object.
 *
 * A pointer to one is valid for as long as its owner has a reference (module_find_get(),
 * module_try_get(), module_get()), which keeps the module's code where it is, or a handle
 * (from module_load(), given back with module_handle_put()), which keeps the pointer alone:
 * once the module is unloaded module_try_get() is false for ever, also when the name is
 * loaded again. Inside the module's own code __this_module is valid. All functions also take
 * the THIS_MODULE of linux_module.h.
 *
 * A plugin is any shared object. These are looked for among the symbols it exports itself, and
 * may all be missing:
 *
 *     int init_module(void);          0 or a negative errno, to fail
 *     void cleanup_module(void);      called before it is unmapped
 *     struct module *__this_module;   filled in before init_module()
 *
 * They may not throw, longjmp() out, or end their thread. The last reference to a module
 * must not be put by the module's own code, which may be gone before the put returns:
 * module_thread_create() and module_put_and_exit() are for that.
 */
struct module;

/**
 * A table of modules, and the means to load, find, unload and replace them. Any number of
 * hosts can be in a process.
 *
 * References take no lock and never wait. Lookups (module_find_get()) take no lock of the
 * host's and do not wait for a load; but a thread's first one registers a thread-local with the C
 * library, which waits there while another thread is in dlopen(3), constructors included. All
 * other functions may be called from any thread, also from the init and exit functions of
 * modules and from notifiers: no lock is held while those run. None is
 * async-signal-safe unless it says so, and none is a cancellation point: a thread that is
 * cancelled (pthread_cancel(3)) in a load or an unload ends it first.
 *
 * The host allocates. Where a plugin or what it needs finds no memory, that is -ENOMEM; where the
 * host's own small records find none, the process ends, as programs in Rust do. Getting, putting
 * and releasing allocate nothing.
 *
 * After fork(2) the child has a copy. What other threads of the parent were loading or
 * unloading stays as it was in that moment: -EBUSY. If one was in the middle of a dlopen(3) or
 * dlclose(3) just then, the C library's own state is, too: the child may look and call, but
 * should exec before it loads or unloads.
 */
struct module_host;

/**
 * A reference counter that can be shut.
 *
 * Users take a reference for as long as they use what the counter stands for (the
 * code of a plugin, a device). Whoever wants to take it away asks
 * module_ref_try_release(), or closes the counter and waits with module_ref_drain():
 * while it is closed, new gets fail. After either has returned 0, to one caller only,
 * nobody holds a reference and nobody gets one.
 *
 * Embed it anywhere, and initialise it with MODULE_REF_INIT or module_ref_init(): memory
 * that is all zeroes is a counter that is released already, and gives out no
 * reference. The members are private; the layout is part of the ABI. Its address is its identity: do not copy or move it while it is in use. Its memory
 * may be freed once it is released and no module_ref_try_get() is running or can
 * start; the last module_ref_put() may still be on its way back.
 *
 * A counter lives in one process: after fork(2) the child has a copy, with the
 * references that the parent's other threads held left over.
 */
struct MODULE_REF_ALIGNED(16) module_ref {
  uint64_t word;
  size_t slots;
};

/**
 * A drain that module_ref_drain_begin() has begun: the caller's memory, for the library
 * to keep its state in. The members are private. All zeroes is a handle of no drain.
 *
 * It may not be copied, moved or freed before module_ref_drain_finish() or
 * module_ref_drain_cancel() has ended the drain.
 */
struct MODULE_REF_ALIGNED(8) module_ref_drain {
  struct module_ref *ref;
  uint64_t state[9];
};

/**
 * A misuse handler: what happened, to which counter, and the address from which the
 * library was called, or NULL where that is not known.
 *
 * It runs on the thread that misused the counter, after the library has mended what
 * it could. It may not call functions of the host: a module's misuse may be found while its
 * host's lock is held. If the program gets or puts in signal handlers, it
 * must be async-signal-safe.
 */
typedef void (*module_ref_misuse_fn)(enum module_ref_misuse what,
                                     const struct module_ref *ref,
                                     const void *caller);

/**
 * A notifier: it is told that mod is now in this state (COMING, LIVE or GOING), on the
 * thread that loads or unloads it. mod is valid during the call.
 *
 * It returns 0, or a negative errno to refuse a module that is COMING: its load fails with
 * that, and the notifiers that were told before are told that it is GOING. What it
 * returns for other states is ignored.
 */
typedef int (*module_notifier_fn)(struct module *mod,
                                  enum module_state state,
                                  void *data);

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

/**
 * Makes *ref a live counter that nobody holds, in shared-word mode, whatever the memory
 * contains: references to a counter that was there before are forgotten. The program
 * then publishes it, which orders the initialisation before its users.
 *
 * @return 0, or a negative errno.
 * @retval -EINVAL ref is NULL.
 *
 * Memory ordering: none. Thread safety: only one thread may use *ref during the call.
 * Async-signal-safe.
 */
int module_ref_init(struct module_ref *ref);

/**
 * Does as module_ref_init(), in per-CPU mode if this system can: a get and a put are
 * then one plain add on a cache line of the CPU they run on, however many threads
 * share the counter. Ask module_ref_mode() what it became: without restartable
 * sequences (glibc before 2.35, valgrind, not x86-64), without membarrier(2), or
 * without sched_getaffinity(2) it is in shared-word mode.
 *
 * The counter has 8 bytes beside its own for each CPU that uses it, which
 * module_ref_destroy() gives back. What a container says of the CPUs decides how fast it
 * is, and nothing else. Several copies of the library in one process (the shared one,
 * static ones in plugins) may work on the same counters. Not supported in this mode: a child that shares its parent's memory and
 * thread-local storage, as vfork(2) makes it, may not get or put.
 *
 * @return as module_ref_init(); and
 * @retval -ENOMEM there is no memory for the slots; the counter is untouched.
 *
 * Memory ordering: none. Thread safety: only one thread may use *ref during the call.
 * Not async-signal-safe.
 */
int module_ref_init_percpu(struct module_ref *ref);

/**
 * Makes a released counter live again, in the mode it had. Only for the caller to whom
 * module_ref_try_release() or module_ref_drain() returned 0.
 *
 * @return 0, or a negative errno.
 * @retval -EBUSY ref is not released.
 * @retval -EINVAL ref is NULL or destroyed.
 *
 * Memory ordering: release: what the caller did before happens before what any later
 * holder does. Thread-safe. Async-signal-safe.
 */
int module_ref_reinit(struct module_ref *ref);

/**
 * Ends the life of a counter that is released (by its winner) or that nobody holds.
 * Its memory may then be freed or initialised again; any other use is refused as long
 * as the memory stays. A counter that is held stays as it is, and the misuse handler
 * is told of the leak. NULL is ignored.
 *
 * Memory ordering: as module_ref_try_release(). Thread safety: no other thread may use
 * *ref, but for puts on their way back. Not async-signal-safe.
 */
void module_ref_destroy(struct module_ref *ref);

/**
 * Says how the counter counts: what its initialisation got, which may be less than was
 * asked for.
 *
 * @return the mode; MODULE_REF_ATOMIC if ref is NULL.
 *
 * Memory ordering: none. Thread-safe. Async-signal-safe.
 */
enum module_ref_mode module_ref_mode(const struct module_ref *ref);

/**
 * Takes a reference, unless the counter is closed. Wait-free. A get that comes after the
 * counter was closed writes nothing.
 *
 * @return whether there is now a reference to put; true for NULL, as in Linux.
 *
 * Memory ordering: acquire, on success: everything before the counter's last init or
 * reinit happens before what follows. Thread-safe. Async-signal-safe. Linux:
 * try_module_get().
 */
bool module_ref_try_get(struct module_ref *ref);

/**
 * Takes one more reference. The caller holds one already, so this succeeds also while
 * a drain is under way. On a released counter it is undone, and the misuse handler is
 * told. NULL is ignored.
 *
 * Memory ordering: none needed, the caller's own reference has it. Thread-safe.
 * Async-signal-safe. Linux: __module_get().
 */
void module_ref_get(struct module_ref *ref);

/**
 * Gives a reference back, from whichever thread. Wait-free. Nothing in *ref is touched
 * once the reference is gone. NULL is ignored.
 *
 * References have no names, so a put without a get cannot be told from a holder's own. Where
 * nobody holds a reference it is undone, and the misuse handler is told. Where somebody does,
 * it gives that reference back: nobody is told, and the counter may be released while that
 * holder is inside. Where another thread gets or puts in that moment, the report may name
 * that thread, and a reference may be left over for good.
 *
 * A thread that runs code which is to be unloaded makes its last put from code that
 * stays: after it, the code that called it may be gone.
 *
 * Memory ordering: release: everything before it happens before what the winner of a
 * release does next. Thread-safe. Async-signal-safe; errno is preserved. Linux:
 * module_put().
 */
void module_ref_put(struct module_ref *ref);

/**
 * Counts the references held, without the loader's own. Stale as soon as it is read,
 * and approximate in per-CPU mode: for people and logs, never to decide whether
 * something may go.
 *
 * @return the count, 0 or more; -1 if released or destroyed.
 * @retval -EINVAL ref is NULL.
 *
 * Memory ordering: none. Thread-safe. Async-signal-safe. Linux: module_refcount().
 */
int64_t module_ref_count(const struct module_ref *ref);

/**
 * Releases the counter if nobody holds a reference, and leaves it as it was if
 * somebody does. Does not wait, and does not close the counter while it looks: under
 * steady traffic it may never succeed, where module_ref_drain() does.
 *
 * In per-CPU mode it makes one membarrier(2) when nobody seems to hold a reference,
 * and no system call when somebody does.
 *
 * @return 0 to the one caller who has released it, or a negative errno.
 * @retval -EWOULDBLOCK references are held.
 * @retval -EBUSY another thread's release or drain is under way.
 * @retval -EALREADY it has been released before, which entitles the caller to nothing.
 * @retval -EINVAL ref is NULL or destroyed.
 * @retval -errno in per-CPU mode, that of membarrier(2) if that is refused.
 *
 * Memory ordering: acquire, on success: everything that holders did happens before
 * what follows. Thread-safe. Async-signal-safe. Linux: try_release_module_ref().
 */
int module_ref_try_release(struct module_ref *ref);

/**
 * Closes the counter, so that new gets fail, and sleeps until the last reference
 * is put. If that takes longer than timeout_ns nanoseconds the counter becomes live
 * again, as before; a negative timeout waits for ever, 0 does not wait. If the last
 * reference goes in the moment in which time runs out, the release succeeds.
 *
 * The caller must not hold a reference: it would wait for itself. Signals do not
 * interrupt it, and it is not a cancellation point.
 *
 * @return 0 to the one caller who has released it, or a negative errno.
 * @retval -ETIMEDOUT references are held, and the time is up. At once, and with a word
 *     to the misuse handler, if the count is pinned after an overflow.
 * @retval -EBUSY another thread's release or drain is under way.
 * @retval -EALREADY it has been released before, which entitles the caller to nothing.
 * @retval -EINVAL ref is NULL or destroyed.
 * @retval -errno in per-CPU mode, that of membarrier(2) if that is refused.
 *
 * Memory ordering: as module_ref_try_release(). Thread-safe. Not async-signal-safe: it
 * waits.
 */
int module_ref_drain(struct module_ref *ref, int64_t timeout_ns);

/**
 * Does as module_ref_drain(), for programs that wait in a loop of their own: closes the
 * counter and returns at once, with a descriptor for epoll(7), poll(2) and select(2). It
 * becomes readable when the last reference has been put or timeout_ns nanoseconds have
 * passed, and only then; a negative timeout is never, 0 at once. Then
 * module_ref_drain_finish() ends the drain. Until that or module_ref_drain_cancel() has
 * ended it a drain is under way, with all that means for others (-EBUSY).
 *
 *     struct module_ref_drain drain;
 *     int fd = module_ref_drain_begin(&ref, &drain, timeout_ns);
 *     ...
 *     if (readable(fd)) {
 *             int rc = module_ref_drain_finish(&drain);
 *             close(fd);
 *     }
 *
 * The descriptor is a timer (timerfd_create(2)) that is closed on exec, never 0, 1 or 2,
 * and stays readable: level- and edge-triggered loops can both wait for it, and there is
 * nothing to read. It is the caller's to close, at any time; the drain can be ended
 * without it. A thread of the library's sleeps until the drain is over, with all signals
 * blocked. Code that may be unloaded ends its drains first.
 *
 * The counter and *drain stay where they are until the drain has ended. After fork(2)
 * each process ends its own copy of the drain, by its own copy of the counter; the
 * child's descriptor is the parent's, and says nothing about the child's counter.
 *
 * @return the descriptor to the one caller whose drain it is; or, with the counter as it
 * was, a negative errno.
 * @retval -EBUSY another thread's release or drain is under way.
 * @retval -EALREADY it has been released before, which entitles the caller to nothing.
 * @retval -EINVAL ref or drain is NULL, or ref is destroyed.
 * @retval -errno that of timerfd_create(2) or pthread_create(3), or in per-CPU mode of
 *     membarrier(2), if that is refused.
 *
 * Memory ordering: none; module_ref_drain_finish() has it. Thread safety: no other thread
 * may use *drain during the call. Not async-signal-safe: it starts a thread.
 */
int module_ref_drain_begin(struct module_ref *ref,
                           struct module_ref_drain *drain,
                           int64_t timeout_ns);

/**
 * Ends a drain that module_ref_drain_begin() has begun if it is over: if the last
 * reference has been put, or the time is up. Any thread may ask, at any time, whether the
 * descriptor is readable or not.
 *
 * @return 0 to the one caller for whom the counter is released now, as by
 * module_ref_drain(); or a negative errno.
 * @retval -EINPROGRESS references are held, and there is time left.
 * @retval -ETIMEDOUT the time is up, or the count is pinned after an overflow (the
 *     misuse handler was told then): the counter is live again.
 * @retval -EBUSY another thread is just asking or ending it: ask again.
 * @retval -EINVAL drain is NULL, or no drain is under way with it. The counter is not
 *     touched then, and may be gone.
 *
 * Memory ordering: as module_ref_try_release(). Thread-safe. Not async-signal-safe: it
 * waits for the library's thread to end, and for gets that are being refused (100 ms at
 * most).
 */
int module_ref_drain_finish(struct module_ref_drain *drain);

/**
 * Ends a drain that module_ref_drain_begin() has begun: the counter is live again, whether
 * the last reference has been put or not. A loop that takes a last look at its own
 * deadline asks module_ref_drain_finish() first.
 *
 * @return 0, or a negative errno.
 * @retval -EBUSY another thread is just asking or ending it: ask again.
 * @retval -EINVAL drain is NULL, or no drain is under way with it. The counter is not
 *     touched then, and may be gone.
 *
 * Memory ordering: release: what the caller did before happens before what any later
 * holder does. Thread-safe. Not async-signal-safe: it waits for the library's thread to
 * end.
 */
int module_ref_drain_cancel(struct module_ref_drain *drain);

/**
 * Installs a misuse handler for all counters of this library; NULL installs the
 * default, which writes one line to standard error and goes on, at most 10 in a second,
 * with the number of those left out; it asks the dynamic linker for the caller's name,
 * which is not async-signal-safe. A handler that wants the program to stop calls
 * abort(3).
 *
 * @return the handler before, NULL for the default.
 *
 * Memory ordering: what the caller did before happens before the handler runs.
 * Thread-safe. Not async-signal-safe.
 */
module_ref_misuse_fn module_ref_set_misuse_handler(module_ref_misuse_fn fn);

/**
 * Says the version of the library at run time; MODULE_REF_VERSION_MAJOR,
 * MODULE_REF_VERSION_MINOR and MODULE_REF_VERSION_PATCH are those of the header.
 *
 * @return the version, as "1.2.3". Static; do not free.
 *
 * Memory ordering: none. Thread-safe. Async-signal-safe.
 */
const char *module_ref_version(void);

/**
 * Makes a host without modules.
 *
 * @return the host, for module_host_free().
 *
 * Memory ordering: none. Thread-safe. Not async-signal-safe.
 */
struct module_host *module_host_new(void);

/**
 * Gives the process's own host, made when it is first asked for. It cannot be freed.
 *
 * @return the host, always the same.
 *
 * Memory ordering: none. Thread-safe. Not async-signal-safe.
 */
struct module_host *module_host_default(void);

/**
 * Ends a host. Nobody may use the pointer any more; handles to modules it once had stay valid.
 *
 * @return 0, or a negative errno.
 * @retval -EBUSY it has modules, or such as were unloaded by force or replaced and are still
 *     held; or it is the process's own host.
 * @retval -EINVAL host is NULL.
 *
 * Memory ordering: none. Thread safety: no other thread may use the host during or after the
 * call. Not async-signal-safe.
 */
int module_host_free(struct module_host *host);

/**
 * Loads the shared object at path as a module of this name (NULL: the file's name up to
 * ".so"), and returns when its init function, if it has one, has returned. Counting is per
 * CPU, where the system can; module_load_flags() chooses.
 *
 * A path without a slash is a file in the working directory if there is one, and else a
 * library that the dynamic linker finds. A file that is a module already is loaded once more,
 * as an object of its own with its own variables. Later objects do not see its symbols
 * (RTLD_LOCAL), but for what DT_NEEDED names: a module that is linked against another one's
 * soname depends on it.
 *
 * The order is Linux's: UNFORMED, dependencies, COMING, notifiers, init_module(), LIVE,
 * notifiers. During init the module holds one reference to itself. A positive result of
 * init_module() is warned of on standard error, and the module loaded.
 *
 * @param out where a handle to the module goes, for module_handle_put(); NULL if none is
 * wanted. NULL is written on failure.
 *
 * @return 0; or a negative errno, with words in module_last_error().
 * @retval -EEXIST there is a live module of that name. (One that is being loaded is waited for
 *     first.)
 * @retval -EBUSY there is a module of that name that is going, or was being loaded and has
 *     failed.
 * @retval -EDEADLK waiting for a module of that name would wait for this thread.
 * @retval -ENOENT a file, library or symbol is missing, or a provider is going.
 * @retval -ENOEXEC the file is not a shared object of this machine.
 * @retval -EISDIR, -EACCES and so on: the file cannot be read.
 * @retval -ENAMETOOLONG, -EINVAL a module cannot have that name: 56 bytes with its NUL; no
 *     spaces, commas, slashes.
 * @retval -EINVAL host or path is NULL.
 * @retval -ENOMEM there is no memory for the object.
 * @retval -errno what a notifier or init_module() returned.
 *
 * Memory ordering: release: what init_module() did happens before what users do, as
 * module_try_get() and module_state() say. Thread-safe. Not async-signal-safe. Linux:
 * load_module().
 */
int module_load(struct module_host *host,
                const char *path,
                const char *name,
                struct module **out);

/**
 * Does as module_load(), with flags: MODULE_LOAD_ATOMIC, MODULE_LOAD_COPY, or both.
 *
 * @return as module_load(); and
 * @retval -EINVAL there are unknown flags.
 *
 * Memory ordering: as module_load(). Thread-safe. Not async-signal-safe.
 */
int module_load_flags(struct module_host *host,
                      const char *path,
                      const char *name,
                      unsigned int flags,
                      struct module **out);

/**
 * Takes one more handle to a module, for module_handle_put(). The caller has a handle or a
 * reference.
 *
 * @return mod.
 *
 * Memory ordering: none. Thread-safe. Not async-signal-safe.
 */
struct module *module_handle_get(struct module *mod);

/**
 * Gives a handle back. NULL is ignored. It does not touch the module's code.
 *
 * Memory ordering: none. Thread-safe. Not async-signal-safe.
 */
void module_handle_put(struct module *mod);

/**
 * Unmaps modules that were unloaded by force, or replaced, while they were held, and are not
 * any more. Every load, unload and replace does so first.
 *
 * @return how many are gone from memory, or a negative errno.
 * @retval -EINVAL host is NULL.
 *
 * Memory ordering: everything that holders did happens before the unmapping. Thread-safe. Not
 * async-signal-safe.
 */
int module_host_reap(struct module_host *host);

/**
 * Unloads a module: cleanup_module() runs, the notifiers are told, its dependencies are given
 * up, its object is closed, and it is looked whether that is gone from memory.
 *
 * With timeout_ns 0 this succeeds only if nobody holds a reference. Otherwise the door is shut
 * first, and references run out; after timeout_ns nanoseconds the module is live again; a
 * negative timeout waits for ever. With MODULE_UNLOAD_FORCE it is unloaded after that also if
 * it is held: no code is unmapped under a holder, but cleanup_module() runs, the module is
 * gone from the table, the host is tainted, and the code goes with a later call once the last
 * reference is put.
 *
 * The caller holds no reference to it, and is not code of the module.
 *
 * @return 0 if it is unloaded and gone from memory; 1 if it is unloaded and still mapped, with
 * the reason in module_last_error() and module_host_last_unloaded(); or, with the module as it
 * was, a negative errno, checked in the order below.
 * @retval -EINVAL host or name is NULL, or there are unknown flags.
 * @retval -ENOENT there is no such module.
 * @retval -EWOULDBLOCK other modules depend on it (not forceable).
 * @retval -EBUSY it is not live (not forceable), or has an init and no exit function.
 * @retval -EWOULDBLOCK references are held, and timeout_ns is 0.
 * @retval -ETIMEDOUT references are held, and the time is up.
 * @retval -errno that of membarrier(2) if that is refused.
 *
 * Memory ordering: everything that holders did happens before cleanup_module(), but by force.
 * Thread-safe. Not async-signal-safe. Linux: delete_module().
 */
int module_unload(struct module_host *host,
                  const char *name,
                  unsigned int flags,
                  int64_t timeout_ns);

/**
 * Does as module_unload(), for programs that wait in a loop of their own: closes the module,
 * so that new gets fail, and returns at once, with a descriptor as that of
 * module_ref_drain_begin(): readable when the last reference has been put, and only then, and
 * closed by the caller. module_unload_finish() then
 * unloads the module, and module_unload_cancel() has it live again. Until then its state is
 * GOING, it cannot be unloaded or replaced by others (-EBUSY), and the host cannot be freed.
 *
 * @param flags MODULE_UNLOAD_FORCE for a module that has an init and no exit function;
 * references are waited for all the same.
 *
 * @return the descriptor; or, with the module as it was, a negative errno, checked
 * in the order below.
 * @retval -EINVAL host or name is NULL, or there are unknown flags.
 * @retval -ENOENT there is no such module.
 * @retval -EWOULDBLOCK other modules depend on it (not forceable).
 * @retval -EBUSY it is not live (not forceable), or has an init and no exit function.
 * @retval -errno as module_ref_drain_begin().
 *
 * Memory ordering: none; module_unload_finish() has it. Thread-safe. Not async-signal-safe.
 */
int module_unload_begin(struct module_host *host,
                        const char *name,
                        unsigned int flags);

/**
 * Unloads a module whose unload module_unload_begin() has begun, if the last reference has
 * been put since: cleanup_module(), notifiers and all else run on the calling thread, which
 * may be any. With MODULE_UNLOAD_FORCE also if it is held, as a forced module_unload() whose
 * time is up.
 *
 * @return 0 if it is unloaded and gone from memory; 1 if it is unloaded and still mapped, as
 * by module_unload(); or a negative errno.
 * @retval -EINPROGRESS references are held.
 * @retval -EINVAL no unload of it is begun; or host or name is NULL, or there are unknown
 *     flags.
 * @retval -EBUSY another thread is just unloading it.
 * @retval -ENOENT there is no module of that name (any more).
 * @retval -ETIMEDOUT its count is pinned after an overflow: it is live again.
 *
 * Memory ordering: as module_unload(). Thread-safe. Not async-signal-safe.
 */
int module_unload_finish(struct module_host *host,
                         const char *name,
                         unsigned int flags);

/**
 * Ends an unload that module_unload_begin() has begun: the module is live again, also if the
 * last reference has been put by now. A loop whose time is up asks module_unload_finish() once
 * more, and then cancels.
 *
 * @return 0, or a negative errno.
 * @retval -EINVAL no unload of it is begun; or host or name is NULL.
 * @retval -EBUSY another thread is just unloading it.
 * @retval -ENOENT there is no module of that name (any more).
 *
 * Memory ordering: none. Thread-safe. Not async-signal-safe.
 */
int module_unload_cancel(struct module_host *host,
                         const char *name);

/**
 * Puts the object at path in the place of module name, which may have the same path and
 * soname, with other content. The new one is loaded and initialised first, and then published
 * in one step: whoever looks the name up finds the one or the other. Then the old one is shut,
 * waited for as timeout_ns says (in nanoseconds; 0: not at all; negative: for ever), and
 * unloaded.
 *
 * References to the old module stay good until they are put; a handle to it gives no new ones.
 * The flags that the old one was loaded with are the new one's. A file that is mapped must not
 * be written over in place, which changes running code: rename the new one to its name, or
 * load with MODULE_LOAD_COPY.
 *
 * @return 0 if the old one is gone from memory; 1 if the new one is in service and the old one
 * still mapped, with the reason in module_last_error() (if it is held, its cleanup_module()
 * runs and its code goes with a later call, once the last reference is put); or, with the old
 * one in service as before, a negative errno: as module_load(), and
 * @retval -ENOENT there is no module of that name.
 * @retval -EWOULDBLOCK others depend on it.
 * @retval -EBUSY it is not live, is being replaced, or has an init and no exit function.
 *
 * Memory ordering: as module_load() for the new one, and as module_unload() for the old one.
 * Thread-safe. Not async-signal-safe.
 */
int module_replace(struct module_host *host,
                   const char *name,
                   const char *path,
                   int64_t timeout_ns);

/**
 * Finds the module of that name, and takes a reference to put. It may be COMING: its init
 * function may not have returned.
 *
 * Takes no lock of the host's and does not wait for a load; but a thread's first lookup registers a
 * thread-local with the C library, which waits there while another thread is in dlopen(3).
 *
 * @return the module; NULL if there is none, or if it is being unloaded.
 *
 * Memory ordering: as module_try_get(). Thread-safe. Not async-signal-safe. Linux:
 * find_module() and try_module_get().
 */
struct module *module_find_get(struct module_host *host,
                               const char *name);

/**
 * Takes a reference, unless the module is being unloaded or is gone. Wait-free.
 *
 * @return whether there is now a reference to put; true for NULL, which stands for code that
 * is not a module.
 *
 * Memory ordering: acquire, on success: what init_module() did happens before what follows, if
 * it has returned. Thread-safe. Async-signal-safe. Linux: try_module_get().
 */
bool module_try_get(struct module *mod);

/**
 * Takes one more reference. The caller holds one already. NULL is ignored.
 *
 * Memory ordering: none needed, the caller's own reference has it. Thread-safe.
 * Async-signal-safe. Linux: __module_get().
 */
void module_get(struct module *mod);

/**
 * Gives a reference back, from whichever thread; not from the module's own code if it is the
 * last. Wait-free. NULL is ignored.
 *
 * Memory ordering: release: everything before it happens before the module's code is unmapped,
 * and before cleanup_module(), but by force. Thread-safe. Async-signal-safe; errno is
 * preserved. Linux: module_put().
 */
void module_put(struct module *mod);

/**
 * Ends the calling thread as pthread_exit(3) does, and gives back a reference it holds when no
 * code of the module can be running in it any more: after its stack is unwound and the
 * destructors of its thread-locals and thread-specific values have run. So a thread may call
 * this from the module's own code. In a thread that module_thread_create() has started for
 * this module, the reference is the one that it was started with. NULL: no reference. Does not
 * return.
 *
 * Memory ordering: as module_put(). Thread-safe. Not async-signal-safe. Linux:
 * module_put_and_kthread_exit().
 */
void module_put_and_exit(struct module *mod,
                         void *retval) MODULE_REF_NORETURN;

/**
 * Starts a thread that runs start(arg), as pthread_create(3), and holds a reference to the
 * module from now until no code of the module can be running in it any more, however it ends:
 * by returning, pthread_exit(3) or cancellation.
 *
 * @return 0, or a negative errno.
 * @retval -ENODEV the module is being unloaded.
 * @retval -EINVAL thread, mod or start is NULL.
 * @retval -errno that of pthread_create(3).
 *
 * Memory ordering: as pthread_create(3), and as module_put() at its end. Thread-safe. Not
 * async-signal-safe.
 */
int module_thread_create(pthread_t *thread,
                         const pthread_attr_t *attr,
                         struct module *mod,
                         void *(*start)(void*),
                         void *arg);

/**
 * Looks up a symbol of the module's object, or of one that it needs, as dlsym(3) does. The
 * caller holds a reference, and uses the symbol only while it does. It takes the dynamic
 * linker's lock, and may wait for the constructors of an object that is being loaded: keep
 * symbols that are called often.
 *
 * @return the address; NULL if there is none, with words in module_last_error().
 *
 * Memory ordering: none. Thread-safe. Not async-signal-safe.
 */
void *module_symbol(struct module *mod,
                    const char *symbol);

/**
 * Looks up a symbol that a live module of the host defines itself, and takes a reference on
 * that module; of several modules, the one that was loaded first. module_symbol_put() gives
 * the reference back.
 *
 * @return the address; NULL if there is none.
 *
 * Memory ordering: as module_try_get(). Thread-safe. Not async-signal-safe. Linux:
 * symbol_get().
 */
void *module_symbol_get(struct module_host *host,
                        const char *symbol);

/**
 * Gives back what module_symbol_get() returned for symbol; of several, what it returned first.
 *
 * @return 0, or a negative errno.
 * @retval -EINVAL it was not given out, or was given back; or host or symbol is NULL.
 *
 * Memory ordering: as module_put(). Thread-safe. Not async-signal-safe. Linux: symbol_put().
 */
int module_symbol_put(struct module_host *host,
                      const char *symbol);

/**
 * Gives back as module_symbol_put(), by the address that module_symbol_get() returned.
 *
 * @return 0, or a negative errno.
 * @retval -EINVAL it was not given out, or was given back; or host or addr is NULL.
 *
 * Memory ordering: as module_put(). Thread-safe. Not async-signal-safe. Linux:
 * symbol_put_addr().
 */
int module_symbol_put_addr(struct module_host *host, const void *addr);

/**
 * Makes user depend on provider until user is unloaded: one reference on the provider, once
 * per pair, and the provider cannot be unloaded, nor by force. The caller has a handle or a
 * reference to both. What DT_NEEDED says is found without this.
 *
 * @return 0, also if it depends on it already; or a negative errno.
 * @retval -EDEADLK provider depends on user.
 * @retval -ENOENT either is being unloaded.
 * @retval -EXDEV they are of different hosts.
 * @retval -EINVAL either is NULL.
 *
 * Memory ordering: none. Thread-safe. Not async-signal-safe. Linux: ref_module().
 */
int module_add_dependency(struct module *user,
                          struct module *provider);

/**
 * Counts the references held: by users, by modules that depend on it, and one while it is
 * loaded. Stale as soon as it is read, and approximate: for people and logs.
 *
 * @return the count, 0 or more; -1 once it is unloaded.
 * @retval -EINVAL mod is NULL.
 *
 * Memory ordering: none. Thread-safe. Async-signal-safe. Linux: module_refcount().
 */
int64_t module_refcount(const struct module *mod);

/**
 * Says where the module is between its load and its end.
 *
 * @return the state; MODULE_STATE_GOING once it is unloaded, for ever; MODULE_STATE_LIVE for
 * NULL, which stands for code that is not a module.
 *
 * Memory ordering: acquire: what init_module() did happens before what follows LIVE.
 * Thread-safe. Async-signal-safe.
 */
enum module_state module_state(const struct module *mod);

/**
 * Gives the module's name.
 *
 * @return the name, for as long as the pointer is valid; "" for NULL.
 *
 * Memory ordering: none. Thread-safe. Async-signal-safe.
 */
const char *module_name(const struct module *mod);

/**
 * Gives the host that has loaded the module.
 *
 * @return the host; NULL for NULL, and once that host is freed.
 *
 * Memory ordering: none. Thread-safe. Not async-signal-safe.
 */
struct module_host *module_host_of(const struct module *mod);

/**
 * Has fn called with data for every module that comes, is live, or goes; higher priorities
 * first, and among equal ones the first that was registered.
 *
 * @return 0, or a negative errno.
 * @retval -EEXIST fn is registered with this data already.
 * @retval -EINVAL host or fn is NULL.
 *
 * Memory ordering: what the caller did before happens before fn is called. Thread-safe. Not
 * async-signal-safe. Linux: register_module_notifier().
 */
int module_notifier_register(struct module_host *host,
                             module_notifier_fn fn,
                             void *data,
                             int priority);

/**
 * Takes a notifier back. When this returns no other thread is in it, and none will be; it may
 * be called from the notifier itself.
 *
 * @return 0, or a negative errno.
 * @retval -ENOENT fn is not registered with this data.
 * @retval -EINVAL host or fn is NULL.
 *
 * Memory ordering: what other threads did in fn happens before this returns. Thread-safe. Not
 * async-signal-safe. Linux: unregister_module_notifier().
 */
int module_notifier_unregister(struct module_host *host,
                               module_notifier_fn fn,
                               void *data);

/**
 * Writes the modules as text in the format of /proc/modules, newest first, one line each:
 *
 *     name size refcnt deps state 0xaddress[ (taints)]
 *
 * deps: the modules that depend on it, newest first, each with a comma, and "[permanent]," if
 * it has an init and no exit function; "-" if there is nothing. state: Live, Loading,
 * Unloading. taints: R while it is being removed by force.
 *
 * As much as fits is written to buf, with a NUL; buf may be NULL if len is 0.
 *
 * @return the length of the whole text, without its NUL; or a negative errno.
 * @retval -EINVAL host is NULL.
 *
 * Memory ordering: none. Thread-safe. Not async-signal-safe. Linux: /proc/modules.
 */
int64_t module_host_list(struct module_host *host,
                         char *buf,
                         size_t len);

/**
 * Writes who holds a module, as text. References are not tracked, so this says how many are held,
 * the host's own with them: "3 references, not tracked" and a newline; "" if none is. It goes to
 * buf as by module_host_list(). The caller has a handle or a reference.
 *
 * @return the length of the whole text, without its NUL; or a negative errno.
 * @retval -EINVAL mod is NULL.
 *
 * Memory ordering: none. Thread-safe. Not async-signal-safe.
 */
int64_t module_holders(struct module *mod,
                       char *buf,
                       size_t len);

/**
 * Writes what was unloaded last, as text: "name unmapped", or "name resident: " and the
 * reason; "" before the first unload. It goes to buf as by module_host_list().
 *
 * @return the length of the whole text, without its NUL; or a negative errno.
 * @retval -EINVAL host is NULL.
 *
 * Memory ordering: none. Thread-safe. Not async-signal-safe. Linux: [last unloaded: name].
 */
int64_t module_host_last_unloaded(struct module_host *host,
                                  char *buf,
                                  size_t len);

/**
 * Says whether an unload was ever forced: upon holders, or upon a module without an exit
 * function.
 *
 * @return whether one was; false for NULL.
 *
 * Memory ordering: none. Thread-safe. Not async-signal-safe.
 */
bool module_host_tainted(struct module_host *host);

/**
 * Says the last failure of a function of the host on this thread in words: what was tried, on
 * what, and what to do. Also why a module that was unloaded is still mapped.
 *
 * @return the words; "" if there was no failure. They are the thread's, and its next failure
 * writes over them.
 *
 * Memory ordering: none. Thread-safe. Not async-signal-safe.
 */
const char *module_last_error(void);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

/* A live counter that nobody holds, in shared-word mode; for static objects:
 *
 *     static struct module_ref ref = MODULE_REF_INIT;
 */
#define MODULE_REF_INIT { MODULE_REF_BASE | 2 /* open */, 0 }

#if defined(__cplusplus) && __cplusplus >= 201103L
static_assert(sizeof(struct module_ref) == 16, "struct module_ref is 16 bytes");
static_assert(alignof(struct module_ref) == 16, "struct module_ref is 16-aligned");
#elif defined(__STDC_VERSION__) && __STDC_VERSION__ >= 201112L
_Static_assert(sizeof(struct module_ref) == 16, "struct module_ref is 16 bytes");
_Static_assert(_Alignof(struct module_ref) == 16, "struct module_ref is 16-aligned");
#endif

#if defined(__cplusplus) && defined(__GNUC__)
#pragma GCC diagnostic pop
#endif

#endif /* MODULE_REF_H */
