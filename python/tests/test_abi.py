"""The binary interface of libmodule_ref.so, from a program that knows it by numbers alone.

The library is the one that MODULE_REF_LIBRARY names, or the checkout's target/release.
"""

import ctypes
import errno
import os
import pathlib
import re
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
LIBRARY = pathlib.Path(
    os.environ.get("MODULE_REF_LIBRARY") or ROOT / "target" / "release" / "libmodule_ref.so"
)
HEADER = ROOT / "include" / "module_ref.h"
EXPORTED = ROOT / "abi" / "exported"

pytestmark = pytest.mark.skipif(
    not LIBRARY.is_file() and "MODULE_REF_LIBRARY" not in os.environ,
    reason=f"there is no {LIBRARY.name} (cargo build --release, or set MODULE_REF_LIBRARY)",
)

ATOMIC, PERCPU = 0, 1
SURPLUS_PUT, OVERFLOW, LEAKED, STALE_GET = range(4)
BASE, OPEN, DRAINING, PERCPU_FLAG, REF = 1, 2, 4, 8, 16
LIVE = BASE | OPEN

HANDLER = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)


class Ref(ctypes.Structure):
    """`struct module_ref`. ctypes has no alignment before Python 3.13: see `new`."""

    _fields_ = [("word", ctypes.c_uint64), ("slots", ctypes.c_size_t)]


@pytest.fixture(scope="module")
def library():
    lib = ctypes.CDLL(os.fspath(LIBRARY), use_errno=True)
    ref = ctypes.POINTER(Ref)
    for name, result, *arguments in [
        ("init", ctypes.c_int, ref),
        ("init_percpu", ctypes.c_int, ref),
        ("reinit", ctypes.c_int, ref),
        ("destroy", None, ref),
        ("mode", ctypes.c_int, ref),
        ("try_get", ctypes.c_bool, ref),
        ("get", None, ref),
        ("put", None, ref),
        ("count", ctypes.c_int64, ref),
        ("try_release", ctypes.c_int, ref),
        ("drain", ctypes.c_int, ref, ctypes.c_int64),
        ("set_misuse_handler", ctypes.c_void_p, HANDLER),
        ("version", ctypes.c_char_p),
    ]:
        function = getattr(lib, f"module_ref_{name}")
        function.restype, function.argtypes = result, arguments
    return lib


@pytest.fixture
def reports(library):
    seen = []

    @HANDLER
    def note(what, ref, caller):
        seen.append((what, ref))

    library.module_ref_set_misuse_handler(note)
    yield seen
    library.module_ref_set_misuse_handler(HANDLER(0))


def new(word=0, slots=0):
    """A counter's 16 bytes, aligned to 16 in memory that it keeps."""
    memory = ctypes.create_string_buffer(ctypes.sizeof(Ref) + 15)
    at = (ctypes.addressof(memory) + 15) & ~15
    ref = Ref.from_buffer(memory, at - ctypes.addressof(memory))
    ref.word, ref.slots = word, slots
    return ref


@pytest.mark.parametrize("init", ["init", "init_percpu"])
def test_a_counter_is_these_16_bytes(library, init):
    assert ctypes.sizeof(Ref) == 16
    memory = ctypes.create_string_buffer(b"\x6b" * 80, 80)
    start = -ctypes.addressof(memory) % 16 + 16
    ref = Ref.from_buffer(memory, start)
    assert getattr(library, f"module_ref_{init}")(ref) == 0
    assert b"\x6b" * 8 not in bytes(ref)
    assert memory.raw[:start] == b"\x6b" * start
    assert memory.raw[start + 16 :] == b"\x6b" * (80 - start - 16)
    library.module_ref_destroy(ref)


@pytest.mark.skipif(sys.byteorder != "little", reason="the bytes of a little-endian machine")
def test_the_bytes_of_the_static_initialiser(library):
    ref = new()
    ctypes.memmove(ctypes.byref(ref), b"\3" + bytes(15), 16)
    assert (ref.word, ref.slots) == (LIVE, 0)
    assert library.module_ref_try_get(ref)
    assert (library.module_ref_count(ref), ref.word) == (1, LIVE + REF)
    assert library.module_ref_init(ref) == 0  # whatever was there
    assert (library.module_ref_count(ref), ref.word) == (0, LIVE)


def test_zeroed_memory_is_gone(library):
    ref = new()
    assert not library.module_ref_try_get(ref)
    assert library.module_ref_count(ref) == -1
    assert library.module_ref_try_release(ref) == -errno.EALREADY


def test_the_word(library, reports):
    ref = new(word=0x5A5A5A5A, slots=0x5A5A5A5A)
    assert library.module_ref_init(ref) == 0
    assert (ref.word, ref.slots) == (LIVE, 0)
    assert library.module_ref_mode(ref) == ATOMIC
    assert library.module_ref_try_get(ref)
    library.module_ref_get(ref)
    assert ref.word == LIVE + 2 * REF
    assert library.module_ref_try_release(ref) == -errno.EWOULDBLOCK
    assert library.module_ref_drain(ref, 0) == -errno.ETIMEDOUT
    assert ref.word == LIVE + 2 * REF
    library.module_ref_put(ref)
    library.module_ref_put(ref)
    assert library.module_ref_drain(ref, -1) == 0
    assert ref.word == 0
    assert library.module_ref_try_release(ref) == -errno.EALREADY
    assert library.module_ref_reinit(ref) == 0
    assert ref.word == LIVE
    library.module_ref_destroy(ref)
    assert ref.word == PERCPU_FLAG
    assert library.module_ref_try_release(ref) == -errno.EINVAL
    assert reports == []


def test_slots(library):
    ref = new()
    assert library.module_ref_init_percpu(ref) == 0
    if library.module_ref_mode(ref) != PERCPU:
        pytest.skip("no per-CPU counting here")
    assert (ref.word & (REF - 1), ref.slots & 7) == (LIVE | PERCPU_FLAG, 1)

    def total():
        slots = (
            ctypes.c_int64.from_address((ref.slots & ~1) + (cpu << 16)).value
            for cpu in possible_cpus()
        )
        return ctypes.c_int64(ref.word).value // REF + sum(slots)

    assert total() == 0
    for held in range(1, 100):
        assert library.module_ref_try_get(ref)
        assert library.module_ref_count(ref) == total() == held
    for _ in range(99):
        library.module_ref_put(ref)
    assert library.module_ref_try_release(ref) == 0
    assert (ref.word, ref.slots & 7) == (0, 0)
    library.module_ref_destroy(ref)
    assert ref.slots == 0


def possible_cpus():
    for part in pathlib.Path("/sys/devices/system/cpu/possible").read_text().split(","):
        first, _, last = part.partition("-")
        yield from range(int(first), int(last or first) + 1)


def test_the_numbers_of_misuse(library, reports):
    ref = new()
    address = ctypes.addressof(ref)
    assert library.module_ref_init(ref) == 0
    library.module_ref_put(ref)
    ref.word += REF << 58
    assert library.module_ref_try_get(ref)
    library.module_ref_put(ref)
    ref.word = LIVE
    assert library.module_ref_try_release(ref) == 0
    library.module_ref_get(ref)
    numbers = [SURPLUS_PUT, OVERFLOW, LEAKED, STALE_GET]
    assert reports == [(number, address) for number in numbers]


@pytest.mark.skipif(not HEADER.is_file(), reason="there is no header beside these tests")
def test_the_header_has_these_numbers_too(library):
    text = re.sub(r"/\*.*?\*/", "", HEADER.read_text(), flags=re.S)
    enums = {
        name: re.findall(r"\w+(?: = \w+)?", body)
        for name, body in re.findall(r"^enum (\w+) \{(.*?)\}", text, flags=re.S | re.M)
    }
    assert enums == {
        "module_ref_mode": ["MODULE_REF_ATOMIC", "MODULE_REF_PERCPU"],
        "module_ref_misuse": [
            "MODULE_REF_SURPLUS_PUT",
            "MODULE_REF_OVERFLOW",
            "MODULE_REF_LEAKED",
            "MODULE_REF_STALE_GET",
        ],
        "module_state": [
            "MODULE_STATE_LIVE",
            "MODULE_STATE_COMING",
            "MODULE_STATE_GOING",
            "MODULE_STATE_UNFORMED",
        ],
    }
    numbers = dict(re.findall(r"^#define (MODULE_\w+) (\d+)u?$", text, flags=re.M))
    version = ".".join(numbers.pop(f"MODULE_REF_VERSION_{n}") for n in ("MAJOR", "MINOR", "PATCH"))
    assert version == library.module_ref_version().decode()
    assert {name: int(value) for name, value in numbers.items()} == {
        "MODULE_LOAD_ATOMIC": 1,
        "MODULE_LOAD_COPY": 2,
        "MODULE_UNLOAD_FORCE": 1,
        "MODULE_REF_BASE": BASE,
        "MODULE_NAME_LEN": 56,
    }


@pytest.mark.skipif(not EXPORTED.is_file(), reason="there is no list beside these tests")
def test_every_listed_function_is_there(library):
    names = EXPORTED.read_text().split()
    assert len(names) > 40
    assert [name for name in names if not hasattr(library, name)] == []
