/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * dangling.c - plugins that leave behind what would call into them. Whoever is found keeps the plugin
 * mapped and is named; once that has gone, so does the plugin, with the next call of the host.
 */
#define _GNU_SOURCE
#include <errno.h>

#include "dangles.h"
#include "host.h"
#include "threads.h"

static struct module_host *host;

static void list_says(const char *text)
{
	char list[4096];

	need(module_host_list(host, list, sizeof(list)) >= 0);
	if (!ok(strstr(list, text), "the list says '%s'", text))
		printf("#   found: %s\n", list);
}

static bool told_of(struct module *mod, const char *text)
{
	static char lines[1 << 16];
	int64_t n = module_dangling(mod, lines, sizeof(lines));

	need(n >= 0 && n < (int64_t)sizeof(lines));
	return strstr(lines, text);
}

/* What has been found has gone. A thread that nobody joins is gone a moment later. */
static void gone(const char *file)
{
	int reaped = 0;

	for (int i = 0; i < 20000 && reaped == 0; i++) {
		reaped = module_host_reap(host);
		sleep_ns(MILLISECOND);
	}
	is(reaped, 1, "it goes once that has gone");
	is(mapped(file), 0, "indeed");
}

static struct dangle_user user;

/* In memory, no unload looks for it: it is for people. */
static void told_on_request(struct module *mod)
{
	const struct dangle *dangle = user.dangle;

	ok(told_of(mod, dangle->words), "%s: it is told on request", dangle->kind);
	dangle_end(&user);
	ok(!told_of(mod, dangle->words), "and no more once it is forgotten");
	is(module_unload(host, dangle->kind, 0, 0), 0, "it is in nobody's way");
}

static void stays(struct module *mod)
{
	const struct dangle *dangle = user.dangle;

	is(module_unload(host, dangle->kind, 0, 0), 1, "%s: it stays", dangle->kind);
	says(dangle->words);
	if (dangle->told == BY_UNLOAD)
		list_says(dangle->words);
	is(module_host_free(host), -EBUSY, "as does the host");
	says(dangle->words);
	is(module_host_reap(host), 0, "and so it does at the next call");
	if (dangle->told == BY_UNLOAD)
		ok(told_of(mod, dangle->words), "it is told on request, too");
	dangle_end(&user);
	gone(dangle->file);
	is(module_dangling(mod, NULL, 0), 0, "and there is nobody any more");
}

static void plugins(void)
{
	struct module *mod;

	for (int i = 0; i < DANGLES; i++) {
		const struct dangle *dangle = &dangles[i];

		if (access(plugin(dangle->file), R_OK) != 0) {
			ok(true, "%s # SKIP the compiler has none that is unmapped", dangle->what);
			continue;
		}
		need(module_load(host, plugin(dangle->file), dangle->kind, &mod) == 0);
		need(module_try_get(mod));
		need(!dangle_begin(&user, dangle, module_symbol(mod, "leave")));
		module_put(mod);
		if (dangle->told == ON_REQUEST)
			told_on_request(mod);
		else
			stays(mod);
		module_handle_put(mod);
	}
}

static void unproven(void)
{
	struct module *mod;

	need(module_load(host, plugin("dangles.so"), "unproven", &mod) == 0);
	need(module_try_get(mod));
	need(!dangle_begin(&user, dangle_of("signal"), module_symbol(mod, "leave")));
	module_put(mod);
	is(module_unload(host, "unproven", MODULE_UNLOAD_UNPROVEN, 0), 0, "without a look it goes");
	dangle_end(&user);
	module_handle_put(mod);
	is(module_dangling(NULL, NULL, 0), -EINVAL, "no module");
}

static _Thread_local void (*during_look)(void);

/* The host asks for what each signal does when it looks who stands in a module: between that and the close
 * of the module anything can happen. */
int sigaction(int signal, const struct sigaction *to, struct sigaction *from)
{
	static int (*real)(int, const struct sigaction *, struct sigaction *);
	void (*happens)(void) = during_look;
	void *symbol;

	if (!real) {
		need((symbol = dlsym(RTLD_NEXT, "sigaction")));
		memcpy(&real, &symbol, sizeof(real));
	}
	during_look = NULL;
	if (happens)
		happens();
	return real(signal, to, from);
}

static void load_both(struct module **one, struct module **two)
{
	need(module_load(host, plugin("brings.so"), "one", one) == 0);
	need(module_load(host, plugin("brings.so"), "two", two) == 0);
	need(module_try_get(*two));
}

static void leave(const char *kind, struct module *mod)
{
	need(!dangle_begin(&user, dangle_of(kind), module_symbol(mod, "leave")));
	module_put(mod);
}

static void unload_two(void)
{
	is(module_unload(host, "two", 0, 0), 0, "while it is looked at, another one is unloaded");
}

/* A thread that is in their library alone. */
static void keep_library(struct module *mod, struct left *left)
{
	void (*stay_there)(void), *symbol;
	keeper *call_often;

	need((symbol = module_symbol(mod, "stay_there")));
	memcpy(&stay_there, &symbol, sizeof(symbol));
	need((symbol = module_symbol(mod, "call_often")));
	memcpy(&call_often, &symbol, sizeof(symbol));
	call_often(stay_there, left);
}

static void let_library_go(struct left *left)
{
	left->stop = true;
	pthread_join(left->thread, NULL);
	gone("brings.so");
	is(mapped("libkeeps.so"), 0, "and so has the library");
}

/* What two plugins need goes with the second, and is looked at then. Whoever else had a plugin open may
 * have closed it. */
static void not_alone(void)
{
	struct left of_library = { .stop = false };
	struct module *one, *two;
	void *opened;

	load_both(&one, &two);
	is(module_unload(host, "one", 0, 0), 0, "the first of two that need a library");
	leave("brought", two);
	is(module_unload(host, "two", 0, 0), 1, "the library is looked at with the second");
	says("of libkeeps.so");
	dangle_end(&user);
	gone("brings.so");
	is(mapped("libkeeps.so"), 0, "and so has the library");
	module_handle_put(one);
	module_handle_put(two);

	load_both(&one, &two);
	keep_library(two, &of_library);
	leave("asleep", two);
	is(module_unload(host, "two", 0, 0), 1, "one that stays by itself");
	is(module_unload(host, "one", 0, 0), 0, "leaves the library to it");
	dangle_end(&user);
	for (int i = 0; i < 20; i++) {
		need(module_host_reap(host) == 0);
		sleep_ns(MILLISECOND);
	}
	ok(mapped("libkeeps.so") > 0, "which is looked at by then");
	let_library_go(&of_library);
	module_handle_put(one);
	module_handle_put(two);

	load_both(&one, &two);
	of_library = (struct left){ .stop = false };
	keep_library(two, &of_library);
	module_put(two);
	during_look = unload_two;
	is(module_unload(host, "one", 0, 0), 1, "and leaves the library to the first, which is looked at again");
	says("of libkeeps.so");
	let_library_go(&of_library);
	module_handle_put(one);
	module_handle_put(two);

	need((opened = dlopen(plugin("dangles.so"), RTLD_NOW)));
	need(module_load(host, plugin("dangles.so"), "opened", &one) == 0 && module_try_get(one));
	dlclose(opened);
	leave("asleep", one);
	is(module_unload(host, "opened", 0, 0), 1, "one that somebody else had open before");
	says(" in poll_jobs");
	dangle_end(&user);
	gone("dangles.so");
	module_handle_put(one);
}

static struct module *looked_at;
static int64_t looked_beside;
static pthread_t shutting_down;
static int64_t shut_down;

static void *look_beside(void *unused)
{
	looked_beside = module_dangling(looked_at, NULL, 0);
	return unused;
}

static void *shut_host_down(void *unused)
{
	shut_down = module_host_shutdown(host, 10 * SECOND);
	return unused;
}

static void while_it_is_looked_at(void)
{
	pthread_join(start_thread(look_beside, NULL), NULL);
	module_put(looked_at);
	shutting_down = start_thread(shut_host_down, NULL);
	/* It would have returned. */
	sleep_ns(50 * MILLISECOND);
	ok(mapped("dangles.so") > 0, "while one is looked at it stays");
}

/* A look at what is unloaded already is in nobody's way, and keeps it. */
static void beside_a_look(void)
{
	need(module_load(host, plugin("dangles.so"), "looked", &looked_at) == 0);
	need(module_try_get(looked_at));
	need(module_unload(host, "looked", MODULE_UNLOAD_FORCE, 0) == 1);
	during_look = while_it_is_looked_at;
	ok(module_dangling(looked_at, NULL, 0) >= 0, "by one");
	ok(looked_beside >= 0, "and by another one at the same time");
	pthread_join(shutting_down, NULL);
	is(shut_down, 0, "and the host's shutdown waits for them");
	is(mapped("dangles.so"), 0, "before it unmaps it");
	module_handle_put(looked_at);
}

static _Atomic bool end;

static int load_and_unload(const char *path, const char *name, unsigned flags)
{
	need(module_load(host, path, name, NULL) == 0);
	return module_unload(host, name, flags, 0);
}

static void *sleeps(void *unused)
{
	while (!end)
		sleep_ns(MILLISECOND);
	return unused;
}

/* Where nobody can be looked at, nothing is unmapped beside other threads, unless it is wanted so. */
static void unlooked(char *program)
{
	char plain[PATH_MAX];
	pthread_t thread;

	/* There may be no /proc to find it by. */
	need(snprintf(plain, sizeof(plain), "%s/plain.so", dirname(program)) < PATH_MAX);
	is(load_and_unload(plain, "alone", 0), 0, "an only thread needs no look at others");
	thread = start_thread(sleeps, NULL);
	is(load_and_unload(plain, "unproven", MODULE_UNLOAD_UNPROVEN), 0, "nor if none is wanted");
	is(load_and_unload(plain, "beside", 0), 1, "beside another thread it stays");
	says("could not be looked at: ");
	end = true;
	pthread_join(thread, NULL);
}

int main(int argc, char **argv)
{
	host = module_host_new();
	if (argc > 1) {
		unlooked(argv[0]);
		return tap_done();
	}
	plugins();
	unproven();
	not_alone();
	beside_a_look();
	is(module_host_free(host), 0, "nothing is left in the host");
	return tap_done();
}
