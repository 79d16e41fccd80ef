"""Figures in words, and the ratios as a table for a README."""

from __future__ import annotations

import html
from collections import abc

from data import PARAMETERS, SIZES, Ratio, ReportError, Run

_WORDS = {
    ("load", "idle"): "module idle",
    ("load", "busy"): "module in use",
    ("counters", "one"): "one counter",
    ("counters", "own"): "own counters",
}
# What an unload's figure is of: the heading says it.
_UNSAID = ("latency", "stalled", "stall")


def count(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def in_words(parameters: abc.Mapping[str, int | str]) -> str:
    """Parameters as one says them: "2 threads, one counter"."""
    said = []
    for name in PARAMETERS:
        value = parameters.get(name)
        if isinstance(value, int):
            said.append(count(value, name[:-1]))
        elif value is not None and name != "sweep" and value not in _UNSAID:
            said.append(_WORDS.get((name, value), value))
    return ", ".join(said)


def origin(run: Run) -> str:
    """Where the figures come from, in one line."""
    machine = f"{run.machine['cpu']}, {count(run.cpus, 'CPU')}, {run.machine['kernel']}"
    return f"{machine}, {run.machine['libc']}; {run.command}; {run.when}"


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


def title(ratio: Ratio) -> str:
    """What it is, with the parameters that this does not name."""
    return _with(ratio.what, in_words(ratio.unnamed()))


def _with(what: str, words: str) -> str:
    return f"{what} ({words})" if words else what


def ratio_row(run: Run, ratio: Ratio) -> tuple[str, str, str]:
    """The ratio, its spread, and the goal."""
    figure, goal = ratio.figure, ratio.goal
    said = "" if goal is None else f"at most {goal:g}, {'met' if ratio.met else 'missed'}"
    spread = f"{ratio_text(figure.low)} to {ratio_text(figure.high)}"
    return ratio_text(figure.median, goal), spread if run.runs > 1 else "one run", said


def table(run: Run) -> str:
    """The ratios as Markdown tables, and a line that says where they come from.

    A row for each ratio, a column for each number of threads, workers, counters or modules.
    """
    if not run.ratios:
        raise ReportError(f"{run.file}: no ratios in this run; `make bench` measures them")
    tables: dict[tuple[str, str], dict[str, dict[str, str]]] = {}
    columns = {"pairs": "threads", "unload": "workers", "python": "threads"}
    for ratio in run.ratios:
        by = columns.get(ratio.question) or SIZES.get(ratio.parameters.get("sweep"), "")
        usual = "counters" if ratio.parameters.get("counters") == "one" else ""
        head = in_words({by: ratio.parameters[by]}) if by in ratio.parameters else "ratio"
        rows = tables.setdefault((ratio.question, by), {})
        row = rows.setdefault(_with(ratio.what, in_words(ratio.unnamed(by, usual))), {})
        value, spread, goal = ratio_row(run, ratio)
        row[head] = f"{value} ({spread}{goal and f'; {goal}'})"
    lines: list[str] = []
    for rows in tables.values():
        heads = list(dict.fromkeys(head for row in rows.values() for head in row))
        lines += [_line("ratio", heads), _line("---", ["---"] * len(heads))]
        lines += [_line(what, [row.get(head, "") for head in heads]) for what, row in rows.items()]
        lines.append("")
    lines.append(f"{origin(run)}; {count(run.runs, 'run')}. Less is better.")
    return "\n".join(lines) + "\n"


def _line(first: str, cells: abc.Iterable[str]) -> str:
    texts = [html.escape(cell, quote=False).replace("|", "\\|") for cell in (first, *cells)]
    return f"| {' | '.join(texts)} |"
