/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * annotations.c - what ThreadSanitizer cannot see, told to it. Linked into the C tests by
 * ci/tsan; compiled without the sanitizer.
 *
 * An edge is told where the thing that makes it happens, and no wider: the sanitizer has to
 * find the rest of each proof in the instrumented code. Each can be left out by its name in
 * TSAN_WITHOUT, and ci/tsan sees a race reported then: an edge that is not needed would only
 * hide races.
 *
 *   put     from a put in a slot to the end of the membarrier that the releaser calls: the add
 *           is in assembly, the barrier in the kernel (P1 in core/src/percpu/mod.rs)
 *   get     from setting the tag to a get in a slot: the load of the tag is in assembly
 *   fence   from the other owners of a Rust Arc to whoever frees it: the sanitizer knows no
 *           fences, and std's own way around that is not in its compiled form
 *   mutex   from the unlock of a Rust mutex to a lock that had to wait, or a wait on a condition
 *           variable: std is not instrumented
 *
 * A futex needs nothing: who is woken decides by the word, which is an atomic like others.
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

void __tsan_acquire(void *address);
void __tsan_release(void *address);

enum edge { PUT, GET, FENCE, MUTEX, EDGES };
static const char *const names[EDGES] = { "put", "get", "fence", "mutex" };
static bool left_out[EDGES];

__attribute__((constructor(101))) static void choose(void)
{
	const char *without = getenv("TSAN_WITHOUT");

	for (int edge = 0; without && edge < EDGES; edge++)
		left_out[edge] = strcmp(without, names[edge]) == 0;
}

static void release(enum edge edge, const void *address)
{
	if (!left_out[edge])
		__tsan_release((void *)(uintptr_t)address);
}

static void acquire(enum edge edge, const void *address)
{
	if (!left_out[edge])
		__tsan_acquire((void *)(uintptr_t)address);
}

/* ---- the counter's, called by the library when it is built with --cfg tsan ---------- */

void module_ref_tsan_before_add(const char *slots, long delta);
void module_ref_tsan_after_add(const char *slots, long delta);
void module_ref_tsan_after_barrier(const char *slots);

/* Puts have a clock of their own beside the tag's: they must not order later gets. */
void module_ref_tsan_before_add(const char *slots, long delta)
{
	if (delta < 0)
		release(PUT, slots + 1);
}

void module_ref_tsan_after_barrier(const char *slots)
{
	acquire(PUT, slots + 1);
}

/* The tag was set by an instrumented release on its own address. */
void module_ref_tsan_after_add(const char *slots, long delta)
{
	if (delta > 0)
		acquire(GET, slots);
}

/* ---- Rust's standard library ---------------------------------------------------------
 *
 * The linker sends calls of these here (--wrap); ci/tsan finds the mangled names.
 */

#define WRAPS(function) __asm__("__wrap_" function)
#define REAL(function) __asm__("__real_" function)

/* An Arc is let go by a subtraction and, by its last owner, a fence. A fence orders after
 * everything that the thread has read; to take what the last subtraction read alone is less,
 * and enough here. */
static _Thread_local const void *subtracted;

uint64_t __wrap___tsan_atomic64_fetch_sub(volatile void *a, uint64_t v, int order);
uint64_t __real___tsan_atomic64_fetch_sub(volatile void *a, uint64_t v, int order);
void __wrap___tsan_atomic_thread_fence(int order);
void __real___tsan_atomic_thread_fence(int order);

uint64_t __wrap___tsan_atomic64_fetch_sub(volatile void *a, uint64_t v, int order)
{
	subtracted = (const void *)(uintptr_t)a;
	return __real___tsan_atomic64_fetch_sub(a, v, order);
}

void __wrap___tsan_atomic_thread_fence(int order)
{
	__real___tsan_atomic_thread_fence(order);
	if (subtracted)
		acquire(FENCE, subtracted);
}

void wrap_lock(void *mutex) WRAPS(LOCK_CONTENDED);
void real_lock(void *mutex) REAL(LOCK_CONTENDED);
bool wrap_wait_timeout(void *condition, void *mutex, uint64_t seconds,
		       uint32_t nanoseconds) WRAPS(CONDVAR_WAIT_TIMEOUT);
bool real_wait_timeout(void *condition, void *mutex, uint64_t seconds,
		       uint32_t nanoseconds) REAL(CONDVAR_WAIT_TIMEOUT);

void wrap_lock(void *mutex)
{
	real_lock(mutex);
	acquire(MUTEX, mutex);
}

bool wrap_wait_timeout(void *condition, void *mutex, uint64_t seconds, uint32_t nanoseconds)
{
	bool in_time;

	release(MUTEX, mutex);
	in_time = real_wait_timeout(condition, mutex, seconds, nanoseconds);
	acquire(MUTEX, mutex);
	return in_time;
}
