"""The page of a report: HTML with its plots inside, which loads nothing from anywhere."""

from __future__ import annotations

import base64
import functools
import re
import struct
import typing
from collections import abc
from html import escape as _e

from data import SIZES, Candidate, Cell, Figure, Ratio, Run
from words import count, duration, in_words, plain, ratio_row, title

_STYLE = """
:root { color-scheme: light dark; --paper: #fff; --head: #f3f4f6; --ink: #1a1a1a; --dim: #555;
  --line: #d8d8d8; --blue: #00508c; --good: #00604a; --bad: #a33000; }
@media screen and (prefers-color-scheme: dark) {
  :root { --paper: #1a1a1a; --head: #26282b; --ink: #e4e4e4; --dim: #a8a8a8; --line: #444;
    --blue: #7db8e8; --good: #5cc7a5; --bad: #f08a5d; }
  figure img { filter: invert(.898) hue-rotate(180deg); }
}
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.5rem 1rem 4rem; max-width: 77rem; color: var(--ink);
  background: var(--paper); font: 1rem/1.5 system-ui, "Segoe UI", Roboto, "Liberation Sans", sans-serif; }
h1 { font-size: 1.7rem; line-height: 1.25; margin: 0 0 .5rem; }
h2 { font-size: 1.3rem; line-height: 1.3; margin: 3rem 0 .5rem; }
h3 { font-size: 1.05rem; margin: 2rem 0 .4rem; }
p, figcaption, dl { max-width: 46rem; } .lead { font-size: 1.1rem; } a { color: var(--blue); }
nav ul { padding: 0; list-style: none; display: flex; flex-wrap: wrap; gap: .25rem 1.25rem; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .1rem 1rem; font-size: .9rem; }
dt { color: var(--dim); } dd { margin: 0; overflow-wrap: anywhere; }
figure { margin: 1rem 0 0; } figure .narrow { display: none; }
figure img { display: block; width: 100%; height: auto; }
figcaption { margin-top: .5rem; font-size: .95rem; }
.scroll { overflow-x: auto; margin-bottom: 1.5rem; border: 1px solid var(--line); }
.scroll:focus-visible { outline: 2px solid var(--blue); } summary { cursor: pointer; padding: .5rem 0; }
table { border-collapse: collapse; width: 100%; font-size: .85rem; line-height: 1.35;
  font-variant-numeric: tabular-nums; }
th, td { padding: .35rem .5rem; text-align: left; vertical-align: top;
  border-bottom: 1px solid var(--line); }
thead th { vertical-align: bottom; background: var(--head); }
th[scope=colgroup] { border-left: 1px solid var(--line); }
tbody th { font-weight: normal; min-width: 11rem; position: sticky; left: 0; background: var(--paper); }
tbody th[scope=rowgroup] { font-weight: 600; background: var(--head); }
td.number { white-space: nowrap; } td.number, th.number { text-align: right; }
td small { display: block; color: var(--dim); } td.text { min-width: 10rem; }
.ours th { font-weight: 600; color: var(--blue); }
.met { color: var(--good); } .missed { color: var(--bad); font-weight: 600; }
.missing { border-left: 4px solid var(--bad); padding-left: .75rem; }
@media screen and (max-width: 56.25rem) {
  figure .wide { display: none; } figure .narrow { display: block; max-width: 36rem; }
}
@media screen and (max-width: 40rem) {
  tbody th { min-width: 8.5rem; max-width: 8.5rem; overflow-wrap: break-word; }
  th, td { padding: .35rem .4rem; } .ratios td.number { white-space: normal; }
}
@media print {
  body { max-width: none; padding: 0; font-size: 10pt; }
  nav { display: none; } figure, tr { break-inside: avoid; } h2, h3 { break-after: avoid; }
  .scroll { overflow: visible; border: 0; }
  table { font-size: 7pt; } tbody th, td.text { min-width: 0; }
}
"""


# ---- what a plot says -----------------------------------------------------------

_Said = typing.Callable[[float], str]


def _sides(where: str, cells: abc.Iterable[Cell], said: _Said) -> str:
    """The least of ours, and the least and the most of the others."""
    sides: dict[bool, list[tuple[float, str]]] = {True: [], False: []}
    for cell in cells:
        sides[cell.candidate.ours].append((cell.figure.median, cell.candidate.name))
    ours, others = (sorted(sides[side]) for side in (True, False))
    words = [f"“{name}” {said(value)}" for value, name in ours[:1]]
    ends = [f"“{name}” {said(value)}" for value, name in [*others[:1], *others[1:][-1:]]]
    if ends:
        words.append(f"the others: {' to '.join(ends)}")
    return f"{where[:1].upper()}{where[1:]}: {'; '.join(words)}."


def _quantity(cell: Cell) -> _Said:
    return duration if cell.unit == "ns" else lambda value: f"{plain(value)} {cell.unit}"


def _last(cells: list[Cell], name: str) -> list[Cell]:
    """The cells where a parameter is largest."""
    most = max(cell.parameters[name] for cell in cells)
    return [cell for cell in cells if cell.parameters[name] == most]


def _say_throughput(run: Run) -> str:
    cells = run.select("pairs", counters="one") or run.select("pairs", counters="own")
    cells = _last(cells, "threads")
    pairs = 1000 * min(cells[0].parameters["threads"], run.cpus)
    where = in_words(cells[0].parameters)
    return _sides(where, cells, lambda ns: f"{plain(pairs / ns)} million pairs a second")


def _say_bars(run: Run, question: str) -> str:
    first = run.select(question)[0]
    cells = run.select(question, **first.parameters)
    return _sides(in_words(first.parameters) or _TITLES[question], cells, _quantity(first))


def _say_unload(run: Run, measure: str, what: str) -> str:
    cells = _last(run.select("unload", measure=measure), "workers")
    said = []
    for load in ("idle", "busy"):
        of_load = [cell for cell in cells if cell.parameters["load"] == load]
        nobody = [cell for cell in of_load if cell.candidate.key == "nobody"]
        unloads = [cell for cell in of_load if cell not in nobody]
        if unloads:
            where = in_words({**unloads[0].parameters, "measure": what})
            said.append(_sides(where, unloads, duration))
        if measure == "stall":
            said += [f"With no unload at all: {duration(cell.figure.median)}." for cell in nobody]
    return " ".join(said)


def _say_growth(run: Run) -> str:
    said = []
    for sweep, size in SIZES.items():
        cells = run.select("growth", sweep=sweep)
        for first in [cell for cell in cells if cell.candidate.ours][:1]:
            like = first.candidate, {**first.parameters, size: 0}
            same = [
                each for each in cells if (each.candidate, {**each.parameters, size: 0}) == like
            ]
            same.sort(key=lambda cell: cell.parameters[size])
            ends = [
                f"{_quantity(cell)(cell.figure.median)} ({in_words(cell.parameters)})"
                for cell in [*same[:1], *same[1:][-1:]]
            ]
            said.append(f"“{first.candidate.name}”: {' to '.join(ends)}.")
    return " ".join(said)


class _Section(typing.NamedTuple):
    name: str
    title: str
    caption: str
    say: typing.Callable[[Run], str]


_SECTIONS = (
    _Section(
        "throughput",
        "A get and a put, on more and more threads",
        "Millions of pairs of a get and a put that all threads together make in a second; more is "
        "better. On the left, or above, all threads use the same counter; in the other panel each "
        "has its own. Lines in strong colours are this library's, with their spread over the "
        "runs; dashed and dotted ones are other ways to keep something alive, which guarantee "
        'different things: the <a href="#figures">table of pairs</a> says what. Both axes are '
        "logarithmic.",
        _say_throughput,
    ),
    _Section(
        "instructions",
        "Instructions of a get and a put",
        "What one thread executes for a pair, counted by callgrind. It is the same in every run, "
        "and says nothing of how long an instruction waits.",
        lambda run: _say_bars(run, "instructions"),
    ),
    _Section(
        "unload",
        "How long an unload takes",
        "For each way to unload, the share of unloads that were done within a time; further left "
        "is quicker, and the time axis is logarithmic. A panel is a number of worker threads. "
        "“Module idle”: nobody uses the module that goes, while the workers are busy with "
        "others. “Module in use”: the workers use it, and the unload waits for them. Unloads "
        "that were refused are not among them; the table counts them.",
        lambda run: _say_unload(run, "latency", "median of an unload"),
    ),
    _Section(
        "stalled",
        "How long an unload holds up the workers",
        "The longest time for which any worker did not come on, of those into which an unload "
        "fell: the share of unloads with at most so long a stall. Further left is better, and the "
        "time axis is logarithmic. The grey line is the same while nobody unloads anything: what "
        "the machine itself does to the workers.",
        lambda run: _say_unload(run, "stalled", "median of the longest stall in an unload"),
    ),
    _Section(
        "stalls",
        "All stalls of the workers",
        "How often, in a second, a worker’s loop took at least so long for one turn; lower and "
        "further left is better, and both axes are logarithmic. The grey area is the same loop "
        "while nobody unloads anything. A way that takes longer to unload also does so less often.",
        lambda run: _say_unload(run, "stall", "longest stall"),
    ),
    _Section(
        "growth",
        "What grows with the number of counters, CPUs and modules",
        "The time of a get and a put over more and more counters; the memory of a counter; the "
        "time in which a release answers, granted (idle) or refused, against the number of "
        "possible CPUs; and the time to find, load and unload a module beside others. What was "
        "measured at one size only is in the table. All axes are logarithmic.",
        _say_growth,
    ),
    _Section(
        "rust",
        "A get and a put in Rust",
        "On one thread, as Criterion samples it. Bars are medians; a thin line is the spread over "
        "the runs.",
        lambda run: _say_bars(run, "rust"),
    ),
    _Section(
        "python",
        "A get and a put in Python",
        "From Python code, beside a lock of the standard library; with threads, all use the same "
        "object. Bars are medians; a thin line is the spread over the runs.",
        lambda run: _say_bars(run, "python"),
    ),
)


# ---- tables ---------------------------------------------------------------------


def _number(figure: Figure | None, said: _Said = plain) -> str:
    if figure is None:
        return '<td class="number">–</td>'
    spread = ""
    if figure.low < figure.high:
        spread = f"<small>{_e(said(figure.low))}–{_e(said(figure.high))}</small>"
    return f'<td class="number">{_e(said(figure.median))}{spread}</td>'


def _text(text: str) -> str:
    return f'<td class="text">{_e(text)}</td>'


def _table(label: str, head: str, *bodies: abc.Iterable[str], kind: str = "figures") -> str:
    """Heads are cells, or rows of them; a body is rows."""
    head = head if head.startswith("<tr>") else f"<tr>{head}</tr>"
    body = "".join(f"<tbody>{''.join(rows)}</tbody>" for rows in bodies)
    return (
        f'<div class="scroll" role="region" aria-label="{_e(label)}" tabindex="0">\n'
        f'<table class="{kind}"><thead>{head}</thead>\n{body}</table></div>'
    )


def _th(text: str, kind: str = "", more: str = "") -> str:
    return f'<th scope="col"{kind and f" class={kind!r}"}{more}>{_e(text)}</th>'


def _group(text: str, columns: int) -> str:
    return f'<th scope="colgroup" colspan="{columns}">{text}</th>'


def _rowgroup(text: str, columns: int) -> str:
    return f'<tr><th scope="rowgroup" colspan="{columns}">{_e(text)}</th></tr>\n'


_TWO_ROWS = ' rowspan="2"'
_INSTRUCTIONS = "Instruc\u00adtions"  # which may be broken there


def _ratios(run: Run) -> str:
    """All with a goal, and the others below a fold: they are many."""
    if not run.ratios:
        return _missing("No ratios in this run.")
    goals = [ratio for ratio in run.ratios if ratio.goal is not None]
    others = [ratio for ratio in run.ratios if ratio.goal is None]
    said = _ratio_table(run, goals) if goals else ""
    if others:
        summary = f"<summary>{count(len(others), 'ratio')} without a goal</summary>"
        said += f"<details>{summary}\n{_ratio_table(run, others)}</details>"
    return said


def _ratio_table(run: Run, ratios: list[Ratio]) -> str:
    bodies = []
    for question, name in _TITLES.items():
        rows = [_rowgroup(name, 4)]
        for ratio in (ratio for ratio in ratios if ratio.question == question):
            value, spread, goal = map(_e, ratio_row(run, ratio))
            kind = {True: "met", False: "missed", None: ""}[ratio.met]
            rows.append(
                f'<tr><th scope="row">{_e(title(ratio))}</th><td class="number">{value}</td>'
                f'<td class="number">{spread}</td><td class="{kind}">{goal or "–"}</td></tr>\n'
            )
        bodies += [rows] * (len(rows) > 1)
    spread = f"spread over {count(run.runs, 'run')}"
    heads = _th("what") + _th("ratio", "number") + _th(spread, "number") + _th("goal")
    return _table("Ratios", heads, *bodies, kind="ratios")


def _row(candidate: Candidate, *columns: str) -> str:
    kind = ' class="ours"' if candidate.ours else ""
    # Long names of code may be broken.
    name = re.sub("(::|_)", r"\1<wbr>", _e(candidate.name))
    return f'<tr{kind}><th scope="row">{name}</th>{"".join(columns)}</tr>\n'


def _candidates(cells: abc.Iterable[Cell]) -> list[Candidate]:
    return list(dict.fromkeys(cell.candidate for cell in cells))


def _pairs_table(run: Run) -> str:
    cells = run.select("pairs")
    by = {}
    for cell in cells:
        where = cell.parameters["counters"], cell.parameters["threads"]
        by[(cell.candidate, *where)] = cell.figure
    columns = sorted({key[1:] for key in by}, key=lambda column: (column[0] != "one", column[1]))
    instructions = {cell.candidate.key: cell.figure for cell in run.select("instructions")}
    groups = ""
    for kind, name in (("one", "One counter, ns a pair"), ("own", "Own counters, ns a pair")):
        span = sum(column[0] == kind for column in columns)
        groups += _group(name, span) if span else ""
    heads = (
        f"<tr>{_th('Candidate', more=_TWO_ROWS)}{groups}"
        f"{_th(_INSTRUCTIONS, 'number', _TWO_ROWS)}{_th('What it gives', more=_TWO_ROWS)}"
        f"{_th('What it lacks', more=_TWO_ROWS)}</tr>"
        f"<tr>{''.join(_th(count(column[1], 'thread'), 'number') for column in columns)}</tr>"
    )
    rows = [
        _row(
            candidate,
            *(_number(by.get((candidate, *column))) for column in columns),
            _number(instructions.get(candidate.key)),
            _text(candidate.gives),
            _text(candidate.lacks),
        )
        for candidate in _candidates(cells)
    ]
    return _table("Pairs", heads, rows)


def _unload_table(run: Run) -> str:
    bodies = []
    cells = [cell for cell in run.cells if cell.question == "unload"]
    places = {(cell.parameters["load"], cell.parameters["workers"]) for cell in cells}
    for load, workers in sorted(places, key=lambda place: (place[0] != "idle", place[1])):
        where = {"load": load, "workers": workers}
        found: dict[Candidate, dict[str, Cell]] = {}
        for cell in cells:
            if where.items() <= cell.parameters.items():
                found.setdefault(cell.candidate, {})[cell.parameters["measure"]] = cell
        rows = [_rowgroup(in_words(where), 8)]
        for candidate, measures in found.items():
            latency, stalled = measures.get("latency"), measures.get("stalled")
            times = [_quantile(latency, part) for part in (0.5, 0.99, 1)]
            stalls = [_quantile(stalled, part) for part in (0.5, 0.99)]
            longest = _quantile(measures.get("stall"), 0.5)
            rows.append(_row(candidate, _unloads(latency), *times, *stalls, longest))
        bodies.append(rows)
    heads = (
        f"<tr>{_th('Way to unload', more=_TWO_ROWS)}{_th('Unloads', 'number', _TWO_ROWS)}"
        f"{_group('Time of an unload', 3)}{_group('Longest stall in it', 2)}"
        f"{_th('Longest stall of all', 'number', _TWO_ROWS)}</tr><tr>"
        + "".join(_th(time, "number") for time in ("median", "99 %", "longest", "median", "99 %"))
        + "</tr>"
    )
    gives = [_row(each, _text(each.gives), _text(each.lacks)) for each in _candidates(cells)]
    gives_heads = _th("Way to unload") + _th("What it gives") + _th("What it lacks")
    return _table("Unloads", heads, *bodies) + _table("Ways to unload", gives_heads, gives)


def _quantile(cell: Cell | None, part: float) -> str:
    """What a part of the unloads took at most, in each run; half of them: the figure."""
    if cell is None or cell.figure is None or (part != 0.5 and not cell.values):
        return _number(None)
    if part == 0.5:
        return _number(cell.figure, duration)
    runs = ([sorted(times)[round(part * (len(times) - 1))]] for times in cell.values)
    return _number(Figure.of(runs), duration)


def _unloads(latency: Cell | None) -> str:
    """How many there were in all runs, and how many more were refused."""
    if latency is None:
        return _number(None)
    done, refused = latency.total("count"), latency.total("refused")
    more = f"<small>{refused:,} refused</small>" if refused else ""
    return f'<td class="number">{done:,}{more}</td>'


def _plain_table(run: Run, question: str) -> str:
    rows = []
    for cell in run.select(question):
        where, unit = _e(in_words(cell.parameters)) or "–", _e(cell.unit)
        cells = f"<td>{where}</td>", _number(cell.figure), f"<td>{unit}</td>"
        rows.append(_row(cell.candidate, *cells))
    heads = _th("Candidate") + _th("Where") + _th("Figure", "number") + _th("Unit")
    return _table(_TITLES[question], heads, rows)


_TITLES = {"pairs": "A get and a put", "unload": "Unloads"}
_TITLES |= {name: name.title() for name in ("growth", "look", "rust", "python", "instructions")}


_TABLES = {name: functools.partial(_plain_table, question=name) for name in _TITLES}
_TABLES |= {"pairs": _pairs_table, "unload": _unload_table}


# ---- the page -------------------------------------------------------------------


def _missing(what: str) -> str:
    return f'<p class="missing">{_e(what)} <code>make bench</code> measures everything.</p>'


def _plot(section: _Section, run: Run, pictures: abc.Mapping[str, tuple[bytes, bytes]]) -> str:
    if section.name not in pictures:
        return _missing("Not in this run.")
    # Both are there, and the style sheet shows one: on paper as well.
    alt, images = _e(f"Plot. {section.say(run)}"), []
    for kind, png in zip(("wide", "narrow"), pictures[section.name]):
        width, height = struct.unpack(">II", png[16:24])
        source = f"data:image/png;base64,{base64.b64encode(png).decode()}"
        size = f'width="{width}" height="{height}"'
        images.append(f'<img class="{kind}" alt="{alt}" {size} src="{source}">')
    images = "\n".join(images)
    return f"<figure>{images}\n<figcaption>{section.caption}</figcaption></figure>"


def page(run: Run, pictures: abc.Mapping[str, tuple[bytes, bytes]]) -> str:
    """The HTML; pictures are PNGs, wide and narrow, by the name of their section."""
    others = [name for name in run.machine if name not in ("cpu", "kernel", "libc")]
    machine = {
        "Processor": f"{run.machine['cpu']}, {count(run.cpus, 'CPU')}",
        "System": f"{run.machine['kernel']}, {run.machine['libc']}",
        "Versions": "; ".join(f"{name}: {run.machine[name]}" for name in others),
        "Command": f"{run.command} ({plain(run.seconds)} s)",
        "Date": run.when,
        "Runs": f"{run.runs} of each program",
    }
    facts = "".join(f"<dt>{name}</dt><dd>{_e(value)}</dd>" for name, value in machine.items())
    plots = [
        f'<section id="{section.name}"><h2>{section.title}</h2>\n'
        f"{_plot(section, run, pictures)}</section>\n"
        for section in _SECTIONS
    ]
    titles = {section.name: section.title for section in _SECTIONS}
    # The first picture says the most: it comes before the numbers.
    contents = {_SECTIONS[0].name: _SECTIONS[0].title, "ratios": "Ratios", **titles}
    contents |= {"figures": "All figures", "skipped": "What was left out"}
    links = "".join(f'<li><a href="#{name}">{text}</a></li>' for name, text in contents.items())
    tables = "".join(
        f"<h3>{name}</h3>\n{_TABLES[question](run)}\n"
        for question, name in _TITLES.items()
        if run.select(question) and question != "instructions"  # which are among the pairs
    )
    absent = [name for question, name in _TITLES.items() if not run.select(question)]
    left_out = "".join(
        f"<li>{_e(each['name'])} ({_TITLES[each['question']]}): {_e(each['why'])}</li>"
        for each in run.skipped
    )
    left_out = f"<ul>{left_out}</ul>" if left_out else "<p>No candidate was left out.</p>"
    if absent:
        left_out += _missing(f"Not in this run: {', '.join(absent)}.")
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<link rel="icon" href="data:,">
<title>module_ref {_e(run.version)}: benchmark of {_e(run.when)}</title>
<style>{_STYLE}</style>
</head>
<body>
<header>
<h1>What module_ref costs</h1>
<p class="lead">Measured: what a get and a put of a reference counter cost, on one thread and on
several, beside other ways to keep code alive while it is used; and how long an unload takes, and
holds up the threads that go on. By module_ref {_e(run.version)} on {_e(run.machine["cpu"])}
with {count(run.cpus, "CPU")}, on {_e(run.when)}, by <code>{_e(run.command)}</code>.</p>
<nav aria-label="Contents"><ul>{links}</ul></nav>
</header>
<main>
{plots[0]}<section id="ratios"><h2>Ratios</h2>
<p>What was measured of this library, divided by the same of something else that took turns with it
in one process; less is better. A ratio is the median of a run’s rounds, then of the runs; the
spread is the smallest to the largest of the runs.</p>
{_ratios(run)}</section>
{"".join(plots[1:])}<section id="figures"><h2>All figures</h2>
<p>Medians over the runs; below each, in small print, the smallest and the largest of the
runs. A time of a pair is wall time × CPUs in use / pairs; in Python, where one thread runs at
a time, wall time / pairs.</p>
{tables}</section>
<section id="skipped"><h2>What was left out</h2>
{left_out}</section>
</main>
<footer><h2>Machine</h2><dl>{facts}</dl></footer>
</body>
</html>
"""
