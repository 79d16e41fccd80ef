/* holders.c - who holds it, when it cannot be released */
#include <errno.h>
#include <module_ref.h>
#include <stdio.h>
#include <string.h>

static struct module_ref ref = MODULE_REF_INIT;

int main(void)
{
	char who[4096];

	module_ref_record_holders(&ref, true);
	module_ref_try_get(&ref);               /* and forgotten */
	if (module_ref_try_release(&ref) == -EWOULDBLOCK) {
		module_ref_holders(&ref, who, sizeof(who));
		/* main+0x2d in ./holders (thread 'holders', 1234) for 0 ms */
		puts(strstr(who, "holders") ? "held by this program" : who);
	}
	module_ref_put(&ref);
	return module_ref_try_release(&ref);
}
