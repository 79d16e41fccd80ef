/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * chrdev.h - a small character device layer in userspace, with the kernel's names: as much of
 * <linux/fs.h> and <linux/cdev.h> as the driver uses.
 */
#ifndef CHRDEV_H
#define CHRDEV_H

#include <stddef.h>
#include <sys/types.h>

struct module;
struct file;

/* Linux: struct file_operations. */
struct file_operations {
	/* Held for as long as a file is open, so that the functions below stay. */
	struct module *owner;
	int (*open)(struct file *file);
	int (*release)(struct file *file);
	ssize_t (*read)(struct file *file, char *to, size_t size);
	ssize_t (*write)(struct file *file, const char *from, size_t size);
};

/* Linux: struct file, but for what the driver has no use for. */
struct file {
	const struct file_operations *f_op;
	void *private_data;
};

/* Makes a device of this name, for as long as the driver is loaded. Returns 0, -EBUSY if the
 * name is taken, or -ENOSPC. Linux: register_chrdev(). */
int register_chrdev(const char *name, const struct file_operations *fops);

/* Files that are open stay good: they hold the driver. Linux: unregister_chrdev(). */
void unregister_chrdev(const char *name);

#endif
