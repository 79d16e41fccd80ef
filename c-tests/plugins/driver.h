/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * driver.h - what the sample driver offers: a character device, as a subsystem would see it.
 */
#ifndef DRIVER_H
#define DRIVER_H

#include <stddef.h>

enum { RING_SIZE = 64 };

struct module;
struct ring_file;

/* As struct file_operations. Whoever calls through it does as the kernel's VFS: it takes a
 * reference on owner before open, and gives it back after release has returned. */
struct ring_operations {
	struct module *owner;
	/* 0 or a negative errno. */
	int (*open)(struct ring_file **file);
	int (*release)(struct ring_file *file);
	/* Bytes, fewer than asked for if there is no more room, or nothing more to read; or
	 * -ESHUTDOWN for a write to a device that is gone. A read waits for what was written. */
	long (*write)(struct ring_file *file, const char *from, size_t length);
	long (*read)(struct ring_file *file, char *to, size_t length);
	/* Has a thread of the driver's own call done(arg), some time, also after release. */
	int (*notify)(struct ring_file *file, void (*done)(void *arg), void *arg);
	/* For the test: what the driver takes for THIS_MODULE. */
	struct module *(*this_module)(void);
};

/* Exported by driver.c. */
extern const struct ring_operations ring_operations;
long ring_capacity(void);
/* Writes what its parameters are, in their order. */
int ring_parameters(char *buffer);

/* Exported by watcher.c: what it has seen of another module. */
int watch_seen(void);

/* Exported by driver_user.c: sends text through the ring and back; its length, or a negative
 * errno. */
long echo(const char *text, char *back, size_t size);

#endif
