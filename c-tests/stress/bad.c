/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * bad.c - misbehaving plugins, loaded and unloaded beside the good ones of a run. Each has to be
 * kept, with a word of why, until what it has left behind is taken back, and to be unmapped then.
 * What a plugin's user keeps is looked for on request alone: such a plugin goes at once, and the
 * address that is left has to be known as that of a plugin that is gone.
 */
#define _GNU_SOURCE
#include <inttypes.h>
#include <string.h>
#include <unistd.h>

#include "../lib/dangles.h"
#include "stress.h"

#define NAME "misbehaves"

/* The last of its causes is a thread that has a moment left to live. */
#define PATIENCE_NS UINT64_C(30000000000)

static struct bad bads[DANGLES];

/* Not on a stack: module_dangling() looks into other memory. */
static struct dangle_user user;

/* Keeps the finding that has the words; false if none has. */
static bool note(struct bad *bad, const char *text, const char *words)
{
	const char *said = strstr(text, words);

	while (said && said > text && said[-1] != '\n' && strncmp(said - 2, "; ", 2) != 0 &&
	       strncmp(said - 2, ": ", 2) != 0)
		said--;
	if (said)
		snprintf(bad->said, sizeof(bad->said), "%.*s", (int)strcspn(said, ";\n"), said);
	return said;
}

/* Nobody keeps it any more: it goes. */
static bool is_unmapped(const char *file)
{
	uint64_t began = now_ns();

	while (mapped(file) != 0) {
		if (now_ns() - began > PATIENCE_NS)
			return false;
		module_host_reap(host);
		sleep_ns(MILLISECOND);
	}
	return true;
}

static void told_and_gone(struct bad *bad, const struct dangle *dangle, const void *address)
{
	char whose[256] = "";

	module_describe_address(address, whose, sizeof(whose));
	if (!strstr(whose, ", unloaded "))
		violation(UNTOLD, "'%s' has gone, and its address is called '%s'", dangle->what,
			  whose);
}

static void try(struct bad *bad, const struct dangle *dangle)
{
	static char text[1 << 16];
	char path[PATH_MAX] = "", file[NAME_MAX];
	struct module *mod;
	const char *missing;
	bool is_told;
	int rc;

	beside_program(path, dangle->file);
	if (module_load(host, path, NAME, &mod) != 0) {
		violation(UNKNOWN_RESULT, "a load of '%s' failed: %s", path, module_last_error());
		return;
	}
	missing = module_try_get(mod) ? dangle_begin(&user, dangle, module_symbol(mod, "leave")) : "a reference";
	if (missing) {
		violation(UNKNOWN_RESULT, "'%s' could not be tried without %s", dangle->what,
			  missing);
		module_handle_put(mod);
		return;
	}
	module_put(mod);
	if (dangle->told == ON_REQUEST) {
		module_dangling(mod, text, sizeof(text));
		is_told = note(bad, text, dangle->words);
	}
	rc = module_unload(host, NAME, 0, 0);
	bad->unloads++;
	bad->resident += rc == 1;
	if (dangle->told != ON_REQUEST)
		is_told = rc == 1 && note(bad, module_last_error(), dangle->words);
	if (!is_told)
		violation(UNTOLD, "'%s' was not told; its unload returned %d: %s", dangle->what, rc,
			  rc == 0 ? "" : module_last_error());
	if (rc == 0 && user.left.kept)
		told_and_gone(bad, dangle, *user.left.kept);
	dangle_end(&user);
	snprintf(file, sizeof(file), "/%s", dangle->file);
	if (is_unmapped(file))
		bad->unmapped++;
	else
		violation(UNTOLD, "'%s' stays mapped after its cause has gone", dangle->what);
	module_handle_put(mod);
}

void bad_round(struct unloader *unloader)
{
	for (unsigned i = 0; i < DANGLES && !interrupted; i++) {
		char path[PATH_MAX];

		bads[i].what = dangles[i].what;
		/* Not every compiler has it. */
		bads[i].is_absent = strcmp(dangles[i].kind, "openmp") == 0 &&
				    beside_program(path, dangles[i].file) &&
				    access(path, F_OK) != 0;
		if (bads[i].is_absent)
			continue;
		atomic_store(&bads[i].now, true);
		try(&bads[i], &dangles[i]);
		count_one(&unloader->unloads);
		atomic_store(&bads[i].now, false);
	}
}

const struct bad *bad_result(unsigned i)
{
	return i < DANGLES ? &bads[i] : NULL;
}
