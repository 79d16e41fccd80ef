"""Draws a saved benchmark run: a page, plots, and the README's table of ratios.

    python -m module_ref report run.json            # report/report.html beside run.json
    python -m module_ref report run.json --table    # the table alone, without matplotlib

The file is one JSON object:

    {
      "format": "module-ref-bench-1",
      "version": "0.1.0", "date": "2026-11-23T13:30:00Z",
      "command": "make bench", "seconds": 300.0,
      "machine": {"cpu": "AMD EPYC", "cpus": 2, "kernel": "Linux 6.18.44",
                  "libc": "glibc 2.36", "compiler": "cc 12.2.0",
                  "rustc": "rustc 1.95.0", "python": "3.11.7"},
      "runs": 5,
      "candidates": [{"question": "pairs", "key": "percpu_inlined", "ours": true,
                      "name": "module_ref, per-CPU, inlined",
                      "gives": "what it guarantees", "lacks": "what it does not"}],
      "skipped": [{"question": "pairs", "name": "Concurrency Kit",
                   "why": "not installed: apt-get install libck-dev"}],
      "cells": [{"question": "pairs", "run": 0, "candidate": "percpu_inlined",
                 "unit": "ns per pair", "threads": 1, "counters": "one",
                 "values": [1.1, 1.2]}],
      "ratios": [{"question": "pairs", "run": 0, "what": "per-CPU to the patch, inlined",
                  "ours": "percpu_inlined", "theirs": "patch_inlined",
                  "threads": 1, "counters": "one", "goal": 0.35, "values": [0.28, 0.31]}]
    }

`run` numbers whole processes from 0: each question's program was run `runs` times. `values`
has one number for each round of it. A figure is the median of each run's values, then the
median of those over the runs; its spread is the smallest to the largest of them. Less is better.
The parameters of a cell depend on its question; a ratio may have any of them, and `goal` may
be null:

- pairs, one get and one put: `threads`, and `counters`: "one" (all use the same) or "own" (one
  per thread). "ns per pair" is wall time x min(threads, cpus) / pairs.
- unload: `workers`; `load`: "idle" (nobody uses the module that goes, the workers are busy with
  others) or "busy" (they use it, and the unload waits for them); `measure`: "latency", "stalled"
  or "stall".
  latency, in ns: `values` are quantiles from 0 % to 100 %, evenly spaced, of `count` unloads, or
  none if that is 0; `refused`, which may be missing, counts those that were not made.
  stalled, in the same way: the longest stall of a worker that each unload, made or not, fell into.
  stall, the gaps between two turns of a worker's loop: values[i] counts those from 10^(3+i/10) to
  10^(3+(i+1)/10) ns, the first also what is shorter and the last what is longer; besides,
  `longest_ns`, `seconds` of observation and `iterations`. The candidate "nobody" unloads nothing:
  its stalls are the machine's own.
- growth: `sweep`: "counters" (`counters`, `threads`; ns per pair), "memory" (`counters`; bytes per
  counter), "cpus" (`cpus`; `measure`: "idle" or "refused"; ns that a release takes) or "modules"
  (`modules`, `threads`; `measure`: "lookup", "load" or "unload"; ns).
- python: `threads`; ns per pair.
- rust: one thread, Criterion's samples; ns per pair.
- instructions: under callgrind; instructions per pair.

A question's candidates are its own and those of pairs. `machine` may have other texts besides.
"""

from __future__ import annotations

import argparse
import html
import json
import re
import sys
import typing
from collections import abc
from dataclasses import dataclass
from pathlib import Path
from statistics import median

__all__ = ["ReportError", "Run", "load", "table", "write"]

FORMAT = "module-ref-bench-1"

# Whole numbers, any text, or one of some texts.
_Kind = typing.Union[type, "tuple[str, ...]"]
_QUESTIONS: dict[str, dict[str, _Kind]] = {
    "pairs": {"threads": int, "counters": ("one", "own")},
    "unload": {
        "workers": int,
        "load": ("idle", "busy"),
        "measure": ("latency", "stalled", "stall"),
    },
    "growth": {"sweep": ("counters", "memory", "cpus", "modules")},
    "python": {"threads": int},
    "rust": {},
    "instructions": {},
}
_SWEEPS: dict[str, dict[str, _Kind]] = {
    "counters": {"counters": int, "threads": int},
    "memory": {"counters": int},
    "cpus": {"cpus": int, "measure": ("idle", "refused")},
    "modules": {"modules": int, "threads": int, "measure": ("lookup", "load", "unload")},
}
_PARAMETERS = ("sweep", "measure", "load", "workers", "threads", "counters", "cpus", "modules")
# What each sweep of growth makes larger.
SIZES = {"counters": "counters", "memory": "counters", "cpus": "cpus", "modules": "modules"}
# What a cell of unload has besides, by its measure, and what stands for it if it is missing.
_BESIDES: dict[str, dict[str, float | None]] = {
    "latency": {"count": None, "refused": 0},
    "stalled": {"count": None},
    "stall": {"longest_ns": None, "seconds": None, "iterations": None},
}
_MOST_BINS = 200


class ReportError(Exception):
    """What is wrong, with which file, and what to do.

    >>> load("nowhere.json")
    Traceback (most recent call last):
        ...
    module_ref.report.ReportError: nowhere.json: ...
    """


class Figure(typing.NamedTuple):
    """A median over the runs, and the smallest and the largest of them."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, runs: typing.Iterable[typing.Sequence[float]]) -> Figure:
        medians = [median(values) for values in runs]
        return cls(median(medians), min(medians), max(medians))


@dataclass(frozen=True)
class Candidate:
    question: str
    key: str
    name: str
    ours: bool
    gives: str
    lacks: str


@dataclass(frozen=True)
class Cell:
    """What was measured of one candidate, with the same parameters in every run."""

    question: str
    candidate: Candidate
    unit: str
    parameters: abc.Mapping[str, int | str]
    values: list[list[float]]  # of each run; of none if every unload was refused
    besides: list[abc.Mapping[str, float]]  # of each run, for unload

    @property
    def figure(self) -> Figure:
        return Figure.of(self.values)


@dataclass(frozen=True)
class Ratio:
    """Of one of ours to something else."""

    question: str
    what: str
    ours: Candidate
    theirs: Candidate
    parameters: abc.Mapping[str, int | str]
    goal: float | None
    values: list[list[float]]  # of each run

    @property
    def figure(self) -> Figure:
        return Figure.of(self.values)

    @property
    def met(self) -> bool | None:
        """Whether the goal is reached; None without one."""
        return None if self.goal is None else self.figure.median <= self.goal

    @property
    def title(self) -> str:
        """What it is, with the parameters that this does not name."""
        words = in_words(self.unnamed())
        return f"{self.what} ({words})" if words else self.what

    def unnamed(self, *but: str) -> dict[str, int | str]:
        """The parameters that the text does not name, but some."""
        said = re.findall(r"\w+", self.what)
        named = {name for name, value in self.parameters.items() if str(value) in said}
        return {name: self.parameters[name] for name in self.parameters.keys() - named - {*but}}


@dataclass(frozen=True)
class Run:
    """A benchmark run, as load() gives it.

    >>> run = load("run.json")
    >>> run.version, run.file.name
    ('0.1.0', 'run.json')
    """

    file: Path
    version: str
    date: str
    command: str
    seconds: float
    machine: abc.Mapping[str, str]
    cpus: int
    runs: int
    candidates: abc.Mapping[tuple[str, str], Candidate]  # by question and key
    skipped: list[tuple[str, str, str]]  # question, name and reason
    cells: list[Cell]
    ratios: list[Ratio]

    def select(self, question: str, **parameters: int | str) -> list[Cell]:
        """The cells of a question that have these parameters, and figures.

        >>> {cell.unit for cell in load("run.json").select("pairs", threads=1)}
        {'ns per pair'}
        """
        return [
            cell
            for cell in self.cells
            if cell.question == question
            and parameters.items() <= cell.parameters.items()
            and cell.values
        ]

    @property
    def origin(self) -> str:
        """Where the figures come from, in one line."""
        machine = f"{self.machine['cpu']}, {count(self.cpus, 'CPU')}, {self.machine['kernel']}"
        return f"{machine}, {self.machine['libc']}; {self.command}; {self.when}"

    @property
    def when(self) -> str:
        """The date and the time, in words."""
        return self.date.replace("T", " ").replace("Z", " UTC")


# ---- reading --------------------------------------------------------------------


_T = typing.TypeVar("_T")
_NAMES = {
    str: "a text",
    int: "a whole number",
    bool: "true or false",
    list: "a list",
    dict: "an object",
}


class _Entry:
    """An object of the file, which knows where in it it stands."""

    def __init__(self, file: Path, where: str, value: object) -> None:
        self.file, self.where = file, where
        if not isinstance(value, dict):
            self.fail("is not an object")
        self.value: dict[str, object] = value

    def fail(self, what: str) -> typing.NoReturn:
        raise ReportError(
            f"{self.file}: {self.where} {what}; "
            "the file is damaged or incomplete: make it anew with `make bench`"
        )

    def get(self, name: str, kind: type[_T]) -> _T:
        value = self.value.get(name)
        if type(value) is not kind:
            self.fail(f"has no {name!r} that is {_NAMES[kind]}")
        return value

    def text(self, name: str) -> str:
        return " ".join(self.get(name, str).split())

    def number(self, name: str, default: float | None = None) -> float:
        return self._number(name, self.value.get(name, default))

    def _number(self, name: str, value: object) -> float:
        # Neither true nor false, nor a whole number beyond all floats.
        if type(value) is int or type(value) is float:
            if 0 <= value <= sys.float_info.max:
                return float(value)
        self.fail(f"has no {name!r} that is a number of 0 or more")

    def whole(self, name: str, least: int = 1) -> int:
        value = self.get(name, int)
        if value < least:
            self.fail(f"has {name!r} below {least}")
        return value

    def values(self) -> list[float]:
        return [self._number("values", value) for value in self.get("values", list)]

    def entries(self, name: str) -> list[_Entry]:
        return [
            _Entry(self.file, f"{name}[{index}]", value)
            for index, value in enumerate(self.get(name, list))
        ]

    def question(self) -> str:
        question = self.text("question")
        if question not in _QUESTIONS:
            self.fail(f"is of the question {question!r}, not of {', '.join(_QUESTIONS)}")
        return question

    def parameters(self, required: dict[str, _Kind]) -> dict[str, int | str]:
        """The parameters that are there; those that are required must be, and be right."""
        for name, kind in required.items():
            if kind is int:
                self.whole(name)
            elif isinstance(kind, tuple) and self.text(name) not in kind:
                self.fail(f"has {name!r} {self.value[name]!r}, not {' or '.join(kind)}")
        return {
            name: self.whole(name) if type(self.value[name]) is int else self.text(name)
            for name in _PARAMETERS
            if name in self.value
        }

    def candidate(
        self, name: str, question: str, candidates: abc.Mapping[tuple[str, str], Candidate]
    ) -> Candidate:
        key = self.text(name)
        for asked in (question, "pairs"):
            if (asked, key) in candidates:
                return candidates[asked, key]
        self.fail(f"names {key!r}, which is not among the candidates of {question!r}")


def load(path: str | Path) -> Run:
    """Read the file of a benchmark run; raises ReportError where it is not one.

    >>> load("run.json").command
    'make bench ...'
    """
    file = Path(path)
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        hint = "`make bench` writes one" if isinstance(error, FileNotFoundError) else "not read"
        raise ReportError(f"{file}: {error.strerror}: {hint}") from error
    except (ValueError, RecursionError) as error:
        raise ReportError(f"{file}: not JSON ({error}): make it anew with `make bench`") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise ReportError(
            f"{file}: not a benchmark run in the format {FORMAT!r}: it is another file, or of "
            "another version of module_ref; make it anew with `make bench`"
        )
    top = _Entry(file, "the file", content)
    machine = _Entry(file, "machine", top.get("machine", dict))
    candidates = {}
    for entry in top.entries("candidates"):
        candidate = Candidate(
            question=entry.question(),
            key=entry.text("key"),
            name=entry.text("name"),
            ours=entry.get("ours", bool),
            gives=entry.text("gives"),
            lacks=entry.text("lacks"),
        )
        candidates[candidate.question, candidate.key] = candidate
    skipped = [
        (entry.question(), entry.text("name"), entry.text("why"))
        for entry in top.entries("skipped")
    ]
    run = Run(
        file=file,
        version=top.text("version"),
        date=top.text("date"),
        command=top.text("command"),
        seconds=top.number("seconds"),
        machine={
            name: machine.text(name)
            for name in dict.fromkeys(["cpu", "kernel", "libc", *machine.value])
            if name != "cpus"
        },
        cpus=machine.whole("cpus"),
        runs=top.whole("runs"),
        candidates=candidates,
        skipped=list(dict.fromkeys(skipped)),
        cells=_cells(top, candidates),
        ratios=_ratios(top, candidates),
    )
    if not run.cells:
        top.fail("has an empty list of 'cells': nothing was measured")
    return run


def _cells(top: _Entry, candidates: abc.Mapping[tuple[str, str], Candidate]) -> list[Cell]:
    cells: dict[object, Cell] = {}
    for entry in top.entries("cells"):
        question = entry.question()
        parameters = entry.parameters(_QUESTIONS[question])
        if question == "growth":
            parameters = entry.parameters(_SWEEPS[str(parameters["sweep"])])
        candidate = entry.candidate("candidate", question, candidates)
        entry.whole("run", least=0)
        cell = Cell(question, candidate, entry.text("unit"), parameters, [], [])
        cell = cells.setdefault((question, candidate.key, *sorted(parameters.items())), cell)
        values, measure = entry.values(), parameters.get("measure")
        besides = _BESIDES.get(str(measure), {}) if question == "unload" else {}
        cell.besides.append(
            {name: entry.number(name, default) for name, default in besides.items()}
        )
        if measure == "stall" and (len(values) > _MOST_BINS or not cell.besides[-1]["seconds"]):
            entry.fail(f"has no 'seconds', or more than {_MOST_BINS} 'values'")
        if measure not in ("stall", "stalled") and 0 in values:
            entry.fail("has a 0 among its 'values'")
        if values:
            cell.values.append(values)
        elif cell.besides[-1].get("count") != 0:
            entry.fail("has an empty list of 'values'")
    return list(cells.values())


def _ratios(top: _Entry, candidates: abc.Mapping[tuple[str, str], Candidate]) -> list[Ratio]:
    ratios: dict[object, Ratio] = {}
    for entry in top.entries("ratios"):
        question, what = entry.question(), entry.text("what")
        parameters = entry.parameters({})
        goal = None if entry.value.get("goal") is None else entry.number("goal")
        ours, theirs = (entry.candidate(name, question, candidates) for name in ("ours", "theirs"))
        entry.whole("run", least=0)
        ratio = Ratio(question, what, ours, theirs, parameters, goal, [])
        key = (question, what, ours.key, theirs.key, *sorted(parameters.items()))
        values = entry.values() or entry.fail("has an empty list of 'values'")
        ratios.setdefault(key, ratio).values.append(values)
    return list(ratios.values())


# ---- words ----------------------------------------------------------------------

_WORDS = {
    ("load", "idle"): "module idle",
    ("load", "busy"): "module in use",
    ("counters", "one"): "one counter",
    ("counters", "own"): "own counters",
}


def count(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def in_words(parameters: abc.Mapping[str, int | str]) -> str:
    """Parameters as one says them: "2 threads, one counter"."""
    said = []
    for name in _PARAMETERS:
        value = parameters.get(name)
        if isinstance(value, int):
            said.append(count(value, "CPU" if name == "cpus" else name[:-1]))
        elif value is not None and name != "sweep" and value not in _BESIDES:
            said.append(_WORDS.get((name, value), value))
    return ", ".join(said)


def plain(value: float) -> str:
    """A number with three digits, or a whole one."""
    if value >= 100 or value == int(value):
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}" if value >= 0.1 else f"{value:.3g}"


def duration(ns: float) -> str:
    for unit, size in (("s", 1e9), ("ms", 1e6), ("µs", 1e3)):
        if ns >= size:
            return f"{plain(ns / size)} {unit}"
    return f"{plain(ns)} ns"


def ratio_text(value: float, goal: float | None = None) -> str:
    """A ratio, with so many digits that it is on the right side of its goal."""
    least = next((n for n, size in enumerate((100, 10, 0.1, 0.01, 1e-3)) if value >= size), 5)
    for digits in range(least, 9):
        text = f"{value:.{digits}f}"
        if goal is None or (float(text) <= goal) == (value <= goal):
            break
    return text


def ratio_row(ratio: Ratio) -> tuple[str, str, str, str]:
    """What, the ratio, its spread, and the goal."""
    figure, goal = ratio.figure, ratio.goal
    said = "" if goal is None else f"at most {goal:g}, {'met' if ratio.met else 'missed'}"
    spread = f"{ratio_text(figure.low)} to {ratio_text(figure.high)}"
    if len(ratio.values) == 1:
        spread = "one run"
    return ratio.title, ratio_text(figure.median, goal), spread, said


def _column(ratio: Ratio) -> str:
    """The parameter that makes the columns of a table of such ratios; or none."""
    if ratio.question == "growth":
        return SIZES.get(str(ratio.parameters.get("sweep")), "")
    return {"pairs": "threads", "unload": "workers", "python": "threads"}.get(ratio.question, "")


def _cell(ratio: Ratio) -> str:
    _, value, spread, goal = ratio_row(ratio)
    return f"{value} ({spread}{goal and f'; {goal}'})"


def table(run: Run) -> str:
    """The ratios as Markdown tables, and a line that says where they come from.

    A row for each ratio, a column for each number of threads, workers, counters or modules.

    >>> print(table(load("run.json")))
    | ratio | 1 thread | 2 threads | ...
    """
    if not run.ratios:
        raise ReportError(f"{run.file}: no ratios in this run; `make bench` measures them")
    tables: dict[tuple[str, str], dict[str, dict[str, str]]] = {}
    for ratio in run.ratios:
        by = _column(ratio)
        usual = "counters" if ratio.parameters.get("counters") == "one" else ""
        words = in_words(ratio.unnamed(by, usual))
        head = in_words({by: ratio.parameters[by]}) if by in ratio.parameters else "ratio"
        rows = tables.setdefault((ratio.question, by), {})
        row = rows.setdefault(f"{ratio.what} ({words})" if words else ratio.what, {})
        row[head] = _cell(ratio)
    lines: list[str] = []
    for rows in tables.values():
        heads = list(dict.fromkeys(head for row in rows.values() for head in row))
        lines += [_line("ratio", heads), _line("---", ["---"] * len(heads))]
        lines += [_line(what, [row.get(head, "") for head in heads]) for what, row in rows.items()]
        lines.append("")
    lines.append(f"{run.origin}; {count(run.runs, 'run')}. Less is better.")
    return "\n".join(lines) + "\n"


def _line(first: str, cells: abc.Iterable[str]) -> str:
    texts = [html.escape(cell, quote=False).replace("|", "\\|") for cell in (first, *cells)]
    return f"| {' | '.join(texts)} |"


# ---- writing --------------------------------------------------------------------


def write(run: Run, directory: str | Path) -> Path:
    """Write report.html and the plots into a directory, and return the page's path.

    Raises ReportError without matplotlib, and OSError where it cannot write.

    >>> write(load("run.json"), "report")
    PosixPath('report/report.html')
    """
    from . import _report_page

    try:
        from . import _report_plots
    except ImportError as error:
        raise ReportError(
            f"drawing needs matplotlib ({error}): pip install 'module-ref[report]'"
        ) from error
    folder = Path(directory)
    folder.mkdir(parents=True, exist_ok=True)
    pictures = _report_plots.draw(run)
    for name, (wide, _narrow) in pictures.items():
        (folder / f"{name}.png").write_bytes(wide)
    page = folder / "report.html"
    page.write_text(_report_page.page(run, pictures), encoding="utf-8")
    return page


def add_command(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds `report` to the commands of `python -m module_ref`."""
    parser = commands.add_parser(
        "report",
        help="draw a saved benchmark run",
        description="Draws a benchmark run: writes report.html and its plots. "
        "Needs matplotlib: pip install 'module-ref[report]'.",
    )
    parser.add_argument("file", type=Path, metavar="run.json", help="what `make bench` saved")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--output", type=Path, metavar="DIR", help="default: report, beside the file")
    what.add_argument(
        "--table", action="store_true", help="only print the ratios, as a Markdown table"
    )
    parser.set_defaults(main=_main)


def _main(arguments: argparse.Namespace) -> int:
    try:
        run = load(arguments.file)
        if arguments.table:
            print(table(run), end="")
        else:
            print(write(run, arguments.output or arguments.file.parent / "report"))
    except ReportError as error:
        print(error, file=sys.stderr)
        return 2
    except OSError as error:
        print(f"{error.filename}: {error.strerror}: cannot write the report", file=sys.stderr)
        return 2
    return 0
