/* subsystem.c */
#include <linux_module.h>
#include <stdio.h>

struct operations {
	struct module *owner;
	int (*answer)(void);
};
extern struct operations operations;

int main(void)
{
	struct module_host *host = LINUX_MODULE_HOST;
	struct operations *driver;

	if (module_load(host, "./driver.so", NULL, NULL) != 0) {
		fprintf(stderr, "%s\n", module_last_error());
		return 1;
	}
	driver = symbol_get(operations);
	if (driver && try_module_get(driver->owner)) {
		printf("the answer is %d\n", driver->answer());
		module_put(driver->owner);
	}
	symbol_put(operations);
	if (delete_module("driver", O_NONBLOCK) == 0)
		puts("deleted");
	return 0;
}
