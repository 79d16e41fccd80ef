/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * inject.h - has system calls fail that a thread makes: the n-th of a kind, or all of them,
 * with an errno, or by doing less than they were asked to.
 *
 * A seccomp filter hands every system call of the thread that starts it, and of the threads
 * and children that it makes, to another thread, which lets the kernel go on with it or
 * answers in the kernel's stead. That takes Linux 5.6 and no privileges.
 */
#ifndef INJECT_H
#define INJECT_H

#include <stdbool.h>
#include <stddef.h>

/* What is done to a call: an errno, or one of these, for reads and writes. */
enum {
	INJECT_HALF = -1,    /* half of what was asked for */
	INJECT_ONE = -2,     /* one byte */
	INJECT_NOTHING = -3, /* none, as at the end of a file */
};

struct fault {
	int nr;    /* the system call; -1 for no fault */
	int first; /* the first time it is done, from 1 */
	int times; /* how often, from then on */
	int how;
};

enum { INJECT_ALWAYS = 1 << 30, INJECT_CALLS = 512 };

/* Begins; false if this system does not let us, and then errno is why. Once per process. */
bool inject_start(void);

/* From here on the faults, up to two, are done to the calls of this process. */
void inject_arm(const struct fault *faults, int n);
void inject_disarm(void);

/* Since the last inject_arm(): how often a call was made, and how often a fault was done. */
unsigned inject_calls(int nr);
unsigned inject_done(void);

/* What is done to a call, by name. */
const char *inject_how(int how);

/* Unmaps what is left because a munmap was made to fail. */
void inject_clean_up(void);

#endif
