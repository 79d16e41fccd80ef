"""Tests of a C plugin that run in one process, each with the plugin freshly loaded."""

import threading

import module_ref
import pytest
from conftest import is_mapped, typed


def test_what_was_pushed_last_is_popped_first(stack):
    with stack.hold() as library:
        lib = typed(library)
        assert [lib.push(1), lib.push(2)] == [0, 0]
        assert [lib.pop(), lib.pop()] == [2, 1]


def test_a_full_stack_takes_no_more(stack):
    with stack.hold() as library:
        lib = typed(library)
        # The variables of the test before are gone with its load.
        assert lib.depth() == 0
        assert [lib.push(i) for i in range(5)] == [0, 0, 0, 0, -1]


def test_the_plugin_stays_while_it_is_held(stack, host, first):
    with stack.hold():
        with pytest.raises(BlockingIOError):
            host.unload("stack")
        assert is_mapped(first)


def test_hot_reload(host, first, fixed):
    """The fixed version comes in under the same name, while a thread goes on calling."""
    host.load(first, name="stack")
    begun, stop, wrong = threading.Event(), threading.Event(), []

    def use():
        while not stop.is_set():
            try:
                # Whichever version is in service.
                with host.find("stack").hold() as library:
                    lib = typed(library)
                    if lib.push(7) != 0 or lib.pop() != 7:
                        wrong.append("a push and a pop")
            except module_ref.Released:
                pass  # It was replaced between the two: look again.
            begun.set()

    thread = threading.Thread(target=use)
    thread.start()
    try:
        assert begun.wait(10)
        assert host.replace("stack", fixed, timeout=10.0), host.last_unloaded
        assert not is_mapped(first), "the old version is gone"
        assert is_mapped(fixed)
    finally:
        stop.set()
        thread.join()
    assert not wrong
    with host.find("stack").hold() as library:
        assert typed(library).pop() == -1, "the bug is fixed"
    assert host.unload("stack", timeout=5.0)
    assert not is_mapped(fixed)


def test_what_cannot_be_loaded_says_why(host, tmp_path):
    nothing = tmp_path / "nothing.so"
    with pytest.raises(FileNotFoundError, match="nothing"):
        host.load(nothing)
    nothing.write_text("no object")
    with pytest.raises(OSError, match="nothing"):
        host.load(nothing)
    assert host.modules() == []
