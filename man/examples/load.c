/* load.c */
#include <module_ref.h>
#include <stdio.h>
#include <string.h>

int main(void)
{
	struct module_host *host = module_host_new();
	struct module *plugin;
	long (*answer)(void);
	void *symbol;

	if (module_load(host, "./plugin.so", NULL, NULL) != 0) {
		fprintf(stderr, "%s\n", module_last_error());
		return 1;
	}

	/* Any thread takes a reference for as long as it uses the code. */
	plugin = module_find_get(host, "plugin");
	symbol = module_symbol(plugin, "answer");
	memcpy(&answer, &symbol, sizeof(answer));
	printf("the answer is %ld\n", answer());
	module_put(plugin);

	/* Closes it, and waits a second at most. */
	if (module_unload(host, "plugin", 0, 1000000000) == 0)
		puts("nobody is inside, and nobody gets in");
	else
		fprintf(stderr, "%s\n", module_last_error());
	return module_host_free(host);
}
