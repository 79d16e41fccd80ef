/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * rot13.c - a driver in the kernel's style: a character device that gives back what was
 * written to it last, each letter moved by 13 places.
 */
#include <ctype.h>
#include <linux/module.h>
#include <stdlib.h>
#include <string.h>

#include "chrdev.h"

struct rot13 {
	size_t used;
	char text[64];
};

static int rot13_open(struct file *file)
{
	struct rot13 *state = calloc(1, sizeof(*state));

	if (!state)
		return -ENOMEM;
	file->private_data = state;
	return 0;
}

static int rot13_release(struct file *file)
{
	free(file->private_data);
	return 0;
}

static ssize_t rot13_write(struct file *file, const char *from, size_t size)
{
	struct rot13 *state = file->private_data;

	if (size > sizeof(state->text))
		size = sizeof(state->text);
	for (size_t i = 0; i < size; i++) {
		char c = from[i], a = isupper((unsigned char)c) ? 'A' : 'a';

		state->text[i] = isalpha((unsigned char)c) ? (char)((c - a + 13) % 26 + a) : c;
	}
	state->used = size;
	return (ssize_t)size;
}

static ssize_t rot13_read(struct file *file, char *to, size_t size)
{
	struct rot13 *state = file->private_data;

	if (size > state->used)
		size = state->used;
	memcpy(to, state->text, size);
	state->used -= size;
	memmove(state->text, state->text + size, state->used);
	return (ssize_t)size;
}

static const struct file_operations rot13_fops = {
	.owner = THIS_MODULE,
	.open = rot13_open,
	.release = rot13_release,
	.read = rot13_read,
	.write = rot13_write,
};

static int __init rot13_init(void)
{
	return register_chrdev("rot13", &rot13_fops);
}

static void __exit rot13_exit(void)
{
	unregister_chrdev("rot13");
}

module_init(rot13_init);
module_exit(rot13_exit);
MODULE_LICENSE("Dual MIT/GPL");
MODULE_DESCRIPTION("moves letters by 13 places");
