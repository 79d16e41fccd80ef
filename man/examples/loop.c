/* loop.c */
#include <errno.h>
#include <module_ref.h>
#include <poll.h>
#include <stdio.h>
#include <unistd.h>

static struct module_ref ref = MODULE_REF_INIT;

static void *worker(void *arg)
{
	/* ... the end of what it does with its reference ... */
	module_ref_put(&ref);
	return arg;
}

int main(void)
{
	const int64_t second = 1000000000;
	struct module_ref_drain drain;
	struct pollfd drained = { .events = POLLIN };
	pthread_t thread;
	int rc;

	module_ref_try_get(&ref);  /* for the worker */
	pthread_create(&thread, NULL, worker, NULL);
	drained.fd = module_ref_drain_begin(&ref, &drain, 10 * second);
	if (drained.fd < 0)
		return 1;

	/* The program's own loop, with other descriptors beside this one. */
	do
		poll(&drained, 1, -1);
	while ((rc = module_ref_drain_finish(&drain)) == -EINPROGRESS);
	close(drained.fd);

	if (rc == 0)
		puts("nobody is inside, and nobody gets in");
	pthread_join(thread, NULL);
	return rc;
}
