/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * statictls.c - a plugin whose thread-local storage lies beside each thread's own block, where
 * there is little room.
 */
static __thread char much[600] __attribute__((tls_model("initial-exec")));

char *address_of_much(void);

char *address_of_much(void)
{
	return much;
}
