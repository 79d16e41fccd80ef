/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * conformance.c - what Linux's module counter does in each case, and what this
 * library does: the table C1 to C11, then the list with which Linux tests its
 * refcount_t (drivers/misc/lkdtm/refcount.c).
 */
#include <errno.h>
#include <string.h>

#include "module_ref.h"
#include "tap.h"

/* The library's own numbers, to bring a counter to where no test could count. */
#define REF (UINT64_C(1) << 4)
#define ZONE (INT64_C(1) << 58)

static int reports[4];
static const struct module_ref *reported_ref;
static const void *reported_caller;

static void on_misuse(enum module_ref_misuse what, const struct module_ref *ref, const void *caller)
{
	reports[what]++;
	reported_ref = ref;
	reported_caller = caller;
}

static int reports_since(enum module_ref_misuse what)
{
	int n = reports[what];

	memset(reports, 0, sizeof(reports));
	return n;
}

/* Sets the count, as if that many references had been taken. */
static void set_count(struct module_ref *ref, int64_t count)
{
	ref->word = (ref->word & (REF - 1)) | (uint64_t)count * REF;
}

static void the_table(void)
{
	struct module_ref ref, other;
	static struct module_ref at_rest = MODULE_REF_INIT;

	is(module_ref_init(&ref), 0, "C1 a counter begins with the loader's reference");
	is(module_ref_count(&ref), 0, "C1 which is not in the count");
	ok(module_ref_try_get(&at_rest), "C1 a static initialiser does the same");
	module_ref_put(&at_rest);
	is(module_ref_count(&at_rest), 0, "C1 and counts");

	ok(module_ref_try_get(&ref), "C2 get");
	is(module_ref_count(&ref), 1, "C2 the count is the references held");
	module_ref_put(&ref);
	is(module_ref_try_release(&ref), 0, "C2 release");
	is(module_ref_count(&ref), -1, "C2 -1 means released");
	is(module_ref_reinit(&ref), 0, "C2 reinit");
	is(module_ref_count(&ref), 0, "C2 and it counts from zero again");

	ok(module_ref_try_get(NULL), "C3 try_get(NULL) is true");
	module_ref_get(NULL);
	module_ref_put(NULL);
	ok(1, "C3 get(NULL) and put(NULL) do nothing");

	is(module_ref_try_release(&ref), 0, "C4 release");
	ok(!module_ref_try_get(&ref), "C4 a released counter refuses");
	is(module_ref_count(&ref), -1, "C4 and is unchanged");
	is(module_ref_reinit(&ref), 0, "C4 reinit");
	ok(module_ref_try_get(&ref), "C4 a live one lets in");
	is(module_ref_count(&ref), 1, "C4 and counts one more");

	module_ref_get(&ref);
	is(module_ref_count(&ref), 2, "C5 get by a holder counts one more");
	module_ref_put(&ref);
	module_ref_put(&ref);
	is(module_ref_try_release(&ref), 0, "C5 release");
	reports_since(MODULE_REF_STALE_GET);
	module_ref_get(&ref);
	is(reports_since(MODULE_REF_STALE_GET), 1, "C5 get on a released counter is reported");
	is(module_ref_count(&ref), -1, "C5 and refused");
	is(module_ref_reinit(&ref), 0, "C5 the winner's reinit is not in its way");
	is(module_ref_count(&ref), 0, "C5 and nothing is left of it");

	ok(module_ref_try_get(&ref), "C6 get");
	module_ref_put(&ref);
	is(module_ref_count(&ref), 0, "C6 put takes one away");
	is(reports_since(MODULE_REF_SURPLUS_PUT), 0, "C6 and is no misuse");
	errno = EXDEV;
	module_ref_put(&ref);
	is(errno, EXDEV, "C6 errno is preserved");
	is(reports_since(MODULE_REF_SURPLUS_PUT), 1, "C6 a put without a get is reported");
	ok(reported_ref == &ref, "C6 with its counter");
#if defined(__x86_64__) || defined(__aarch64__)
	ok(reported_caller != NULL, "C6 and its caller");
#endif

	is(module_ref_count(&ref), 0, "C7 a surplus put is undone");
	ok(module_ref_try_get(&ref), "C7 gets still succeed");
	module_ref_put(&ref);
	is(module_ref_try_release(&ref), 0, "C7 and so does the next unload");

	is(module_ref_try_release(&ref), -EALREADY, "C8 a second release is told so");
	is(module_ref_drain(&ref, 0), -EALREADY, "C8 and a drain");
	is(module_ref_reinit(&ref), 0, "C8 reinit");
	ok(module_ref_try_get(&ref), "C8 get");
	is(module_ref_try_release(&ref), -EWOULDBLOCK, "C8 a held counter is not released");

	is(module_ref_count(&ref), 1, "C9 a refused release has changed nothing");
	ok(module_ref_try_get(&ref), "C9 gets still succeed");
	module_ref_put(&ref);

	is(module_ref_drain(&ref, 0), -ETIMEDOUT, "C10 a drain that may not wait");
	is(module_ref_drain(&ref, 1000000), -ETIMEDOUT, "C10 and one that waits in vain");
	ok(module_ref_try_get(&ref), "C10 leave the counter live");
	module_ref_put(&ref);
	is(module_ref_count(&ref), 1, "C10 and the count as it was");
	module_ref_put(&ref);
	is(module_ref_drain(&ref, -1), 0, "C10 a negative timeout waits for ever, here not at all");
	is(module_ref_reinit(&ref), 0, "C10 reinit");

	is(module_ref_init(&other), 0, "C11 a neighbour");
	ok(module_ref_try_get(&other), "C11 that is held");
	set_count(&ref, ZONE);
	reports_since(MODULE_REF_OVERFLOW);
	ok(module_ref_try_get(&ref), "C11 a get in the outermost zone");
	is(reports_since(MODULE_REF_OVERFLOW), 1, "C11 is reported");
	ok(module_ref_count(&ref) > ZONE, "C11 and the count is pinned");
	is(module_ref_try_release(&ref), -EWOULDBLOCK, "C11 never released early");
	is(module_ref_count(&other), 1, "C11 the neighbour is unharmed");
	module_ref_put(&other);
	module_ref_destroy(&other);
}

/* A fresh counter with a count, or released if the count is -1. */
static struct module_ref at(int64_t count)
{
	struct module_ref ref = MODULE_REF_INIT;

	if (count < 0)
		need(module_ref_try_release(&ref) == 0);
	else
		set_count(&ref, count);
	reports_since(MODULE_REF_OVERFLOW);
	return ref;
}

static void lkdtm(void)
{
	struct module_ref ref;
	int64_t pinned;
	int n;

	ref = at(ZONE - 1);
	module_ref_get(&ref);
	is(reports_since(MODULE_REF_OVERFLOW), 0, "INC_OVERFLOW the last count before the zone");
	module_ref_get(&ref);
	is(reports_since(MODULE_REF_OVERFLOW), 1, "INC_OVERFLOW by one is reported");
	pinned = module_ref_count(&ref);
	ok(pinned > ZONE, "INC_OVERFLOW and pinned");

	ref = at(ZONE);
	for (n = 0; n < 1000; n++)
		if (!module_ref_try_get(&ref))
			break;
	is(n, 1000, "ADD_OVERFLOW the gets succeed");
	ok(reports[MODULE_REF_OVERFLOW] >= 1, "ADD_OVERFLOW by many is reported");
	is(module_ref_count(&ref), pinned, "ADD_OVERFLOW and pinned at the same place");
	is(module_ref_try_release(&ref), -EWOULDBLOCK, "ADD_OVERFLOW and not released");

	ref = at(ZONE);
	ok(module_ref_try_get(&ref), "INC_NOT_ZERO_OVERFLOW the get succeeds");
	is(reports_since(MODULE_REF_OVERFLOW), 1, "INC_NOT_ZERO_OVERFLOW and is reported");

	ref = at(1);
	module_ref_put(&ref);
	is(module_ref_count(&ref), 0, "DEC_ZERO the last put");
	is(reports_since(MODULE_REF_SURPLUS_PUT), 0, "DEC_ZERO is no misuse");
	module_ref_put(&ref);
	is(reports_since(MODULE_REF_SURPLUS_PUT), 1, "DEC_NEGATIVE one more is");
	is(module_ref_count(&ref), 0, "DEC_NEGATIVE and is undone");
	for (n = 0; n < 1000; n++)
		module_ref_put(&ref);
	is(reports_since(MODULE_REF_SURPLUS_PUT), 1000, "SUB_NEGATIVE many are all reported");
	is(module_ref_try_release(&ref), 0, "SUB_NEGATIVE and in nobody's way");

	ref = at(-1);
	ok(!module_ref_try_get(&ref), "INC_NOT_ZERO_ZERO is refused");
	module_ref_get(&ref);
	is(reports_since(MODULE_REF_STALE_GET), 1, "INC_ZERO is reported");
	is(module_ref_count(&ref), -1, "INC_ZERO does not bring it back");
	module_ref_put(&ref);
	is(reports_since(MODULE_REF_SURPLUS_PUT), 1, "DEC_ZERO on a released counter is reported");
	is(module_ref_count(&ref), -1, "DEC_ZERO and changes nothing");
	is(module_ref_try_release(&ref), -EALREADY, "DEC_ZERO and is no second release");

	ref = at(pinned);
	ok(module_ref_try_get(&ref), "INC_SATURATED try_get");
	module_ref_get(&ref);
	is(reports_since(MODULE_REF_OVERFLOW), 2, "INC_SATURATED both gets are reported");
	module_ref_put(&ref);
	is(reports_since(MODULE_REF_LEAKED), 1, "DEC_SATURATED a put is reported");
	is(module_ref_count(&ref), pinned, "DEC_SATURATED nothing moves it");
	is(module_ref_try_release(&ref), -EWOULDBLOCK, "DEC_AND_TEST_SATURATED no release");
	is(module_ref_drain(&ref, -1), -ETIMEDOUT, "DEC_AND_TEST_SATURATED no drain, and no wait");
	is(reports_since(MODULE_REF_LEAKED), 1, "DEC_AND_TEST_SATURATED which is reported");
	ok(module_ref_try_get(&ref), "DEC_AND_TEST_SATURATED it is live");

	ref = at(0);
	for (n = 0; n < 1000000; n++)
		if (!module_ref_try_get(&ref))
			break;
	is(module_ref_count(&ref), 1000000, "TIMING a long count up");
	for (n = 0; n < 1000000; n++)
		module_ref_put(&ref);
	is(module_ref_count(&ref), 0, "TIMING and down");
	is(module_ref_try_release(&ref), 0, "TIMING and out");
}

int main(void)
{
	module_ref_set_misuse_handler(on_misuse);
	the_table();
	lkdtm();
	return tap_done();
}
