/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * report.c - what a run came to: live, as a table, as TAP, as JSON.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include <sys/utsname.h>
#include <time.h>
#include <unistd.h>

#include "stress.h"

/* 12345678 as "12,345,678". */
static const char *grouped(uint64_t n, char *buf, size_t size)
{
	char *at = buf + size;
	int digits = 0;

	*--at = '\0';
	do {
		if (digits++ && digits % 3 == 1)
			*--at = ',';
		*--at = (char)('0' + n % 10);
		n /= 10;
	} while (n);
	return at;
}

/* A time in the unit that suits it. */
static const char *duration(uint64_t ns, char *buf, size_t size)
{
	if (ns < 1000)
		snprintf(buf, size, "%" PRIu64 " ns", ns);
	else if (ns < 1000000)
		snprintf(buf, size, "%.1f us", (double)ns / 1e3);
	else if (ns < 1000000000)
		snprintf(buf, size, "%.1f ms", (double)ns / 1e6);
	else
		snprintf(buf, size, "%.2f s", (double)ns / 1e9);
	return buf;
}

/* ---- live ------------------------------------------------------------------- */

void report_live(const struct run *run, double elapsed)
{
	uint64_t gets = 0, refusals = 0, unloads = 0, refused = 0;
	char a[32], b[32], c[32], d[32];

	if (!isatty(STDOUT_FILENO))
		return;
	for (unsigned i = 0; i < run->nworkers; i++) {
		gets += atomic_load(&run->workers[i].gets);
		refusals += atomic_load(&run->workers[i].refusals);
	}
	for (unsigned i = 0; i < run->nunloaders; i++) {
		unloads += atomic_load(&run->unloaders[i].unloads);
		refused += atomic_load(&run->unloaders[i].refused);
	}
	printf("\r\033[K%5.1f s  %s gets  %s refusals  %s unloads  %s refused  %s%" PRIu64
	       " violations%s",
	       elapsed, grouped(gets, a, sizeof(a)), grouped(refusals, b, sizeof(b)),
	       grouped(unloads, c, sizeof(c)), grouped(refused, d, sizeof(d)),
	       violations() ? "\033[1;31m" : "", violations(), violations() ? "\033[0m" : "");
	fflush(stdout);
}

void report_live_end(void)
{
	if (isatty(STDOUT_FILENO)) {
		printf("\r\033[K");
		fflush(stdout);
	}
}

/* ---- the table ----------------------------------------------------------------- */

void report_table(FILE *to, const struct result *results, unsigned n)
{
	fprintf(to, "%-28s %12s %12s %9s %9s  %-26s %10s\n", "", "", "", "", "unloads",
		"unload latency", "longest");
	fprintf(to, "%-28s %12s %12s %9s %9s  %-8s %-8s %-8s %10s\n", "counting by", "gets",
		"refusals", "unloads", "refused", "p50", "p99", "max", "stall");
	for (unsigned i = 0; i < n; i++) {
		const struct result *r = &results[i];
		char a[32], b[32], c[32], d[32], p50[32], p99[32], max[32], stall[32];

		fprintf(to, "%-28s %12s %12s %9s %9s  %-8s %-8s %-8s %10s\n", r->scheme->name,
			grouped(r->gets, a, sizeof(a)), grouped(r->refusals, b, sizeof(b)),
			grouped(r->unloads, c, sizeof(c)), grouped(r->refused, d, sizeof(d)),
			duration(r->p50_ns, p50, sizeof(p50)),
			duration(r->p99_ns, p99, sizeof(p99)),
			duration(r->max_ns, max, sizeof(max)),
			duration(r->longest_stall_ns, stall, sizeof(stall)));
	}
	fprintf(to, "\nA refusal is a get that came while the plugin was out; a refused unload left "
		    "it in,\nbecause it was in use. The longest stall of a worker includes the time "
		    "the system\ngave to other threads.\n\n");
	for (int kind = 0; kind < VIOLATION_KINDS; kind++)
		fprintf(to, "%8" PRIu64 "  %s\n", violations_of((enum violation)kind),
			violation_text[kind]);
	fprintf(to, "violations: %" PRIu64 "\n", violations());
}

/* ---- TAP -------------------------------------------------------------------------- */

void report_tap(FILE *to, const struct result *results, unsigned n)
{
	unsigned test = 0;

	fprintf(to, "TAP version 13\n1..%u\n", VIOLATION_KINDS + 2 * n);
	for (unsigned i = 0; i < n; i++) {
		const struct result *r = &results[i];

		fprintf(to, "%sok %u - %s: %" PRIu64 " calls into plugins\n", r->gets ? "" : "not ",
			++test, r->scheme->name, r->gets);
		fprintf(to, "%sok %u - %s: %" PRIu64 " unloads and reloads, %" PRIu64
			    " checked refusals\n",
			r->unloads ? "" : "not ", ++test, r->scheme->name, r->unloads,
			r->idle_checks);
	}
	for (int kind = 0; kind < VIOLATION_KINDS; kind++) {
		uint64_t found = violations_of((enum violation)kind);

		fprintf(to, "%sok %u - no %s\n", found ? "not " : "", ++test, violation_text[kind]);
		if (found)
			fprintf(to, "# %" PRIu64 " found\n", found);
	}
}

/* ---- JSON --------------------------------------------------------------------------- */

static void json_string(FILE *to, const char *s)
{
	fputc('"', to);
	for (; *s; s++) {
		if (*s == '"' || *s == '\\')
			fprintf(to, "\\%c", *s);
		else if ((unsigned char)*s < 0x20)
			fprintf(to, "\\u%04x", (unsigned)*s);
		else
			fputc(*s, to);
	}
	fputc('"', to);
}

int report_json(const struct options *options, const struct result *results, unsigned n)
{
	FILE *to = strcmp(options->json, "-") == 0 ? stdout : fopen(options->json, "w");
	struct utsname system;
	time_t now = time(NULL);
	char date[32];

	if (!to) {
		fprintf(stderr, "cannot write '%s': %s\n", options->json, strerror(errno));
		return -1;
	}
	uname(&system);
	strftime(date, sizeof(date), "%Y-%m-%dT%H:%M:%SZ", gmtime(&now));
	fprintf(to, "{\n  \"program\": \"module-ref-stress\",\n  \"version\": ");
	json_string(to, module_ref_version());
	fprintf(to, ",\n  \"date\": \"%s\",\n  \"machine\": ", date);
	json_string(to, system.machine);
	fprintf(to, ",\n  \"system\": ");
	json_string(to, system.release);
	fprintf(to,
		",\n  \"cpus\": %ld,\n  \"threads\": %u,\n  \"unloaders\": %u,\n"
		"  \"seed\": %" PRIu64 ",\n  \"plugins\": [",
		sysconf(_SC_NPROCESSORS_ONLN), options->threads, options->unloaders, options->seed);
	for (unsigned i = 0; i < options->nplugins; i++) {
		fprintf(to, "%s\n    {\"file\": ", i ? "," : "");
		json_string(to, options->plugins[i].file);
		fprintf(to, ", \"symbol\": ");
		json_string(to, options->plugins[i].symbol);
		fputc('}', to);
	}
	fprintf(to, "\n  ],\n  \"runs\": [");
	for (unsigned i = 0; i < n; i++) {
		const struct result *r = &results[i];

		fprintf(to, "%s\n    {\"scheme\": ", i ? "," : "");
		json_string(to, r->scheme->name);
		fprintf(to,
			", \"seconds\": %.3f, \"gets\": %" PRIu64 ", \"refusals\": %" PRIu64
			",\n     \"unloads\": %" PRIu64 ", \"unloads_refused\": %" PRIu64
			", \"idle_checks\": %" PRIu64 ",\n     \"unload_ns\": {\"p50\": %" PRIu64
			", \"p99\": %" PRIu64 ", \"max\": %" PRIu64
			"}, \"longest_stall_ns\": %" PRIu64 "}",
			r->seconds, r->gets, r->refusals, r->unloads, r->refused, r->idle_checks,
			r->p50_ns, r->p99_ns, r->max_ns, r->longest_stall_ns);
	}
	fprintf(to, "\n  ],\n  \"violations\": {");
	for (int kind = 0; kind < VIOLATION_KINDS; kind++) {
		fprintf(to, "%s\n    ", kind ? "," : "");
		json_string(to, violation_text[kind]);
		fprintf(to, ": %" PRIu64, violations_of((enum violation)kind));
	}
	fprintf(to, "\n  }\n}\n");
	if (ferror(to) | (to != stdout && fclose(to) != 0)) {
		fprintf(stderr, "cannot write '%s': %s\n", options->json, strerror(errno));
		return -1;
	}
	return 0;
}
