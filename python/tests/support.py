"""What the tests share: errors, threads beside a block, signals during one, programs of their own."""

import contextlib
import signal
import subprocess
import sys
import threading
import time

import pytest


def wait_until(condition, seconds=20):
    """Wait for what another thread is about to do."""
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "waited in vain"
        time.sleep(0.001)


@contextlib.contextmanager
def threads(*bodies):
    """Threads beside the block; what one of them raises is raised at the end of the block."""
    raised = []

    def guarded(body):
        try:
            body()
        except BaseException as error:
            raised.append(error)

    running = [threading.Thread(target=guarded, args=(body,), daemon=True) for body in bodies]
    for thread in running:
        thread.start()
    try:
        yield
    finally:
        for thread in running:
            thread.join(60)
    assert not any(thread.is_alive() for thread in running)
    if raised:
        raise raised[0]


@contextlib.contextmanager
def later(body, seconds=0.1):
    """Has another Python thread do it while the block waits."""
    timer = threading.Timer(seconds, body)
    timer.start()
    try:
        yield
    finally:
        timer.join()


@contextlib.contextmanager
def refused(number, kind=OSError, match=None):
    """An OSError of exactly that class, with that errno."""
    with pytest.raises(OSError, match=match) as raised:
        yield raised
    assert (type(raised.value), raised.value.errno) == (kind, number)


class Rung(Exception):
    """What handlers of signals raise here."""


def ring():
    raise Rung


@contextlib.contextmanager
def alarm(handler=ring, seconds=0.5, again=0.0):
    """A signal while the block waits, which the handler is called for."""
    before = signal.signal(signal.SIGALRM, lambda *_: handler())
    try:
        signal.setitimer(signal.ITIMER_REAL, seconds, again)
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def python(code, *arguments):
    """Runs it in an interpreter of its own, which has to end well, and returns what it prints."""
    command = [sys.executable, "-c", code, *arguments]
    run = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (run.returncode, run.stderr) == (0, "")
    return run.stdout


# A shell starts what runs in the background with SIGINT ignored.
CONTROL_C = """
import module_ref, os, signal, sys, threading
signal.signal(signal.SIGINT, signal.default_int_handler)
threading.Timer(2, os.kill, (os.getpid(), signal.SIGINT)).start()
"""
