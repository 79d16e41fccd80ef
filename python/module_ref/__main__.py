"""python -m module_ref COMMAND"""

from __future__ import annotations

import argparse
import sys

from . import stress


def main(arguments: list[str] | None = None) -> int:
    """Run a command, and return its exit status."""
    if arguments is None:
        arguments = sys.argv[1:]
    parser = argparse.ArgumentParser(prog="python -m module_ref", description="module_ref's tools")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    stress.add_command(commands)
    if arguments[:1] != ["stress"]:
        parser.parse_args(arguments)  # which says what is wrong, and ends
    return stress.main(arguments[1:])


if __name__ == "__main__":
    sys.exit(main())
