/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * probes.c - the trace points of the library: they are where its notes say, they fire when
 * Linux's do, and the arguments are where the notes say.
 *
 * No tracer and no right is needed for that. The program reads the notes of the library it runs
 * with, as a tracer does, puts a breakpoint into its own copy of the code at every one of them,
 * and finds the arguments in the registers of the SIGTRAP that follows.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <ucontext.h>

#include "host.h"
#include "oracle.h"
#include "module_ref_inline.h"
#include "rseq.h"
#include "threads.h"

#ifdef __x86_64__

enum { MOST_SITES = 256, MOST_ARGUMENTS = 3, NOP = 0x90, INT3 = 0xcc };

/* The table, as core/src/trace.rs has it. */
static const struct {
	const char *name;
	int arguments;
} table[] = {
	{ "module_request", 2 }, { "module_load", 2 }, { "module_free", 1 }, { "module_get", 3 },
	{ "module_put", 3 },	 { "release", 2 },     { "drain", 3 },
};
enum { PROBES = sizeof(table) / sizeof(table[0]) };

/* One place that a note names. */
static struct site {
	unsigned char *code;
	const char *name, *arguments;
} sites[MOST_SITES];
static int n_sites;

/* ---- notes ------------------------------------------------------------------------------ */

static const unsigned char *file; /* the library's, as it lies on the disk */
static char *loaded_at;

static const Elf64_Shdr *section(const char *name)
{
	const Elf64_Ehdr *header = (const void *)file;
	const Elf64_Shdr *all = (const void *)(file + header->e_shoff);
	const char *names = (const char *)file + all[header->e_shstrndx].sh_offset;

	for (int i = 0; i < header->e_shnum; i++)
		if (strcmp(names + all[i].sh_name, name) == 0)
			return &all[i];
	return NULL;
}

static void map_library(void)
{
	Dl_info library;
	struct stat status;
	int fd;

	need(dladdr(__extension__(void *) module_host_new, &library));
	loaded_at = library.dli_fbase;
	fd = open(library.dli_fname, O_RDONLY | O_CLOEXEC);
	need(fd >= 0 && fstat(fd, &status) == 0);
	file = mmap(NULL, (size_t)status.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
	need(file != MAP_FAILED);
	close(fd);
}

static size_t padded(size_t n)
{
	return (n + 3) & ~(size_t)3;
}

static void read_notes(void)
{
	const Elf64_Shdr *notes = section(".note.stapsdt"), *base = section(".stapsdt.base");
	size_t at = 0;

	if (!ok(notes && base, "there are notes, and the section that says where they lie"))
		return;
	while (at < notes->sh_size) {
		const Elf64_Nhdr *note = (const void *)(file + notes->sh_offset + at);
		const char *owner = (const char *)(note + 1);
		const char *text = owner + padded(note->n_namesz);
		uint64_t place[3]; /* the probe, the base, the semaphore */
		const char *provider = text + sizeof(place);

		memcpy(place, text, sizeof(place));
		at += sizeof(*note) + padded(note->n_namesz) + padded(note->n_descsz);
		if (note->n_type != 3 || strcmp(owner, "stapsdt") != 0 ||
		    strcmp(provider, "module_ref") != 0)
			continue;
		need(n_sites < MOST_SITES);
		sites[n_sites].code = (unsigned char *)loaded_at + place[0] +
				      (base->sh_addr - place[1]);
		sites[n_sites].name = provider + strlen(provider) + 1;
		sites[n_sites].arguments = sites[n_sites].name + strlen(sites[n_sites].name) + 1;
		n_sites++;
	}
}

/* In the library's code: a note of code that the linker has dropped points to its headers. */
static bool is_code(const unsigned char *code)
{
	const Elf64_Shdr *text = section(".text");
	const unsigned char *start = (unsigned char *)loaded_at + text->sh_addr;

	return code >= start && code < start + text->sh_size;
}

static int count_arguments(const char *text)
{
	int n = 0;

	for (; (text = strstr(text, "-8@")); text++)
		n++;
	return n;
}

static void notes(void)
{
	int known = 0;

	read_notes();
	for (int p = 0; p < PROBES; p++) {
		int places = 0, wrong = 0;

		for (int i = 0; i < n_sites; i++) {
			if (strcmp(sites[i].name, table[p].name) != 0)
				continue;
			places++;
			wrong += count_arguments(sites[i].arguments) != table[p].arguments;
			wrong += !is_code(sites[i].code) || *sites[i].code != NOP;
		}
		known += places;
		ok(places > 0 && !wrong, "%s has %d arguments, and is one nop, at every place",
		   table[p].name, table[p].arguments);
	}
	is(n_sites, known, "and there is no other probe");
}

/* ---- the tracer -------------------------------------------------------------------------- */

static char fired[4096];          /* what has fired, in words */
static const void *subject;       /* the counter that is meant by "it" */
static uintptr_t caller;          /* of the last get or put */
static long long nanoseconds;     /* of the last drain */

/* A register of the program that was stopped. */
static long long reg(const ucontext_t *stopped, const char *name)
{
	static const struct {
		const char *name;
		int number;
	} regs[] = {
		{ "rax", REG_RAX }, { "rbx", REG_RBX }, { "rcx", REG_RCX }, { "rdx", REG_RDX },
		{ "rsi", REG_RSI }, { "rdi", REG_RDI }, { "rbp", REG_RBP }, { "rsp", REG_RSP },
		{ "r8", REG_R8 },   { "r9", REG_R9 },	{ "r10", REG_R10 }, { "r11", REG_R11 },
		{ "r12", REG_R12 }, { "r13", REG_R13 }, { "r14", REG_R14 }, { "r15", REG_R15 },
	};

	for (size_t i = 0; i < sizeof(regs) / sizeof(regs[0]); i++)
		if (strcmp(name, regs[i].name) == 0)
			return stopped->uc_mcontext.gregs[regs[i].number];
	printf("Bail out! no register is called %s\n", name);
	exit(2);
}

/* An operand of the assembler: $-1, %rax or 16(%rdi). */
static long long operand(const ucontext_t *stopped, const char *text)
{
	char name[8];
	long offset = 0;
	long long value;

	if (*text == '$')
		return strtoll(text + 1, NULL, 10);
	if (sscanf(text, "%%%7[a-z0-9]", name) == 1)
		return reg(stopped, name);
	need(sscanf(text, "%ld(%%%7[a-z0-9])", &offset, name) == 2);
	memcpy(&value, (const char *)(uintptr_t)reg(stopped, name) + offset, sizeof(value));
	return value;
}

static const char *outcome_of(long long outcome)
{
	return outcome == 0	       ? "done"
	       : outcome == -EWOULDBLOCK ? "in use"
	       : outcome == -ETIMEDOUT ? "timed out"
	       : outcome == -EALREADY ? "already"
				       : "?";
}

static void fire(const struct site *site, const long long *a)
{
	size_t n = strlen(fired), room = sizeof(fired) - n;
	const char *text = (const char *)(uintptr_t)a[0];
	const char *who = (const void *)(uintptr_t)a[0] == subject ? "it" : "another";

	if (strcmp(site->name, "module_get") == 0 || strcmp(site->name, "module_put") == 0) {
		caller = (uintptr_t)a[2];
		snprintf(fired + n, room, "%s(%s,%lld%s) ", site->name + 7, text, a[1],
			 a[2] ? ",called" : "");
	} else if (strcmp(site->name, "module_free") == 0) {
		snprintf(fired + n, room, "free(%s) ", text);
	} else if (strcmp(site->name, "release") == 0) {
		snprintf(fired + n, room, "release(%s,%s) ", who, outcome_of(a[1]));
	} else if (strcmp(site->name, "drain") == 0) {
		nanoseconds = a[2];
		snprintf(fired + n, room, "drain(%s,%s%s) ", who, outcome_of(a[1]),
			 a[2] ? ",waited" : "");
	} else {
		snprintf(fired + n, room, "%s(%s,%lld) ", site->name + 7, text, a[1]);
	}
}

/* The trap is in the library's own code, so that this may call what a signal handler may not. */
static void trapped(int number, siginfo_t *info, void *context)
{
	const ucontext_t *stopped = context;
	uintptr_t here = (uintptr_t)stopped->uc_mcontext.gregs[REG_RIP] - 1;
	long long arguments[MOST_ARGUMENTS] = { 0 };

	for (int i = 0; i < n_sites; i++) {
		const char *text = sites[i].arguments;

		if ((uintptr_t)sites[i].code != here)
			continue;
		for (int a = 0; a < MOST_ARGUMENTS && (text = strchr(text, '@')); a++)
			arguments[a] = operand(stopped, ++text);
		fire(&sites[i], arguments);
		return; /* behind the breakpoint: what stood there did nothing */
	}
	abort();
}

/* False if this system lets nobody write to code. */
static bool set_breakpoints(void)
{
	struct sigaction action = { .sa_sigaction = trapped, .sa_flags = SA_SIGINFO };
	uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);

	sigaction(SIGTRAP, &action, NULL);
	for (int i = 0; i < n_sites; i++) {
		void *start = (void *)((uintptr_t)sites[i].code & ~(page - 1));

		if (mprotect(start, page, PROT_READ | PROT_WRITE | PROT_EXEC) != 0)
			return false;
		*sites[i].code = INT3;
		mprotect(start, page, PROT_READ | PROT_EXEC);
	}
	return true;
}

static void fires(const char *expected, const char *what)
{
	if (!ok(strcmp(fired, expected) == 0, "%s: %s", what, *expected ? expected : "nothing"))
		printf("#   found: %s\n", fired);
	fired[0] = '\0';
}

/* ---- what the plugins call -------------------------------------------------------------- */

int on_init(struct module *self);
static struct module_host *host;
static int init_result;

int on_init(struct module *self)
{
	return init_result;
}

static int refuse(struct module *mod, enum module_state state, void *data)
{
	return state == MODULE_STATE_COMING ? -EPERM : 0;
}

static void ignore(enum module_ref_misuse what, const struct module_ref *ref, const void *from)
{
}

/* How a probe has a count: -1 where it is in slots. */
static bool percpu;
static const char *counted(const char *in_word, const char *in_slots)
{
	return percpu ? in_slots : in_word;
}

/* ---- the tests --------------------------------------------------------------------------- */

static void loads(void)
{
	struct module *mod;

	is(module_load(host, plugin("hooked.so"), "m", NULL), 0, "a load");
	fires("request(m,0) load(m,0) put(m,-1) ",
	      "a load, whose init reference is put");
	is(module_load(host, plugin("hooked.so"), "m", &mod), -EEXIST, "a load of it again");
	fires("request(m,0) ", "was asked for");
	is(module_load(host, "/nowhere.so", "none", NULL), -ENOENT, "a load of no file");
	fires("request(none,0) ", "was asked for");
	init_result = -EIO;
	is(module_load(host, plugin("hooked.so"), "bad", NULL), -EIO, "an init that fails");
	fires("request(bad,0) load(bad,0) put(bad,-1) drain(another,done) free(bad) ",
	      "a load whose init fails");
	init_result = 0;
	need(module_notifier_register(host, refuse, NULL, 0) == 0);
	is(module_load(host, plugin("hooked.so"), "no", NULL), -EPERM, "one that is refused");
	fires("request(no,0) drain(another,done) ", "a load that a notifier refuses");
	need(module_notifier_unregister(host, refuse, NULL) == 0);
}

/* Between this function and the next one. */
static __attribute__((noinline)) bool calls_from_here(struct module *mod)
{
	bool got = module_try_get(mod);

	__asm__ volatile(""); /* no tail call */
	return got;
}

static __attribute__((noinline)) void and_not_here(void)
{
	__asm__ volatile("");
}

static void references(void)
{
	struct module *mod = module_find_get(host, "m");

	need(mod);
	fires(counted("get(m,1,called) ", "get(m,-1,called) "), "module_find_get()");
	ok(calls_from_here(mod), "module_try_get()");
	fires(counted("get(m,2,called) ", "get(m,-1,called) "), "module_try_get()");
	ok(caller > (uintptr_t)calls_from_here && caller < (uintptr_t)calls_from_here + 64 &&
		   (caller < (uintptr_t)and_not_here ||
		    (uintptr_t)and_not_here < (uintptr_t)calls_from_here),
	   "and says who called it");
	module_get(mod);
	fires(counted("get(m,3,called) ", "get(m,-1,called) "), "module_get()");
	for (int i = 0; i < 3; i++) {
		module_put(mod);
		fires("put(m,-1,called) ", "module_put()");
	}
	ok(!module_find_get(host, "nobody"), "a lookup that fails");
	fires("", "a lookup that fails");
	ok(module_try_get(NULL), "module_try_get(NULL)");
	module_get(NULL);
	module_put(NULL);
	fires("", "NULL");
}

/* As linux_module.h defines it: an address 8 bytes into this means the module. */
static struct {
	struct module *module;
	void *zero[3];
} __attribute__((aligned(16))) cell;

static void *unregistered(void *arg)
{
	if (percpu && !rseq_unregister(arg))
		return "cannot unregister";
	ok(module_try_get(arg), "a get");
	module_put(arg);
	return NULL;
}

/* Each way that a get and a put can take fires once. */
static void ways(void)
{
	struct module *mod = module_find_get(host, "m"), *this_module;
	pthread_t thread;
	void *why;

	need(mod);
	cell.module = mod;
	this_module = (struct module *)(void *)((char *)&cell + 8);
	fired[0] = '\0';
	ok(module_try_get(this_module), "a get by THIS_MODULE");
	module_put(this_module);
	fires(counted("get(m,2,called) put(m,-1,called) ", "get(m,-1,called) put(m,-1,called) "),
	      "by THIS_MODULE");
	thread = start_thread(unregistered, mod);
	pthread_join(thread, &why);
	ok(!why, "a thread without a sequence: %s", why ? (const char *)why : "done");
	fires(counted("get(m,2,called) put(m,-1,called) ", "get(m,-1,called) put(m,-1,called) "),
	      "where the sequence is not for it");
	is(module_refcount(mod), 1, "one reference is left");
	module_put(mod);
	fired[0] = '\0';
}

static void in_one_word(void)
{
	struct module *mod;
	module_ref_misuse_fn before;

	need(module_load_flags(host, plugin("plain.so"), "w", MODULE_LOAD_ATOMIC, &mod) == 0);
	fires("request(w,0) load(w,0) put(w,-1) ", "a load, counted in one word");
	ok(module_try_get(mod) && module_try_get(mod), "two references");
	module_put(mod);
	module_put(mod);
	fires("get(w,1,called) get(w,2,called) put(w,-1,called) put(w,-1,called) ", "counted");
	before = module_ref_set_misuse_handler(ignore);
	module_put(mod);
	fires("put(w,-1,called) ", "a put too many");
	module_ref_set_misuse_handler(before);
	subject = mod;
	is(module_unload(host, "w", 0, 0), 0, "an unload");
	fires("release(it,done) free(w) ", "an unload");
	ok(!module_try_get(mod), "a get that is refused");
	fires("", "a get that is refused");
	module_handle_put(mod);
}

static void unloads(void)
{
	struct module *mod = module_find_get(host, "m");

	need(mod);
	subject = mod;
	fired[0] = '\0';
	is(module_unload(host, "m", 0, 0), -EWOULDBLOCK, "an unload of a module in use");
	fires("release(it,in use) ", "an unload of a module in use");
	is(module_unload(host, "m", 0, 10 * MILLISECOND), -ETIMEDOUT, "one that waits in vain");
	fires("drain(it,timed out,waited) ", "one that waits in vain");
	ok(nanoseconds >= 10 * MILLISECOND, "and says how long");
	module_put(mod);
	fired[0] = '\0';
	is(module_replace(host, "m", plugin("hooked2.so"), 0), 0, "a replacement");
	fires("request(m,0) load(m,0) put(m,-1) drain(it,done) free(m) ",
	      "a replacement");
	mod = module_find_get(host, "m");
	need(mod);
	subject = mod;
	fired[0] = '\0';
	is(module_unload(host, "m", MODULE_UNLOAD_FORCE, 0), 1, "an unload by force");
	fires("release(it,in use) ", "one by force, which waits for the last put");
	module_put(mod);
	fires("put(m,-1,called) ", "that, counted in one word by now");
	is(module_host_reap(host), 1, "reaped");
	fires("free(m) ", "reaped");
	need(module_load(host, plugin("hooked.so"), "m", NULL) == 0);
	fires("request(m,0) load(m,8) put(m,-1) ",
	      "a load by a host that is tainted");
	subject = NULL;
	need(module_unload(host, "m", 0, SECOND) == 0);
	fires("drain(another,done) free(m) ", "a drain that finds nobody");
}

static void counters(void)
{
	struct module_ref ref = MODULE_REF_INIT;

	subject = &ref;
	ok(module_ref_try_get(&ref) && module_ref_try_get_inline(&ref), "two references");
	module_ref_get(&ref);
	module_ref_put(&ref);
	module_ref_put_inline(&ref);
	fires("", "gets and puts of a counter");
	is(module_ref_try_release(&ref), -EWOULDBLOCK, "in use");
	is(module_ref_drain(&ref, 0), -ETIMEDOUT, "in use");
	module_ref_put(&ref);
	is(module_ref_drain(&ref, 0), 0, "drained");
	is(module_ref_try_release(&ref), -EALREADY, "once");
	is(module_ref_drain(&ref, 0), -EALREADY, "once");
	fires("release(it,in use) drain(it,timed out,waited) drain(it,done) release(it,already) "
	      "drain(it,already) ",
	      "releases and drains of a counter");
}

int main(void)
{
	percpu = has_per_cpu();
	host = module_host_new();
	need(host);
	map_library();
	notes();
	if (!set_breakpoints()) {
		puts("1..0 # SKIP code cannot be written here");
		return 0;
	}
	loads();
	references();
	ways();
	in_one_word();
	unloads();
	counters();
	is(module_host_free(host), 0, "the host is empty");
	return tap_done();
}

#else

int main(void)
{
	puts("1..0 # SKIP the breakpoints are x86-64's");
	return 0;
}

#endif
