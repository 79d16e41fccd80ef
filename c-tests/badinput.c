/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * badinput.c - what a program gets for asking wrongly, and that nothing is lost.
 */
#include <errno.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "misuse.h"
#include "tap.h"

static void null(void)
{
	is(module_ref_init(NULL), -EINVAL, "init(NULL)");
	is(module_ref_init_percpu(NULL), -EINVAL, "init_percpu(NULL)");
	is(module_ref_reinit(NULL), -EINVAL, "reinit(NULL)");
	is(module_ref_try_release(NULL), -EINVAL, "try_release(NULL)");
	is(module_ref_drain(NULL, 0), -EINVAL, "drain(NULL)");
	is(module_ref_count(NULL), -EINVAL, "count(NULL)");
	is(module_ref_mode(NULL), MODULE_REF_ATOMIC, "mode(NULL)");
	module_ref_destroy(NULL);
	ok(module_ref_try_get(NULL), "try_get(NULL) is true, as in Linux");
}

static void double_init(void)
{
	struct module_ref ref;

	memset(&ref, 0x5a, sizeof(ref));
	is(module_ref_init(&ref), 0, "init, whatever the memory held");
	is(module_ref_init(&ref), 0, "init again: nothing is lost");
	ok(module_ref_try_get(&ref), "get");
	is(module_ref_reinit(&ref), -EBUSY, "reinit of a live counter is refused");
	is(module_ref_init(&ref), 0, "init of a held counter");
	is(module_ref_count(&ref), 0, "forgets its references");
	is(module_ref_try_release(&ref), 0, "release");
	is(module_ref_init(&ref), 0, "init of a released counter");
	is(module_ref_count(&ref), 0, "makes it live");
	is(module_ref_mode(&ref), MODULE_REF_ATOMIC, "init gives a shared word");
	is(module_ref_init_percpu(&ref), 0, "init_percpu");
	ok(module_ref_try_get(&ref), "counts in the mode it says");
	module_ref_put(&ref);
	is(module_ref_count(&ref), 0, "both ways");
}

static void zeroed_memory(void)
{
	static struct module_ref ref;

	ok(!module_ref_try_get(&ref), "memory that is all zeroes gives out no reference");
	is(module_ref_count(&ref), -1, "because it is a counter that is released");
	is(module_ref_try_release(&ref), -EALREADY, "and cannot be released again");
	is(module_ref_init(&ref), 0, "init");
	ok(module_ref_try_get(&ref), "makes it live");
	memset(&ref, 0, sizeof(ref));
	is(module_ref_init(&ref), 0, "init of cleared memory");
}

static void destroy(void)
{
	struct module_ref ref;

	is(module_ref_init(&ref), 0, "init");
	ok(module_ref_try_get(&ref), "get");
	module_ref_destroy(&ref);
	is(reports_since(MODULE_REF_LEAKED), 1, "destroy of a held counter is reported");
	is(module_ref_count(&ref), 1, "and not done");
	module_ref_put(&ref);
	module_ref_destroy(&ref);
	is(reports_since(MODULE_REF_LEAKED), 0, "destroy of one that nobody holds is no misuse");
	ok(!module_ref_try_get(&ref), "after it: no get");
	is(module_ref_try_release(&ref), -EINVAL, "no release");
	is(module_ref_drain(&ref, -1), -EINVAL, "no drain");
	is(module_ref_reinit(&ref), -EINVAL, "no reinit");
	is(module_ref_count(&ref), -1, "no count");
	module_ref_put(&ref);
	is(reports_since(MODULE_REF_SURPLUS_PUT), 1, "a put is reported");
	module_ref_get(&ref);
	is(reports_since(MODULE_REF_STALE_GET), 1, "a get is reported");
	module_ref_destroy(&ref);
	is(reports_since(MODULE_REF_LEAKED), 0, "a second destroy does nothing");
	is(module_ref_init(&ref), 0, "init starts over");
	ok(module_ref_try_get(&ref), "and it is live");
	module_ref_put(&ref);
	is(module_ref_try_release(&ref), 0, "release");
	module_ref_destroy(&ref);
	is(module_ref_init(&ref), 0, "destroy by the winner, and init");
}

static void timeouts(void)
{
	struct module_ref ref = MODULE_REF_INIT;

	ok(module_ref_try_get(&ref), "get");
	is(module_ref_drain(&ref, 0), -ETIMEDOUT, "no time");
	is(module_ref_drain(&ref, 1), -ETIMEDOUT, "a nanosecond");
	module_ref_put(&ref);
	is(module_ref_drain(&ref, INT64_MAX), 0, "292 years");
	is(module_ref_reinit(&ref), 0, "reinit");
	is(module_ref_drain(&ref, INT64_MIN), 0, "the longest negative timeout");
}

static void default_report(void)
{
	struct module_ref ref = MODULE_REF_INIT;
	int fds[2], saved = dup(STDERR_FILENO);
	char line[1024] = "";
	ssize_t n;

	need(saved >= 0 && pipe(fds) == 0 && dup2(fds[1], STDERR_FILENO) >= 0);
	ok(module_ref_set_misuse_handler(NULL) == on_misuse, "the handler before is returned");
	module_ref_put(&ref);
	ok(module_ref_set_misuse_handler(on_misuse) == NULL, "NULL is the default");
	n = read(fds[0], line, sizeof(line) - 1);
	dup2(saved, STDERR_FILENO);
	printf("# %s", line);
	ok(n > 0 && line[n - 1] == '\n' && strchr(line, '\n') == line + n - 1, "one line");
	ok(strncmp(line, "module_ref: surplus put", 23) == 0, "that says what happened");
#if defined(__x86_64__) || defined(__aarch64__)
	ok(strstr(line, "called from 0x") != NULL, "and where");
	ok(strstr(line, "badinput") != NULL, "in which object");
#endif
}

/* As many lines as the default handler writes in two seconds at most, however many misuses. */
static void many_reports(void)
{
	struct module_ref ref = MODULE_REF_INIT;
	int fds[2], saved = dup(STDERR_FILENO), lines = 0;
	time_t began = time(NULL);
	static char text[1 << 16];
	ssize_t n;

	need(saved >= 0 && pipe(fds) == 0 && dup2(fds[1], STDERR_FILENO) >= 0);
	module_ref_set_misuse_handler(NULL);
	for (int i = 0; i < 10000; i++)
		module_ref_put(&ref);
	module_ref_set_misuse_handler(on_misuse);
	dup2(saved, STDERR_FILENO);
	close(fds[1]);
	n = read(fds[0], text, sizeof(text) - 1);
	for (char *at = text; (at = strchr(at, '\n')); at++)
		lines++;
	ok(n > 0 && lines <= 10 * (2 + (int)(time(NULL) - began)), "10,000 misuses have %d lines", lines);
	ok(strstr(text, "; no more in this second\n") != NULL, "the last of a second says so");
	is(module_ref_count(&ref), 0, "and each is undone");
}

int main(void)
{
	char version[32];

	snprintf(version, sizeof(version), "%d.%d.%d", MODULE_REF_VERSION_MAJOR,
		 MODULE_REF_VERSION_MINOR, MODULE_REF_VERSION_PATCH);
	ok(strcmp(version, module_ref_version()) == 0, "header and library are both %s", version);
	module_ref_set_misuse_handler(on_misuse);
	null();
	double_init();
	zeroed_memory();
	destroy();
	timeouts();
	default_report();
	many_reports();
	return tap_done();
}
