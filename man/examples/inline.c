/* inline.c */
#define MODULE_REF_INLINE  /* the plain names mean these */
#include <module_ref_inline.h>
#include <stdio.h>

static struct module_ref ref;

int main(void)
{
	if (module_ref_init_percpu(&ref) != 0)
		return 1;
	if (module_ref_try_get(&ref)) {
		printf("references: %d\n", (int)module_ref_count(&ref));
		module_ref_put(&ref);
	}
	return module_ref_drain(&ref, -1);
}
