/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * hostload.c - the module host for long enough that a loss would show: libz replaced under
 * workers, and rounds of load and unload after which everything is counted.
 *
 *   hostload [REPLACEMENTS [ROUNDS]]
 */
#define _GNU_SOURCE
#include <errno.h>
#include <malloc.h>
#include <stdatomic.h>

#include "host.h"
#include "threads.h"

enum { WORKERS = 4 };

static struct module_host *host;
static _Atomic bool stop;
static _Atomic long calls, wrong, lost, unknown, late;

/* The checksum of what the workers ask for, by a table of our own. */
static unsigned long crc32_of(const unsigned char *bytes, size_t n)
{
	unsigned long crc = 0xffffffff;

	while (n-- > 0) {
		crc ^= *bytes++;
		for (int bit = 0; bit < 8; bit++)
			crc = crc & 1 ? (crc >> 1) ^ 0xedb88320 : crc >> 1;
	}
	return crc ^ 0xffffffff;
}

typedef unsigned long crc32_fn(unsigned long crc, const unsigned char *bytes, unsigned n);

/* The name is never without a module: a lookup that finds none is a call that is lost. */
static void *checksum(void *arg)
{
	unsigned char bytes[256];
	uintptr_t seed = (uintptr_t)arg;

	while (!atomic_load(&stop)) {
		struct module *libz = module_find_get(host, "libz");
		crc32_fn *crc32;
		void *symbol;

		if (!libz) {
			atomic_fetch_add(&lost, 1);
			continue;
		}
		symbol = module_symbol(libz, "crc32");
		memcpy(&crc32, &symbol, sizeof(crc32));
		for (int i = 0; i < 8; i++) {
			for (size_t j = 0; j < sizeof(bytes); j++)
				bytes[j] = (unsigned char)((seed = seed * 69069 + 1) >> 24);
			if (!crc32 || crc32(0, bytes, sizeof(bytes)) != crc32_of(bytes, sizeof(bytes)))
				atomic_fetch_add(&wrong, 1);
			atomic_fetch_add(&calls, 1);
		}
		module_put(libz);
	}
	return NULL;
}

/* Stacks of threads that run may have an address left that is this object's now: then it goes
 * with a later call. */
static void is_gone(int rc)
{
	if (rc == 0)
		return;
	printf("# unloaded with %d: %s\n", rc, module_last_error());
	atomic_fetch_add(rc == 1 ? &late : &unknown, 1);
}

static void replace_libz(long times)
{
	pthread_t threads[WORKERS];
	long done = 0, agree = 0;
	int lines;

	if (module_load(host, "libz.so.1", "libz", NULL) != 0) {
		ok(1, "replacing libz # SKIP there is no libz.so.1 here");
		return;
	}
	lines = mapped("libz.so");
	need(lines > 0);
	for (uintptr_t i = 0; i < WORKERS; i++)
		threads[i] = start_thread(checksum, (void *)(i + 1));
	for (long i = 0; i < times; i++) {
		int rc = module_replace(host, "libz", "libz.so.1", -1);

		is_gone(rc);
		done += rc >= 0;
		/* One object is mapped, in as many lines as at first. */
		for (int n = 0; n < 10000 && mapped("libz.so") != lines; n++) {
			need(module_host_reap(host) >= 0);
			sleep_ns(MILLISECOND);
		}
		agree += mapped("libz.so") == lines;
	}
	/* However few rounds there are, and however late the workers begin. */
	while (atomic_load(&calls) <= times)
		sched_yield();
	atomic_store(&stop, true);
	for (int i = 0; i < WORKERS; i++)
		pthread_join(threads[i], NULL);
	is(done, times, "libz is replaced %ld times under %d workers", times, (int)WORKERS);
	is(agree, times, "and each time the old one is gone from /proc/self/maps");
	is(atomic_load(&lost), 0, "no call is lost");
	is(atomic_load(&wrong), 0, "no checksum is wrong");
	printf("# calls: %ld\n", atomic_load(&calls));
	is(module_unload(host, "libz", 0, 0), 0, "and nobody holds it in the end");
}

/* ---- one file under several names ----------------------------------------------- */

void initialised(int before);

static _Atomic bool churned;
static _Atomic long loads, used;

void initialised(int before)
{
	atomic_fetch_add(&loads, 1);
	if (before != 0)
		atomic_fetch_add(&used, 1);
}

static void *churn(void *name)
{
	while (!atomic_load(&churned)) {
		if (module_load(host, plugin("fresh.so"), name, NULL) == 0)
			is_gone(module_unload(host, name, 0, 0));
		else
			atomic_fetch_add(&unknown, 1);
	}
	return NULL;
}

/* A library that is found by its name can be anybody's object of that name, or a copy. */
static void *churn_library(void *name)
{
	while (!atomic_load(&churned)) {
		struct module *mod;

		if (module_load(host, "libz.so.1", name, NULL) != 0) {
			atomic_fetch_add(&unknown, 1);
			continue;
		}
		mod = module_find_get(host, name);
		atomic_fetch_add(&wrong, !module_symbol(mod, "crc32"));
		module_put(mod);
		is_gone(module_unload(host, name, 0, 0));
	}
	return NULL;
}

static void one_file_under_several_names(void)
{
	static const char *const names[] = { "x", "y", "z", "u", "v" };
	bool libz = module_load(host, "libz.so.1", "libz", NULL) == 0;
	int n = libz ? 5 : 3;
	pthread_t threads[5];

	need(!libz || module_unload(host, "libz", 0, 0) == 0);
	for (int i = 0; i < n; i++)
		threads[i] = start_thread(i < 3 ? churn : churn_library,
				    (void *)(uintptr_t)names[i]);
	sleep(3);
	atomic_store(&churned, true);
	for (int i = 0; i < n; i++)
		pthread_join(threads[i], NULL);
	is(atomic_load(&wrong), 0, "each load of a library's name is that library");
	is(atomic_load(&used), 0, "each of %ld loads of one file has variables of its own",
	   atomic_load(&loads));
	is(atomic_load(&unknown), 0, "each is loaded, and unloaded, %ld of them with a later call",
	   atomic_load(&late));
	/* None is left in the end: round_of_all counts them. */
	need(module_host_reap(host) >= 0);
}

/* A round: everything that takes something. */
static void round_of_all(void)
{
	struct module *user, *held;

	need(module_load(host, plugin("libprovider.so"), "provider", NULL) == 0);
	need(module_load(host, plugin("user.so"), "user", &user) == 0);
	need(module_load(host, "/nowhere", "none", NULL) == -ENOENT);
	need(module_load(host, plugin("unresolved.so"), "none", NULL) == -ENOENT);
	need(module_replace(host, "user", plugin("hooked2.so"), 0) == 0);
	module_handle_put(user);
	held = module_find_get(host, "user");
	need(module_unload(host, "user", MODULE_UNLOAD_FORCE, 0) == 1);
	module_put(held);
	need(module_host_reap(host) == 1);
	/* A copy in memory, of what is loaded already. */
	need(module_load_flags(host, plugin("libprovider.so"), "copy", MODULE_LOAD_ATOMIC, NULL) == 0);
	need(module_unload(host, "copy", 0, 0) == 0);
	need(module_unload(host, "provider", 0, 0) == 0);
}

static void leaks(long rounds)
{
	struct mallinfo2 before, after;
	int files, maps;

	/* What is taken once and kept: the linker's and the arena's first memory. */
	for (int i = 0; i < 100; i++)
		round_of_all();
	before = mallinfo2();
	files = open_files();
	maps = mapped("");
	for (long i = 0; i < rounds; i++)
		round_of_all();
	after = mallinfo2();
	is(open_files(), files, "no descriptor is left after %ld rounds", rounds);
	/* Tombstones side by side are one mapping. */
	ok(mapped("") <= maps + 64, "no mapping is left, but for the newest tombstones");
	/* What is there goes up and down by some kilobytes; 64 of them are seven bytes a round. */
	ok(after.uordblks <= before.uordblks + 65536, "no memory is left: %zd bytes more",
	   (ssize_t)(after.uordblks - before.uordblks));
	is(module_host_list(host, NULL, 0), 0, "no module is left");
}

int main(int argc, char **argv)
{
	host = module_host_new();
	need(host);
	replace_libz(argc > 1 ? atol(argv[1]) : 1000);
	one_file_under_several_names();
	leaks(argc > 2 ? atol(argv[2]) : 10000);
	is(module_host_free(host), 0, "and the host is freed");
	return tap_done();
}
