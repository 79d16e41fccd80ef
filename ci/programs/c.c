#define MODULE_REF_INLINE
#include <module_ref_inline.h>
#include <stdio.h>
#include <string.h>

static struct module_ref ref = MODULE_REF_INIT;

int main(int argc, char **argv)
{
	struct module_host *host = module_host_new();
	struct module *plugin;
	long (*answer)(void);
	void *symbol;

	if (argc != 2 || !module_ref_try_get(&ref) || module_ref_drain(&ref, 0) == 0)
		return 1;
	module_ref_put(&ref);
	if (module_ref_drain(&ref, 0) != 0)
		return 2;
	if (module_load(host, argv[1], "plugin", NULL) != 0) {
		fprintf(stderr, "%s\n", module_last_error());
		return 3;
	}
	plugin = module_find_get(host, "plugin");
	symbol = module_symbol(plugin, "answer");
	memcpy(&answer, &symbol, sizeof(answer));
	printf("version %s, the answer is %ld\n", module_ref_version(), answer());
	module_put(plugin);
	if (module_unload(host, "plugin", 0, 0) != 0)
		return 4;
	return module_host_free(host) ? 5 : 0;
}
