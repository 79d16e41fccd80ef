// SPDX-License-Identifier: MIT OR Apache-2.0
//
// local.cpp - a plugin with thread-local objects that have destructors: one of C++'s own, and those
// that it is asked for.
#include <cstdint>
#include <unistd.h>

// The program's: number is what `local()` was told, or 0 of the object below.
extern "C" void local_made(long number);
extern "C" void local_ended(long number, int thread);
extern "C" int __cxa_thread_atexit_impl(void (*destructor)(void *), void *object, void *of);
extern "C" void *__dso_handle __attribute__((visibility("hidden")));

namespace
{
struct own {
	int thread = gettid();

	own()
	{
		local_made(0);
	}

	~own()
	{
		local_ended(0, thread);
		thread = -1; // nobody's, should it be destroyed again
	}
};
thread_local own one;
thread_local int thread;

void end(void *number);

void registers(long number)
{
	if (__cxa_thread_atexit_impl(end, reinterpret_cast<void *>(number), &__dso_handle) == 0)
		local_made(number);
}

void end(void *object)
{
	long number = static_cast<long>(reinterpret_cast<intptr_t>(object));

	local_ended(number, thread);
	// Each hundred has another one made: a destructor may register.
	if (number >= 100)
		registers(number / 100);
}
}

#ifdef FROM_CONSTRUCTOR
__attribute__((constructor)) static void at_load()
{
	thread = gettid();
	registers(7);
}
#endif

extern "C" long touch();
extern "C" void local(long number);

long touch()
{
	return one.thread;
}

void local(long number)
{
	thread = gettid();
	registers(number);
}
