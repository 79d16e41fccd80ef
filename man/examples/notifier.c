/* notifier.c */
#include <errno.h>
#include <module_ref.h>
#include <stdio.h>
#include <string.h>

static const char *const states[] = {
	[MODULE_STATE_LIVE] = "live",
	[MODULE_STATE_COMING] = "coming",
	[MODULE_STATE_GOING] = "going",
};

static int tell(struct module *mod, enum module_state state,
		void *data)
{
	const char *forbidden = data;

	printf("%s is %s\n", module_name(mod), states[state]);
	return strcmp(module_name(mod), forbidden) == 0 ? -EPERM : 0;
}

int main(void)
{
	static char forbidden[] = "other";
	struct module_host *host = module_host_new();

	module_notifier_register(host, tell, forbidden, 0);
	module_load(host, "./plugin.so", NULL, NULL);
	if (module_load(host, "./plugin.so", "other", NULL) == -EPERM)
		puts("other is refused");
	module_unload(host, "plugin", 0, -1);
	module_notifier_unregister(host, tell, forbidden);
	return module_host_free(host);
}
