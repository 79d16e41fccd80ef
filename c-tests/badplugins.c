/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * badplugins.c - files that are no plugins, plugins that do what they should not, and forks.
 * Each load ends as the tables say, in words, and leaves the table as it was.
 */
#define _GNU_SOURCE
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <semaphore.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "host.h"
#include "threads.h"

int on_init(struct module *self);
void on_exit_of(struct module *self);

static struct module_host *host;
static int (*in_init)(struct module *self);
static void (*in_exit)(struct module *self);
static char folder[] = "/tmp/module_ref.XXXXXX";

int on_init(struct module *self)
{
	return in_init ? in_init(self) : 0;
}

void on_exit_of(struct module *self)
{
	if (in_exit)
		in_exit(self);
}

static int load(const char *path)
{
	return module_load(host, path, "bad", NULL);
}

/* A file of the test's own with that content. */
static const char *made(const char *name, const void *bytes, size_t n)
{
	static char path[PATH_MAX];
	FILE *file;

	snprintf(path, sizeof(path), "%s/%s", folder, name);
	unlink(path);
	need((file = fopen(path, "w")) && fwrite(bytes, 1, n, file) == n && fclose(file) == 0);
	return path;
}

static unsigned char *contents(const char *path, size_t *n)
{
	static unsigned char bytes[1 << 20];
	FILE *file = fopen(path, "r");

	need(file && (*n = fread(bytes, 1, sizeof(bytes), file)) < sizeof(bytes));
	fclose(file);
	return bytes;
}

static void refused(const char *path, int error, const char *words, const char *what)
{
	is(load(path), -error, "%s", what);
	says(words);
	ok(!module_find_get(host, "bad"), "and the name is free");
}

/* ---- files -------------------------------------------------------------------- */

static void files(void)
{
	Elf64_Ehdr *elf;
	unsigned char *bytes;
	char path[PATH_MAX];
	size_t n, cut_in_order = 0, tried = 0;

	refused("", ENOENT, "empty path", "an empty path");
	refused("/nowhere/plugin.so", ENOENT, "'/nowhere/plugin.so': No such file", "L7 a missing file");
	refused("libnowhere.so.7", ENOENT, "libnowhere.so.7", "a library that the linker cannot find");
	refused("/", EISDIR, "directory", "a directory");
	refused("/dev/null", ENOEXEC, "not a regular file", "a device");
	snprintf(path, sizeof(path), "%s/fifo", folder);
	need(mkfifo(path, 0600) == 0);
	refused(path, ENOEXEC, "not a regular file", "a pipe nobody writes to");
	if (geteuid() != 0) {
		need(chmod(made("secret.so", "x", 1), 0) == 0);
		snprintf(path, sizeof(path), "%s/secret.so", folder);
		refused(path, EACCES, "Permission denied", "a file we may not read");
	}
	refused(made("empty.so", "", 0), ENOEXEC, "not an ELF object", "an empty file");
	refused(made("text.so", "#!/bin/sh\n", 10), ENOEXEC, "not an ELF object", "L7 a script");
	refused("/proc/self/exe", ENOEXEC, "program", "L7 a program");

	bytes = contents(plugin("plain.so"), &n);
	elf = (Elf64_Ehdr *)(void *)bytes;
	elf->e_machine = EM_68K;
	refused(made("other.so", bytes, n), ENOEXEC, "another machine", "L7 another machine's object");
	bytes = contents(plugin("plain.so"), &n);
	bytes[EI_CLASS] = ELFCLASS32;
	refused(made("small.so", bytes, n), ENOEXEC, "32-bit", "an object of another word size");
	bytes = contents(plugin("plain.so"), &n);
	bytes[EI_DATA] = ELFDATA2MSB;
	refused(made("order.so", bytes, n), ENOEXEC, "byte order", "an object of another byte order");
	bytes = contents(plugin("plain.so"), &n);
	elf = (Elf64_Ehdr *)(void *)bytes;
	elf->e_type = ET_REL;
	refused(made("rel.so", bytes, n), ENOEXEC, "-shared", "an object that is not linked");

	/* Cut at every length: refused, or loaded if only what is not mapped is missing. */
	bytes = contents(plugin("plain.so"), &n);
	for (size_t length = 0; length < n; length += 97, tried++) {
		int rc = load(made("cut.so", bytes, length));

		cut_in_order += rc == -ENOEXEC ||
				(rc == 0 && module_unload(host, "bad", 0, 0) == 0);
	}
	is((long long)cut_in_order, (long long)tried, "a file that was cut short, %zu times", tried);

	refused(plugin("unresolved.so"), ENOENT, "defined_nowhere", "L7 an unresolved symbol");
	bytes = contents(plugin("far.so"), &n);
	refused(made("alone.so", bytes, n), ENOENT, "libbetween.so", "a library that is missing");
}

static void names(void)
{
	char name[57];

	memset(name, 'n', sizeof(name) - 1);
	name[sizeof(name) - 1] = '\0';
	is(module_load(host, plugin("plain.so"), name, NULL), -ENAMETOOLONG, "a name of 56 bytes");
	says("55 is the most");
	name[55] = '\0';
	is(module_load(host, plugin("plain.so"), name, NULL), 0, "one of 55");
	is(module_unload(host, name, 0, 0), 0, "which can be unloaded");
	is(module_load(host, plugin("plain.so"), "", NULL), -EINVAL, "an empty name");
	is(module_load(host, plugin("plain.so"), "a b", NULL), -EINVAL, "a name with a space");
	says("no spaces");
	is(module_load(host, plugin("plain.so"), "a\xff", NULL), -EINVAL, "a name that is not UTF-8");
	is(module_load(host, made("a b.so", "x", 1), NULL, NULL), -EINVAL, "a file with a space");
	says("give a name");
}

/* ---- init and exit functions ------------------------------------------------------- */

static int inner_result, self_load, self_unload;

static int loads_another(struct module *self)
{
	in_init = NULL;
	inner_result = module_load(host, plugin("plain.so"), "another", NULL);
	return 0;
}

static int loads_itself(struct module *self)
{
	in_init = NULL;
	self_load = module_load(host, plugin("hooked.so"), module_name(self), NULL);
	self_unload = module_unload(host, module_name(self), MODULE_UNLOAD_FORCE, -1);
	return 0;
}

static void unloads_another(struct module *self)
{
	in_exit = NULL;
	self_load = module_load(host, plugin("plain.so"), module_name(self), NULL);
	self_unload = module_unload(host, module_name(self), 0, -1);
	inner_result = module_unload(host, "another", 0, -1);
}

static void calls_back(void)
{
	in_init = loads_another;
	is(load(plugin("hooked.so")), 0, "an init that loads another module");
	is(inner_result, 0, "which is loaded");
	in_exit = unloads_another;
	is(module_unload(host, "bad", 0, 0), 0, "an exit that unloads it");
	is(inner_result, 0, "which is unloaded");
	is(self_load, -EBUSY, "it cannot load its own name");
	is(self_unload, -EBUSY, "nor unload itself again");
	in_init = loads_itself;
	is(load(plugin("hooked.so")), 0, "an init");
	is(self_load, -EDEADLK, "cannot load its own name: it would wait for itself");
	is(self_unload, -EBUSY, "nor unload itself");
	is(module_unload(host, "bad", 0, 0), 0, "afterwards it can be unloaded");
}

static sem_t both;
static _Atomic int arrived, cross_results[2];

static int loads_the_other(struct module *self)
{
	bool first = strcmp(module_name(self), "first") == 0;

	/* Both are COMING before either asks for the other. */
	atomic_fetch_add(&arrived, 1);
	while (atomic_load(&arrived) < 2)
		sleep_ns(100 * MICROSECOND);
	atomic_store(&cross_results[first],
		     module_load(host, plugin("plain.so"), first ? "second" : "first", NULL));
	return 0;
}

static void *load_named(void *name)
{
	return (void *)(intptr_t)module_load(host, plugin("hooked.so"), name, NULL);
}

static void waits_in_a_circle(void)
{
	pthread_t threads[2];
	void *rc[2];
	int a, b;

	in_init = loads_the_other;
	threads[0] = start_thread(load_named, "first");
	threads[1] = start_thread(load_named, "second");
	pthread_join(threads[0], &rc[0]);
	pthread_join(threads[1], &rc[1]);
	in_init = NULL;
	ok(rc[0] == 0 && rc[1] == 0, "two inits that wait for each other both end");
	a = atomic_load(&cross_results[0]), b = atomic_load(&cross_results[1]);
	ok((a == -EDEADLK && b == -EEXIST) || (a == -EEXIST && b == -EDEADLK),
	   "one is told of the deadlock, the other waits");
	is(module_unload(host, "first", 0, 0) + module_unload(host, "second", 0, 0), 0,
	   "and both can be unloaded");
}

/* ---- constructors, and objects that are out of the ordinary --------------------------- */

void constructed(void);

static _Atomic int constructors;
static int from_constructor;

/* In the middle of a dlopen(), whose lock the linker holds. */
void constructed(void)
{
	atomic_fetch_add(&constructors, 1);
	sleep_ns(20 * MILLISECOND);
	from_constructor = module_load(host, plugin("plain.so"), "inner", NULL);
}

static void *load_the_other(void *arg)
{
	while (atomic_load(&constructors) == 0)
		sleep_ns(100 * MICROSECOND);
	/* This thread's first call, which looks into the host's table under its lock at once. */
	module_unload(host, "nobody", 0, 0);
	return (void *)(intptr_t)module_load(host, plugin("noexit.so"), "outer", NULL);
}

static void out_of_the_ordinary(void)
{
	pthread_t thread;
	char path[PATH_MAX];
	unsigned char *bytes;
	size_t n;
	void *rc;

	thread = start_thread(load_the_other, NULL);
	is(load(plugin("ctor.so")), 0, "a constructor that loads another module");
	pthread_join(thread, &rc);
	ok(from_constructor == 0 && !rc, "while another thread loads one, too");
	is(module_unload(host, "inner", 0, 0) + module_unload(host, "bad", 0, 0) +
		   module_unload(host, "outer", MODULE_UNLOAD_FORCE, 0),
	   0, "and all are unloaded");

	is(load(plugin("high.so")), 0, "an object that is linked to an address above all");
	is(module_load(host, plugin("high.so"), "copy", NULL), 0, "and a copy of it");
	is(module_unload(host, "bad", 0, 0) + module_unload(host, "copy", 0, 0), 0, "are unloaded");

	bytes = contents(plugin("hooked.so"), &n);
	snprintf(path, sizeof(path), "%s", made("short.so", bytes, n));
	need(load(path) == 0 && truncate(path, 4096) == 0);
	is(module_unload(host, "bad", 0, 0), 1, "an object whose file was cut short is left alone");
	says("written over in place");
	is(load(path), -ENOEXEC, "what is left of the file is refused");
	is(load(plugin("user.so")), 0, "and other loads go on");
	need(module_unload(host, "bad", 0, 0) == 0);
}

/* ---- fork and crashes ------------------------------------------------------------------ */

/* The child's exit status, or 256 and the signal that ended it. */
static int in_a_child(void (*work)(void))
{
	pid_t child;
	int status;

	fflush(stdout);
	need((child = fork()) >= 0);
	if (child == 0) {
		struct rlimit no_core = { 0, 0 };

		setrlimit(RLIMIT_CORE, &no_core);
		work();
		_exit(0);
	}
	need(waitpid(child, &status, 0) == child);
	return WIFSIGNALED(status) ? 256 + WTERMSIG(status) : WEXITSTATUS(status);
}

static void expect_in_child(bool condition, int code)
{
	if (!condition)
		_exit(code);
}

static void use_the_host(void)
{
	struct module *mod = module_find_get(host, "before");

	expect_in_child(mod && call(mod, "answer") == 1, 1);
	module_put(mod);
	expect_in_child(module_unload(host, "before", 0, 0) == 0, 2);
	expect_in_child(module_load(host, plugin("plain.so"), "after", NULL) == 0, 3);
	expect_in_child(module_unload(host, "after", 0, 0) == 0, 4);
}

static void look_at_half_a_load(void)
{
	expect_in_child(module_unload(host, "slow", 0, -1) == -EBUSY, 1);
	expect_in_child(strstr(module_last_error(), "fork") != NULL, 2);
	expect_in_child(module_load(host, plugin("plain.so"), "slow", NULL) == -EBUSY, 3);
	expect_in_child(strstr(module_last_error(), "fork") != NULL, 4);
	expect_in_child(module_load(host, plugin("plain.so"), "fast", NULL) == 0, 5);
}

static void crash(void)
{
	raise(SIGSEGV);
}

static int crashes(struct module *self)
{
	crash();
	return 0;
}

static void load_what_crashes(void)
{
	in_init = crashes;
	load(plugin("hooked.so"));
}

static void load_what_throws(void)
{
	freopen("/dev/null", "w", stderr);
	load(plugin("throws.so"));
}

static _Atomic bool stop;

static int nothing(struct module *mod, enum module_state state, void *data)
{
	(void)mod, (void)state, (void)data;
	return 0;
}

static void *load_and_unload(void *arg)
{
	while (!atomic_load(&stop))
		if (module_load(host, plugin("plain.so"), "busy", NULL) == 0)
			need(module_unload(host, "busy", 0, -1) == 0);
	return NULL;
}

/* Of what takes the host's locks; not the dynamic linker, which a fork in the middle of another
 * thread's dlopen() leaves as it was in that moment. */
static void look_around(void)
{
	struct module *busy = module_find_get(host, "busy");

	module_put(busy);
	expect_in_child(module_unload(host, "nobody", 0, 0) == -ENOENT, 1);
	expect_in_child(module_host_list(host, NULL, 0) >= 0, 2);
	expect_in_child(module_host_reap(host) >= 0, 3);
	expect_in_child(module_notifier_register(host, nothing, NULL, 0) == 0, 4);
	expect_in_child(module_notifier_unregister(host, nothing, NULL) == 0, 5);
}

static int waits(struct module *self)
{
	sem_wait(&both);
	return 0;
}

static void forks(void)
{
	pthread_t thread;
	int in_order = 0;
	enum { FORKS = 50 };

	need(module_load(host, plugin("hooked.so"), "before", NULL) == 0);
	is(in_a_child(use_the_host), 0, "a child uses, unloads and loads");
	is(module_unload(host, "before", 0, 0), 0, "the parent is none the wiser");

	sem_init(&both, 0, 0);
	in_init = waits;
	thread = start_thread(load_named, "slow");
	while (module_unload(host, "slow", 0, 0) != -EBUSY)
		sleep_ns(MILLISECOND);
	is(in_a_child(look_at_half_a_load), 0, "a child is told of a load that will not end");
	sem_post(&both);
	pthread_join(thread, NULL);
	in_init = NULL;
	is(module_unload(host, "slow", 0, 0), 0, "the parent's ends");

	thread = start_thread(load_and_unload, NULL);
	for (int i = 0; i < FORKS; i++)
		in_order += in_a_child(look_around) == 0;
	atomic_store(&stop, true);
	pthread_join(thread, NULL);
	is(in_order, FORKS, "forks while another thread loads and unloads leave no lock held");

	is(in_a_child(load_what_crashes), 256 + SIGSEGV, "an init that crashes is the end of it");
	is(in_a_child(load_what_throws), 256 + SIGABRT, "one that throws, too");
}

int main(void)
{
	char command[PATH_MAX];
	int before;

	need(mkdtemp(folder) && (host = module_host_new()));
	need(load(plugin("plain.so")) == 0 && module_unload(host, "bad", 0, 0) == 0);
	before = open_files();
	files();
	names();
	calls_back();
	waits_in_a_circle();
	out_of_the_ordinary();
	forks();
	is(open_files(), before, "no descriptor is left");
	is(module_host_list(host, NULL, 0), 0, "and no module");
	is(module_host_free(host), 0, "so that the host is freed");
	snprintf(command, sizeof(command), "rm -rf '%s'", folder);
	need(system(command) == 0);
	return tap_done();
}
