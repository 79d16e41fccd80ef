/* percpu.c */
#include <module_ref.h>
#include <stdio.h>
#include <stdlib.h>

struct device {
	struct module_ref ref;  /* 16-aligned: malloc() gives no less */
};

int main(void)
{
	struct device *device = malloc(sizeof(*device));

	if (!device || module_ref_init_percpu(&device->ref) != 0)
		return 1;
	/* Elsewhere it counts in one word: slower, and as right. */
	if (module_ref_mode(&device->ref) != MODULE_REF_PERCPU)
		fputs("no per-CPU counting on this system\n", stderr);

	/* ... threads get and put ... */

	if (module_ref_drain(&device->ref, -1) == 0)
		puts("released: nobody uses the device");
	module_ref_destroy(&device->ref);
	free(device);
	return 0;
}
