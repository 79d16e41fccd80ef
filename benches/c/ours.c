/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * ours.c - this library: inlined, by calls, and through the module host.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "candidates.h"
#include "module_ref_inline.h"

static struct {
	_Alignas(APART) struct module_ref ref;
} shared[MOST_THREADS], percpu[MOST_THREADS];

static struct module_host *host;
static struct {
	_Alignas(APART) struct module *module;
	char name[16];
	long (*function)(void), (*gate)(void);
} modules[MOST_THREADS];

static bool set_up_shared(void)
{
	for (int i = 0; i < MOST_THREADS; i++)
		need(module_ref_init(&shared[i].ref) == 0, "module_ref_init()");
	return true;
}

/* By two candidates: the second finds it done. */
static bool set_up_percpu(void)
{
	static bool done;

	for (int i = 0; i < MOST_THREADS && !done; i++)
		need(module_ref_init_percpu(&percpu[i].ref) == 0, "module_ref_init_percpu()");
	done = true;
	return percpu_there(module_ref_mode(&percpu[0].ref) == MODULE_REF_PERCPU);
}

static bool set_up_host(void)
{
	if (host)
		return true;
	host = module_host_new();
	need(host != NULL, "module_host_new()");
	for (int i = 0; i < MOST_THREADS; i++) {
		snprintf(modules[i].name, sizeof(modules[i].name), "plugin%d", i);
		need(module_load(host, TINY, modules[i].name, &modules[i].module) == 0,
		     module_last_error());
	}
	return true;
}

static bool set_up_gate(void)
{
	set_up_host();
	for (int i = 0; i < MOST_THREADS; i++) {
		struct module *mod = modules[i].module;
		void *function, *gate;

		need(module_try_get(mod), "module_try_get()");
		function = module_symbol(mod, "answer");
		need(function != NULL, module_last_error());
		gate = module_gate(mod, function, 0);
		module_put(mod);
		memcpy(&modules[i].function, &function, sizeof(function));
		memcpy(&modules[i].gate, &gate, sizeof(gate));
		if (!gate)
			return false;
	}
	return true;
}

PAIRS(pairs_percpu_inlined, if (!module_ref_try_get_inline(&percpu[counter].ref)) abort(),
      module_ref_put_inline(&percpu[counter].ref))
PAIRS(pairs_percpu_called, if (!module_ref_try_get(&percpu[counter].ref)) abort(),
      module_ref_put(&percpu[counter].ref))
PAIRS(pairs_shared_called, if (!module_ref_try_get(&shared[counter].ref)) abort(),
      module_ref_put(&shared[counter].ref))
PAIRS(pairs_host_try_get, if (!module_try_get(modules[counter].module)) abort(),
      module_put(modules[counter].module))
PAIRS(pairs_host_find_get,
      if (module_find_get(host, modules[counter].name) != modules[counter].module) abort(),
      module_put(modules[counter].module))
PAIRS(pairs_call, if (!module_try_get(modules[counter].module)) abort();
      modules[counter].function(), module_put(modules[counter].module))
PAIRS(pairs_gate, modules[counter].gate(), )

#define COUNTS "counts references; an unload is refused or waits, and refuses who comes later"
#define SHARED_LACKS "users of one counter share a cache line"
#define PERCPU_LACKS "8 bytes per possible CPU; a membarrier for each release"

CANDIDATE(percpu_inlined, "module_ref, per-CPU, inlined",
	  .ours = true, .gives = COUNTS, .lacks = PERCPU_LACKS, .set_up = set_up_percpu,
	  .pairs = pairs_percpu_inlined)

CANDIDATE(percpu_called, "module_ref, per-CPU, by calls",
	  .ours = true, .gives = COUNTS, .lacks = PERCPU_LACKS, .set_up = set_up_percpu,
	  .pairs = pairs_percpu_called)

CANDIDATE(shared_called, "module_ref, shared word, by calls",
	  .ours = true, .gives = COUNTS, .lacks = SHARED_LACKS, .set_up = set_up_shared,
	  .pairs = pairs_shared_called)

CANDIDATE(host_try_get, "module host: module_try_get, by calls",
	  .ours = true, .gives = COUNTS " of a shared object; false for ever once it is gone",
	  .lacks = "needs a pointer from an earlier lookup", .set_up = set_up_host,
	  .pairs = pairs_host_try_get)

CANDIDATE(host_call, "module host: module_try_get, a call, module_put",
	  .ours = true, .gives = COUNTS " of a shared object; false for ever once it is gone",
	  .lacks = "the caller has to know of references", .set_up = set_up_gate,
	  .pairs = pairs_call)

CANDIDATE(host_gate, "module host: a call through a gate",
	  .ours = true, .gives = "the same for callers that know nothing of references",
	  .lacks = "arguments have to go in registers", .set_up = set_up_gate, .pairs = pairs_gate)

CANDIDATE(host_find_get, "module host: module_find_get, by name",
	  .ours = true, .gives = "finds whatever has the name now, and takes a reference on it",
	  .lacks = "a table is searched each time", .set_up = set_up_host,
	  .pairs = pairs_host_find_get)

bool rust_counts_per_cpu(void);
void rust_percpu(int counter, long n);
void rust_shared(int counter, long n);

static bool set_up_percpu_rust(void)
{
	return percpu_there(rust_counts_per_cpu());
}

CANDIDATE(percpu_rust, "module_ref, per-CPU, guard in Rust",
	  .ours = true, .gives = COUNTS, .lacks = PERCPU_LACKS, .set_up = set_up_percpu_rust,
	  .pairs = rust_percpu)

CANDIDATE(shared_rust, "module_ref, shared word, guard in Rust",
	  .ours = true, .gives = COUNTS, .lacks = SHARED_LACKS, .pairs = rust_shared)
