"""How counters have to count here. The library is not asked: what it says is what is tested."""

import ctypes
import platform
import sys

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


def expected_mode() -> str:
    if (sys.platform, platform.machine()) != ("linux", "x86_64") or sys.maxsize < 2**32:
        return "atomic"
    libc = ctypes.CDLL(None)
    per_cpu = has_sequences(libc) and has_barrier(libc)
    return "percpu" if per_cpu else "atomic"
