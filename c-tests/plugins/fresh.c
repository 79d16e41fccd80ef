/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * fresh.c - a plugin that tells the program how often it has been initialised: once, because
 * each load is an object of its own. FROM_CONSTRUCTOR has it call back from its constructor and its destructor.
 */
extern void initialised(int before) __attribute__((weak));
extern void constructed(void) __attribute__((weak));
extern void destructed(void) __attribute__((weak));

int init_module(void);
void cleanup_module(void);

static int times;

#ifdef FROM_CONSTRUCTOR
__attribute__((constructor)) static void construct(void)
{
	if (constructed)
		constructed();
}

__attribute__((destructor)) static void destruct(void)
{
	if (destructed)
		destructed();
}
#endif

int init_module(void)
{
	if (initialised)
		initialised(times);
	times++;
	return 0;
}

void cleanup_module(void)
{
	times++;
}
