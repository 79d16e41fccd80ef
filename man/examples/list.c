/* list.c */
#include <module_ref.h>
#include <stdio.h>
#include <stdlib.h>

/* The modules as text, to be freed. There may be more with each look. */
static char *modules(struct module_host *host)
{
	int64_t need = 0, len;
	char *text = NULL, *more;

	do {
		len = need + 1;
		more = realloc(text, (size_t)len);
		if (!more)
			break;
		text = more;
		need = module_host_list(host, text, (size_t)len);
	} while (need >= len);
	return text;
}

int main(void)
{
	struct module_host *host = module_host_new();
	char name[MODULE_NAME_LEN], last[64], *text;
	int references;

	if (module_load(host, "./plugin.so", NULL, NULL) != 0) {
		fprintf(stderr, "%s\n", module_last_error());
		return 1;
	}
	text = modules(host);
	if (text && sscanf(text, "%55s %*s %d", name, &references) == 2)
		printf("%s: %d references\n", name, references);
	free(text);

	module_unload(host, "plugin", 0, 0);
	module_host_last_unloaded(host, last, sizeof(last));
	puts(last);
	return module_host_free(host);
}
