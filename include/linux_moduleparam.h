/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * linux_moduleparam.h - module_param() and its kin: part of linux_module.h.
 *
 * module_load_args() sets a driver's parameters before its init function runs. Values are read as
 * the kernel reads them: numbers in decimal, octal (0...) or hexadecimal (0x...), -EINVAL for what is
 * none, and -ERANGE for what does not fit; bools by their first letter (y, t, 1, on; n, f, 0, of);
 * arrays with commas. Nothing shows or sets parameters later: the permissions mean nothing.
 */
#ifndef LINUX_MODULEPARAM_H
#define LINUX_MODULEPARAM_H

#include <ctype.h>
#include <errno.h>
#include <limits.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "linux_module.h"

#define S_IRUGO (S_IRUSR | S_IRGRP | S_IROTH)
#define S_IWUGO (S_IWUSR | S_IWGRP | S_IWOTH)
#define S_IXUGO (S_IXUSR | S_IXGRP | S_IXOTH)
#define S_IRWXUGO (S_IRUGO | S_IWUGO | S_IXUGO)

#ifdef __cplusplus
extern "C" {
#endif

/* One for each object, not for each file. */
#define LINUX_MODULE_SHARED __attribute__((weak, visibility("hidden")))

struct kernel_param;

/* The functions of a kind of parameters. Linux: struct kernel_param_ops. */
struct kernel_param_ops {
	unsigned int flags;
	/* 0 or a negative errno. val is NULL for a name without a value, if the flags allow that; what
	 * it points to stays for as long as the module is loaded. */
	int (*set)(const char *val, const struct kernel_param *kp);
	int (*get)(char *buffer, const struct kernel_param *kp);
	void (*free)(void *arg);
};

/* In flags: the name may stand alone. */
#define KERNEL_PARAM_OPS_FL_NOARG 1u

struct kparam_string {
	unsigned int maxlen;
	char *string;
};

struct kparam_array {
	unsigned int max;
	unsigned int elemsize;
	unsigned int *num;
	const struct kernel_param_ops *ops;
	void *elem;
};

/* A parameter, as the library finds it. Linux: struct kernel_param. */
struct kernel_param {
	const char *name;
	struct module *mod;
	const struct kernel_param_ops *ops;
	unsigned short perm;
	signed char level;
	unsigned char flags;
	union {
		void *arg;
		const struct kparam_string *str;
		const struct kparam_array *arr;
	};
};

/* The object's, from the section in which they are. A version script must not make it local. */
#ifdef MODULE
struct linux_module_params {
	const struct kernel_param *begin, *end;
};
extern const struct kernel_param __start___param[] LINUX_MODULE_SHARED;
extern const struct kernel_param __stop___param[] LINUX_MODULE_SHARED;
extern const struct linux_module_params __module_params
	__attribute__((weak, visibility("default")));
const struct linux_module_params __module_params = { __start___param, __stop___param };
#endif

/* ---- Numbers ---- */

/* most and least are how far it may be from zero in either direction. */
static inline int linux_module_number(const char *text, unsigned int base, unsigned long long most,
				      unsigned long long least, unsigned long long *number)
{
	const bool minus = *text == '-' && least;
	const int before = errno;
	bool beyond;
	char *end;

	if (*text == '+' || minus)
		text++;
	if (!isalnum((unsigned char)*text))
		return -EINVAL;
	errno = 0;
	*number = strtoull(text, &end, (int)base);
	beyond = errno == ERANGE;
	errno = before;
	if (end == text || end[*end == '\n'])
		return -EINVAL;
	if (beyond || *number > (minus ? least : most))
		return -ERANGE;
	if (minus)
		*number = 0 - *number;
	return 0;
}

#define LINUX_MODULE_KSTRTO(name, type, most, least)                                       \
	static inline int kstrto##name(const char *s, unsigned int base, type *res)        \
	{                                                                                  \
		unsigned long long number;                                                 \
		const int rc = linux_module_number(s, base, most, least, &number);         \
                                                                                           \
		if (rc == 0)                                                               \
			*res = (type)number;                                               \
		return rc;                                                                 \
	}                                                                                  \
	struct linux_module_needs_a_semicolon

/* How far below zero, of a type whose maximum this is. */
#define LINUX_MODULE_LEAST(max) ((unsigned long long)(max) + 1)

/* Linux: kstrtoint() and so on: 0, -EINVAL, -ERANGE. */
LINUX_MODULE_KSTRTO(u8, unsigned char, UCHAR_MAX, 0);
LINUX_MODULE_KSTRTO(s8, signed char, SCHAR_MAX, LINUX_MODULE_LEAST(SCHAR_MAX));
LINUX_MODULE_KSTRTO(u16, unsigned short, USHRT_MAX, 0);
LINUX_MODULE_KSTRTO(s16, short, SHRT_MAX, LINUX_MODULE_LEAST(SHRT_MAX));
LINUX_MODULE_KSTRTO(uint, unsigned int, UINT_MAX, 0);
LINUX_MODULE_KSTRTO(int, int, INT_MAX, LINUX_MODULE_LEAST(INT_MAX));
LINUX_MODULE_KSTRTO(ul, unsigned long, ULONG_MAX, 0);
LINUX_MODULE_KSTRTO(l, long, LONG_MAX, LINUX_MODULE_LEAST(LONG_MAX));
LINUX_MODULE_KSTRTO(ull, unsigned long long, ULLONG_MAX, 0);
LINUX_MODULE_KSTRTO(ll, long long, LLONG_MAX, LINUX_MODULE_LEAST(LLONG_MAX));
#define kstrtou32 kstrtouint
#define kstrtos32 kstrtoint
#define kstrtou64 kstrtoull
#define kstrtos64 kstrtoll

static inline int kstrtobool(const char *s, bool *res)
{
	const char c = (char)tolower((unsigned char)s[0]);
	const char next = (char)(c ? tolower((unsigned char)s[1]) : 0);
	const bool yes = c == 'y' || c == 't' || c == '1' || (c == 'o' && next == 'n');

	if (!yes && c != 'n' && c != 'f' && c != '0' && !(c == 'o' && next == 'f'))
		return -EINVAL;
	*res = yes;
	return 0;
}

/* ---- Kinds ---- */

#define LINUX_MODULE_SET(kind)                                                             \
	LINUX_MODULE_SHARED int param_set_##kind(const char *val,                          \
						 const struct kernel_param *kp);           \
	int param_set_##kind(const char *val, const struct kernel_param *kp)

#define LINUX_MODULE_GET(kind)                                                             \
	LINUX_MODULE_SHARED int param_get_##kind(char *buffer,                             \
						 const struct kernel_param *kp);           \
	int param_get_##kind(char *buffer, const struct kernel_param *kp)

#define LINUX_MODULE_OPS(ops, flags, set, get)                                             \
	extern const struct kernel_param_ops ops LINUX_MODULE_SHARED;                      \
	const struct kernel_param_ops ops = { flags, set, get, NULL }

#define LINUX_MODULE_KIND(kind, type, number, format)                                      \
	LINUX_MODULE_SET(kind)                                                             \
	{                                                                                  \
		return kstrto##number(val, 0, (type *)kp->arg);                            \
	}                                                                                  \
	LINUX_MODULE_GET(kind)                                                             \
	{                                                                                  \
		return sprintf(buffer, format "\n", *(type *)kp->arg);                     \
	}                                                                                  \
	LINUX_MODULE_OPS(param_ops_##kind, 0, param_set_##kind, param_get_##kind)

LINUX_MODULE_KIND(byte, unsigned char, u8, "%hhu");
LINUX_MODULE_KIND(short, short, s16, "%hi");
LINUX_MODULE_KIND(ushort, unsigned short, u16, "%hu");
LINUX_MODULE_KIND(int, int, int, "%i");
LINUX_MODULE_KIND(uint, unsigned int, uint, "%u");
LINUX_MODULE_KIND(long, long, l, "%li");
LINUX_MODULE_KIND(ulong, unsigned long, ul, "%lu");
LINUX_MODULE_KIND(ullong, unsigned long long, ull, "%llu");
LINUX_MODULE_KIND(hexint, unsigned int, uint, "%#08x");

LINUX_MODULE_SET(bool)
{
	return kstrtobool(val ? val : "1", (bool *)kp->arg);
}

LINUX_MODULE_GET(bool)
{
	return sprintf(buffer, "%c\n", *(bool *)kp->arg ? 'Y' : 'N');
}
LINUX_MODULE_OPS(param_ops_bool, KERNEL_PARAM_OPS_FL_NOARG, param_set_bool, param_get_bool);

/* It needs a value, in the kernel too. */
LINUX_MODULE_SET(invbool)
{
	bool value;
	const int rc = kstrtobool(val, &value);

	if (rc == 0)
		*(bool *)kp->arg = !value;
	return rc;
}

LINUX_MODULE_GET(invbool)
{
	return sprintf(buffer, "%c\n", *(bool *)kp->arg ? 'N' : 'Y');
}
LINUX_MODULE_OPS(param_ops_invbool, 0, param_set_invbool, param_get_invbool);

/* The value itself, which the library keeps for as long as the module is loaded. */
LINUX_MODULE_SET(charp)
{
	if (strlen(val) > 1024)
		return -ENOSPC;
	*(const char **)kp->arg = val;
	return 0;
}

LINUX_MODULE_GET(charp)
{
	return sprintf(buffer, "%s\n", *(const char **)kp->arg);
}
LINUX_MODULE_OPS(param_ops_charp, 0, param_set_charp, param_get_charp);

LINUX_MODULE_SET(copystring)
{
	const size_t length = strlen(val);

	if (length >= kp->str->maxlen)
		return -ENOSPC;
	memcpy(kp->str->string, val, length + 1);
	return 0;
}

LINUX_MODULE_GET(string)
{
	return sprintf(buffer, "%s\n", kp->str->string);
}
LINUX_MODULE_OPS(param_ops_string, 0, param_set_copystring, param_get_string);

LINUX_MODULE_SET(array)
{
	const struct kparam_array *array = kp->arr;
	struct kernel_param element = *kp;
	char *at = (char *)(uintptr_t)val;
	unsigned int count = 0;
	bool more;
	int rc;

	do {
		const size_t length = strcspn(at, ",");

		if (count == array->max)
			return -EINVAL;
		more = at[length];
		at[length] = '\0';
		element.arg = (char *)array->elem + (size_t)count * array->elemsize;
		rc = array->ops->set(at, &element);
		if (rc)
			return rc;
		at += length + 1;
		count++;
	} while (more);
	if (array->num)
		*array->num = count;
	return 0;
}

LINUX_MODULE_GET(array)
{
	const unsigned int count = kp->arr->num ? *kp->arr->num : kp->arr->max;
	struct kernel_param element = *kp;
	int length = 0;

	for (unsigned int i = 0; i < count; i++) {
		if (i)
			buffer[length - 1] = ',';
		element.arg = (char *)kp->arr->elem + (size_t)i * kp->arr->elemsize;
		length += kp->arr->ops->get(buffer + length, &element);
	}
	return length;
}
LINUX_MODULE_OPS(param_array_ops, 0, param_set_array, param_get_array);

/* ---- Declaring parameters ---- */

/* That the variable has the type: the compiler complains otherwise. A driver with a kind of its own
 * defines param_check_kind(name, p) and param_ops_kind. */
#define __param_check(name, p, type)                                                       \
	__attribute__((unused)) static inline type *__check_##name(void)                   \
	{                                                                                  \
		return (p);                                                                \
	}                                                                                  \
	struct linux_module_needs_a_semicolon
#define param_check_byte(name, p) __param_check(name, p, unsigned char)
#define param_check_short(name, p) __param_check(name, p, short)
#define param_check_ushort(name, p) __param_check(name, p, unsigned short)
#define param_check_int(name, p) __param_check(name, p, int)
#define param_check_uint(name, p) __param_check(name, p, unsigned int)
#define param_check_long(name, p) __param_check(name, p, long)
#define param_check_ulong(name, p) __param_check(name, p, unsigned long)
#define param_check_ullong(name, p) __param_check(name, p, unsigned long long)
#define param_check_hexint(name, p) __param_check(name, p, unsigned int)
#define param_check_charp(name, p) __param_check(name, p, char *)
#define param_check_bool(name, p) __param_check(name, p, bool)
#define param_check_invbool(name, p) __param_check(name, p, bool)
/* What bool is in C before C23, if a driver's own macro is around module_param(). */
#define param_check__Bool param_check_bool
#define param_ops__Bool param_ops_bool

/* Kept by a linker that leaves out what nobody refers to. */
#if defined(__has_attribute)
#if __has_attribute(retain)
#define LINUX_MODULE_KEPT __attribute__((used, retain))
#endif
#endif
#ifndef LINUX_MODULE_KEPT
#define LINUX_MODULE_KEPT __attribute__((used))
#endif

#define LINUX_MODULE_PARAM(name, ops, arg, perm)                                           \
	LINUX_MODULE_KEPT static const struct kernel_param __param_##name                  \
		__attribute__((section("__param"), aligned(sizeof(void *)))) = {           \
			#name, THIS_MODULE, ops, (unsigned short)(perm), -1, 0, { arg }    \
		}

#define LINUX_MODULE_ARRAY(name, array, check, ops, kind, nump, perm)                      \
	check(name, &(array)[0]);                                                          \
	static struct kparam_array __param_arr_##name = {                                  \
		sizeof(array) / sizeof((array)[0]), sizeof((array)[0]), nump, &(ops), array \
	};                                                                                 \
	LINUX_MODULE_PARAM(name, &param_array_ops, &__param_arr_##name, perm);             \
	MODULE_INFO(parmtype, #name ":array of " kind)

#define LINUX_MODULE_SCALAR(name, value, check, ops, kind, perm)                           \
	check(name, &(value));                                                             \
	LINUX_MODULE_PARAM(name, &(ops), &(value), perm);                                  \
	MODULE_INFO(parmtype, #name ":" kind)

/* module_param(name, type, perm): a parameter for module_load_args() to set: a variable of this name
 * and type: byte, short, ushort, int, uint, long, ulong, ullong, hexint, charp, bool or invbool. Also
 * module_param_named(name, value, type, perm), whose variable has another name;
 * module_param_array(name, type, nump, perm) and module_param_array_named(name, array, type, nump,
 * perm), whose length goes to *nump if that is not NULL; module_param_string(name, string, len,
 * perm), of at most len bytes with its NUL; module_param_cb(name, ops, arg, perm) and
 * module_param_call(name, set, get, arg, perm), by a function of the driver's.
 *
 * Linux: module_param() and the others, in <linux/moduleparam.h>. */
#define module_param(name, type, perm) \
	LINUX_MODULE_SCALAR(name, name, param_check_##type, param_ops_##type, #type, perm)
#define module_param_named(name, value, type, perm) \
	LINUX_MODULE_SCALAR(name, value, param_check_##type, param_ops_##type, #type, perm)
#define module_param_array(name, type, nump, perm)                                         \
	LINUX_MODULE_ARRAY(name, name, param_check_##type, param_ops_##type, #type, nump, perm)
#define module_param_array_named(name, array, type, nump, perm)                            \
	LINUX_MODULE_ARRAY(name, array, param_check_##type, param_ops_##type, #type, nump, perm)
#define module_param_string(name, string, len, perm)                                       \
	static struct kparam_string __param_string_##name = { len, string };               \
	LINUX_MODULE_PARAM(name, &param_ops_string, &__param_string_##name, perm);         \
	MODULE_INFO(parmtype, #name ":string")
#define module_param_cb(name, ops, arg, perm) LINUX_MODULE_PARAM(name, ops, arg, perm)
#define module_param_call(name, set, get, arg, perm)                                       \
	static const struct kernel_param_ops __param_ops_##name = { 0, set, get, NULL };   \
	LINUX_MODULE_PARAM(name, &__param_ops_##name, arg, perm)

/* MODULE_PARM_DESC(name, text): says in .modinfo what the parameter is for. Linux: MODULE_PARM_DESC(). */
#define MODULE_PARM_DESC(name, text) MODULE_INFO(parm, #name ":" text)

#ifdef __cplusplus
}  // extern "C"
#endif

#endif /* LINUX_MODULEPARAM_H */
