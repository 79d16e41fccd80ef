// SPDX-License-Identifier: MIT OR Apache-2.0

// A host in D: threads call into a plugin until it is unloaded. With the library installed:
//
//     cc -shared -fPIC -o plugin.so ../rust-host/plugin.c
//     gdc -o host host.d -lmodule_ref && ./host ./plugin.so
import core.sync.semaphore;
import core.stdc.stdlib : abort;
import core.thread;
import std.exception : enforce;
import std.stdio : writeln;
import std.string : fromStringz, toStringz;

// Of module_ref.h.
struct Host;
struct Module;
extern (C) nothrow @nogc
{
    Host* module_host_new();
    int module_host_free(Host*);
    int module_load(Host*, const char* path, const char* name, Module** handle);
    int module_unload(Host*, const char* name, uint flags, long timeout);
    Module* module_find_get(Host*, const char* name);
    void module_put(Module*);
    void* module_symbol(Module*, const char* name);
    const(char)* module_last_error();
}
// Of the plugin.
alias Step = extern (C) long function(long);

void check(int rc)
{
    enforce(rc == 0, module_last_error().fromStringz);
}

void main(string[] args)
{
    auto host = module_host_new();
    auto used = new Semaphore;

    check(module_load(host, args[1].toStringz, "plugin", null));
    void work()
    {
        for (auto calls = 1;; calls++)
        {
            auto plugin = module_find_get(host, "plugin");
            if (plugin is null)
                return; // the unload has begun
            scope (exit) module_put(plugin);
            if ((cast(Step) module_symbol(plugin, "step"))(21) != 42)
                abort();
            if (calls == 1000)
                used.notify();
        }
    }
    Thread[] threads;
    foreach (i; 0 .. 4)
        threads ~= new Thread(&work).start();
    foreach (i; 0 .. 4)
        used.wait();
    check(module_unload(host, "plugin", 0, -1));
    foreach (thread; threads)
        thread.join();
    check(module_host_free(host));
    writeln("unloaded while 4 threads called");
}
