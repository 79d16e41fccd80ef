"""Runs the stress program that this package carries.

    python -m module_ref stress --help
    python -m module_ref stress --seconds 10 --compare

It is a C program on pthreads, which has nothing to do with Python: threads call into shared objects
that are really loaded, while other threads unload, reload and replace them. Its exit status
is 0 if nothing broke, 1 if something did, 2 if a run could not be made, and 130 if it was
ended early.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from pathlib import Path
from typing import NoReturn

__all__ = ["StressError", "add_command", "program", "run"]

_IGNORED_BY_PYTHON = (signal.SIGPIPE, signal.SIGXFSZ)
_FOLDER = Path(__file__).resolve().parent / "_stress"


class StressError(Exception):
    """There is no stress program to be run, and why.

    >>> try:
    ...     found = program()
    ... except StressError as error:
    ...     print("no stress program:", error)
    """


def program() -> Path:
    """Where the stress program is, its plugins beside it.

    Raises StressError if this package was built without it.

    >>> program().name
    'module-ref-stress'
    """
    path = _FOLDER / "module-ref-stress"
    if path.is_file():
        return path
    try:
        why = (_FOLDER / "absent.txt").read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        why = (
            f"there is no {path}; install a wheel, or with a C compiler at hand from the "
            "source distribution or the checkout"
        )
    raise StressError(f"this module_ref is without its stress program: {why}")


def run(options: list[str]) -> NoReturn:
    """Run the stress program in the place of this process, which has its exit status then.

    The options are the program's own; ``--help`` lists them. Raises StressError if it cannot be
    run.

    >>> import subprocess
    >>> command = [sys.executable, "-m", "module_ref", "stress", "--version"]
    >>> said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    >>> said.split()[0]
    'module-ref-stress'
    """
    path = program()
    sys.stdout.flush()
    sys.stderr.flush()
    # Python ignores these, and what is ignored stays so in the program.
    ignored = {number: signal.signal(number, signal.SIG_DFL) for number in _IGNORED_BY_PYTHON}
    try:
        os.execv(path, [path.name, *options])
    except OSError as error:
        for number, handler in ignored.items():
            signal.signal(number, handler)
        raise StressError(
            f"{path} cannot be run: {error.strerror}. Its file system has to allow it, and its "
            f"mode: chmod +x {path}"
        ) from error


def add_command(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds `stress` to the commands of `python -m module_ref`.

    What stands behind it goes to `main` as it is: the options are the program's.
    """
    commands.add_parser("stress", help="run the stress program; stress --help lists its options")


def main(options: list[str]) -> int:
    """Run the stress program; returns an exit status only if that is not possible."""
    try:
        run(options)
    except StressError as error:
        print(error, file=sys.stderr)
        return 2
