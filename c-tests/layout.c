/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * layout.c - the numbers that are compiled into programs: sizes, offsets, enumerators, the
 * bytes of a static initialiser, and where an inlined get adds. Compiled as C and as C++.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <sched.h>
#include <stddef.h>
#include <string.h>

#include "module_ref_inline.h"
#include "oracle.h"
#include "tap.h"

#ifdef __cplusplus
#define ALIGNMENT(type) alignof(type)
#else
#define ALIGNMENT(type) _Alignof(type)
#endif

static struct module_ref at_rest = MODULE_REF_INIT;

/* A counter is embedded: what stands around it shows its size and alignment. */
struct embedding {
	char before;
	struct module_ref ref;
	char after;
};

static void sizes(void)
{
	is((long)sizeof(struct module_ref), 16, "the size of struct module_ref");
	is((long)ALIGNMENT(struct module_ref), 16, "its alignment");
	is((long)offsetof(struct module_ref, word), 0, "where word is");
	is((long)sizeof(at_rest.word), 8, "and how large");
	is((long)offsetof(struct module_ref, slots), 8, "where slots is");
	is((long)sizeof(at_rest.slots), (long)sizeof(void *), "and how large");
	is((long)offsetof(struct embedding, ref), 16, "a counter in a struct");
	is((long)offsetof(struct embedding, after), 32, "and what follows it");
	is((long)sizeof(enum module_ref_mode), 4, "the size of enum module_ref_mode");
	is((long)sizeof(enum module_ref_misuse), 4, "of enum module_ref_misuse");
	is((long)sizeof(enum module_state), 4, "of enum module_state");
	is((long)sizeof(bool), 1, "of bool");
}

static void numbers(void)
{
	is(MODULE_REF_ATOMIC, 0, "MODULE_REF_ATOMIC");
	is(MODULE_REF_PERCPU, 1, "MODULE_REF_PERCPU");
	is(MODULE_REF_SURPLUS_PUT, 0, "MODULE_REF_SURPLUS_PUT");
	is(MODULE_REF_OVERFLOW, 1, "MODULE_REF_OVERFLOW");
	is(MODULE_REF_LEAKED, 2, "MODULE_REF_LEAKED");
	is(MODULE_REF_STALE_GET, 3, "MODULE_REF_STALE_GET");
	is(MODULE_STATE_LIVE, 0, "MODULE_STATE_LIVE");
	is(MODULE_STATE_COMING, 1, "MODULE_STATE_COMING");
	is(MODULE_STATE_GOING, 2, "MODULE_STATE_GOING");
	is(MODULE_STATE_UNFORMED, 3, "MODULE_STATE_UNFORMED");
	is(MODULE_REF_BASE, 1, "MODULE_REF_BASE");
	is(MODULE_NAME_LEN, 56, "MODULE_NAME_LEN");
	is(MODULE_LOAD_ATOMIC, 1, "MODULE_LOAD_ATOMIC");
	is(MODULE_LOAD_COPY, 2, "MODULE_LOAD_COPY");
	is(MODULE_UNLOAD_FORCE, 1, "MODULE_UNLOAD_FORCE");
}

static void initialiser(void)
{
	ok(at_rest.word == 3 && at_rest.slots == 0, "MODULE_REF_INIT: live, and no slots");
}

/* In one word: the count in units of 16, the flags below. */
static void word(void)
{
	struct module_ref ref;

	need(module_ref_init(&ref) == 0);
	is((long)ref.word, 3, "a live counter's word");
	is((long)ref.slots, 0, "and no slots");
	ok(module_ref_try_get_inline(&ref), "an inlined get");
	is((long)ref.word, 16 + 3, "counts 16");
	module_ref_put(&ref);
	is((long)ref.word, 3, "and is put by the library");
	is(module_ref_try_release(&ref), 0, "release");
	is((long)ref.word, 0, "a released counter's word");
	module_ref_destroy(&ref);
	is((long)ref.word, 8, "a destroyed one's");
}

#if defined(__x86_64__) && defined(__linux__) && !defined(__ILP32__)

/* The slot of a CPU: the pointer without its tag, and 64 KiB from CPU to CPU. */
static long slot(const struct module_ref *ref, int cpu)
{
	const volatile long *slots;
	uintptr_t address = (ref->slots & ~(uintptr_t)1) + ((uintptr_t)cpu << 16);

	memcpy(&slots, &address, sizeof(slots));
	return *slots;
}

/* How often a round was preempted, and its sequence aborted, in a row. */
enum { PATIENCE = 1000 };

/* Whether a get and a put add to the slot of this CPU, and to nothing else. */
static bool adds_here(struct module_ref *ref, int cpu, bool inlined)
{
	for (int n = 0; n < PATIENCE; n++) {
		long before = slot(ref, cpu), between;
		uint64_t word_before = ref->word, word_between;

		if (!(inlined ? module_ref_try_get_inline(ref) : module_ref_try_get(ref)))
			return false;
		between = slot(ref, cpu);
		word_between = ref->word;
		if (inlined)
			module_ref_put_inline(ref);
		else
			module_ref_put(ref);
		if (between == before + 1 && word_between == word_before &&
		    slot(ref, cpu) == before && ref->word == word_before)
			return true;
	}
	return false;
}

static void slots(void)
{
	struct module_ref ref;
	cpu_set_t all, one;
	int cpus = 0, by_calls = 0, inlined = 0;

	memset(&ref, 0, sizeof(ref));
	need(module_ref_init_percpu(&ref) == 0);
	is(module_ref_mode(&ref), has_per_cpu() ? MODULE_REF_PERCPU : MODULE_REF_ATOMIC, "the mode");
	if (why_not_per_cpu()) {
		ok(1, "slots # SKIP %s", why_not_per_cpu());
		return;
	}
	is((long)(ref.slots & 7), 1, "a tag on a pointer that is aligned to 8");
	is((long)(ref.word & 15), 3 + 8, "a live counter's flags");
	need(sched_getaffinity(0, sizeof(all), &all) == 0);
	for (int cpu = 0; cpu < CPU_SETSIZE; cpu++) {
		if (!CPU_ISSET((size_t)cpu, &all))
			continue;
		CPU_ZERO(&one);
		CPU_SET((size_t)cpu, &one);
		need(sched_setaffinity(0, sizeof(one), &one) == 0);
		cpus++;
		by_calls += adds_here(&ref, cpu, false);
		inlined += adds_here(&ref, cpu, true);
	}
	need(sched_setaffinity(0, sizeof(all), &all) == 0);
	is(by_calls, cpus, "a get adds 1 to its CPU's slot, on each of %d", cpus);
	is(inlined, cpus, "and so does an inlined one");
	is(module_ref_try_release(&ref), 0, "release");
	ok(ref.slots && !(ref.slots & 7), "a released counter's slots are off, and still its own");
	ok(!module_ref_add_private(&ref, 1), "an inlined get leaves them alone");
	is((long)ref.word, 0, "and the word is a released counter's");
	module_ref_destroy(&ref);
	is((long)ref.slots, 0, "a destroyed counter has none");
}

#else

static void slots(void)
{
	ok(1, "slots # SKIP counting per CPU is for Linux on x86-64");
}

#endif

int main(void)
{
	sizes();
	numbers();
	initialiser();
	word();
	slots();
	return tap_done();
}
