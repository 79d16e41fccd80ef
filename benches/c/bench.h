/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * bench.h - what the benchmark programs share: the clock, the options, and how a figure
 * is printed and saved.
 *
 * A program answers one question. In every round all candidates take their turn, so that
 * a ratio compares what ran one after the other in one process.
 */
#ifndef BENCH_H
#define BENCH_H

#include <stdbool.h>

#ifdef __cplusplus
extern "C" {
#endif

enum { MOST_ROUNDS = 101, MOST_THREADS = 8 };

struct bench_options {
	int rounds;
	bool quick;       /* only what answers the question at all */
	bool count;       /* under callgrind: a fixed number of operations, no clock */
	const char *what; /* the first argument that is no option, or NULL */
};

/* Reads --rounds, --quick, --json FILE and --help; ends the program where it cannot. */
struct bench_options bench_start(int argc, char **argv, const char *question, const char *what,
				 int rounds);

/* What takes turns. A peer's guarantees stand beside its figures. */
struct candidate {
	const char *key, *name;
	bool ours;
	const char *gives, *lacks;
	/* Once, before the first thread; false says that it cannot run here. */
	bool (*set_up)(void);
	/* By each thread before its first pair and after its last. */
	void (*enter)(void), (*leave)(void);
	/* That many times: a get and a put on this counter, below MOST_THREADS. */
	void (*pairs)(int counter, long n);
};

/* Says who takes part, and who does not. */
void bench_candidate(const struct candidate *candidate);
void bench_skipped(const char *name, const char *why);

/* Whether counters count per CPU, as the library says; ends the program if that is no, and the
 * system could do it: a figure would stand under a wrong name. */
bool percpu_there(bool said);
#define NO_PERCPU "the system has no restartable sequences, or no membarrier for them"

/* Saves what was measured: the parameters are members of a JSON object, "\"threads\":2". */
void bench_cell(const char *candidate, const char *unit, const double *values, int n,
		const char *parameters, ...) __attribute__((format(printf, 5, 6)));

/* Prints and saves one ratio a round of what was measured of both; a goal of 0 is none. */
void bench_ratio(const char *what, const char *ours, const char *theirs, const double *of_ours,
		 const double *of_theirs, int n, double goal, const char *parameters, ...)
	__attribute__((format(printf, 8, 9)));

/* Prints the median and the quartiles. */
void bench_line(const double *values, int n, const char *name);

double now_ns(void);
int by_value(const void *a, const void *b); /* for qsort() of doubles */
double median(const double *values, int n);

/* The CPUs that this process may use, and this thread onto one of them, in turn. */
int cpus_allowed(void);
void run_on(int number);

/* Threads that do the same for a while, each bound to the next CPU. */
struct crowd {
	int threads; /* MOST_THREADS at the most */
	long batch;  /* turns between two looks whether the time is over */
	/* Does it n times, of this sort, on that thread. */
	void (*work)(const void *sort, int thread, long n);
	const void *sort;
	void (*enter)(void), (*leave)(void); /* by each thread, first and last; or NULL */
};

/* Returns what one turn of the work costs a CPU, in nanoseconds: the time, by the CPUs that
 * were busy, through the turns of all threads. */
double crowd_ns(const struct crowd *crowd);

/* For what must not fail in a benchmark: says what did, and ends the program. */
void need(bool good, const char *what);

#ifdef __cplusplus
}
#endif

#endif
