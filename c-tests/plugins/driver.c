/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * driver.c - a driver in the kernel's style: a character device that gives back what was
 * written to it.
 *
 * A thread, started by the init function and stopped by the exit function, moves what is written
 * to where it is read. An open file holds a reference to the module, and so does a thread that
 * nobody waits for.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/errno.h>
#include <linux/init.h>
#include <linux/kernel.h>
#include <linux/module.h>
#include <linux/moduleparam.h>
#include <linux/printk.h>
#include <pthread.h>

#include "driver.h"

struct ring {
	char bytes[RING_SIZE];
	size_t head, used;
};

struct ring_file {
	long read;
};

struct notification {
	void (*done)(void *arg);
	void *arg;
};

static int capacity __read_mostly = RING_SIZE;
module_param(capacity, int, S_IRUGO);
MODULE_PARM_DESC(capacity, "how many bytes it says there is room for");

static bool verbose __ro_after_init;
module_param(verbose, bool, 0644);
static bool loud = true;
module_param_named(quiet, loud, invbool, 0644);

static char *owner = "nobody";
module_param(owner, charp, 0444);
static char nick[8] = "ring";
module_param_string(nick_name, nick, sizeof(nick), 0444);

static short minors[4] = { 1, 2 };
static unsigned int nr_minors = 2;
module_param_array(minors, short, &nr_minors, 0444);
static char *names[2];
module_param_array_named(labels, names, charp, NULL, 0444);

static unsigned char a_byte;
module_param_named(byte, a_byte, byte, 0);
static unsigned short a_ushort;
module_param_named(ushort, a_ushort, ushort, 0);
static unsigned int a_uint;
module_param_named(uint, a_uint, uint, 0);
static long a_long;
module_param_named(long, a_long, long, 0);
static unsigned long a_ulong;
module_param_named(ulong, a_ulong, ulong, 0);
static unsigned long long a_ullong;
module_param_named(ullong, a_ullong, ullong, 0);

/* Even numbers only. */
static int even;

static int even_set(const char *val, const struct kernel_param *kp)
{
	int value, rc = kstrtoint(val, 0, &value);

	if (rc)
		return rc;
	return value % 2 ? -EDOM : param_set_int(val, kp);
}

static const struct kernel_param_ops even_ops = {
	.set = even_set,
	.get = param_get_int,
};
module_param_cb(even, &even_ops, &even, 0644);

static const struct ring_id { const char *name; } ids[] = { { "ring" }, { NULL } };
MODULE_DEVICE_TABLE(ring, ids);

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
static struct ring written, readable;
static bool stopping;
static pthread_t pump_thread;

static void ring_push(struct ring *ring, char byte)
{
	ring->bytes[(ring->head + ring->used++) % RING_SIZE] = byte;
}

static char ring_pop(struct ring *ring)
{
	char byte = ring->bytes[ring->head];

	ring->head = (ring->head + 1) % RING_SIZE;
	ring->used--;
	return byte;
}

/* The device's own thread. It needs no reference: the exit function waits for it. */
static void *pump(void *unused)
{
	pthread_mutex_lock(&lock);
	while (!stopping) {
		if (!written.used || readable.used == RING_SIZE) {
			pthread_cond_wait(&changed, &lock);
			continue;
		}
		ring_push(&readable, ring_pop(&written));
		pthread_cond_broadcast(&changed);
	}
	pthread_mutex_unlock(&lock);
	return unused;
}

static int ring_open(struct ring_file **file)
{
	if (!try_module_get(THIS_MODULE))
		return -ENODEV;
	*file = (struct ring_file *)calloc(1, sizeof(**file));
	if (!*file) {
		module_put(THIS_MODULE); /* never the last: our caller holds one */
		return -ENOMEM;
	}
	return 0;
}

static int ring_release(struct ring_file *file)
{
	free(file);
	module_put(THIS_MODULE); /* as above */
	return 0;
}

static long ring_write(struct ring_file *file, const char *from, size_t length)
{
	long count = 0;

	(void)file;
	pthread_mutex_lock(&lock);
	if (stopping)
		count = -ESHUTDOWN;
	else
		for (; length && written.used < RING_SIZE; length--, count++)
			ring_push(&written, *from++);
	pthread_cond_broadcast(&changed);
	pthread_mutex_unlock(&lock);
	return count;
}

static long ring_read(struct ring_file *file, char *to, size_t length)
{
	long count = 0;

	pthread_mutex_lock(&lock);
	for (; length; length--, count++) {
		while (!readable.used && written.used && !stopping)
			pthread_cond_wait(&changed, &lock);
		if (!readable.used)
			break;
		*to++ = ring_pop(&readable);
		pthread_cond_broadcast(&changed);
	}
	file->read += count;
	pthread_mutex_unlock(&lock);
	return count;
}

/* Nobody waits for this thread, so it keeps the module itself, to its very end. */
static void *notifier(void *arg)
{
	struct notification notification = *(struct notification *)arg;

	free(arg);
	notification.done(notification.arg);
	module_put_and_kthread_exit(0);
}

static int ring_notify(struct ring_file *file, void (*done)(void *arg), void *arg)
{
	struct notification *notification =
		(struct notification *)malloc(sizeof(*notification));
	pthread_t thread;
	int error;

	(void)file;
	if (!notification)
		return -ENOMEM;
	notification->done = done;
	notification->arg = arg;
	__module_get(THIS_MODULE);
	error = pthread_create(&thread, NULL, notifier, notification);
	if (error) {
		module_put(THIS_MODULE); /* never the last: the file holds one */
		free(notification);
		return -error;
	}
	pthread_detach(thread);
	return 0;
}

static struct module *ring_this_module(void)
{
	return THIS_MODULE;
}

long ring_capacity(void)
{
	return capacity;
}
EXPORT_SYMBOL_NS_GPL(ring_capacity, RING);

/* As they are shown in /sys/module/driver/parameters, with what is not shown in between. */
int ring_parameters(char *buffer)
{
	const struct kernel_param *const shown[] = {
		&__param_capacity, &__param_verbose, &__param_quiet, &__param_owner,
		&__param_nick_name, &__param_minors, &__param_byte, &__param_ushort, &__param_uint,
		&__param_long, &__param_ulong, &__param_ullong, &__param_even,
	};
	int length = 0;

	for (size_t i = 0; i < ARRAY_SIZE(shown); i++) {
		length += shown[i]->ops->get(buffer + length, shown[i]);
		buffer[length - 1] = ' ';
	}
	return length + sprintf(buffer + length, "%s %s %u", names[0] ? names[0] : "-",
				names[1] ? names[1] : "-", nr_minors);
}
EXPORT_SYMBOL(ring_parameters);

const struct ring_operations ring_operations = {
	.owner = THIS_MODULE,
	.open = ring_open,
	.release = ring_release,
	.write = ring_write,
	.read = ring_read,
	.notify = ring_notify,
	.this_module = ring_this_module,
};
EXPORT_SYMBOL(ring_operations);

static int __init ring_init(void)
{
	if (verbose)
		pr_info("this is %s of %s\n", THIS_MODULE->name, owner);
	pr_debug("never said\n");
	return -pthread_create(&pump_thread, NULL, pump, NULL);
}

static void __exit ring_exit(void)
{
	pthread_mutex_lock(&lock);
	stopping = true;
	pthread_cond_broadcast(&changed);
	pthread_mutex_unlock(&lock);
	pthread_join(pump_thread, NULL);
}

module_init(ring_init);
module_exit(ring_exit);

MODULE_LICENSE("Dual MIT/Apache-2.0");
MODULE_AUTHOR("The module-ref authors");
MODULE_DESCRIPTION("A character device that gives back what was written to it");
MODULE_VERSION("1.0");
MODULE_ALIAS("ring"); MODULE_ALIAS("char-major-240");
MODULE_INFO(colour, "green");
