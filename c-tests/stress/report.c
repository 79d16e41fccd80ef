/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * report.c - what a run came to: live, as a table, as TAP, as JSON.
 */
#define _GNU_SOURCE
#include <inttypes.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/utsname.h>
#include <time.h>
#include <unistd.h>

#include "stress.h"

/* 12345678 as "12.3M". */
static const char *count(uint64_t n, char *buf, size_t size)
{
	static const struct {
		double from;
		const char *unit;
	} units[] = { { 1e9, "G" }, { 1e6, "M" }, { 1e5, "k" } };

	for (size_t i = 0; i < sizeof(units) / sizeof(units[0]); i++)
		if ((double)n >= units[i].from) {
			double unit = units[i].from == 1e5 ? 1e3 : units[i].from;

			snprintf(buf, size, "%.1f%s", (double)n / unit, units[i].unit);
			return buf;
		}
	snprintf(buf, size, "%" PRIu64, n);
	return buf;
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

	struct winsize window;
	char line[256];
	int columns = 80, n;

	if (!isatty(STDOUT_FILENO))
		return;
	if (ioctl(STDOUT_FILENO, TIOCGWINSZ, &window) == 0 && window.ws_col > 0)
		columns = window.ws_col;
	for (unsigned i = 0; i < run->nworkers; i++) {
		gets += atomic_load(&run->workers[i].gets);
		refusals += atomic_load(&run->workers[i].refusals);
	}
	for (unsigned i = 0; i < run->nunloaders; i++) {
		unloads += atomic_load(&run->unloaders[i].unloads);
		refused += atomic_load(&run->unloaders[i].refused);
	}
	n = snprintf(line, sizeof(line),
		     "%5.1f s  %" PRIu64 " violations  %s gets  %s refusals  %s unloads  %s refused",
		     elapsed, violations(), count(gets, a, sizeof(a)),
		     count(refusals, b, sizeof(b)), count(unloads, c, sizeof(c)),
		     count(refused, d, sizeof(d)));
	/* It is written over: it must not reach the last column. */
	printf("\r\033[K%.*s", n < columns ? n : columns - 1, line);
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

bool report_bad_line(unsigned line, bool has_crashed, char *text, size_t size)
{
	const struct bad *bad = line > 0 ? bad_result((line - 1) / 2) : NULL;

	if (line == 0)
		snprintf(text, size, "%-38s %8s %9s %9s %8s", "bad plugin, and what was said of it",
			 "unloads", "resident", "unmapped", "crashes");
	else if (!bad || !bad->what)
		return false;
	else if (line % 2 == 0)
		snprintf(text, size, "  %.77s",
			 bad->is_absent ? "(not tried: its file is not beside this program)" :
					  bad->said);
	else
		snprintf(text, size, "%-38s %8" PRIu64 " %9" PRIu64 " %9s %8d", bad->what,
			 bad->unloads, bad->resident,
			 bad->unmapped < bad->unloads ? "no" : bad->unloads ? "yes" : "-",
			 has_crashed && atomic_load(&bad->now));
	return true;
}

static void bad_table(FILE *to, const char *before)
{
	char text[81];

	for (unsigned line = 0; report_bad_line(line, false, text, sizeof(text)); line++)
		fprintf(to, "%s%s\n", before, text);
}

void report_table(FILE *to, const struct options *options, const struct result *results, unsigned n)
{
	static const char *const kinds[UNLOAD_KINDS] = { "refusing if in use", "draining" };
	char a[32], b[32], c[32], d[32], stall[32];

	fprintf(to, "%-30s %9s %9s %8s %8s %10s\n", "counting by", "gets", "refusals", "unloads",
		"refused", "stall");
	for (unsigned i = 0; i < n; i++) {
		const struct result *r = &results[i];

		fprintf(to, "%-30s %9s %9s %8s %8s %10s\n", r->scheme->name,
			count(r->gets, a, sizeof(a)), count(r->refusals, b, sizeof(b)),
			count(r->unloads, c, sizeof(c)), count(r->refused, d, sizeof(d)),
			duration(r->longest_stall_ns, stall, sizeof(stall)));
	}
	for (unsigned i = 0; i < n; i++)
		if (results[i].replaced + results[i].forced > 0)
			fprintf(to,
				"%-19s %s replaced: %s stop first, %s of a set; %s forced\n",
				results[i].scheme->name,
				count(results[i].replaced, a, sizeof(a)),
				count(results[i].stopped_first, b, sizeof(b)),
				count(results[i].sets, c, sizeof(c)),
				count(results[i].forced, d, sizeof(d)));
	fprintf(to, "\n%-30s %-19s %8s %9s %9s\n", "unload latency", "", "p50", "p99", "max");
	for (unsigned i = 0; i < n; i++)
		for (int kind = 0; kind < UNLOAD_KINDS; kind++) {
			const struct result *r = &results[i];

			if (r->latency[kind].n == 0)
				continue;
			fprintf(to, "%-30s %-19s %8s %9s %9s\n", r->scheme->name, kinds[kind],
				duration(r->latency[kind].p50_ns, a, sizeof(a)),
				duration(r->latency[kind].p99_ns, b, sizeof(b)),
				duration(r->latency[kind].max_ns, c, sizeof(c)));
		}
	fprintf(to, "\nA refusal is a get that came while the plugin was out. A refused unload left\n"
		    "the plugin in, because it was in use. A stall is the longest time from one call\n"
		    "of a worker to its next, the time the system gave to other threads included; a\n"
		    "drain's latency includes the wait for the calls that were inside.\n\n");
	if (options->bad) {
		bad_table(to, "");
		fprintf(to, "\nUnmapped: once what it had left behind was taken back. What its user "
			    "keeps is\nlooked for on request alone: that is then an address of a plugin "
			    "that is gone.\n\n");
	}
	for (int kind = 0; kind < VIOLATION_KINDS; kind++)
		fprintf(to, "%8" PRIu64 "  %s\n", violations_of((enum violation)kind),
			violation_text[kind]);
	fprintf(to, "violations: %" PRIu64 "\n", violations());
	if (violations())
		fprintf(to, "the first: %s\n", first_violation());
}

/* ---- TAP -------------------------------------------------------------------------- */

void report_tap(FILE *to, const struct options *options, const struct result *results, unsigned n)
{
	unsigned test = 0;

	if (options->bad)
		bad_table(to, "# ");

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
	/* At the end: a run that did not get here has no plan. */
	fprintf(to, "1..%u\n", test);
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
	FILE *to = options->json;
	struct utsname system;
	time_t now = time(NULL);
	char date[32];

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
			", \"idle_checks\": %" PRIu64 ", \"longest_stall_ns\": %" PRIu64
			",\n     \"replaced\": %" PRIu64 ", \"stopped_first\": %" PRIu64
			", \"sets\": %" PRIu64 ", \"forced\": %" PRIu64,
			r->seconds, r->gets, r->refusals, r->unloads, r->refused, r->idle_checks,
			r->longest_stall_ns, r->replaced, r->stopped_first, r->sets, r->forced);
		for (int kind = 0; kind < UNLOAD_KINDS; kind++)
			fprintf(to,
				",\n     \"%s_ns\": {\"n\": %" PRIu64 ", \"p50\": %" PRIu64
				", \"p99\": %" PRIu64 ", \"max\": %" PRIu64 "}",
				kind == BY_DRAIN ? "drain" : "try_release", r->latency[kind].n,
				r->latency[kind].p50_ns, r->latency[kind].p99_ns,
				r->latency[kind].max_ns);
		fputc('}', to);
	}
	fprintf(to, "\n  ],\n  \"bad_plugins\": [");
	for (unsigned i = 0; options->bad && bad_result(i) && bad_result(i)->what; i++) {
		const struct bad *bad = bad_result(i);

		fprintf(to, "%s\n    {\"what\": ", i ? "," : "");
		json_string(to, bad->what);
		fprintf(to,
			", \"unloads\": %" PRIu64 ", \"resident\": %" PRIu64
			", \"unmapped\": %" PRIu64 ", \"said\": ",
			bad->unloads, bad->resident, bad->unmapped);
		json_string(to, bad->said);
		fputc('}', to);
	}
	fprintf(to, "\n  ],\n  \"violations\": {");
	for (int kind = 0; kind < VIOLATION_KINDS; kind++) {
		fprintf(to, "%s\n    ", kind ? "," : "");
		json_string(to, violation_text[kind]);
		fprintf(to, ": %" PRIu64, violations_of((enum violation)kind));
	}
	fprintf(to, "\n  }\n}\n");
	return fflush(to) == 0 && !ferror(to) ? 0 : -1;
}
