"""How counters have to count here. The library is not asked: what it says is what is tested."""

import ctypes
import os
import platform
import sys
from pathlib import Path

QUERY, BARRIER, REGISTER = 0, 1 << 7, 1 << 8
SYS_MEMBARRIER = 324


def has_sequences(libc: ctypes.CDLL) -> bool:
    """glibc from 2.35 on, unless told not to."""
    try:
        return ctypes.c_uint.in_dll(libc, "__rseq_size").value != 0
    except ValueError:
        return False


def has_barrier(libc: ctypes.CDLL) -> bool:
    commands = libc.syscall(SYS_MEMBARRIER, QUERY, 0, 0)
    return commands >= 0 and commands & BARRIER != 0 and commands & REGISTER != 0


def cpus_are_listed() -> bool:
    possible = set()
    try:
        for span in Path("/sys/devices/system/cpu/possible").read_text().split(","):
            first, _, last = span.partition("-")
            possible.update(range(int(first), int(last or first) + 1))
    except (OSError, ValueError):
        return False
    return os.sched_getaffinity(0) <= possible


def expected_mode() -> str:
    if (sys.platform, platform.machine()) != ("linux", "x86_64") or sys.maxsize < 2**32:
        return "atomic"
    libc = ctypes.CDLL(None)
    per_cpu = has_sequences(libc) and has_barrier(libc) and cpus_are_listed()
    return "percpu" if per_cpu else "atomic"
