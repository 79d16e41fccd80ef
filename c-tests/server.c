/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * server.c - the life of a server whose plugin is unloaded and loaded again under steady load, by the
 * loop that serves. What the library costs it is marked.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/epoll.h>

#include "host.h"
#include "threads.h"

enum { UNLOADS = 500, AT_ONCE = 4 };

static int requests[2], answers[2], loop;
static _Atomic int ends;
static _Atomic long asked, wrong;

/* A few requests are always under way. */
static void *client(void *arg)
{
	long next = 0, answer, sum = 0, answered = 0;

	while (!atomic_load(&ends) || answered < next) {
		while (next - answered < AT_ONCE && !atomic_load(&ends)) {
			sum += 2 * next;
			need(write(requests[1], &next, sizeof(next)) == sizeof(next));
			next++;
		}
		if (answered == next)
			continue;
		need(read(answers[0], &answer, sizeof(answer)) == sizeof(answer));
		sum -= answer;
		answered++;
	}
	atomic_store(&asked, next);
	atomic_store(&wrong, sum);
	close(requests[1]);
	return NULL;
}

static void watch(int fd, int op)
{
	struct epoll_event event = { .events = EPOLLIN, .data.fd = fd };

	need(epoll_ctl(loop, op, fd, &event) == 0);
}

static struct module_host *host;
static int (*answer)(int to, long request);

static void load(void)
{
	struct module *mod;
	void *address;

	need(module_load(host, plugin("answers.so"), NULL, NULL) == 0); /* library: 1 */
	mod = module_find_get(host, "answers"); /* library: 2 */
	address = module_symbol(mod, "answer"); /* library: 3 */
	module_put(mod); /* library: 4 */
	memcpy(&answer, &address, sizeof(answer));
}

int main(void)
{
	int unloads = 0, vetoes = 0, resident = 0, unloading = -1, open = 1, served = 0, rc;
	pthread_t thread;
	long request;

	need(pipe(requests) == 0 && pipe(answers) == 0 && (loop = epoll_create1(0)) >= 0);
	host = module_host_new(); /* library: 5 */
	load();
	thread = start_thread(client, NULL);
	watch(requests[0], EPOLL_CTL_ADD);
	while (open) {
		struct epoll_event event;
		struct module *mod;

		need(epoll_wait(loop, &event, 1, 20000) == 1);
		if (event.data.fd == requests[0]) {
			if (read(requests[0], &request, sizeof(request)) != sizeof(request)) {
				open = 0;
				continue;
			}
			mod = module_find_get(host, "answers"); /* library: 6 */
			need(mod && answer(answers[1], request) == 0);
			if (++served % 8 == 0 && unloads < UNLOADS) {
				unloading = module_unload_begin(host, "answers", 0); /* library: 7 */
				need(unloading >= 0);
				watch(unloading, EPOLL_CTL_ADD);
				watch(requests[0], EPOLL_CTL_DEL);
			}
			continue;
		}
		rc = module_unload_finish(host, "answers", 0); /* library: 8 */
		if (rc == -EINPROGRESS)
			continue;
		close(unloading);
		watch(requests[0], EPOLL_CTL_ADD);
		vetoes += rc == -EBUSY;
		if (rc < 0)
			continue;
		unloads++;
		resident += rc;
		load();
		atomic_store(&ends, unloads == UNLOADS);
	}
	pthread_join(thread, NULL);
	is(unloads, UNLOADS, "%d requests, and %d unloads under way", served, UNLOADS);
	/* On a busy machine a thread that ends can look as if it still stood there, until the next look. */
	printf("# %d stayed mapped for a while\n", resident);
	ok(vetoes > 0, "%d were refused", vetoes);
	is(atomic_load(&asked), served, "each request was answered");
	is(atomic_load(&wrong), 0, "and rightly");
	/* It may refuse once. */
	rc = (int)module_host_shutdown(host, 10 * SECOND) && module_host_shutdown(host, 10 * SECOND);
	is(rc, 0, "the last one goes"); /* library: 9 */
	is(mapped("/answers.so"), 0, "and all are gone from memory");
	return tap_done();
}
