/* thread.c */
#include <module_ref.h>
#include <stdio.h>
#include <string.h>

int main(void)
{
	static char name[] = "ticker";
	struct module_host *host = module_host_new();
	struct module *ticker;
	void *(*tick)(void *), *symbol;
	pthread_t thread;
	int rc;

	if (module_load(host, "./ticker.so", NULL, NULL) != 0) {
		fprintf(stderr, "%s\n", module_last_error());
		return 1;
	}
	ticker = module_find_get(host, "ticker");
	symbol = module_symbol(ticker, "tick");
	memcpy(&tick, &symbol, sizeof(tick));

	/* The thread keeps the plugin's code mapped. */
	rc = module_thread_create(&thread, NULL, ticker, tick, name);
	module_put(ticker);
	if (rc != 0)
		return 1;
	pthread_detach(thread);

	/* Waits until no code of the plugin runs in the thread. */
	if (module_unload(host, "ticker", 0, -1) == 0)
		puts("unmapped");
	return module_host_free(host);
}
