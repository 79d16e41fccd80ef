/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * conformance.c - what Linux's module counter does in each case, and what this library does: the
 * rows C1 to C11 of docs/conformance.md. For its list of misuses of a refcount_t see lkdtm.c.
 */
#define _GNU_SOURCE
#include "rows.h"

static void c1(void)
{
	static struct module_ref at_rest = MODULE_REF_INIT;
	struct module_ref *ref = at(0);

	is(module_ref_count(ref), 0, "C1 a counter begins with the loader's reference alone");
	is((long)(ref->word & MODULE_REF_BASE), MODULE_REF_BASE, "C1 which is not in the count");
	ok(module_ref_try_get(&at_rest), "C1 a static initialiser does the same");
	module_ref_put(&at_rest);
	is(module_ref_count(&at_rest), 0, "C1 and counts");
}

static void c2(void)
{
	struct module_ref *ref = at(0);

	ok(module_ref_try_get(ref), "C2 get");
	is(module_ref_count(ref), 1, "C2 the count is the references held");
	module_ref_put(ref);
	is(module_ref_try_release(ref), 0, "C2 release");
	is(module_ref_count(ref), -1, "C2 -1 means released");
	is(module_ref_reinit(ref), 0, "C2 reinit");
	is(module_ref_count(ref), 0, "C2 and it counts from zero again");
}

static void c3(void)
{
	ok(module_ref_try_get(NULL) && module_ref_get_if_held(NULL), "C3 try_get(NULL) is true");
	module_ref_get(NULL);
	module_ref_put(NULL);
	ok(1, "C3 get(NULL) and put(NULL) do nothing");
}

static void c4(void)
{
	struct module_ref *ref = at(-1);

	ok(!module_ref_try_get(ref), "C4 a released counter refuses");
	is(module_ref_count(ref), -1, "C4 and is unchanged");
	is(module_ref_reinit(ref), 0, "C4 reinit");
	ok(module_ref_try_get(ref), "C4 a live one lets in");
	is(module_ref_count(ref), 1, "C4 and counts one more");
}

static void c5(void)
{
	struct module_ref *ref = at(0);

	ok(module_ref_try_get(ref), "C5 get");
	module_ref_get(ref);
	is(module_ref_count(ref), 2, "C5 get by a holder counts one more");
	module_ref_put(ref);
	module_ref_put(ref);
	is(module_ref_try_release(ref), 0, "C5 release");
	module_ref_get(ref);
	is(reports_since(MODULE_REF_STALE_GET), 1, "C5 get on a released counter is reported");
	is(module_ref_count(ref), -1, "C5 and refused");
	is(module_ref_reinit(ref), 0, "C5 the winner's reinit is not in its way");
	is(module_ref_count(ref), 0, "C5 and nothing is left of it");
}

static void c6(void)
{
	struct module_ref *ref = at(0);

	ok(module_ref_try_get(ref), "C6 get");
	module_ref_put(ref);
	is(module_ref_count(ref), 0, "C6 put takes one away");
	is(reports_since(MODULE_REF_SURPLUS_PUT), 0, "C6 and is no misuse");
	errno = EXDEV;
	module_ref_put(ref);
	is(errno, EXDEV, "C6 errno is preserved");
	if (per_cpu)
		is(module_ref_try_release(ref), -EWOULDBLOCK, "C6 the next attempt");
	is(reports_since(MODULE_REF_SURPLUS_PUT), 1, "C6 a put without a get is reported");
	ok(reported_ref == ref, "C6 with its counter");
#if defined(__x86_64__) || defined(__aarch64__)
	ok(reported_caller != NULL, "C6 and its caller");
#endif
}

static void c7(void)
{
	struct module_ref *ref = at(0);

	module_ref_put(ref);
	ok(module_ref_try_get(ref), "C7 gets succeed after a surplus put");
	module_ref_put(ref);
	surplus_is_mended(ref, 1, "C7");
}

static void c8(void)
{
	struct module_ref *ref = at(-1);

	is(module_ref_try_release(ref), -EALREADY, "C8 a second release is told so");
	is(module_ref_drain(ref, 0), -EALREADY, "C8 and a drain");
	is(module_ref_reinit(ref), 0, "C8 reinit");
	ok(module_ref_try_get(ref), "C8 get");
	is(module_ref_try_release(ref), -EWOULDBLOCK, "C8 a held counter is not released");
	module_ref_put(ref);
	is(module_ref_try_release(ref), 0, "C8 one that nobody holds is");
}

static void c9(void)
{
	struct module_ref *ref = at(0);

	need(module_ref_try_get(ref) && module_ref_try_release(ref) == -EWOULDBLOCK);
	is(module_ref_count(ref), 1, "C9 a refused release has changed nothing");
	ok(module_ref_try_get(ref), "C9 gets still succeed");
	is(module_ref_count(ref), 2, "C9 and count");
	/* Between the steps of an attempt the loader's reference is out. */
	ref->word -= MODULE_REF_BASE;
	is(module_ref_count(ref), 2, "C9 which between the steps is what it was");
	ref->word += MODULE_REF_BASE;
}

static void c10(void)
{
	struct module_ref *ref = at(0);

	need(module_ref_try_get(ref));
	is(module_ref_drain(ref, 0), -ETIMEDOUT, "C10 a drain that may not wait");
	is(module_ref_drain(ref, 1000000), -ETIMEDOUT, "C10 and one that waits in vain");
	ok(module_ref_try_get(ref), "C10 leave the counter live");
	module_ref_put(ref);
	is(module_ref_count(ref), 1, "C10 and the count as it was");
	module_ref_put(ref);
	is(module_ref_drain(ref, -1), 0, "C10 a negative timeout waits for ever, here not at all");
	ok(!module_ref_try_get(ref), "C10 and the counter is closed");
}

static void c11(void)
{
	struct module_ref *ref = at(INT32_MAX), *far = at(ZONE);

	ok(module_ref_try_get(ref), "C11 a get beyond INT_MAX");
	is(module_ref_count(ref), INT64_C(1) << 31, "C11 counts");
	module_ref_put(ref);
	is(module_ref_count(ref), INT32_MAX, "C11 both ways");
	reports_since(MODULE_REF_OVERFLOW);
	ok(module_ref_try_get(far), "C11 a get in the outermost zone");
	if (!per_cpu)
		is(reports_since(MODULE_REF_OVERFLOW), 1, "C11 is reported");
	is_never_released(far, "C11");
}

static const struct row rows[] = {
	{ "C1", "BASE, and a reference that is dropped after init", "BASE alone", NULL, c1 },
	{ "C2", "module_refcount: the counter without BASE; -1: unloading", "the same", NULL, c2 },
	{ "C3", "try_module_get(NULL) is true", "the same", NULL, c3 },
	{ "C4", "try_module_get: not if GOING or 0", "the same; COMING is live", NULL, c4 },
	{ "C5", "__module_get: also at 0", "refused and reported on a released counter", NULL, c5 },
	{ "C6", "module_put: at 0 unchanged, and a warning", "the same, by the misuse handler",
	  "reported by the next attempt to release", c6 },
	{ "C7", "a surplus put takes BASE, and the next unload is a BUG", "undone, reported, live",
	  "the next attempt mends it, and is refused", c7 },
	{ "C8", "release: 0 goes, more stays, less is a BUG", "an errno, never a BUG", NULL, c8 },
	{ "C9", "one too few is seen between the steps", "BASE is not in the count", NULL, c9 },
	{ "C10", "steady traffic can starve an unload", "drain closes the counter first", NULL, c10 },
	{ "C11", "INT_MAX wraps", "60 bits; pinned from 2^58 on, and reported",
	  "reported by a drain; never released", c11 },
};

int main(void)
{
	return RUN_ROWS("Linux's module counter, and this one", rows);
}
