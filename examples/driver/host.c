/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * host.c - the kernel around the driver, in userspace: a character device layer, a program
 * that opens, writes, reads and closes a device, and a thread that keeps doing so while the
 * driver is taken out.
 *
 *     host ROT13.SO
 *
 * The exit status is 0 if the driver did what it should, stayed while a file was open, and was
 * gone from memory afterwards.
 */
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "chrdev.h"
#include <linux_module.h>

/* ---- the character device layer ------------------------------------------------------------ */

enum { DEVICES = 8 };

static pthread_mutex_t devices_lock = PTHREAD_MUTEX_INITIALIZER;
static struct {
	const char *name;
	const struct file_operations *fops;
} devices[DEVICES];

static int find(const char *name)
{
	for (int i = 0; i < DEVICES; i++)
		if (devices[i].name && strcmp(devices[i].name, name) == 0)
			return i;
	return -1;
}

int register_chrdev(const char *name, const struct file_operations *fops)
{
	int rc = -ENOSPC;

	pthread_mutex_lock(&devices_lock);
	if (find(name) >= 0)
		rc = -EBUSY;
	for (int i = 0; i < DEVICES && rc == -ENOSPC; i++)
		if (!devices[i].name) {
			devices[i].name = name;
			devices[i].fops = fops;
			rc = 0;
		}
	pthread_mutex_unlock(&devices_lock);
	return rc;
}

void unregister_chrdev(const char *name)
{
	int i;

	pthread_mutex_lock(&devices_lock);
	i = find(name);
	if (i >= 0) {
		devices[i].name = NULL;
		devices[i].fops = NULL;
	}
	pthread_mutex_unlock(&devices_lock);
}

/* As the kernel's chrdev_open(): the driver is asked for under the lock, which keeps it
 * registered, and called without. Returns 0 or a negative errno. */
static int file_open(const char *name, struct file *file)
{
	const struct file_operations *fops = NULL;
	int i, rc = -ENODEV;

	pthread_mutex_lock(&devices_lock);
	i = find(name);
	if (i >= 0 && try_module_get(devices[i].fops->owner))
		fops = devices[i].fops;
	pthread_mutex_unlock(&devices_lock);
	if (!fops)
		return rc;
	file->f_op = fops;
	rc = fops->open(file);
	if (rc != 0)
		module_put(fops->owner);
	return rc;
}

/* As the kernel's __fput(): the put comes last, from code that stays. */
static void file_close(struct file *file)
{
	struct module *owner = file->f_op->owner;

	file->f_op->release(file);
	module_put(owner);
}

/* ---- the programs that use the device ---------------------------------------------------- */

/* Returns 0, a negative errno, or 1 if the device answers wrongly. */
static int talk(struct file *file)
{
	char back[16] = "";
	ssize_t n = file->f_op->write(file, "Uryyb", 5);

	if (n == 5)
		n = file->f_op->read(file, back, sizeof(back) - 1);
	return n < 0 ? (int)n : strcmp(back, "Hello") != 0;
}

struct user {
	atomic_long sessions;
	long wrong;
	atomic_bool done;
};

/* Uses the device until it is gone. */
static void *use(void *arg)
{
	struct user *user = arg;
	struct file file;

	while (file_open("rot13", &file) == 0) {
		user->wrong += talk(&file) != 0;
		user->sessions++;
		file_close(&file);
	}
	user->done = true;
	return NULL;
}

static int fail(const char *what)
{
	fprintf(stderr, "host: %s: %s\n", what, module_last_error());
	return 1;
}

int main(int argc, char **argv)
{
	struct module_host *host = module_host_default();
	struct user user = { 0 };
	struct file file;
	pthread_t thread;
	int rc;

	if (argc != 2) {
		fputs("usage: host ROT13.SO\n", stderr);
		return 2;
	}
	if (module_load(host, argv[1], "rot13", NULL) != 0)
		return fail("insmod");
	if (file_open("rot13", &file) != 0 || talk(&file) != 0)
		return fail("the device does not work");

	/* rmmod: refused while a file is open. */
	if (delete_module("rot13", O_NONBLOCK) == 0 || errno != EWOULDBLOCK)
		return fail("rmmod was not refused");
	printf("rmmod, with a file open: %s\n", module_last_error());

	/* And waited for: no new opens, and the last file is closed. */
	if (pthread_create(&thread, NULL, use, &user) != 0)
		return fail("no thread");
	file_close(&file);
	while (user.sessions < 1000 && !user.done)
		sched_yield();
	rc = module_unload(host, "rot13", 0, INT64_C(10000000000));
	if (rc != 0)
		return fail("rmmod");
	pthread_join(thread, NULL);
	printf("rmmod, under a thread that opened and closed it %ld times: unmapped\n",
	       (long)user.sessions);
	if (file_open("rot13", &file) != -ENODEV || user.wrong != 0 ||
	    user.sessions < 1000)
		return fail("the device answered wrongly, or is not gone");
	return 0;
}
