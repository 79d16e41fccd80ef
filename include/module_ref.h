/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * module_ref.h - reference counters that can be shut: take code out of a running
 * multithreaded program without stopping a thread.
 *
 * For C99, C++11 and later, by gcc and clang. This file is generated from the library's
 * source. Do not edit it.
 */

#ifndef MODULE_REF_H
#define MODULE_REF_H

#include <stdbool.h>
#include <stdint.h>

#define MODULE_REF_VERSION_MAJOR 0
#define MODULE_REF_VERSION_MINOR 1
#define MODULE_REF_VERSION_PATCH 0

#if defined(__GNUC__)
#define MODULE_REF_ALIGNED(n) __attribute__((aligned(n)))
#else
#error "module_ref.h needs a compiler that knows __attribute__((aligned)), as gcc and clang do"
#endif

/**
 * The loader's own reference: the counter is live. `MODULE_REF_BASE` of the Linux
 * patch that this library goes back to.
 */
#define MODULE_REF_BASE 1

/**
 * What the second member of a statically initialised counter is. Private.
 */
#define MODULE_REF_STATIC 1836016752

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
   * A put without a get. It was undone; the counter is as before.
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
 * A reference counter that can be shut.
 *
 * Users take a reference for as long as they use what the counter stands for (the
 * code of a plugin, a device). Whoever wants to take it away asks
 * module_ref_try_release(), or shuts the door and waits with module_ref_drain().
 * After either has returned 0, to one caller only, nobody holds a reference and
 * nobody gets one.
 *
 * Embed it anywhere, and initialise it with MODULE_REF_INIT or module_ref_init(): memory
 * that is all zeroes is not a counter. The members are private; the layout is part of the
 * ABI. Its address is its identity: do not copy or move it while it is in use. Its memory
 * may be freed once it is released and no module_ref_try_get() is running or can
 * start; the last module_ref_put() may still be on its way back.
 *
 * A counter lives in one process: after fork(2) the child has a copy, with the
 * references that the parent's other threads held left over.
 */
struct MODULE_REF_ALIGNED(16) module_ref {
  uint64_t word;
  uintptr_t slots;
};

/**
 * A misuse handler: what happened, to which counter, and the address from which the
 * library was called, or NULL where that is not known.
 *
 * It runs on the thread that misused the counter, after the library has mended what
 * it could, with no lock held. If the program gets or puts in signal handlers, it
 * must be async-signal-safe.
 */
typedef void (*module_ref_misuse_fn)(enum module_ref_misuse what,
                                     const struct module_ref *ref,
                                     const void *caller);

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

/**
 * Makes *ref a live counter that nobody holds, in shared-word mode, whatever its
 * memory contained. The program then publishes it, which orders the initialisation
 * before its users.
 *
 * A counter that was initialised at this address before and is held now, or is being
 * released, is refused, so that no reference is forgotten. What a held counter has left
 * in memory that was freed without module_ref_destroy() looks the same; clear such memory
 * first.
 *
 * @return 0; -EINVAL if ref is NULL; -EBUSY if it is a counter in use.
 *
 * Thread safety: only one thread may use *ref during the call. Async-signal-safe.
 */
int module_ref_init(struct module_ref *ref);

/**
 * As module_ref_init(), in per-CPU mode if this system can: a get and a put are then one
 * plain add on a cache line of the CPU they run on, however many threads share the
 * counter. Ask module_ref_mode() what it became: without restartable sequences (glibc
 * before 2.35, valgrind, not x86-64), without membarrier(2), or without a list of the
 * possible CPUs it is in shared-word mode.
 *
 * The counter has 8 bytes per possible CPU beside its own, which module_ref_destroy()
 * gives back. Not supported in this mode: a child that shares its parent's memory and
 * thread-local storage, as vfork(2) makes it, may not get or put.
 *
 * @return as module_ref_init(); -ENOMEM if there is no memory for the slots, and the
 * counter is untouched.
 *
 * Thread safety: only one thread may use *ref during the call.
 */
int module_ref_init_percpu(struct module_ref *ref);

/**
 * Makes a released counter live again, in the mode it had. Only for the caller to
 * whom module_ref_try_release() or module_ref_drain() returned 0.
 *
 * @return 0; -EBUSY unless it is released; -EINVAL if ref is NULL or destroyed.
 *
 * Memory ordering: release. What the caller did before happens before what any later
 * holder does. Thread-safe. Async-signal-safe.
 */
int module_ref_reinit(struct module_ref *ref);

/**
 * Ends the life of a counter that is released (by its winner) or that nobody holds.
 * Its memory may then be freed or initialised again; any other use is refused as
 * long as the memory stays. A counter that is held stays as it is, and the misuse
 * handler is told of the leak. NULL is ignored.
 *
 * Thread safety: no other thread may use *ref, but for puts on their way back.
 */
void module_ref_destroy(struct module_ref *ref);

/**
 * How the counter counts: what its initialisation got, which may be less than was
 * asked for. MODULE_REF_ATOMIC if ref is NULL.
 *
 * Thread-safe. Async-signal-safe.
 */
enum module_ref_mode module_ref_mode(const struct module_ref *ref);

/**
 * Takes a reference, unless the door is shut. Wait-free. A refused one that comes
 * after the door was shut writes nothing.
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
 * Gives a reference back, from whichever thread. Wait-free. Nothing in *ref is
 * touched once the reference is gone. NULL is ignored.
 *
 * A put without a get is undone, and the misuse handler is told. That is exact only where
 * no other thread gets or puts in that moment: otherwise another thread's reference may be
 * given back in its stead, or be left over for good, and the report may name that thread.
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
 * References held, without the loader's own. Stale as soon as it is read, and
 * approximate in per-CPU mode: for people and logs, never to decide whether something
 * may go.
 *
 * @return the count, 0 or more; -1 if released or destroyed; -EINVAL if ref is NULL.
 *
 * Memory ordering: none. Thread-safe. Async-signal-safe. Linux: module_refcount().
 */
int64_t module_ref_count(const struct module_ref *ref);

/**
 * Releases the counter if nobody holds a reference, and leaves it as it was if
 * somebody does. Does not wait, and does not shut the door while it looks: under
 * steady traffic it may never succeed, where module_ref_drain() does.
 *
 * @return 0 to the one caller who has released it; -EWOULDBLOCK if references are
 * held; -EBUSY while another thread's release or drain is under way; -EALREADY if it
 * has been released before, which entitles the caller to nothing; -EINVAL if ref is
 * NULL or destroyed; in per-CPU mode, the errno of membarrier(2) if that is refused.
 *
 * Memory ordering: acquire, on success: everything that holders did happens before
 * what follows. Thread-safe. Async-signal-safe. Linux: try_release_module_ref(). In
 * per-CPU mode one membarrier(2) when nobody seems to hold a reference, and no system
 * call when somebody does.
 */
int module_ref_try_release(struct module_ref *ref);

/**
 * Shuts the door, so that nobody gets a new reference, and sleeps until the last one is
 * put. If that takes longer than timeout_ns nanoseconds the counter becomes live again,
 * as before; a negative timeout waits for ever, 0 does not wait. If the last reference
 * goes in the moment in which time runs out, the release succeeds.
 *
 * The caller must not hold a reference: it would wait for itself. Signals do not
 * interrupt it, and it is not a cancellation point. A count that is pinned after an
 * overflow is not waited for: -ETIMEDOUT at once, and the misuse handler is told.
 *
 * @return 0 to the one caller who has released it; -ETIMEDOUT; otherwise as
 * module_ref_try_release().
 *
 * Memory ordering: as module_ref_try_release(). Thread-safe. Not async-signal-safe: it
 * waits.
 */
int module_ref_drain(struct module_ref *ref, int64_t timeout_ns);

/**
 * Installs a misuse handler for all counters of this library; NULL installs the
 * default, which writes one line to standard error and goes on; it asks the dynamic linker
 * for the caller's name, which is not async-signal-safe. A handler that wants the program
 * to stop calls abort(3).
 *
 * @return the handler before, NULL for the default.
 *
 * Memory ordering: what the caller did before happens before the handler runs.
 * Thread-safe.
 */
module_ref_misuse_fn module_ref_set_misuse_handler(module_ref_misuse_fn fn);

/**
 * The version of the library at run time, as "1.2.3"; MODULE_REF_VERSION_MAJOR and its
 * companions are those of the header. Static; do not free.
 *
 * Thread-safe. Async-signal-safe.
 */
const char *module_ref_version(void);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

/* A live counter that nobody holds, in shared-word mode; for static objects:
 *
 *     static struct module_ref ref = MODULE_REF_INIT;
 */
#define MODULE_REF_INIT { MODULE_REF_BASE, MODULE_REF_STATIC }

#if defined(__cplusplus) && __cplusplus >= 201103L
static_assert(sizeof(struct module_ref) == 16, "struct module_ref is 16 bytes");
static_assert(alignof(struct module_ref) == 16, "struct module_ref is 16-aligned");
#elif defined(__STDC_VERSION__) && __STDC_VERSION__ >= 201112L
_Static_assert(sizeof(struct module_ref) == 16, "struct module_ref is 16 bytes");
_Static_assert(_Alignof(struct module_ref) == 16, "struct module_ref is 16-aligned");
#endif

#endif /* MODULE_REF_H */
