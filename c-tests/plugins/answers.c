/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * answers.c - a server's plugin. It answers each request from a detached thread of its own, which
 * runs on in its code after the answer. Now and then it does not want to go.
 */
#define _DEFAULT_SOURCE
#include "module_ref.h"

#include <stdlib.h>
#include <unistd.h>

int can_unload_module(void);
int answer(int to, long request);

struct module *__this_module;

struct job {
	int to;
	long request;
};

static _Atomic long done;

static void *work(void *arg)
{
	struct job *job = arg;
	long result = 2 * job->request;

	module_put_at_thread_exit(__this_module);
	if (write(job->to, &result, sizeof(result)) != sizeof(result))
		abort();
	usleep(50);
	done += job->request;
	free(job);
	return NULL;
}

/* Takes over the caller's reference. */
int answer(int to, long request)
{
	struct job *job = malloc(sizeof(*job));
	pthread_t thread;

	if (!job)
		return -1;
	*job = (struct job){ to, request };
	if (pthread_create(&thread, NULL, work, job) != 0)
		return -1;
	return pthread_detach(thread);
}

/* Once at most. */
int can_unload_module(void)
{
	static int refused;

	return done % 3 == 1 && !refused++ ? -16 : 0;
}
