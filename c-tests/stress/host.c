/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * host.c - the stress through the module host: modules with dependencies are loaded, unloaded,
 * drained, replaced in every way and forced out at random, while workers look them up and call
 * them, by references and through a gate.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "stress.h"

enum { MAX_GUESTS = MAX_PLUGINS + 2 };

/* A name in the host, and what is to be loaded under it. */
struct guest {
	const char *name;
	struct plugin plugin;  /* file, symbol, and what an unknown one answers first */
	struct guest *needs;   /* a module it needs, or NULL */
	bool needs_by_hand;    /* and is to be told so, because its object does not say */
	/* Attempts to force it out: its exit function may run under holders. */
	_Atomic uint64_t force_begun, force_ended;
};

static struct guest guests[MAX_GUESTS];
static unsigned nguests;
struct module_host *host;
static unsigned load_flags;

/* The plugin that hands its count of calls over. It is only ever replaced, and stopped first: so no
 * call is ever lost. Half of the calls go through its gate, which follows. */
static struct {
	const char *file; /* or NULL */
	uintptr_t (*gate)(void);
	uint64_t calls; /* before the run */
} keeper;
/* The files of two that are only ever replaced, and together. */
static const char *left, *right;

/* A function of a module that somebody holds, as a value of its type in *function. */
static bool find_function(struct module *mod, const char *name, void *function)
{
	void *symbol = module_symbol(mod, name);

	memcpy(function, &symbol, sizeof(symbol));
	return symbol;
}

/* ---- loading --------------------------------------------------------------------- */

/* Loads it, if there is what it needs. Returns as module_load(). */
static int bring(struct guest *guest)
{
	struct module *needed = NULL, *loaded;
	int rc;

	if (guest->needs && !(needed = module_find_get(host, guest->needs->name)))
		return -ENOENT;
	if (needed && module_state(needed) != MODULE_STATE_LIVE) {
		module_put(needed);
		return -ENOENT;
	}
	rc = module_load_flags(host, guest->plugin.file, guest->name, load_flags, &loaded);
	if (rc == 0) {
		/* In vain if somebody is unloading either by now. */
		if (guest->needs_by_hand)
			module_add_dependency(loaded, needed);
		module_handle_put(loaded);
	}
	module_put(needed);
	return rc;
}

/* Whether the tables know this result of an operation that competes with others. */
static bool is_known(int rc)
{
	return rc >= 0 || rc == -EEXIST || rc == -EBUSY || rc == -ENOENT || rc == -EWOULDBLOCK ||
	       rc == -ETIMEDOUT;
}

/* ---- workers ------------------------------------------------------------------------ */

static void use(struct worker *worker, struct guest *guest)
{
	uint64_t ended = atomic_load(&guest->force_ended);
	uint64_t begun = atomic_load(&guest->force_begun);
	struct plugin plugin = guest->plugin;
	struct module *mod = module_find_get(host, guest->name);
	bool right = true;
	void *symbol;

	if (!mod || module_state(mod) == MODULE_STATE_COMING) {
		module_put(mod);
		count_one(&worker->refusals);
		return;
	}
	count_one(&worker->gets);
	symbol = module_symbol(mod, plugin.symbol);
	memcpy(&plugin.entry, &symbol, sizeof(symbol));
	for (int calls = next_random(&worker->random) % 64 == 0 ? 500 : 1; calls > 0 && right;
	     calls--)
		right = symbol && plugin_call(&plugin, next_random(&worker->random));
	/* A module that is forced out has run its exit function under us; its code stays. */
	if (!right && begun == ended && atomic_load(&guest->force_begun) == begun)
		violation(WRONG_ANSWER, "worker %u: %s() of module '%s' %s",
			  worker->index, plugin.symbol, guest->name,
			  symbol ? "answered wrongly" : module_last_error());
	module_put(mod);
}

static void use_keeper(struct worker *worker, bool through_gate)
{
	struct module *mod = through_gate ? NULL : module_find_get(host, "keeper");
	uintptr_t (*call)(void) = keeper.gate;

	if (!through_gate && !mod) {
		count_one(&worker->refusals);
		return;
	}
	if (mod && !find_function(mod, "keeper_call", &call)) {
		violation(WRONG_ANSWER, "worker %u: %s", worker->index, module_last_error());
	} else if (call() != 0) {
		count_one(&worker->kept);
		count_one(&worker->gets);
	} else {
		count_one(&worker->kept_refusals);
		count_one(&worker->refusals);
	}
	module_put(mod);
}

/* The left one is bound to the right one, and both are replaced in one step. So if the same left
 * one is in service before and after a look at the right one, then it is bound to that. */
static void use_both(struct worker *worker)
{
	struct module *before = module_find_get(host, "left");
	struct module *right = module_find_get(host, "right");
	struct module *after = module_find_get(host, "left");
	uint32_t (*(*source)(void))(uint32_t), (*answer)(uint32_t);

	if (before && right && before == after) {
		count_one(&worker->gets);
		if (!find_function(before, "relay_source", &source) ||
		    !find_function(right, "sample_answer", &answer))
			violation(WRONG_ANSWER, "worker %u: %s", worker->index, module_last_error());
		else if (source() != answer)
			violation(MIXTURE,
				  "worker %u: 'left' is bound to another 'right' than the one that "
				  "is in service with it",
				  worker->index);
	} else {
		count_one(&worker->refusals);
	}
	module_put(before);
	module_put(right);
	module_put(after);
}

static void host_work(struct run *run, struct worker *worker, uint64_t dice)
{
	unsigned special = keeper.file ? (dice >> 32) % 16 : 16;

	if (special < 2)
		use_keeper(worker, special);
	else if (special < 4)
		use_both(worker);
	else
		use(worker, &guests[dice % nguests]);
}

/* ---- unloaders ------------------------------------------------------------------------ */

/* A handle to what has that name now, or NULL. */
static struct module *handle_to(const struct guest *guest)
{
	struct module *mod = module_find_get(host, guest->name);

	if (mod) {
		module_handle_get(mod);
		module_put(mod);
	}
	return mod;
}

static int count_replacement(struct unloader *unloader, int rc, unsigned flags, size_t of)
{
	if (rc >= 0) {
		count_one(&unloader->replaced);
		if (flags & MODULE_REPLACE_STOP_FIRST)
			count_one(&unloader->stopped_first);
		if (of > 1)
			count_one(&unloader->sets);
	}
	return rc;
}

/* Replaces what is never unloaded: the keeper, the two that go together, or all three. */
static void replace_permanent(struct unloader *unloader, uint64_t dice, int64_t timeout_ns)
{
	const struct module_replacement all[] = {
		{ "keeper", keeper.file }, { "left", left }, { "right", right }
	};
	size_t first = dice % 3 == 0, end = dice % 3 == 1 ? 1 : 3;
	/* What counts calls never serves twice at a time. */
	unsigned flags = first == 0 || dice / 4 % 2 ? MODULE_REPLACE_STOP_FIRST : 0;
	int rc = module_replace_set(host, all + first, end - first, flags, timeout_ns);

	if (!is_known(rc) || rc == -ENOENT)
		violation(UNKNOWN_RESULT, "a replacement of '%s' failed: %s", all[first].name,
			  module_last_error());
	if (count_replacement(unloader, rc, flags, end - first) >= 0)
		count_one(&unloader->unloads);
}

static void host_attempt(struct run *run, struct unloader *unloader, uint64_t dice)
{
	struct guest *guest = &guests[(dice >> 32) % nguests];
	int64_t patience = (dice >> 8) % 4 == 0 ? -1 : (int64_t)((dice >> 10) % 2000000);
	enum unload_kind kind = BY_RELEASE;
	struct module *before;
	uint64_t began, took;
	unsigned flags;
	int rc;

	if (dice % 100 < 40) {
		rc = bring(guest);
		if (!is_known(rc))
			violation(UNKNOWN_RESULT, "a load of '%s' failed: %s", guest->name,
				  module_last_error());
		return;
	}
	if (keeper.file && dice % 100 < 46) {
		replace_permanent(unloader, dice >> 40, patience);
		return;
	}
	before = handle_to(guest);
	began = now_ns();
	if (dice % 100 < 60) {
		rc = module_unload(host, guest->name, 0, 0);
	} else if (dice % 100 < 78) {
		kind = BY_DRAIN;
		rc = module_unload(host, guest->name, 0, patience);
	} else if (dice % 100 < 96) {
		kind = BY_DRAIN;
		flags = dice >> 40 & MODULE_REPLACE_STOP_FIRST;
		rc = module_replace_flags(host, guest->name, guest->plugin.file, flags, patience);
		count_replacement(unloader, rc, flags, 1);
	} else {
		/* Its exit function may run from here on, whoever holds it. */
		atomic_fetch_add(&guest->force_begun, 1);
		rc = module_unload(host, guest->name, MODULE_UNLOAD_FORCE, 0);
		atomic_fetch_add(&guest->force_ended, 1);
		if (rc >= 0)
			count_one(&unloader->forced);
	}
	took = now_ns() - began;
	if (!is_known(rc))
		violation(UNKNOWN_RESULT, "an unload of '%s' failed: %s", guest->name,
			  module_last_error());
	if (rc >= 0) {
		if (rc == 0)
			keep_latency(&unloader->latencies[kind], &unloader->random, took);
		count_one(&unloader->unloads);
		/* Whichever load it is of that was unloaded, what was there before is going, or
		 * gone: then it gives no reference. (Another thread may be about to close it.) */
		if (before && module_state(before) != MODULE_STATE_GOING)
			violation(CALL_AFTER_RELEASE, "'%s' is not going after its unload",
				  guest->name);
		if (before && module_refcount(before) == -1 && module_try_get(before)) {
			violation(CALL_AFTER_RELEASE, "'%s' can be referenced after its unload",
				  guest->name);
			module_put(before);
		}
	} else if (rc == -EWOULDBLOCK || rc == -ETIMEDOUT) {
		count_one(&unloader->refused);
	}
	module_handle_put(before);
}

/* ---- the run ------------------------------------------------------------------------------ */

static struct guest *add(const char *name, const char *file, const char *symbol)
{
	guests[nguests] = (struct guest){ .name = name,
					  .plugin = { .file = file, .symbol = symbol } };
	return &guests[nguests++];
}

/* Loads it once for nothing, to find out what cannot be used, and then for the run. */
static int try_out(struct guest *guest)
{
	struct module *mod;
	bool found;

	for (int i = 0; i < 2; i++) {
		if (bring(guest) != 0) {
			fprintf(stderr, "cannot load the plugin: %s\n", module_last_error());
			return -1;
		}
		mod = module_find_get(host, guest->name);
		found = find_function(mod, guest->plugin.symbol, &guest->plugin.entry);
		if (found)
			plugin_first_answer(&guest->plugin);
		module_put(mod);
		if (!found) {
			fprintf(stderr, "%s\n", module_last_error());
			return -1;
		}
		if (i == 0 && module_unload(host, guest->name, 0, 0) != 0) {
			fprintf(stderr, "%s, so that unloading it would prove nothing\n",
				module_last_error());
			return -1;
		}
	}
	return 0;
}

/* Loads what is only ever replaced. */
static int set_up_permanent(const struct options *options)
{
	uintptr_t (*call)(void);
	struct module *mod;
	void *gate = NULL;

	keeper.file = options->keeper;
	left = options->left;
	right = options->right;
	if (!keeper.file)
		return 0;
	if (module_load_flags(host, keeper.file, "keeper", load_flags, &mod) == 0) {
		gate = module_gate_follow(mod, "keeper_call", 0);
		if (gate && find_function(mod, "keeper_call", &call))
			keeper.calls = call();
		module_handle_put(mod);
	}
	memcpy(&keeper.gate, &gate, sizeof(gate));
	if (gate && module_load_flags(host, right, "right", load_flags, NULL) == 0 &&
	    module_load_flags(host, left, "left", load_flags, NULL) == 0)
		return 0;
	fprintf(stderr, "cannot load the plugin: %s\n", module_last_error());
	return -1;
}

static int host_set_up(struct run *run, const struct options *options)
{
	static char names[MAX_PLUGINS][32];
	struct guest *sample = NULL, *other = NULL, *guest;

	nguests = 0;
	load_flags = run->scheme == &scheme_host_atomic ? MODULE_LOAD_ATOMIC : 0;
	host = module_host_new();
	for (unsigned i = 0; i < options->nplugins; i++) {
		snprintf(names[i], sizeof(names[i]), "plugin%u", i);
		guest = add(names[i], options->plugins[i].file, options->plugins[i].symbol);
		if (strcmp(options->plugins[i].symbol, "sample_answer") == 0 && !sample)
			sample = guest;
		else
			other = guest;
	}
	if (options->relay && sample) {
		guest = add("relay", options->relay, "relay_answer");
		guest->needs = sample;
		if (other) {
			/* The same file once more, as a module of its own. */
			guest = add("twin", sample->plugin.file, "sample_answer");
			guest->needs = other;
			guest->needs_by_hand = true;
		}
	}
	for (unsigned i = 0; i < nguests; i++)
		if (try_out(&guests[i]) != 0)
			return -1;
	return set_up_permanent(options);
}

/* Each call that was let in is in the count, and each other one was refused. */
static void check_permanent(const struct run *run)
{
	uint64_t calls = keeper.calls, refusals = 0, counted = 0, refused;
	struct module *mod = module_find_get(host, "keeper");
	uintptr_t (*call)(void);
	void *gate;

	for (unsigned i = 0; i < run->nworkers; i++) {
		calls += atomic_load(&run->workers[i].kept);
		refusals += atomic_load(&run->workers[i].kept_refusals);
	}
	if (mod && find_function(mod, "keeper_call", &call))
		counted = call() - 1;
	module_put(mod);
	if (counted != calls)
		violation(LOST_STATE, "'keeper' has counted %" PRIu64 " of %" PRIu64 " calls",
			  counted, calls);
	memcpy(&gate, &keeper.gate, sizeof(gate));
	refused = module_gate_refused(gate);
	if (refused != refusals)
		violation(LOST_STATE, "the gate has refused %" PRIu64 " calls, and %" PRIu64 " were",
			  refused, refusals);
	for (size_t i = 0; i < 3; i++)
		if (module_unload(host, ((const char *[]){ "keeper", "left", "right" })[i], 0, 0) < 0)
			violation(COUNT_LEFT, "it stays: %s", module_last_error());
}

/* All threads have ended: everything can be unloaded, users first, and nothing is left. */
static void host_tear_down(struct run *run)
{
	int64_t left;

	if (keeper.file)
		check_permanent(run);
	/* Who needs whom depends on what was loaded when. */
	for (unsigned pass = 0; pass < nguests; pass++)
		for (unsigned i = 0; i < nguests; i++)
			module_unload(host, guests[i].name, MODULE_UNLOAD_FORCE, 0);
	if (module_host_reap(host) < 0)
		violation(UNKNOWN_RESULT, "a reap failed: %s", module_last_error());
	for (unsigned i = 0; i < nguests; i++) {
		struct module *mod = module_find_get(host, guests[i].name);

		if (mod)
			violation(COUNT_LEFT, "module '%s' has a count of %lld at the end: %s",
				  guests[i].name, (long long)module_refcount(mod) - 1,
				  module_last_error());
		module_put(mod);
	}
	left = module_host_list(host, NULL, 0);
	if (left != 0 || module_host_free(host) != 0)
		violation(COUNT_LEFT, "the host is not empty at the end: %s", module_last_error());
}

const struct layer layer_host = {
	.set_up = host_set_up,
	.work = host_work,
	.attempt = host_attempt,
	.tear_down = host_tear_down,
};

const struct scheme scheme_host_atomic = {
	.name = "module host, atomic",
	.what = "through the host, references in one word each",
	.layer = &layer_host,
};

const struct scheme scheme_host_percpu = {
	.name = "module host, percpu",
	.what = "through the host, references counted per CPU",
	.layer = &layer_host,
};
