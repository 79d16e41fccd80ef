// SPDX-License-Identifier: MIT OR Apache-2.0
//
// gated.cpp - a plugin that is called through gates: by its arguments, with results of each kind, and
// with an exception on its way out. GENERATION is what generation() returns.
#include <cstdarg>

#include "gated.h"

extern "C" {

long a_variable = 1;

long generation(void)
{
	return GENERATION;
}

#ifndef WITHOUT
int only_in_the_first(void)
{
	return 7;
}
#endif

bool all(long a, long b, long c, long d, long e, long f, double p, double q, double r, double s,
	 double t, double u, double v, double w)
{
	return a == 1 && b == 2 && c == 3 && d == 4 && e == 5 && f == 6 && p == 1.5 && q == 2.5 &&
	       r == 3.5 && s == 4.5 && t == 5.5 && u == 6.5 && v == 7.5 && w == 8.5;
}

struct numbers numbers(long a)
{
	return { a, -a };
}

struct halves halves(double a)
{
	return { a, -a };
}

struct large large(const struct large *from)
{
	return *from;
}

double sum(int n, ...)
{
	double total = 0;
	va_list list;

	va_start(list, n);
	while (n-- > 0)
		total += va_arg(list, double);
	va_end(list);
	return total;
}

long calls(long (*function)(long), long argument)
{
	volatile long result = function(argument);

	return result;
}

// Nothing that it throws is this object's own.
long throws(long what)
{
	throw what;
}

long catches(long (*function)(long), long argument)
{
	try {
		return function(argument);
	} catch (long what) {
		return 1000 + what;
	}
}
}
