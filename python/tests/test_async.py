"""Drains and unloads in asyncio: without a thread, and with nothing left behind."""

import asyncio
import contextlib
import errno
import functools
import gc
import inspect
import os
import resource
import threading

import module_ref as mr
import pytest
from module_ref import ModuleRef
from support import threads

HOOKED = """
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <unistd.h>
int init_module(void) { return 0; }
void cleanup_module(void)
{
    const char *path = getenv("MODULE_REF_FIFO");
    struct pollfd fifo = { path ? open(path, O_RDONLY | O_NONBLOCK) : -1, POLLIN };
    poll(&fifo, 1, path ? 10000 : 0);
    close(fifo.fd);
}
int answer(void) { return 42; }
"""


@pytest.fixture(autouse=True)
def descriptors():
    """Whatever a test does, it leaves no descriptor."""
    asyncio.run(asyncio.sleep(0))
    gc.collect()
    before = sorted(os.listdir("/proc/self/fd"))
    yield
    gc.collect()
    assert sorted(os.listdir("/proc/self/fd")) == before


@pytest.fixture
def built(build):
    return build("hooked/plugin", HOOKED)


@pytest.fixture
def host(built):
    host = mr.Host()
    host.load(built)
    yield host
    if host.find("plugin"):
        host.unload("plugin", force=True)
    host.close()


def live(ref, held):
    assert ref.count == held
    assert ref.try_get()
    ref.put()
    return True


async def begin(coroutine):
    """A task that has come to wait."""
    task = asyncio.ensure_future(coroutine)
    for _ in range(5):
        await asyncio.sleep(0)
    return task


async def cancel(task):
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


class TestDrain:
    def test_the_loop_goes_on_until_the_last_put(self, ref):
        async def main():
            draining = await begin(ref.drain_async())
            assert not ref.try_get(), "it is closed"
            assert not draining.done()
            ref.put()
            assert not draining.done()
            ref.put()
            return await draining

        assert ref.try_get()
        ref.get()
        before = threading.active_count()
        assert asyncio.run(main()) is True
        assert threading.active_count() == before
        ref.reinit()
        assert live(ref, 0)

    def test_a_put_in_another_thread(self, ref):
        async def main():
            draining = await begin(ref.drain_async())
            threading.Thread(target=ref.put).start()
            return await draining

        assert ref.try_get()
        assert asyncio.run(main()) is True

    @pytest.mark.parametrize("timeout", [0, 0.01])
    def test_after_the_timeout_it_is_live(self, ref, timeout):
        assert ref.try_get()
        assert asyncio.run(ref.drain_async(timeout)) is False
        assert live(ref, 1)
        ref.put()
        assert asyncio.run(ref.drain_async(timeout)) is True

    @pytest.mark.parametrize("timeout", [-1, float("nan")])
    def test_a_timeout_that_makes_no_sense(self, ref, host, timeout):
        for wait in (ref.drain_async, functools.partial(host.unload_async, "plugin")):
            with pytest.raises(ValueError, match="timeout must be 0 or more"):
                wait(timeout=timeout)
        assert live(ref, 0)

    def test_cancelled(self, ref):
        async def main():
            draining = await begin(ref.drain_async())
            assert not ref.try_get()
            await cancel(draining)
            assert live(ref, 1)
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(ref.drain_async(), 0.01)
            assert live(ref, 1)
            if hasattr(asyncio, "timeout"):
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(0.01):
                        await ref.drain_async()
                assert live(ref, 1)
            # A release that nobody is told of is undone.
            draining = await begin(ref.drain_async())
            ref.put()
            await cancel(draining)

        assert ref.try_get()
        asyncio.run(main())
        assert live(ref, 0)

    def test_the_loop_ends(self, ref):
        assert ref.try_get()
        assert asyncio.run(begin(ref.drain_async())).cancelled()
        assert live(ref, 1)

    def test_left_in_the_middle(self, ref):
        async def main():
            coroutine = ref.drain_async()
            assert inspect.iscoroutine(coroutine)
            coroutine.close()
            assert live(ref, 1)
            coroutine = ref.drain_async()
            assert coroutine.send(None) is not None, "it waits"
            assert not ref.try_get()
            coroutine.close()
            assert live(ref, 1)
            coroutine = ref.drain_async()
            coroutine.send(None)
            del coroutine
            gc.collect()

        assert ref.try_get()
        asyncio.run(main())
        assert live(ref, 1)

    def test_one_at_a_time(self, ref):
        async def main():
            first = await begin(ref.drain_async())
            with pytest.raises(OSError, match="another thread is releasing") as refused:
                await ref.drain_async()
            assert refused.value.errno == errno.EBUSY
            ref.put()
            assert await first is True
            with pytest.raises(BlockingIOError) as refused:
                await ref.drain_async()
            assert refused.value.errno == errno.EALREADY

        assert ref.try_get()
        asyncio.run(main())

    def test_several_at_once(self):
        async def main():
            draining = [await begin(ref.drain_async(1e300)) for ref in refs]
            for ref in refs[::2]:
                ref.put()
            await asyncio.wait(draining[::2])
            assert not any(task.done() for task in draining[1::2])
            for ref in refs[1::2]:
                ref.put()
            return await asyncio.gather(*draining)

        refs = [ModuleRef(per_cpu=bool(i % 2)) for i in range(40)]
        assert all(ref.try_get() for ref in refs)
        assert asyncio.run(main()) == [True] * len(refs)

    def test_loops_in_threads(self):
        def run(i):
            async def main():
                for _ in range(50):
                    assert ref.try_get()
                    asyncio.get_running_loop().call_soon(ref.put)
                    assert await ref.drain_async(timeout=60)
                    ref.reinit()

            ref = ModuleRef(per_cpu=bool(i % 2))
            asyncio.run(main())
            done.append(i)

        done = []
        with threads(*(functools.partial(run, i) for i in range(4))):
            pass
        assert len(done) == 4

    def test_no_descriptor(self, ref):
        async def main():
            lowest = os.dup(0)
            os.close(lowest)
            soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
            resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, hard))
            try:
                with pytest.raises(OSError, match="no descriptor") as refused:
                    await ref.drain_async()
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            assert refused.value.errno == errno.EMFILE
            assert live(ref, 0)

        asyncio.run(main())

    def test_a_loop_without_readers(self, ref):
        class Loop(asyncio.SelectorEventLoop):
            def add_reader(self, fd, callback, *args):
                if inspect.currentframe().f_back.f_globals["__name__"] == "module_ref._async":
                    raise NotImplementedError
                return super().add_reader(fd, callback, *args)

        assert ref.try_get()
        loop = Loop()
        with contextlib.closing(loop), pytest.raises(NotImplementedError):
            loop.run_until_complete(ref.drain_async())
        assert live(ref, 1)


class TestUnload:
    def test_the_loop_goes_on_until_the_last_reference(self, host):
        async def main():
            unloading = await begin(host.unload_async("plugin"))
            assert module.state == "going"
            assert not module.try_get()
            assert not unloading.done()
            with pytest.raises(OSError, match="finish or cancel") as refused:
                host.unload("plugin")
            assert refused.value.errno == errno.EBUSY
            with pytest.raises(OSError, match="still has modules"):
                host.close()
            module.put()
            return await unloading

        told = []
        host.on_event(lambda event, of: told.append((event, of, threading.get_ident())))
        module = host.find("plugin")
        assert module.try_get()
        assert asyncio.run(main()) is True
        assert told == [("going", module, threading.get_ident())]

    @pytest.mark.parametrize("timeout", [0, 0.01])
    def test_errors_are_those_of_unload(self, host, timeout):
        def unload():
            asyncio.run(host.unload_async("plugin", timeout=timeout))

        def error(call):
            with pytest.raises(OSError, match="plugin") as raised:
                call()
            return type(raised.value), raised.value.errno, str(raised.value)

        with host.find("plugin").hold() as lib:
            there = error(lambda: host.unload("plugin", timeout=timeout))
            assert error(unload) == there
            assert there[0] is (TimeoutError if timeout else BlockingIOError)
            assert lib.answer() == 42
            assert host.find("plugin").state == "live"
        unload()
        assert error(unload)[0] is FileNotFoundError

    @pytest.mark.parametrize("timeout", [0, 0.01])
    def test_by_force_and_at_once(self, host, timeout):
        module = host.find("plugin")
        assert module.try_get()
        assert asyncio.run(host.unload_async("plugin", True, timeout)) is False
        assert "1 reference" in host.last_unloaded.reason
        assert host.tainted
        module.put()
        assert host.reap() == 1

    def test_other_threads_run_meanwhile(self, host, tmp_path, monkeypatch):
        """The exit function waits for another Python thread."""

        async def main(fifo):
            module = host.find("plugin")
            assert module.try_get()
            unloading = await begin(host.unload_async("plugin"))
            monkeypatch.setenv("MODULE_REF_FIFO", str(fifo))
            module.put()
            with threads(lambda: fifo.write_bytes(b"1")):
                return await unloading

        os.mkfifo(tmp_path / "fifo")
        assert asyncio.run(main(tmp_path / "fifo")) is True

    @pytest.mark.parametrize("force", [False, True])
    def test_cancelled(self, host, force):
        async def main():
            unloading = await begin(host.unload_async("plugin", force))
            assert module.state == "going"
            await cancel(unloading)
            assert (module.state, module.refcount) == ("live", 1)
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(host.unload_async("plugin", force), 0.01)
            assert (module.state, module.refcount) == ("live", 1)
            # The last reference goes in the moment of the cancellation.
            unloading = await begin(host.unload_async("plugin", force))
            module.put()
            await cancel(unloading)
            assert (module.state, module.refcount) == ("live", 0)

        module = host.find("plugin")
        assert module.try_get()
        asyncio.run(main())
        assert not host.tainted

    def test_several_at_once(self, host, built):
        async def main():
            unloading = [await begin(host.unload_async(m.name)) for m in modules]
            for module in reversed(modules):
                module.put()
            return await asyncio.gather(*unloading)

        modules = [host.load(built, f"m{i}", per_cpu=bool(i % 2)) for i in range(6)]
        assert all(module.try_get() for module in modules)
        assert asyncio.run(main()) == [True] * len(modules)
        assert [module.name for module in host.modules()] == ["plugin"]

    def test_a_closed_host(self):
        host = mr.Host()
        host.close()
        with pytest.raises(ValueError, match="closed"):
            asyncio.run(host.unload_async("plugin"))

    def test_a_host_that_is_gone_meanwhile(self, built):
        """What was begun ends all the same."""
        host = mr.Host()
        module = host.load(built)
        assert module.try_get()
        begun = host._unload_begin("plugin", False)
        assert begun.finish() is None
        with contextlib.suppress(OSError):
            host.close()
        del host
        gc.collect()
        module.put()
        assert begun.finish() is True
        assert module.state == "going"
