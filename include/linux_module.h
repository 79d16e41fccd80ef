/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * linux_module.h - the Linux kernel's names over module_ref.h, for driver-style code in
 * userspace: what <linux/module.h>, <linux/init.h>, <linux/moduleparam.h>, <linux/kmod.h>,
 * <linux/export.h>, <linux/printk.h> and the notifiers of <linux/notifier.h> offer to a driver and
 * to the subsystem that uses it.
 *
 * A driver is a shared object that a host loads with module_load(). It is compiled with
 * MODULE defined, as the kernel's build does:
 *
 *     cc -DMODULE -shared -fPIC -Iinclude driver.c -o driver.so
 *
 * An ordinary driver's own lines, #include <linux/module.h> and so on, find this by one more
 * -I: that of the folder module_ref/linux-compat beside this file, which
 * `pkg-config --variable=linux_compat module_ref` names.
 *
 * It finds the library's functions in the program that loads it, which is linked with
 * -lmodule_ref. If the program has the library in an archive, link the program with
 * -rdynamic; a plugin of Python, or a driver linked with -Wl,-z,defs, wants -lmodule_ref of
 * its own. Several files make one driver, if each is compiled with MODULE. Code without MODULE
 * is "built in": the program, and drivers that are linked into it.
 *
 * try_module_get(), module_put(), delete_module() and the others mean here what they mean in
 * the kernel. What differs:
 *
 * - THIS_MODULE is a constant, as in the kernel, so that ".owner = THIS_MODULE" can stand in a
 *   static initialiser. It is not the pointer that module_find_get() gives for the same module,
 *   though every function takes either. It stands for NULL until the host has filled it in,
 *   before init_module(): in constructors, and where the object was not loaded by a host.
 * - A pointer to a module is valid while its owner has a reference or a handle, as module_ref.h
 *   says; in the kernel the module's own memory ends with it. try_module_get() on a pointer
 *   that a handle keeps is false for ever once the module is unloaded, and needs no lock.
 * - There is no module_mutex. What find_module() returns is good until the thread has called it
 *   eight times more; module_find_get() returns it with a reference.
 * - THIS_MODULE->name is a pointer, not an array; "" in constructors.
 * - delete_module() is no system call, but returns as one: 0, or -1 with errno. It waits if it
 *   is not told not to, as Linux did before 3.13. By force it unmaps no code under a holder.
 * - module_refcount() returns int64_t.
 * - A module's own code must not put the module's last reference, as in the kernel. Whoever calls a
 *   driver's functions holds a reference meanwhile, and a thread of the driver ends with
 *   module_put_and_kthread_exit().
 * - Every function may be called from any thread. The counting ones (try_module_get(),
 *   __module_get(), module_put(), module_refcount(), module_is_live()) and within_module() are also
 *   async-signal-safe, which is what interrupt context is in the kernel; the others take locks.
 * - A notifier cannot keep others from being told, except by refusing a module that is coming.
 * - What init and exit functions occupy is not given back after use: __init and __exit are
 *   empty. MODULE_LICENSE() and EXPORT_SYMBOL_GPL() mean nothing to the host.
 * - Parameters are set by module_load_args() alone. request_module() looks where
 *   module_host_search() says, and runs no program.
 * - printk() writes to standard error.
 * - There is no other part of the kernel.
 *
 * Documented in module_ref.h: module_put(), module_refcount(), module_name(), enum
 * module_state. For C11, C++11 and later, by gcc and clang, on ELF systems.
 */
#ifndef LINUX_MODULE_H
#define LINUX_MODULE_H

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h> /* has a member called __init, which is a macro below */

#include "linux_printk.h"
#include "module_ref.h"

#ifdef __cplusplus
extern "C" {
#endif

/* ---- The module that this code belongs to ---- */

/* THIS_MODULE: the module that this code is in, or NULL (which try_module_get() takes for a
 * module that is always there) in code that is built in. Linux: THIS_MODULE. */

/* What others see of a module: by a pointer to one they can also read its name. */
struct module {
	uint64_t linux_module_private[2];
	const char *name;
};

/* The host looks for __this_module and writes the module's address to its beginning.
 * THIS_MODULE is a place 8 bytes into that, at which no struct module can be: the library's
 * functions know it by that, and look up what was written. The host finds the place for the name by
 * the second name of the same object, __this_linux_module.
 *
 * Every file of a driver defines __this_module weakly, and the linker keeps one for the object.
 * The driver uses it by a hidden name for the same place, because the exported one could be
 * bound to another definition that the program or a preloaded library has. (Visibility
 * "protected" would do the same in one name; the linkers of binutils before 2.39 refuse what
 * clang makes of that.) It is exported even with -fvisibility=hidden. A version script must not
 * make it local. */
#ifdef MODULE
struct linux_this_module {
	union {
		struct module *module;
		uint64_t room;
	};
	struct module self; /* zero, which is what the fast path of a get and a put looks at */
} __attribute__((aligned(16)));

extern struct linux_this_module __this_module __attribute__((weak, visibility("default")));
struct linux_this_module __this_module = { { 0 }, { { 0, 0 }, "" } };
extern struct linux_this_module __this_linux_module
	__attribute__((weak, alias("__this_module"), visibility("default")));
extern struct linux_this_module linux_this_module
	__attribute__((weak, alias("__this_module"), visibility("hidden")));
#define THIS_MODULE (&linux_this_module.self)
#else
#define THIS_MODULE ((struct module *)0)
#endif

/* LINUX_MODULE_HOST: the host that the functions without a host argument mean: for a driver the
 * one that has loaded it, for other code the process's own. Define it before including this
 * header to have another; it is an expression, evaluated at each use. */
#ifndef LINUX_MODULE_HOST
#ifdef MODULE
#define LINUX_MODULE_HOST module_host_of(THIS_MODULE)
#else
#define LINUX_MODULE_HOST module_host_default()
#endif
#endif

/* ---- References ---- */

/**
 * Takes a reference, unless the module is being unloaded or is gone.
 *
 * @return whether there is now a reference for module_put(); true for NULL.
 *
 * Memory ordering, and everything else: as module_try_get(). Thread-safe.
 * Async-signal-safe. Linux: try_module_get().
 */
static inline bool try_module_get(struct module *module)
{
	return module_try_get(module);
}

/**
 * Takes one more reference; the caller holds one. As module_get(): on a module that is gone
 * the misuse handler is told, where the kernel goes on counting.
 *
 * Thread-safe. Async-signal-safe. Linux: __module_get().
 */
static inline void __module_get(struct module *module)
{
	module_get(module);
}

/**
 * Whether the module is not being unloaded. For people and logs: that may change before this
 * returns, and try_module_get() is what to go by. true for NULL.
 *
 * Thread-safe. Async-signal-safe. Linux: module_is_live().
 */
static inline bool module_is_live(const struct module *module)
{
	return module_state(module) != MODULE_STATE_GOING;
}

/**
 * Finds the module of this name in LINUX_MODULE_HOST, without a reference: see module_find(), whose
 * pointer this is. (For a driver itself it is another one than THIS_MODULE.)
 *
 * Thread-safe. Linux: find_module(), for which a caller has module_mutex or is in an RCU reader.
 */
static inline struct module *find_module(const char *name)
{
	return module_find(LINUX_MODULE_HOST, name);
}

/**
 * Whether an address is in the module's code or data. Nothing is given back after init, so
 * within_module_init() is never true.
 *
 * Thread-safe. Async-signal-safe. Linux: within_module().
 */
static inline bool within_module(unsigned long addr, const struct module *mod)
{
	return module_within(mod, (const void *)addr);
}

#define within_module_core(addr, mod) within_module(addr, mod)
#define within_module_init(addr, mod) ((void)(addr), (void)(mod), false)

/**
 * Makes a depend on b until a is unloaded. The caller has a handle or a reference to both.
 *
 * @return as module_add_dependency(): 0, even if it does already; -EDEADLK for a cycle, which
 * the kernel does not look for; -ENOENT, -EXDEV, -EINVAL.
 *
 * Thread-safe. Linux: ref_module().
 */
static inline int ref_module(struct module *a, struct module *b)
{
	return module_add_dependency(a, b);
}

/**
 * Ends the calling thread with this code (a long, pthread_join(3)'s result), and gives back a
 * reference to THIS_MODULE, which the thread holds, once no code of the module can run in it.
 * As module_put_and_exit(). Does not return.
 *
 * Linux: module_put_and_kthread_exit(), and module_put_and_exit() before 5.17.
 */
#define module_put_and_kthread_exit(code) \
	module_put_and_exit(THIS_MODULE, (void *)(intptr_t)(code))

/* ---- Loading ---- */

/**
 * Loads the module of this name, which is formatted as by printf(3): module_request() in
 * LINUX_MODULE_HOST.
 *
 * @return 0 if it is there; or a negative errno, such as -ENAMETOOLONG. (The kernel also returns modprobe's
 * exit status, which is positive.)
 *
 * Thread-safe. Linux: request_module().
 */
#define request_module(...) linux_request_module(LINUX_MODULE_HOST, __VA_ARGS__)

/* Static, so that a driver that requests nothing needs nothing of the library. */
static inline int linux_request_module(struct module_host *host, const char *format, ...)
	__attribute__((format(printf, 2, 3)));

static inline int linux_request_module(struct module_host *host, const char *format, ...)
{
	char name[MODULE_NAME_LEN];
	va_list args;
	int n;

	va_start(args, format);
	n = vsnprintf(name, sizeof(name), format, args);
	va_end(args);
	return n < 0 || n >= MODULE_NAME_LEN ? -ENAMETOOLONG : module_request(host, name);
}

/**
 * x, or if that is 0 or NULL, what x is once a module was requested.
 *
 * Linux: try_then_request_module().
 */
#define try_then_request_module(x, ...)                                                    \
	__extension__({                                                                    \
		__typeof__(x) linux_module_tried = (x);                                    \
		if (!linux_module_tried) {                                                 \
			request_module(__VA_ARGS__);                                       \
			linux_module_tried = (x);                                          \
		}                                                                          \
		linux_module_tried;                                                        \
	})

/* ---- Symbols ---- */

#define LINUX_MODULE_STRING_(x) #x
#define LINUX_MODULE_STRING(x) LINUX_MODULE_STRING_(x)
#define __stringify(x) LINUX_MODULE_STRING(x)

/**
 * The address of symbol x, which is declared, in whichever live module of LINUX_MODULE_HOST
 * defines and exports it, with a reference on that module. Nothing is linked with the
 * symbol.
 *
 * @return a pointer of the type of &x; NULL if there is none.
 *
 * Thread-safe. Linux: symbol_get().
 */
#define symbol_get(x)                                                                      \
	(__extension__(__typeof__(&(x)))                                                   \
		 module_symbol_get(LINUX_MODULE_HOST, LINUX_MODULE_STRING(x)))

/**
 * As symbol_get(x); if there is none, a module that defines x is requested first.
 *
 * Thread-safe. Linux: symbol_request().
 */
#define symbol_request(x) try_then_request_module(symbol_get(x), "symbol:" #x)

/* Linux: __symbol_get(), __symbol_put(). */
#define __symbol_get(name) module_symbol_get(LINUX_MODULE_HOST, name)
#define __symbol_put(name) module_symbol_put(LINUX_MODULE_HOST, name)

/**
 * Gives back what symbol_get(x) has returned.
 *
 * @return 0; -EINVAL if it was not given out, or was given back. (The kernel returns
 * nothing, and stops.)
 *
 * Thread-safe. Linux: symbol_put().
 */
#define symbol_put(x) module_symbol_put(LINUX_MODULE_HOST, LINUX_MODULE_STRING(x))

/**
 * Gives back what symbol_get() has returned, by an address in the module: a pointer to an
 * object or to a function.
 *
 * @return as symbol_put().
 *
 * Thread-safe. Linux: symbol_put_addr().
 */
#define symbol_put_addr(addr) \
	module_symbol_put_addr(LINUX_MODULE_HOST, __extension__(const void *)(addr))

/**
 * Lets symbol_get(), module_symbol() and modules that are linked against this one find sym,
 * even with -fvisibility=hidden. Without that option every symbol that is not static
 * is found.
 *
 * clang takes no attribute after a definition: where -fvisibility=hidden is used with
 * it, put EXPORT_SYMBOL() ahead of the definition, after a declaration.
 *
 * Linux: EXPORT_SYMBOL(), EXPORT_SYMBOL_GPL().
 */
#ifdef __clang__
#define EXPORT_SYMBOL(sym)                                                                 \
	_Pragma("clang diagnostic push")                                                   \
	_Pragma("clang diagnostic ignored \"-Wignored-attributes\"")                       \
	extern __typeof__(sym) sym __attribute__((visibility("default")));                 \
	_Pragma("clang diagnostic pop")                                                    \
	extern __typeof__(sym) sym
#else
#define EXPORT_SYMBOL(sym) extern __typeof__(sym) sym __attribute__((visibility("default")))
#endif
#define EXPORT_SYMBOL_GPL(sym) EXPORT_SYMBOL(sym)
/* Namespaces mean nothing to the host, as licences. */
#define EXPORT_SYMBOL_NS(sym, ns) EXPORT_SYMBOL(sym)
#define EXPORT_SYMBOL_NS_GPL(sym, ns) EXPORT_SYMBOL(sym)

/* ---- Notifiers ---- */

/* What a notifier returns. Linux: <linux/notifier.h>. */
#define NOTIFY_DONE 0x0000      /* not interested */
#define NOTIFY_OK 0x0001        /* fine */
#define NOTIFY_STOP_MASK 0x8000 /* in the kernel: tell nobody else */
#define NOTIFY_BAD (NOTIFY_STOP_MASK | 0x0002)
#define NOTIFY_STOP (NOTIFY_OK | NOTIFY_STOP_MASK)

struct notifier_block;

/**
 * A notifier: it is told by action, an enum module_state, that a module (data, a struct module
 * *) is COMING, LIVE or GOING.
 *
 * NOTIFY_BAD, and what notifier_from_errno() makes of an errno, refuse a module that is
 * COMING: its load fails with -EPERM, or that errno, and the notifiers that were told before are
 * told that it is GOING. Every other value lets it pass, and the notifiers after this one are
 * told too, even after NOTIFY_STOP.
 *
 * Linux: notifier_fn_t.
 */
typedef int (*notifier_fn_t)(struct notifier_block *nb, unsigned long action, void *data);

/**
 * A notifier in its chain. It stays where it is, unchanged, until it is unregistered.
 *
 * Linux: struct notifier_block.
 */
struct notifier_block {
	notifier_fn_t notifier_call;
	/* Not used here. In the kernel, the chain's. */
	struct notifier_block *next;
	/* Higher ones are called first. */
	int priority;
};

/**
 * What a notifier returns to refuse with err, 0 or a negative errno. Linux:
 * notifier_from_errno().
 */
static inline int notifier_from_errno(int err)
{
	return err ? NOTIFY_STOP_MASK | (NOTIFY_OK - err) : NOTIFY_OK;
}

/**
 * What a notifier's result means: 0, or a negative errno. Linux: notifier_to_errno().
 */
static inline int notifier_to_errno(int ret)
{
	ret &= ~NOTIFY_STOP_MASK;
	return ret > NOTIFY_OK ? NOTIFY_OK - ret : 0;
}

/* How the library calls a notifier_block. One for each object, not for each file, so that a
 * notifier can be registered in one file and unregistered in another. Private. */
int linux_module_notify(struct module *module, enum module_state state, void *nb)
	__attribute__((weak, visibility("hidden")));

int linux_module_notify(struct module *module, enum module_state state, void *nb)
{
	struct notifier_block *block = (struct notifier_block *)nb;

#ifdef MODULE
	if (module == linux_this_module.module)
		module = THIS_MODULE; /* so that a driver knows itself */
#endif
	return notifier_to_errno(block->notifier_call(block, (unsigned long)state, module));
}

/**
 * Has nb->notifier_call called for every module of LINUX_MODULE_HOST that comes, is live, or
 * goes; in the order of nb->priority as it is now, and among equal ones in that of
 * registration. A driver that registers one unregisters it in its exit function.
 *
 * @return 0; -EEXIST if it is registered already; -EINVAL if there is no host, or nb or its
 * function is NULL.
 *
 * Thread-safe. Linux: register_module_notifier().
 */
static inline int register_module_notifier(struct notifier_block *nb)
{
	if (!nb || !nb->notifier_call)
		return -EINVAL;
	return module_notifier_register(LINUX_MODULE_HOST, linux_module_notify, nb, nb->priority);
}

/**
 * Takes a notifier back: when this returns no other thread is in it, and none will be. May be
 * called from the notifier itself, which would wait for itself in the kernel.
 *
 * @return 0; -ENOENT if it is not registered; -EINVAL if there is no host.
 *
 * Thread-safe. Linux: unregister_module_notifier().
 */
static inline int unregister_module_notifier(struct notifier_block *nb)
{
	return module_notifier_unregister(LINUX_MODULE_HOST, linux_module_notify, nb);
}

/* ---- Unloading ---- */

/**
 * Unloads the module of this name from LINUX_MODULE_HOST, as delete_module(2).
 *
 * @param flags from <fcntl.h>:
 *   0           waits until nobody holds a reference, however long that takes; nobody gets a
 *               new one meanwhile. Linux did so before 3.13, and its manual page still says so;
 *               since then Linux does not wait, as with O_NONBLOCK.
 *   O_NONBLOCK  does not wait, and does not keep others from getting references.
 *   O_TRUNC     by force, at once, with O_NONBLOCK or without: even if it is held, or has an
 *               init and no exit function. The exit function runs, the host is tainted, and
 *               the code stays mapped until the last reference is put; Linux frees it under its
 *               holders.
 *
 * The caller holds no reference to the module (without O_NONBLOCK it would wait for itself), and
 * is not code of the module.
 *
 * @return 0 if it is unloaded, even if its code stays mapped (module_unload() tells these
 * apart, and module_host_last_unloaded() says why); or -1, the module as it was, and in errno,
 * checked in this order: EINVAL for other flags, which Linux ignores; EFAULT if name is NULL;
 * EINVAL if there is no host; ENOENT if there is no such module; EWOULDBLOCK if other modules
 * depend on it; EBUSY if it is not live, or has an init and no exit function; EWOULDBLOCK if
 * references are held; the errno of membarrier(2) if that is refused. In words:
 * module_last_error().
 *
 * Thread-safe. Linux: delete_module(2). (The C library exports a function of this name, the
 * system call. This is another.)
 */
static inline int linux_delete_module(const char *name, unsigned int flags)
{
	const bool force = flags & (unsigned int)O_TRUNC;
	const bool wait = !(flags & (unsigned int)(O_NONBLOCK | O_TRUNC));
	int rc;

	if (flags & ~(unsigned int)(O_NONBLOCK | O_TRUNC))
		rc = -EINVAL;
	else if (!name)
		rc = -EFAULT;
	else
		rc = module_unload(LINUX_MODULE_HOST, name, force ? MODULE_UNLOAD_FORCE : 0,
				   wait ? -1 : 0);
	if (rc >= 0)
		return 0;
	errno = -rc;
	return -1;
}

#define delete_module(name, flags) linux_delete_module(name, flags)

/* ---- Beginning and end ---- */

/* module_init(fn), module_exit(fn): The init function is int fn(void): it returns 0, or a
 * negative errno, which fails the load. The exit function is void fn(void); a module with
 * the first and without the second cannot be unloaded but by force. Once for each driver, at
 * file scope, after the definition of fn, which may be static. A driver that defines
 * init_module() and cleanup_module() itself needs neither.
 *
 * In a driver, core_initcall() and its kin are module_init().
 *
 * In code that is built in, fn is called before main(), as a constructor, and what it returns is
 * ignored, as it is in the kernel; the exit function is never called. In C those of core_initcall()
 * come before those of subsys_initcall(), and so on, whatever object file they are in; module_init()
 * is device_initcall(). Object files in an
 * archive come into a program only if something in it refers to them.
 *
 * Linux: module_init(), module_exit(). */
#ifdef MODULE

int init_module(void) __attribute__((visibility("default")));
void cleanup_module(void) __attribute__((visibility("default")));

#define module_init(fn)                                                                    \
	int init_module(void)                                                              \
	{                                                                                  \
		int (*const linux_module_init)(void) = (fn);                               \
		return linux_module_init();                                                \
	}                                                                                  \
	int init_module(void)

#define module_exit(fn)                                                                    \
	void cleanup_module(void)                                                          \
	{                                                                                  \
		void (*const linux_module_exit)(void) = (fn);                              \
		linux_module_exit();                                                       \
	}                                                                                  \
	void cleanup_module(void)

#else

/* Constructors without a number, which the objects of C++ have, come last. */
#ifdef __cplusplus
#define LINUX_MODULE_INITCALL(fn, level) LINUX_MODULE_CONSTRUCTOR(fn, constructor)
#else
#define LINUX_MODULE_INITCALL(fn, level) LINUX_MODULE_CONSTRUCTOR(fn, constructor(65000 + (level)))
#endif
#define LINUX_MODULE_CONSTRUCTOR(fn, attribute)                                            \
	__attribute__((attribute)) static void linux_module_initcall_##fn(void)            \
	{                                                                                  \
		int (*const linux_module_init)(void) = (fn);                               \
		(void)linux_module_init();                                                 \
	}                                                                                  \
	struct linux_module_needs_a_semicolon

#define module_init(fn) device_initcall(fn)

#define module_exit(fn) \
	__attribute__((unused)) static void (*const linux_module_exitcall_##fn)(void) = (fn)

#endif

#ifdef MODULE
#define LINUX_MODULE_INITCALL(fn, level) module_init(fn)
#endif
#define early_initcall(fn) LINUX_MODULE_INITCALL(fn, 0)
#define pure_initcall(fn) LINUX_MODULE_INITCALL(fn, 1)
#define core_initcall(fn) LINUX_MODULE_INITCALL(fn, 2)
#define core_initcall_sync(fn) LINUX_MODULE_INITCALL(fn, 3)
#define postcore_initcall(fn) LINUX_MODULE_INITCALL(fn, 4)
#define postcore_initcall_sync(fn) LINUX_MODULE_INITCALL(fn, 5)
#define arch_initcall(fn) LINUX_MODULE_INITCALL(fn, 6)
#define arch_initcall_sync(fn) LINUX_MODULE_INITCALL(fn, 7)
#define subsys_initcall(fn) LINUX_MODULE_INITCALL(fn, 8)
#define subsys_initcall_sync(fn) LINUX_MODULE_INITCALL(fn, 9)
#define fs_initcall(fn) LINUX_MODULE_INITCALL(fn, 10)
#define fs_initcall_sync(fn) LINUX_MODULE_INITCALL(fn, 11)
#define rootfs_initcall(fn) LINUX_MODULE_INITCALL(fn, 12)
#define device_initcall(fn) LINUX_MODULE_INITCALL(fn, 13)
#define device_initcall_sync(fn) LINUX_MODULE_INITCALL(fn, 14)
#define late_initcall(fn) LINUX_MODULE_INITCALL(fn, 15)
#define late_initcall_sync(fn) LINUX_MODULE_INITCALL(fn, 16)
#define __initcall(fn) device_initcall(fn)
#define __exitcall(fn) module_exit(fn)

/* Where the kernel puts what is needed at the beginning or at the end only. Nothing here. Not
 * for C++, whose standard library has variables of these names. Linux: <linux/init.h>. */
#ifndef __cplusplus
#define __init
#define __exit
#define __initdata
#define __initconst
#define __exitdata
#define __init_or_module
#define __initdata_or_module
#define __initconst_or_module
#define __refdata
#define __ref
#define __ro_after_init
#define __read_mostly
#endif

/* The exit function for a structure, or NULL where it will not be called. Linux: __exit_p(). */
#ifdef MODULE
#define __exit_p(fn) fn
#else
#define __exit_p(fn) NULL
#endif

/* ---- About a module ---- */

#define LINUX_MODULE_PASTE_(a, b) a##b
#define LINUX_MODULE_PASTE(a, b) LINUX_MODULE_PASTE_(a, b)

/* clang since 22 counts __COUNTER__ as an extension that -Wpedantic warns of. (__LINE__ would be the
 * same twice on a line, and in two headers.) */
#if defined(__clang__) && __clang_major__ >= 22
#define LINUX_MODULE_COUNTING                                                              \
	_Pragma("clang diagnostic push")                                                   \
	_Pragma("clang diagnostic ignored \"-Wc2y-extensions\"")
#define LINUX_MODULE_COUNTED                                                               \
	;                                                                                  \
	_Pragma("clang diagnostic pop") struct linux_module_needs_a_semicolon
#else
#define LINUX_MODULE_COUNTING
#define LINUX_MODULE_COUNTED
#endif

/**
 * Puts "tag=info" with its NUL in the object's section .modinfo, as the kernel does; tag is a
 * word and info a string literal. For people and tools; no function of the library reads it:
 *
 *     readelf -p .modinfo driver.so
 *
 * A driver that is linked with -Wl,--gc-sections loses it. MODULE_LICENSE(), MODULE_AUTHOR(),
 * MODULE_DESCRIPTION(), MODULE_VERSION(), MODULE_ALIAS(), MODULE_SOFTDEP() and
 * MODULE_FIRMWARE() take the info alone, and have the tag in their name.
 *
 * Linux: MODULE_INFO(), and the others, in <linux/module.h>.
 */
#define MODULE_INFO(tag, info)                                                             \
	LINUX_MODULE_COUNTING                                                              \
	__attribute__((section(".modinfo"), used, aligned(1))) static const char           \
	LINUX_MODULE_PASTE(linux_module_info_##tag##_, __COUNTER__)[] = #tag "=" info      \
		LINUX_MODULE_COUNTED

#define MODULE_LICENSE(info) MODULE_INFO(license, info)
#define MODULE_AUTHOR(info) MODULE_INFO(author, info)
#define MODULE_DESCRIPTION(info) MODULE_INFO(description, info)
#define MODULE_VERSION(info) MODULE_INFO(version, info)
#define MODULE_ALIAS(info) MODULE_INFO(alias, info)
#define MODULE_SOFTDEP(info) MODULE_INFO(softdep, info)
#define MODULE_FIRMWARE(info) MODULE_INFO(firmware, info)
#define MODULE_IMPORT_NS(ns) MODULE_INFO(import_ns, LINUX_MODULE_STRING(ns))

/**
 * Says which devices a driver is for. Nobody looks for devices here.
 *
 * Linux: MODULE_DEVICE_TABLE().
 */
#define MODULE_DEVICE_TABLE(type, name)                                                    \
	__attribute__((unused)) static const void *const                                   \
		linux_module_device_table_##type##_##name = (name)

/* ---- Of <linux/kernel.h>, what module code has most often ---- */

#ifndef ARRAY_SIZE
#define ARRAY_SIZE(array) (sizeof(array) / sizeof((array)[0]))
#endif
#ifndef container_of
#define container_of(pointer, type, member) \
	((type *)(void *)((char *)(pointer)-offsetof(type, member)))
#endif

#ifdef __cplusplus
}  // extern "C"
#endif

#include "linux_moduleparam.h"

#endif /* LINUX_MODULE_H */
