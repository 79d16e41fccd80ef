/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * rows.h - a table of what Linux does in a case and what this library does: each row is run
 * with counters in one word and with counters per CPU, and the table is printed as comments,
 * with what became of each row.
 */
#ifndef ROWS_H
#define ROWS_H

#include <errno.h>
#include <string.h>

#include "module_ref.h"
#include "misuse.h"
#include "oracle.h"
#include "tap.h"

/* The library's own numbers, to bring a counter to where no test could count. */
#define REF (UINT64_C(1) << 4)
#define ZONE (INT64_C(1) << 58)
#define PIN (ZONE + ZONE / 2)

struct row {
	const char *name;
	const char *in_linux;
	const char *here;	/* or why there is no counterpart */
	const char *per_cpu;	/* what is different per CPU */
	void (*run)(void);	/* NULL: there is no counterpart */
};

/* ---- counters -------------------------------------------------------------------------- */

static bool per_cpu;
static struct module_ref pool[256];
static unsigned pooled;

/* A counter that is as if that many references had been taken; released if it is -1. Never
 * given back: some are brought to where nobody can destroy them. */
static inline struct module_ref *at(int64_t count)
{
	struct module_ref *ref = &pool[pooled++];

	need(pooled < sizeof(pool) / sizeof(pool[0]));
	need((per_cpu ? module_ref_init_percpu(ref) : module_ref_init(ref)) == 0);
	need(module_ref_mode(ref) == (per_cpu ? MODULE_REF_PERCPU : MODULE_REF_ATOMIC));
	if (count < 0)
		need(module_ref_try_release(ref) == 0);
	else
		ref->word += (uint64_t)count * REF;
	reports_since(MODULE_REF_LEAKED);
	return ref;
}

/* ---- the table ------------------------------------------------------------------------- */

static inline const char *run_row(const struct row *row)
{
	int failed_before = tap_failed;
	struct module_ref *before = at(0), *after;

	/* Neighbours in memory, which a misuse must not harm. */
	need(module_ref_try_get(before));
	row->run();
	after = at(0);
	is(module_ref_count(before), 1, "%s: the neighbour's count is unharmed", row->name);
	module_ref_put(before);
	is(module_ref_try_release(before), 0, "%s: and it can be released", row->name);
	is(module_ref_try_release(after), 0, "%s: and so can a later one", row->name);
	return tap_failed == failed_before ? "ok" : "NOT OK";
}

static inline int run_rows(const char *title, const struct row *rows, size_t n)
{
	const char *results[2][32];

	need(n <= 32);
	module_ref_set_misuse_handler(on_misuse);
	for (int mode = 0; mode < 2; mode++) {
		per_cpu = mode == 1;
		printf("# %s\n", per_cpu ? "counters per CPU" : "counters in one word");
		for (size_t i = 0; i < n; i++) {
			if (!rows[i].run) {
				printf("# %s: %s\n", rows[i].name, rows[i].here);
				results[mode][i] = "none";
			} else if (per_cpu && why_not_per_cpu()) {
				ok(1, "%s # SKIP %s", rows[i].name, why_not_per_cpu());
				results[mode][i] = "skipped";
			} else {
				results[mode][i] = run_row(&rows[i]);
			}
		}
	}
	printf("#\n# %s\n#\n# | row | in Linux | here | ok? | if per CPU | ok? |\n", title);
	printf("# | --- | --- | --- | --- | --- | --- |\n");
	for (size_t i = 0; i < n; i++)
		printf("# | %s | %s | %s | %s | %s | %s |\n", rows[i].name, rows[i].in_linux,
		       rows[i].here, results[0][i], rows[i].per_cpu ? rows[i].per_cpu : "same",
		       results[1][i]);
	return tap_done();
}

#define RUN_ROWS(title, rows) run_rows(title, rows, sizeof(rows) / sizeof((rows)[0]))

/* After that many puts without a get: in one word each was reported and undone; per CPU the
 * next attempt to release finds the net, reports it once, and mends it. */
static inline void surplus_is_mended(struct module_ref *ref, int puts, const char *row)
{
	is(module_ref_count(ref), 0, "%s the count is not below zero", row);
	if (per_cpu)
		is(module_ref_try_release(ref), -EWOULDBLOCK, "%s the next attempt finds it", row);
	is(reports_since(MODULE_REF_SURPLUS_PUT), per_cpu ? 1 : puts, "%s it is reported", row);
	ok(reported_ref == ref, "%s with its counter", row);
	ok(module_ref_try_get(ref), "%s gets still succeed", row);
	is(module_ref_count(ref), 1, "%s and count from zero", row);
	module_ref_put(ref);
	is(module_ref_try_release(ref), 0, "%s and nobody's release is in its way", row);
	is(module_ref_try_release(ref), -EALREADY, "%s nor is it released twice", row);
}

/* Of a counter in the outermost zone. */
static inline void is_never_released(struct module_ref *ref, const char *row)
{
	ok(module_ref_count(ref) >= ZONE - 1, "%s the count stays where it is", row);
	if (!per_cpu)
		is(module_ref_count(ref), PIN, "%s pinned in the middle of the zone", row);
	is(module_ref_try_release(ref), -EWOULDBLOCK, "%s it is not released", row);
	reports_since(MODULE_REF_LEAKED);
	is(module_ref_drain(ref, -1), -ETIMEDOUT, "%s nor drained, and nobody waits", row);
	is(reports_since(MODULE_REF_LEAKED), 1, "%s which is reported", row);
	ok(module_ref_try_get(ref), "%s and it can be used", row);
}

#endif
