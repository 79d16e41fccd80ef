/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * watched.c - a user's program, for tools that watch for races: plain memory that nothing but the
 * library puts in order. A tool has to find nothing to report; and to find the races that are
 * planted. check-watched runs it. Compiled as C, and as C++ with module_ref.hpp.
 *
 *   watched counter|percpu|handle|host     nothing is wrong; handle drains by a handle
 *   watched counter|host beside            users write what the counter is not for
 *   watched counter|host late              a user writes after its put, and the owner reads that
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <string.h>

#ifdef __cplusplus
#include "module_ref.hpp"
#else
#include "module_ref_inline.h"
#endif
#include "host.h"
#include "threads.h"

enum { USERS = 3, ROUNDS = 60 };

static struct module_ref ref = MODULE_REF_INIT;
static long *data, *old, written[USERS], beside, late, worked, going, expected; /* plain */
static bool plants_beside, plants_late, is_replaced;
static int stop;
static long uses, loaded, unloaded;

/* Relaxed, so that these order nothing. */
#define LOOK(at) __atomic_load_n(at, __ATOMIC_RELAXED)
#define ADD(at) __atomic_fetch_add(at, 1, __ATOMIC_RELAXED)

/* For reports to name. */
#define NAMED __attribute__((noinline)) static

/* What a user does while it holds a reference. */
NAMED void use(long *mine)
{
	*mine += data[0] == 42;
	data[1 + (mine - written)]++;
	if (plants_beside)
		beside++;
	ADD(&uses);
}

NAMED void used(long *mine)
{
	if (plants_late && mine == written)
		late++;
	sched_yield();
}

NAMED long sum(void)
{
	long all = late;

	for (int i = 0; i < USERS; i++)
		all += written[i];
	return all;
}

static void make_data(void)
{
	data = (long *)calloc(1 + USERS, sizeof(*data));
	need(data);
	data[0] = 42;
}

static void until_used(void)
{
	for (long before = LOOK(&uses); LOOK(&uses) < before + 2 * USERS;)
		sched_yield();
}

/* ---- a counter -------------------------------------------------------------------------- */

static void *hold(void *arg)
{
	long *mine = (long *)arg;

	while (!LOOK(&stop)) {
#ifdef __cplusplus
		if (modref::guard held = modref::try_get(ref))
			use(mine);
#else
		/* By calls, and inlined. */
		if (mine == written ? module_ref_try_get(&ref) : module_ref_try_get_inline(&ref)) {
			use(mine);
			mine == written ? module_ref_put(&ref) : module_ref_put_inline(&ref);
		}
#endif
		used(mine);
	}
	return NULL;
}

static void release(bool by_handle)
{
	struct module_ref_drain drain;
	struct pollfd readable = { -1, POLLIN, 0 };

	if (by_handle) {
		readable.fd = module_ref_drain_begin(&ref, &drain, -1);
		need(readable.fd >= 0 && poll(&readable, 1, -1) == 1);
		need(module_ref_drain_finish(&drain) == 0);
		close(readable.fd);
		return;
	}
#ifdef __cplusplus
	need(modref::try_release(ref) || modref::drain(ref, modref::timeout::forever()));
#else
	if (module_ref_try_release(&ref) != 0)
		need(module_ref_drain(&ref, -1) == 0);
#endif
}

static void with_counter(const char *how)
{
	pthread_t threads[USERS];

	if (strcmp(how, "percpu") == 0)
		need(module_ref_init_percpu(&ref) == 0);
	make_data();
	for (int i = 0; i < USERS; i++)
		threads[i] = start_thread(hold, &written[i]);
	for (int round = 0; round < ROUNDS; round++) {
		until_used();
		release(strcmp(how, "handle") == 0);
		need(sum() >= 0);
		free(data);
		make_data();
		need(module_ref_reinit(&ref) == 0);
	}
	ADD(&stop);
	for (int i = 0; i < USERS; i++)
		pthread_join(threads[i], NULL);
	is(sum() - late, uses, "each use has seen what was there before its get");
	module_ref_destroy(&ref);
	free(data);
}

/* ---- a host ------------------------------------------------------------------------------- */

#ifdef __cplusplus
extern "C" {
#endif
int on_init(struct module *self);
void on_exit_of(struct module *self);
#ifdef __cplusplus
}
#endif

static struct module_host *host;

/* Called by the plugin's init and exit functions. What a replacement does is its own. */
int on_init(struct module *self)
{
	(void)self;
	if (!is_replaced)
		make_data();
	return 0;
}

void on_exit_of(struct module *self)
{
	(void)self;
	if (!is_replaced) {
		need(sum() >= 0);
		old = data;
	}
}

#ifdef __cplusplus
static modref::host owned;

static void *look_up(void *arg)
{
	long *mine = (long *)arg;

	while (!LOOK(&stop)) {
		if (modref::reference mod = owned.find("hooked"))
			if (mod.state() == modref::state::live && call(mod.native(), "answer") == 1)
				use(mine);
		used(mine);
	}
	return NULL;
}

static struct module *load(void)
{
	return owned.load(plugin("hooked.so"), "hooked").release();
}
#else
static void *look_up(void *arg)
{
	long *mine = (long *)arg;

	while (!LOOK(&stop)) {
		struct module *mod = module_find_get(host, "hooked");

		if (mod && module_state(mod) == MODULE_STATE_LIVE && call(mod, "answer") == 1)
			use(mine);
		module_put(mod);
		used(mine);
	}
	return NULL;
}

static struct module *load(void)
{
	struct module *mod;

	need(module_load(host, plugin("hooked.so"), "hooked", &mod) == 0);
	return mod;
}
#endif

/* What users have written to it is seen by who has unloaded. */
static void drop_old(void)
{
	need(old[1] + old[2] + old[3] > 0);
	free(old);
}

static void *work(void *arg)
{
	worked++;
	return arg;
}

static int told(struct module *mod, enum module_state state, void *arg)
{
	(void)mod;
	/* Written before this was registered; and this runs on the thread that unloads. */
	if (state == MODULE_STATE_GOING && *(long *)arg == 42)
		going++;
	return 0;
}

/* Waits for the next round without ordering anything. */
static void *unload(void *arg)
{
	for (int done = 0; done < ROUNDS; done++) {
		while (LOOK(&loaded) == done)
			sched_yield();
		until_used();
		/* Without the look, which can find no thread asleep that valgrind holds back. */
		need(module_unload(host, "hooked", MODULE_UNLOAD_UNPROVEN, -1) == 0);
		drop_old();
		ADD(&unloaded);
	}
	return arg;
}

static void with_host(void)
{
	pthread_t threads[USERS], unloader, thread;

#ifdef __cplusplus
	host = owned.native();
#else
	host = module_host_new();
#endif
	for (int i = 0; i < USERS; i++)
		threads[i] = start_thread(look_up, &written[i]);
	unloader = start_thread(unload, NULL);
	expected = 42;
	need(module_notifier_register(host, told, &expected, 0) == 0);
	for (int round = 0; round <= ROUNDS; round++) {
		struct module *mod;

		while (LOOK(&unloaded) < round)
			sched_yield();
		mod = load();
		need(module_thread_create(&thread, NULL, mod, work, NULL) == 0);
		pthread_detach(thread);
		module_handle_put(mod);
		ADD(&loaded);
	}
	pthread_join(unloader, NULL);
	is(going, ROUNDS, "the notifier was told by the thread that unloads");
	is_replaced = true;
	for (int round = 0; round < 10; round++) {
		until_used();
		need(module_replace(host, "hooked", plugin("hooked.so"), -1) >= 0);
	}
	is_replaced = false;
	ADD(&stop);
	for (int i = 0; i < USERS; i++)
		pthread_join(threads[i], NULL);
	need(module_unload(host, "hooked", MODULE_UNLOAD_UNPROVEN, -1) == 0);
	drop_old();
	need(module_notifier_unregister(host, told, &expected) == 0);
#ifdef __cplusplus
	owned.close();
#else
	need(module_host_free(host) == 0);
#endif
	is(worked, ROUNDS + 1, "each module's thread ran");
	is(sum() - late, uses, "each use has seen what init did");
}

int main(int argc, char **argv)
{
	const char *how = argc > 1 ? argv[1] : "counter", *planted = argc > 2 ? argv[2] : "";

	plants_beside = strcmp(planted, "beside") == 0;
	plants_late = strcmp(planted, "late") == 0;
	if (strcmp(how, "host") == 0)
		with_host();
	else
		with_counter(how);
	return tap_done();
}
