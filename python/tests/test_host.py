"""The module host from Python: real shared objects that come, are called, and go."""

import contextlib
import ctypes
import errno
import gc
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import threading
import time
import weakref

import module_ref as mr
import pytest
from oracle import expected_mode

SAMPLE = """
int count = 40;
const char *text = "some text";
extern int not_there __attribute__((weak));
int answer(void) { return ANSWER; }
int add(int a, int b) { return a + b; }
long long wide(long long x) { return x; }
int call_back(int (*f)(void)) { return f(); }
"""

HOOKED = """
#include <stdlib.h>
#include <stdio.h>
static void note(const char *what) {
    const char *path = getenv("MODULE_REF_NOTES");
    FILE *notes = path ? fopen(path, "a") : NULL;
    if (notes) { fputs(what, notes); fclose(notes); }
}
void *__this_module;
int init_module(void) { note("init "); return INIT; }
#ifndef PERMANENT
void cleanup_module(void) { note("exit "); }
#endif
int answer(void) { return 42; }
"""

SLOW = """
#include <pthread.h>
int inside;
static int leave;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
static void set(int *flag) {
    pthread_mutex_lock(&lock);
    *flag = 1;
    pthread_cond_broadcast(&changed);
    pthread_mutex_unlock(&lock);
}
static void wait_for(int *flag) {
    pthread_mutex_lock(&lock);
    while (!*flag) pthread_cond_wait(&changed, &lock);
    pthread_mutex_unlock(&lock);
}
int stay(void) { set(&inside); wait_for(&leave); return 7; }
void let_go(void) { set(&leave); }
"""

WAITING = """
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>
int init_module(void) {
    char byte = 0;
    int fd = open(getenv("MODULE_REF_FIFO"), O_RDONLY);
    read(fd, &byte, 1);
    close(fd);
    return 0;
}
void cleanup_module(void) {}
int answer(void) { return 42; }
"""

USER = "int provided(void); int answer(void) { return provided() + 1; }"


class Plugins:
    """Shared objects, each compiled when it is first asked for."""

    def __init__(self, compiler, directory):
        self.compiler = compiler
        self.directory = directory

    def __call__(self, name, source, *flags, directory="."):
        """The path of `name`.so, made of `source`."""
        path = self.directory / directory / f"{name}.so"
        if not path.exists():
            path.parent.mkdir(exist_ok=True)
            command = [self.compiler, "-shared", "-fPIC", "-O1", "-w", "-x", "c", "-"]
            subprocess.run(
                [*command, "-o", path, *flags, "-pthread"],
                input=source,
                text=True,
                check=True,
                timeout=60,
            )
        return path

    @property
    def sample(self):
        return self("sample", SAMPLE, "-DANSWER=1")

    @property
    def sample_2(self):
        """Another one, with the same file name."""
        return self("sample", SAMPLE, "-DANSWER=2", directory="v2")

    @property
    def hooked(self):
        return self("hooked", HOOKED, "-DINIT=0")

    @property
    def failing(self):
        return self("failing", HOOKED, "-DINIT=-5")

    @property
    def permanent(self):
        return self("permanent", HOOKED, "-DINIT=0", "-DPERMANENT")

    @property
    def nodelete(self):
        return self("nodelete", SAMPLE, "-DANSWER=3", "-Wl,-z,nodelete")

    @property
    def slow(self):
        return self("slow", SLOW)

    @property
    def provider(self):
        flags = ["-Wl,-soname,libprovider.so"]
        return self("provider", "int provided(void) { return 41; }", *flags)

    @property
    def user(self):
        return self("user", USER, "-Wl,--no-as-needed", "-x", "none", str(self.provider))


@pytest.fixture(scope="session")
def plugins(tmp_path_factory):
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("needs a C compiler, as cc")
    return Plugins(compiler, tmp_path_factory.mktemp("plugins"))


@pytest.fixture
def host():
    """A host that has to be empty again after the test."""
    host = mr.Host()
    yield host
    host.close()


@pytest.fixture
def notes(tmp_path, monkeypatch):
    """What the hooks of plugins have written since it was last asked."""
    path = tmp_path / "notes"
    monkeypatch.setenv("MODULE_REF_NOTES", str(path))

    def read():
        words = path.read_text().split() if path.exists() else []
        path.unlink(missing_ok=True)
        return words

    return read


def mapped(path):
    """How many mappings of that file this process has."""
    maps = pathlib.Path("/proc/self/maps").read_text().splitlines()
    return sum(line.endswith(f"/{path.name}") and str(path) in line for line in maps)


def wait_until(condition, seconds=20):
    """Wait for what another thread is about to do."""
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "waited in vain"
        time.sleep(0.001)


@contextlib.contextmanager
def thread(body):
    """A thread beside the block; what it raises is raised at the end of the block."""
    raised = []

    def guarded():
        try:
            body()
        except BaseException as error:
            raised.append(error)

    running = threading.Thread(target=guarded)
    running.start()
    try:
        yield running
    finally:
        running.join(30)
    assert not running.is_alive()
    if raised:
        raise raised[0]


@contextlib.contextmanager
def holder(module):
    """A thread that holds the module until the event that this gives is set."""
    held, let_go = threading.Event(), threading.Event()

    def hold():
        with module.hold():
            held.set()
            let_go.wait(30)

    with thread(hold):
        assert held.wait(30)
        try:
            yield let_go
        finally:
            let_go.set()


class TestLoad:
    def test_a_module(self, host, plugins):
        module = host.load(str(plugins.sample))
        assert module.name == "sample"
        assert module.path == str(plugins.sample)
        assert module.state == "live"
        assert module.refcount == 0
        assert module.mode == expected_mode()
        assert repr(module) == "<module_ref.Module 'sample' live refcount=0>"
        assert mapped(plugins.sample)
        assert host.unload("sample") is True
        assert not mapped(plugins.sample)
        assert module.state == "going"
        assert module.refcount == -1
        assert module.name == "sample"

    @pytest.mark.parametrize("kind", [str, os.fsencode, pathlib.Path])
    def test_kinds_of_paths(self, host, plugins, kind):
        assert host.load(kind(plugins.sample)).path == str(plugins.sample)
        host.unload("sample")

    def test_odd_paths(self, host, plugins, tmp_path):
        path = os.path.join(os.fsencode(tmp_path), b"odd-\xff.so")
        shutil.copy(plugins.sample, path)
        assert host.load(path, "odd").path == os.fsdecode(path)
        assert host.unload("odd") is True

    def test_name(self, host, plugins):
        assert host.load(plugins.sample, "other").name == "other"
        assert host.load(plugins.sample, name="third").name == "third"
        assert [module.name for module in host.modules()] == ["third", "other"]
        host.unload("other")
        host.unload("third")

    def test_mode(self, host, plugins):
        assert host.load(plugins.sample, per_cpu=False).mode == "atomic"
        host.replace("sample", plugins.sample_2)
        assert host.find("sample").mode == "atomic"
        host.unload("sample")
        with pytest.raises(TypeError):
            host.load(plugins.sample, None, False)

    def test_hooks(self, host, plugins, notes):
        host.load(plugins.hooked)
        assert notes() == ["init"]
        host.unload("hooked")
        assert notes() == ["exit"]

    def test_other_threads_run_meanwhile(self, host, plugins, tmp_path, monkeypatch):
        """The init function waits for another Python thread, which sees the module coming."""
        fifo = tmp_path / "fifo"
        os.mkfifo(fifo)
        monkeypatch.setenv("MODULE_REF_FIFO", str(fifo))
        path = plugins("waiting", WAITING)
        with thread(lambda: host.load(path)):
            with open(fifo, "wb") as init:
                module = host.find("waiting")
                assert module.state == "coming"
                assert module.refcount == 1
                assert host.list().split()[4] == "Loading"
                with module.hold() as lib:
                    assert lib.answer() == 42
                with pytest.raises(OSError, match="in its init function") as refused:
                    host.unload("waiting")
                assert refused.value.errno == errno.EBUSY
                init.write(b"1")
            wait_until(lambda: module.state == "live")
        assert module.refcount == 0
        assert host.unload("waiting", timeout=20) is True

    def test_identity(self, host, plugins):
        module = host.load(plugins.sample)
        assert module == host.find("sample") == host.modules()[0]
        assert hash(module) == hash(host.find("sample"))
        assert module != "sample"
        host.unload("sample")
        assert host.find("sample") is None
        again = host.load(plugins.sample)
        assert again != module
        assert {module, again, host.find("sample")} == {module, again}
        assert module.try_get() is False
        host.unload("sample")

    def test_list(self, host, plugins):
        assert host.list() == ""
        host.load(plugins.sample)
        host.load(plugins.permanent)
        first, second = host.list().splitlines()
        assert first.split()[0] == "permanent"
        assert first.split()[2:5] == ["0", "[permanent],", "Live"]
        assert second.split()[0] == "sample"
        assert second.split()[2:5] == ["0", "-", "Live"]
        host.unload("sample")
        host.unload("permanent", force=True)

    def test_outlives_its_host(self, plugins, tmp_path):
        host = mr.Host()
        # A file of its own, because it stays.
        module = host.load(shutil.copy(plugins.sample, tmp_path / "stays.so"))
        del host
        gc.collect()
        # Nobody can unload it any more, so it is there for who has it.
        assert module.state == "live"
        with module.hold() as lib:
            assert lib.answer() == 1


class TestLoadRefused:
    def refused(self, number, kind, load, *arguments, match=None):
        with pytest.raises(OSError, match=match) as refused:
            load(*arguments)
        assert refused.value.errno == number
        assert type(refused.value) is kind
        return refused.value

    def test_missing_file(self, host):
        self.refused(
            errno.ENOENT, FileNotFoundError, host.load, "./no/such.so", match=r"no/such\.so"
        )

    def test_same_name(self, host, plugins):
        host.load(plugins.sample)
        self.refused(
            errno.EEXIST, FileExistsError, host.load, plugins.sample_2, match="loaded already"
        )
        assert not mapped(plugins.sample_2)
        host.unload("sample")

    def test_not_an_object(self, host, tmp_path):
        text = tmp_path / "text.so"
        text.write_text("no object at all")
        self.refused(errno.ENOEXEC, OSError, host.load, text)

    def test_a_directory(self, host, tmp_path):
        with pytest.raises(OSError):
            host.load(tmp_path)

    def test_unresolved_symbol(self, host, plugins):
        path = plugins("unresolved", "int nowhere(void); int f(void) { return nowhere(); }")
        self.refused(errno.ENOENT, FileNotFoundError, host.load, path, match="nowhere")

    def test_init_fails(self, host, plugins, notes):
        self.refused(errno.EIO, OSError, host.load, plugins.failing, match="returned -5")
        assert notes() == ["init"]
        assert not mapped(plugins.failing)
        assert host.modules() == []

    def test_init_fails_and_somebody_holds_it(self, host, plugins, notes):
        kept = []

        @host.on_event
        def keep(event, module):
            if event == "coming" and module.try_get():
                kept.append(module)

        self.refused(errno.EIO, OSError, host.load, plugins.failing, match="kept 1 reference")
        assert host.modules() == [] and mapped(plugins.failing)
        (module,) = kept
        assert not module.try_get()
        module.put()
        assert host.reap() == 1
        assert notes() == ["init"] and not mapped(plugins.failing)

    def test_init_returns_a_positive_number(self, host, plugins, capfd):
        host.load(plugins("positive", HOOKED, "-DINIT=3"))
        assert "init_module returned 3" in capfd.readouterr().err
        assert host.unload("positive")

    def test_names(self, host, plugins):
        for name in ("", "a b", "a,b", "a/b"):
            self.refused(errno.EINVAL, OSError, host.load, plugins.sample, name)
        self.refused(errno.ENAMETOOLONG, OSError, host.load, plugins.sample, "x" * 56)

    def test_arguments(self, host, plugins):
        with pytest.raises(ValueError, match="null byte"):
            host.load("a\0b")
        for path in (None, 3, object()):
            with pytest.raises(TypeError):
                host.load(path)
        with pytest.raises(TypeError):
            host.load(plugins.sample, b"name")


class TestUnload:
    def test_no_such_module(self, host):
        for name in ("ghost", "", "x" * 56):
            with pytest.raises(FileNotFoundError, match=f"no module '{name}'"):
                host.unload(name)

    def test_held(self, host, plugins):
        module = host.load(plugins.sample)
        with module.hold():
            with pytest.raises(BlockingIOError, match="1 reference") as refused:
                host.unload("sample")
            assert refused.value.errno == errno.EWOULDBLOCK
            assert module.state == "live"
            assert mapped(plugins.sample)
        assert host.unload("sample") is True
        assert not mapped(plugins.sample)

    def test_time_is_up(self, host, plugins):
        module = host.load(plugins.sample)
        with module.hold():
            with pytest.raises(TimeoutError, match="still in use") as refused:
                host.unload("sample", timeout=0.02)
            assert refused.value.errno == errno.ETIMEDOUT
            assert module.state == "live"
            assert module.try_get()
            module.put()
        assert host.unload("sample", timeout=1e300) is True

    @pytest.mark.parametrize("timeout", [20, None])
    def test_waits_for_a_python_thread(self, host, plugins, timeout):
        """With the GIL held this could not end."""
        module = host.load(plugins.sample)
        with holder(module) as let_go:
            releaser = threading.Timer(0.1, let_go.set)
            releaser.start()
            assert host.unload("sample", timeout=timeout) is True
            releaser.join()
        assert not mapped(plugins.sample)

    def test_the_door_is_shut_meanwhile(self, host, plugins):
        module = host.load(plugins.sample)
        unloaded = []
        module.try_get()
        with thread(lambda: unloaded.append(host.unload("sample", timeout=None))):
            wait_until(lambda: module.state == "going")
            wait_until(lambda: not module.try_get() or module.put())
            with pytest.raises(mr.Released, match="'sample'"), module.hold():
                pytest.fail("entered")
            with pytest.raises(OSError, match="another thread") as refused:
                host.unload("sample")
            assert refused.value.errno == errno.EBUSY
            module.get()  # a holder may
            module.put()
            assert module.refcount == 1
            module.put()
        assert unloaded == [True]

    @pytest.mark.parametrize("timeout", [-1, -0.001, float("nan"), float("-inf")])
    def test_timeout(self, host, plugins, timeout):
        host.load(plugins.sample)
        with pytest.raises(ValueError, match="0 or more seconds"):
            host.unload("sample", timeout=timeout)
        with pytest.raises(ValueError, match="0 or more seconds"):
            host.replace("sample", plugins.sample_2, timeout=timeout)
        assert host.unload("sample", timeout=float("inf")) is True

    def test_permanent(self, host, plugins, notes):
        host.load(plugins.permanent)
        with pytest.raises(OSError, match="no cleanup_module") as refused:
            host.unload("permanent")
        assert refused.value.errno == errno.EBUSY
        assert not host.tainted
        assert host.unload("permanent", force=True) is True
        assert host.tainted
        assert notes() == ["init"]
        assert not mapped(plugins.permanent)

    def test_nodelete(self, host, plugins):
        host.load(plugins.nodelete)
        assert host.unload("nodelete") is False
        assert mapped(plugins.nodelete)
        last = host.last_unloaded
        assert (last.name, last.resident) == ("nodelete", True)
        assert "nodelete" in last.reason
        assert repr(last).startswith("<module_ref.LastUnloaded 'nodelete' resident: ")

    def test_last_unloaded(self, host, plugins):
        assert host.last_unloaded is None
        host.load(plugins.sample)
        host.unload("sample")
        last = host.last_unloaded
        assert (last.name, last.resident, last.reason) == ("sample", False, None)
        assert last == host.last_unloaded
        assert repr(last) == "<module_ref.LastUnloaded 'sample' unmapped>"
        with pytest.raises(AttributeError):
            last.name = "other"

    def test_force(self, host, plugins, notes):
        """The holder's code stays, and goes once the holder has left."""
        module = host.load(plugins.hooked)
        with module.hold() as lib:
            assert host.unload("hooked", force=True) is False
            assert notes() == ["init", "exit"]
            assert host.tainted
            assert host.find("hooked") is None
            assert lib.answer() == 42
            assert mapped(plugins.hooked)
            assert host.last_unloaded.resident
            assert "held" in host.last_unloaded.reason
            assert host.reap() == 0
            with pytest.raises(mr.Released), module.hold():
                pytest.fail("entered")
            with pytest.raises(OSError) as refused:
                host.close()
            assert refused.value.errno == errno.EBUSY
        assert mapped(plugins.hooked), "the holder does not unmap it"
        assert host.reap() == 1
        assert not mapped(plugins.hooked)
        assert host.last_unloaded == host.last_unloaded
        assert not host.last_unloaded.resident
        assert notes() == []


class TestReferences:
    def test_put_without_get(self, host, plugins):
        module = host.load(plugins.sample)
        with pytest.raises(mr.MisuseError, match="surplus put"):
            module.put()
        with module.hold():
            with pytest.raises(mr.MisuseError):
                module.put()
            with pytest.raises(mr.MisuseError):
                module.get()
            assert module.refcount == 1
        host.unload("sample")
        with pytest.raises(mr.MisuseError):
            module.get()

    def test_any_object_for_the_module_will_do(self, host, plugins):
        assert host.load(plugins.sample).try_get() is True
        host.find("sample").get()
        assert host.find("sample").refcount == 2
        gc.collect()
        host.modules()[0].put()
        with pytest.raises(BlockingIOError):
            host.unload("sample")
        host.find("sample").put()
        assert host.unload("sample") is True

    def test_the_next_generation_has_its_own(self, host, plugins):
        old = host.load(plugins.sample)
        old.try_get()
        assert host.replace("sample", plugins.sample_2) is False
        with pytest.raises(mr.MisuseError):
            host.find("sample").put()
        old.put()
        assert host.reap() == 1
        host.unload("sample")


class TestHold:
    def test_calls(self, host, plugins):
        module = host.load(plugins.sample)
        with module.hold() as lib:
            assert module.refcount == 1
            assert lib.answer() == 1
            assert lib.answer is lib.answer
            assert lib["answer"] is not lib["answer"]
            assert lib["answer"]() == 1
            lib.wide.argtypes, lib.wide.restype = [ctypes.c_longlong], ctypes.c_longlong
            assert lib.wide(1 << 40) == 1 << 40
            lib.add.errcheck = lambda result, function, arguments: (result, arguments)
            assert lib.add(1, 2) == (3, (1, 2))
            assert lib.call_back(lib.answer) == 1
            assert lib.answer.__name__ == "answer"
            assert repr(lib) == "<module_ref.HeldLibrary 'sample' held>"
            assert isinstance(lib, mr.HeldLibrary)
            assert isinstance(lib.answer, mr.Function)
            with pytest.raises(ctypes.ArgumentError):
                lib.wide("text")
        assert repr(lib) == "<module_ref.HeldLibrary 'sample' not held>"
        assert module.refcount == 0
        assert host.unload("sample") is True

    def test_data(self, host, plugins):
        with host.load(plugins.sample).hold() as lib:
            assert lib.data(ctypes.c_int, "count").value == 40
            lib.data(ctypes.c_int, "count").value += 2
            assert lib.data(ctypes.c_int, "count").value == 42
            assert lib.data(ctypes.c_char_p, "text").value == b"some text"
            with pytest.raises(AttributeError):
                lib.data(ctypes.c_int, "no_such_data")
        with pytest.raises(mr.Released):
            lib.data(ctypes.c_int, "count")
        host.unload("sample")

    def test_no_such_symbol(self, host, plugins):
        with host.load(plugins.sample).hold() as lib:
            with pytest.raises(AttributeError, match="no symbol 'no_such'"):
                lib.no_such()
            with pytest.raises(AttributeError):
                lib["no_such"]
            with pytest.raises(AttributeError):
                lib["nul\0inside"]
            assert not hasattr(lib, "__wrapped__")
        host.unload("sample")

    def test_beyond_the_block(self, host, plugins):
        module = host.load(plugins.sample)
        with module.hold() as lib:
            kept = lib.answer
        for use in (kept, lib.answer, lambda: lib.add, lambda: lib["answer"]):
            with pytest.raises(mr.Released, match="with block"):
                use()
        assert host.unload("sample") is True
        with pytest.raises(mr.Released):
            kept()
        with pytest.raises(mr.Released, match="'sample' is being unloaded, or is gone"):
            module.hold().__enter__()
        host.load(plugins.sample_2)
        with pytest.raises(mr.Released):
            kept()
        host.unload("sample")

    def test_again(self, host, plugins):
        module = host.load(plugins.sample)
        hold = module.hold()
        with hold as lib:
            lib.wide.restype = ctypes.c_longlong
        with hold as again:
            assert again is lib
            assert lib.wide.restype is ctypes.c_longlong
            assert lib.answer() == 1
            with hold:
                assert module.refcount == 2
            assert lib.answer() == 1
        with pytest.raises(mr.MisuseError, match="without having been entered"):
            hold.__exit__(None, None, None)
        assert module.refcount == 0
        host.unload("sample")

    def test_several_threads(self, host, plugins):
        module = host.load(plugins.sample)
        hold, barrier = module.hold(), threading.Barrier(4)

        def work():
            for _ in range(50):
                with hold as lib:
                    assert lib.answer() == 1
                barrier.wait(20)

        with thread(work), thread(work), thread(work), thread(work):
            pass
        assert host.unload("sample") is True

    def test_exceptions_pass(self, host, plugins):
        module = host.load(plugins.sample)
        with pytest.raises(KeyError), module.hold():
            raise KeyError
        assert module.refcount == 0
        host.unload("sample")

    def test_a_hold_that_is_forgotten(self, host, plugins):
        module = host.load(plugins.sample)
        lib = module.hold().__enter__()
        assert module.refcount == 1
        del lib
        gc.collect()
        assert module.refcount == 0
        host.unload("sample")

    def test_a_call_under_way_keeps_the_module(self, host, plugins):
        """Another thread is in the module when the block ends."""
        module = host.load(plugins.slow)
        results = []
        with contextlib.ExitStack() as stack:
            with module.hold() as lib:
                let_go = ctypes.CFUNCTYPE(None)(ctypes.cast(lib.let_go, ctypes.c_void_p).value)
                stack.enter_context(thread(lambda: results.append(lib.stay())))
                wait_until(lambda: lib.data(ctypes.c_int, "inside").value)
            assert module.refcount == 1
            with pytest.raises(mr.Released):
                lib.let_go()
            with pytest.raises(BlockingIOError):
                host.unload("slow")
            assert host.unload("slow", force=True) is False
            assert mapped(plugins.slow)
            let_go()
        assert results == [7]
        assert host.reap() == 1
        assert not mapped(plugins.slow)


class TestReplace:
    def test_replace(self, host, plugins):
        old = host.load(plugins.sample)
        assert host.replace("sample", plugins.sample_2) is True
        assert not mapped(plugins.sample)
        new = host.find("sample")
        assert new != old
        assert new.path == str(plugins.sample_2)
        assert old.refcount == -1
        with new.hold() as lib:
            assert lib.answer() == 2
        assert host.last_unloaded.name == "sample"
        host.unload("sample")

    @pytest.mark.parametrize("how", ["rename", "in place"])
    def test_same_path_other_content(self, host, plugins, tmp_path, how):
        path = tmp_path / "sample.so"
        shutil.copy(plugins.sample, path)
        host.load(path)
        if how == "rename":
            shutil.copy(plugins.sample_2, tmp_path / "new")
            os.replace(tmp_path / "new", path)
        else:
            # The linker has mapped the old content, which a writer must not change.
            path.unlink()
            shutil.copy(plugins.sample_2, path)
        assert host.replace("sample", path) is True
        with host.find("sample").hold() as lib:
            assert lib.answer() == 2
        assert host.unload("sample") is True

    def test_same_file(self, host, plugins):
        host.load(plugins.sample)
        with host.find("sample").hold() as lib:
            lib.data(ctypes.c_int, "count").value = 1
        assert host.replace("sample", plugins.sample) is True
        with host.find("sample").hold() as lib:
            assert lib.data(ctypes.c_int, "count").value == 40
        assert host.unload("sample") is True
        assert not mapped(plugins.sample)

    def test_held(self, host, plugins):
        old = host.load(plugins.sample)
        with old.hold() as lib:
            assert host.replace("sample", plugins.sample_2) is False
            assert lib.answer() == 1
            assert old.state == "going"
            assert old.try_get() is False
            with pytest.raises(mr.Released), old.hold():
                pytest.fail("entered")
            with host.find("sample").hold() as new:
                assert new.answer() == 2
            assert "held" in host.last_unloaded.reason
            assert host.reap() == 0
        assert mapped(plugins.sample)
        assert host.reap() == 1
        assert not mapped(plugins.sample)
        assert not host.last_unloaded.resident
        assert not host.tainted
        host.unload("sample")

    def test_waits(self, host, plugins):
        old = host.load(plugins.sample)
        with holder(old) as let_go:
            timer = threading.Timer(0.1, let_go.set)
            timer.start()
            assert host.replace("sample", plugins.sample_2, timeout=None) is True
            timer.join()
        assert not mapped(plugins.sample)
        host.unload("sample")

    def test_failures_leave_the_old_one(self, host, plugins):
        with pytest.raises(FileNotFoundError, match="no module 'sample'"):
            host.replace("sample", plugins.sample)
        old = host.load(plugins.sample)
        with pytest.raises(FileNotFoundError):
            host.replace("sample", "./no/such.so")
        with pytest.raises(OSError) as refused:
            host.replace("sample", plugins.failing)
        assert refused.value.errno == errno.EIO
        assert host.find("sample") == old
        with old.hold() as lib:
            assert lib.answer() == 1
        host.load(plugins.permanent)
        with pytest.raises(OSError) as refused:
            host.replace("permanent", plugins.sample_2)
        assert refused.value.errno == errno.EBUSY
        host.unload("permanent", force=True)
        host.unload("sample")


class TestDependencies:
    def test_linked(self, host, plugins):
        provider = host.load(plugins.provider)
        user = host.load(plugins.user)
        with user.hold() as lib:
            assert lib.answer() == 42
        assert provider.refcount == 1
        with pytest.raises(BlockingIOError, match="needed by 'user'"):
            host.unload("provider")
        with pytest.raises(BlockingIOError):
            host.unload("provider", force=True)
        with pytest.raises(BlockingIOError):
            host.replace("provider", plugins.provider)
        assert host.unload("user") is True
        assert provider.refcount == 0
        assert host.unload("provider") is True
        assert not mapped(plugins.provider)

    def test_by_hand(self, host, plugins):
        a, b, c = (host.load(plugins.sample, name) for name in "abc")
        host.add_dependency(a, b)
        host.add_dependency(a, b)
        host.add_dependency(b, c)
        assert b.refcount == 1
        for user, provider in ((b, a), (c, a), (a, a)):
            with pytest.raises(OSError, match="depend") as refused:
                host.add_dependency(user, provider)
            assert refused.value.errno == errno.EDEADLK
        assert host.list().splitlines()[1].split()[3] == "a,"
        for name in "abc":
            host.unload(name)
        with pytest.raises(FileNotFoundError):
            host.add_dependency(a, b)

    def test_between_hosts(self, host, plugins):
        with mr.Host() as other:
            here, there = host.load(plugins.sample), other.load(plugins.sample)
            with pytest.raises(OSError) as refused:
                host.add_dependency(here, there)
            assert refused.value.errno == errno.EXDEV
            other.unload("sample")
        host.unload("sample")


class TestEvents:
    def test_order(self, host, plugins, notes):
        seen = []

        @host.on_event
        def listen(event, module):
            assert isinstance(module, mr.Module)
            assert module.state == event
            seen.extend([*notes(), event, threading.get_ident()])

        host.load(plugins.hooked)
        host.unload("hooked")
        me = threading.get_ident()
        assert seen == ["coming", me, "init", "live", me, "exit", "going", me]
        host.remove_event(listen)
        host.load(plugins.hooked)
        host.unload("hooked")
        assert len(seen) == 8

    def test_priority(self, host, plugins):
        seen = []
        host.on_event(lambda event, module: seen.append("low"), priority=-1)
        host.on_event(lambda event, module: seen.append("first"))
        host.on_event(lambda event, module: seen.append("second"))
        host.on_event(lambda event, module: seen.append("high"), 5)
        host.load(plugins.sample)
        assert seen == ["high", "first", "second", "low"] * 2
        host.unload("sample")

    @pytest.mark.parametrize(
        ("raised", "number"),
        [
            (ValueError("no room"), errno.ECANCELED),
            (PermissionError(errno.EPERM, "not here"), errno.EPERM),
            (OSError("no number"), errno.ECANCELED),
        ],
    )
    def test_veto(self, host, plugins, notes, raised, number):
        seen = []
        host.on_event(lambda event, module: seen.append(event), priority=1)

        @host.on_event
        def veto(event, module):
            if event == "coming":
                raise raised

        with pytest.raises(OSError, match="refused by a notifier") as refused:
            host.load(plugins.hooked)
        assert refused.value.errno == number
        assert refused.value.__cause__ is raised
        assert str(raised) in str(refused.value)
        assert seen == ["coming", "going"]
        assert notes() == []
        assert not mapped(plugins.hooked)
        host.remove_event(veto)

        # What comes next is not blamed for it.
        with pytest.raises(FileNotFoundError) as missing:
            host.load("./no/such.so")
        assert missing.value.__cause__ is None

    def test_veto_of_a_replacement(self, host, plugins):
        old = host.load(plugins.sample)

        def veto(event, module):
            raise ValueError("not now")

        host.on_event(veto)
        with pytest.raises(OSError) as refused:
            host.replace("sample", plugins.sample_2)
        assert isinstance(refused.value.__cause__, ValueError)
        assert host.find("sample") == old
        host.remove_event(veto)
        host.unload("sample")

    def test_a_veto_inside_of_a_load(self, host, plugins):
        """The load that a callback makes is refused; the one that it is called for is not."""
        inner = []

        @host.on_event
        def nested(event, module):
            if event == "coming" and module.name == "outer":
                with pytest.raises(OSError) as refused:
                    host.load(plugins.sample, "inner")
                inner.append(refused.value)
            elif event == "coming":
                raise ValueError(module.name)

        host.load(plugins.sample, "outer")
        assert str(inner[0].__cause__) == "inner"
        host.unload("outer")

    def test_what_is_no_exception_goes_on(self, host, plugins):
        @host.on_event
        def interrupted(event, module):
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            host.load(plugins.sample)
        assert host.modules() == []

    def test_other_exceptions_are_unraisable(self, host, plugins, monkeypatch):
        heard = []
        monkeypatch.setattr(sys, "unraisablehook", lambda what: heard.append(str(what.exc_value)))

        @host.on_event
        def fail(event, module):
            if event != "coming":
                raise ValueError(event)

        host.load(plugins.sample)
        assert host.unload("sample") is True
        assert heard == ["live", "going"]

    def test_a_callback_uses_the_module(self, host, plugins):
        seen = []

        @host.on_event
        def use(event, module):
            try:
                with module.hold() as lib:
                    seen.append((event, lib.answer()))
            except mr.Released:
                seen.append((event, None))
            assert (module in host.modules()) or event == "going"

        host.load(plugins.sample)
        host.unload("sample")
        assert seen == [("coming", 1), ("live", 1), ("going", None)]

    def test_remove(self, host, plugins):
        class Listener:
            heard = 0

            def listen(self, event, module):
                self.heard += 1
                host.remove_event(self.listen)

        listener = Listener()
        with pytest.raises(FileNotFoundError, match="not registered"):
            host.remove_event(listener.listen)
        host.on_event(listener.listen)
        host.load(plugins.sample)
        host.unload("sample")
        assert listener.heard == 1
        with pytest.raises(FileNotFoundError):
            host.remove_event(listener.listen)
        with pytest.raises(TypeError):
            host.on_event("not callable")

    def test_remove_waits(self, host, plugins):
        """The callback runs in another thread, and needs the GIL to end."""
        inside, leave, ended = threading.Event(), threading.Event(), []

        @host.on_event
        def linger(event, module):
            if event == "coming":
                inside.set()
                leave.wait(20)
                ended.append(event)

        with thread(lambda: host.load(plugins.sample)):
            assert inside.wait(20)
            timer = threading.Timer(0.05, leave.set)
            timer.start()
            host.remove_event(linger)
            assert ended == ["coming"]
            timer.join()
        host.unload("sample")

    def test_garbage(self):
        """A callback that refers to its host does not keep both for ever."""

        class Owner:
            def __init__(self):
                self.host = mr.Host()
                self.host.on_event(self.listen)

            def listen(self, event, module):
                pass

        gone = weakref.ref(Owner())
        gc.collect()
        assert gone() is None


class TestClose:
    def test_close(self, plugins):
        host = mr.Host()
        host.load(plugins.sample)
        with pytest.raises(OSError, match="'sample'") as refused:
            host.close()
        assert refused.value.errno == errno.EBUSY
        assert repr(host) == "<module_ref.Host with 1 modules>"
        module = host.find("sample")
        host.unload("sample")
        host.close()
        host.close()
        assert repr(host) == "<module_ref.Host closed>"
        for use in (
            lambda: host.load(plugins.sample),
            lambda: host.unload("sample"),
            lambda: host.replace("sample", plugins.sample),
            lambda: host.find("sample"),
            lambda: host.add_dependency(module, module),
            lambda: host.on_event(print),
            lambda: host.remove_event(print),
            lambda: host.tainted,
            lambda: host.last_unloaded,
            host.modules,
            host.list,
            host.reap,
            host.__enter__,
        ):
            with pytest.raises(ValueError, match="the host is closed"):
                use()

    def test_with(self, plugins):
        with mr.Host() as host:
            host.load(plugins.sample)
            host.unload("sample")
        with pytest.raises(ValueError):
            host.modules()
        with pytest.raises(OSError) as refused, mr.Host() as host:
            host.load(plugins.sample)
        assert refused.value.errno == errno.EBUSY
        host.unload("sample")
        with pytest.raises(KeyError), host:
            host.load(plugins.sample)
            raise KeyError
        host.unload("sample")
        with host:
            host.close()

    def test_during_a_call(self, host, plugins):
        refused = []

        @host.on_event
        def close(event, module):
            with pytest.raises(OSError) as busy:
                host.close()
            refused.append(busy.value.errno)

        host.load(plugins.sample)
        host.remove_event(close)
        assert refused == [errno.EBUSY] * 2
        host.unload("sample")

    def test_reaps_first(self, plugins):
        host = mr.Host()
        seen = []
        host.on_event(lambda event, module: seen.append((event, len(host.modules()))))
        old = host.load(plugins.sample)
        with old.hold():
            host.replace("sample", plugins.sample_2)
            host.unload("sample")
        seen.clear()
        host.close()
        assert seen == [("going", 0)]
        assert not mapped(plugins.sample)


class TestThreads:
    def test_calls_while_it_is_replaced(self, host, plugins):
        """Threads look the module up and call it; every call meets one of the two versions."""
        host.load(plugins.sample)
        stop, served = threading.Event(), [0] * 4

        def work(index):
            while not stop.is_set():
                try:
                    with host.find("sample").hold() as lib:
                        assert lib.answer() in (1, 2)
                except mr.Released:
                    continue  # it was replaced in between
                served[index] += 1

        with contextlib.ExitStack() as stack:
            stack.callback(stop.set)
            for index in range(4):
                stack.enter_context(thread(lambda index=index: work(index)))
            stack.callback(stop.set)
            for round in range(200):
                version = plugins.sample if round % 2 else plugins.sample_2
                assert host.replace("sample", version, timeout=20) is True
            wait_until(lambda: all(served))
        assert host.unload("sample") is True
        assert not mapped(plugins.sample)
        assert not mapped(plugins.sample_2)

    def test_one_load_wins(self, host, plugins):
        for _ in range(10):
            won, barrier = [], threading.Barrier(4)

            def load(won=won, barrier=barrier):
                barrier.wait(20)
                try:
                    won.append(host.load(plugins.sample))
                except FileExistsError:
                    pass

            with thread(load), thread(load), thread(load), thread(load):
                pass
            assert won == host.modules()
            assert len(won) == 1
            host.unload("sample")

    def test_nothing_is_left(self, host, plugins):
        def state():
            gc.collect()
            return len(os.listdir("/proc/self/fd")), mapped(plugins.sample)

        before = state()
        for _ in range(500):
            module = host.load(plugins.sample)
            with module.hold() as lib:
                lib.answer()
            assert host.unload("sample") is True
        # And with copies, which are made through descriptors.
        for _ in range(20):
            host.load(plugins.sample, "a")
            host.load(plugins.sample, "b")
            assert host.unload("a") is True
            assert host.unload("b") is True
        assert state() == before


def test_objects_are_freed(host, plugins):
    """What raises, holds and listens leaves no object behind."""

    def rounds(number):
        for _ in range(number):
            module = host.load(plugins.sample)
            with module.hold() as lib:
                lib.answer()
            module.try_get()
            module.get()
            with pytest.raises(BlockingIOError):
                host.unload("sample")
            module.put()
            module.put()
            veto = host.on_event(lambda event, module: 1 / 0)
            with pytest.raises(OSError):
                host.replace("sample", plugins.sample_2)
            host.remove_event(veto)
            host.unload("sample")
        gc.collect()
        return len(gc.get_objects())

    rounds(5)
    before = rounds(5)
    assert rounds(50) <= before + 20


class Rung(Exception):
    """What handlers of signals raise here."""


@contextlib.contextmanager
def alarm(handler, seconds=0.1, again=0.0):
    """A signal while the block waits, which the handler is called for."""
    before = signal.signal(signal.SIGALRM, lambda *_: handler())
    try:
        signal.setitimer(signal.ITIMER_REAL, seconds, again)
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def ring():
    raise Rung


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs timers")
class TestSignals:
    @pytest.mark.parametrize("timeout", [20, None])
    def test_an_unload_can_be_interrupted(self, host, plugins, timeout):
        module = host.load(plugins.sample)
        with module.hold() as lib:
            with alarm(ring), pytest.raises(Rung):
                host.unload("sample", timeout=timeout)
            assert module.state == "live"
            assert host.find("sample") == module
            assert module.try_get(), "the module is live again"
            module.put()
            assert module.refcount == 1
            assert lib.answer() == 1
        assert host.last_unloaded is None
        assert host.unload("sample") is True

    def test_an_unload_by_force_is_not_undone(self, host, plugins):
        module = host.load(plugins.sample)
        with module.hold() as lib:
            with alarm(ring), pytest.raises(Rung):
                host.unload("sample", force=True, timeout=None)
            assert module.state == "going"
            assert host.find("sample") is None
            assert host.tainted
            assert lib.answer() == 1
        assert host.reap() == 1

    @pytest.mark.parametrize("timeout", [20, None])
    def test_a_replacement_can_be_interrupted(self, host, plugins, timeout):
        old = host.load(plugins.sample)
        with old.hold() as lib:
            with alarm(ring), pytest.raises(Rung):
                host.replace("sample", plugins.sample_2, timeout=timeout)
            assert lib.answer() == 1
            assert old.state == "going"
            assert not old.try_get()
            with host.find("sample").hold() as new:
                assert new.answer() == 2
            assert host.reap() == 0
        assert host.reap() == 1
        assert not mapped(plugins.sample)
        assert host.unload("sample") is True

    def test_the_last_put_comes_with_the_signal(self, host, plugins):
        """It is unloaded or replaced then, and the exception is raised all the same."""

        def put_and_ring():
            module.put()
            raise Rung

        module = host.load(plugins.sample)
        module.try_get()
        with alarm(put_and_ring), pytest.raises(Rung):
            host.replace("sample", plugins.sample_2, timeout=None)
        assert not mapped(plugins.sample)

        module = host.find("sample")
        module.try_get()
        with alarm(put_and_ring), pytest.raises(Rung):
            host.unload("sample", timeout=None)
        assert host.modules() == []
        assert not mapped(plugins.sample_2)
        assert not host.last_unloaded.resident

    def test_they_go_on_after_a_signal(self, host, plugins):
        rung = []
        old = host.load(plugins.sample)
        for wait in (
            lambda: host.replace("sample", plugins.sample_2, timeout=None),
            lambda: host.unload("sample", timeout=20),
        ):
            module = host.find("sample")
            module.try_get()
            putter = threading.Timer(0.3, module.put)
            with alarm(lambda: rung.append(1), 0.02, 0.02):
                putter.start()
                assert wait() is True
            putter.join()
            assert rung
            rung.clear()
        assert old.state == "going"

    def test_their_time_is_up_all_the_same(self, host, plugins):
        rung = []
        module = host.load(plugins.sample)
        with module.hold(), alarm(lambda: rung.append(time.monotonic()), 0.02, 0.02):
            started = time.monotonic()
            with pytest.raises(TimeoutError):
                host.unload("sample", timeout=0.3)
            assert module.state == "live"
            assert time.monotonic() - started >= 0.3
            assert rung[0] - started < 0.3
            assert host.replace("sample", plugins.sample_2, timeout=0.3) is False
            assert time.monotonic() - started >= 0.6
        assert host.reap() == 1
        assert host.unload("sample") is True

    def test_a_handler_uses_the_host(self, host, plugins):
        refused = []

        def use():
            assert host.list().split()[4] == "Unloading"
            for call in (lambda: host.unload("sample"), host.close):
                with pytest.raises(OSError) as busy:
                    call()
                refused.append(busy.value.errno)
            host.load(plugins.sample_2, "other")
            ring()

        module = host.load(plugins.sample)
        with module.hold(), alarm(use), pytest.raises(Rung):
            host.unload("sample", timeout=None)
        assert refused == [errno.EBUSY] * 2
        assert host.unload("other") is True
        assert host.unload("sample") is True

    @pytest.mark.parametrize(
        ("wait", "then"),
        [
            ("unload('sample', timeout=None)", "live True"),
            ("replace('sample', sys.argv[2], timeout=None)", "going False"),
        ],
        ids=["unload", "replace"],
    )
    def test_control_c(self, plugins, wait, then):
        code = (
            "import module_ref, os, signal, sys, threading\n"
            # A shell starts what runs in the background with SIGINT ignored.
            "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
            "host = module_ref.Host()\n"
            "module = host.load(sys.argv[1])\n"
            "module.try_get()\n"
            "threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()\n"
            "try:\n"
            f"    host.{wait}\n"
            "except KeyboardInterrupt:\n"
            "    print(module.state, module == host.find('sample'))\n"
        )
        run = subprocess.run(
            [sys.executable, "-c", code, plugins.sample, plugins.sample_2],
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        assert run.stdout == f"{then}\n"


def test_exit_with_modules(plugins):
    """The interpreter ends while a host has modules and callbacks, and a thread waits."""
    code = (
        "import module_ref, sys, threading, time\n"
        "host = module_ref.Host()\n"
        "host.on_event(lambda event, module: None)\n"
        "module = host.load(sys.argv[1])\n"
        "module.try_get()\n"
        "hold = module.hold()\n"
        "lib = hold.__enter__()\n"
        "wait = lambda: host.unload('sample', timeout=None)\n"
        "threading.Thread(target=wait, daemon=True).start()\n"
        "while module.state == 'live': time.sleep(0.001)\n"
        "print(lib.answer())\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", code, plugins.sample],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (run.returncode, run.stdout, run.stderr) == (0, "1\n", "")
