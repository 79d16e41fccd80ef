/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * stress.h - what the parts of the stress program share.
 *
 * Workers call into plugins that are really dlopen()ed, each call between a get
 * and a put. Unloaders release a plugin's counter, call its exit function,
 * dlclose() it, load it again and let the workers back in. How a plugin is
 * counted is a scheme: this library's, or one that it is compared with.
 */
#ifndef STRESS_H
#define STRESS_H

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "../lib/clock.h"
#include "../peers/patch.h"
#include "module_ref.h"

#define CACHE_LINE 64
#define MAX_PLUGINS 8
#define MAX_WORKERS 1024

/* ---- what can go wrong -------------------------------------------------- */

enum violation {
	WRONG_ANSWER,
	MIXTURE,
	LOST_STATE,
	CALL_AFTER_RELEASE,
	TWO_WINNERS,
	COUNT_LEFT,
	IDLE_REFUSED,
	DRAIN_STUCK,
	UNKNOWN_RESULT,
	UNTOLD,
	VIOLATION_KINDS
};

extern const char *const violation_text[VIOLATION_KINDS];

/* Counts one, and says so on standard error if it is among the first. */
void violation(enum violation kind, const char *format, ...)
	__attribute__((format(printf, 2, 3)));
uint64_t violations_of(enum violation kind);
uint64_t violations(void);
const char *first_violation(void); /* once all threads have ended */

/* ---- plugins ------------------------------------------------------------ */

struct plugin {
	const char *file;
	const char *symbol;
	void *handle;
	void (*entry)(void);     /* the symbol, to be cast by its caller */
	void (*cleanup)(void);   /* the exit function, if there is one */
	const char *begin, *end; /* where its code is, or was last */
	long first_answer;       /* of a function that we know nothing about */
};

/* Loads it and calls its init function. Returns 0, or -1 after a message. */
int plugin_open(struct plugin *plugin);
/* Calls its exit function and unmaps it. Returns 0, or -1 after a message. */
int plugin_close(struct plugin *plugin);
/* Calls its function once, and returns whether the answer was right. */
bool plugin_call(const struct plugin *plugin, uint64_t random);
/* Calls a function that we know nothing about, for the first time. */
void plugin_first_answer(struct plugin *plugin);

/* ---- threads and what they share ---------------------------------------- */

struct worker {
	_Alignas(CACHE_LINE) pthread_t thread;
	uint32_t index;
	uint64_t random;
	_Atomic uint64_t gets, refusals, longest_stall_ns;
	_Atomic uint64_t kept, kept_refusals; /* calls of the plugin that hands its count over */
	/* For each plugin: odd while this worker may be holding it. */
	_Atomic uint64_t presence[MAX_PLUGINS];
	/* Stop-the-world counts here, in plain memory. */
	volatile int held[MAX_PLUGINS];
};

struct slot {
	_Alignas(CACHE_LINE) union {
		struct module_ref ref;
		struct patch_ref patch;
		_Atomic bool live;
	} count;
	_Alignas(CACHE_LINE) struct plugin plugin;
	unsigned index;
	_Atomic uint64_t generation;
	_Atomic bool released;         /* between a release and the way back */
	_Atomic int winners;           /* of the release now in force */
	_Atomic bool avoid;            /* workers: leave this one alone */
	_Atomic uint64_t attempts;     /* releases begun */
	_Atomic int in_progress;       /* releases and reloads that are going on now */
};

/* Two ways to unload: one refuses, the other waits. */
enum unload_kind { BY_RELEASE, BY_DRAIN, UNLOAD_KINDS };

/* How long unloads took that succeeded: a uniform sample, and the longest. */
struct latencies {
	uint32_t *sample_ns;
	size_t sampled;
	uint64_t seen, longest_ns;
};

struct unloader {
	pthread_t thread;
	uint64_t random;
	_Atomic uint64_t unloads, refused, idle_checks, forced;
	_Atomic uint64_t replaced, stopped_first, sets;
	_Atomic uint64_t busy_since; /* with one attempt; 0 if with none */
	struct latencies latencies[UNLOAD_KINDS];
};

struct run;
struct options;

/* The parts of a run in which counters and the module host differ. */
struct layer {
	int (*set_up)(struct run *run, const struct options *options);
	void (*work)(struct run *run, struct worker *worker, uint64_t dice);
	void (*attempt)(struct run *run, struct unloader *unloader, uint64_t dice);
	void (*tear_down)(struct run *run);
};

extern const struct layer layer_counter, layer_host;

/* The module host of the run. */
extern struct module_host *host;

/* A way to count who uses a plugin. Those through the module host have no functions of
 * their own. Errors are negative errno values, as in module_ref.h. */
struct scheme {
	const char *name;
	const char *what;
	const struct layer *layer;
	int (*init)(struct slot *slot);
	bool (*try_get)(struct slot *slot, struct worker *worker);
	void (*put)(struct slot *slot, struct worker *worker);
	int (*try_release)(struct run *run, struct slot *slot);
	int (*drain)(struct run *run, struct slot *slot, int64_t timeout_ns); /* or NULL */
	int (*reinit)(struct slot *slot);
	int64_t (*count)(struct run *run, struct slot *slot);
};

extern const struct scheme scheme_atomic, scheme_percpu;
extern const struct scheme scheme_host_atomic, scheme_host_percpu;
extern const struct scheme scheme_patch, scheme_stop_the_world;

struct run {
	const struct scheme *scheme;
	unsigned nworkers, nunloaders, nslots;
	struct worker *workers;
	struct unloader *unloaders;
	struct slot *slots;
	double seconds;
	uint64_t seed;
	bool bad; /* the first unloader has misbehaving plugins */
	_Atomic bool stop_workers, stop_unloaders, broken;
};

/* What a run came to. */
struct result {
	const struct scheme *scheme;
	double seconds;
	uint64_t gets, refusals, unloads, refused, idle_checks, longest_stall_ns;
	/* Of the unloads, through the host; and of the replacements. */
	uint64_t replaced, forced, stopped_first, sets;
	struct {
		uint64_t n, p50_ns, p99_ns, max_ns;
	} latency[UNLOAD_KINDS];
};

struct options {
	unsigned threads, unloaders;
	double seconds;
	uint64_t seed;
	bool layer_counter, layer_host, mode_atomic, mode_percpu, mode_asked, compare, bad, tap;
	FILE *json;
	struct plugin plugins[MAX_PLUGINS];
	unsigned nplugins;
	const char *relay;  /* a plugin that needs the sample, or NULL */
	/* One that hands its state over, and two that go together; or NULL. */
	const char *keeper, *left, *right;
};

/* ---- the parts ----------------------------------------------------------- */

/* Set by a signal: end the run and report what there is. */
extern volatile sig_atomic_t interrupted;

/* Runs the stress once. Returns 0, or -1 after a message if it could not. */
int stress_run(const struct options *options, const struct scheme *scheme,
	       struct result *result);

/* Tries each misbehaving plugin once. */
void bad_round(struct unloader *unloader);

/* What has come of one of them. */
struct bad {
	const char *what; /* NULL: there was no time for it */
	bool is_absent;	  /* its file is not there */
	_Atomic bool now; /* it is being tried */
	uint64_t unloads, resident, unmapped;
	char said[160];
};

/* The i-th of them, or NULL. */
const struct bad *bad_result(unsigned i);

/* The running totals, on a line that is written over, if there is a terminal. */
void report_live(const struct run *run, double elapsed);
void report_live_end(void);
void report_table(FILE *to, const struct options *options, const struct result *results,
		  unsigned n);
void report_tap(FILE *to, const struct options *options, const struct result *results,
		unsigned n);
/* A line of the table of misbehaving plugins, false if there are no more. Also for a handler of a
 * crash, which happened in the one that was being tried. */
bool report_bad_line(unsigned line, bool has_crashed, char *text, size_t size);
int report_json(const struct options *options, const struct result *results, unsigned n);

/* Turns a crash into a report that names the thread and the plugin. */
void crash_report_install(const struct run *run);
void crash_report_thread(const char *role, unsigned index);

/* One more, in a counter that this thread alone writes. */
static inline void count_one(_Atomic uint64_t *own)
{
	atomic_store_explicit(own, atomic_load_explicit(own, memory_order_relaxed) + 1,
			      memory_order_relaxed);
}

/* How long an unload took that succeeded. */
void keep_latency(struct latencies *kept, uint64_t *random, uint64_t ns);

/* A thread's own random numbers (splitmix64). */
static inline uint64_t next_random(uint64_t *state)
{
	uint64_t z = (*state += UINT64_C(0x9e3779b97f4a7c15));

	z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
	z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
	return z ^ (z >> 31);
}

#endif
