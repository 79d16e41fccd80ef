/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * growth.c - what becomes dearer with more of it: counters, CPUs, modules?
 *
 *     growth [counters|memory|modules]
 *
 * counters: gets and puts on 1 to 100,000 counters, picked at random.
 * memory: what that many counters take.
 * modules: lookups by name, loads and unloads in a host with 1 to 10,000 modules, and dlopen and
 * dlclose in the same process. What is loaded needs seven libraries, which are there.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "peers/patch.h"
#include "bench.h"
#include "module_ref_inline.h"

enum { ROUNDS = 7, SIZES = 6 };
static const int sizes[SIZES] = { 1, 10, 100, 1000, 10000, 100000 };

/* A number below that one; cheap, because it is part of what is measured. */
static size_t below(uint32_t *random, int size)
{
	*random = *random * 1664525u + 1013904223u;
	return (size_t)(((uint64_t)*random * (uint32_t)size) >> 32);
}

/* ---- all CPUs at once ------------------------------------------------------------------ */

/* One turn of something, on one of so many. */
struct one_of {
	void (*turn)(uint32_t *random, int size);
	int size;
};

static void work(const void *sort, int thread, long n)
{
	static _Thread_local uint32_t random;
	const struct one_of *of = sort;

	random += (uint32_t)thread * 77777u;
	while (n-- > 0)
		of->turn(&random, of->size);
}

static double one_of_ns(void (*turn)(uint32_t *random, int size), int size, int threads,
			long batch)
{
	struct one_of of = { turn, size };
	struct crowd crowd = { threads, batch, work, &of, NULL, NULL };

	return crowd_ns(&crowd);
}

static int all_cpus(void)
{
	return cpus_allowed() < MOST_THREADS ? cpus_allowed() : MOST_THREADS;
}

/* ---- counters ------------------------------------------------------------------------------ */

/* In a structure of a cache line, as it would be in a table of what they count. */
static struct entry {
	_Alignas(64) struct module_ref percpu;
	struct module_ref shared;
	struct patch_ref patch;
} *table;

static void make_table(int size)
{
	table = aligned_alloc(64, (size_t)size * sizeof(*table));
	need(table != NULL, "aligned_alloc()");
	memset(table, 0, (size_t)size * sizeof(*table));
	for (int i = 0; i < size; i++) {
		need(module_ref_init_percpu(&table[i].percpu) == 0, "module_ref_init_percpu()");
		need(module_ref_init(&table[i].shared) == 0, "module_ref_init()");
		atomic_init(&table[i].patch.refcnt, 1);
	}
}

static void free_table(int size)
{
	for (int i = 0; i < size; i++) {
		module_ref_destroy(&table[i].percpu);
		module_ref_destroy(&table[i].shared);
	}
	free(table);
}

static void pair_percpu(uint32_t *random, int size)
{
	struct module_ref *ref = &table[below(random, size)].percpu;

	if (module_ref_try_get_inline(ref))
		module_ref_put_inline(ref);
}

static void pair_shared(uint32_t *random, int size)
{
	struct module_ref *ref = &table[below(random, size)].shared;

	if (module_ref_try_get(ref))
		module_ref_put(ref);
}

static void pair_patch(uint32_t *random, int size)
{
	struct patch_ref *ref = &table[below(random, size)].patch;

	if (patch_try_get_inline(ref))
		patch_put_inline(ref);
}

/* The first is left out where there is no counting per CPU. */
enum { PERCPU, SHARED, PATCH, KINDS };
static int first_kind;
static const struct candidate kinds[KINDS] = {
	{ .key = "percpu_inlined", .name = "module_ref, per-CPU, inlined", .ours = true,
	  .gives = "counts references", .lacks = "a cache line for each 8 counters on each CPU" },
	{ .key = "shared_called", .name = "module_ref, shared word, by calls", .ours = true,
	  .gives = "counts references", .lacks = "users of one counter share a cache line" },
	{ .key = "patch_inlined", .name = "the patch's counter, inlined",
	  .gives = "counts references", .lacks = "users of one counter share a cache line" },
};

static void counters(struct bench_options options)
{
	static void (*const pair[KINDS])(uint32_t *, int) = { pair_percpu, pair_shared, pair_patch };
	static double ns[SIZES][KINDS][MOST_ROUNDS];
	int threads = all_cpus();

	for (int s = 0; s < SIZES; s++) {
		make_table(sizes[s]);
		for (int round = 0; round < options.rounds; round++)
			for (int k = first_kind; k < KINDS; k++)
				ns[s][k][round] = one_of_ns(pair[k], sizes[s], threads, 100);
		free_table(sizes[s]);
	}
	printf("counters, used by %d thread%s at random, ratio of one turn to the other: median\n",
	       threads, threads > 1 ? "s" : "");
	for (int s = 0; s < SIZES && first_kind == PERCPU; s++) {
		printf("%7d", sizes[s]);
		bench_ratio("per-CPU to the patch, inlined, on one of so many counters",
			    kinds[PERCPU].key, kinds[PATCH].key, ns[s][PERCPU], ns[s][PATCH],
			    options.rounds, 0, "\"sweep\":\"counters\",\"counters\":%d,\"threads\":%d",
			    sizes[s], threads);
	}
	for (int k = first_kind; k < KINDS; k++) {
		printf("%s, ns per pair: median [quartiles]\n", kinds[k].name);
		for (int s = 0; s < SIZES; s++) {
			char name[32];

			snprintf(name, sizeof(name), "%d counters", sizes[s]);
			bench_line(ns[s][k], options.rounds, name);
			bench_cell(kinds[k].key, "ns per pair", ns[s][k], options.rounds,
				   "\"sweep\":\"counters\",\"counters\":%d,\"threads\":%d", sizes[s],
				   threads);
		}
	}
	putchar('\n');
}

/* ---- memory ---------------------------------------------------------------------------- */

static double resident_bytes(void)
{
	long size, resident = 0;
	FILE *statm = fopen("/proc/self/statm", "r");

	need(statm && fscanf(statm, "%ld %ld", &size, &resident) == 2, "/proc/self/statm");
	fclose(statm);
	return (double)resident * (double)sysconf(_SC_PAGESIZE);
}

static double bytes_each(int size)
{
	struct module_ref *refs = aligned_alloc(64, ((size_t)size * sizeof(*refs) + 63) / 64 * 64);
	double before, after;

	need(refs != NULL, "aligned_alloc()");
	memset(refs, 0, (size_t)size * sizeof(*refs));
	before = resident_bytes();
	for (int i = 0; i < size; i++)
		need(module_ref_init_percpu(&refs[i]) == 0, "module_ref_init_percpu()");
	/* Used on every CPU, so that every page there may be is there. */
	for (int cpu = 0; cpu < cpus_allowed(); cpu++) {
		run_on(cpu);
		for (int i = 0; i < size; i++)
			if (module_ref_try_get(&refs[i]))
				module_ref_put(&refs[i]);
	}
	after = resident_bytes();
	for (int i = 0; i < size; i++)
		module_ref_destroy(&refs[i]);
	free(refs);
	return (after - before) / size;
}

static void memory(void)
{
	int most = sizes[SIZES - 1];
	double bytes = bytes_each(most);

	printf("memory of per-CPU counters used on %d CPUs, bytes each beside the %zu of struct "
	       "module_ref\n", cpus_allowed(), sizeof(struct module_ref));
	printf("  %9.2f  %d counters; 8 bytes for each CPU are %d\n\n", bytes, most,
	       8 * cpus_allowed());
	bench_cell("percpu_called", "bytes per counter", &bytes, 1,
		   "\"sweep\":\"memory\",\"counters\":%d", most);
}

/* ---- modules -------------------------------------------------------------------------------- */

enum { MOST_MODULES = 10000, MODULE_SIZES = 4, LOOKUPS = 2, LOADERS = 2 };
static const int module_sizes[MODULE_SIZES] = { 1, 1000, 3000, MOST_MODULES };
static const struct candidate lookups[LOOKUPS] = {
	{ .key = "host_find_get", .name = "module_find_get and module_put", .ours = true,
	  .gives = "whatever has the name now, held",
	  .lacks = "finds modules of its host only" },
	{ .key = "dlopen_noload", .name = "dlopen(RTLD_NOLOAD) and dlclose",
	  .gives = "whatever is mapped under the name, held",
	  .lacks = "one lock for the whole process; the list of all objects is walked" },
};

static const struct candidate loaders[LOADERS] = {
	{ .key = "module_load", .name = "module host", .ours = true,
	  .gives = "init and exit functions, dependencies, states; an unload that is one",
	  .lacks = "the linker walks its list of all objects" },
	{ .key = "dlopen", .name = "dlopen and dlclose",
	  .gives = "an object that is mapped", .lacks = "all that a host does" },
};

static struct module_host *host;
static char folder[] = "/tmp/module-ref-growth-XXXXXX";
static char paths[MOST_MODULES][64], names[MOST_MODULES][16];

static void copy_plugin(const char *from, const char *to)
{
	char buffer[65536];
	FILE *in = fopen(from, "rb"), *out = fopen(to, "wb");
	size_t n;

	need(in && out, "fopen()");
	while ((n = fread(buffer, 1, sizeof(buffer), in)) > 0)
		need(fwrite(buffer, 1, n, out) == n, "fwrite()");
	fclose(in);
	need(fclose(out) == 0, "fclose()");
}

static void look_up(uint32_t *random, int size)
{
	struct module *module = module_find_get(host, names[below(random, size)]);

	if (module)
		module_put(module);
}

static void look_up_dlopen(uint32_t *random, int size)
{
	void *handle = dlopen(paths[below(random, size)], RTLD_NOW | RTLD_NOLOAD);

	if (handle)
		dlclose(handle);
}

/* Loads one more object and unloads it, in a host of that size, and without the host. */
static void load_and_unload(int size, int rounds)
{
	enum { LOAD, UNLOAD, STEPS };
	static const char *const step[STEPS] = { "load", "unload" };
	static double ns[STEPS][LOADERS][MOST_ROUNDS];
	char extra[80];

	snprintf(extra, sizeof(extra), "%s/extra.so", folder);
	copy_plugin(SEVEN, extra);
	for (int round = 0; round < rounds; round++) {
		double began = now_ns();
		void *object;

		need(module_load(host, extra, "extra", NULL) == 0, module_last_error());
		ns[LOAD][0][round] = now_ns() - began;
		began = now_ns();
		need(module_unload(host, "extra", 0, 0) == 0, module_last_error());
		ns[UNLOAD][0][round] = now_ns() - began;
		began = now_ns();
		need((object = dlopen(extra, RTLD_NOW)) != NULL, "dlopen()");
		ns[LOAD][1][round] = now_ns() - began;
		began = now_ns();
		need(dlclose(object) == 0, "dlclose()");
		ns[UNLOAD][1][round] = now_ns() - began;
	}
	unlink(extra);
	printf("a host of %d modules, another one that needs 7 libraries: ratio, and ns\n", size);
	for (int s = 0; s < STEPS; s++) {
		bench_ratio(step[s], loaders[0].key, loaders[1].key, ns[s][0], ns[s][1], rounds, 1.5,
			    "\"sweep\":\"modules\",\"modules\":%d,\"threads\":1,\"measure\":\"%s\"", size,
			    step[s]);
		for (int l = 0; l < LOADERS; l++) {
			bench_line(ns[s][l], rounds, loaders[l].name);
			bench_cell(loaders[l].key, "ns", ns[s][l], rounds,
				   "\"sweep\":\"modules\",\"modules\":%d,\"threads\":1,"
				   "\"measure\":\"%s\"", size, step[s]);
		}
	}
}

static void modules(struct bench_options options)
{
	static void (*const look[LOOKUPS])(uint32_t *, int) = { look_up, look_up_dlopen };
	static double ns[LOOKUPS][MOST_ROUNDS];
	int loaded = 0, sizes_here = options.quick ? MODULE_SIZES - 1 : MODULE_SIZES;

	need(mkdtemp(folder) != NULL, "mkdtemp()");
	need(dlopen(SEVEN, RTLD_NOW) != NULL, "the libraries that are there");
	host = module_host_new();
	need(host != NULL, "module_host_new()");
	for (int s = 0; s < sizes_here; s++) {
		for (; loaded < module_sizes[s]; loaded++) {
			snprintf(names[loaded], sizeof(names[0]), "module%d", loaded);
			snprintf(paths[loaded], sizeof(paths[0]), "%s/%s.so", folder, names[loaded]);
			copy_plugin(TINY, paths[loaded]);
			need(module_load(host, paths[loaded], NULL, NULL) == 0,
			     module_last_error());
		}
		load_and_unload(loaded, options.rounds);
		for (int threads = 1; threads <= all_cpus(); threads *= 2) {
			for (int round = 0; round < options.rounds; round++)
				for (int c = 0; c < LOOKUPS; c++)
					ns[c][round] = one_of_ns(look[c], loaded, threads, 10);
			printf("%d thread%s, lookup of one at random: ratio, and ns\n", threads,
			       threads > 1 ? "s" : "");
			bench_ratio("lookup by name to dlopen's", lookups[0].key, lookups[1].key, ns[0], ns[1],
				    options.rounds, 0,
				    "\"sweep\":\"modules\",\"modules\":%d,\"threads\":%d,"
				    "\"measure\":\"lookup\"", loaded, threads);
			for (int c = 0; c < LOOKUPS; c++) {
				bench_line(ns[c], options.rounds, lookups[c].name);
				bench_cell(lookups[c].key, "ns", ns[c], options.rounds,
					   "\"sweep\":\"modules\",\"modules\":%d,\"threads\":%d,"
					   "\"measure\":\"lookup\"", loaded, threads);
			}
		}
	}
	while (loaded-- > 0) {
		need(module_unload(host, names[loaded], 0, 0) == 0, module_last_error());
		unlink(paths[loaded]);
	}
	need(module_host_free(host) == 0, "module_host_free()");
	rmdir(folder);
}

static bool counts_per_cpu(void)
{
	struct module_ref ref = { 0 };
	bool said;

	need(module_ref_init_percpu(&ref) == 0, "module_ref_init_percpu()");
	said = module_ref_mode(&ref) == MODULE_REF_PERCPU;
	module_ref_destroy(&ref);
	return percpu_there(said);
}

int main(int argc, char **argv)
{
	struct bench_options options = bench_start(argc, argv, "growth",
						   "[counters|memory|modules]", ROUNDS);
	const char *what = options.what;

	first_kind = counts_per_cpu() ? PERCPU : SHARED;
	if (first_kind != PERCPU)
		bench_skipped(kinds[PERCPU].name, NO_PERCPU);
	for (int k = first_kind; k < KINDS; k++)
		bench_candidate(&kinds[k]);
	for (int c = 0; c < LOOKUPS; c++)
		bench_candidate(&lookups[c]);
	for (int l = 0; l < LOADERS; l++)
		bench_candidate(&loaders[l]);
	if (what && strcmp(what, "counters") && strcmp(what, "memory") && strcmp(what, "modules")) {
		fprintf(stderr, "growth: there is no '%s': counters, memory or modules\n", what);
		return 2;
	}
	/* Before other counters have left memory behind that can be used again. */
	if (first_kind == PERCPU && (!what || strcmp(what, "memory") == 0))
		memory();
	if (!what || strcmp(what, "counters") == 0)
		counters(options);
	if (!what || strcmp(what, "modules") == 0)
		modules(options);
	return 0;
}
