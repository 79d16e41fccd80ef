"""The module host as Python has it: exceptions, threads, callbacks, ctypes, objects, signals.

What the host itself does is for its own model and for the C tests to check.
"""

import contextlib
import ctypes
import errno
import functools
import gc
import os
import pathlib
import shutil
import signal
import sys
import threading
import time
import types
import weakref

import module_ref as mr
import pytest
from module_ref import __main__ as command
from oracle import expected_mode
from support import CONTROL_C, Rung, alarm, later, python, refused, ring, threads, wait_until

SAMPLE = """
int count = 40;
const char *text = "some text";
extern int not_there __attribute__((weak));
int answer(void) { return ANSWER; }
int add(int a, int b) { return a + b; }
long long wide(long long x) { return x; }
int call_back(int (*f)(void)) { return f(); }
"""

HOOKED = "int init_module(void) { return INIT; } void cleanup_module(void) {}"

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


@pytest.fixture(scope="session")
def plugins(build):
    """The paths of shared objects: two with the same file name, and others."""
    return types.SimpleNamespace(
        sample=build("sample", SAMPLE, "-DANSWER=1"),
        sample_2=build("v2/sample", SAMPLE, "-DANSWER=2"),
        hooked=build("hooked", HOOKED, "-DINIT=0"),
        failing=build("failing", HOOKED, "-DINIT=-5"),
        nodelete=build("nodelete", SAMPLE, "-DANSWER=3", "-Wl,-z,nodelete"),
        slow=build("slow", SLOW),
        waiting=build("waiting", WAITING),
    )


def mapped(path):
    """How many mappings of that file this process has."""
    maps = pathlib.Path("/proc/self/maps").read_text().splitlines()
    return sum(line.endswith(str(path)) for line in maps)


def refuses_entry(module):
    assert not module.try_get()
    with pytest.raises(mr.Released, match="is being unloaded, or is gone"), module.hold():
        pytest.fail("entered")


class TestLoad:
    def test_a_module(self, host, plugins):
        module = host.load(plugins.sample)
        assert (module.name, module.path) == ("sample", str(plugins.sample))
        assert (module.state, module.refcount, module.mode) == ("live", 0, expected_mode())
        assert repr(module) == "<module_ref.Module 'sample' live refcount=0>"
        assert host.list().split()[:1] == ["sample"]
        assert mapped(plugins.sample)
        assert host.unload("sample") is True
        assert not mapped(plugins.sample)
        assert (module.name, module.state, module.refcount) == ("sample", "going", -1)

    @pytest.mark.parametrize("kind", [str, os.fsencode, pathlib.Path])
    def test_paths(self, host, plugins, tmp_path, kind):
        assert host.load(kind(plugins.sample)).path == str(plugins.sample)
        path = shutil.copy(plugins.sample, os.path.join(os.fsencode(tmp_path), b"odd-\xff.so"))
        odd = kind(pathlib.Path(os.fsdecode(path)))
        assert host.load(odd, "odd").path == os.fsdecode(path)
        assert host.unload("odd") and host.unload("sample")

    def test_mode(self, host, plugins):
        assert host.load(plugins.sample, per_cpu=False).mode == "atomic"
        host.unload("sample")
        with pytest.raises(TypeError):
            host.load(plugins.sample, None, False)

    def test_a_copy_is_not_the_file(self, host, plugins):
        module = host.load(plugins.sample, "copy", copied=True)
        assert module.path == str(plugins.sample) and not mapped(plugins.sample)
        assert host.unload("copy")

    def test_other_threads_run_meanwhile(self, host, plugins, tmp_path, monkeypatch):
        """The init function waits for another Python thread, which sees the module coming."""
        fifo = tmp_path / "fifo"
        os.mkfifo(fifo)
        monkeypatch.setenv("MODULE_REF_FIFO", str(fifo))
        with threads(lambda: host.load(plugins.waiting)):
            with open(fifo, "wb") as init:
                assert host.find("waiting") is None
                [module] = host.modules()
                assert module.state == "coming"
                with module.hold() as lib:
                    assert lib.answer() == 42
                with refused(errno.EBUSY, match="in its init function"):
                    host.unload("waiting")
                init.write(b"1")
            wait_until(lambda: module.state == "live")
        assert host.unload("waiting", timeout=20) is True

    def test_identity(self, host, plugins):
        module = host.load(plugins.sample)
        assert module == host.find("sample") == host.modules()[0]
        assert module != "sample"
        host.unload("sample")
        assert host.find("sample") is None
        again = host.load(plugins.sample)
        assert again != module
        assert {module, again, host.find("sample")} == {module, again}
        host.unload("sample")

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

    def test_refused(self, host, plugins, tmp_path):
        (tmp_path / "text.so").write_text("no object at all")
        module = host.load(plugins.sample)
        for number, kind, path, name, match in (
            (errno.ENOENT, FileNotFoundError, "./no/such.so", None, r"no/such\.so"),
            (errno.EEXIST, FileExistsError, plugins.sample_2, None, "loaded already"),
            (errno.ENOEXEC, OSError, tmp_path / "text.so", None, None),
            (errno.EINVAL, OSError, plugins.sample, "a b", None),
            (errno.ENAMETOOLONG, OSError, plugins.sample, "x" * 56, None),
            (errno.EIO, OSError, plugins.failing, None, "returned -5"),
        ):
            with refused(number, kind, match):
                host.load(path, name)
        assert host.modules() == [module]
        host.unload("sample")

    def test_arguments(self, host, plugins):
        with pytest.raises(ValueError, match="null byte"):
            host.load("a\0b")
        for arguments in ((None,), (3,), (object(),), (plugins.sample, b"name")):
            with pytest.raises(TypeError):
                host.load(*arguments)


class TestCheck:
    def test_findings(self, plugins, tmp_path):
        assert mr.check(bytes(plugins.hooked)) == []
        (finding,) = mr.check(plugins.nodelete)
        assert finding.startswith("nodelete: ")
        with refused(errno.ENOEXEC, match="cannot check"):
            mr.check(__file__)
        with refused(errno.ENOENT, FileNotFoundError):
            mr.check(tmp_path / "nowhere.so")

    def test_command(self, plugins, tmp_path, capsys):
        odd = tmp_path / os.fsdecode(b"caf\xe9.so")
        shutil.copy(plugins.nodelete, odd)
        good, bad, odd = str(plugins.hooked), str(plugins.nodelete), str(odd)
        assert command.main(["check", good]) == 0
        assert capsys.readouterr() == ("", "")
        assert command.main(["check", good, bad, odd, good]) == 1
        first, second = capsys.readouterr().out.splitlines()
        assert first.startswith(f"{bad}: nodelete: ")
        assert second.startswith(f"{tmp_path}/caf\\udce9.so: nodelete: ")
        assert command.main(["check", "--allow", "thread", bad]) == 1
        assert command.main(["check", "--allow", "thread", "--allow", "nodelete", bad]) == 0
        assert capsys.readouterr().out == first + "\n"
        assert command.main(["check", __file__, bad]) == 2
        said = capsys.readouterr()
        assert __file__ in said.err
        assert said.out == first + "\n"


class TestTrack:
    def test_places(self, plugins):
        def line():
            return sys._getframe(1).f_lineno

        with mr.Host(track=True) as host:
            module = host.load(plugins.sample)
            got = line() + 1
            assert module.try_get()
            (again,) = host.modules()
            with again.hold():
                held = line() - 1
                with refused(errno.EWOULDBLOCK, BlockingIOError) as caught:
                    host.unload("sample")
            words = caught.value.strerror
            assert f"held by {__file__}:{got}: thread {threading.get_native_id()} " in words
            assert f"; {__file__}:{held}: thread " in words
            assert "untracked" not in words
            again.get()
            module.put()
            module.put()
            assert host.unload("sample")

    def test_off(self, host, plugins):
        with host.load(plugins.sample).hold():
            with refused(errno.EWOULDBLOCK, BlockingIOError) as caught:
                host.unload("sample")
            assert "held by" not in caught.value.strerror
        host.unload("sample")


class TestUnload:
    def test_held(self, host, plugins):
        module = host.load(plugins.sample)
        with module.hold():
            with refused(errno.EWOULDBLOCK, BlockingIOError, "1 reference"):
                host.unload("sample")
            with refused(errno.ETIMEDOUT, TimeoutError, "still in use"):
                host.unload("sample", timeout=0.02)
            assert module.state == "live"
        assert host.unload("sample", timeout=1e300) is True
        with refused(errno.ENOENT, FileNotFoundError, "no module 'sample'"):
            host.unload("sample")

    @pytest.mark.parametrize("timeout", [20, None])
    def test_waits_for_a_python_thread(self, host, plugins, timeout):
        """With the GIL held this could not end."""
        for wait in (
            lambda: host.replace("sample", plugins.sample_2, timeout=timeout),
            lambda: host.unload("sample", timeout=timeout),
        ):
            module = host.find("sample") or host.load(plugins.sample)
            assert module.try_get()
            with later(module.put):
                assert wait() is True
            assert not mapped(module.path)

    def test_new_gets_fail_meanwhile(self, host, plugins):
        module = host.load(plugins.sample)
        unloaded = []
        module.try_get()
        with threads(lambda: unloaded.append(host.unload("sample", timeout=None))):
            wait_until(lambda: module.state == "going")
            wait_until(lambda: not module.try_get() or module.put())
            refuses_entry(module)
            with refused(errno.EBUSY, match="another thread"):
                host.unload("sample")
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
        host.load(plugins.nodelete)
        assert host.unload("nodelete") is False
        last = host.last_unloaded
        assert (last.name, last.resident) == ("nodelete", True)
        assert "nodelete" in last.reason
        assert repr(last).startswith("<module_ref.LastUnloaded 'nodelete' resident: ")

    def test_dangling(self, host, plugins):
        """Who points into it is told: here it is ctypes."""
        module = host.load(plugins.sample)
        with module.hold() as lib:
            assert lib.answer() == 1
            assert any("points to answer of sample" in line for line in module.dangling())
        assert host.unload("sample") is True
        assert module.dangling() == []

    def test_gate(self, host, plugins):
        """A ctypes function that is good for ever."""
        prototype = ctypes.CFUNCTYPE(ctypes.c_long)
        module = host.load(plugins.sample)
        gate = module.gate("answer", prototype, -1)
        follows = module.gate("answer", prototype, 2**64 - 3, follow=True)
        with module.hold() as lib:
            address = ctypes.cast(lib.answer, ctypes.c_void_p).value
            by_address = module.gate(address, prototype, -1)
            del lib
        at = [ctypes.cast(one, ctypes.c_void_p).value for one in (by_address, gate)]
        assert at[0] == at[1]
        assert (gate(), follows(), module.refcount) == (1, 1, 0)
        assert host.replace("sample", plugins.sample_2) is True
        assert (gate(), follows()) == (-1, 2)
        assert host.unload("sample") is True
        assert (gate(), follows()) == (-1, -3)
        assert (mr.gate_refused(gate), mr.gate_refused(follows)) == (2, 1)
        with pytest.raises(mr.Released, match="is gone"):
            module.gate("answer", prototype)

    def test_gate_mistakes(self, host, plugins):
        prototype = ctypes.CFUNCTYPE(ctypes.c_long)
        module = host.load(plugins.sample)
        with pytest.raises(OSError, match="no symbol 'question'"):
            module.gate("question", prototype)
        with pytest.raises(OSError, match="no function 'question'"):
            module.gate("question", prototype, follow=True)
        with pytest.raises(TypeError, match="needs the function's name"):
            module.gate(1, prototype, follow=True)
        with pytest.raises(ValueError, match="does not fit"):
            module.gate("answer", prototype, 2**64)
        assert host.unload("sample") is True

    def test_force(self, host, plugins):
        """The holder's code stays, and goes once the holder has left."""
        module = host.load(plugins.sample)
        with module.hold() as lib:
            assert not host.tainted
            assert host.unload("sample", force=True) is False
            assert host.tainted
            assert lib.answer() == 1
            assert "held" in host.last_unloaded.reason
            assert host.reap() == 0
            refuses_entry(module)
            with refused(errno.EBUSY):
                host.close()
        assert mapped(plugins.sample), "the holder does not unmap it"
        assert host.reap() == 1
        assert not mapped(plugins.sample)

    def test_replace(self, host, plugins):
        old = host.load(plugins.sample)
        with old.hold() as lib:
            assert host.replace("sample", plugins.sample_2) is False
            assert lib.answer() == 1
            refuses_entry(old)
            new = host.find("sample")
            assert (new != old, new.path) == (True, str(plugins.sample_2))
            with new.hold() as lib:
                assert lib.answer() == 2
        assert host.replace("sample", plugins.sample) is True
        with refused(errno.ENOENT, FileNotFoundError):
            host.replace("sample", "./no/such.so")
        assert host.unload("sample") is True

    def test_dependencies(self, host, plugins):
        a, b = (host.load(plugins.sample, name) for name in "ab")
        host.add_dependency(a, b)
        with refused(errno.EDEADLK):
            host.add_dependency(b, a)
        for wait in (lambda: host.unload("b"), lambda: host.replace("b", plugins.sample_2)):
            with refused(errno.EWOULDBLOCK, BlockingIOError, "needed by 'a'"):
                wait()
        assert host.unload("a") and host.unload("b")
        with refused(errno.ENOENT, FileNotFoundError):
            host.add_dependency(a, b)

    def test_any_object_for_the_module_will_do_to_put(self, host, plugins):
        assert host.load(plugins.sample).try_get() is True
        host.find("sample").get()
        gc.collect()
        assert host.find("sample").refcount == 2
        host.modules()[0].put()
        host.find("sample").put()
        with pytest.raises(mr.MisuseError, match="surplus put"):
            host.find("sample").put()
        assert host.unload("sample") is True


class TestHold:
    def test_calls(self, host, plugins):
        hold = host.load(plugins.sample).hold()
        with hold as lib:
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
        with hold as again:
            assert again is lib
            assert lib.wide(1 << 40) == 1 << 40
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
        with host.load(plugins.sample).hold() as lib:
            kept = lib.answer
        for use in (kept, lib.answer, lambda: lib.add, lambda: lib["answer"]):
            with pytest.raises(mr.Released, match="with block"):
                use()
        host.unload("sample")
        host.load(plugins.sample_2)
        with pytest.raises(mr.Released):
            kept()
        host.unload("sample")

    def test_several_threads(self, host, plugins):
        hold, barrier = host.load(plugins.sample).hold(), threading.Barrier(4)

        def work():
            for _ in range(50):
                with hold as lib:
                    assert lib.answer() == 1
                barrier.wait(20)

        with threads(*[work] * 4):
            pass
        assert host.unload("sample") is True

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
                stack.enter_context(threads(lambda: results.append(lib.stay())))
                wait_until(lambda: lib.data(ctypes.c_int, "inside").value)
            assert module.refcount == 1
            with pytest.raises(mr.Released):
                lib.let_go()
            assert host.unload("slow", force=True) is False
            assert mapped(plugins.slow)
            let_go()
        assert results == [7]
        assert host.reap() == 1
        assert not mapped(plugins.slow)


class TestEvents:
    def test_order(self, host, plugins):
        seen = []

        @host.on_event
        def listen(event, module):
            assert isinstance(module, mr.Module)
            assert module.state == event
            seen.extend([event, threading.get_ident()])

        host.on_event(lambda event, module: seen.append("first"), 1)
        host.load(plugins.hooked)
        host.unload("hooked")
        me = threading.get_ident()
        assert seen == ["first", "coming", me, "first", "live", me, "first", "going", me]

    @pytest.mark.parametrize(
        ("raised", "number"),
        [
            (ValueError("no room"), errno.ECANCELED),
            (PermissionError(errno.EPERM, "not here"), errno.EPERM),
            (OSError("no number"), errno.ECANCELED),
        ],
    )
    def test_veto(self, host, plugins, raised, number):
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
        assert not mapped(plugins.hooked)
        host.remove_event(veto)

        # What comes next is not blamed for it.
        with pytest.raises(FileNotFoundError) as missing:
            host.load("./no/such.so")
        assert missing.value.__cause__ is None

    def test_veto_of_a_replacement(self, host, plugins):
        old = host.load(plugins.sample)

        @host.on_event
        def veto(event, module):
            raise ValueError("not now")

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

        with threads(lambda: host.load(plugins.sample)):
            assert inside.wait(20)
            with later(leave.set, 0.05):
                host.remove_event(linger)
                assert ended == ["coming"]
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
        with refused(errno.EBUSY, match="'sample'"):
            host.close()
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
            lambda: host.replace_set({"sample": plugins.sample}),
            lambda: host.find("sample"),
            lambda: host.find_wait("sample"),
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
            host.close()
        with refused(errno.EBUSY), mr.Host() as host:
            host.load(plugins.sample)
        with pytest.raises(KeyError), host:
            raise KeyError
        host.unload("sample")
        with host:
            pass
        with pytest.raises(ValueError):
            host.modules()

    def test_during_a_call(self, host, plugins):
        tried = []

        @host.on_event
        def close(event, module):
            with refused(errno.EBUSY):
                host.close()
            tried.append(event)

        host.load(plugins.sample)
        host.remove_event(close)
        assert tried == ["coming", "live"]
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


def test_calls_while_it_is_replaced(host, plugins):
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

    with threads(*(functools.partial(work, index) for index in range(4))):
        try:
            for round in range(200):
                version = plugins.sample if round % 2 else plugins.sample_2
                assert host.replace("sample", version, timeout=20) is True
            wait_until(lambda: all(served))
        finally:
            stop.set()
    assert host.unload("sample") is True
    assert not mapped(plugins.sample)
    assert not mapped(plugins.sample_2)


def test_nothing_is_left(host, plugins):
    """What raises, holds and listens leaves no object behind, and no descriptor."""

    def rounds(number):
        for _ in range(number):
            module = host.load(plugins.sample)
            # A copy, which is made through descriptors.
            host.load(plugins.sample, "copy")
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
            assert host.unload("sample") and host.unload("copy")
        gc.collect()
        return len(os.listdir("/proc/self/fd")), mapped(plugins.sample), len(gc.get_objects())

    rounds(5)
    *before, objects = rounds(5)
    *after, then = rounds(50)
    assert after == before
    assert then <= objects + 20


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs timers")
class TestSignals:
    @pytest.mark.parametrize("timeout", [20, None])
    def test_an_unload_can_be_interrupted(self, host, plugins, timeout):
        module = host.load(plugins.sample)
        with module.hold() as lib:
            with alarm(), pytest.raises(Rung):
                host.unload("sample", timeout=timeout)
            assert module.state == "live"
            assert module.try_get(), "the module is live again"
            module.put()
            assert lib.answer() == 1
        assert host.last_unloaded is None
        assert host.unload("sample") is True

    def test_an_unload_by_force_is_not_undone(self, host, plugins):
        module = host.load(plugins.sample)
        with module.hold() as lib:
            with alarm(), pytest.raises(Rung):
                host.unload("sample", force=True, timeout=None)
            assert (module.state, host.find("sample")) == ("going", None)
            assert lib.answer() == 1
        assert host.reap() == 1

    @pytest.mark.parametrize("timeout", [20, None])
    def test_a_replacement_can_be_interrupted(self, host, plugins, timeout):
        old = host.load(plugins.sample)
        with old.hold() as lib:
            with alarm(), pytest.raises(Rung):
                host.replace("sample", plugins.sample_2, timeout=timeout)
            assert lib.answer() == 1
            refuses_entry(old)
            with host.find("sample").hold() as new:
                assert new.answer() == 2
        assert host.reap() == 1
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
        host.load(plugins.sample)
        for wait in (
            lambda: host.replace("sample", plugins.sample_2, timeout=None),
            lambda: host.unload("sample", timeout=20),
        ):
            module = host.find("sample")
            module.try_get()
            with alarm(lambda: rung.append(1), 0.02, 0.02), later(module.put, 0.3):
                assert wait() is True
            assert rung
            rung.clear()

    def test_their_time_is_up_all_the_same(self, host, plugins):
        rung = []
        module = host.load(plugins.sample)
        with module.hold(), alarm(lambda: rung.append(time.monotonic()), 0.02, 0.02):
            before, started = len(rung), time.monotonic()
            with pytest.raises(TimeoutError):
                host.unload("sample", timeout=0.3)
            assert module.state == "live"
            assert time.monotonic() - started >= 0.3
            assert len(rung) > before
            assert host.replace("sample", plugins.sample_2, timeout=0.3) is False
            assert time.monotonic() - started >= 0.6
        assert host.reap() == 1
        assert host.unload("sample") is True

    def test_a_handler_uses_the_host(self, host, plugins):
        tried = []

        def use():
            for call in (lambda: host.unload("sample"), host.close):
                with refused(errno.EBUSY):
                    call()
                tried.append(call)
            host.load(plugins.sample_2, "other")
            ring()

        module = host.load(plugins.sample)
        with module.hold(), alarm(use), pytest.raises(Rung):
            host.unload("sample", timeout=None)
        assert len(tried) == 2
        assert host.unload("other") and host.unload("sample")

    @pytest.mark.parametrize(
        ("wait", "then"),
        [
            ("unload('sample', timeout=None)", "live True"),
            ("replace('sample', sys.argv[2], timeout=None)", "going False"),
            ("shutdown(timeout=None)", "live True"),
        ],
        ids=["unload", "replace", "shutdown"],
    )
    def test_control_c(self, plugins, wait, then):
        code = f"""{CONTROL_C}
host = module_ref.Host()
module = host.load(sys.argv[1])
module.try_get()
try:
    host.{wait}
except KeyboardInterrupt:
    print(module.state, module == host.find("sample"))
"""
        assert python(code, plugins.sample, plugins.sample_2) == f"{then}\n"


def test_exit_with_modules(plugins):
    """The interpreter ends while a host has modules and callbacks, and a thread waits."""
    code = """
import module_ref, sys, threading, time
host = module_ref.Host()
host.on_event(lambda event, module: None)
module = host.load(sys.argv[1])
module.try_get()
hold = module.hold()
lib = hold.__enter__()
wait = lambda: host.unload('sample', timeout=None)
threading.Thread(target=wait, daemon=True).start()
while module.state == 'live': time.sleep(0.001)
print(lib.answer())
"""
    assert python(code, plugins.sample) == "1\n"


# As an extension module that calls Python when it is loaded.
CALLS_PYTHON = """
#include <unistd.h>
int PyGILState_Ensure(void);
void PyGILState_Release(int state);
__attribute__((constructor)) static void on_load(void) {
    usleep(200000);
    PyGILState_Release(PyGILState_Ensure());
}
"""


def test_first_lookups_while_a_constructor_needs_the_interpreter(plugins, build):
    """None waits for the dynamic linker with the interpreter's lock, which the constructor needs."""
    code = """
import module_ref, sys, threading, time
host = module_ref.Host()
plugin = host.load(sys.argv[1], "plugin")
def look():
    print(host.find("plugin") == plugin, host.modules()[-1] == plugin, "plugin" in host.list())
loader = threading.Thread(target=host.load, args=[sys.argv[2], "calls"])
looker = threading.Thread(target=look)
loader.start()
while "/calls.so" not in open("/proc/self/maps").read(): time.sleep(0.01)
looker.start()
looker.join()
loader.join()
"""
    assert python(code, plugins.sample, build("calls", CALLS_PYTHON)) == "True True True\n"
