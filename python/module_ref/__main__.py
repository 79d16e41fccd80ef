"""python -m module_ref COMMAND"""

from __future__ import annotations

import argparse
import sys

from . import check, stress

CHECK = """Tell from the files alone what will keep plugins in memory, or may crash the program once
they are unmapped: a line for each finding, with the file, a keyword and a sentence. The exit
status is 0 if there is none, 1 if there is one, and 2 if a file cannot be read or is no plugin."""
EXAMPLES = """examples:
  python -m module_ref check plugin.so
  python -m module_ref check --allow thread --allow timer build/*.so
  python -m module_ref stress --seconds 60 --threads 16
"""


def check_files(files: list[str], allowed: list[str]) -> int:
    """Print what is found in each file and not allowed, and return the exit status."""
    status = 0
    for file in files:
        try:
            findings = [one for one in check(file) if one.partition(":")[0] not in allowed]
        except OSError as error:
            print(error.strerror, file=sys.stderr)
            status = 2
            continue
        for finding in findings:
            # A name may be any bytes, and standard output takes text.
            print(f"{file}: {finding}".encode(errors="backslashreplace").decode())
        status = max(status, bool(findings))
    return status


def main(arguments: list[str] | None = None) -> int:
    """Run a command, and return its exit status."""
    if arguments is None:
        arguments = sys.argv[1:]
    parser = argparse.ArgumentParser(
        prog="python -m module_ref",
        description="module_ref's tools",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    stress.add_command(commands)
    checker = commands.add_parser(
        "check", help="look for what endangers unloads", description=CHECK
    )
    checker.add_argument("files", metavar="FILE", nargs="+")
    checker.add_argument(
        "--allow",
        metavar="KEYWORD",
        action="append",
        default=[],
        help="leave out findings with this keyword; may be repeated",
    )
    if arguments[:1] == ["stress"]:
        return stress.main(arguments[1:])
    options = parser.parse_args(arguments)
    return check_files(options.files, options.allow)


if __name__ == "__main__":
    sys.exit(main())
