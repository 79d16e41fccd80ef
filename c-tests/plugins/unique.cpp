// SPDX-License-Identifier: MIT OR Apache-2.0
//
// unique.cpp - a plugin that defines a unique symbol, as any static of a C++ inline function is:
// the C library never unmaps it.
template <typename T> struct counter {
	static T &value()
	{
		static T it;
		return it;
	}
};

extern "C" long answer(void);

long answer(void)
{
	return ++counter<long>::value();
}
