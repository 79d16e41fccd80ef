// SPDX-License-Identifier: MIT OR Apache-2.0

// A host in Go, by cgo: goroutines call into a plugin until it is unloaded. With the library installed:
//
//	cc -shared -fPIC -o plugin.so ../rust-host/plugin.c
//	go run host.go ./plugin.so
package main

/*
#cgo LDFLAGS: -lmodule_ref
#include <module_ref.h>

static int64_t call(void *step, int64_t number) { return ((int64_t (*)(int64_t))step)(number); }
*/
import "C"

import (
	"fmt"
	"log"
	"os"
	"runtime"
	"sync"
)

func check(rc C.int) {
	if rc != 0 {
		log.Fatal(C.GoString(C.module_last_error()))
	}
}

func main() {
	runtime.LockOSThread() // module_last_error() is the calling thread's
	host, name, step := C.module_host_new(), C.CString("plugin"), C.CString("step")
	var used, done sync.WaitGroup

	check(C.module_load(host, C.CString(os.Args[1]), name, nil))
	for i := 0; i < 4; i++ {
		used.Add(1)
		done.Add(1)
		go func() {
			defer done.Done()
			// A reference may be given back by another thread, so a goroutine may change its own.
			for calls := 1; ; calls++ {
				plugin := C.module_find_get(host, name)
				if plugin == nil {
					return // the unload has begun
				}
				if C.call(C.module_symbol(plugin, step), 21) != 42 {
					log.Fatal("a wrong answer")
				}
				C.module_put(plugin)
				if calls == 1000 {
					used.Done()
				}
			}
		}()
	}
	used.Wait()
	check(C.module_unload(host, name, 0, -1))
	done.Wait()
	check(C.module_host_free(host))
	fmt.Println("unloaded while 4 goroutines called")
}
