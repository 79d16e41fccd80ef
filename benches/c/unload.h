/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * unload.h - what the measuring (unload.c) and the schemes (unload_schemes.c) share.
 */
#ifndef UNLOAD_H
#define UNLOAD_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "bench.h"

/* What is unloaded: the module that the workers use, or one that nobody uses. */
enum { USED, UNUSED, MODULES };

enum { FIRST_BIN = 3, BINS_PER_DECADE = 10, BINS = 70, MOST_UNLOADS = 256 };

struct worker {
	_Alignas(64) pthread_t thread;
	int number;
	/* The uses of each module that this worker is in; it alone writes. */
	_Atomic int held[MODULES];
	/* Gaps from one iteration to the next, by their length. */
	uint64_t bins[BINS];
	double longest_ns;
	/* The longest of those in which the slot's n-th unload fell. */
	double during_ns[MOST_UNLOADS];
};

extern struct worker *workers;
extern int nworkers;

/* A way to know that nobody is inside. */
struct scheme {
	struct candidate candidate; /* its functions are not used */
	bool (*set_up)(void);       /* once; false if it cannot run here */
	void (*enter)(void), (*leave)(void); /* by a worker, first and last; or NULL */
	void (*pass)(void);                  /* between two iterations; or NULL */
	bool (*get)(struct worker *worker, int module);
	void (*put)(struct worker *worker, int module);
	/* Closes the module and waits until nobody is inside: when that was known, or 0 if
	 * it was given up at the time give_up. NULL: there is no unload. */
	double (*unload)(int module, double give_up);
	void (*reinit)(int module);
};

enum { PERCPU, SHARED, PATCH, STOP_THE_WORLD, PAUSING, URCU, NOBODY, SCHEMES };

extern const struct scheme schemes[SCHEMES];

#endif
