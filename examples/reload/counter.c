/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * counter.c - the plugin: it listens on a port of 127.0.0.1, and tells each client which version
 * it is and how many have asked. Both the count and the socket go to the version that replaces it.
 */
#include <module_ref.h>

#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

/* What a successor goes on with. Whoever changes it changes LAYOUT, too. */
#ifndef LAYOUT
#define LAYOUT 1
#endif
struct state {
	unsigned long requests;
	int listener;
};

/* Of the thread as long as it runs. */
static struct state state = { .listener = -1 };

static pthread_t thread;
static int wake = -1; /* an eventfd, while the thread runs */

static void *serve(void *unused)
{
	struct pollfd on[] = {
		{ .fd = wake, .events = POLLIN },
		{ .fd = state.listener, .events = POLLIN },
	};
	char text[64];

	(void)unused;
	for (;;) {
		int client, size;

		if (poll(on, 2, -1) < 0)
			continue;
		/* Whoever connects from now on is kept by the kernel for the successor. */
		if (on[0].revents)
			return NULL;
		client = accept4(state.listener, NULL, NULL, SOCK_CLOEXEC);
		if (client < 0)
			continue;
		size = snprintf(text, sizeof(text), "version %d request %lu\n", VERSION,
				++state.requests);
		send(client, text, (size_t)size, MSG_NOSIGNAL);
		close(client);
	}
}

static int begin(void)
{
	int rc;

	wake = eventfd(0, EFD_CLOEXEC);
	if (wake < 0)
		return -errno;
	rc = pthread_create(&thread, NULL, serve, NULL);
	if (rc != 0) {
		close(wake);
		wake = -1;
	}
	return -rc;
}

/* The program calls it for the first version alone. It cannot be done in init_module(), which does
 * not know whether a restore_module() follows. */
int start(int port)
{
	struct sockaddr_in at = { .sin_family = AF_INET, .sin_port = htons((uint16_t)port) };
	socklen_t size = sizeof(at);

	at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	state.listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (state.listener < 0 || bind(state.listener, (struct sockaddr *)&at, size) != 0 ||
	    listen(state.listener, SOMAXCONN) != 0 ||
	    getsockname(state.listener, (struct sockaddr *)&at, &size) != 0)
		return -errno; /* cleanup_module() closes it */
	printf("listening on 127.0.0.1:%d\n", ntohs(at.sin_port));
	return begin();
}

/* No thread of ours runs when we are saved or unloaded. */
int stop_module(void)
{
	if (wake >= 0) {
		eventfd_write(wake, 1);
		pthread_join(thread, NULL);
		close(wake);
		wake = -1;
	}
	return 0;
}

/* We were stopped, and are not replaced after all. */
void resume_module(void)
{
	if (state.listener >= 0 && begin() != 0)
		fputs("counter: there is no thread to go on with\n", stderr);
}

int save_module(struct module_saved *out)
{
	struct state *saved = malloc(sizeof(*saved));

	if (!saved)
		return -ENOMEM;
	*saved = state;
	state.listener = -1; /* cleanup_module() closes what is still ours */
	*out = (struct module_saved){ .version = LAYOUT, .data = saved, .size = sizeof(*saved) };
	return 0;
}

/* What our predecessor has saved; or what we have, if our successor has failed. */
int restore_module(const struct module_saved *in)
{
	int rc;

	if (in->version != LAYOUT || in->size != sizeof(state))
		return -EPROTO;
	state = *(const struct state *)in->data;
	if (state.listener < 0)
		return 0;
	rc = begin();
	if (rc != 0)
		state.listener = -1; /* it stays with whoever has saved it */
	return rc;
}

void cleanup_module(void)
{
	if (state.listener >= 0)
		close(state.listener);
	state.listener = -1;
}
