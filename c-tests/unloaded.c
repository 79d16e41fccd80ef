/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * unloaded.c - inlined gets and puts in plugins that are then unmapped, while the
 * threads that ran them live on: the kernel must not follow a descriptor that is gone.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <libgen.h>
#include <limits.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <unistd.h>

#include "module_ref_inline.h"
#include "oracle.h"
#include "threads.h"

enum { THREADS = 4, ROUNDS = 300 };

static struct module_ref counted, in_a_word = MODULE_REF_INIT, plugin = MODULE_REF_INIT;
static long (*_Atomic entry)(struct module_ref *, long);
static _Atomic int stop;
static _Atomic long calls, left;

static void *work(void *arg)
{
	struct module_ref *ref = arg;

	while (!atomic_load(&stop)) {
		if (module_ref_try_get(&plugin)) {
			atomic_fetch_add(&left, atomic_load(&entry)(ref, 1000));
			atomic_fetch_add(&calls, 1);
			module_ref_put(&plugin);
		}
		sched_yield(); /* the kernel looks at the descriptor here */
	}
	return NULL;
}

int main(int argc, char **argv)
{
	char program[PATH_MAX], path[PATH_MAX + 16];
	pthread_t threads[THREADS];

	snprintf(program, sizeof(program), "%s", argv[0]);
	snprintf(path, sizeof(path), "%s/counting.so", dirname(program));
	need(module_ref_init_percpu(&counted) == 0);
	need(module_ref_try_release(&plugin) == 0);
	for (int i = 0; i < THREADS; i++)
		threads[i] = start_thread(work, i % 2 ? &counted : &in_a_word);
	for (int round = 0; round < ROUNDS; round++) {
		void *handle = dlopen(path, RTLD_NOW), *symbol;
		long (*function)(struct module_ref *, long);
		long before = atomic_load(&calls);

		need(handle && (symbol = dlsym(handle, "count_rounds")));
		memcpy(&function, &symbol, sizeof(function));
		atomic_store(&entry, function);
		need(module_ref_reinit(&plugin) == 0);
		while (atomic_load(&calls) < before + THREADS)
			sched_yield();
		need(module_ref_drain(&plugin, -1) == 0);
		need(dlclose(handle) == 0 && !dlopen(path, RTLD_NOW | RTLD_NOLOAD));
	}
	atomic_store(&stop, 1);
	for (int i = 0; i < THREADS; i++)
		pthread_join(threads[i], NULL);
	ok(1, "%d unloads of a plugin that counts inline, %ld calls into it", ROUNDS,
	   atomic_load(&calls));
	ok(module_ref_area || !has_per_cpu(), "which know where a thread's area is");
	is(atomic_load(&left), 0, "and leave no descriptor in its code");
	is(module_ref_count(&counted) + module_ref_count(&in_a_word), 0, "and it all adds up");
	is(module_ref_try_release(&counted), 0, "released");
	is(module_ref_try_release(&in_a_word), 0, "and the one in a word, too");
	return tap_done();
}
