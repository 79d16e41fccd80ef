/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * dangles.h - plugins that leave behind what would call into them: what each leaves, what is to be
 * said of it, and a user of theirs.
 */
#ifndef DANGLES_H
#define DANGLES_H

#include <dlfcn.h>
#include <semaphore.h>
#include <signal.h>
#include <stdbool.h>
#include <stdlib.h>

#include "../plugins/dangles.h"
#include "process.h"

/* Who tells of it. What is told on request alone keeps no plugin from being unmapped. */
enum told { BY_UNLOAD, ON_REQUEST, BY_RESIDENCY };

struct dangle {
	const char *what; /* as a table has it */
	const char *kind; /* as plugins/dangles.c has it */
	const char *file;
	const char *keeper; /* the function of libkeeps.so that is given it, or NULL */
	enum told told;
	const char *words;
};

/* First those that are looked for in memory: what others leave in freed memory may look as if it
 * pointed into a later plugin. */
static const struct dangle dangles[] = {
	{ "callback that its user keeps", "callback", "dangles.so", NULL, ON_REQUEST,
	  "points to on_io of dangles.so" },
	{ "object of a C++ class, kept", "object", "dangles.so", NULL, ON_REQUEST,
	  "points to _ZTV5shape of dangles.so" },
	{ "detached thread, asleep", "asleep", "dangles.so", NULL, BY_UNLOAD,
	  " in poll_jobs" },
	{ "detached thread, spinning", "spinning", "dangles.so", NULL, BY_UNLOAD,
	  "runs, and was started in spin of dangles.so" },
	{ "thread pool", "pool", "dangles.so", NULL, BY_UNLOAD, " in take_jobs" },
	{ "timer, by SIGEV_THREAD", "timer", "dangles.so", NULL, BY_UNLOAD,
	  "a timer calls tick of dangles.so" },
	{ "pthread key", "key", "dangles.so", NULL, BY_UNLOAD,
	  "the destructor of a pthread key is free_buffer of dangles.so" },
	{ "thread-local with a destructor", "local", "dangles.so", NULL, BY_RESIDENCY,
	  "has thread-locals of it, with destructors" },
	{ "signal handler", "signal", "dangles.so", NULL, BY_UNLOAD,
	  "the handler of signal 12 is on_signal of dangles.so" },
#ifdef __x86_64__
	{ "exit function of a library", "exit", "dangles.so", "keep_until_closed", BY_UNLOAD,
	  "an exit function is bye of dangles.so" },
#endif
	{ "thread of a library", "library", "dangles.so", "call_often", BY_UNLOAD,
	  "on_io of dangles.so" },
	{ "thread of a library it brings", "brought", "brings.so", NULL, BY_UNLOAD,
	  "of libkeeps.so" },
	{ "OpenMP pool", "openmp", "openmp.so", NULL, BY_UNLOAD, " of lib" },
};

enum { DANGLES = sizeof(dangles) / sizeof(dangles[0]) };

static inline const struct dangle *dangle_of(const char *kind)
{
	const struct dangle *dangle = dangles;

	while (strcmp(dangle->kind, kind) != 0)
		dangle++;
	return dangle;
}

/* Somebody who uses a plugin, in a thread of his own if the plugin is to be told: what a plugin has
 * for each thread stays as long as that. */
struct dangle_user {
	const struct dangle *dangle;
	void (*leave)(const char *kind, keeper *keep, struct left *left);
	keeper *keep;
	void *keeps; /* libkeeps.so, open */
	struct left left;
	pthread_t thread;
	sem_t has_left, enough;
};

static inline void *dangle_use(void *arg)
{
	struct dangle_user *user = arg;
	const char *kind = user->dangle->kind;
	struct left *left = &user->left;

	user->leave(kind, user->keep, left);
	/* It would be found in what this thread was started with. */
	user->leave = NULL;
	sem_post(&user->has_left);
	while (sem_wait(&user->enough) != 0)
		;
	if (strcmp(kind, "timer") == 0)
		timer_delete(left->timer);
	if (strcmp(kind, "key") == 0) {
		free(pthread_getspecific(left->key));
		pthread_key_delete(left->key);
	}
	if (strcmp(kind, "signal") == 0)
		signal(SIGUSR2, SIG_DFL);
	pthread_mutex_lock(&left->lock);
	left->stop = true;
	pthread_cond_broadcast(&left->work);
	pthread_mutex_unlock(&left->lock);
	if (left->thread)
		pthread_join(left->thread, NULL);
	return NULL;
}

/* Has the plugin, whose function leave() this is, leave something behind; the caller has a reference.
 * Returns what could not be had, or NULL. */
static inline const char *dangle_begin(struct dangle_user *user, const struct dangle *dangle,
				       void *symbol)
{
	char path[PATH_MAX];

	*user = (struct dangle_user){ .dangle = dangle,
				      .left = { .lock = PTHREAD_MUTEX_INITIALIZER,
						.work = PTHREAD_COND_INITIALIZER } };
	if (!symbol)
		return "its function";
	memcpy(&user->leave, &symbol, sizeof(symbol));
	if (dangle->keeper) {
		if (!beside_program(path, "libkeeps.so") ||
		    !(user->keeps = dlopen(path, RTLD_NOW)) ||
		    !(symbol = dlsym(user->keeps, dangle->keeper)))
			return dlerror();
		memcpy(&user->keep, &symbol, sizeof(symbol));
	}
	if (dangle->told == ON_REQUEST) {
		/* The stack of a thread that has ended is memory like all other. */
		user->leave(dangle->kind, NULL, &user->left);
		return user->left.kept ? NULL : "memory";
	}
	if (sem_init(&user->has_left, 0, 0) != 0 || sem_init(&user->enough, 0, 0) != 0 ||
	    pthread_create(&user->thread, NULL, dangle_use, user) != 0)
		return "a thread";
	while (sem_wait(&user->has_left) != 0)
		;
	return NULL;
}

/* Takes back what it has left. */
static inline void dangle_end(struct dangle_user *user)
{
	if (user->left.kept) {
		*(void *volatile *)user->left.kept = NULL;
		free(user->left.kept);
		return;
	}
	sem_post(&user->enough);
	pthread_join(user->thread, NULL);
	if (user->keeps)
		dlclose(user->keeps);
}

#endif
