"""Reads a saved benchmark run, and reduces it to what is quoted.

The file, which benches/run writes, is one JSON object:

    {
      "format": "module-ref-bench-1",
      "version": "0.1.0", "date": "2026-11-23T13:30:00Z",
      "command": "make bench", "seconds": 300.0,
      "machine": {"cpu": "AMD EPYC", "cpus": 2, "kernel": "Linux 6.18.44",
                  "libc": "glibc 2.36", "rustc": "rustc 1.95.0"},
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
A quoted file has each figure once, as `median`, `low` and `high` in place of `run` and `values`.

The parameters of a cell depend on its question; a ratio may have any of them, and `goal` may
be null. A question's candidates are its own and those of pairs.

- pairs, one get and one put: `threads`, and `counters`: "one" (all use the same) or "own" (one
  per thread). "ns per pair" is wall time x min(threads, cpus) / pairs.
- unload: `workers`; `load`: "idle" (nobody uses the module that goes, the workers are busy with
  others) or "busy" (they use it, and the unload waits for them); `measure`: "latency", "stalled"
  or "stall".
  latency, in ns: `values` are quantiles from 0 % to 100 %, evenly spaced, of `count` unloads, or
  none if that is 0; `refused` counts those that were not made.
  stalled, in the same way: the longest stall of a worker that each unload, made or not, fell into.
  stall, the gaps between two turns of a worker's loop: values[i] counts those from 10^(3+i/10) to
  10^(3+(i+1)/10) ns, the first also what is shorter and the last what is longer; besides,
  `longest_ns`, which is the figure, and `seconds` of observation. The candidate "nobody" unloads
  nothing: its stalls are the machine's own.
- growth: `sweep`: "counters" (`counters`, `threads`; ns per pair), "memory" (`counters`; bytes per
  counter) or "modules" (`modules`, `threads`; `measure`: "lookup", "load" or "unload"; ns).
- look: unloads with a look and without beside so many sleeping `threads`, in us; or a look through
  memory (`measure`: how much of it), in ms.
- python: `threads`; ns per pair.
- rust: one thread, Criterion's samples; ns per pair.
- instructions: under callgrind; instructions per pair.
"""

from __future__ import annotations

import json
import re
import typing
from collections import abc
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

FORMAT = "module-ref-bench-1"
_TOP = ("version", "date", "command", "seconds", "runs", "skipped")
PARAMETERS = ("sweep", "measure", "load", "workers", "threads", "counters", "modules")
# What each sweep of growth makes larger.
SIZES = {"counters": "counters", "memory": "counters", "modules": "modules"}


class ReportError(Exception):
    """What is wrong, with which file, and what to do."""


class Figure(typing.NamedTuple):
    """A median over the runs, and the smallest and the largest of them."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, runs: abc.Iterable[abc.Sequence[float]]) -> Figure:
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


@dataclass
class Measured:
    """What was measured with the same parameters in every run."""

    question: str
    parameters: dict[str, int | str]
    entries: list[dict] = field(default_factory=list)  # of each run; a quoted one for all of them

    @property
    def values(self) -> list[list[float]]:
        """Of each run; of none if the file is a quoted one, or every unload was refused."""
        return [entry["values"] for entry in self.entries if entry.get("values")]

    @property
    def figure(self) -> Figure | None:
        if "median" in self.entries[0]:
            return Figure(*(self.entries[0][name] for name in Figure._fields))
        if "longest_ns" in self.entries[0]:
            return Figure.of([entry["longest_ns"]] for entry in self.entries)
        return Figure.of(self.values) if self.values else None

    def total(self, name: str) -> float:
        return sum(entry.get(name, 0) for entry in self.entries)

    def quoted(self) -> dict:
        """The entry for a quoted file."""
        entry = {key: value for key, value in self.entries[0].items() if key not in _OF_A_RUN}
        entry |= {name: self.total(name) for name in ("count", "refused") if name in entry}
        entry |= {"unit": "ns"} if "longest_ns" in self.entries[0] else {}
        return entry | {name: round_off(value) for name, value in self.figure._asdict().items()}


_OF_A_RUN = {"run", "values", "longest_ns", "seconds", "iterations"}


@dataclass
class Cell(Measured):
    """Of one candidate."""

    candidate: Candidate = None
    unit: str = ""


@dataclass
class Ratio(Measured):
    """Of one of ours to something else."""

    what: str = ""
    goal: float | None = None

    @property
    def met(self) -> bool | None:
        """Whether the goal is reached; None without one."""
        return None if self.goal is None else self.figure.median <= self.goal

    def unnamed(self, *but: str) -> dict[str, int | str]:
        """The parameters that the text does not name, but some."""
        said = re.findall(r"\w+", self.what)
        return {
            name: value
            for name, value in self.parameters.items()
            if str(value) not in said and name not in but
        }


@dataclass(frozen=True)
class Run:
    """A benchmark run, as load() gives it."""

    file: Path
    content: dict
    version: str
    date: str
    command: str
    seconds: float
    runs: int
    skipped: list[dict[str, str]]
    machine: dict[str, str]
    cpus: int
    candidates: dict[tuple[str, str], Candidate]  # by question and key
    cells: list[Cell]
    ratios: list[Ratio]

    def select(self, question: str, **parameters: int | str) -> list[Cell]:
        """The cells of a question that have these parameters, and figures."""
        return [
            cell
            for cell in self.cells
            if cell.question == question
            and parameters.items() <= cell.parameters.items()
            and cell.figure
        ]

    @property
    def when(self) -> str:
        """The date and the time, in words."""
        return self.date.replace("T", " ").replace("Z", " UTC")

    def quote(self) -> str:
        """The text of a file that has every figure once."""
        quoted = {
            kind: [entry.quoted() for entry in entries if entry.figure]
            for kind, entries in (("cells", self.cells), ("ratios", self.ratios))
        }
        return text_of({**self.content, **quoted})


def round_off(value: float) -> float:
    """To as many digits as no table shows."""
    return float(f"{value:.6g}")


def text_of(content: dict) -> str:
    """JSON with a line for each figure, so that two runs can be compared as text."""
    text = json.dumps(content).replace('}, {"', '},\n {"').replace('": [{"', '": [\n {"')
    return text + "\n"


def load(path: str | Path) -> Run:
    """Read the file of a benchmark run; raises ReportError where it is not one."""
    file = Path(path)
    anew = "make it anew with `make bench`"
    try:
        content = json.loads(file.read_text(encoding="utf-8"), parse_constant=_no_number)
    except OSError as error:
        raise ReportError(f"{file}: {error.strerror}: `make bench` writes one") from error
    except (ValueError, RecursionError) as error:
        raise ReportError(f"{file}: not JSON ({error}): {anew}") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise ReportError(f"{file}: not a benchmark run in the format {FORMAT!r}: {anew}")
    try:
        return _run(file, content)
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise ReportError(f"{file}: damaged or incomplete ({error!r}): {anew}") from error


def _no_number(name: str) -> typing.NoReturn:
    raise ValueError(f"{name} is no figure")


def _run(file: Path, content: dict) -> Run:
    candidates = {
        (entry["question"], entry["key"]): Candidate(**entry) for entry in content["candidates"]
    }

    def named(question: str, key: str) -> Candidate:
        return candidates.get((question, key)) or candidates["pairs", key]

    cells: dict[object, Cell] = {}
    for entry in content["cells"]:
        question, parameters = entry["question"], _parameters(entry)
        candidate = named(question, entry["candidate"])
        key = (question, candidate, *parameters.items())
        cell = Cell(question, parameters, candidate=candidate, unit=entry["unit"])
        cells.setdefault(key, cell).entries.append(entry)
    ratios: dict[object, Ratio] = {}
    for entry in content["ratios"]:
        question, parameters, what = entry["question"], _parameters(entry), entry["what"]
        key = (question, what, entry["ours"], entry["theirs"], *parameters.items())
        ratio = Ratio(question, parameters, what=what, goal=entry["goal"])
        ratios.setdefault(key, ratio).entries.append(entry)
    for entry in (*cells.values(), *ratios.values()):
        _check(entry)
    if not cells:
        raise ValueError("nothing was measured")
    machine = content["machine"].copy()
    return Run(
        file=file,
        content=content,
        **{name: content[name] for name in _TOP},
        cpus=machine.pop("cpus"),
        machine=machine,
        candidates=candidates,
        cells=list(cells.values()),
        ratios=list(ratios.values()),
    )


def _parameters(entry: dict) -> dict[str, int | str]:
    return {name: entry[name] for name in PARAMETERS if name in entry}


def _check(measured: Measured) -> None:
    """A value is above 0, except a stall; there is none if all unloads were refused."""
    least = 0 if measured.parameters.get("measure") in ("stall", "stalled") else 1e-12
    for entry in measured.entries:
        if not entry.get("values") and "median" not in entry and entry.get("count") != 0:
            raise ValueError(f"no values of {entry}")
        if not all(value >= least for value in entry.get("values", ())):
            raise ValueError(f"a value of 0 or less in {entry}")
    figure = measured.figure
    if figure and not 0 <= figure.low <= figure.median <= figure.high:
        raise ValueError(f"no figure: {figure}")
