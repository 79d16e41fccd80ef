/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * sandbox.c - a sandbox that refuses the futex system call: drains sleep in short
 * steps instead, and everything stays right.
 */
#define _GNU_SOURCE
#include <linux/futex.h>
#include <stdatomic.h>

#include "filter.h"
#include "module_ref.h"
#include "threads.h"

static struct module_ref ref = MODULE_REF_INIT;
static _Atomic int step;

/* The threads of this test meet without futexes, too. */
static void await(int wanted)
{
	while (atomic_load(&step) < wanted)
		sleep_ns(MILLISECOND);
}

static void *holder(void *arg)
{
	int *errno_after = arg;

	await(1);
	sleep_ns(100 * MILLISECOND);
	errno = EXDEV;
	module_ref_put(&ref);
	*errno_after = errno;
	atomic_store(&step, 2);
	return NULL;
}

/* The putter alone is in a sandbox: its wake is lost, and the drainer has slept on a futex
 * that works. */
static struct module_ref other = MODULE_REF_INIT;

static void *sandboxed_holder(void *arg)
{
	int *refused = arg;

	*refused = refuse_call(SYS_futex, 0) == 0;
	atomic_store(&step, 1);
	sleep_ns(100 * MILLISECOND);
	module_ref_put(&other);
	return NULL;
}

static void one_thread_in_a_sandbox(void)
{
	int refused = 0;
	pthread_t thread;

	need(module_ref_try_get(&other));
	thread = start_thread(sandboxed_holder, &refused);
	await(1);
	is(module_ref_drain(&other, -1), 0, "a drain ends though the last put could not wake it");
	pthread_join(thread, NULL);
	printf("# the filter was %s\n", refused ? "in force" : "not to be had");
	atomic_store(&step, 0);
}

int main(void)
{
	int errno_after = 0, word = 0;

	one_thread_in_a_sandbox();
	ok(module_ref_try_get(&ref), "a holder");
	start_thread(holder, &errno_after);
	if (refuse_call(SYS_futex, SECCOMP_FILTER_FLAG_TSYNC) != 0) {
		printf("1..0 # SKIP this system does not let a process filter its system calls\n");
		return 0;
	}
	ok(syscall(SYS_futex, &word, FUTEX_WAKE, 1) == -1 && errno == EPERM,
	   "the futex is refused");
	is(module_ref_drain(&ref, 20000000), -ETIMEDOUT, "a drain still runs out of time");
	is(module_ref_count(&ref), 1, "and leaves the counter as it was");
	atomic_store(&step, 1);
	is(module_ref_drain(&ref, -1), 0, "a drain without a timeout ends with the last put");
	await(2);
	is(errno_after, EXDEV, "which has preserved errno, though its wake was refused");
	/* Not joined: joining may need the futex. */
	return tap_done();
}
