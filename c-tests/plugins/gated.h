/* SPDX-License-Identifier: MIT OR Apache-2.0 */
#ifndef GATED_H
#define GATED_H

#include <stdbool.h>

struct numbers {
	long a, b;
};
struct halves {
	double a, b;
};
struct large {
	long a[9];
};

#ifdef __cplusplus
extern "C" {
#endif
extern long a_variable;
long generation(void);
int only_in_the_first(void);
bool all(long a, long b, long c, long d, long e, long f, double p, double q, double r, double s,
	 double t, double u, double v, double w);
struct numbers numbers(long a);
struct halves halves(double a);
struct large large(const struct large *from);
double sum(int n, ...);
long calls(long (*function)(long), long argument);
long throws(long what);
long catches(long (*function)(long), long argument);
#ifdef __cplusplus
}
#endif

#endif
