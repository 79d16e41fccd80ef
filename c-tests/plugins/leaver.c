/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * leaver.c - a plugin that takes part in its own unload. What each of its functions answers is said
 * by the program, which exports happens().
 */
#define _GNU_SOURCE
#include "module_ref.h"

#include <stdatomic.h>
#include <unistd.h>

int init_module(void);
void cleanup_module(void);
int stop_module(void);
int can_unload_module(void);
void resume_module(void);
int start_thread(int joins);
int unload_myself(int how);
void put_myself(void);
void leave_keys(struct module_ref *ref);
int destructors(void);
int hold(struct module *mod, struct module_track *track, const char *label);

int happens(struct module *self, const char *what);

struct module *__this_module;

int init_module(void)
{
	return happens(__this_module, "init");
}

int stop_module(void)
{
	return happens(__this_module, "stop");
}

int can_unload_module(void)
{
	return happens(__this_module, "can");
}

void resume_module(void)
{
	happens(__this_module, "resume");
}

/* ---- a thread of its own ------------------------------------------------------------ */

static pthread_t thread;
static _Atomic int joined;

static void *work(void *arg)
{
	pthread_setname_np(pthread_self(), "poller");
	while (happens(__this_module, "work"))
		usleep(100);
	usleep(2000);
	return arg;
}

int start_thread(int joins)
{
	int rc = module_thread_create(&thread, NULL, __this_module, work, NULL);

	joined = joins;
	if (rc == 0 && !joins)
		pthread_detach(thread);
	return rc;
}

void cleanup_module(void)
{
	happens(__this_module, "exit");
	if (joined)
		pthread_join(thread, NULL);
}

/* ---- what it does to itself ------------------------------------------------------------ */

int unload_myself(int how)
{
	struct module_host *host = module_host_of(__this_module);
	const char *name = module_name(__this_module);
	volatile int rc = how == 0   ? module_unload(host, name, 0, -1)
			  : how == 1 ? module_unload(host, name, 0, 0)
			  : how == 2 ? module_unload_finish(host, name, 0)
				     : module_replace(host, name, "/proc/self/exe", -1);

	return rc;
}

void put_myself(void)
{
	module_put(__this_module);
	happens(__this_module, "put");
}

/* ---- values of keys whose destructors take a while, and set others again ----------------- */

enum { KEYS = 20 };

static pthread_key_t keys[KEYS];
static _Atomic int destroyed;

static void destroy(void *value)
{
	usleep(200);
	atomic_fetch_add(&destroyed, 1);
	for (int i = 0; i < KEYS; i++)
		if (!pthread_getspecific(keys[i])) {
			pthread_setspecific(keys[i], value);
			break;
		}
}

/* Gives up a reference, or its own, before there are any keys. */
void leave_keys(struct module_ref *ref)
{
	if (ref)
		module_ref_put_at_thread_exit(ref);
	else
		module_put_at_thread_exit(__this_module);
	for (int i = 0; i < KEYS; i++) {
		pthread_key_create(&keys[i], destroy);
		pthread_setspecific(keys[i], &keys[i]);
	}
}

int destructors(void)
{
	for (int i = 0; i < KEYS; i++)
		pthread_key_delete(keys[i]);
	return atomic_load(&destroyed);
}

/* ---- a reference that is taken from here -------------------------------------------- */

int hold(struct module *mod, struct module_track *track, const char *label)
{
	return module_try_get_tracked(mod, track, label) ? 0 : -1;
}
