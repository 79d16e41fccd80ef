"""Reference counters that can be closed, and a host for modules that are held by them.

Take code out of a running multithreaded program without stopping a thread: users hold a
reference while they use it, and the thread that unloads it closes the counter, so that new
references are refused, and waits for the last one to be given back.

ModuleRef is the counter. Host loads, finds, lists, unloads and replaces shared objects. check()
looks at a shared object's file before that.

>>> ref = ModuleRef()
>>> with ref.hold():  # a user: may I use this? it stays while I do
...     ref.try_release()  # an unloader: may it go now?
False
>>> ref.drain(timeout=1.0)  # or it closes the counter, and waits for the last user
True
"""

from ._library import Function, HeldLibrary
from ._native import (
    Hold,
    Host,
    LastUnloaded,
    MisuseError,
    Module,
    ModuleHold,
    ModuleRef,
    Released,
    __version__,
    check,
    crash_reports,
    describe_address,
    gate_refused,
)

__all__ = [
    "Function",
    "Hold",
    "Host",
    "LastUnloaded",
    "HeldLibrary",
    "MisuseError",
    "Module",
    "ModuleHold",
    "ModuleRef",
    "Released",
    "__version__",
    "check",
    "crash_reports",
    "describe_address",
    "gate_refused",
]
