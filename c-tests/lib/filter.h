/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * filter.h - filters of system calls, which a thread puts itself under for good.
 */
#ifndef FILTER_H
#define FILTER_H

#include <errno.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

/* What seccomp answers, or -1. */
static inline int filter_by(struct sock_filter *code, size_t length, unsigned flags)
{
	struct sock_fprog program = { (unsigned short)length, code };

	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0)
		return -1;
	return (int)syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, flags, &program);
}

/* One system call is not made from here on: it answers this errno, or success. */
static inline int answer_call(unsigned nr, unsigned answer, unsigned flags)
{
	struct sock_filter code[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, nr, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | answer),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};

	return filter_by(code, sizeof(code) / sizeof(code[0]), flags);
}

static inline int refuse_call(unsigned nr, unsigned flags)
{
	return answer_call(nr, EPERM, flags);
}

#endif
