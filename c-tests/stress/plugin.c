/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * plugin.c - real shared objects, opened and closed for real.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <link.h>
#include <string.h>

#include "../plugins/sample.h"
#include "stress.h"

/* A function of this very object: dlsym() also looks into what the object needs,
 * and the C library exports an init_module(), the system call.
 *
 * dlsym() gives a data pointer, ISO C wants a function's: same bits, by POSIX. */
static void (*own_function(void *handle, const char *symbol))(void)
{
	void *address = dlsym(handle, symbol);
	void (*entry)(void);
	struct link_map *object, *found;
	Dl_info info;

	if (!address || dlinfo(handle, RTLD_DI_LINKMAP, &object) != 0 ||
	    !dladdr1(address, &info, (void **)&found, RTLD_DL_LINKMAP) || found != object)
		address = NULL;
	memcpy(&entry, &address, sizeof(entry));
	return entry;
}

/* ---- the functions we know ----------------------------------------------- */

static bool call_sample(const struct plugin *plugin, uint64_t random)
{
	uint32_t x = (uint32_t)random, expected = x;

	for (int round = 0; round < SAMPLE_ROUNDS; round++)
		expected = expected * UINT32_C(1664525) + sample_entry(expected >> 24);
	return ((uint32_t(*)(uint32_t))plugin->entry)(x) == expected;
}

static bool call_crc32(const struct plugin *plugin, uint64_t random)
{
	return ((unsigned long (*)(unsigned long, const unsigned char *, unsigned))plugin->entry)(
		       0, (const unsigned char *)"123456789", 9) == 0xCBF43926UL;
}

static bool call_unknown(const struct plugin *plugin, uint64_t random)
{
	return ((long (*)(void))plugin->entry)() == plugin->first_answer;
}

static bool is_sample(const struct plugin *plugin)
{
	return strcmp(plugin->symbol, "sample_answer") == 0 ||
	       strcmp(plugin->symbol, "relay_answer") == 0;
}

void plugin_first_answer(struct plugin *plugin)
{
	if (!is_sample(plugin) && strcmp(plugin->symbol, "crc32") != 0)
		plugin->first_answer = ((long (*)(void))plugin->entry)();
}

bool plugin_call(const struct plugin *plugin, uint64_t random)
{
	if (is_sample(plugin))
		return call_sample(plugin, random);
	if (strcmp(plugin->symbol, "crc32") == 0)
		return call_crc32(plugin, random);
	return call_unknown(plugin, random);
}

/* ---- where it is ------------------------------------------------------------ */

static int find_range(struct dl_phdr_info *info, size_t size, void *data)
{
	struct plugin *plugin = data;
	uintptr_t entry, begin, end;

	memcpy(&entry, &plugin->entry, sizeof(entry));
	for (int i = 0; i < info->dlpi_phnum; i++) {
		begin = info->dlpi_addr + info->dlpi_phdr[i].p_vaddr;
		end = begin + info->dlpi_phdr[i].p_memsz;
		if (info->dlpi_phdr[i].p_type == PT_LOAD && entry >= begin && entry < end) {
			plugin->begin = (const char *)begin;
			plugin->end = (const char *)end;
			return 1;
		}
	}
	return 0;
}

/* ---- open and close ------------------------------------------------------- */

int plugin_open(struct plugin *plugin)
{
	bool first = plugin->entry == NULL;
	int (*init)(void);

	plugin->handle = dlopen(plugin->file, RTLD_NOW | RTLD_LOCAL);
	if (!plugin->handle) {
		fprintf(stderr, "cannot load the plugin '%s': %s\n", plugin->file, dlerror());
		return -1;
	}
	plugin->entry = own_function(plugin->handle, plugin->symbol);
	if (!plugin->entry) {
		fprintf(stderr, "the plugin '%s' has no function '%s' of its own\n", plugin->file,
			plugin->symbol);
		dlclose(plugin->handle);
		return -1;
	}
	dl_iterate_phdr(find_range, plugin);
	plugin->cleanup = own_function(plugin->handle, "cleanup_module");
	init = (int (*)(void))own_function(plugin->handle, "init_module");
	if (init && init() < 0) {
		fprintf(stderr, "init_module() of the plugin '%s' failed\n", plugin->file);
		dlclose(plugin->handle);
		return -1;
	}
	if (first)
		plugin_first_answer(plugin);
	return 0;
}

int plugin_close(struct plugin *plugin)
{
	void *left;

	if (plugin->cleanup)
		plugin->cleanup();
	if (dlclose(plugin->handle) != 0) {
		fprintf(stderr, "cannot close the plugin '%s': %s\n", plugin->file, dlerror());
		return -1;
	}
	left = dlopen(plugin->file, RTLD_NOW | RTLD_NOLOAD);
	if (left) {
		dlclose(left);
		fprintf(stderr,
			"the plugin '%s' stays mapped after dlclose(), so that unloading it would\n"
			"prove nothing: another library in this process uses it, or it is marked\n"
			"NODELETE; name another one with --plugin\n",
			plugin->file);
		return -1;
	}
	return 0;
}
