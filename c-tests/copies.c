/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * copies.c - several copies of the library in one process: the shared one, and a static one in a
 * plugin. Each does everything to counters that the other has made and that either holds.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "lib/oracle.h"
#include "lib/tap.h"
#include "lib/threads.h"
#include "plugins/copy.h"

struct module_ref taken_by_constructor;

static const struct copy shared = COPY;

/* A counter that `maker` makes, `holder` holds, and `other` tries to take away. */
static void row(const struct copy *maker, const struct copy *holder, const struct copy *other,
		const char *who)
{
	struct module_ref_drain drain;
	struct module_ref ref;
	int fd;

	need(maker->init_percpu(&ref) == 0);
	is(module_ref_mode(&ref), has_per_cpu() ? MODULE_REF_PERCPU : MODULE_REF_ATOMIC, "%s: the mode", who);
	ok(holder->try_get(&ref), "%s: get", who);
	is(other->count(&ref), 1, "%s: the count", who);
	is(other->try_release(&ref), -EWOULDBLOCK, "%s: a release while it is held", who);
	is(other->drain(&ref, 1000), -ETIMEDOUT, "%s: a drain while it is held", who);
	fd = other->drain_begin(&ref, &drain, -1);
	ok(fd > 2, "%s: a drain is begun", who);
	is(holder->drain_finish(&drain), -EINPROGRESS, "%s: and not over", who);
	is(holder->drain_cancel(&drain), 0, "%s: cancel", who);
	close(fd);
	is(maker->count(&ref), 1, "%s: it is held as before", who);
	other->put(&ref);
	is(holder->try_release(&ref), 0, "%s: a release when nobody holds it", who);
	ok(!other->try_get(&ref), "%s: no get after that", who);
	is(other->reinit(&ref), 0, "%s: reinit", who);
	ok(holder->try_get(&ref), "%s: get", who);
	holder->put(&ref);
	is(other->drain(&ref, -1), 0, "%s: a drain when nobody holds it", who);
	other->destroy(&ref);
	is(maker->try_release(&ref), -EINVAL, "%s: destroyed", who);
}

/* In the child, for the thread that has forked. */
static void *waits(void *arg)
{
	(void)arg;
	_exit(shared.drain(&taken_by_constructor, 10 * SECOND) == 0 ? 0 : 1);
}

static void *ends(void *arg)
{
	const struct copy *copy = arg;

	need(copy->try_get(&taken_by_constructor));
	return copy->put_at_thread_exit(&taken_by_constructor) == 0 ? NULL : arg;
}

/* A thread and its child, in which it alone goes on, each end with a reference to put. */
static void *forks(void *arg)
{
	pid_t *child = arg;

	need(shared.try_get(&taken_by_constructor));
	need(shared.put_at_thread_exit(&taken_by_constructor) == 0 && (*child = fork()) >= 0);
	if (*child == 0)
		start_thread(waits, NULL);
	return NULL;
}

int main(void)
{
	const struct copy *copies[2] = { &shared };
	const char *names[2] = { "shared", "static" };
	void *plugin, *result;
	pthread_t thread;
	pid_t child;
	int status;

	need(module_ref_init_percpu(&taken_by_constructor) == 0);
	plugin = dlopen(PLUGIN, RTLD_NOW);
	need(plugin);
	copies[1] = dlsym(plugin, "the_copy");
	ok(copies[1] && copies[1]->try_get != shared.try_get, "the plugin has a copy of its own");
	is(module_ref_count(&taken_by_constructor), 1, "its constructor has taken a reference");
	copies[1]->put(&taken_by_constructor);
	is(module_ref_count(&taken_by_constructor), 0, "and its copy has put it");
	for (int n = 0; n < 8; n++) {
		char who[64];

		snprintf(who, sizeof(who), "made by %s, held by %s, released by %s", names[n & 1],
			 names[n >> 1 & 1], names[n >> 2]);
		row(copies[n & 1], copies[n >> 1 & 1], copies[n >> 2], who);
	}
	is(shared.drain(&taken_by_constructor, -1), 0, "nobody holds the first one");
	need(shared.reinit(&taken_by_constructor) == 0);
	thread = start_thread(forks, &child);
	pthread_join(thread, NULL);
	is(shared.drain(&taken_by_constructor, -1), 0, "a thread that forked has ended");
	need(waitpid(child, &status, 0) == child);
	is(status, 0, "and in the child, too");
	need(shared.reinit(&taken_by_constructor) == 0);
	thread = start_thread(ends, (void *)copies[1]);
	pthread_join(thread, &result);
	ok(!result, "a copy puts at the end of a thread");
	is(shared.drain(&taken_by_constructor, -1), 0, "and has put");
	dlclose(plugin);
	ok(dlopen(PLUGIN, RTLD_NOW | RTLD_NOLOAD), "and stays mapped, for what runs in it then");
	return tap_done();
}
