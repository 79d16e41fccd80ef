/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * bench.c - the clock, crowds of threads, the options, and how a figure is printed and saved.
 */
#define _GNU_SOURCE
#include "bench.h"

#include <errno.h>
#include <getopt.h>
#include <pthread.h>
#include <sched.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "lib/oracle.h"

static const char *question;
static FILE *json; /* a line for each figure, or NULL */
static cpu_set_t allowed;

void need(bool good, const char *what)
{
	if (good)
		return;
	fprintf(stderr, "%s: %s failed\n", question, what);
	exit(2);
}

double now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec * 1e9 + (double)t.tv_nsec;
}

int by_value(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

double median(const double *values, int n)
{
	double sorted[MOST_ROUNDS];

	memcpy(sorted, values, (size_t)n * sizeof(*values));
	qsort(sorted, (size_t)n, sizeof(*sorted), by_value);
	return sorted[n / 2];
}

/* ---- CPUs ------------------------------------------------------------------------- */

int cpus_allowed(void)
{
	return CPU_COUNT(&allowed);
}

void run_on(int number)
{
	cpu_set_t one;
	size_t cpu;

	number %= cpus_allowed();
	for (cpu = 0; !CPU_ISSET(cpu, &allowed) || number-- > 0; cpu++)
		;
	CPU_ZERO(&one);
	CPU_SET(cpu, &one);
	/* Where it is refused, the scheduler places the thread. */
	pthread_setaffinity_np(pthread_self(), sizeof(one), &one);
}

/* ---- counting per CPU ----------------------------------------------------------------- */

bool percpu_there(bool said)
{
	need(said || !has_per_cpu(), "counting per CPU, which this system can do,");
	return said;
}

/* ---- crowds ------------------------------------------------------------------------- */

struct member {
	const struct crowd *crowd;
	pthread_barrier_t *start;
	_Atomic bool *over;
	int number;
	double began, ended;
	long turns;
};

static void *join_in(void *arg)
{
	struct member *me = arg;
	const struct crowd *crowd = me->crowd;

	run_on(me->number);
	if (crowd->enter)
		crowd->enter();
	crowd->work(crowd->sort, me->number, crowd->batch);
	pthread_barrier_wait(me->start);
	me->began = now_ns();
	do {
		crowd->work(crowd->sort, me->number, crowd->batch);
		me->turns += crowd->batch;
	} while (!atomic_load_explicit(me->over, memory_order_relaxed));
	me->ended = now_ns();
	if (crowd->leave)
		crowd->leave();
	return NULL;
}

double crowd_ns(const struct crowd *crowd)
{
	int busy = crowd->threads < cpus_allowed() ? crowd->threads : cpus_allowed();
	/* More threads than CPUs need some time slices each. */
	struct timespec length = { 0, busy < crowd->threads ? 20000000 : 8000000 };
	double began = 0, ended = 0, turns = 0;
	struct member members[MOST_THREADS];
	pthread_t ids[MOST_THREADS];
	pthread_barrier_t start;
	_Atomic bool over = false;

	pthread_barrier_init(&start, NULL, (unsigned)crowd->threads + 1);
	for (int i = 0; i < crowd->threads; i++) {
		members[i] = (struct member){ crowd, &start, &over, i, 0, 0, 0 };
		need(pthread_create(&ids[i], NULL, join_in, &members[i]) == 0, "pthread_create()");
	}
	pthread_barrier_wait(&start);
	nanosleep(&length, NULL);
	atomic_store(&over, true);
	for (int i = 0; i < crowd->threads; i++) {
		pthread_join(ids[i], NULL);
		if (i == 0 || members[i].began < began)
			began = members[i].began;
		if (members[i].ended > ended)
			ended = members[i].ended;
		turns += (double)members[i].turns;
	}
	pthread_barrier_destroy(&start);
	return (ended - began) * busy / turns;
}

/* ---- options ------------------------------------------------------------------------ */

static void usage(FILE *to, const char *program, const char *what, int rounds)
{
	fprintf(to,
		"usage: %s [OPTION]... %s\n"
		"  -r, --rounds N   rounds in which all candidates take turns (default %d, at most %d)\n"
		"  -q, --quick      only what answers the question at all\n"
		"  -j, --json FILE  save every figure, one JSON object a line\n"
		"  -c, --count      for callgrind: a fixed number of operations of each candidate\n"
		"  -h, --help       this text\n",
		program, what, rounds, MOST_ROUNDS);
}

struct bench_options bench_start(int argc, char **argv, const char *name, const char *what,
				 int rounds)
{
	static const struct option long_options[] = {
		{ "rounds", required_argument, NULL, 'r' }, { "quick", no_argument, NULL, 'q' },
		{ "json", required_argument, NULL, 'j' },   { "count", no_argument, NULL, 'c' },
		{ "help", no_argument, NULL, 'h' },	    { NULL, 0, NULL, 0 },
	};
	struct bench_options options = { rounds, false, false, NULL };
	char *end;
	int option;

	question = name;
	need(sched_getaffinity(0, sizeof(allowed), &allowed) == 0, "sched_getaffinity()");
	while ((option = getopt_long(argc, argv, "r:qj:ch", long_options, NULL)) != -1) {
		switch (option) {
		case 'r':
			options.rounds = (int)strtol(optarg, &end, 10);
			if (*end != '\0' || options.rounds < 1 || options.rounds > MOST_ROUNDS) {
				fprintf(stderr, "%s: --rounds %s: a number from 1 to %d\n", name,
					optarg, MOST_ROUNDS);
				exit(2);
			}
			break;
		case 'q':
			options.quick = true;
			break;
		case 'j':
			json = fopen(optarg, "w");
			if (!json) {
				fprintf(stderr, "%s: --json %s: %s\n", name, optarg,
					strerror(errno));
				exit(2);
			}
			break;
		case 'c':
			options.count = true;
			break;
		case 'h':
			usage(stdout, argv[0], what, rounds);
			exit(0);
		default:
			usage(stderr, argv[0], what, rounds);
			exit(2);
		}
	}
	if (optind < argc)
		options.what = argv[optind];
	return options;
}

/* ---- figures ------------------------------------------------------------------------ */

static void write_string(const char *name, const char *text)
{
	fprintf(json, ",\"%s\":\"", name);
	for (; *text; text++) {
		if (*text == '"' || *text == '\\')
			fputc('\\', json);
		fputc(*text, json);
	}
	fputc('"', json);
}

static void write_begin(const char *kind)
{
	fprintf(json, "{\"kind\":\"%s\"", kind);
	write_string("question", question);
}

static void write_end(void)
{
	fputs("}\n", json);
	fflush(json);
}

static void write_values(const double *values, int n, const char *parameters, va_list args)
{
	if (*parameters) {
		fputc(',', json);
		vfprintf(json, parameters, args);
	}
	fputs(",\"values\":[", json);
	for (int i = 0; i < n; i++)
		fprintf(json, "%s%.4g", i ? "," : "", values[i]);
	fputc(']', json);
	write_end();
}

void bench_candidate(const struct candidate *candidate)
{
	if (!json)
		return;
	write_begin("candidate");
	write_string("key", candidate->key);
	write_string("name", candidate->name);
	fprintf(json, ",\"ours\":%s", candidate->ours ? "true" : "false");
	write_string("gives", candidate->gives);
	write_string("lacks", candidate->lacks);
	write_end();
}

void bench_skipped(const char *name, const char *why)
{
	printf("  skipped: %s: %s\n", name, why);
	if (!json)
		return;
	write_begin("skipped");
	write_string("name", name);
	write_string("why", why);
	write_end();
}

void bench_cell(const char *candidate, const char *unit, const double *values, int n,
		const char *parameters, ...)
{
	va_list args;

	if (!json)
		return;
	write_begin("cell");
	write_string("candidate", candidate);
	write_string("unit", unit);
	va_start(args, parameters);
	write_values(values, n, parameters, args);
	va_end(args);
}

void bench_ratio(const char *what, const char *ours, const char *theirs, const double *of_ours,
		 const double *of_theirs, int n, double goal, const char *parameters, ...)
{
	double ratios[MOST_ROUNDS], middle;
	va_list args;

	for (int i = 0; i < n; i++)
		ratios[i] = of_ours[i] / of_theirs[i];
	middle = median(ratios, n);
	if (goal > 0)
		printf("  %6.3f  goal %.2f  %s  %s\n", middle, goal,
		       middle <= goal ? "met   " : "MISSED", what);
	else
		printf("  %6.3f                     %s\n", middle, what);
	if (!json)
		return;
	write_begin("ratio");
	write_string("what", what);
	write_string("ours", ours);
	write_string("theirs", theirs);
	if (goal > 0)
		fprintf(json, ",\"goal\":%g", goal);
	else
		fputs(",\"goal\":null", json);
	va_start(args, parameters);
	write_values(ratios, n, parameters, args);
	va_end(args);
}

void bench_line(const double *values, int n, const char *name)
{
	double sorted[MOST_ROUNDS];

	memcpy(sorted, values, (size_t)n * sizeof(*values));
	qsort(sorted, (size_t)n, sizeof(*sorted), by_value);
	printf("  %9.2f  [%8.2f %8.2f]  %s\n", sorted[n / 2], sorted[n / 4],
	       sorted[n - 1 - n / 4], name);
}
