/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * deny.c - runs a program in a sandbox that refuses one system call:
 *
 *     deny membarrier|rseq PROGRAM [ARGUMENT]...
 */
#define _GNU_SOURCE
#include <stdio.h>
#include <string.h>

#include "filter.h"

int main(int argc, char **argv)
{
	int rseq = argc > 2 && strcmp(argv[1], "rseq") == 0;

	if (argc < 3) {
		fputs("usage: deny membarrier|rseq PROGRAM [ARGUMENT]...\n", stderr);
		return 2;
	}
	if (refuse_call(rseq ? SYS_rseq : SYS_membarrier, 0) != 0) {
		perror("deny: no sandbox");
		return 2;
	}
	execv(argv[2], argv + 2);
	perror(argv[2]);
	return 2;
}
