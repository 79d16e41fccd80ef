/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * reloaded.c - a plugin that hands its state over: a counter, and a socket that listens. What its
 * functions answer is said by the program, which exports told(). Compiled several times:
 *
 *   GENERATION  which version it is
 *   PROVIDES    it exports provided(), for others
 *   NEEDS       it calls the provided() of another
 */
#define _GNU_SOURCE
#include "module_ref.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

int init_module(void);
void cleanup_module(void);
int stop_module(void);
int can_unload_module(void);
void resume_module(void);
int save_module(struct module_saved *out);
int restore_module(const struct module_saved *in);
long generation(void);
long add(void);
long value(void);
long serve(void);
long provided(void);
long provider(void);
long uses(void);
long both(void);

/* The program's. */
int told(struct module *self, long generation, const char *what);
long epoch_now(void);
const char *address(void);

struct state {
	long count;
	int port;
};

struct module *__this_module;
static _Atomic long count;
static int port = -1;
static long epoch; /* of the replacement that this load is a part of */

static int tell(const char *what)
{
	return told(__this_module, GENERATION, what);
}

int init_module(void)
{
	struct sockaddr_un at = { .sun_family = AF_UNIX };

	epoch = epoch_now();
	atomic_store(&count, 0);
	if (*address()) {
		port = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
		strcpy(at.sun_path + 1, address());
		if (bind(port, (struct sockaddr *)&at, sizeof(at)) != 0) {
			close(port);
			port = -1; /* it is handed over, then */
		} else if (listen(port, 64) != 0) {
			return -errno;
		}
	}
	return tell("init");
}

void cleanup_module(void)
{
	tell("exit");
	if (port >= 0)
		close(port);
	atomic_store(&count, -1000000);
}

int stop_module(void)
{
	return tell("stop");
}

int can_unload_module(void)
{
	return tell("can");
}

void resume_module(void)
{
	tell("resume");
}

int save_module(struct module_saved *out)
{
	struct state *state = malloc(sizeof(*state));
	int rc = tell("save");

	if (!state || rc != 0) {
		free(state);
		return rc ? rc : -ENOMEM;
	}
	*state = (struct state){ atomic_load(&count), port };
	port = -1;
	*out = (struct module_saved){ .version = 7, .data = state, .size = sizeof(*state) };
	return 0;
}

int restore_module(const struct module_saved *in)
{
	const struct state *state = in->data;
	int rc = tell("restore");

	if (rc == 0 && (in->version != 7 || in->size != sizeof(*state)))
		return -EPROTO;
	if (rc == 0) {
		atomic_store(&count, state->count);
		port = state->port;
	}
	return rc;
}

long generation(void)
{
	return GENERATION;
}

long add(void)
{
	return atomic_fetch_add(&count, 1) + 1;
}

long value(void)
{
	return atomic_load(&count);
}

/* Takes those who have connected. */
long serve(void)
{
	long served = 0;
	int fd;

	while ((fd = accept(port, NULL, NULL)) >= 0) {
		close(fd);
		served++;
	}
	return served;
}

#ifdef PROVIDES
long provided(void)
{
	return epoch;
}

long provider(void)
{
	return GENERATION;
}
#endif

/* The generation of what it is bound to. */
long uses(void)
{
#ifdef NEEDS
	return provider();
#else
	return 0;
#endif
}

/* Its own epoch and that of what it is bound to, if that is another one. */
long both(void)
{
#ifdef NEEDS
	if (provided() != epoch)
		return -provided() * 1000000 - epoch;
#endif
	return epoch;
}
