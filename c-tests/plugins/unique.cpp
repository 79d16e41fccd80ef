// SPDX-License-Identifier: MIT OR Apache-2.0
//
// unique.cpp - a plugin that defines a unique symbol, as any static of a C++ inline function is:
// the C library never unmaps it. Compiled as a library, too, that plugins need: EXPORTS is its
// function then, and KIND the type that its symbol is of.
#ifndef EXPORTS
#define EXPORTS answer
#define KIND long
#endif

template <typename T> struct counter {
	static T &value()
	{
		static T it;
		return it;
	}
};

extern "C" long EXPORTS(void);

long EXPORTS(void)
{
	return ++counter<KIND>::value();
}
