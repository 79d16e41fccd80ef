/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * The operations of one copy of the library.
 */
#include <module_ref.h>

struct copy {
	bool (*try_get)(struct module_ref *);
	void (*put)(struct module_ref *);
	int64_t (*count)(const struct module_ref *);
	int (*try_release)(struct module_ref *);
	int (*drain)(struct module_ref *, int64_t);
	int (*drain_begin)(struct module_ref *, struct module_ref_drain *, int64_t);
	int (*drain_finish)(struct module_ref_drain *);
	int (*drain_cancel)(struct module_ref_drain *);
	int (*reinit)(struct module_ref *);
	int (*init_percpu)(struct module_ref *);
	void (*destroy)(struct module_ref *);
	int (*put_at_thread_exit)(struct module_ref *);
};

#define COPY                                                                                      \
	{                                                                                         \
		module_ref_try_get, module_ref_put, module_ref_count, module_ref_try_release,     \
			module_ref_drain, module_ref_drain_begin, module_ref_drain_finish,        \
			module_ref_drain_cancel, module_ref_reinit, module_ref_init_percpu,       \
			module_ref_destroy, module_ref_put_at_thread_exit                         \
	}
