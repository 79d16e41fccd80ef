/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * gate.c - addresses that stay good when the module behind them is gone.
 *
 *     gate [ROUNDS]       how many times a module is unloaded and loaded under calls (500)
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <execinfo.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/time.h>
#include <sys/wait.h>

#include "filter.h"
#include "host.h"
#include "plugins/gated.h"
#include "threads.h"

enum { THREADS = 8, MANY = 100000 };

long in_callback(long argument);
long called_through(long argument);

static struct module_host *host;
static struct module *mod; /* a handle */
static volatile long stays;

/* An address as a function, and the other way round, through a cast that C allows. */
#define FUNCTION(variable, address) memcpy(&(variable), &(void *){ address }, sizeof(variable))

static void *symbol(const char *name)
{
	void *address;

	need(module_try_get(mod));
	address = module_symbol(mod, name);
	module_put(mod);
	need(address);
	return address;
}

static void *gate_to(const char *name, uintptr_t refused)
{
	void *gate = module_gate(mod, symbol(name), refused);

	if (!gate)
		printf("# %s\n", module_last_error());
	need(gate);
	return gate;
}

static void load(const char *file)
{
	if (mod)
		module_handle_put(mod);
	need(module_load(host, plugin(file), "gated", &mod) == 0);
}

static int unload(void)
{
	return module_unload(host, "gated", 0, SECOND);
}

/* ---- calls ------------------------------------------------------------------------------- */

static void arguments(void)
{
	bool (*every)(long, long, long, long, long, long, double, double, double, double, double,
		      double, double, double);
	struct numbers (*two)(long);
	struct halves (*half)(double);
	struct large (*big)(const struct large *), there = { { 1, 2, 3, 4, 5, 6, 7, 8, 9 } }, back;
	double (*variadic)(int, ...);

	FUNCTION(every, gate_to("all", 0));
	FUNCTION(two, gate_to("numbers", 0));
	FUNCTION(half, gate_to("halves", 0));
	FUNCTION(big, gate_to("large", 0));
	FUNCTION(variadic, gate_to("sum", 0));
	ok(every(1, 2, 3, 4, 5, 6, 1.5, 2.5, 3.5, 4.5, 5.5, 6.5, 7.5, 8.5),
	   "all arguments that go in registers arrive");
	ok(two(5).a == 5 && two(5).b == -5, "two integers come back");
	ok(half(.5).a == .5 && half(.5).b == -.5, "two floating-point numbers come back");
	back = big(&there);
	ok(memcmp(&back, &there, sizeof(back)) == 0, "a large structure comes back");
	ok(variadic(3, 1.5, 2.5, 4.0) == 8.0, "a function with variable arguments gets its own");
	is(module_refcount(mod), 0, "each call has given its reference back");
}

/* Called back by the module, through the gate. */
long in_callback(long argument)
{
	return module_refcount(mod) * 10 + argument;
}

__attribute__((noinline)) long called_through(long argument)
{
	void *frames[32];
	int n = backtrace(frames, 32);

	for (int i = 0; i < n; i++) {
		Dl_info info;

		if (dladdr(frames[i], &info) && info.dli_sname &&
		    strcmp(info.dli_sname, "calls_it") == 0)
			return argument;
	}
	return -1;
}

long calls_it(long (*gate)(long (*)(long), long), long argument);
__attribute__((noinline)) long calls_it(long (*gate)(long (*)(long), long), long argument)
{
	long result = gate(called_through, argument);

	stays = result;
	return result;
}

static void during(void)
{
	long (*gate)(long (*)(long), long);

	FUNCTION(gate, gate_to("calls", 0));
	is(gate(in_callback, 3), 13, "the module is held by the call");
	is(module_refcount(mod), 0, "and not after it");
	is(calls_it(gate, 4), 4, "a backtrace goes through the gate to its caller");
}

static void late(void)
{
	long (*gate)(void), (*other)(void);
	double (*half)(int, ...);
	uint64_t before;
	void *function = symbol("generation");
	union {
		double number;
		uintptr_t bits;
	} refused = { .number = -2.5 };

	FUNCTION(gate, module_gate(mod, function, 17));
	FUNCTION(other, module_gate(mod, function, 18));
	FUNCTION(half, gate_to("sum", refused.bits));
	ok(module_gate(mod, function, 17) == *(void **)&gate, "a function has one gate");
	ok(gate != other, "and one for each value of a refused call");
	is(gate(), 1, "which calls it");
	before = module_gate_refused(*(void **)&gate);
	errno = 77;
	need(gate() == 1);
	is(errno, 77, "errno is as it was");
	is(unload(), 0, "gates do not keep a module");
	is(mapped("gated.so"), 0, "which is gone");
	errno = 77;
	is(gate(), 17, "a call after that is refused");
	is(errno, 77, "errno is as it was");
	is(other(), 18, "each with its own value");
	ok(half(0) == -2.5, "which may be a floating-point number");
	is((long long)(module_gate_refused(*(void **)&gate) - before), 1, "and counted");
	is((long long)module_gate_refused(&gate), 0, "nothing is counted for what is no gate");
	ok(!module_gate(mod, function, 17), "there is no new gate to it");
	says("gone");
	load("gated.so");
	is(gate(), 17, "nor does a gate lead to the next one of that name");
	ok(gate_to("generation", 17) != *(void **)&gate, "which has a gate of its own");
}

static void mistakes(void)
{
	long (*function)(long), (*program)(long) = in_callback;
	struct module *plain;
	void *address;

	memcpy(&address, &program, sizeof(address));
	need(module_load(host, plugin("plain.so"), "plain", &plain) == 0);
	ok(!module_gate(NULL, symbol("all"), 0), "no gate of no module");
	says("module_gate: mod is NULL");
	ok(!module_gate(mod, NULL, 0), "nor to no function");
	says("module_gate: function is NULL");
	ok(!module_gate(mod, symbol("a_variable"), 0), "nor to a variable of its own");
	says("that is no function, since no object has code there");
	ok(!module_gate(mod, &host, 0) && !module_gate(mod, (void *)8, 0), "or of others, or to nothing");
	ok(!module_gate_follow(mod, "a_variable", 0), "nor does one follow that");
	says("has no function 'a_variable'");
	FUNCTION(function, module_gate(mod, address, 0));
	is(function(3), 13, "but to a function of the program, which stays");
	need(module_try_get(plain));
	ok(!module_gate(mod, module_symbol(plain, "answer"), 0), "nor to another module's");
	says("it is a function of module 'plain'");
	need(module_add_dependency(mod, plain) == 0);
	ok(module_gate(mod, module_symbol(plain, "answer"), 0), "unless that is kept by this one");
	module_put(plain);
	ok(!module_gate_follow(mod, "nothing", 0), "nor by a symbol that it does not have");
	says("has no function 'nothing'");
	ok(!module_gate_follow(mod, NULL, 0), "nor by none");
	says("symbol is NULL");
	need(unload() == 0);
	load("gated.so");
	need(module_unload(host, "plain", 0, 0) == 0);
	module_handle_put(plain);
}

/* ---- a gate that follows ------------------------------------------------------------------- */

static void follows(void)
{
	long (*gate)(void);
	int (*first)(void);
	void *found;

	FUNCTION(gate, module_gate_follow(mod, "generation", 99));
	FUNCTION(first, module_gate_follow(mod, "only_in_the_first", 98));
	is(gate(), 1, "a gate that follows leads to the module");
	is(module_replace(host, "gated", plugin("gated2.so"), SECOND), 0, "and when it is replaced");
	is(gate(), 2, "to what has taken its place");
	is(first(), 98, "if that has the symbol");
	found = module_find_get(host, "gated");
	ok(module_gate_follow(found, "generation", 99) == *(void **)&gate, "it is the same gate");
	module_put(found);
	need(unload() == 0);
	is(gate(), 99, "it is refused while there is none");
	load("gated.so");
	is(gate(), 1, "and leads to the one that comes then");
	is(first(), 7, "with each of its symbols");
	is((long long)module_gate_refused(*(void **)&gate), 1, "one call was refused");
}

static _Atomic int stop;
static _Atomic long wrong;

static void *call_on(void *arg)
{
	long (*gate)(void), n = 0;

	FUNCTION(gate, arg);
	while (!atomic_load(&stop)) {
		long found = gate();

		if (found != 1 && found != 2)
			atomic_fetch_add(&wrong, 1);
		n++;
	}
	return (void *)n;
}

static void replaced(int rounds)
{
	pthread_t threads[THREADS];
	void *gate = module_gate_follow(mod, "generation", 5), *calls;
	long n = 0;

	need(gate);
	atomic_store(&stop, 0);
	for (int i = 0; i < THREADS; i++)
		threads[i] = start_thread(call_on, gate);
	for (int i = 0; i < rounds; i++)
		if (module_replace(host, "gated", plugin(i % 2 ? "gated.so" : "gated2.so"), 10 * SECOND) < 0)
			atomic_fetch_add(&wrong, 1);
	atomic_store(&stop, 1);
	for (int i = 0; i < THREADS; i++) {
		pthread_join(threads[i], &calls);
		n += (long)calls;
	}
	is(atomic_load(&wrong), 0, "%ld calls through %d replacements are all answered", n, rounds);
	is((long long)module_gate_refused(gate), 0, "and none is refused");
	need(unload() == 0);
	load("gated.so");
}

/* ---- under unloads -------------------------------------------------------------------------- */

static void *_Atomic storm_gates[2];
static _Atomic bool is_answered;

static void *storm_thread(void *arg)
{
	long *counts = arg, (*gate)(void);

	while (!atomic_load(&stop))
		for (int i = 0; i < 2; i++) {
			long found;

			FUNCTION(gate, atomic_load(&storm_gates[i]));
			found = gate();
			counts[0]++;
			if (found == 1) {
				counts[1]++;
				is_answered = true;
			} else if (found == -9)
				sched_yield();
			else
				atomic_fetch_add(&wrong, 1);
		}
	return NULL;
}

/* One gate stays, and one is made anew with each load. */
static void storm(int rounds)
{
	pthread_t threads[THREADS];
	long counts[THREADS][8] = { { 0 } }, calls = 0, done = 0, refused = 0;
	void *follow = module_gate_follow(mod, "generation", (uintptr_t)-9);
	void **made = calloc((size_t)rounds + 1, sizeof(*made));

	need(made && follow);
	atomic_store(&stop, 0);
	atomic_store(&storm_gates[0], follow);
	atomic_store(&storm_gates[1], made[0] = gate_to("generation", (uintptr_t)-9));
	for (int i = 0; i < THREADS; i++)
		threads[i] = start_thread(storm_thread, counts[i]);
	for (int i = 0; i < rounds; i++) {
		int rc = module_unload(host, "gated", 0, 10 * SECOND);

		/* The look takes a thread that runs for one that may be inside. */
		if (rc != 0 && rc != 1)
			atomic_fetch_add(&wrong, 1);
		while (i == 0 && module_gate_refused(follow) == 0)
			sched_yield();
		load("gated.so");
		while (i == 0 && !is_answered)
			sched_yield();
		atomic_store(&storm_gates[1], made[i + 1] = gate_to("generation", (uintptr_t)-9));
	}
	atomic_store(&stop, 1);
	for (int i = 0; i < THREADS; i++) {
		pthread_join(threads[i], NULL);
		calls += counts[i][0];
		done += counts[i][1];
	}
	refused = (long)module_gate_refused(follow);
	for (int i = 0; i <= rounds; i++)
		refused += (long)module_gate_refused(made[i]);
	is(atomic_load(&wrong), 0, "%ld calls through %d unloads and loads are all answered", calls, rounds);
	is(done + refused, calls, "%ld of them by the module, and %ld refused", done, refused);
	ok(done > 0 && refused > 0, "there are both");
	free(made);
	while (module_host_reap(host) > 0)
		;
	is(module_refcount(mod), 0, "no reference is left");
}

/* ---- ways out ------------------------------------------------------------------------------- */

static void thrown(void)
{
	struct module *catcher;
	long (*catches_it)(long (*)(long), long), (*gate)(long);

	need(module_load(host, plugin("catcher.so"), "catcher", &catcher) == 0);
	need(module_try_get(catcher));
	FUNCTION(catches_it, module_symbol(catcher, "catches"));
	FUNCTION(gate, gate_to("throws", 0));
	is(catches_it(gate, 6), 1006, "an exception goes through a gate");
	is(module_refcount(mod), 0, "and gives the reference back");
	module_put(catcher);
	need(module_unload(host, "catcher", 0, SECOND) == 0);
	module_handle_put(catcher);
}

static long exits(long argument)
{
	pthread_exit((void *)argument);
}

static long sleeps(long argument)
{
	atomic_store(&stop, 1);
	for (;;)
		pause();
	return argument;
}

static void *ends_inside(void *arg)
{
	long (*gate)(long (*)(long), long), (*function)(long);

	FUNCTION(gate, gate_to("calls", 0));
	memcpy(&function, arg, sizeof(function));
	gate(function, 8);
	return NULL;
}

static void ended(void)
{
	long (*function)(long) = exits;
	void *result;
	pthread_t thread = start_thread(ends_inside, &function);

	pthread_join(thread, &result);
	is((long)result, 8, "pthread_exit() goes through a gate");
	is(module_refcount(mod), 0, "and gives the reference back");
	function = sleeps;
	atomic_store(&stop, 0);
	thread = start_thread(ends_inside, &function);
	while (!atomic_load(&stop))
		sleep_ns(1000);
	is(module_refcount(mod), 1, "a thread is inside");
	pthread_cancel(thread);
	pthread_join(thread, &result);
	ok(result == PTHREAD_CANCELED, "pthread_cancel() goes through a gate");
	is(module_refcount(mod), 0, "and gives the reference back");
}

/* ---- signals and the ends of threads --------------------------------------------------------- */

static long (*signal_gate)(void);
static _Atomic long handled;

static void on_signal(int number)
{
	long found = signal_gate();

	if (found != 1 && found != 2 && found != -9)
		atomic_fetch_add(&wrong, 1);
	atomic_fetch_add(&handled, 1);
}

static void signals(void)
{
	struct sigaction action = { .sa_handler = on_signal };
	struct itimerval often = { { 0, 100 }, { 0, 100 } }, never = { { 0, 0 }, { 0, 0 } };
	long calls = 0, i;

	FUNCTION(signal_gate, module_gate_follow(mod, "generation", (uintptr_t)-9));
	sigaction(SIGALRM, &action, NULL);
	setitimer(ITIMER_REAL, &often, NULL);
	for (i = 0; i < 20 || atomic_load(&handled) < 100; i++) {
		for (int n = 0; n < 1000; n++, calls++)
			if (signal_gate() < 1)
				atomic_fetch_add(&wrong, 1);
		need(module_replace(host, "gated", plugin(i % 2 ? "gated.so" : "gated2.so"),
				    10 * SECOND) >= 0);
	}
	setitimer(ITIMER_REAL, &never, NULL);
	is(atomic_load(&wrong), 0, "%ld signals call a gate, on top of %ld calls and %ld replacements",
	   atomic_load(&handled), calls, i);
	while (module_host_reap(host) > 0)
		;
	need(unload() == 0);
	load("gated.so");
	is(module_refcount(mod), 0, "no reference is left");
}

static pthread_key_t key;

static void at_thread_end(void *gate)
{
	long (*function)(void);

	FUNCTION(function, gate);
	atomic_fetch_add(&handled, function());
}

static void *ends(void *gate)
{
	pthread_setspecific(key, gate);
	return NULL;
}

static void at_the_end(void)
{
	void *gate = gate_to("generation", 50);

	need(pthread_key_create(&key, at_thread_end) == 0);
	atomic_store(&handled, 0);
	pthread_join(start_thread(ends, gate), NULL);
	is(atomic_load(&handled), 1, "a thread calls a gate at its end");
	need(unload() == 0);
	pthread_join(start_thread(ends, gate), NULL);
	is(atomic_load(&handled), 51, "and is refused when the module is gone");
	pthread_key_delete(key);
	load("gated.so");
}

/* ---- memory --------------------------------------------------------------------------------- */

static long resident_kb(void)
{
	FILE *file = fopen("/proc/self/statm", "r");
	long pages = 0, all_pages;

	need(file && fscanf(file, "%ld %ld", &all_pages, &pages) == 2);
	fclose(file);
	return pages * sysconf(_SC_PAGESIZE) / 1024;
}

static void many(void)
{
	void *function = symbol("generation"), *last = NULL;
	long before = resident_kb(), kb, (*gate)(void);
	bool differ = true;
	char text[4096];

	for (uintptr_t i = 1; i <= MANY; i++) {
		void *next = module_gate(mod, function, i);

		need(next);
		differ &= next != last;
		last = next;
	}
	kb = resident_kb() - before;
	ok(differ && kb < 16384, "%d gates take %ld KB", MANY, kb);
	FUNCTION(gate, last);
	is(gate(), 1, "the last of them leads to the module");
	module_dangling(mod, text, sizeof(text));
	if (!ok(!strstr(text, "points to generation "), "none is taken for a callback that dangles"))
		printf("#   found: %s\n", text);
	need(unload() == 0);
	is(gate(), MANY, "and is refused when that is gone");
	load("gated.so");
}

/* As many that follow. */
static void many_follow(void)
{
	void **gates = malloc(sizeof(*gates) * MANY);
	long (*gate)(void), wrong_ones = 0;

	need(gates);
	for (uintptr_t i = 0; i < MANY; i++)
		need((gates[i] = module_gate_follow(mod, "generation", MANY + i)));
	need(module_replace(host, "gated", plugin("gated2.so"), SECOND) == 0);
	for (uintptr_t i = 0; i < MANY; i++) {
		FUNCTION(gate, gates[i]);
		wrong_ones += gate() != 2;
	}
	is(wrong_ones, 0, "%d gates follow", MANY);
	need(unload() == 0);
	for (uintptr_t i = 0; i < MANY; i++) {
		FUNCTION(gate, gates[i]);
		wrong_ones += gate() != (long)(MANY + i);
	}
	is(wrong_ones, 0, "each has its own value when it is refused");
	free(gates);
	load("gated.so");
}

/* Nothing may be made executable; in a child, because it is for good. */
static void forbidden(void)
{
	int status;
	pid_t child = fork();

	need(child >= 0);
	if (child == 0) {
		void *function = symbol("generation");
		int seen = 0;

		need(refuse_call(SYS_memfd_create, 0) == 0);
		/* A page of gates has room for others. */
		for (uintptr_t i = 0; i < 5000 && !seen; i++)
			seen = !module_gate(mod, function, MANY + i);
		_exit(seen && strstr(module_last_error(), "cannot make a gate: Operation not permitted")
			      ? 0
			      : 1);
	}
	need(waitpid(child, &status, 0) == child);
	is(status, 0, "where no code may be made the errno is told");
}

int main(int argc, char **argv)
{
	int rounds = argc > 1 ? atoi(argv[1]) : 500;

	host = module_host_new();
	load("gated.so");
	arguments();
	during();
	late();
	mistakes();
	follows();
	replaced(rounds / 10);
	storm(rounds);
	thrown();
	ended();
	signals();
	at_the_end();
	many();
	many_follow();
	forbidden();
	need(unload() == 0);
	module_handle_put(mod);
	is(module_host_free(host), 0, "nothing is left");
	return tap_done();
}
