/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * crowd.c - 100,000 counters that 8 threads use on a machine with 512 CPUs: what the slots take, and
 * what a release reads.
 *
 * The machine is simulated. The program stands before the C library with the number of CPUs, with what
 * the kernel fills in, and with the place of a struct rseq in which it writes what the kernel would:
 * a CPU that is another one each time, and a number of its own for each thread. What is missing is the
 * kernel, which would interrupt a sequence; nobody else adds to a thread's row.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <pthread.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <time.h>
#include <unistd.h>

#include "module_ref_inline.h"
#include "oracle.h"
#include "tap.h"
#include "threads.h"

enum { CPUS = 512, THREADS = 8, COUNTERS = 100000 };

static struct module_ref counters[COUNTERS];

#if (defined(__x86_64__) || defined(__aarch64__)) && defined(__linux__) && !defined(__ILP32__)

struct area {
	uint32_t cpu_id_start, cpu_id;
	uint64_t rseq_cs;
	uint32_t flags, node_id, mm_cid, padding;
};

static _Thread_local struct area area __attribute__((aligned(32), tls_model("local-exec")));

/* The C library's names, which the library asks for. */
ptrdiff_t __rseq_offset;
const unsigned int __rseq_size = 28;

long sysconf(int name)
{
	static long (*next)(int);
	void *symbol = dlsym(RTLD_NEXT, "sysconf");

	memcpy(&next, &symbol, sizeof(next));
	return name == _SC_NPROCESSORS_CONF ? CPUS : next(name);
}

unsigned long getauxval(unsigned long type)
{
	static unsigned long (*next)(unsigned long);
	void *symbol = dlsym(RTLD_NEXT, "getauxval");

	memcpy(&next, &symbol, sizeof(next));
	return type == 27 ? sizeof(area) - 4 : next(type);
}

/* Before any library's constructor. */
static void find_area(void)
{
	__rseq_offset = (char *)&area - (char *)__builtin_thread_pointer();
}

__attribute__((section(".preinit_array"), used)) static void (*const before_all)(void) = find_area;

static void move_to(uint32_t cpu)
{
	area.cpu_id = area.cpu_id_start = cpu;
}

static void be_thread(uint32_t number)
{
	area.mm_cid = number;
}

#else

static void move_to(uint32_t cpu)
{
	(void)cpu;
}

static void be_thread(uint32_t number)
{
	(void)number;
}

#endif

static void *use_all(void *arg)
{
	uint32_t number = (uint32_t)(size_t)arg, random = number + 1;

	be_thread(number);
	for (int n = 0; n < COUNTERS; n++) {
		random = random * 1664525u + 1013904223u;
		move_to(random >> 23);
		need(module_ref_try_get_inline(&counters[n]));
		random = random * 1664525u + 1013904223u;
		move_to(random >> 23);
		need(module_ref_try_get(&counters[n]));
		module_ref_put_inline(&counters[n]);
	}
	return NULL;
}

/* Resident memory, in KiB. */
static long resident(void)
{
	FILE *file = fopen("/proc/self/statm", "re");
	long size, pages;

	need(file && fscanf(file, "%ld %ld", &size, &pages) == 2);
	fclose(file);
	return pages * (sysconf(_SC_PAGESIZE) / 1024);
}

static double microseconds(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (double)now.tv_sec * 1e6 + (double)now.tv_nsec / 1e3;
}

int main(void)
{
	pthread_t threads[THREADS];
	long before, taken, wrong = 0;
	double start;

	if (why_not_per_cpu()) {
		ok(1, "a crowd # SKIP %s", why_not_per_cpu());
		return tap_done();
	}
	memset(counters, 0, sizeof(counters));
	before = resident();
	for (int n = 0; n < COUNTERS; n++)
		need(module_ref_init_percpu(&counters[n]) == 0);
	is(module_ref_mode(&counters[0]), MODULE_REF_PERCPU, "the mode");
	for (size_t n = 0; n < THREADS; n++)
		threads[n] = start_thread(use_all, (void *)n);
	for (size_t n = 0; n < THREADS; n++)
		pthread_join(threads[n], NULL);
	taken = resident() - before;
	ok(taken < 16 * 1024, "the slots of %d counters, %d threads and %d CPUs take %ld KiB", COUNTERS,
	   THREADS, CPUS, taken);
	for (int n = 0; n < COUNTERS; n++)
		wrong += module_ref_count(&counters[n]) != THREADS;
	is(wrong, 0, "each counts %d", THREADS);
	for (int n = 0; n < COUNTERS; n++)
		for (int put = 0; put < THREADS; put++)
			module_ref_put(&counters[n]);
	start = microseconds();
	need(module_ref_try_release(&counters[0]) == 0);
	printf("# the first release took %.1f us\n", microseconds() - start);
	for (int n = 1; n < COUNTERS; n++)
		wrong += module_ref_try_release(&counters[n]) != 0;
	is(wrong, 0, "and each can be released then");
	return tap_done();
}
