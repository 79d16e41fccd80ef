/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * watcher.c - a module that is told of others, as tracers and live patches are.
 */
#include <linux/init.h>
#include <linux/module.h>
#include <linux/moduleparam.h>
#include <linux/notifier.h>
#include <linux/printk.h>

#include "driver.h"

struct watch {
	struct notifier_block nb;
	const char *target;
	int seen;
};

static char *target = "driver";
module_param(target, charp, 0444);

static int watch_event(struct notifier_block *nb, unsigned long action, void *data)
{
	struct watch *watch = container_of(nb, struct watch, nb);
	struct module *mod = data;

	if (strcmp(mod->name, watch->target))
		return NOTIFY_DONE;
	switch (action) {
	case MODULE_STATE_COMING:
	case MODULE_STATE_LIVE:
		watch->seen++;
		break;
	case MODULE_STATE_GOING:
		watch->seen += 10;
		break;
	}
	return NOTIFY_OK;
}

static struct watch watch = {
	.nb.notifier_call = watch_event,
};

int watch_seen(void)
{
	return watch.seen;
}
EXPORT_SYMBOL(watch_seen);

static int __init watch_init(void)
{
	struct module *there;

	watch.target = target;
	there = find_module(target);
	if (there && try_module_get(there)) {
		watch.seen = 100;
		module_put(there);
	}
	return register_module_notifier(&watch.nb);
}

static void __exit watch_exit(void)
{
	unregister_module_notifier(&watch.nb);
}

late_initcall(watch_init);
module_exit(watch_exit);
MODULE_LICENSE("Dual MIT/Apache-2.0");
MODULE_ALIAS("watch-dog-*");
