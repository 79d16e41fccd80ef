/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * daemon.c - the life of a daemon whose plugin has many instances, which end by callbacks on a thread
 * of the daemon's. The last one out unloads, and a new file in its place is the new code. What the
 * library costs it is marked.
 */
#define _GNU_SOURCE
#include <semaphore.h>
#include <stdatomic.h>
#include <string.h>

#include "host.h"
#include "threads.h"

enum { ROUNDS = 2000, INSTANCES = 4, JOBS = 2 * INSTANCES };

struct instance;

void post(void (*function)(void *data), void *data);

/* ---- the daemon's thread, and its jobs ------------------------------------------------- */

struct job {
	void (*function)(void *data);
	void *data;
};

static struct job jobs[JOBS];
static sem_t posted, free_jobs;
static _Atomic unsigned next_job;

void post(void (*function)(void *data), void *data)
{
	sem_wait(&free_jobs);
	jobs[atomic_fetch_add(&next_job, 1) % JOBS] = (struct job){ function, data };
	sem_post(&posted);
}

static void *run_jobs(void *arg)
{
	for (unsigned i = 0;; i++) {
		struct job job;

		sem_wait(&posted);
		job = jobs[i % JOBS];
		sem_post(&free_jobs);
		if (!job.function)
			return arg;
		job.function(job.data);
	}
}

/* ---- instances ---------------------------------------------------------------------------- */

struct user {
	struct module *mod;
	sem_t closed;
};

static struct module_host *host;
static char path[PATH_MAX];
static _Atomic int unloaded, stayed, failed;

/* After the callback of the plugin's, by the same thread. */
static void close_module(void *data)
{
	struct user *user = data;
	int rc = module_close(user->mod, -1); /* library: 1 */

	atomic_fetch_add(rc == 0 ? &unloaded : rc == 2 ? &stayed : &failed, 1);
	sem_post(&user->closed);
}

static void instance_closed(void *data)
{
	post(close_module, data);
}

static void *function(struct module *mod, const char *name)
{
	void *address = module_symbol(mod, name); /* library: 2 */

	need(address);
	return address;
}

/* Its version. */
static int use(struct user *user)
{
	struct instance *(*create)(void);
	int (*version_of)(struct instance *instance), version;
	void (*destroy)(struct instance *instance, void (*closed)(void *data), void *data);
	struct instance *instance;
	void *address;

	need(module_open(host, path, "instances", &user->mod) == 0); /* library: 3 */
	address = function(user->mod, "create");
	memcpy(&create, &address, sizeof(create));
	address = function(user->mod, "version_of");
	memcpy(&version_of, &address, sizeof(version_of));
	address = function(user->mod, "destroy");
	memcpy(&destroy, &address, sizeof(destroy));
	instance = create();
	need(instance);
	version = version_of(instance);
	destroy(instance, instance_closed, user);
	return version;
}

static void install(int version)
{
	char from[PATH_MAX + 8], temporary[PATH_MAX + 8];

	snprintf(from, sizeof(from), "%s.%d", path, version);
	snprintf(temporary, sizeof(temporary), "%s.new", path);
	unlink(temporary);
	need(link(from, temporary) == 0 && rename(temporary, path) == 0);
}

int main(void)
{
	struct user users[INSTANCES];
	int old = 0, last;
	pthread_t thread;

	snprintf(path, sizeof(path), "%s", plugin("instances.so"));
	sem_init(&posted, 0, 0);
	sem_init(&free_jobs, 0, JOBS);
	for (int i = 0; i < INSTANCES; i++)
		sem_init(&users[i].closed, 0, 0);
	host = module_host_new(); /* library: 4 */
	thread = start_thread(run_jobs, NULL);
	for (int round = 0; round < ROUNDS; round++) {
		install(round % 2 + 1);
		last = atomic_load(&unloaded);
		for (int i = 0; i < INSTANCES; i++)
			old += use(&users[i]) != round % 2 + 1;
		for (int i = 0; i < INSTANCES; i++)
			sem_wait(&users[i].closed);
		need(atomic_load(&unloaded) > last);
	}
	post(NULL, NULL);
	pthread_join(thread, NULL);
	is(atomic_load(&failed), 0, "%d instances closed", ROUNDS * INSTANCES);
	ok(atomic_load(&unloaded) >= ROUNDS, "%d were the last, after which it was unloaded",
	   atomic_load(&unloaded));
	is(old, 0, "and a new file in its place was the new code");
	is(module_host_free(host), 0, "nothing is left"); /* library: 5 */
	return tap_done();
}
