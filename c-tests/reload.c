/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * reload.c - replacements that hand over what the old module has, and sets of modules that are
 * replaced in one step.
 *
 *     reload [N]    so many replacements under load, of each kind (400)
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <sched.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "clock.h"
#include "host.h"
#include "misuse.h"
#include "threads.h"

int told(struct module *self, long generation, const char *what);
long epoch_now(void);
const char *address(void);

static struct module_host *host;
static char order[1024];
static _Atomic bool logs, looks_for_itself, unloads_itself;
static _Atomic long epoch;
static char port[64];

/* Who refuses what: a module's name, its generation, and the function. */
static struct refusal {
	const char *name, *what;
	long generation;
} refusals[2];

/* Gates to value(), which answer GATE_REFUSES if they lead nowhere: one follows, one does not. */
static long (*gates[2])(void);
static _Atomic long entered;
static _Atomic bool asks_for_gate;
static struct module *_Atomic keeps; /* itself, by a reference, if it is set to KEEP */

#define KEEP ((struct module *)1)

enum { GATE_REFUSES = -7 };

static void call_gates(struct module *self, long generation, const char *what)
{
	if (strcmp(what, "init") != 0 && strcmp(what, "restore") != 0)
		return;
	for (int i = 0; i < 2; i++)
		entered += gates[i] && gates[i]() != GATE_REFUSES;
	if (asks_for_gate && generation == 1) {
		void *function, *gate;

		asks_for_gate = false;
		need(module_try_get(self) && (function = module_symbol(self, "value")));
		gate = module_gate(self, function, (uintptr_t)GATE_REFUSES);
		ok(memcmp(&gate, &gates[1], sizeof(gate)) == 0 && gates[1]() == 0,
		   "what its init function makes a gate to can be called");
		module_put(self);
	}
}

static const char *file(long generation, const char *name)
{
	char path[64];

	snprintf(path, sizeof(path), "reload-%ld/%s.so", generation,
		 strcmp(name, "p") == 0 ? "libprovides" : name);
	return plugin(path);
}

/* A load from an init function, of what needs that very module. */
static _Atomic bool loads_user;

static void load_user(const char *what)
{
	if (!loads_user || strcmp(what, "init") != 0)
		return;
	loads_user = false;
	is(module_load(host, file(2, "c"), NULL, NULL), -EDEADLK,
	   "what needs a new module is not loaded while that is not in service");
	says("cannot load module 'c', which needs 'p': module 'p' is being loaded by this very thread");
}

static _Thread_local bool stays;
static sem_t is_inside, leaves;

int told(struct module *self, long generation, const char *what)
{
	if (stays) {
		sem_post(&is_inside);
		sem_wait(&leaves);
		return -ECANCELED;
	}
	call_gates(self, generation, what);
	load_user(what);
	if (keeps == KEEP && strcmp(what, "init") == 0 && module_try_get(self))
		keeps = self;
	if (logs)
		snprintf(order + strlen(order), sizeof(order) - strlen(order), "%s%ld.%s ",
			 module_name(self), generation, what);
	if (unloads_itself) {
		unloads_itself = false;
		is(module_unload(host, module_name(self), 0, 0), -EBUSY, "a module that unloads itself");
		says("module 'p' is being unloaded or replaced by this very thread; let it return first");
		is(module_load(host, file(1, "p"), "p", NULL), -EBUSY, "or loads another one of its name");
		says("by this very thread");
	}
	if (looks_for_itself) {
		looks_for_itself = false;
		ok(!module_find_get_wait(host, module_name(self), -1), "a module that waits for itself");
		says("is being loaded, unloaded or replaced by this very thread");
	}
	for (int i = 0; i < 2; i++) {
		const struct refusal *refuses = &refusals[i];

		if (refuses->what && strcmp(refuses->what, what) == 0 &&
		    refuses->generation == generation &&
		    strcmp(refuses->name, module_name(self)) == 0)
			return -EUCLEAN;
	}
	return 0;
}

long epoch_now(void)
{
	return atomic_load(&epoch);
}

const char *address(void)
{
	return port;
}

static void refuse(const char *name, long generation, const char *what)
{
	refusals[0] = (struct refusal){ name, what, generation };
	refusals[1] = (struct refusal){ NULL, NULL, 0 };
}

static void in_order(const char *expected, const char *what)
{
	if (!ok(strcmp(order, expected) == 0, "%s", what))
		printf("#   found:    %s\n#   expected: %s\n", order, expected);
	order[0] = '\0';
}

/* What a function of a module answers; -2 if there is none of that name. */
static long ask(const char *name, const char *function)
{
	struct module *mod = module_find_get(host, name);
	long answer = mod ? call(mod, function) : -2;

	if (mod)
		module_put(mod);
	return answer;
}

static int stop_first(long generation, int64_t timeout)
{
	return module_replace_flags(host, "p", file(generation, "p"), MODULE_REPLACE_STOP_FIRST,
				    timeout);
}

/* ---- one module, its state, and each step that can fail ------------------------------------- */

static void serves_on(struct module *handle, const char *what)
{
	static long count = 3;

	ok(module_state(handle) == MODULE_STATE_LIVE && ask("p", "generation") == 1,
	   "%s: the old one serves on, and is the same module", what);
	is(ask("p", "add"), ++count, "with its state");
}

static void each_step(void)
{
	struct module *handle, *held;
	void *address;

	need(module_load(host, file(1, "p"), "p", &handle) == 0);
	for (long n = 1; n <= 3; n++)
		need(ask("p", "add") == n);
	need((address = module_gate_follow(handle, "value", (uintptr_t)GATE_REFUSES)));
	memcpy(&gates[0], &address, sizeof(address));
	need(module_try_get(handle));
	address = module_gate(handle, module_symbol(handle, "value"), (uintptr_t)GATE_REFUSES);
	need(address);
	memcpy(&gates[1], &address, sizeof(address));
	module_put(handle);
	logs = true;

	refuse("p", 1, "stop");
	unloads_itself = true;
	is(stop_first(2, SECOND), -EUCLEAN, "stop_module() refuses");
	in_order("p1.stop ", "before anything else");
	serves_on(handle, "stop");
	refuse("p", 1, "can");
	is(stop_first(2, SECOND), -EUCLEAN, "can_unload_module() refuses");
	in_order("p1.stop p1.can p1.resume ", "and it resumes");
	serves_on(handle, "can");
	refuse("p", 1, "save");
	is(stop_first(2, SECOND), -EUCLEAN, "save_module() refuses");
	says("module 'p' was not replaced: its save_module returned -117");
	in_order("p1.stop p1.can p1.save p1.resume ", "and it resumes");
	serves_on(handle, "save");
	refuse("p", 2, "init");
	is(stop_first(2, SECOND), -EUCLEAN, "the new one's init_module() fails");
	says("; nothing was replaced: the old one serves on");
	in_order("p1.stop p1.can p1.save p1.exit p2.init p1.init p1.restore ",
		 "and the old one is brought up again");
	serves_on(handle, "init");
	refuse("p", 2, "restore");
	is(stop_first(2, SECOND), -EUCLEAN, "the new one's restore_module() fails");
	says("module 'p' was not loaded: its restore_module returned -117");
	in_order("p1.stop p1.can p1.save p1.exit p2.init p2.restore p2.exit p1.init p1.restore ",
		 "and the old one is brought up again, after the new one's exit");
	is(entered, 0, "meanwhile no gate leads to it");
	serves_on(handle, "restore");
	ok(gates[0]() == 8 && gates[1]() == 8, "but by then gates do");
	refuse("p", 2, "init");
	asks_for_gate = true;
	is(stop_first(2, SECOND), -EUCLEAN, "once more");
	is(entered, 1, "only the gate that it asked for leads to it before it is up");
	order[0] = '\0';
	serves_on(handle, "init");

	refuse(NULL, 0, NULL);
	is(module_replace_flags(host, "p", plugin("no-such.so"), MODULE_REPLACE_STOP_FIRST, 0), -ENOENT,
	   "no new file");
	is(module_replace_flags(host, "p", "/proc/self/maps", MODULE_REPLACE_STOP_FIRST, 0), -ENOEXEC,
	   "or one that is no plugin");
	in_order("", "is of no concern to the old one");
	held = module_find_get(host, "p");
	is(stop_first(2, 0), -ETIMEDOUT, "it is held");
	is(stop_first(2, MILLISECOND), -ETIMEDOUT, "for longer than there is time");
	in_order("p1.stop p1.resume p1.stop p1.resume ", "and resumes");
	module_put(held);
	serves_on(handle, "held");
	is(module_replace_flags(host, "p", file(2, "p"), 8, 0), -EINVAL, "an unknown flag");

	is(stop_first(2, SECOND), 0, "and at last it is replaced");
	in_order("p1.stop p1.can p1.save p1.exit p2.init p2.restore ", "in this order");
	ok(ask("p", "generation") == 2 && ask("p", "value") == 10, "the new one goes on with the state");
	is(gates[0](), 10, "as a gate leads there");
	is(gates[1](), GATE_REFUSES, "if it follows");
	ok(!module_try_get(handle), "and the old one is gone");
	is(mapped("reload-1"), 0, "from memory, too");
	module_handle_put(handle);

	refuse("p", 1, "init");
	refusals[1] = (struct refusal){ "p", "init", 2 };
	is(stop_first(1, SECOND), -ENOTRECOVERABLE, "neither of the two can be brought up");
	says("could not be brought up again, so that there is none now");
	ok(!module_find_get(host, "p") && mapped("reload-") == 0, "and there is no such module");
	is(gates[0](), GATE_REFUSES, "to which a gate leads");
	gates[0] = gates[1] = NULL;
	refuse(NULL, 0, NULL);
	order[0] = '\0';
	logs = false;
}

/* ---- waiting for the outcome ---------------------------------------------------------------- */

static _Atomic pid_t finder;

static void *finds(void *timeout)
{
	struct module *mod;

	finder = gettid();
	mod = module_find_get_wait(host, "p", *(int64_t *)timeout);
	if (mod)
		module_put(mod);
	return mod;
}

static void *replacing(void *rc)
{
	*(int *)rc = stop_first(2, -1);
	return rc;
}

static void waits(void)
{
	int64_t never = -1, now = 0, soon = MILLISECOND;
	struct module *held;
	pthread_t replaces, waiter;
	int rc = 1;
	void *found;

	ok(!module_find_get_wait(host, "p", -1), "nothing to wait for");
	says("there is no module 'p'");
	need(module_load(host, file(1, "p"), "p", NULL) == 0);
	ok(finds(&now), "one that is live is found at once");
	held = module_find_get(host, "p");
	replaces = start_thread(replacing, &rc);
	while (module_state(held) == MODULE_STATE_LIVE)
		sleep_ns(MICROSECOND);
	ok(!module_find_get(host, "p"), "while it is replaced none is found");
	ok(!finds(&now) && !finds(&soon), "nor within a time");
	says("was when the time was up");
	finder = 0;
	waiter = start_thread(finds, &never);
	while (finder == 0)
		sched_yield();
	until_it_sleeps(finder);
	module_put(held);
	pthread_join(waiter, &found);
	ok(found && found != held, "who waits finds the new one");
	pthread_join(replaces, NULL);
	is(rc, 0, "it is replaced");
	looks_for_itself = true;
	is(module_unload(host, "p", 0, SECOND), 0, "which does not hinder its unload");
}

/* ---- under load ------------------------------------------------------------------------------ */

enum { THREADS = 8 };

static long rounds = 400;
static _Atomic bool over;
static _Atomic long added, mixtures, backwards, lost, refused, visits;

static void *adds(void *arg)
{
	while (!over) {
		struct module *mod = module_find_get_wait(host, "p", -1);

		if (!mod) {
			lost++;
			continue;
		}
		call(mod, "add");
		atomic_fetch_add(&added, 1);
		module_put(mod);
		sleep_ns(20 * MICROSECOND);
	}
	return arg;
}

static void counter(void)
{
	pthread_t threads[THREADS];
	long failed = 0;

	need(module_load(host, file(1, "p"), "p", NULL) == 0);
	over = false;
	for (int i = 0; i < THREADS; i++)
		threads[i] = start_thread(adds, NULL);
	for (long n = 0; n < rounds; n++)
		failed += stop_first(n % 2 ? 1 : 2, -1) < 0;
	over = true;
	for (int i = 0; i < THREADS; i++)
		pthread_join(threads[i], NULL);
	is(failed, 0, "%ld replacements under %d threads", rounds, THREADS);
	is(lost, 0, "each waits for the outcome");
	is(ask("p", "value"), added, "no increment is lost");
	printf("# %ld increments\n", (long)added);
	is(module_unload(host, "p", 0, SECOND), 0, "unloaded");
}

static int connected(int (*how)(int, const struct sockaddr *, socklen_t))
{
	struct sockaddr_un at = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0), rc;

	need(fd >= 0);
	strcpy(at.sun_path + 1, port);
	rc = how(fd, (struct sockaddr *)&at, sizeof(at));
	close(fd);
	return rc;
}

/* Wants the port for itself. */
static void *rival(void *arg)
{
	while (!over) {
		lost += connected(bind) == 0;
		sleep_ns(MICROSECOND);
	}
	return arg;
}

static void *client(void *arg)
{
	while (!over) {
		struct module *mod;

		refused += connected(connect) != 0;
		mod = module_find_get_wait(host, "p", -1);
		visits += call(mod, "serve");
		module_put(mod);
		sleep_ns(20 * MICROSECOND);
	}
	return arg;
}

static uint64_t stopped, down;

static int on_event(struct module *mod, enum module_state state, void *data)
{
	if (state == MODULE_STATE_LIVE && stopped)
		down += now_ns() - stopped;
	return 0;
}

static void listener(void)
{
	pthread_t threads[2];
	long failed = 0;

	snprintf(port, sizeof(port), "module-ref-reload-%d", (int)getpid());
	need(module_load(host, file(1, "p"), "p", NULL) == 0);
	need(module_notifier_register(host, on_event, NULL, 0) == 0);
	over = false;
	lost = 0;
	threads[0] = start_thread(rival, NULL);
	threads[1] = start_thread(client, NULL);
	for (long n = 0; n < rounds; n++) {
		stopped = now_ns();
		failed += stop_first(n % 2 ? 1 : 2, -1) < 0;
	}
	over = true;
	for (int i = 0; i < 2; i++)
		pthread_join(threads[i], NULL);
	is(failed, 0, "%ld replacements of one that listens", rounds);
	ok(lost == 0 && refused == 0, "nobody else gets its port, and nobody is refused");
	ok(visits > 0, "who connects is served");
	printf("# %ld visits; open and down for %.0f us per replacement\n", (long)visits,
	       (double)down / 1e3 / (double)rounds);
	need(module_notifier_unregister(host, on_event, NULL) == 0);
	is(module_unload(host, "p", 0, SECOND), 0, "unloaded");
	port[0] = '\0';
	stopped = 0;
}

/* ---- sets -------------------------------------------------------------------------------------- */

static const char *const MEMBERS[] = { "c", "a", "p", "b" };

enum { MEMBER_COUNT = 4 };

static int replace_some(const char *const *names, int n, long generation, unsigned flags,
			const char *broken)
{
	static char paths[MEMBER_COUNT][PATH_MAX];
	struct module_replacement set[MEMBER_COUNT];

	atomic_fetch_add(&epoch, 1);
	for (int i = 0; i < n; i++) {
		const char *name = names[i];

		strcpy(paths[i], broken && strcmp(name, broken) == 0 ? plugin("unresolved.so") : file(generation, name));
		set[i] = (struct module_replacement){ name, paths[i] };
	}
	return module_replace_set(host, set, (size_t)n, flags, -1);
}

static int replace_all(long generation, unsigned flags, const char *broken)
{
	return replace_some(MEMBERS, MEMBER_COUNT, generation, flags, broken);
}

static void load_all(void)
{
	atomic_fetch_add(&epoch, 1);
	need(module_load(host, file(1, "p"), "p", NULL) == 0);
	for (const char *name = "abc"; *name; name++)
		need(module_load(host, file(1, (char[]){ *name, 0 }), NULL, NULL) == 0);
}

/* All four are of this generation and epoch, and live. */
static bool all_are(long generation, long of_epoch)
{
	bool all = true;

	for (int i = 0; i < MEMBER_COUNT; i++)
		all = all && ask(MEMBERS[i], "generation") == generation &&
		      ask(MEMBERS[i], "both") == of_epoch;
	return all;
}

static void sets(unsigned flags)
{
	const char *how = flags ? "stopped first" : "started first";
	struct module_replacement twice[2] = { { "a", file(2, "a") }, { "a", file(2, "a") } };
	struct module *handles[MEMBER_COUNT];
	bool same = true;

	load_all();
	for (int i = 0; i < MEMBER_COUNT; i++) {
		need(ask(MEMBERS[i], "add") == 1);
		handles[i] = module_find_get(host, MEMBERS[i]);
		module_handle_get(handles[i]);
		module_put(handles[i]);
	}
	is(module_replace_flags(host, "p", file(2, "p"), flags, 0), -EWOULDBLOCK,
	   "%s: a provider alone cannot be replaced", how);
	is(module_replace_set(host, twice, 2, flags, 0), -EINVAL, "nor one twice");
	is(module_replace_set(host, twice, 0, flags, 0), -EINVAL, "nor none");
	logs = true;

	/* Providers first; the set has c before b, so that b is the last. */
	refuse("a", 2, "init");
	is(replace_all(2, flags, NULL), -EUCLEAN, "the third of four cannot be initialised");
	in_order(flags ? "b1.stop b1.can a1.stop a1.can c1.stop c1.can p1.stop p1.can b1.save b1.exit "
			 "a1.save a1.exit c1.save c1.exit p1.save p1.exit p2.init p2.restore c2.init "
			 "c2.restore a2.init c2.exit p2.exit p1.init p1.restore c1.init c1.restore "
			 "a1.init a1.restore b1.init b1.restore "
		       : "p2.init c2.init a2.init c2.exit p2.exit ",
		 "and all is undone");
	is(module_refcount(handles[2]), 3, "the provider is held by those who need it");
	refuse(NULL, 0, NULL);
	is(replace_all(2, flags, "b"), -ENOENT, "the fourth cannot be opened");
	if (flags) {
		in_order("", "before any is stopped");
		refuse("a", 2, "restore");
		is(replace_all(2, flags, NULL), -EUCLEAN, "or cannot restore");
		refuse("c", 1, "save");
		order[0] = '\0';
		is(replace_all(2, flags, NULL), -EUCLEAN, "or cannot save");
		in_order("b1.stop b1.can a1.stop a1.can c1.stop c1.can p1.stop p1.can b1.save b1.exit "
			 "a1.save a1.exit c1.save p1.resume c1.resume a1.init a1.restore b1.init "
			 "b1.restore ",
			 "then some resume, and others are brought up again");
		refuse("c", 1, "stop");
		is(replace_all(2, flags, NULL), -EUCLEAN, "or does not stop");
		in_order("b1.stop b1.can a1.stop a1.can c1.stop a1.resume b1.resume ",
			 "then those resume that have stopped");
	} else {
		in_order("p2.init c2.init a2.init a2.exit c2.exit p2.exit ",
			 "and the others are ended");
	}
	refuse(NULL, 0, NULL);
	for (int i = 0; i < MEMBER_COUNT; i++)
		same = same && module_try_get(handles[i]) && call(handles[i], "value") == 1 &&
		       call(handles[i], "generation") == 1;
	ok(same, "and the old ones are what they were");
	for (int i = 0; i < MEMBER_COUNT; i++) {
		module_put(handles[i]);
		module_handle_put(handles[i]);
	}
	is(replace_all(2, flags, NULL), 0, "at last all are replaced");
	in_order(flags ? "b1.stop b1.can a1.stop a1.can c1.stop c1.can p1.stop p1.can b1.save b1.exit "
			 "a1.save a1.exit c1.save c1.exit p1.save p1.exit p2.init p2.restore c2.init "
			 "c2.restore a2.init a2.restore b2.init b2.restore "
		       : "p2.init c2.init a2.init b2.init b1.stop b1.exit a1.stop a1.exit c1.stop "
			 "c1.exit p1.stop p1.exit ",
		 "in this order");
	logs = false;
	ok(all_are(2, epoch), "and are bound to each other");
	is(ask("b", "value"), flags ? 1 : 0, "%s", flags ? "with their state" : "without their state");
	is(mapped("reload-1/"), 0, "nothing of the old ones is mapped");
	is(module_unload(host, "p", 0, 0), -EWOULDBLOCK, "the new ones depend on the new provider");

	refuse("p", 2, "init");
	refusals[1] = (struct refusal){ "c", "init", 1 };
	is(replace_all(1, flags, NULL), flags ? -ENOTRECOVERABLE : -EUCLEAN, "two refuse");
	refuse(NULL, 0, NULL);
	if (flags)
		ok(!module_find_get(host, "p") && !module_find_get(host, "a") && !mapped("reload-"),
		   "without the provider none of them can be brought up again");
	is(module_host_shutdown(host, SECOND), 0, "all are unloaded");
	is(mapped("reload-"), 0, "and gone");
}

/* A provider, what needs it, and what needs that. */
static void chain(void)
{
	static const char *const NAMES[] = { "p", "a", "b" };
	struct module *a, *b;
	char last[64] = "";

	load_all();
	need((a = module_find_get(host, "a")) && (b = module_find_get(host, "b")));
	need(module_add_dependency(b, a) == 0 && module_unload(host, "c", 0, 0) == 0);
	module_put(a);
	module_put(b);
	refuse("p", 1, "init");
	refusals[1] = (struct refusal){ "p", "init", 2 };
	reports_since(MODULE_REF_SURPLUS_PUT);
	is(replace_some(NAMES, 3, 2, MODULE_REPLACE_STOP_FIRST, NULL), -ENOTRECOVERABLE,
	   "none of a chain can be brought up again");
	refuse(NULL, 0, NULL);
	is(reports_since(MODULE_REF_SURPLUS_PUT), 0, "no reference is put twice");
	is(mapped("reload-"), 0, "and all are gone");
	module_host_last_unloaded(host, last, sizeof(last));
	ok(strcmp(last, "p unmapped") == 0, "the provider, which failed, as the last one: %s", last);
}

/* What a new module loads cannot outlive it. */
static void nested(void)
{
	static const char *const NAMES[] = { "p", "a" };

	for (unsigned flags = 0; flags <= MODULE_REPLACE_STOP_FIRST; flags++) {
		load_all();
		need(module_unload(host, "b", 0, 0) == 0 && module_unload(host, "c", 0, 0) == 0);
		refuse("a", 2, "init");
		loads_user = true;
		is(replace_some(NAMES, 2, 2, flags, NULL), -EUCLEAN, "so it is not when the set fails");
		refuse(NULL, 0, NULL);
		is(mapped("reload-2"), 0, "and nothing new is left");
		is(module_load(host, file(1, "c"), NULL, NULL), 0, "afterwards it is loaded");
		is(module_host_shutdown(host, SECOND), 0, "all are unloaded");
	}
}

/* A new provider that stays although it was not put into service is nobody's provider. The old one is known
 * by its soname alone. */
static void kept(void)
{
	static const char *const NAMES[] = { "p", "a" };
	char link[] = "/tmp/module-ref-reload-XXXXXX";

	need(mkdtemp(link) && rmdir(link) == 0 && symlink(file(1, "p"), link) == 0);
	for (unsigned flags = 0; flags <= MODULE_REPLACE_STOP_FIRST; flags++) {
		atomic_fetch_add(&epoch, 1);
		need(module_load(host, link, "p", NULL) == 0);
		need(module_load(host, file(1, "a"), NULL, NULL) == 0);
		refuse("a", 2, "init");
		keeps = KEEP;
		is(replace_some(NAMES, 2, 2, flags, NULL), -EUCLEAN, "a set fails, and its provider is kept");
		says("the mapping of 'p' stays until somebody gives 1 reference to it back");
		says("; nothing was replaced: all old ones serve on");
		refuse(NULL, 0, NULL);
		is(module_load(host, file(1, "c"), NULL, NULL), 0, "what needs the provider is loaded");
		is(ask("c", "uses"), 1, "and bound to the old one");
		need(module_unload(host, "c", 0, 0) == 0);
		is(replace_some(NAMES, 2, 2, flags, NULL), 0, "the next set is not bound to it");
		is(ask("a", "both"), atomic_load(&epoch), "but to one of its own");
		module_put(keeps);
		keeps = NULL;
		is(module_host_shutdown(host, SECOND), 0, "all are unloaded");
	}
	unlink(link);
}

/* What the program has opened itself keeps its name, whatever becomes of the set. */
static void opened_by_program(void)
{
	static const char *const NAMES[] = { "p", "a" };

	for (unsigned flags = 0; flags <= MODULE_REPLACE_STOP_FIRST; flags++) {
		void *own, *found;

		load_all();
		need(module_unload(host, "b", 0, 0) == 0 && module_unload(host, "c", 0, 0) == 0);
		need((own = dlopen(file(2, "p"), RTLD_NOW)));
		refuse("a", 2, "init");
		is(replace_some(NAMES, 2, 2, flags, NULL), -EUCLEAN, "a set fails, of which the program has one");
		refuse(NULL, 0, NULL);
		is(module_host_shutdown(host, SECOND), 0, "all are unloaded");
		found = dlopen("libprovides.so", RTLD_NOW | RTLD_NOLOAD);
		ok(found == own, "but what the program has opened, which is found by its name");
		if (found)
			dlclose(found);
		dlclose(own);
		is(mapped("reload-"), 0, "until the program closes it");
	}
}

static void *stay(void *save_module)
{
	int (*save)(struct module_saved *);
	struct module_saved unused;

	memcpy(&save, &save_module, sizeof(save));
	stays = true;
	save(&unused);
	return NULL;
}

/* Somebody is in the old user without a reference. What it needs stays with it, and is not waited for: the
 * user's reference on it is given back by a later call of the host. */
static void occupied(void)
{
	static const char *const NAMES[] = { "p", "a" };
	struct module *user;
	pthread_t thread;
	void *save;

	need(sem_init(&is_inside, 0, 0) == 0 && sem_init(&leaves, 0, 0) == 0);
	load_all();
	need(module_unload(host, "b", 0, 0) == 0 && module_unload(host, "c", 0, 0) == 0);
	need((user = module_find_get(host, "a")) && (save = module_symbol(user, "save_module")));
	module_put(user);
	need(pthread_create(&thread, NULL, stay, save) == 0);
	sem_wait(&is_inside);
	is(replace_some(NAMES, 2, 2, 0, NULL), 1, "a user in which somebody is stays mapped");
	is(ask("a", "uses"), 2, "and is replaced with what it needs");
	sem_post(&leaves);
	pthread_join(thread, NULL);
	is(module_host_reap(host), 2, "both go once that thread has left");
	is(mapped("reload-1/"), 0, "from memory too");
	is(module_host_shutdown(host, SECOND), 0, "the new ones are unloaded");
}

/* A library that is no module stands between the two, and stays bound to the old one. */
static void between(void)
{
	char provider[PATH_MAX], far[PATH_MAX];
	struct module_replacement set[2] = { { "far", far }, { "libprovider", provider } };

	strcpy(provider, plugin("libprovider.so"));
	strcpy(far, plugin("far.so"));
	need(module_load(host, provider, NULL, NULL) == 0);
	need(module_load(host, far, NULL, NULL) == 0);
	for (unsigned flags = 0; flags <= MODULE_REPLACE_STOP_FIRST; flags++) {
		is(module_replace_set(host, set, 2, flags, SECOND), -EWOULDBLOCK,
		   "what would be bound to an old one is refused");
		says("libbetween.so', which is no module, and is bound to an old one");
		is(ask("far", "uses"), 1, "and the old ones serve on");
	}
	is(module_host_shutdown(host, SECOND), 0, "both are unloaded");
}

/* A library that is upgraded along with what needs it. */
static void install(const char *folder, long generation)
{
	char command[2 * PATH_MAX];

	snprintf(command, sizeof(command),
		 "mkdir -p %s/new && cp %sreload-%ld/*.so %s/new && mv %s/new/*.so %s", folder, plugin(""),
		 generation, folder, folder, folder);
	need(system(command) == 0);
}

static void load_and_look_for_stale(const char *path, bool is_stale, const char *what)
{
	need(module_load(host, "", NULL, NULL) < 0);
	is(module_load(host, path, NULL, NULL), 0, "%s", what);
	ok(!strstr(module_last_error(), "libprovides.so', of which another version is on disk by now") ==
		   !is_stale,
	   "it is bound to %s", is_stale ? "another version than is on disk" : "what is on disk");
}

/* The dynamic linker's own, of a library that is loaded. */
static void *record_of(const char *path)
{
	void *handle = dlopen(path, RTLD_NOW | RTLD_NOLOAD);

	need(handle && dlclose(handle) == 0);
	return handle;
}

static void stale(void)
{
	char folder[] = "/tmp/module-ref-reload-XXXXXX", path[PATH_MAX], command[PATH_MAX];
	char library[PATH_MAX], aside[PATH_MAX], user[PATH_MAX];
	void *first, *second, *handle;

	need(mkdtemp(folder));
	snprintf(path, sizeof(path), "%s/a.so", folder);
	snprintf(library, sizeof(library), "%s/libprovides.so", folder);
	snprintf(aside, sizeof(aside), "%s/aside", folder);
	snprintf(user, sizeof(user), "%s/b.so", folder);
	install(folder, 1);
	need(module_load(host, path, NULL, NULL) == 0);
	install(folder, 2);
	is(module_replace(host, "a", path, SECOND), 0, "a module is upgraded, with a library");
	says("libprovides.so', of which another version is on disk by now");
	is(module_host_shutdown(host, SECOND), 0, "all that needs the old one is unloaded");
	load_and_look_for_stale(path, false, "and then");

	/* Another version of the library is loaded where this one was, and then the file of this one is back. */
	first = record_of(library);
	is(module_host_shutdown(host, SECOND), 0, "unloaded");
	need(rename(library, aside) == 0);
	install(folder, 1);
	need((handle = dlopen(user, RTLD_NOW)) && rename(aside, library) == 0);
	second = record_of(library);
	printf("# its record is %s\n", first == second ? "where that of the other one was" : "elsewhere");
	load_and_look_for_stale(path, true, "what needs it is loaded");
	is(module_host_shutdown(host, SECOND), 0, "unloaded");
	need(dlclose(handle) == 0);
	snprintf(command, sizeof(command), "rm -r %s", folder);
	need(system(command) == 0);
}

/* An object that asks never to be unmapped. */
static void nodelete(void)
{
	const char *path = plugin("nodelete.so");

	need(module_load_flags(host, path, NULL, MODULE_LOAD_DELETABLE, NULL) == 0);
	for (int n = 0; n < 4; n++) {
		is(ask("nodelete", "answer"), 1, "a copy that does not ask begins anew");
		is(module_replace(host, "nodelete", path, SECOND), 0, "is replaced");
	}
	is(module_unload(host, "nodelete", 0, SECOND), 0, "and unloaded");
	is(mapped("nodelete"), 0, "and gone");
	need(module_load(host, plugin("libprovider.so"), "nodelete", NULL) == 0);
	is(module_replace(host, "nodelete", path, SECOND), -ENOTSUP, "otherwise it is refused");
	says("link it without -z nodelete, or load with MODULE_LOAD_DELETABLE");
	is(mapped("nodelete"), 0, "and not loaded");

	/* The same of what the dynamic linker finds by its name, as it does this one from now on. */
	need(dlopen(path, RTLD_NOW));
	is(module_replace(host, "nodelete", "nodelete.so", SECOND), -ENOTSUP, "a library is refused, too");
	says("'nodelete.so', which asks never to be unmapped");
	is(ask("nodelete", "provided"), 7, "and the old one serves on");
	is(module_unload(host, "nodelete", 0, SECOND), 0, "unloaded");
	need(module_load_flags(host, "nodelete.so", NULL, MODULE_LOAD_DELETABLE, NULL) == 0);
	is(ask("nodelete", "answer"), 1, "a copy of it is loaded");
	is(module_replace(host, "nodelete", "nodelete.so", SECOND), 0, "is replaced");
	is(module_unload(host, "nodelete", 0, SECOND), 0, "and is unmapped when it is unloaded");
}

static int sums(const struct module_info *info, void *data)
{
	if (info->residency != MODULE_IN_SERVICE)
		*(size_t *)data += info->size;
	return 0;
}

static void residents(void)
{
	struct module *held;
	size_t bytes = 0;

	need(module_load(host, file(1, "p"), "p", NULL) == 0);
	is(module_host_limit_residents(host, 0), 0, "nothing may stay mapped");
	held = module_find_get(host, "p");
	is(module_replace(host, "p", file(2, "p"), 0), 1, "one that was replaced is held");
	need(module_host_each(host, sums, &bytes) == 0 && bytes > 0);
	is(module_load(host, file(1, "p"), "another", NULL), -EDQUOT, "so no other is loaded");
	says("'p' (");
	is(module_replace(host, "p", file(1, "p"), 0), -EDQUOT, "nor is one replaced");
	is(module_open(host, file(1, "p"), "another", &(struct module *){ NULL }), -EDQUOT, "or opened");
	need(module_host_limit_residents(host, bytes) == 0);
	is(module_load(host, file(1, "p"), "another", NULL), 0, "so much may stay");
	need(module_host_limit_residents(host, bytes - 1) == 0);
	is(module_load(host, file(1, "p"), "third", NULL), -EDQUOT, "and a byte less may not");
	module_put(held);
	is(module_load(host, file(1, "p"), "third", NULL), 0, "until it has gone");
	need(module_host_limit_residents(host, SIZE_MAX) == 0);
	is(module_host_shutdown(host, SECOND), 0, "all are unloaded");
}

static void *looks(void *arg)
{
	unsigned turn = (unsigned)(uintptr_t)arg;
	long last = 0;

	while (!over) {
		struct module *mod = module_find_get_wait(host, MEMBERS[turn++ % MEMBER_COUNT], -1);
		long seen = mod ? call(mod, "both") : 0;

		mixtures += seen < 0;
		backwards += seen < last;
		last = seen;
		visits++;
		if (mod)
			module_put(mod);
		else
			lost++;
		sleep_ns(10 * MICROSECOND);
	}
	return arg;
}

static void sets_under_load(unsigned flags)
{
	pthread_t threads[THREADS];
	long failed = 0, undone = 0, n = rounds / 4;

	load_all();
	over = false;
	mixtures = backwards = lost = visits = 0;
	for (int i = 0; i < THREADS; i++)
		threads[i] = start_thread(looks, (void *)(uintptr_t)i);
	for (long i = 0; i < n; i++) {
		long next = i % 2 ? 1 : 2;

		if (i % 5 == 4) {
			refuse("a", next, "init");
			undone += replace_all(next, flags, NULL) == -EUCLEAN;
			refuse(NULL, 0, NULL);
		}
		failed += replace_all(next, flags, NULL) < 0;
	}
	over = true;
	for (int i = 0; i < THREADS; i++)
		pthread_join(threads[i], NULL);
	is(failed, 0, "%ld replacements of all four under %d threads, %s", n, THREADS,
	   flags ? "stopped first" : "started first");
	is(undone, n / 5, "and others that are undone");
	is(mixtures, 0, "nobody sees what is bound to another generation");
	is(lost, 0, "and each finds one");
	is(backwards, 0, "nor an old one after a new one");
	printf("# %ld visits\n", (long)visits);
	is(module_host_shutdown(host, SECOND), 0, "all are unloaded");
}

int main(int argc, char **argv)
{
	if (argc > 1)
		rounds = atol(argv[1]);
	host = module_host_new();
	need(host);
	module_ref_set_misuse_handler(on_misuse);
	each_step();
	waits();
	counter();
	listener();
	sets(0);
	sets(MODULE_REPLACE_STOP_FIRST);
	chain();
	nested();
	kept();
	opened_by_program();
	occupied();
	between();
	stale();
	residents();
	nodelete();
	sets_under_load(0);
	sets_under_load(MODULE_REPLACE_STOP_FIRST);
	is(reports_since(MODULE_REF_SURPLUS_PUT), 0, "and no reference was put twice");
	is(module_host_free(host), 0, "and so is the host");
	return tap_done();
}
