/* gate.c */
#include <module_ref.h>
#include <stdio.h>
#include <string.h>

static long (*callback)(void);

/* A library that keeps what it is given. */
static void keep(void *function)
{
	memcpy(&callback, &function, sizeof(callback));
}

int main(void)
{
	struct module_host *host = module_host_new();
	struct module *plugin;
	void *gate;

	if (module_load(host, "./plugin.so", NULL, &plugin) != 0 ||
	    !(gate = module_gate_follow(plugin, "answer", 0))) {
		fprintf(stderr, "%s\n", module_last_error());
		return 1;
	}
	module_handle_put(plugin);
	keep(gate);
	printf("the answer is %ld\n", callback());
	module_unload(host, "plugin", 0, 0);
	printf("after the unload it is %ld\n", callback());
	printf("refused: %d\n", (int)module_gate_refused(gate));
	return module_host_free(host);
}
