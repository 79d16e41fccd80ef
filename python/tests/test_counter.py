"""The counter from Python: what it answers, and that it holds between threads."""

import errno
import functools
import os
import signal
import threading
import time

import module_ref
import pytest
from module_ref import MisuseError, ModuleRef, Released
from oracle import expected_mode
from support import CONTROL_C, Rung, alarm, later, python, threads, wait_until


class TestAnswers:
    def test_release(self, ref):
        assert ref.try_get()
        assert ref.try_release() is False
        assert not ref.released
        ref.put()
        assert ref.try_release() is True
        assert ref.released
        assert ref.count == -1
        assert ref.try_get() is False

    def test_second_release_is_told_so(self, ref):
        assert ref.try_release()
        with pytest.raises(BlockingIOError) as told:
            ref.try_release()
        assert told.value.errno == errno.EALREADY
        with pytest.raises(BlockingIOError):
            ref.drain(timeout=0)

    def test_reinit(self, ref):
        with pytest.raises(OSError, match="in use") as refused:
            ref.reinit()
        assert refused.value.errno == errno.EBUSY
        assert ref.try_release()
        ref.reinit()
        assert ref.try_get()
        ref.put()

    def test_hold(self, ref):
        with ref.hold() as held:
            assert held is ref
            assert ref.count == 1
            assert ref.try_release() is False
        assert ref.count == 0

    def test_hold_of_a_released_one(self, ref):
        assert ref.try_release()
        with pytest.raises(Released):
            with ref.hold():
                pytest.fail("entered")

    def test_drain(self, ref):
        assert ref.drain() is True
        ref.reinit()
        with ref.hold():
            assert ref.drain(timeout=0) is False
            assert ref.drain(0.01) is False
            assert ref.try_get() is True
            ref.put()
        assert ref.drain(timeout=1e300) is True

    def test_mode(self):
        assert ModuleRef().mode == "atomic"
        assert ModuleRef(per_cpu=True).mode == expected_mode()

    def test_repr(self):
        assert repr(ModuleRef()) == "<module_ref.ModuleRef count=0 mode=atomic>"

    def test_version(self):
        assert module_ref.__version__.count(".") == 2


class TestBadInput:
    def test_put_without_get(self, ref):
        with pytest.raises(MisuseError, match="surplus put"):
            ref.put()
        assert ref.count == 0
        assert ref.try_release()

    def test_get_on_a_released_one(self, ref):
        assert ref.try_release()
        with pytest.raises(MisuseError, match="released counter"):
            ref.get()
        assert ref.released

    @pytest.mark.parametrize("timeout", [-1, -0.001, float("nan"), float("-inf")])
    def test_timeout(self, ref, timeout):
        with pytest.raises(ValueError, match="0 or more seconds"):
            ref.drain(timeout=timeout)
        assert ref.try_get()

    @pytest.mark.parametrize("timeout", ["1", [], object()])
    def test_timeout_of_another_type(self, ref, timeout):
        with pytest.raises(TypeError):
            ref.drain(timeout)

    def test_arguments(self):
        with pytest.raises(TypeError):
            ModuleRef(True)


class TestThreads:
    def test_nobody_is_inside_after_a_release(self, ref):
        """Workers use a resource that an unloader takes away again and again."""
        there, stop, served, unloads = [True], threading.Event(), [0] * 7, []

        def work(index):
            while not stop.is_set():
                if ref.try_get():
                    assert there[0], "used after its release"
                    served[index] += 1
                    assert there[0], "taken away from under a holder"
                    ref.put()

        def unload():
            try:
                for _ in range(20):
                    before = sum(served)
                    while sum(served) == before:
                        time.sleep(0)
                    if ref.drain(timeout=5):
                        there[0] = False
                        time.sleep(0)
                        there[0] = True
                        unloads.append(1)
                        ref.reinit()
            finally:
                stop.set()

        with threads(unload, *[functools.partial(work, index) for index in range(7)]):
            pass
        assert len(unloads) > 0
        assert ref.count == 0

    def test_one_winner(self, ref):
        for _ in range(50):
            won, barrier = [], threading.Barrier(8)

            def contend(won=won, barrier=barrier):
                barrier.wait()
                try:
                    if ref.try_release():
                        won.append(1)
                except OSError as told:
                    assert told.errno in (errno.EALREADY, errno.EBUSY)

            with threads(*[contend] * 8):
                pass
            assert won == [1]
            ref.reinit()

    def test_gets_and_puts_add_up(self, ref):
        def visit():
            for _ in range(5000):
                with ref.hold():
                    pass

        with threads(*[visit] * 16):
            pass
        assert ref.count == 0
        assert ref.try_release()

    def test_drain_lets_other_threads_run(self, ref):
        """The holder is a Python thread: with the GIL held the drain could not end."""
        assert ref.try_get()
        with later(ref.put):
            assert ref.drain() is True

    def test_two_drains(self, ref):
        assert ref.try_get()
        drained = []
        with threads(lambda: drained.append(ref.drain())):
            # Until the counter is closed.
            wait_until(lambda: not ref.try_get() or ref.put())
            with pytest.raises(OSError) as told:
                ref.drain()
            assert told.value.errno == errno.EBUSY
            with pytest.raises(Released), ref.hold():
                pytest.fail("entered")
            ref.get()  # a holder may
            ref.put()
            ref.put()
        assert drained == [True]


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs timers")
class TestSignals:
    def test_a_drain_can_be_interrupted(self, ref):
        assert ref.try_get()
        with alarm(), pytest.raises(Rung):
            ref.drain()
        assert ref.try_get(), "the counter is live again"
        assert ref.count == 2

    def test_a_drain_goes_on_after_a_signal(self, ref):
        rung = []
        assert ref.try_get()
        with alarm(lambda: rung.append(1), 0.02, 0.02), later(ref.put, 0.3):
            assert ref.drain() is True
        assert rung

    def test_control_c(self):
        code = f"""{CONTROL_C}
ref = module_ref.ModuleRef()
ref.get()
try:
    ref.drain()
except KeyboardInterrupt:
    assert ref.try_get()
    print("interrupted")
"""
        assert python(code) == "interrupted\n"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_fork(ref):
    """The child has its own copy, references included."""
    assert ref.try_get()
    child = os.fork()
    if child == 0:
        ok = ref.count == 1 and ref.try_release() is False
        ref.put()
        os._exit(0 if ok and ref.drain(1) else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert ref.count == 1
