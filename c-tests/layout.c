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
	is((long)sizeof(enum module_residency), 4, "of enum module_residency");
	is((long)sizeof(enum module_after_unload), 4, "of enum module_after_unload");
	is((long)sizeof(bool), 1, "of bool");
	is((long)sizeof(struct module_ref_drain), 9 * 8 + (long)sizeof(void *),
	   "of struct module_ref_drain");
	is((long)sizeof(struct module_track), 64, "of struct module_track");
	is((long)sizeof(struct module_info), 8 + 8 + 8 + 5 * (long)sizeof(void *),
	   "of struct module_info");
	is((long)sizeof(struct module_saved), 8 + 2 * (long)sizeof(void *), "of struct module_saved");
	is((long)offsetof(struct module_saved, data), 8, "where its data is");
	is((long)offsetof(struct module_saved, size), 8 + (long)sizeof(void *), "and that one's size");
	is((long)sizeof(struct module_replacement), 2 * (long)sizeof(void *),
	   "the size of struct module_replacement");
	is((long)offsetof(struct module_replacement, path), (long)sizeof(void *), "where path is");
}

static void numbers(void)
{
	is(MODULE_REF_ATOMIC, 0, "MODULE_REF_ATOMIC");
	is(MODULE_REF_PERCPU, 1, "MODULE_REF_PERCPU");
	is(MODULE_REF_SURPLUS_PUT, 0, "MODULE_REF_SURPLUS_PUT");
	is(MODULE_REF_OVERFLOW, 1, "MODULE_REF_OVERFLOW");
	is(MODULE_REF_LEAKED, 2, "MODULE_REF_LEAKED");
	is(MODULE_REF_STALE_GET, 3, "MODULE_REF_STALE_GET");
	is(MODULE_REF_OWN_CODE, 4, "MODULE_REF_OWN_CODE");
	is(MODULE_STATE_LIVE, 0, "MODULE_STATE_LIVE");
	is(MODULE_STATE_COMING, 1, "MODULE_STATE_COMING");
	is(MODULE_STATE_GOING, 2, "MODULE_STATE_GOING");
	is(MODULE_STATE_UNFORMED, 3, "MODULE_STATE_UNFORMED");
	is(MODULE_REF_BASE, 1, "MODULE_REF_BASE");
	is(MODULE_NAME_LEN, 56, "MODULE_NAME_LEN");
	is(MODULE_LOAD_ATOMIC, 1, "MODULE_LOAD_ATOMIC");
	is(MODULE_LOAD_COPY, 2, "MODULE_LOAD_COPY");
	is(MODULE_LOAD_SHARED, 4, "MODULE_LOAD_SHARED");
	is(MODULE_LOAD_DELETABLE, 8, "MODULE_LOAD_DELETABLE");
	is(MODULE_LOAD_SHARED, 4, "MODULE_LOAD_SHARED");
	is(MODULE_UNLOAD_FORCE, 1, "MODULE_UNLOAD_FORCE");
	is(MODULE_UNLOAD_UNPROVEN, 2, "MODULE_UNLOAD_UNPROVEN");
	is(MODULE_REPLACE_STOP_FIRST, 1, "MODULE_REPLACE_STOP_FIRST");
	is(MODULE_AFTER_UNMAP, 0, "MODULE_AFTER_UNMAP");
	is(MODULE_AFTER_TRAP, 1, "MODULE_AFTER_TRAP");
	is(MODULE_AFTER_KEEP, 2, "MODULE_AFTER_KEEP");
	is(MODULE_IN_SERVICE, 0, "MODULE_IN_SERVICE");
	is(MODULE_RESIDENT_HELD, 1, "MODULE_RESIDENT_HELD");
	is(MODULE_RESIDENT_THREADS, 2, "MODULE_RESIDENT_THREADS");
	is(MODULE_RESIDENT_OVERWRITTEN, 3, "MODULE_RESIDENT_OVERWRITTEN");
	is(MODULE_RESIDENT_NODELETE, 4, "MODULE_RESIDENT_NODELETE");
	is(MODULE_RESIDENT_OTHER_USER, 5, "MODULE_RESIDENT_OTHER_USER");
	is(MODULE_RESIDENT_UNIQUE_SYMBOL, 6, "MODULE_RESIDENT_UNIQUE_SYMBOL");
	is(MODULE_RESIDENT_THREAD_LOCAL, 7, "MODULE_RESIDENT_THREAD_LOCAL");
	is(MODULE_RESIDENT_UNKNOWN, 8, "MODULE_RESIDENT_UNKNOWN");
	is(MODULE_RESIDENT_KEPT, 9, "MODULE_RESIDENT_KEPT");
	is(MODULE_RESIDENT_POSTPONED, 10, "MODULE_RESIDENT_POSTPONED");
	is(MODULE_RESIDENT_FOUND, 11, "MODULE_RESIDENT_FOUND");
	is(MODULE_REPLACE_STOP_FIRST, 1, "MODULE_REPLACE_STOP_FIRST");
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

#if (defined(__x86_64__) || defined(__aarch64__)) && defined(__linux__) && !defined(__ILP32__)
#include <pthread.h>
#include <sys/auxv.h>

#include "rseq.h"

/* How often a round was preempted, and its sequence aborted, in a row. */
enum { PATIENCE = 1000 };

/* The number of this thread's row: mm_cid where the kernel fills it in (AT_RSEQ_FEATURE_SIZE says how
 * much it does), else cpu_id. */
static unsigned row(void)
{
	const volatile char *area = rseq_area();

	return *(const volatile unsigned *)(const volatile void *)(area + (getauxval(27) >= 28 ? 24 : 4));
}

/* A slot: the first one's address without the number of rows, and 64 KiB from row to row. */
static long slot(const struct module_ref *ref, unsigned at)
{
	const volatile long *slots;
	uintptr_t address = (ref->slots >> 16) + ((uintptr_t)at << 16);

	memcpy(&slots, &address, sizeof(slots));
	return *slots;
}

struct adding {
	struct module_ref *ref;
	bool inlined, done;
	pthread_barrier_t *together;
};

/* Whether a get and a put add to the slot of this thread's row, and to nothing else; it tries again if it
 * was interrupted. All threads do so at the same time, so that they have different rows. */
static void *adds_here(void *arg)
{
	struct adding *adding = (struct adding *)arg;
	struct module_ref *ref = adding->ref;

	/* If the library registers threads, this one is now. */
	if (module_ref_try_get(ref))
		module_ref_put(ref);
	pthread_barrier_wait(adding->together);
	for (int n = 0; n < PATIENCE && !adding->done; n++) {
		unsigned here = row();
		long before = slot(ref, here);
		bool got = adding->inlined ? module_ref_try_get_inline(ref) : module_ref_try_get(ref);
		bool counted = slot(ref, here) == before + 1;

		if (adding->inlined)
			module_ref_put_inline(ref);
		else
			module_ref_put(ref);
		adding->done = got && counted && slot(ref, here) == before;
	}
	return NULL;
}

static void slots(void)
{
	struct module_ref ref;
	pthread_barrier_t together;
	pthread_t threads[8];
	struct adding adding[8];
	int by_calls = 0, inlined = 0;

	memset(&ref, 0, sizeof(ref));
	need(module_ref_init_percpu(&ref) == 0);
	is(module_ref_mode(&ref), has_per_cpu() ? MODULE_REF_PERCPU : MODULE_REF_ATOMIC, "the mode");
	if (why_not_per_cpu()) {
		ok(1, "slots # SKIP %s", why_not_per_cpu());
		return;
	}
	ok((ref.slots & 0xffff) != 0 && (ref.slots >> 16) % 8 == 0,
	   "a number of rows, and an address that is aligned to 8");
	is((long)(ref.word & 15), 3 + 8, "a live counter's flags");
	pthread_barrier_init(&together, NULL, 8);
	for (int n = 0; n < 8; n++) {
		adding[n].ref = &ref;
		adding[n].inlined = n % 2;
		adding[n].done = false;
		adding[n].together = &together;
		need(pthread_create(&threads[n], NULL, adds_here, &adding[n]) == 0);
	}
	for (int n = 0; n < 8; n++) {
		pthread_join(threads[n], NULL);
		*(n % 2 ? &inlined : &by_calls) += adding[n].done;
	}
	is(by_calls, 4, "a get adds 1 to its row's slot");
	is(inlined, 4, "and so does an inlined one");
	is(module_ref_try_release(&ref), 0, "release");
	ok(ref.slots && !(ref.slots & 0xffff), "a released counter's slots are off, and still its own");
	ok(!module_ref_add_private(&ref, 1), "an inlined get leaves them alone");
	is((long)ref.word, 0, "and the word is a released counter's");
	module_ref_destroy(&ref);
	is((long)ref.slots, 0, "a destroyed counter has none");
}

#else

static void slots(void)
{
	ok(1, "slots # SKIP counting per CPU is for Linux on x86-64 and aarch64");
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
