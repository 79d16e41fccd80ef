"""What ``with module.hold() as lib`` gives: a module as a ctypes library.

A ctypes.CDLL calls whatever is at an address, also when that is gone. Here every call asks
for the module first, and keeps it until it returns.
"""

from __future__ import annotations

import _ctypes
import ctypes
import typing

from ._native import Use

__all__ = ["Function", "HeldLibrary"]

_Data = typing.TypeVar("_Data", bound="_ctypes._CDataType")


@typing.final
class Function(_ctypes.CFuncPtr):
    """A function of a module, as ctypes has it: argtypes, restype and errcheck can be set.

    Outside of the with block calling it raises Released. A call that is under way when the
    block ends keeps the module until it returns.

    >>> plugin = Host().load("./plugin.so")
    >>> with plugin.hold() as lib:
    ...     lib.half.argtypes, lib.half.restype = [ctypes.c_double], ctypes.c_double
    ...     lib.half(3)
    1.5
    >>> lib.half(3)
    Traceback (most recent call last):
        ...
    module_ref.Released: module 'plugin' is not held: ...
    """

    # As for the functions of a CDLL: other Python threads run during a call.
    _flags_ = _ctypes.FUNCFLAG_CDECL
    _restype_ = ctypes.c_int
    __name__: str
    _use: Use

    def __call__(self, *args: typing.Any) -> typing.Any:
        return self._use.call(super().__call__, args)


@typing.final
class HeldLibrary:
    """A module as a ctypes library, for the length of a with block.

    ``lib.name`` is a function, always the same object; ``lib["name"]`` is a new one each time,
    and works for every name. What the module does not have is an AttributeError, and
    outside of the block everything raises Released.

    >>> plugin = Host().load("./plugin.so")
    >>> with plugin.hold() as lib:
    ...     lib.answer(), lib["answer"]()
    ...     lib.question()
    Traceback (most recent call last):
        ...
    AttributeError: ...
    >>> lib
    <module_ref.HeldLibrary 'plugin' not held>
    """

    _use: Use
    _name: str

    def __init__(self, use: Use, name: str) -> None:
        self._use = use
        self._name = name

    def __getattr__(self, name: str) -> Function:
        if name.startswith("__") and name.endswith("__"):
            raise AttributeError(name)
        function = self[name]
        # One of them, where several threads ask at once.
        return self.__dict__.setdefault(name, function)  # type: ignore[no-any-return]

    def __getitem__(self, name: str) -> Function:
        function = Function(self._use.address(name))
        function._use = self._use
        function.__name__ = name
        return function

    def data(self, ctype: type[_Data], name: str) -> _Data:
        """A variable of the module, as ctypes has it: ``lib.data(ctypes.c_int, "count").value``.

        Nothing checks that it is used inside of the block only.

        >>> plugin = Host().load("./plugin.so")
        >>> with plugin.hold() as lib:
        ...     lib.data(ctypes.c_int, "count").value
        7
        """
        return typing.cast(_Data, ctype.from_address(self._use.address(name)))

    def __repr__(self) -> str:
        held = "held" if self._use.held else "not held"
        return f"<module_ref.HeldLibrary {self._name!r} {held}>"
