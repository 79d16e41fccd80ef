/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * driver_user.c - a module that uses another one's symbols without being linked with it.
 */
#include <linux/errno.h>
#include <linux/kmod.h>
#include <linux/module.h>

#include "driver.h"

static bool autoload;
module_param(autoload, bool, 0444);
MODULE_PARM_DESC(autoload, "request the driver");

static const struct ring_operations *ring;
static long (*capacity)(void);

long echo(const char *text, char *back, size_t size)
{
	struct ring_file *file;
	size_t length = strlen(text);
	long count;

	if (length > (size_t)capacity() || length > size)
		return -EMSGSIZE;
	/* symbol_get() holds the owner for us. */
	count = ring->open(&file);
	if (count)
		return count;
	count = ring->write(file, text, length);
	if (count > 0)
		count = ring->read(file, back, (size_t)count);
	ring->release(file);
	return count;
}
EXPORT_SYMBOL(echo);

static int __init user_init(void)
{
	int rc = autoload ? request_module("%s", "driver") : 0;

	if (rc)
		return rc;
	ring = symbol_get(ring_operations);
	if (!ring)
		return -ENXIO;
	capacity = symbol_get(ring_capacity);
	if (!capacity) {
		symbol_put(ring_operations);
		return -ENXIO;
	}
	return 0;
}

static void __exit user_exit(void)
{
	symbol_put(ring_capacity);
	symbol_put_addr(ring);
}

module_init(user_init);
module_exit(user_exit);
MODULE_LICENSE("Dual MIT/Apache-2.0");
MODULE_SOFTDEP("pre: driver");
