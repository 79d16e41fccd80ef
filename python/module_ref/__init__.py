"""Reference counters that can be shut.

Take code out of a running multithreaded program without stopping a thread: users
hold a reference while they use it, and whoever unloads it shuts the door and waits
for the last one to leave.
"""

from ._native import Hold, MisuseError, ModuleRef, Released, __version__

__all__ = ["Hold", "MisuseError", "ModuleRef", "Released", "__version__"]
