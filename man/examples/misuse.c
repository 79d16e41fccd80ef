/* misuse.c */
#include <module_ref.h>
#include <stdio.h>

static struct module_ref ref = MODULE_REF_INIT;

static void misused(enum module_ref_misuse what,
		    const struct module_ref *of, const void *caller)
{
	(void)caller;  /* dladdr(3) makes a name of it */
	if (what == MODULE_REF_SURPLUS_PUT && of == &ref)
		puts("surplus put of ref");
}

int main(void)
{
	module_ref_set_misuse_handler(misused);
	module_ref_put(&ref);  /* nobody has taken a reference */
	return module_ref_try_release(&ref);
}
