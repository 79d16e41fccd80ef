"""python -m module_ref COMMAND"""

from __future__ import annotations

import argparse
import sys

from . import report, stress


def main(arguments: list[str] | None = None) -> int:
    """Run a command, and return its exit status."""
    if arguments is None:
        arguments = sys.argv[1:]
    parser = argparse.ArgumentParser(prog="python -m module_ref", description="module_ref's tools")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    report.add_command(commands)
    stress.add_command(commands)
    if arguments[:1] == ["stress"]:
        return stress.main(arguments[1:])
    parsed = parser.parse_args(arguments)
    status: int = parsed.main(parsed)
    return status


if __name__ == "__main__":
    sys.exit(main())
