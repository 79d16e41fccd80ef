/* replace.c */
#include <module_ref.h>
#include <stdio.h>

int main(void)
{
	struct module_host *host = module_host_new();
	struct module *old, *new;
	int rc;

	if (module_load(host, "./plugin.so", NULL, NULL) != 0) {
		fprintf(stderr, "%s\n", module_last_error());
		return 1;
	}
	old = module_find_get(host, "plugin");

	/* The new one is in service at once. The old one is held, by this
	 * thread, and not waited for: 1 says that its code is there. */
	rc = module_replace(host, "plugin", "./plugin.so", 0);
	printf("replaced: %d\n", rc);
	new = module_find_get(host, "plugin");
	printf("the same module: %s\n", new == old ? "yes" : "no");
	module_put(new);

	module_put(old);
	printf("unmapped now: %d\n", module_host_reap(host));

	if (module_unload(host, "plugin", 0, -1) < 0)
		fprintf(stderr, "%s\n", module_last_error());
	return module_host_free(host);
}
