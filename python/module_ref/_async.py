"""Waiting for a drain or an unload in an asyncio event loop, without a thread.

What was begun has a descriptor, which is readable when it is over; the loop waits for that
as for a socket.
"""

from __future__ import annotations

import asyncio

from ._native import Draining, Host, ModuleRef, Unloading

__all__ = ["drain", "unload"]


async def drain(ref: ModuleRef, timeout: float | None) -> bool:
    """See ModuleRef.drain_async()."""
    return await _outcome(ref._drain_begin(), timeout)


async def unload(host: Host, name: str, force: bool, timeout: float | None) -> bool:
    """See Host.unload_async()."""
    if timeout == 0:
        return host.unload(name, force)
    return await _outcome(host._unload_begin(name, force), timeout)


async def _outcome(begun: Draining | Unloading, timeout: float | None) -> bool:
    """What has become of it in the end, or when the time was up."""
    loop = asyncio.get_running_loop()
    deadline = None if timeout is None else loop.time() + timeout
    try:
        while (outcome := begun.finish()) is None:
            if deadline is not None and loop.time() >= deadline:
                return begun.time_is_up()
            await _readable(loop, begun.fileno(), deadline)
        return outcome
    finally:
        # If the task was cancelled, or whatever else has ended the wait.
        begun.abandon()


async def _readable(
    loop: asyncio.AbstractEventLoop, descriptor: int, deadline: float | None
) -> None:
    """Until it is, or until the deadline."""
    over = loop.create_future()

    def wake() -> None:
        if not over.done():
            over.set_result(None)

    timer: asyncio.TimerHandle | None = None
    loop.add_reader(descriptor, wake)
    try:
        if deadline is not None:
            timer = loop.call_at(deadline, wake)
        await over
    finally:
        loop.remove_reader(descriptor)
        if timer is not None:
            timer.cancel()
