"""Reference counters that can be shut, and a host for modules that are held by them.

Take code out of a running multithreaded program without stopping a thread: users
hold a reference while they use it, and whoever unloads it shuts the door and waits
for the last one to leave.

ModuleRef is the counter. Host loads, finds, lists, unloads and replaces shared objects.

>>> ref = ModuleRef()
>>> with ref.hold():  # a user: may I use this? it stays while I do
...     ref.try_release()  # an unloader: may it go now?
False
>>> ref.drain(timeout=1.0)  # or it shuts the door, and waits for the last user
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
]
