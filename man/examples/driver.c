/* driver.c */
#include <linux_module.h>

struct operations {
	struct module *owner;
	int (*answer)(void);
};

static int answer(void)
{
	return 42;
}

struct operations operations = {
	.owner = THIS_MODULE,
	.answer = answer,
};
EXPORT_SYMBOL(operations);

static int __init driver_init(void)
{
	return 0;
}

static void __exit driver_exit(void)
{
}

module_init(driver_init);
module_exit(driver_exit);
MODULE_LICENSE("GPL");
