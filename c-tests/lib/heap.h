/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * heap.h - a malloc that counts, and that can fail: the C library's own, behind functions of
 * the program's, which everything in the process then calls. (glibc.)
 */
#ifndef HEAP_H
#define HEAP_H

/* Blocks that are allocated and not freed. */
long heap_blocks(void);

/* The allocations from the nth from now on fail, so many of them, until heap_stop(). */
void heap_fail(long n, long times);
void heap_stop(void);

/* How many have failed since heap_fail(). */
long heap_failed(void);

#endif
