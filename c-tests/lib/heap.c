/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * heap.c - see heap.h.
 */
#include "heap.h"

#include <errno.h>
#include <malloc.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdlib.h>

extern void *__libc_malloc(size_t size);
extern void *__libc_calloc(size_t n, size_t size);
extern void *__libc_realloc(void *block, size_t size);
extern void *__libc_memalign(size_t alignment, size_t size);
extern void __libc_free(void *block);

static _Atomic long blocks, asked, failed, fail_first, fail_times;

long heap_blocks(void)
{
	return atomic_load(&blocks);
}

void heap_fail(long n, long times)
{
	atomic_store(&fail_first, n);
	atomic_store(&fail_times, times);
	atomic_store(&asked, 0);
	atomic_store(&failed, 0);
}

void heap_stop(void)
{
	atomic_store(&fail_first, 0);
}

long heap_failed(void)
{
	return atomic_load(&failed);
}

static bool fails(void)
{
	long n = atomic_fetch_add(&asked, 1) + 1, first = atomic_load(&fail_first);

	if (first == 0 || n < first || n - first >= atomic_load(&fail_times))
		return false;
	atomic_fetch_add(&failed, 1);
	errno = ENOMEM;
	return true;
}

static void *counted(void *block)
{
	if (block)
		atomic_fetch_add(&blocks, 1);
	return block;
}

void *malloc(size_t size)
{
	return fails() ? NULL : counted(__libc_malloc(size));
}

void *calloc(size_t n, size_t size)
{
	return fails() ? NULL : counted(__libc_calloc(n, size));
}

void *realloc(void *block, size_t size)
{
	if (fails())
		return NULL;
	return block ? __libc_realloc(block, size) : counted(__libc_malloc(size));
}

void *memalign(size_t alignment, size_t size)
{
	return fails() ? NULL : counted(__libc_memalign(alignment, size));
}

void *aligned_alloc(size_t alignment, size_t size)
{
	return memalign(alignment, size);
}

int posix_memalign(void **block, size_t alignment, size_t size)
{
	*block = memalign(alignment, size);
	return *block ? 0 : ENOMEM;
}

void free(void *block)
{
	if (block)
		atomic_fetch_sub(&blocks, 1);
	__libc_free(block);
}
