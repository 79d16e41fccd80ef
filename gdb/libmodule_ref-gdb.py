# SPDX-License-Identifier: MIT OR Apache-2.0
"""What gdb says of modules, in a process or a core file.

    module-ref-list             the modules that are there, and the newest that were unloaded
    module-ref-whose ADDRESS    which of them an address is of, and what it is called there

gdb reads this by itself when a program uses the library that is installed below /usr; otherwise:
source FILE.
"""

import re
import struct

import gdb

# struct Plate of core/src/host/tombstone/table.rs, in its version 1; chunk n has 64 << n entries.
PLATE = struct.Struct("=13Q32s56s96s16s")
SYMBOL = struct.Struct("=IBBHQQ")
VERSION, CHUNKS, FIRST = 1, 16, 64
LIVE, MAPPED = 1, 2


def read(at: int, size: int) -> bytes:
    return bytes(gdb.selected_inferior().read_memory(at, size)) if size else b""


def words(at: int, n: int) -> tuple:
    return struct.unpack(f"={n}Q", read(at, 8 * n))


def text(field: bytes) -> str:
    return field.split(b"\0")[0].decode(errors="replace")


class Place:
    def __init__(self, plate: bytes) -> None:
        numbers = PLATE.unpack(plate)
        self.serial, self.state, self.start, self.end, self.base = numbers[:5]
        self.unloaded, self.thread, *tables = numbers[6:12]
        self.symbols, self.names = tables[:2], tables[2:]
        self.build_id = numbers[13][: numbers[12]].hex()
        self.name, self.file, self.by = map(text, numbers[14:])

    def __str__(self) -> str:
        what = "loaded"
        if self.state != LIVE:
            what = f"unloaded by thread {self.thread} '{self.by}'"
            what += ", still mapped then" if self.state == MAPPED else ""
        build = f", build ID {self.build_id}" if self.build_id else ""
        return f"{what} (module '{self.name}'{build})"

    def spot(self, address: int) -> str:
        value = address - self.base
        for name, info, _, section, start, size in SYMBOL.iter_unpack(read(*self.symbols)):
            if info & 15 in (1, 2, 10) and section and start <= value < start + size:
                return f"{self.file}!{text(read(*self.names)[name:])}+{value - start:#x}"
        return f"{self.file}+{value:#x}"


def places() -> list:
    found = re.search("0x[0-9a-f]+", gdb.execute("info address module_ref_places", to_string=True))
    if not found:
        raise gdb.GdbError("this program has no module_ref library, or has not loaded it yet")
    table = words(int(found[0], 16), 1)[0]
    version, *chunks = words(table, 1 + CHUNKS)
    if version != VERSION:
        raise gdb.GdbError("this library is of another version than this script")
    all_of_them = []
    for n, chunk in enumerate(chunks):
        for at in range(FIRST << n if chunk else 0):
            entry = chunk + at * (8 + 2 * PLATE.size)
            current = entry + 8 + (words(entry, 1)[0] & 1) * PLATE.size
            all_of_them.append(Place(read(current, PLATE.size)))
    return sorted((place for place in all_of_them if place.serial), key=lambda place: place.serial)


class List(gdb.Command):
    """List the modules that are there, and the newest that were unloaded."""

    def __init__(self) -> None:
        super().__init__("module-ref-list", gdb.COMMAND_FILES)

    def invoke(self, argument: str, from_tty: bool) -> None:
        for place in places():
            print(f"{place.start:#x}-{place.end:#x} {place.file}, {place}")


class Whose(gdb.Command):
    """Say which module an address is of, and what it is called there: module-ref-whose ADDRESS"""

    def __init__(self) -> None:
        super().__init__("module-ref-whose", gdb.COMMAND_DATA)

    def invoke(self, argument: str, from_tty: bool) -> None:
        address = int(gdb.parse_and_eval(argument))
        found = [place for place in places() if place.start <= address < place.end]
        print(f"{found[-1].spot(address)}, {found[-1]}" if found else "no module's")


List()
Whose()
