// SPDX-License-Identifier: MIT OR Apache-2.0
//
// tlsdtor.cpp - a plugin with a thread-local object that has a destructor: the C library keeps
// the plugin until every thread has ended that has one.
namespace
{
struct local {
	volatile long n = 1;
	~local()
	{
		n = 0;
	}
};
thread_local local one;
}

extern "C" long answer(void);

long answer(void)
{
	return one.n;
}
