/* ticker.c: a plugin that runs in a thread */
#include <stdio.h>

void *tick(void *arg)
{
	printf("tick of %s\n", (const char *)arg);
	return NULL;
}
