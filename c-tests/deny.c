/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * deny.c - runs a program in a sandbox that refuses one system call, or says that it was done:
 *
 *     deny membarrier|rseq|process_vm_readv|no-barrier PROGRAM [ARGUMENT]...
 */
#define _GNU_SOURCE
#include <stdio.h>
#include <string.h>

#include "filter.h"

int main(int argc, char **argv)
{
	static const struct {
		const char *name;
		unsigned number, answer;
	} calls[] = { { "membarrier", SYS_membarrier, EPERM },
		      { "rseq", SYS_rseq, EPERM },
		      { "process_vm_readv", SYS_process_vm_readv, EPERM },
		      { "no-barrier", SYS_membarrier, 0 } };
	size_t i = 0, n = sizeof(calls) / sizeof(calls[0]);

	while (argc > 2 && i < n && strcmp(argv[1], calls[i].name) != 0)
		i++;
	if (argc < 3 || i == n) {
		fputs("usage: deny membarrier|rseq|process_vm_readv|no-barrier PROGRAM [ARGUMENT]...\n", stderr);
		return 2;
	}
	if (answer_call(calls[i].number, calls[i].answer, 0) != 0) {
		perror("deny: no sandbox");
		return 2;
	}
	execv(argv[2], argv + 2);
	perror(argv[2]);
	return 2;
}
