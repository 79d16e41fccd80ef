/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * badplugins.c - files that are no plugins, plugins that do what they should not, and forks.
 * Each load ends as the tables say, in words, and leaves the table as it was.
 */
#define _GNU_SOURCE
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <semaphore.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "filter.h"
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
	char path[PATH_MAX], *name;
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

	refused(plugin("constant.so"), ENOEXEC, "without const", "a constant __this_module");
	refused(plugin("unresolved.so"), ENOENT, "defined_nowhere", "L7 an unresolved symbol");
	bytes = contents(plugin("far.so"), &n);
	need(name = memmem(bytes, n, "libbetween.so", sizeof("libbetween.so")));
	memcpy(name, "libnowhere.so", sizeof("libnowhere.so"));
	refused(made("alone.so", bytes, n), ENOENT, "libnowhere.so", "a library that is missing");
}

/* ---- the check of a file -------------------------------------------------------- */

static char found[8192];

/* The keywords of what it finds, with a space after each. */
static const char *check(const char *path)
{
	static char keywords[256];
	int64_t length = module_check_file(path, found, sizeof(found));
	char *to = keywords;

	need(length >= 0 && (size_t)length == strlen(found) && (size_t)length < sizeof(found));
	for (const char *line = found; *line; line = strchr(line, '\n') + 1) {
		need(strchr(line, '\n') && strstr(line, ": "));
		to += sprintf(to, "%.*s ", (int)strcspn(line, ":"), line);
	}
	*to = '\0';
	return keywords;
}

static void checks(void)
{
	static const struct {
		const char *file, *keywords, *words;
	} rows[] = {
		{ "plain.so", "", "" },
		{ "guarded.so", "", "" },
		{ "noexit.so", "permanent ", "init_module and no cleanup_module" },
		{ "nodelete.so", "nodelete ", "-z nodelete" },
		{ "statictls.so", "static-tls ", ": 600 bytes of thread-local storage" },
#ifdef __clang__ /* which makes no unique symbols */
		{ "unique.so", "", "" },
#else
		{ "unique.so", "unique-symbol ",
		  ": _ZZN7counterIlE5valueEvE2it is a unique symbol" },
#endif
		{ "tlsdtor.so", "thread-local ", "imports __cxa_thread_atexit" },
		{ "suspect.so",
		  "thread thread-key exit-handler signal-handler timer permanent text-relocations ",
		  "imports pthread_create: " },
	};
	Elf64_Ehdr *elf;
	unsigned char *bytes;
	char little[8];
	size_t n, in_order = 0, tried = 0;

	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++)
		if (!ok(!strcmp(check(plugin(rows[i].file)), rows[i].keywords) &&
				strstr(found, rows[i].words),
			"what is found in %s: %s", rows[i].file, rows[i].keywords))
			printf("#   found: %s\n", found);
	bytes = contents(plugin("plain.so"), &n);
	elf = (Elf64_Ehdr *)(void *)bytes;
	elf->e_shoff = 0, elf->e_shnum = 0, elf->e_shstrndx = 0;
	ok(!strcmp(check(made("bare.so", bytes, n)), "no-symbols "), "a file without sections");
	bytes = contents(plugin("suspect.so"), &n);
	for (size_t length = 0; length < n; length += 97, tried++) {
		int64_t rc = module_check_file(made("cut.so", bytes, length), NULL, 0);

		in_order += rc == -ENOEXEC || rc > 0;
	}
	is((long long)in_order, (long long)tried, "a file that was cut short, %zu times", tried);

	ok(module_check_file(plugin("noexit.so"), little, sizeof(little)) > 8 &&
		   !strcmp(little, "permane"),
	   "as much is written as fits");
	is(module_check_file(made("text.so", "#!/bin/sh\n", 10), NULL, 0), -ENOEXEC, "a script");
	says("cannot check");
	is(module_check_file("/nowhere/plugin.so", NULL, 0), -ENOENT, "a missing file");
	is(module_check_file("/", NULL, 0), -EISDIR, "a directory");
	is(module_check_file(NULL, NULL, 0), -EINVAL, "no path");
}

/* The errno is the cause's, whatever the C library's words are, and in which language. */
static void causes(void)
{
	struct rlimit limit, none;
	char path[PATH_MAX], name[8];
	unsigned char *bytes;
	size_t n;
	int rc = 0, loaded = 0, fd;

	while (loaded < 100 && (snprintf(name, sizeof(name), "%d", loaded),
				rc = module_load(host, plugin("statictls.so"), name, NULL)) == 0)
		loaded++;
	is(rc, -ENOMEM, "static thread-local storage is used up, by %d", loaded);
	says("static thread-local storage");
	while (loaded-- > 0) {
		snprintf(name, sizeof(name), "%d", loaded);
		need(module_unload(host, name, 0, 0) == 0);
	}

	/* Of the name that a lack of memory has. */
	bytes = contents(plugin("unresolved.so"), &n);
	refused(made("Cannot allocate memory", bytes, n), ENOENT, "defined_nowhere",
		"words that are the file's");

	need(getrlimit(RLIMIT_NOFILE, &limit) == 0 && (fd = dup(0)) >= 0 && close(fd) == 0);
	none = limit;
	none.rlim_cur = (rlim_t)fd;
	need(setrlimit(RLIMIT_NOFILE, &none) == 0);
	is(load("libnowhere.so.7"), -EMFILE, "no descriptor is left for a library");
	need(setrlimit(RLIMIT_NOFILE, &limit) == 0);

	if (unshare(CLONE_NEWNS) != 0 || mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) != 0 ||
	    mount("none", folder, "tmpfs", MS_NOEXEC, NULL) != 0) {
		ok(1, "a file system that is mounted noexec # SKIP it takes privileges");
		return;
	}
	bytes = contents(plugin("plain.so"), &n);
	snprintf(path, sizeof(path), "%s", made("plain.so", bytes, n));
	is(load(path), -EPERM, "a file system that is mounted noexec");
	is(module_load_flags(host, path, "bad", MODULE_LOAD_COPY, NULL), -EPERM, "nor is it copied");
	need(umount2(folder, MNT_DETACH) == 0); /* glibc leaves a mapping of what it refuses */
}

static void names(void)
{
	static const char *const words[] = { "$ORIGIN.so", "a$LIB.so", "b${PLATFORM}c.so", "$d.so" };
	struct module *found;
	unsigned char *bytes;
	char name[57];
	size_t n;

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

	bytes = contents(plugin("plain.so"), &n);
	is(module_load(host, made("caf\xe9.so", bytes, n), NULL, NULL), 0, "a file of Latin letters");
	is(module_load(host, made("caf\xe8.so", bytes, n), NULL, NULL), 0, "and another");
	found = module_find_get(host, "caf\xe9");
	ok(found && !strcmp(module_name(found), "caf\\xe9"), "are found by the bytes of their names");
	module_put(found);
	is(module_unload(host, "caf\xe8", 0, 0) + module_unload(host, "caf\\xe9", 0, 0), 0,
	   "or by the text that stands for them");

	/* dlopen() would look for a file elsewhere. */
	for (size_t i = 0; i < sizeof(words) / sizeof(words[0]); i++) {
		is(load(made(words[i], bytes, n)), 0, "a file called %s", words[i]);
		need((found = module_find_get(host, "bad")));
		ok(module_symbol(found, "answer") != NULL, "is a module like any other");
		module_put(found);
		is(module_unload(host, "bad", 0, 0), 0, "and is unloaded");
	}
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

static int seen(const struct module_info *info, void *unused)
{
	return 1;
}

/* A notifier that waits for the module that has come into service. Its load has a reference until
 * the notifier returns. */
static int waits_for_load(struct module *mod, enum module_state state, void *once)
{
	if (state == MODULE_STATE_LIVE && !atomic_flag_test_and_set((atomic_flag *)once)) {
		self_unload = module_unload(host, module_name(mod), 0, -1);
		inner_result = module_host_shutdown(host, -1) == 1;
		self_load = module_replace(host, module_name(mod), plugin("plain.so"), -1);
	}
	return 0;
}

static void calls_back(void)
{
	atomic_flag once = ATOMIC_FLAG_INIT;

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

	need(module_notifier_register(host, waits_for_load, &once, 0) == 0);
	is(load(plugin("plain.so")), 0, "a module whose notifier would wait for its load");
	need(module_notifier_unregister(host, waits_for_load, &once) == 0);
	is(self_unload, -EDEADLK, "is not unloaded by that");
	is(inner_result, 1, "nor by a shutdown");
	is(self_load, 1, "and its replacement leaves it to its load");
	is(module_unload(host, "bad", 0, 0), 0, "the new one is unloaded");
	is(module_host_each(host, seen, NULL), 0, "and the old one is gone");
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

/* ---- constructors, and objects that are out of the ordinary --------------------------- */

/* A sandbox in which the linker cannot protect what it has relocated. */
static void load_unprotected(void)
{
	expect_in_child(refuse_call(SYS_mprotect, 0) == 0, 1);
	expect_in_child(load(plugin("plain.so")) == -EPERM, 2);
	expect_in_child(strstr(module_last_error(), "if a symbol is missing") == NULL, 3);
}

/* An object with a static object's destructor and an atexit entry, written over with as many bytes
 * of another content and the old time. */
static void end_in_order(void)
{
	unsigned char *bytes, nothing[4096] = { 0 };
	struct timespec times[2];
	char path[PATH_MAX];
	struct stat before;
	size_t n;
	int fd;

	bytes = contents(plugin("atexit.so"), &n);
	snprintf(path, sizeof(path), "%s", made("atexit.so", bytes, n));
	expect_in_child(load(path) == 0 && stat(path, &before) == 0, 1);
	need((fd = open(path, O_WRONLY)) >= 0);
	for (size_t at = 0; at < n; at += sizeof(nothing))
		need(pwrite(fd, nothing, n - at < sizeof(nothing) ? n - at : sizeof(nothing),
			    (off_t)at) > 0);
	times[0] = before.st_atim;
	times[1] = before.st_mtim;
	need(futimens(fd, times) == 0 && close(fd) == 0);
	expect_in_child(module_unload(host, "bad", 0, 0) == 1, 2);
	exit(0);
}

/* Cuts a file short that is mapped already, and whose init function has not run. */
static int cuts_short(struct module *mod, enum module_state state, void *path)
{
	return state == MODULE_STATE_COMING && truncate(path, 4096) != 0 ? -EIO : 0;
}

/* Files of which the content and the name tell less than one may think. */
static void changed_files(void)
{
	struct rlimit limit, none;
	unsigned char *bytes;
	char path[PATH_MAX];
	size_t n;
	int fd;

	bytes = contents(plugin("hooked.so"), &n);
	snprintf(path, sizeof(path), "%s", made("cut.so", bytes, n));
	need(module_notifier_register(host, cuts_short, path, 0) == 0);
	is(load(path), -ETXTBSY, "a file that is written over before its init function");
	says("written over after it had been mapped");
	need(module_notifier_unregister(host, cuts_short, path) == 0);
	is(module_find_get(host, "bad") == NULL, 1, "is no module");

	snprintf(path, sizeof(path), "%s", made("unread.so", bytes, n));
	need(load(path) == 0 && chmod(path, 0600) == 0);
	need(getrlimit(RLIMIT_NOFILE, &limit) == 0 && (fd = dup(0)) >= 0 && close(fd) == 0);
	none = limit;
	none.rlim_cur = (rlim_t)fd;
	need(setrlimit(RLIMIT_NOFILE, &none) == 0);
	is(module_unload(host, "bad", MODULE_UNLOAD_UNPROVEN, 0), 0,
	   "a file that cannot be read is not one that was written over");
	need(setrlimit(RLIMIT_NOFILE, &limit) == 0);

	snprintf(path, sizeof(path), "/proc/self/root%s", plugin("hooked.so"));
	need(load(path) == 0 && module_load(host, path, "copy", NULL) == 0);
	ok(mapped("/memfd:hooked.so") > 0, "a file below /proc is no two modules' either");
	need(module_unload(host, "bad", 0, 0) + module_unload(host, "copy", 0, 0) == 0);
}

void constructed(void);

static _Atomic int constructors;
static _Atomic pid_t loads_too;
static int from_constructor;

/* In the middle of a dlopen(), whose lock the linker holds. */
void constructed(void)
{
	atomic_fetch_add(&constructors, 1);
	while (loads_too == 0)
		sched_yield();
	until_it_sleeps(loads_too);
	from_constructor = module_load(host, plugin("plain.so"), "inner", NULL);
}

static void *load_the_other(void *arg)
{
	loads_too = gettid();
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

	is(in_a_child(load_unprotected), 0, "memory that cannot be protected is no missing symbol");

	changed_files();
	bytes = contents(plugin("hooked.so"), &n);
	snprintf(path, sizeof(path), "%s", made("short.so", bytes, n));
	need(load(path) == 0 && truncate(path, 0) == 0);
	is(module_load(host, plugin("user.so"), "other", NULL), 0,
	   "another load, while the file of a module is cut short");
	is(module_unload(host, "other", 0, 0), 0, "and its unload");
	is(module_unload(host, "bad", 0, 0), 1, "an object whose file was cut short is left alone");
	says("written over in place");
	is(in_a_child(end_in_order), 0, "a process whose object was written over ends in order");
	is(load(path), -ENOEXEC, "what is left of the file is refused");
	is(load(plugin("user.so")), 0, "and other loads go on");
	need(module_unload(host, "bad", 0, 0) == 0);
}

/* ---- fork and crashes ------------------------------------------------------------------ */

static void use_the_host(void)
{
	struct module *mod = module_find_get(host, "before");

	expect_in_child(mod && call(mod, "answer") == 1, 1);
	module_put(mod);
	expect_in_child(module_unload(host, "before", 0, 0) == 0, 2);
	expect_in_child(module_load(host, plugin("plain.so"), "after", NULL) == 0, 3);
	expect_in_child(module_unload(host, "after", 0, 0) == 0, 4);
}

/* It is a zombie while others run. */
static bool main_thread_has_ended(void)
{
	FILE *stat = fopen("/proc/self/stat", "r");
	char state = 0;

	expect_in_child(stat && fscanf(stat, "%*d (%*[^)]) %c", &state) == 1, 3);
	fclose(stat);
	return state == 'Z';
}

static void *load_a_copy(void *path)
{
	while (!main_thread_has_ended())
		sched_yield();
	expect_in_child(module_load_flags(host, path, "copy", MODULE_LOAD_COPY, NULL) == 0, 1);
	expect_in_child(module_unload(host, "copy", 0, 0) == 0, 2);
	_exit(0);
}

static void end_the_main_thread(void)
{
	static char path[PATH_MAX];

	/* What finds a plugin needs the main thread. */
	strcpy(path, plugin("plain.so"));
	start_thread(load_a_copy, path);
	pthread_exit(NULL);
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

static int words[2];

static void load_what_throws(void)
{
	dup2(words[1], STDERR_FILENO);
	load(plugin("throws.so"));
}

static void throws(void)
{
	static const char *const expected[] = { "module 'bad'", "init_module", "throws.so+0x",
						"std::runtime_error", "no coffee" };
	char said[4096];
	ssize_t n;

	need(pipe(words) == 0);
	is(in_a_child(load_what_throws), 256 + SIGABRT, "an init that throws is the end of it, too");
	close(words[1]);
	need((n = read(words[0], said, sizeof(said) - 1)) >= 0);
	close(words[0]);
	said[n] = '\0';
	for (size_t i = 0; i < sizeof(expected) / sizeof(expected[0]); i++)
		ok(strstr(said, expected[i]), "and says '%s'", expected[i]);
	if (!ok(!strstr(said, "panic"), "and nothing of Rust's"))
		printf("#   found: %s\n", said);
}

static _Atomic bool stop;

static int nothing(struct module *mod, enum module_state state, void *data)
{
	(void)mod, (void)state, (void)data;
	return 0;
}

/* A file that has just been touched may have been written over at the same time, and is read again at
 * each step. */
static void *load_and_unload(void *path)
{
	while (!atomic_load(&stop)) {
		need(utimensat(AT_FDCWD, path, NULL, 0) == 0);
		if (module_load(host, path, "busy", NULL) == 0)
			need(module_unload(host, "busy", 0, -1) == 0);
	}
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
	/* In the folders of what is loaded. */
	expect_in_child(module_request(host, "nobody") == -ENOENT, 6);
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
	size_t n;
	const unsigned char *bytes = contents(plugin("hooked.so"), &n);
	enum { FORKS = 50 };

	need(module_load(host, plugin("hooked.so"), "before", NULL) == 0);
	is(in_a_child(use_the_host), 0, "a child uses, unloads and loads");
	is(module_unload(host, "before", 0, 0), 0, "the parent is none the wiser");

	is(in_a_child(end_the_main_thread), 0, "a copy is loaded after the main thread's end");

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

	thread = start_thread(load_and_unload, (void *)(uintptr_t)made("busy.so", bytes, n));
	for (int i = 0; i < FORKS; i++)
		in_order += in_a_child(look_around) == 0;
	atomic_store(&stop, true);
	pthread_join(thread, NULL);
	is(in_order, FORKS, "forks while another thread loads and unloads leave no lock held");

	is(in_a_child(load_what_crashes), 256 + SIGSEGV, "an init that crashes is the end of it");
	throws();
}

int main(void)
{
	char command[PATH_MAX];
	int before;

	need(mkdtemp(folder) && (host = module_host_new()));
	need(load(plugin("plain.so")) == 0 && module_unload(host, "bad", 0, 0) == 0);
	before = open_files();
	files();
	checks();
	causes();
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
