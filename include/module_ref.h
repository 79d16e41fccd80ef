/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * module_ref.h - take code out of a running multithreaded program without stopping a thread:
 * reference counters that can be closed, and a host that loads, unloads and replaces shared
 * objects.
 *
 * This is the contract of every function. A function's comment states only what differs.
 *
 * - Memory ordering: a call orders nothing, except along these edges. What a holder did before
 *   its put (release) happens before what the one caller does next to whom a release or drain has
 *   returned 0 (acquire). What was done before a reinit or the cancel of a drain (release) happens
 *   before what follows a later successful get (acquire). What init_module() did happens before
 *   what follows a successful lookup or get of the live module. A call that fails orders nothing.
 *
 * - Thread safety: any thread may call any function at any time. No lock is held while a module's
 *   code, a notifier or a misuse handler runs.
 *
 * - Signal safety: a function is not async-signal-safe. A signal ends no wait. No function is a
 *   cancellation point.
 *
 * - Errors: a function that can fail returns a negative errno, or NULL, and everything is as before.
 *   NULL where something is needed is -EINVAL. NULL for a counter or a module to get and to put
 *   stands for code that is always there. The host has words for the thread's last failure:
 *   module_last_error().
 *
 * - Times are in nanoseconds: 0 does not wait, and a negative time waits for ever.
 *
 * - Processes: after fork(2) the child has a copy of each counter and host.
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
#define MODULE_REF_VERSION_MINOR 2
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

/* For module_load_flags(): count references in one shared word, not per CPU. That takes 16 bytes,
 * and an unload needs no barrier. */
#define MODULE_LOAD_ATOMIC 1u

/* For module_load_flags(): load a copy of the file in memory, so that the file may be written over
 * in place while the module is in use. The copy keeps a descriptor open, through which debuggers
 * find its symbols and, up to 16 MiB, its line numbers. Libraries that it needs from its own folder
 * ($ORIGIN) must be loaded already. */
#define MODULE_LOAD_COPY 2u
/* For module_load_flags(): let replacements be bound to the module's unique symbols (inline and
 * static variables of C++, as gcc makes them), of which a process has one each. Otherwise such a
 * replacement is refused (-EEXIST), because its own could be larger. */
#define MODULE_LOAD_SHARED 4u

/* For module_load_flags(): load a file that asks never to be unmapped (-z nodelete) as a copy in
 * memory that does not ask. Otherwise it stays for ever, and is refused as a replacement
 * (-ENOTSUP). */
#define MODULE_LOAD_DELETABLE 8u

/* For module_unload(): unload it even if it is held, or has no exit function. */
#define MODULE_UNLOAD_FORCE 1u

/* For module_unload(): unmap it without looking for anybody who stands in its code, or will call it,
 * without a reference. */
#define MODULE_UNLOAD_UNPROVEN 2u

/* For module_replace_flags() and module_replace_set(): end the old module before the new one begins.
 * The new one goes on with what the old one saved. */
#define MODULE_REPLACE_STOP_FIRST 1u

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
 * A misuse of a counter.
 */
enum module_ref_misuse {
  /**
   * A put without a get, while nobody held a reference. It was undone; the counter is
   * as before.
   */
  MODULE_REF_SURPLUS_PUT,
  /**
   * A get found the count beyond 2^58, where only a leak of references can bring it. The count
   * is pinned there: the counter stays usable, and is never released.
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
  /**
   * A module's own code put the last reference to the module, while somebody was waiting for
   * that. The reference is given back; the code may be gone before the put returns to it.
   */
  MODULE_REF_OWN_CODE,
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
   * Its init function is running. Lookups do not find it; whoever has the pointer can take a
   * reference.
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
 * What becomes of the addresses of a module that was unloaded. A host that is told nothing goes by
 * MODULE_REF_AFTER_UNLOAD in the environment (unmap, trap, keep), and without that by
 * MODULE_AFTER_TRAP.
 */
enum module_after_unload {
  /**
   * They are given back, as by dlclose(3) alone.
   */
  MODULE_AFTER_UNMAP,
  /**
   * They are taken again, without access and without memory: a stale pointer to them gives
   * SIGSEGV, no other module is loaded there, and module_describe_address() knows them. A
   * process keeps those of the newest 64 modules. A limit of the address space (RLIMIT_AS)
   * counts them.
   */
  MODULE_AFTER_TRAP,
  /**
   * The object stays mapped, and its destructors run at the end of the process instead of at the
   * unload. The unload returns 0. For leak checkers and profilers, which look up a plugin's
   * symbols at the end.
   */
  MODULE_AFTER_KEEP,
};

/**
 * Why the code of a module that was unloaded is still mapped: struct module_info's residency.
 */
enum module_residency {
  /**
   * It is in service.
   */
  MODULE_IN_SERVICE,
  /**
   * References are held.
   */
  MODULE_RESIDENT_HELD,
  /**
   * Threads that module_thread_create() started have not ended.
   */
  MODULE_RESIDENT_THREADS,
  /**
   * Its file was written over.
   */
  MODULE_RESIDENT_OVERWRITTEN,
  /**
   * It is linked with -z nodelete.
   */
  MODULE_RESIDENT_NODELETE,
  /**
   * Somebody else in the process has it open.
   */
  MODULE_RESIDENT_OTHER_USER,
  /**
   * It defines unique symbols.
   */
  MODULE_RESIDENT_UNIQUE_SYMBOL,
  /**
   * Threads have yet to run destructors of its thread_locals. Each does so in its next call of
   * module_symbol() or of anything that loads or unloads, or at its end.
   */
  MODULE_RESIDENT_THREAD_LOCAL,
  /**
   * The dynamic linker does not say why.
   */
  MODULE_RESIDENT_UNKNOWN,
  /**
   * The host was told to keep it: MODULE_AFTER_KEEP.
   */
  MODULE_RESIDENT_KEPT,
  /**
   * Another thread had the dynamic linker, and waited for the one that unloaded it.
   */
  MODULE_RESIDENT_POSTPONED,
  /**
   * Somebody without a reference was found in its code, or will call it: see module_dangling().
   */
  MODULE_RESIDENT_FOUND,
};

/**
 * One load of a shared object.
 *
 * A pointer to one is valid while its owner has a reference or a handle. A reference
 * (module_find_get(), module_try_get(), module_get()) keeps the module's code mapped. A handle
 * (from module_load(), given back with module_handle_put()) keeps only the pointer valid: once the
 * module is unloaded, module_try_get() is false for ever, even when the name is loaded again.
 * Inside the module's own code __this_module is valid. Every function also takes the THIS_MODULE
 * of linux_module.h.
 *
 * A plugin is any shared object. The host looks for these among the symbols that it exports
 * itself; all may be missing:
 *
 *     int init_module(void);          0 or a negative errno, to fail
 *     void cleanup_module(void);      called before it is unmapped
 *     struct module *__this_module;   filled in before init_module()
 *     int stop_module(void);          called before users are waited for
 *     int can_unload_module(void);    called when nobody holds it
 *     void resume_module(void);       called if it is not unloaded
 *     int save_module(struct module_saved *out);
 *     int restore_module(const struct module_saved *in);
 *
 * stop_module() makes the module's users stop. It and can_unload_module() may refuse an unload
 * with a negative errno, which the unload returns; a forced unload goes on. If an unload is given
 * up after stop_module() has agreed (the time is up, can_unload_module() refuses, or it is
 * cancelled), resume_module() runs; new gets succeed again by then. A replacement calls the old
 * one's stop_module() and ignores a refusal, unless it stops first. For that, and for
 * save_module() and restore_module(), see module_replace_flags().
 *
 * None of them may throw, longjmp() out, or end its thread. An exception ends the process, after a
 * line on standard error that names the module and where it was thrown. __this_module may not be
 * const: the load would fail with -ENOEXEC. A module's own code must not put the last reference to
 * the module, because it may be gone before the put returns; if somebody waits for that put, it is
 * reported (MODULE_REF_OWN_CODE). Use module_put_at_thread_exit() or module_put_and_exit()
 * instead.
 */
struct module;

/**
 * A table of modules, and the means to load, find, unload and replace them. A process may have any
 * number of hosts.
 *
 * References and lookups (module_find_get()) take no lock and never wait. Init and exit functions
 * of modules and notifiers may call the host too: no lock is held while they run. A thread that is
 * cancelled (pthread_cancel(3)) in a load or an unload finishes it first.
 *
 * The host allocates. If there is no memory for a plugin or for what it needs, that is -ENOMEM. If
 * there is none for the host's own small records, the process ends, as programs in Rust do.
 * Getting, putting and releasing allocate nothing.
 *
 * After fork(2) the child has a copy. What another thread of the parent was loading or unloading
 * stays as it was at that moment: -EBUSY. If that thread was inside dlopen(3) or dlclose(3), the C
 * library's own state is in the middle of it too: the child may look and call, but should exec
 * before it loads or unloads.
 */
struct module_host;

/**
 * A reference counter that can be closed.
 *
 * Users take a reference for as long as they use what the counter stands for (the code of a
 * plugin, a device). Whoever wants to take that away asks module_ref_try_release(), or closes the
 * counter and waits with module_ref_drain(). While the counter is closed, new gets fail. After
 * either has returned 0, to one caller only, nobody holds a reference and nobody gets one.
 *
 * Embed it anywhere, and initialise it with MODULE_REF_INIT or module_ref_init(): memory that is
 * all zeroes is a counter that is released already, and gives out no reference. The members are
 * private; the layout is part of the ABI. Its address is its identity: do not copy or move it
 * while it is in use. Its memory may be freed once it is released and no module_ref_try_get() is
 * running or can start; the last module_ref_put() may still be returning.
 *
 * A counter lives in one process: after fork(2) the child has a copy, with the
 * references that the parent's other threads held left over.
 */
struct MODULE_REF_ALIGNED(16) module_ref {
  uint64_t word;
  size_t slots;
};

/**
 * A drain that module_ref_drain_begin() has begun. The memory is the caller's; the library keeps
 * the drain's state in it. The members are private. All zeroes means that there is no drain.
 *
 * It may not be copied, moved or freed before module_ref_drain_finish() or
 * module_ref_drain_cancel() has ended the drain.
 */
struct MODULE_REF_ALIGNED(8) module_ref_drain {
  struct module_ref *ref;
  uint64_t state[9];
};

/**
 * A misuse handler. It is told what happened, to which counter, and the address that called the
 * library, or NULL if that is not known.
 *
 * It runs on the thread that misused the counter, after the library has undone what it could. It
 * may call the host, which holds no lock meanwhile. It returns, or ends the process: if it is left
 * by longjmp(3) or an exception, a release or drain that called it stays under way for ever. If the
 * program gets or puts in signal handlers, the handler must be async-signal-safe.
 */
typedef void (*module_ref_misuse_fn)(enum module_ref_misuse what,
                                     const struct module_ref *ref,
                                     const void *caller);

/**
 * One module of module_replace_set(): the object at path takes the place of module name.
 */
struct module_replacement {
  /**
   * Of the module that is replaced.
   */
  const char *name;
  /**
   * Of the file that takes its place.
   */
  const char *path;
};

/**
 * What module_host_each() tells about a module. The strings are valid during the call.
 */
struct module_info {
  /**
   * sizeof(struct module_info) in the library. Later versions may have more members at the end.
   */
  size_t size_of_this;
  const char *name;
  /**
   * As it was given to the load.
   */
  const char *path;
  /**
   * Where its object begins in memory; NULL while it is being opened.
   */
  const void *base;
  /**
   * The bytes of its object, in whole pages.
   */
  size_t size;
  /**
   * As module_refcount().
   */
  int64_t references;
  enum module_state state;
  /**
   * An enum module_residency: 0 for a module in service.
   */
  int residency;
  /**
   * Later loads of the host have higher ones.
   */
  uint64_t generation;
};

/**
 * A notifier. It is told that mod is now in this state (COMING, LIVE or GOING), on the thread that
 * loads or unloads it. mod is valid during the call.
 *
 * It returns 0, or a negative errno to refuse a module that is COMING: the load fails with that
 * errno, and the notifiers that were already told are told GOING. What it returns for other states
 * is ignored.
 */
typedef int (*module_notifier_fn)(struct module *mod,
                                  enum module_state state,
                                  void *data);

/**
 * A reference that says who has it. The 64 bytes are the holder's; the library keeps the reference
 * in a list by them. The members are private. All zeroes means that there is no reference.
 */
struct MODULE_REF_ALIGNED(8) module_track {
  uint64_t state[8];
};

/**
 * What a module hands to the one that replaces it: see module_replace_flags(). It is all zeroes
 * when save_module() is called.
 */
struct module_saved {
  /**
   * The layout of the data, by the plugin's own count.
   */
  uint32_t version;
  /**
   * 0.
   */
  uint32_t reserved;
  /**
   * From malloc(3), or NULL. The host frees it.
   */
  void *data;
  size_t size;
};

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

/**
 * Makes *ref a live counter that nobody holds, in shared-word mode. What the memory contained does
 * not matter: references to an earlier counter there are forgotten. Publishing the counter is the
 * program's part, and orders the initialisation before the users.
 *
 * @return 0, or a negative errno.
 * @retval -EINVAL ref is NULL.
 *
 * Thread safety: only one thread may use *ref during the call. Async-signal-safe.
 */
int module_ref_init(struct module_ref *ref);

/**
 * Does as module_ref_init(), in per-CPU mode if this system can: a get and a put are then one
 * plain add each, on a cache line of the CPU they run on, however many threads share the counter.
 * module_ref_mode() tells what the counter became. It is in shared-word mode without restartable
 * sequences (valgrind, neither x86-64 nor aarch64), without membarrier(2) or
 * sched_getaffinity(2), and under ThreadSanitizer.
 *
 * The counter takes 8 more bytes for each CPU that uses it, which module_ref_destroy() gives back.
 * What a container says about its CPUs affects the counter's speed and nothing else. Several
 * copies of the library in one process (the shared one, static ones in plugins) may work on the
 * same counters. In this mode a child of vfork(2), which shares its parent's memory and
 * thread-local storage, may not get or put.
 *
 * @return as module_ref_init(); and
 * @retval -ENOMEM there is no memory for the slots; the counter is untouched.
 *
 * Thread safety: only one thread may use *ref during the call.
 */
int module_ref_init_percpu(struct module_ref *ref);

/**
 * Makes a released counter live again, in the mode it had. Only the caller to whom
 * module_ref_try_release() or module_ref_drain() returned 0 may call this.
 *
 * @return 0, or a negative errno.
 * @retval -EBUSY ref is not released.
 * @retval -EINVAL ref is NULL or destroyed.
 *
 * Memory ordering: release: what the caller did before happens before what any later holder does.
 * Async-signal-safe.
 */
int module_ref_reinit(struct module_ref *ref);

/**
 * Ends the life of a counter that is released (by its winner) or that nobody holds. Its memory may
 * then be freed or initialised again; any other use is refused while the memory is still there. A
 * counter that is held stays as it is, and the misuse handler is told of the leak. NULL is
 * ignored.
 *
 * Memory ordering: as module_ref_try_release(). Thread safety: no other thread may use *ref,
 * except for puts that are returning.
 */
void module_ref_destroy(struct module_ref *ref);

/**
 * Tells how the counter counts, which may be less than its initialisation asked for.
 *
 * @return the mode; MODULE_REF_ATOMIC if ref is NULL.
 *
 * Async-signal-safe.
 */
enum module_ref_mode module_ref_mode(const struct module_ref *ref);

/**
 * Takes a reference, unless the counter is closed. Wait-free. A get that finds the counter closed
 * writes nothing.
 *
 * @return whether there is now a reference to put; true for NULL, as in Linux.
 *
 * Memory ordering: acquire, on success: what was done before the counter's last reinit or
 * cancelled drain happens before what follows. Async-signal-safe. Linux: try_module_get().
 */
bool module_ref_try_get(struct module_ref *ref);

/**
 * Takes a reference even if the counter is closed, as long as somebody holds one; on a live
 * counter it does as module_ref_try_get(). A drain that is under way waits for this reference too.
 * It serves a registry of callbacks that is called by holders while others drain. In per-CPU mode
 * it may also succeed while a drain is just beginning and nobody holds a reference. Lock-free.
 *
 * @return whether there is now a reference to put; false if the counter is released; true
 * for NULL.
 *
 * Memory ordering: as module_ref_try_get(). Async-signal-safe.
 */
bool module_ref_get_if_held(struct module_ref *ref);

/**
 * Takes one more reference. The caller holds one already, so this succeeds even while a drain is
 * under way. On a released counter it is undone, and the misuse handler is told. NULL is ignored.
 *
 * Memory ordering: none needed, the caller's own reference has it. Async-signal-safe. Linux:
 * __module_get().
 */
void module_ref_get(struct module_ref *ref);

/**
 * Gives a reference back, on any thread. Wait-free. Nothing in *ref is touched once the reference
 * is gone. NULL is ignored.
 *
 * References are anonymous, so the library cannot tell a put without a get from a holder's own. If
 * nobody holds a reference, such a put is undone, and the misuse handler is told. If somebody
 * does, it gives that holder's reference back: nobody is told, and the counter may be released
 * while the holder is inside. If another thread gets or puts at that moment, the report may name
 * that thread, and a reference may be left over for good.
 *
 * A thread must make its last put from code that stays, not from the code that is to be unloaded:
 * after the put that code may be gone.
 *
 * Memory ordering: release: everything before it happens before what the winner of a release does
 * next. Async-signal-safe; errno is preserved. Linux: module_put().
 */
void module_ref_put(struct module_ref *ref);

/**
 * Counts the references held, without the loader's own. The count is stale as soon as it is read,
 * and approximate in per-CPU mode. It is for people and logs, never for deciding whether something
 * may go.
 *
 * @return the count, 0 or more; -1 if released or destroyed.
 * @retval -EINVAL ref is NULL.
 *
 * Async-signal-safe. Linux: module_refcount().
 */
int64_t module_ref_count(const struct module_ref *ref);

/**
 * Releases the counter if nobody holds a reference, and leaves it as it was if somebody does. It
 * neither waits nor closes the counter while it looks, so under steady traffic it may never
 * succeed; module_ref_drain() does.
 *
 * In per-CPU mode it calls membarrier(2) once if nobody seems to hold a reference, and makes no
 * system call if somebody does.
 *
 * @return 0 to the one caller who has released it, or a negative errno.
 * @retval -EWOULDBLOCK references are held.
 * @retval -EBUSY another thread's release or drain is under way.
 * @retval -EALREADY it has been released before, which entitles the caller to nothing.
 * @retval -EINVAL ref is NULL or destroyed.
 * @retval -errno in per-CPU mode, that of membarrier(2) if that is refused.
 *
 * Memory ordering: acquire, on success: everything that holders did happens before what follows.
 * Async-signal-safe. Linux: try_release_module_ref().
 */
int module_ref_try_release(struct module_ref *ref);

/**
 * Closes the counter, so that new gets fail, and sleeps until the last reference is put. If that
 * takes longer than timeout_ns nanoseconds the counter becomes live again, as before; a negative
 * timeout waits for ever, 0 does not wait. If the last reference is put just as the time runs out,
 * the release succeeds.
 *
 * The caller must not hold a reference: it would wait for itself.
 *
 * @return 0 to the one caller who has released it, or a negative errno.
 * @retval -ETIMEDOUT references are held, and the time is up; or the count is pinned after an
 *     overflow, which is said at once, and told to the misuse handler.
 * @retval -EBUSY another thread's release or drain is under way.
 * @retval -EALREADY it has been released before, which entitles the caller to nothing.
 * @retval -EINVAL ref is NULL or destroyed.
 * @retval -errno in per-CPU mode, that of membarrier(2) if that is refused.
 *
 * Memory ordering: as module_ref_try_release(). Not async-signal-safe: it waits.
 */
int module_ref_drain(struct module_ref *ref,
                     int64_t timeout_ns);

/**
 * Does as module_ref_drain(), for programs that wait in a loop of their own. It closes the counter
 * and returns at once, with a descriptor for epoll(7), poll(2) and select(2), which becomes
 * readable when, and only when, the last reference has been put or timeout_ns nanoseconds have
 * passed (negative: never; 0: at once). Then module_ref_drain_finish() ends the drain. Until that
 * or module_ref_drain_cancel() ends it, the drain is under way, and other attempts are refused
 * (-EBUSY).
 *
 *     struct module_ref_drain drain;
 *     int fd = module_ref_drain_begin(&ref, &drain, timeout_ns);
 *     ...
 *     if (readable(fd)) {
 *             int rc = module_ref_drain_finish(&drain);
 *             close(fd);
 *     }
 *
 * The descriptor is a timer (timerfd_create(2)). It is closed on exec, is never 0, 1 or 2, and
 * stays readable, so level- and edge-triggered loops can both wait for it, and nothing has to be
 * read; a read(2) would take the readiness away. The caller closes it, at any time; the drain can
 * be ended without it. Duplicates of it become readable only while it is open itself. A thread of
 * the library sleeps until the drain is over, with all signals blocked. Code that may be unloaded
 * ends its drains first.
 *
 * The counter and *drain stay where they are until the drain has ended. After fork(2) each process
 * ends its own copy of the drain. The child's descriptor is the parent's, and says nothing about
 * the child's counter.
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
 * Ends a drain that module_ref_drain_begin() has begun, if it is over: the last reference has been
 * put, or the time is up. Any thread may ask at any time, whether the descriptor is readable or
 * not.
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
 * Memory ordering: as module_ref_try_release(). Not async-signal-safe: it waits for the library's
 * thread to end, and up to 100 ms for gets that are being refused.
 */
int module_ref_drain_finish(struct module_ref_drain *drain);

/**
 * Ends a drain that module_ref_drain_begin() has begun. The counter is live again, whether or not
 * the last reference has been put. A loop whose own deadline has passed calls
 * module_ref_drain_finish() once more first.
 *
 * @return 0, or a negative errno.
 * @retval -EBUSY another thread is just asking or ending it: ask again.
 * @retval -EINVAL drain is NULL, or no drain is under way with it. The counter is not
 *     touched then, and may be gone.
 *
 * Memory ordering: release: what the caller did before happens before what any later holder does.
 * Not async-signal-safe: it waits for the library's thread to end.
 */
int module_ref_drain_cancel(struct module_ref_drain *drain);

/**
 * Installs a misuse handler for all counters of this library. NULL installs the default, which
 * writes one line to standard error and goes on. It writes at most 10 lines a second, and then how
 * many it left out. It asks the dynamic linker for the caller's name, which is not
 * async-signal-safe. A handler that is to stop the program calls abort(3).
 *
 * @return the previous handler, NULL for the default.
 *
 * Memory ordering: what the caller did before happens before the handler runs.
 */
module_ref_misuse_fn module_ref_set_misuse_handler(module_ref_misuse_fn fn);

/**
 * Tells the version of the library at run time. MODULE_REF_VERSION_MAJOR, MODULE_REF_VERSION_MINOR
 * and MODULE_REF_VERSION_PATCH are the header's.
 *
 * @return the version, as "1.2.3". Static; do not free.
 *
 * Async-signal-safe.
 */
const char *module_ref_version(void);

/**
 * Makes a host that has no modules.
 *
 * @return the host, for module_host_free().
 */
struct module_host *module_host_new(void);

/**
 * Gives the process's own host, which is made when somebody first asks for it. It cannot be freed.
 *
 * @return the host, always the same.
 */
struct module_host *module_host_default(void);

/**
 * Ends a host. Nobody may use the pointer after that. Handles to modules that it had stay valid.
 *
 * @return 0, or a negative errno.
 * @retval -EBUSY it has modules, or modules that were unloaded by force or replaced are still
 *     held; or it is the process's own host.
 * @retval -EINVAL host is NULL.
 *
 * Thread safety: no other thread may use the host during or after the call.
 */
int module_host_free(struct module_host *host);

/**
 * Loads the shared object at path as a module of this name (NULL: the file's name up to ".so"),
 * and returns when its init function, if it has one, has returned. Counting is per CPU if the
 * system can; module_load_flags() chooses.
 *
 * A path without a slash is a file in the working directory if there is one, and otherwise a
 * library that the dynamic linker finds. A file that is a module already is loaded once more, as
 * an object of its own with its own variables. A file's name may be any bytes; where it is shown,
 * bytes that are not UTF-8 are written as in caf\xe9. Later objects do not see its symbols
 * (RTLD_LOCAL), unless they name it in DT_NEEDED: a module that is linked against another one's
 * soname depends on it.
 *
 * The file is checked, and then the dynamic linker opens it by its path. It must not be written over
 * or cut short while it is loaded, nor may a damaged one be renamed to its name meanwhile: what is
 * mapped beyond a file's end ends the process (SIGBUS). MODULE_LOAD_COPY loads what was checked.
 *
 * The order is Linux's: UNFORMED, dependencies, COMING, notifiers, init_module(), LIVE, notifiers.
 * During init the module holds one reference to itself. A positive result of init_module() gives a
 * warning on standard error, and the module is loaded.
 *
 * @param out where to write a handle to the module, for module_handle_put(); NULL if none is
 * wanted. NULL is written on failure.
 *
 * @return 0; or a negative errno, with words in module_last_error(). A module that is loaded, but
 * is bound to another module's unique symbols instead of its own, or to a library of which another
 * version is on disk by now, leaves words there too.
 * @retval -EDQUOT more bytes of unloaded modules are still mapped than
 *     module_host_limit_residents() allows.
 * @retval -EEXIST there is a live module of that name. (If another thread is loading it, this
 *     waits for that first.)
 * @retval -EBUSY a module of that name is going, or another thread's load of it has failed.
 * @retval -EDEADLK another thread is loading a module of that name, or any object, and this thread
 *     cannot wait for it: that thread waits for this one, or for a lock that this one has (the
 *     dynamic linker's, in a constructor that dlopen(3) calls or in a callback of
 *     dl_iterate_phdr(3)). Or it needs a module whose init function runs on this very thread.
 * @retval -ENOENT a file, library or symbol is missing, or a provider is going.
 * @retval -ENOEXEC the file is not a shared object of this machine, or its __this_module cannot be
 *     written to.
 * @retval -EISDIR, -EACCES and so on: the file cannot be read.
 * @retval -ENAMETOOLONG, -EINVAL a module cannot have that name: 56 bytes with its NUL; no
 *     spaces, commas, slashes.
 * @retval -EINVAL host or path is NULL.
 * @retval -ENOMEM there is no memory for the object.
 * @retval -errno what a notifier or init_module() returned.
 *
 * Memory ordering: release: what init_module() did happens before what users do, as
 * module_try_get() and module_state() say. Linux: load_module().
 */
int module_load(struct module_host *host,
                const char *path,
                const char *name,
                struct module **out);

/**
 * Does as module_load(), with flags: any of MODULE_LOAD_ATOMIC, MODULE_LOAD_COPY,
 * MODULE_LOAD_SHARED and MODULE_LOAD_DELETABLE.
 *
 * @return as module_load(); and
 * @retval -EINVAL there are unknown flags.
 *
 * Memory ordering: as module_load().
 */
int module_load_flags(struct module_host *host,
                      const char *path,
                      const char *name,
                      unsigned int flags,
                      struct module **out);

/**
 * Does as module_load(), and sets the module's parameters, which module_param() of linux_module.h
 * declares, before its init function runs.
 *
 * args has "name=value" for each, with spaces between them. A value with spaces stands in double
 * quotes, and has none inside. In names `-` is `_`. A bool needs no value to be true. A name that
 * the module does not know, and anything after a "--", gives a warning on standard error, and the
 * module is loaded. A module that replaces this one is loaded with the same args.
 *
 * @param args the text, which is copied; NULL: nothing.
 *
 * @return as module_load(); and
 * @retval -EINVAL a value is not of its parameter's type, or is missing.
 * @retval -ERANGE a number does not fit.
 * @retval -ENOSPC a string is too long.
 * @retval -errno what the parameter's own function returned.
 *
 * Memory ordering: as module_load(). Linux: init_module(2)'s param_values.
 */
int module_load_args(struct module_host *host,
                     const char *path,
                     const char *name,
                     const char *args);

/**
 * Loads the module of this name from the host's search path, unless a module of that name is there
 * already, whatever file it came from. It takes the first file that is called name.so, where `-`
 * and `_` are the same, and otherwise the first .so file that has the name as a MODULE_ALIAS() of
 * linux_module.h. "symbol:x" stands for the first that defines x. If another thread is loading the
 * module, this waits for it.
 *
 * @return 0 if it is there; or a negative errno, with words in module_last_error().
 * @retval -ENOENT there is none in the search path.
 * @retval -EBUSY a module of that name is going, or its load has just failed.
 * @retval -EDEADLK waiting for it would wait for this thread.
 * @retval -ENAMETOOLONG, -EINVAL it is no module's name; or host or name is NULL.
 * @retval -errno as module_load().
 *
 * Memory ordering: as module_load(). Linux: request_module().
 */
int module_request(struct module_host *host,
                   const char *name);

/**
 * Sets where module_request() looks: absolute paths of folders, with colons between them, in this
 * order. NULL, the default, means the folders that the host's modules came from, the last loaded
 * first, and then the program's own. No environment variable and no working directory plays a
 * part.
 *
 * @return 0, or a negative errno.
 * @retval -EINVAL a path is empty or not absolute; or host is NULL.
 */
int module_host_search(struct module_host *host,
                       const char *folders);

/**
 * Tells from the shared object at path alone what will keep it in memory when it is unloaded, or
 * may crash the program after that. The file is read, and none of its code runs. The text, one
 * finding a line, goes to buf as in module_host_list().
 *
 * A line is a keyword, which later versions do not change, ": ", and a sentence that names the
 * symbol and says what to do. An import does not show how the function is used: such a line is a
 * question to the plugin's author.
 *
 *     unique-symbol     it has a unique symbol (STB_GNU_UNIQUE)
 *     nodelete          it is linked with -z nodelete
 *     static-tls        thread-local storage that needs scarce room
 *     thread            it imports pthread_create() or its like
 *     thread-key        it imports pthread_key_create() or its like
 *     thread-local      destructors of thread-local objects
 *     exit-handler      it imports on_exit()
 *     signal-handler    it imports sigaction() or its like
 *     timer             it imports timer_create() or its like
 *     thread-pool       it needs an OpenMP runtime or TBB
 *     permanent         it has an init_module and no cleanup_module
 *     text-relocations  the loader has to write into its code
 *     no-symbols        its symbols cannot be read
 *
 * A path without a slash is a file in the working directory.
 *
 * @return the length of the whole text, without its NUL, 0 if there is nothing to tell; or a
 * negative errno, with words in module_last_error().
 * @retval -ENOEXEC the file is not a shared object of this machine, or is damaged.
 * @retval -ENOENT, -EISDIR, -EACCES and so on: the file cannot be read.
 * @retval -ENOMEM there is no memory to read it into.
 * @retval -EINVAL path is NULL.
 */
int64_t module_check_file(const char *path,
                          char *buf,
                          size_t len);

/**
 * Takes one more handle to a module, for module_handle_put(). The caller has a handle or a
 * reference.
 *
 * @return mod.
 */
struct module *module_handle_get(struct module *mod);

/**
 * Gives a handle back. NULL is ignored. It does not touch the module's code.
 */
void module_handle_put(struct module *mod);

/**
 * Unmaps modules that stayed mapped, if the reason is gone: those that were unloaded by force or
 * replaced while they were held, if nobody holds them any more; and those that stayed because of
 * their threads, or because somebody was found in them, if that is over. Every load, unload and
 * replacement does this first.
 *
 * @return how many are gone from memory, or a negative errno.
 * @retval -EINVAL host is NULL.
 *
 * Memory ordering: everything that holders did happens before the unmapping.
 */
int module_host_reap(struct module_host *host);

/**
 * Unloads a module. Its cleanup_module() runs, the notifiers are told, the host waits for its
 * threads (module_thread_create()), gives up its dependencies, closes its object, and looks
 * whether that is gone from memory.
 *
 * With timeout_ns 0 this succeeds only if nobody holds a reference. Otherwise the module is closed
 * first, so that new gets fail, and its references run out. If they have not after timeout_ns
 * nanoseconds, the module is live again; a negative timeout waits for ever. With
 * MODULE_UNLOAD_FORCE the module is then unloaded even if it is held. No code is unmapped under a
 * holder, but cleanup_module() runs, the module is gone from the table, the host is tainted, and
 * the code goes with a later call of the host, once the last reference is put.
 *
 * The host waits for threads of the module that have not ended after cleanup_module() as long as
 * there is time left (with timeout_ns 0 not at all). After that the module is unloaded (1), and
 * its code goes with a later call, once they have ended.
 *
 * Before it closes the object, the host looks for anybody who is in its code without a reference,
 * or will call it: threads, asleep or running; destructors of pthread keys; signal handlers;
 * timers; exit functions. No thread is stopped or signalled. Whoever is found, or cannot be looked
 * at, keeps the code mapped and is named in module_last_error() and module_host_list(); each later
 * call of the host looks again. If a thread that may be inside is running, the host waits up to
 * 100 ms for it to sleep. Pointers that the program itself keeps, such as a callback, are not
 * looked for; module_dangling() does that. With MODULE_UNLOAD_UNPROVEN the host does not look.
 *
 * The caller must hold no reference to it.
 *
 * @return 0 if it is unloaded and gone from memory, or kept by MODULE_AFTER_KEEP; 1 if it is
 * unloaded and still mapped, with the reason in module_last_error() and
 * module_host_last_unloaded(): its kept symbols must not be called; or, with the module as it was,
 * a negative errno, checked in the order below.
 * @retval -EINVAL host or name is NULL, or there are unknown flags.
 * @retval -ENOENT there is no such module.
 * @retval -EWOULDBLOCK other modules depend on it (not forceable).
 * @retval -EBUSY it is not live (not forceable), or has an init and no exit function.
 * @retval -EDEADLK the caller is the module's own code, or a thread of the module; or, with a
 *     timeout, a notifier that the module's own load has called.
 * @retval -EWOULDBLOCK references are held, and timeout_ns is 0.
 * @retval -ETIMEDOUT references are held, and the time is up.
 * @retval -errno what stop_module() or can_unload_module() returned; or that of membarrier(2)
 *     if that is refused.
 *
 * Memory ordering: everything that holders did happens before cleanup_module(), except by force.
 * Linux: delete_module().
 */
int module_unload(struct module_host *host,
                  const char *name,
                  unsigned int flags,
                  int64_t timeout_ns);

/**
 * Does as module_unload(), for programs that wait in a loop of their own. It closes the module, so
 * that new gets fail, and returns at once, with a descriptor like that of
 * module_ref_drain_begin(): it becomes readable when, and only when, the last reference has been
 * put, and the caller closes it. module_unload_finish() then unloads the module, or
 * module_unload_cancel() makes it live again. Until then its state is GOING, nobody else can
 * unload or replace it (-EBUSY), and the host cannot be freed.
 *
 * @param flags MODULE_UNLOAD_FORCE for a module that has an init and no exit function; it still
 * waits for references.
 *
 * @return the descriptor; or, with the module as it was, a negative errno, checked
 * in the order below.
 * @retval -EINVAL host or name is NULL, or there are unknown flags.
 * @retval -ENOENT there is no such module.
 * @retval -EWOULDBLOCK other modules depend on it (not forceable).
 * @retval -EBUSY it is not live (not forceable), or has an init and no exit function.
 * @retval -errno what stop_module() returned; or as module_ref_drain_begin().
 *
 * Memory ordering: none; module_unload_finish() has it.
 */
int module_unload_begin(struct module_host *host,
                        const char *name,
                        unsigned int flags);

/**
 * Unloads a module whose unload module_unload_begin() has begun, if the last reference has been
 * put since. cleanup_module(), the notifiers and all else run on the calling thread, which may be
 * any except the module's own. It does not wait for threads of the module. With
 * MODULE_UNLOAD_FORCE it unloads a held module too, as a forced module_unload() does when its time
 * is up. MODULE_UNLOAD_UNPROVEN is as there.
 *
 * @return 0 if it is unloaded and gone from memory; 1 if it is unloaded and still mapped, as
 * by module_unload(); or a negative errno.
 * @retval -EINPROGRESS references are held.
 * @retval -EINVAL no unload of it is begun; or host or name is NULL, or there are unknown
 *     flags.
 * @retval -EBUSY another thread is just unloading it.
 * @retval -ENOENT there is no module of that name (any more).
 * @retval -ETIMEDOUT its count is pinned after an overflow: it is live again.
 * @retval -EDEADLK the caller is the module's own code, or a thread of the module.
 * @retval -errno what can_unload_module() returned: it is live again.
 *
 * Memory ordering: as module_unload().
 */
int module_unload_finish(struct module_host *host,
                         const char *name,
                         unsigned int flags);

/**
 * Ends an unload that module_unload_begin() has begun: the module is live again, even if the last
 * reference has been put by now. A loop whose time is up calls module_unload_finish() once more,
 * and then cancels.
 *
 * @return 0, or a negative errno.
 * @retval -EINVAL no unload of it is begun; or host or name is NULL.
 * @retval -EBUSY another thread is just unloading it.
 * @retval -ENOENT there is no module of that name (any more).
 */
int module_unload_cancel(struct module_host *host,
                         const char *name);

/**
 * Puts the object at path in the place of module name. Its path and soname may be the same, with
 * other content. The new module is loaded and initialised first, and then published in one step: a
 * lookup finds the one or the other. Then the old one is closed, its references are waited for as
 * long as timeout_ns says (0: not at all; negative: for ever), and it is unloaded.
 *
 * References to the old module stay valid until they are put; a handle to it gives no new ones.
 * The new module is loaded with the old one's flags. If a library that it needs is mapped, and
 * another version of that is on disk by now, module_last_error() says so, as after a load. Do not
 * write over a mapped file in place, which changes running code: rename the new file to its name,
 * or load with MODULE_LOAD_COPY.
 *
 * @return 0 if the old one is gone from memory; 1 if the new one is in service and the old one
 * still mapped, with the reason in module_last_error() (if it is held, its cleanup_module()
 * runs and its code goes with a later call, once the last reference is put); or, with the old
 * one in service as before, a negative errno: as module_load(), and
 * @retval -ENOENT there is no module of that name.
 * @retval -ENOTSUP the new object asks never to be unmapped (-z nodelete): see MODULE_LOAD_DELETABLE.
 * @retval -EWOULDBLOCK others depend on it.
 * @retval -EBUSY it is not live, is being replaced, or has an init and no exit function.
 * @retval -EDEADLK the caller is the module's own code, or a thread of the module.
 *
 * Memory ordering: as module_load() for the new one, and as module_unload() for the old one.
 */
int module_replace(struct module_host *host,
                   const char *name,
                   const char *path,
                   int64_t timeout_ns);

/**
 * Replaces a module as module_replace() does, with flags. module_replace() has two modules in
 * service for a moment. That does not suit a plugin that owns a port, a device, a lock file, or a
 * state of which nothing may be lost; MODULE_REPLACE_STOP_FIRST does.
 *
 * With it the new object is opened first; if that fails, nothing has happened to the old module.
 * Then the old one is closed (new gets fail), its stop_module() runs, its references are waited
 * for as long as timeout_ns says, and its can_unload_module(), save_module() and cleanup_module()
 * run. If time is left, the host also waits for its threads (module_thread_create()). Then
 * init_module() and restore_module() of the new one run, and it is in service. Meanwhile
 * module_find_get() finds no module of that name, and module_find_get_wait() waits.
 *
 * save_module() fills in what is handed over: version is the plugin's own, reserved is 0, and data
 * comes from malloc(3). The host frees the data when the replacement is over. restore_module()
 * gets it after init_module(), and copies what it keeps. If the old one has no save_module(), or
 * the new one no restore_module(), nothing is handed over. Either may fail with a negative errno.
 *
 * If something fails, the old module serves on, as the same struct module. If that happens before
 * its cleanup_module() (it is held for too long, or its stop_module(), can_unload_module() or
 * save_module() refuses), its resume_module() runs. If it happens later (init_module() or
 * restore_module() of the new one fails), its own init_module() runs again, in the same object,
 * whose variables are as cleanup_module() left them; and then its own restore_module(), with what
 * it saved. If that fails too, there is no module of that name any more: -ENOTRECOVERABLE. Until
 * both have returned calls by gates are refused, except by those that the init_module() makes
 * again.
 *
 * @param flags 0 or MODULE_REPLACE_STOP_FIRST.
 *
 * @return as module_replace(); what the functions of the modules return; and
 * @retval -EINVAL flags has unknown ones.
 * @retval -ETIMEDOUT with MODULE_REPLACE_STOP_FIRST: it was still held when the time was up.
 * @retval -ENOTRECOVERABLE the new one failed, and the old one could not be brought up again.
 *
 * Memory ordering: as module_replace().
 */
int module_replace_flags(struct module_host *host,
                         const char *name,
                         const char *path,
                         unsigned int flags,
                         int64_t timeout_ns);

/**
 * Replaces n modules in one step: a module and those that depend on it, or any others. The new
 * ones are loaded providers first, and are bound to each other, because the old ones are hidden
 * from the dynamic linker. Then all names are switched at once: a thread that has found one of the
 * new modules finds none of the old ones any more. Any failure leaves all old ones in service.
 *
 * The old ones are then unloaded users first, as by module_replace(). With
 * MODULE_REPLACE_STOP_FIRST all are stopped users first and started providers first, each as by
 * module_replace_flags(). timeout_ns is for all together. Modules that depend on a module of the
 * set must be in the set too. Dependencies of module_add_dependency() have to be added again by
 * their caller. Gates of module_gate_follow() are led to the new modules after the switch, one by
 * one.
 *
 * @param flags 0 or MODULE_REPLACE_STOP_FIRST.
 *
 * @return 0 if all old ones are gone from memory; 1 if all new ones are in service and an old one is
 * still mapped, with the reason for the first in module_last_error(); or a negative errno, as
 * module_replace_flags(), and
 * @retval -EINVAL set is NULL, n is 0, or a name is there twice.
 * @retval -EWOULDBLOCK others depend on one; or a new object is bound to an old one, through a library
 * that is no module.
 *
 * Memory ordering: as module_replace().
 */
int module_replace_set(struct module_host *host,
                       const struct module_replacement *set,
                       size_t n,
                       unsigned int flags,
                       int64_t timeout_ns);

/**
 * Opens a module for one more user. It loads the module as module_load() does, if there is none of
 * that name, and takes a reference, which module_close() gives back. While another thread loads or
 * unloads a module of that name, this waits.
 *
 * @param name NULL: the file's name up to ".so".
 * @param out where the module goes, with the reference; NULL is written on failure.
 *
 * @return 0; or a negative errno, as module_load(), and
 * @retval -EINVAL host, path or out is NULL.
 * @retval -EBUSY an unload of it was begun (module_unload_begin()).
 * @retval -EDEADLK this very thread is unloading it.
 *
 * Memory ordering: as module_load().
 */
int module_open(struct module_host *host,
                const char *path,
                const char *name,
                struct module **out);

/**
 * Gives back what module_open() gave. The last user unloads the module, as module_unload() does.
 *
 * @return 0 if it is unloaded and gone from memory; 1 if it is unloaded and still mapped; 2 if
 * others have it open, or another thread is replacing or unloading it (if that fails, the module
 * stays until somebody unloads it); or a negative errno, with the module open as before: as
 * module_unload(), and
 * @retval -EINVAL mod is NULL, or is not open.
 *
 * Memory ordering: as module_put() and module_unload().
 */
int module_close(struct module *mod,
                 int64_t timeout_ns);

/**
 * Unloads all modules, each before those that it depends on: first those that can go at once, then
 * those that are held. It waits for these as module_unload() does, and for those that were replaced or
 * unloaded before while they were held or had threads, for timeout_ns nanoseconds in all (negative: for
 * ever).
 *
 * @return how many are left, 0 or more, with the reason in module_last_error(): in service, or
 * unloaded and still mapped for somebody; or a negative errno.
 * @retval -EINVAL host is NULL.
 *
 * Memory ordering: as module_unload().
 */
int64_t module_host_shutdown(struct module_host *host,
                             int64_t timeout_ns);

/**
 * Keeps a module for good: every unload and replacement, forced or not, is refused with this
 * reason (-EBUSY). The first reason stands. The caller has a handle or a reference.
 *
 * @return 0, or a negative errno.
 * @retval -ENOENT it is being unloaded.
 * @retval -EINVAL mod or why is NULL.
 */
int module_pin(struct module *mod,
               const char *why);

/**
 * Calls see with each module of the host, as it was when this was called: those in service, newest
 * first; then those that were unloaded and are held, or have threads of their own; then those
 * whose code the dynamic linker keeps. No lock is held meanwhile: see may call the host.
 *
 * @return 0; or what see returned, if that is not 0, which ends the calls; or a negative errno.
 * @retval -EINVAL host or see is NULL.
 */
int module_host_each(struct module_host *host,
                     int (*see)(const struct module_info *info, void *data),
                     void *data);

/**
 * Finds the module whose code or data is at an address, such as that of a callback, and takes a
 * reference, for module_put(). It succeeds even while the module is being unloaded, as long as
 * somebody holds a reference (see module_ref_get_if_held()). Modules in service are found without
 * a lock.
 *
 * @return the module; NULL if there is none at that address.
 *
 * Memory ordering: as module_try_get().
 */
struct module *module_get_by_address(struct module_host *host,
                                     const void *address);

/**
 * Finds the live module of that name, and takes a reference, for module_put(). It does not find a
 * module whose init function has not returned; whoever has the pointer already can use
 * module_try_get().
 *
 * It takes no lock and waits for nobody, even in a thread's first call, in a callback of
 * dl_iterate_phdr(3), or while another thread is in dlopen(3).
 *
 * @return the module; NULL if there is none, or if it is not yet or no longer live.
 *
 * Memory ordering: acquire, on success: what init_module() did happens before what follows.
 * Async-signal-safe. Linux: find_module() and try_module_get().
 */
struct module *module_find_get(struct module_host *host,
                               const char *name);

/**
 * Finds the live module of that name as module_find_get() does. While another thread loads,
 * unloads or replaces it, this waits for the outcome.
 *
 * @param timeout_ns in nanoseconds; 0: not at all; negative: for ever.
 *
 * @return the module, with a reference; or NULL, with the reason in module_last_error(): there is
 * none of that name; the time is up; module_unload_begin() has begun an unload of it; or the wait
 * could never end, because the caller is the module's own code, or that code calls or waits for
 * the caller.
 *
 * Memory ordering: as module_find_get().
 */
struct module *module_find_get_wait(struct module_host *host,
                                    const char *name,
                                    int64_t timeout_ns);

/**
 * Finds the module of that name without taking a reference, for callers that ask only whether it
 * is there. The pointer is valid until module_find() has been called 256 more times in this
 * process; until then module_try_get() may take a reference by it.
 *
 * @return the module, even if it is COMING or GOING; NULL if there is none.
 *
 * Memory ordering: as module_state(). Linux: find_module().
 */
struct module *module_find(struct module_host *host,
                           const char *name);

/**
 * Tells whether an address is in the module's object, anywhere in its code or data.
 *
 * @return whether it is; false for NULL, and for a module that is not yet or no longer loaded.
 *
 * Async-signal-safe. Linux: within_module().
 */
bool module_within(const struct module *mod,
                   const void *addr);

/**
 * Takes a reference, unless the module is being unloaded or is gone. Wait-free.
 *
 * @return whether there is now a reference to put; true for NULL, which stands for code that
 * is not a module.
 *
 * Memory ordering: acquire, on success: what init_module() did happens before what follows, if it
 * has returned. Async-signal-safe. Linux: try_module_get().
 */
bool module_try_get(struct module *mod);

/**
 * Takes one more reference. The caller holds one already. NULL is ignored.
 *
 * Memory ordering: none needed, the caller's own reference has it. Async-signal-safe. Linux:
 * __module_get().
 */
void module_get(struct module *mod);

/**
 * Gives a reference back, on any thread. The module's own code must not give back the last one.
 * Wait-free. NULL is ignored.
 *
 * Memory ordering: release: everything before it happens before the module's code is unmapped, and
 * before cleanup_module() of an unload that is not forced. Async-signal-safe; errno is preserved.
 * Linux: module_put().
 */
void module_put(struct module *mod);

/**
 * Gives a reference that the caller holds back once the calling thread has ended, that is, once no
 * code but this library's and the C library's runs in it. A thread may call this from the module's
 * own code at any time, and go on in that code to its end. The reference is held until then. NULL
 * is ignored.
 *
 * @return as module_ref_put_at_thread_exit().
 *
 * Memory ordering: as module_put(), at the end.
 */
int module_put_at_thread_exit(struct module *mod);

/**
 * Does as module_put_at_thread_exit() for a reference to a counter: the reference lasts until the
 * calling thread has ended. By then all destructors of C++ thread_locals and of pthread keys have
 * run, in every round. NULL is ignored.
 *
 * The kernel says when that is: the thread locks a robust mutex, and a thread of the library finds
 * it given up. The reference is put some tens of microseconds after the thread has ended; a
 * pthread_join(3) of the thread may return before that.
 *
 * @return 0; or, with the reference still the caller's, a negative errno.
 * @retval -ENOTSUP the kernel does not report this thread's end (set_robust_list(2)).
 * @retval -errno that of pthread_mutex_init(3) or pthread_create(3).
 *
 * Memory ordering: as module_ref_put(), at the end.
 */
int module_ref_put_at_thread_exit(struct module_ref *ref);

/**
 * Ends the calling thread as pthread_exit(3) does, and gives back a reference it holds as
 * module_put_at_thread_exit() does, so a thread may call this from the module's own code. A thread
 * that module_thread_create() started for this module has no reference to give back, and just
 * ends. NULL: no reference. Does not return.
 *
 * Memory ordering: as module_put(). Linux: module_put_and_kthread_exit().
 */
void module_put_and_exit(struct module *mod,
                         void *retval) MODULE_REF_NORETURN;

/**
 * Starts a thread that runs start(arg), as pthread_create(3) does. The module's code stays mapped
 * until none of it can run in the thread any more, however the thread ends (by returning,
 * pthread_exit(3) or cancellation).
 *
 * The thread does not keep the module in service: cleanup_module() or stop_module() tells it to
 * end, and module_unload() waits for that. A thread that has to keep the module in service takes a
 * reference like everybody else.
 *
 * @return 0, or a negative errno.
 * @retval -ENODEV the module is being unloaded.
 * @retval -EINVAL thread, mod or start is NULL.
 * @retval -errno that of pthread_create(3).
 *
 * Memory ordering: as pthread_create(3); what the thread did happens before the module's code is
 * unmapped.
 */
int module_thread_create(pthread_t *thread,
                         const pthread_attr_t *attr,
                         struct module *mod,
                         void *(*start)(void*),
                         void *arg);

/**
 * Looks up a symbol of the module's object, or of one that it needs, as dlsym(3) does. The caller
 * holds a reference, and uses the symbol only while it does. The module's own functions and
 * variables are found without a lock. Everything else (symbols of what it needs, thread-local
 * ones, and those that are unique in the process) takes the dynamic linker's lock, which may wait
 * for the constructors of an object that is being loaded. Keep symbols that you call often.
 *
 * If the calling thread has thread-local objects of modules that have been unloaded or replaced
 * meanwhile, their destructors run here, as in each call that loads or unloads. Until then their
 * code stays mapped.
 *
 * @return the address; NULL if there is none, with words in module_last_error().
 */
void *module_symbol(struct module *mod,
                    const char *symbol);

/**
 * Makes a gate: an address that stays valid for ever, for a library that calls a function of the
 * module and knows nothing of references. Each call of the gate takes a reference, calls function
 * with the same arguments, gives the reference back, and returns what function returned. Once the
 * module is being unloaded, or is gone, a call returns refused, and is counted
 * (module_gate_refused()). A gate does not keep the module. The caller has a handle or a
 * reference; a module may make gates to itself, even in its init function.
 *
 * Arguments must go in registers: on x86-64 6 integers or pointers and 8 floating-point numbers,
 * on aarch64 8 of each. What would go on the stack is lost: further arguments, a long double, a
 * large structure by value (a pointer to it is an ordinary argument). Results are those in rax,
 * rdx, xmm0, xmm1 and the x87 registers, or x0, x1 and v0 to v3. A refused call returns refused in
 * rax and as the bits of xmm0, or in x0 and d0; a large structure that the function would return
 * stays as it was.
 *
 * A gate may be called wherever the function may: in any thread, in destructors at the thread's
 * end, and in a signal handler. It leaves errno alone. If a C++ exception, pthread_exit(3) or the
 * cancellation of the thread leaves the function, the reference is given back, and the exception
 * goes on to the caller; if the exception's type is the module's own, somebody must hold the
 * module until it is caught. longjmp(3) and asynchronous cancellation lose the reference.
 *
 * The same function and the same refused give the same gate, another refused gives another. A gate has 64
 * bytes, and each load of a module that had gates some hundred, for as long as the process lives.
 *
 * @param function of the module, or of a library that is there for as long as the module is.
 * @param refused what a refused call returns.
 *
 * @return the gate, to be called as function; or NULL, with words in module_last_error(): mod or
 * function is NULL; function is not in the code of an object, or is of another module, which mod does
 * not depend on; the module is gone; this machine is neither x86-64 nor aarch64; or memory cannot be
 * made executable, with what memfd_create(2) or mmap(2) said.
 *
 * Memory ordering: none to make it. A call is ordered as by module_try_get() and module_put(). Not
 * async-signal-safe; to call the gate is.
 */
void *module_gate(struct module *mod,
                  void *function,
                  uintptr_t refused);

/**
 * Makes a gate as module_gate() does, to what the module exports as symbol. Once the module is
 * replaced, or loaded again, the gate leads to what the new module of that name in its host
 * exports as symbol. module_replace() refuses no call. Calls are refused while no module of that
 * name is in service, or if that module lacks the symbol. The same name, symbol and refused give
 * the same gate.
 *
 * @param symbol a function that the module defines itself.
 * @param refused as for module_gate().
 *
 * @return as module_gate(); also NULL if there is no such function, or if another thread is loading an object and
 * this one cannot wait for it.
 *
 * Memory ordering: as module_gate(). Not async-signal-safe; to call the gate is.
 */
void *module_gate_follow(struct module *mod,
                         const char *symbol,
                         uintptr_t refused);

/**
 * Counts the calls of a gate that were refused.
 *
 * @return how many; 0 if gate is none.
 */
uint64_t module_gate_refused(const void *gate);

/**
 * Looks up a symbol that a live module of the host defines itself, and takes a reference on that
 * module. Of several such modules it takes the one that was loaded first. module_symbol_put()
 * gives the reference back.
 *
 * @return the address; NULL if there is none.
 *
 * Memory ordering: as module_try_get(). Linux: symbol_get().
 */
void *module_symbol_get(struct module_host *host,
                        const char *symbol);

/**
 * Gives back what module_symbol_get() returned for symbol; if it returned several, the first.
 *
 * @return 0, or a negative errno.
 * @retval -EINVAL it was not given out, or was given back; or host or symbol is NULL.
 *
 * Memory ordering: as module_put(). Linux: symbol_put().
 */
int module_symbol_put(struct module_host *host,
                      const char *symbol);

/**
 * Does as module_symbol_put(), by the address that module_symbol_get() returned.
 *
 * @return 0, or a negative errno.
 * @retval -EINVAL it was not given out, or was given back; or host or addr is NULL.
 *
 * Memory ordering: as module_put(). Linux: symbol_put_addr().
 */
int module_symbol_put_addr(struct module_host *host, const void *addr);

/**
 * Makes user depend on provider until user is unloaded. That takes one reference on the provider,
 * once per pair, and the provider cannot be unloaded, even by force. The caller has a handle or a
 * reference to both. Dependencies in DT_NEEDED are found without this.
 *
 * @return 0, even if it depends on it already; or a negative errno.
 * @retval -EDEADLK provider depends on user.
 * @retval -ENOENT either is being unloaded.
 * @retval -EXDEV they are of different hosts.
 * @retval -EINVAL either is NULL.
 *
 * Linux: ref_module().
 */
int module_add_dependency(struct module *user,
                          struct module *provider);

/**
 * Counts the references held: by users, by modules that depend on it, and one while it is loaded.
 * The count is stale as soon as it is read, and approximate: it is for people and logs.
 *
 * @return the count, 0 or more; -1 once it is unloaded.
 * @retval -EINVAL mod is NULL.
 *
 * Async-signal-safe. Linux: module_refcount().
 */
int64_t module_refcount(const struct module *mod);

/**
 * Tells where the module is between its load and its end.
 *
 * @return the state; MODULE_STATE_GOING once it is unloaded, for ever; MODULE_STATE_LIVE for
 * NULL, which stands for code that is not a module.
 *
 * Memory ordering: acquire: what init_module() did happens before what follows LIVE.
 * Async-signal-safe.
 */
enum module_state module_state(const struct module *mod);

/**
 * Gives the module's name.
 *
 * @return the name, for as long as the pointer is valid; "" for NULL.
 *
 * Async-signal-safe.
 */
const char *module_name(const struct module *mod);

/**
 * Gives the host that loaded the module.
 *
 * @return the host; NULL for NULL, and once that host is freed.
 */
struct module_host *module_host_of(const struct module *mod);

/**
 * Registers fn, which is called with data for every module that comes, becomes live, or goes.
 * Higher priorities are called first; of equal ones, the first that was registered.
 *
 * @return 0, or a negative errno.
 * @retval -EEXIST fn is registered with this data already.
 * @retval -EINVAL host or fn is NULL.
 *
 * Memory ordering: what the caller did before happens before fn is called. Linux:
 * register_module_notifier().
 */
int module_notifier_register(struct module_host *host,
                             module_notifier_fn fn,
                             void *data,
                             int priority);

/**
 * Unregisters a notifier. When this returns 0, no other thread is in it, and none will be, even if
 * it was registered again while it ran. The notifier itself may call this.
 *
 * @return 0, or a negative errno.
 * @retval -EDEADLK another thread is in it, and waits for this one, or for a lock that this one
 *     has. No new call of it begins.
 * @retval -ENOENT fn is not registered with this data.
 * @retval -EINVAL host or fn is NULL.
 *
 * Memory ordering: what other threads did in fn happens before this returns. Linux:
 * unregister_module_notifier().
 */
int module_notifier_unregister(struct module_host *host,
                               module_notifier_fn fn,
                               void *data);

/**
 * Writes the modules as text in the format of /proc/modules, newest first, one line each; to go
 * through them in code there is module_host_each():
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
 * Linux: /proc/modules.
 */
int64_t module_host_list(struct module_host *host,
                         char *buf,
                         size_t len);

/**
 * Takes a reference as module_try_get() does. module_holders() and the words of a refused unload
 * then name it, with the label, the thread that took it, since when, and from where. Give it back
 * with module_put_tracked(), on any thread.
 *
 * References that are not tracked cost nothing for this; a tracked one takes a lock that all
 * modules share.
 *
 * @param track in no list; it may not be copied, moved or freed until the reference is given back.
 * @param label what it is held for, a string that stays valid until then; NULL: "a reference".
 *
 * @return true: the caller has a reference; false: the module is being unloaded, or gone, or track
 * is NULL. A NULL mod gives true, and nothing is tracked.
 *
 * Memory ordering: as module_try_get().
 */
bool module_try_get_tracked(struct module *mod,
                            struct module_track *track,
                            const char *label);

/**
 * Gives a reference back that module_try_get_tracked() took, as module_put() does. If track is of
 * another module, or was given back already, that is reported as MODULE_REF_SURPLUS_PUT, and
 * nothing is put.
 *
 * Memory ordering: as module_put().
 */
void module_put_tracked(struct module *mod,
                        struct module_track *track);

/**
 * Writes who holds a module, as text: a line for each tracked reference
 * (module_try_get_tracked()), such as "request: thread 4711 'worker', 3.2 s, from
 * /usr/bin/server+0x1234", and how many others there are, including the host's own: "3 references,
 * not tracked"; "" if there is none. The text goes to buf as in module_host_list(). The caller has
 * a handle or a reference.
 *
 * @return the length of the whole text, without its NUL; or a negative errno.
 * @retval -EINVAL mod is NULL.
 */
int64_t module_holders(struct module *mod,
                       char *buf,
                       size_t len);

/**
 * Looks for everybody who stands in a module's code now, or points into it, with a reference or
 * without: what module_unload() looks for, and writable memory as well, which takes 2.5 ms for
 * each MB that was touched. It writes a line for each, such as "thread 4711 'poller' stands in
 * on_timer+0x12 of metrics.so", to buf as module_host_list() does. The caller has a handle or a
 * reference.
 *
 * Memory that was freed may still contain an address, so a line about memory is a hint. For a
 * module that is unloaded and still mapped the lines tell who keeps it. There are none for an
 * object that an unload leaves mapped anyway.
 *
 * @return the length of the whole text, without its NUL, 0 if there is nobody; or a negative errno.
 * @retval -EINVAL mod is NULL.
 * @retval -EBUSY another thread is unloading it.
 */
int64_t module_dangling(struct module *mod,
                        char *buf,
                        size_t len);

/**
 * Writes what was unloaded last, as text: "name unmapped", or "name resident: " and the reason; ""
 * before the first unload. The text goes to buf as in module_host_list().
 *
 * @return the length of the whole text, without its NUL; or a negative errno.
 * @retval -EINVAL host is NULL.
 *
 * Linux: [last unloaded: name].
 */
int64_t module_host_last_unloaded(struct module_host *host,
                                  char *buf,
                                  size_t len);

/**
 * Tells whether an unload was ever forced on holders, or on a module without an exit function.
 *
 * @return whether one was; false for NULL.
 */
bool module_host_tainted(struct module_host *host);

/**
 * Gives the last failure of a function of the host on this thread in words: what was tried, on
 * what, and what to do; or why a module that was unloaded is still mapped.
 *
 * @return the words; "" if there was no failure. They belong to the thread, and its next failure
 * overwrites them.
 */
const char *module_last_error(void);

/**
 * Writes which module an address belongs to, as one line without a newline: a module that is
 * there, or one that was unloaded and whose place is still taken (MODULE_AFTER_TRAP). It looks at
 * the modules of all hosts of this copy of the library.
 *
 *     metrics.so!on_timer+0x12, unloaded 3.2 s ago by thread 4700
 *     'main' (module 'metrics', build ID 1f0c)
 *
 * That is: file, symbol and offset (the offset alone if there is no symbol, or the file's symbol
 * table had more than 1 MiB); "loaded" and how long ago, or "unloaded", and by whom; the module's
 * name; the build ID, if it has one. For an object that was unloaded and stayed mapped it says
 * "and still mapped then". The words may change, the order does not.
 *
 * The symbols are those that the file had when it was loaded. process_vm_readv(2) reads them; if a
 * sandbox refuses that, there are offsets only.
 *
 * As much as fits is written to buf, with a NUL; buf may be NULL if len is 0.
 *
 * @return the length of the whole text, as module_host_list(); 0 if the address belongs to no
 * module.
 *
 * Async-signal-safe.
 */
int64_t module_describe_address(const void *address,
                                char *buf,
                                size_t len);

/**
 * Makes a stale call say whose code it was before the process dies of it, or stops doing so.
 *
 * It sets a handler of SIGSEGV. If a thread has called a module that is gone (MODULE_AFTER_TRAP),
 * or touched its data, the handler writes one line to standard error:
 *
 *     module_ref: thread 4711 'poller' called metrics.so!on_timer+0x12,
 *     unloaded 3.2 s ago by thread 4700 'main' (module 'metrics',
 *     build ID 1f0c), from /usr/bin/host+0x1175
 *
 * and lets the signal go on: to the handler that was there before, with its mask, or to the end of
 * the process by that signal. The last address is where the call would have returned to. The
 * handler runs on the thread's alternate stack, if it has one. A handler that is set later sees
 * the signal first, and the line is written only if it passes the signal on. Switching off removes
 * the handler only if no later one stands before it.
 *
 * MODULE_REF_CRASH_REPORTS=1 in the environment switches it on when the first host is made.
 *
 * @return 0, or a negative errno.
 * @retval -errno what sigaction(2) said.
 */
int module_crash_reports(bool on);

/**
 * Sets what becomes of the addresses of each module that this host unloads from now on.
 *
 * @param what MODULE_AFTER_UNMAP, MODULE_AFTER_TRAP or MODULE_AFTER_KEEP.
 *
 * @return 0, or a negative errno.
 * @retval -EINVAL what is none of them, or host is NULL.
 */
int module_host_after_unload(struct module_host *host, enum module_after_unload what);

/**
 * Limits what stays mapped: loads and replacements are refused (-EDQUOT) while modules that were
 * unloaded or replaced, and are still mapped, have more bytes than this. module_host_each() tells
 * the bytes of each, and why it stays.
 *
 * @param bytes the limit; SIZE_MAX, the default, means none.
 *
 * @return 0, or a negative errno.
 * @retval -EINVAL host is NULL.
 */
int module_host_limit_residents(struct module_host *host,
                                size_t bytes);

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
