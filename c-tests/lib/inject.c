/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * inject.c - see inject.h.
 */
#define _GNU_SOURCE
#include "inject.h"
#include "filter.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

enum { FAULTS = 2, LEFT = 64 };

/* Shared with the children, who arm it themselves. */
static struct plan {
	_Atomic int process; /* whose calls are looked at; 0 for nobody's */
	struct fault faults[FAULTS];
	_Atomic unsigned calls[INJECT_CALLS], done;
	struct {
		uint64_t at, length;
	} left[LEFT];
	_Atomic unsigned lefts;
} none, *plan = &none;

static _Atomic int listener = -1;
static pid_t here;

/* ---- the other thread: it takes no lock and allocates nothing, since those it serves may
 * have stopped anywhere ------------------------------------------------------------------ */

/* A descriptor of the process, as one of ours. */
static int descriptor_of(pid_t process, int fd)
{
	int pidfd, ours;

	if (process == here)
		return dup(fd);
	pidfd = (int)syscall(SYS_pidfd_open, process, 0);
	if (pidfd < 0)
		return -1;
	ours = (int)syscall(SYS_pidfd_getfd, pidfd, fd, 0);
	close(pidfd);
	return ours;
}

/* A read or a write that does less than it was asked to. */
static int64_t do_less(pid_t process, const struct seccomp_data *call, int how)
{
	static char bytes[1 << 16];
	size_t asked = (size_t)call->args[2];
	size_t n = how == INJECT_ONE ? 1 : how == INJECT_HALF ? asked / 2 : 0;
	struct iovec mine = { bytes, 0 }, theirs = { NULL, 0 };
	uint64_t at = call->args[1];
	ssize_t rc;
	int fd;

	if (n > sizeof(bytes))
		n = sizeof(bytes);
	if (n == 0)
		return 0;
	fd = descriptor_of(process, (int)call->args[0]);
	if (fd < 0)
		return -EBADF;
	memcpy(&theirs.iov_base, &at, sizeof(at));
	mine.iov_len = theirs.iov_len = n;
	if (call->nr == SYS_write) {
		rc = process_vm_readv(process, &mine, 1, &theirs, 1, 0);
		if (rc > 0)
			rc = write(fd, bytes, (size_t)rc);
	} else {
		rc = call->nr == SYS_pread64 ? pread(fd, bytes, n, (off_t)call->args[3]) :
					       read(fd, bytes, n);
		mine.iov_len = theirs.iov_len = rc > 0 ? (size_t)rc : 0;
		if (rc > 0 && process_vm_writev(process, &mine, 1, &theirs, 1, 0) != rc)
			rc = -1;
	}
	if (rc < 0)
		rc = -errno;
	close(fd);
	return rc;
}

static void answer(const struct seccomp_notif *asked, struct seccomp_notif_resp *answer)
{
	const struct seccomp_data *call = &asked->data;
	pid_t process = atomic_load(&plan->process);
	unsigned count;

	answer->id = asked->id;
	answer->flags = SECCOMP_USER_NOTIF_FLAG_CONTINUE;
	if (process == 0 || call->nr < 0 || call->nr >= INJECT_CALLS)
		return;
	count = 1 + atomic_fetch_add(&plan->calls[call->nr], 1);
	for (int i = 0; i < FAULTS; i++) {
		const struct fault *fault = &plan->faults[i];
		unsigned first = (unsigned)fault->first;

		if (fault->nr != call->nr || count < first || count - first >= (unsigned)fault->times)
			continue;
		atomic_fetch_add(&plan->done, 1);
		answer->flags = 0;
		if (fault->how < 0) {
			int64_t rc = do_less(process, call, fault->how);

			answer->val = rc < 0 ? 0 : rc;
			answer->error = rc < 0 ? (int)rc : 0;
			return;
		}
		answer->error = -fault->how;
		/* Linux has closed it also when it says that it has not. */
		if (call->nr == SYS_close && process == here)
			close((int)call->args[0]);
		if (call->nr == SYS_munmap && atomic_load(&plan->lefts) < LEFT) {
			unsigned n = atomic_fetch_add(&plan->lefts, 1);

			plan->left[n].at = call->args[0];
			plan->left[n].length = call->args[1];
		}
		return;
	}
}

static void *serve(void *unused)
{
	static union {
		struct seccomp_notif notif;
		char room[4096];
	} asked;
	static union {
		struct seccomp_notif_resp resp;
		char room[4096];
	} answered;
	int fd;

	while ((fd = atomic_load(&listener)) == -1)
		nanosleep(&(struct timespec){ .tv_nsec = 100000 }, NULL);
	while (fd >= 0) {
		memset(&asked, 0, sizeof(asked));
		memset(&answered, 0, sizeof(answered));
		if (ioctl(fd, SECCOMP_IOCTL_NOTIF_RECV, &asked) != 0)
			continue; /* whoever it was is gone */
		answer(&asked.notif, &answered.resp);
		ioctl(fd, SECCOMP_IOCTL_NOTIF_SEND, &answered);
	}
	return NULL;
}

/* ---- the thread whose calls they are ----------------------------------------------------- */

bool inject_start(void)
{
	/* What the tests themselves need meanwhile, and what nothing can fail in. */
	struct sock_filter code[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_exit, 5, 0),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_exit_group, 4, 0),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_rt_sigreturn, 3, 0),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_wait4, 2, 0),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_sched_yield, 1, 0),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_USER_NOTIF),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	pthread_t thread;
	int fd, error;

	plan = mmap(NULL, sizeof(*plan), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (plan == MAP_FAILED)
		return false;
	here = getpid();
	/* As old as this call is the flag to let the kernel go on, roughly: 5.6 and 5.5. */
	if (syscall(SYS_pidfd_getfd, -1, 0, 0) == -1 && errno == ENOSYS)
		return false;
	error = pthread_create(&thread, NULL, serve, NULL);
	if (error) {
		errno = error;
		return false;
	}
	/* The thread is not filtered: it is there already. */
	fd = filter_by(code, sizeof(code) / sizeof(code[0]), SECCOMP_FILTER_FLAG_NEW_LISTENER);
	error = errno;
	atomic_store(&listener, fd >= 0 ? fd : -2);
	if (fd < 0)
		pthread_join(thread, NULL);
	errno = error;
	return fd >= 0;
}

void inject_arm(const struct fault *faults, int n)
{
	for (int i = 0; i < FAULTS; i++)
		plan->faults[i] = i < n ? faults[i] : (struct fault){ -1, 1, 0, 0 };
	for (int nr = 0; nr < INJECT_CALLS; nr++)
		atomic_store_explicit(&plan->calls[nr], 0, memory_order_relaxed);
	atomic_store(&plan->done, 0);
	/* What is left may be a child's that has ended since. */
	atomic_store(&plan->lefts, 0);
	atomic_store(&plan->process, getpid());
}

void inject_disarm(void)
{
	atomic_store(&plan->process, 0);
}

unsigned inject_calls(int nr)
{
	return atomic_load(&plan->calls[nr]);
}

unsigned inject_done(void)
{
	return atomic_load(&plan->done);
}

void inject_clean_up(void)
{
	unsigned n = atomic_exchange(&plan->lefts, 0);

	for (unsigned i = 0; i < n; i++) {
		void *at;

		memcpy(&at, &plan->left[i].at, sizeof(at));
		munmap(at, (size_t)plan->left[i].length);
	}
}

const char *inject_how(int how)
{
	return how > 0		     ? strerrorname_np(how) :
	       how == INJECT_ONE     ? "one byte" :
	       how == INJECT_NOTHING ? "nothing" :
				       "half";
}
