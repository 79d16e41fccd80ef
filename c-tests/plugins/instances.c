/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * instances.c - a daemon's plugin with many instances, which close asynchronously: its callbacks run
 * on a thread of the daemon's. Compiled with more than one VERSION.
 */
#include <stdlib.h>

struct instance {
	void (*closed)(void *data);
	void *data;
	int version;
};

/* The daemon's. */
void post(void (*function)(void *data), void *data);

struct instance *create(void);
int version_of(struct instance *instance);
void destroy(struct instance *instance, void (*closed)(void *data), void *data);

static int instances;

struct instance *create(void)
{
	struct instance *instance = calloc(1, sizeof(*instance));

	if (instance)
		instance->version = VERSION;
	__atomic_fetch_add(&instances, 1, __ATOMIC_RELAXED);
	return instance;
}

int version_of(struct instance *instance)
{
	return instance->version;
}

static void finish(void *data)
{
	struct instance *instance = data;

	instance->closed(instance->data);
	free(instance);
	__atomic_fetch_sub(&instances, 1, __ATOMIC_RELAXED);
}

void destroy(struct instance *instance, void (*closed)(void *data), void *data)
{
	instance->closed = closed;
	instance->data = data;
	post(finish, instance);
}
