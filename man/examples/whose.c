/* whose.c */
#include <module_ref.h>
#include <stdio.h>
#include <string.h>

int main(void)
{
	struct module_host *host = module_host_new();
	struct module *plugin;
	void *function;
	char text[256];

	if (module_load(host, "./plugin.so", NULL, NULL) != 0) {
		fprintf(stderr, "%s\n", module_last_error());
		return 1;
	}
	plugin = module_find_get(host, "plugin");
	function = module_symbol(plugin, "init_module");
	module_put(plugin);

	module_describe_address(function, text, sizeof(text));
	printf("%.*s\n", (int)strcspn(text, ","), text);
	module_unload(host, "plugin", 0, 0);
	module_describe_address(function, text, sizeof(text));
	printf("%.*s, %s\n", (int)strcspn(text, ","), text,
	       strstr(text, "unloaded") ? "unloaded" : "loaded");
	return module_host_free(host);
}
