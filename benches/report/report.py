"""Draws a saved benchmark run: a page and its plots.

benches/report RUN.json            report/report.html beside it, and the plots
benches/report RUN.json --table    the ratios alone, as Markdown; takes no matplotlib
benches/report RUN.json --quote    writes docs/bench: medians and spreads, two plots
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import page
from data import ReportError, Run, load
from words import table

QUOTED = Path(__file__).resolve().parents[2] / "docs" / "bench"
# What documents show of it.
QUOTED_PLOTS = ("throughput", "unload")


def draw(run: Run) -> dict[str, tuple[bytes, bytes]]:
    try:
        import plots
    except ImportError as error:
        raise ReportError(
            f"drawing needs matplotlib ({error}): pip install -r python/requirements-dev.txt"
        ) from error
    return plots.draw(run)


def write(run: Run, folder: Path, quoted: bool) -> Path:
    """Writes the page, or what documents quote, and the plots; returns the file's path."""
    pictures = draw(run)
    folder.mkdir(parents=True, exist_ok=True)
    for name, (wide, _narrow) in pictures.items():
        if not quoted or name in QUOTED_PLOTS:
            (folder / f"{name}.png").write_bytes(wide)
    path = folder / ("run.json" if quoted else "report.html")
    path.write_text(run.quote() if quoted else page.page(run, pictures), encoding="utf-8")
    return path


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="benches/report",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("file", type=Path, metavar="RUN.json", help="what `make bench` saved")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--table", action="store_true", help="only print the ratios")
    what.add_argument("--quote", action="store_true", help="write what documents quote")
    parser.add_argument("--output", type=Path, metavar="DIR", help="another folder to write into")
    options = parser.parse_args(arguments)
    try:
        run = load(options.file)
        if options.table:
            print(table(run), end="")
        else:
            folder = QUOTED if options.quote else options.file.parent / "report"
            print(write(run, options.output or folder, options.quote))
    except ReportError as error:
        print(error, file=sys.stderr)
        return 2
    except OSError as error:
        print(f"{error.filename}: {error.strerror}: cannot write the report", file=sys.stderr)
        return 2
    return 0
