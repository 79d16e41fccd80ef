/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * linux_printk.h - printk() and its kin, on standard error: part of linux_module.h.
 */
#ifndef LINUX_PRINTK_H
#define LINUX_PRINTK_H

/* The macros leave out the comma behind a format that stands alone, as the kernel's do. gcc and
 * clang let them only in a system header when they are told to be pedantic. */
#pragma GCC system_header

#include <stdarg.h>
#include <stdio.h>

#define KERN_SOH "\001"
#define KERN_EMERG KERN_SOH "0"
#define KERN_ALERT KERN_SOH "1"
#define KERN_CRIT KERN_SOH "2"
#define KERN_ERR KERN_SOH "3"
#define KERN_WARNING KERN_SOH "4"
#define KERN_NOTICE KERN_SOH "5"
#define KERN_INFO KERN_SOH "6"
#define KERN_DEBUG KERN_SOH "7"
#define KERN_CONT KERN_SOH "c"
#define KERN_DEFAULT ""

#ifdef __cplusplus
extern "C" {
#endif

/* The level is left out, and the rest written at once, up to 1,023 bytes. */
int vprintk(const char *format, va_list args)
	__attribute__((weak, visibility("hidden"), format(printf, 1, 0)));
int printk(const char *format, ...)
	__attribute__((weak, visibility("hidden"), format(printf, 1, 2)));

int vprintk(const char *format, va_list args)
{
	char line[1024];
	int n;

	if (format[0] == KERN_SOH[0] && format[1])
		format += 2;
	n = vsnprintf(line, sizeof(line), format, args);
	if (n > 0)
		fwrite(line, 1, (size_t)n < sizeof(line) ? (size_t)n : sizeof(line) - 1, stderr);
	return n;
}

int printk(const char *format, ...)
{
	va_list args;
	int n;

	va_start(args, format);
	n = vprintk(format, args);
	va_end(args);
	return n;
}

#ifdef __cplusplus
}  // extern "C"
#endif

/* The kernel's build defines it as the module's name, by -DKBUILD_MODNAME='"driver"'. */
#ifndef KBUILD_MODNAME
#ifdef __FILE_NAME__
#define KBUILD_MODNAME __FILE_NAME__
#else
#define KBUILD_MODNAME __FILE__
#endif
#endif

/* A driver may define it before it includes this. */
#ifndef pr_fmt
#define pr_fmt(fmt) fmt
#endif

#define no_printk(fmt, ...) (0 ? printk(fmt, ##__VA_ARGS__) : 0)
#define pr_emerg(fmt, ...) printk(KERN_EMERG pr_fmt(fmt), ##__VA_ARGS__)
#define pr_alert(fmt, ...) printk(KERN_ALERT pr_fmt(fmt), ##__VA_ARGS__)
#define pr_crit(fmt, ...) printk(KERN_CRIT pr_fmt(fmt), ##__VA_ARGS__)
#define pr_err(fmt, ...) printk(KERN_ERR pr_fmt(fmt), ##__VA_ARGS__)
#define pr_warn(fmt, ...) printk(KERN_WARNING pr_fmt(fmt), ##__VA_ARGS__)
#define pr_warning pr_warn
#define pr_notice(fmt, ...) printk(KERN_NOTICE pr_fmt(fmt), ##__VA_ARGS__)
#define pr_info(fmt, ...) printk(KERN_INFO pr_fmt(fmt), ##__VA_ARGS__)
#define pr_cont(fmt, ...) printk(KERN_CONT fmt, ##__VA_ARGS__)

/* For who defines DEBUG; otherwise the arguments are checked, and nothing is done. */
#ifdef DEBUG
#define pr_debug(fmt, ...) printk(KERN_DEBUG pr_fmt(fmt), ##__VA_ARGS__)
#else
#define pr_debug(fmt, ...) no_printk(KERN_DEBUG pr_fmt(fmt), ##__VA_ARGS__)
#endif
#define pr_devel pr_debug

#define printk_once(fmt, ...)                                                              \
	__extension__({                                                                    \
		static bool linux_printk_said;                                             \
		__atomic_exchange_n(&linux_printk_said, true, __ATOMIC_RELAXED)            \
			? 0                                                                \
			: printk(fmt, ##__VA_ARGS__);                                      \
	})
#define pr_err_once(fmt, ...) printk_once(KERN_ERR pr_fmt(fmt), ##__VA_ARGS__)
#define pr_warn_once(fmt, ...) printk_once(KERN_WARNING pr_fmt(fmt), ##__VA_ARGS__)
#define pr_notice_once(fmt, ...) printk_once(KERN_NOTICE pr_fmt(fmt), ##__VA_ARGS__)
#define pr_info_once(fmt, ...) printk_once(KERN_INFO pr_fmt(fmt), ##__VA_ARGS__)

#endif /* LINUX_PRINTK_H */
