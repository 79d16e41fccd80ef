/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * sandbox.c - a sandbox that refuses the futex system call: drains sleep in short
 * steps instead, and everything stays right.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <linux/filter.h>
#include <linux/futex.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stddef.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "module_ref.h"
#include "tap.h"

static struct module_ref ref = MODULE_REF_INIT;
static _Atomic int step;

/* The threads of this test meet without futexes, too. */
static void await(int wanted)
{
	while (atomic_load(&step) < wanted)
		nanosleep(&(struct timespec){ .tv_nsec = 1000000 }, NULL);
}

static void *holder(void *arg)
{
	int *errno_after = arg;

	await(1);
	nanosleep(&(struct timespec){ .tv_nsec = 100000000 }, NULL);
	errno = EXDEV;
	module_ref_put(&ref);
	*errno_after = errno;
	atomic_store(&step, 2);
	return NULL;
}

static int refuse_futex(unsigned flags)
{
	struct sock_filter code[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_futex, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog program = { sizeof(code) / sizeof(code[0]), code };

	return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) ||
	       syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, flags, &program);
}

/* The putter alone is in a sandbox: its wake is lost, and the drainer has slept on a futex
 * that works. */
static struct module_ref other = MODULE_REF_INIT;

static void *sandboxed_holder(void *arg)
{
	int *refused = arg;

	*refused = refuse_futex(0) == 0;
	atomic_store(&step, 1);
	nanosleep(&(struct timespec){ .tv_nsec = 100000000 }, NULL);
	module_ref_put(&other);
	return NULL;
}

static void one_thread_in_a_sandbox(void)
{
	int refused = 0;
	pthread_t thread;

	need(module_ref_try_get(&other));
	need(pthread_create(&thread, NULL, sandboxed_holder, &refused) == 0);
	await(1);
	is(module_ref_drain(&other, -1), 0, "a drain ends though the last put could not wake it");
	pthread_join(thread, NULL);
	printf("# the filter was %s\n", refused ? "in force" : "not to be had");
	atomic_store(&step, 0);
}

int main(void)
{
	int errno_after = 0, word = 0;
	pthread_t thread;

	one_thread_in_a_sandbox();
	ok(module_ref_try_get(&ref), "a holder");
	need(pthread_create(&thread, NULL, holder, &errno_after) == 0);
	if (refuse_futex(SECCOMP_FILTER_FLAG_TSYNC) != 0) {
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
