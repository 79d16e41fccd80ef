/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * planted.c - bugs for the sanitizers and valgrind to find, before they are believed when they
 * find none. Compiled twice: with -DPLUGIN as a plugin, and as the program that loads it.
 *
 *   planted BUG PLUGIN
 *
 *   overflow    a plugin reads behind its memory
 *   undefined   a plugin adds to the largest int
 *   unloaded    a plugin is called after its dlclose()
 *   leak        a plugin forgets its memory
 *   rust        the library, given too little memory for a counter, writes behind it
 *   locks       two mutexes are locked in both orders
 */
#include <dlfcn.h>
#include <limits.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "module_ref.h"

long overflow(int n);
long undefined(int n);
long leak(int n);

#ifdef PLUGIN

static volatile int largest = INT_MAX;

long overflow(int n)
{
	volatile char *memory = malloc(8);
	long there = memory[7 + n];

	free((void *)(size_t)memory);
	return there;
}

long undefined(int n)
{
	return largest + n;
}

long leak(int n)
{
	long sum = 0;

	/* The last one or two may still be found in a register. */
	for (int i = 0; i < 10; i++) {
		volatile char *memory = malloc(100);

		memory[n] = 1;
		sum += memory[n];
	}
	return sum;
}

#else

static pthread_mutex_t a = PTHREAD_MUTEX_INITIALIZER, b = PTHREAD_MUTEX_INITIALIZER;

static void both(pthread_mutex_t *first, pthread_mutex_t *second)
{
	pthread_mutex_lock(first);
	pthread_mutex_lock(second);
	pthread_mutex_unlock(second);
	pthread_mutex_unlock(first);
}

static int in_plugin(const char *name, const char *path)
{
	void *handle = dlopen(path, RTLD_NOW), *symbol;
	long (*function)(int);

	symbol = handle ? dlsym(handle, strcmp(name, "unloaded") == 0 ? "undefined" : name) : NULL;
	if (!symbol)
		return 2;
	memcpy(&function, &symbol, sizeof(function));
	if (strcmp(name, "unloaded") == 0)
		dlclose(handle);
	printf("%ld\n", function(1));
	return 0;
}

int main(int argc, char **argv)
{
	if (argc != 3)
		return 2;
	if (strcmp(argv[1], "rust") == 0) {
		void *memory = malloc(8); /* aligned to 16, as malloc's is */
		int rc = module_ref_init(memory);

		free(memory);
		return rc;
	}
	if (strcmp(argv[1], "locks") == 0) {
		both(&a, &b);
		both(&b, &a);
		return 0;
	}
	return in_plugin(argv[1], argv[2]);
}

#endif
