/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * stepped.c - gets and puts that are interrupted after every single instruction, and the making of a counter.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>

#include "module_ref_inline.h"
#include "oracle.h"
#include "step.h"
#include "tap.h"

static struct module_ref counters[2], *in_handler;
static _Atomic long steps;

/* Gets and puts on its own account, too: outside, where it is not stepped. */
static void on_step(int number)
{
	if (atomic_fetch_add(&steps, 1) % 4 == 0 && module_ref_try_get_inline(in_handler))
		module_ref_put(in_handler);
}

/* No sequence can end that is interrupted inside, by a signal or another thread: the kernel has to abort each of
 * them, and all is counted in the word. One that the kernel knows nothing of would add to the
 * slot. */
static void stepped(bool per_cpu)
{
	const char *mode = per_cpu ? "per CPU" : "in one word";
	struct sigaction action = { .sa_handler = on_step };
	struct module_ref *ref = &counters[per_cpu];
	uint64_t before;
	bool got[2];

	need((per_cpu ? module_ref_init_percpu(ref) : module_ref_init(ref)) == 0);
	before = ref->word;
	in_handler = ref;
	sigaction(SIGTRAP, &action, NULL);
	atomic_store(&steps, 0);
	STEPPED(got[0] = module_ref_try_get(ref));
	is((long)(ref->word - before), 16, "stepped, %s: a get is in the word", mode);
	STEPPED(got[1] = module_ref_try_get_inline(ref));
	is((long)(ref->word - before), 32, "stepped, %s: and an inlined one", mode);
	STEPPED(module_ref_get(ref));
	is((long)(ref->word - before), 48, "stepped, %s: and a holder's", mode);
	ok(got[0] && got[1], "stepped, %s: they succeed, after %ld signals", mode,
	   atomic_load(&steps));
	is(module_ref_count(ref), 3, "stepped, %s: and count", mode);
	STEPPED(module_ref_put(ref));
	is((long)(ref->word - before), 32, "stepped, %s: a put is in the word", mode);
	STEPPED(module_ref_put_inline(ref));
	is((long)(ref->word - before), 16, "stepped, %s: and an inlined one", mode);
	is(module_ref_try_release(ref), -EWOULDBLOCK, "stepped, %s: not released before the last put", mode);
	module_ref_put(ref);
	is(module_ref_try_release(ref), 0, "stepped, %s: and then it is", mode);
	module_ref_destroy(ref);
}

#if STEPS_BY_SIGNAL

static struct module_ref made[2000];
static unsigned nmade;

static void make_another(int number)
{
	if (nmade < sizeof(made) / sizeof(made[0]))
		need(module_ref_init_percpu(&made[nmade++]) == 0);
}

/* Whatever somebody else takes between two instructions of a counter's making, it takes not. */
static void stepped_making(void)
{
	struct sigaction action = { .sa_handler = make_another };
	struct module_ref ref;
	int rc, same = 0;

	sigaction(SIGTRAP, &action, NULL);
	STEPPED(rc = module_ref_init_percpu(&ref));
	is(rc, 0, "a counter is made, and %u others meanwhile", nmade);
	for (unsigned n = 0; n < nmade; n++) {
		same += made[n].slots >> 16 == ref.slots >> 16;
		module_ref_destroy(&made[n]);
	}
	ok(nmade > 10 && same == 0, "which have slots of their own");
	module_ref_destroy(&ref);
}

#endif

int main(void)
{
	stepped(false);
	if (why_not_per_cpu()) {
		ok(1, "counters per CPU # SKIP %s", why_not_per_cpu());
		return tap_done();
	}
	stepped(true);
#if STEPS_BY_SIGNAL
	stepped_making();
#endif
	return tap_done();
}
