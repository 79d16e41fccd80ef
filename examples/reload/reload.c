/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * reload.c - a server whose work is done by a plugin, and which goes on when the plugin's file is
 * replaced.
 *
 *     reload FOLDER [PORT]    FOLDER has plugin.so; without a PORT the system chooses one
 *
 * It ends when plugin.so is removed. The exit status is 0 if the plugin was unmapped then.
 */
#include <module_ref.h>

#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <unistd.h>

static const char file[] = "plugin.so", name[] = "plugin";
static const int64_t patience = INT64_C(10000000000); /* ns */

static int fail(const char *what, const char *why)
{
	fprintf(stderr, "reload: %s: %s\n", what, why);
	return 1;
}

/* The first version is told where to listen; each of the others goes on where the one before
 * has stopped. */
static int start(struct module_host *host, int port)
{
	struct module *mod = module_find_get(host, name);
	int (*begin)(int) = NULL;
	int rc = -ENOENT;

	if (mod)
		*(void **)&begin = module_symbol(mod, "start");
	if (begin)
		rc = begin(port);
	module_put(mod); /* NULL is ignored */
	return rc;
}

/* A version that cannot take over leaves the old one where it is. */
static void replace(struct module_host *host, const char *path)
{
	int rc = module_replace_flags(host, name, path, MODULE_REPLACE_STOP_FIRST, patience);

	if (rc < 0)
		printf("not replaced: %s\n", module_last_error());
	else
		printf("replaced%s%s\n", rc ? ", but still mapped: " : "",
		       rc ? module_last_error() : "");
}

int main(int argc, char **argv)
{
	struct module_host *host = module_host_default();
	_Alignas(struct inotify_event) char events[4096];
	int watch = inotify_init1(IN_CLOEXEC), rc;
	char path[4096];

	if (argc < 2 || argc > 3) {
		fputs("usage: reload FOLDER [PORT]\n", stderr);
		return 2;
	}
	setvbuf(stdout, NULL, _IOLBF, 0);
	snprintf(path, sizeof(path), "%s/%s", argv[1], file);

	/* Before the load: what is renamed to plugin.so after that is seen. */
	if (inotify_add_watch(watch, argv[1], IN_MOVED_TO | IN_DELETE) < 0)
		return fail(argv[1], strerror(errno));
	if (module_load(host, path, name, NULL) != 0)
		return fail("not loaded", module_last_error());
	rc = start(host, argc > 2 ? atoi(argv[2]) : 0);
	if (rc != 0)
		return fail("not started", strerror(-rc));

	for (;;) {
		const struct inotify_event *event;
		ssize_t n = read(watch, events, sizeof(events));

		if (n < 0 && errno != EINTR)
			return fail("inotify", strerror(errno));
		for (char *at = events; at < events + n; at += sizeof(*event) + event->len) {
			event = (const void *)at;
			/* Without a name: events were lost, and this may have been among them. */
			if (event->len > 0 && strcmp(event->name, file) != 0)
				continue;
			if (!(event->mask & IN_DELETE)) {
				replace(host, path);
				continue;
			}
			rc = module_unload(host, name, 0, patience);
			if (rc != 0)
				return fail("not unloaded", module_last_error());
			puts("unloaded");
			return 0;
		}
	}
}
