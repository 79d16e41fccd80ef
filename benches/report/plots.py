"""The plots of a report. Only this file needs matplotlib.

Each is drawn twice, for a wide and for a narrow window. Lengths are in pixels of the page.
"""

from __future__ import annotations

import io
import itertools
import math
import re
import typing
from collections import abc
from statistics import fmean

import matplotlib.figure
import matplotlib.lines
import matplotlib.patches
from data import SIZES, Candidate, Cell, Figure, Run
from matplotlib import font_manager, ticker
from matplotlib.backends import backend_agg
from PIL import Image
from words import count, origin, plain

# Told apart also by those who see few colours, and dark enough for letters.
_OURS = ("#0060a8", "#c04a00", "#007a5a", "#8f2f86", "#1a1a1a", "#2b8cb8", "#8a6500")
_PEERS = ("#6b7280", "#94703f", "#4f8a7c", "#8d6a9c", "#7b8794")
_DASHES = ((4, 1.5), (1.2, 1.2), (6, 1.5, 1, 1.5), (9, 2.5))
_MARKERS = "osD^vP*"
_INK, _DIM, _GRID, _GREY = "#1a1a1a", "#555555", "#e3e3e3", "#b4b9c1"
_POINTER = {"arrowstyle": "-", "linewidth": 0.6, "shrinkA": 1, "shrinkB": 3, "relpos": (0, 0.5)}
_PIXELS = 100  # in an inch
_WIDE, _NARROW = 1200, 360

_Said = typing.Callable[[float], str]


# ---- what things look like ------------------------------------------------------


class _Style(typing.NamedTuple):
    colour: str
    dash: tuple[float, ...]  # nothing: a whole line
    marker: str
    width: float
    ours: bool

    @classmethod
    def of(cls, run: Run, candidate: Candidate, variant: int = 0) -> _Style:
        """The look of a candidate, from its place among those of its question."""
        side = candidate.question, candidate.ours
        among = [each for each in run.candidates.values() if (each.question, each.ours) == side]
        place = among.index(candidate)
        if candidate.ours:
            dash = ((), *_DASHES)[variant % (len(_DASHES) + 1)]
            marker = _MARKERS[place % len(_MARKERS)]
            return cls(_OURS[place % len(_OURS)], dash, marker, 2.2, True)
        dash = _DASHES[(place + variant) % len(_DASHES)]
        return cls(_PEERS[place % len(_PEERS)], dash, ".", 1.5, False)

    def line(self) -> dict[str, typing.Any]:
        dashes, order = self.dash or (None, None), 3 if self.ours else 2
        return {"color": self.colour, "linewidth": self.width, "dashes": dashes, "zorder": order}


# It measures text.
_RENDERER = backend_agg.RendererAgg(1, 1, _PIXELS)


def _wrap(text: str, width: float, size: float, bold: bool = False) -> str:
    """Text broken into lines of a width, between words and after colons."""
    weight = "bold" if bold else "normal"
    font = font_manager.FontProperties(family="DejaVu Sans", size=size, weight=weight)
    lines = [""]
    for word in re.findall(r"[^ ]+?::|[^ ]+ *| +", text):
        longer = (lines[-1] + word).rstrip()
        takes = _RENDERER.get_text_width_height_descent(longer, font, ismath=False)[0]
        if lines[-1] and takes > width:
            lines.append("")
        lines[-1] += word
    return "\n".join(line.rstrip() for line in lines)


def _height(text: str, size: float) -> float:
    return (text.count("\n") + 1) * size * 1.7 + 2


def _apart(
    wanted: abc.Sequence[float], heights: abc.Sequence[float], low: float, high: float
) -> list[float]:
    """Middles as near to the wanted ones, which ascend, as they can be without touching."""
    before = [sum(heights[:index]) + heights[index] / 2 for index in range(len(heights))]
    blocks: list[list[float]] = []  # of what touches: where each wants the block to begin
    for middle, offset in zip(wanted, before):
        blocks.append([middle - offset])
        while len(blocks) > 1 and fmean(blocks[-2]) >= fmean(blocks[-1]):
            blocks[-2:] = [blocks[-2] + blocks[-1]]
    begins = [fmean(block) for block in blocks for _ in block]
    room = max(low, high - sum(heights))
    return [min(max(begin, low), room) + offset for begin, offset in zip(begins, before)]


def _tick(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 else f"{value:g}"


def _time(ns: float) -> str:
    for unit, size in (("s", 1e9), ("ms", 1e6), ("µs", 1e3)):
        if ns >= size * 0.999:
            return f"{_tick(round(ns / size, 3))} {unit}"
    return f"{_tick(ns)} ns"


def _logarithmic(axis, said: _Said, most: float) -> None:
    """So many ticks at most, at powers of ten, and between them where there are few."""
    low, high = sorted(axis.get_view_interval())
    decades = math.log10(high / low)
    if decades < 0.7:
        axis.set_major_locator(ticker.AutoLocator())
    else:
        between = (1, 2, 5) if decades < 2.5 else (1,)
        axis.set_major_locator(ticker.LogLocator(subs=between, numticks=max(2, int(most))))
    axis.set_minor_locator(ticker.NullLocator())
    axis.set_major_formatter(ticker.FuncFormatter(lambda value, _at: said(value)))


def _fixed(axis, values: abc.Iterable[float], pixels: float) -> None:
    """Ticks at the values, or at every second or third from the last on if they are long."""
    places = sorted(set(values), reverse=True)
    need = sum(9 * len(_tick(place)) + 8 for place in places)
    axis.set_major_locator(ticker.FixedLocator(places[:: math.ceil(need / pixels)]))
    axis.set_minor_locator(ticker.NullLocator())
    axis.set_major_formatter(ticker.FuncFormatter(lambda value, _at: _tick(value)))


# ---- the sheet ------------------------------------------------------------------


class _Sheet:
    """A picture with panels of one size, in places of a grid: one below the other if narrow."""

    def __init__(
        self, run: Run, wide: bool, places, height, *, left, right=38, top=52, bottom=46, above=0
    ) -> None:
        self.wide, self.width = wide, _WIDE if wide else _NARROW
        self.size, self.small = _sizes(wide)
        if not wide:
            places = [(index, 0) for index in range(len(places))]
        columns = max(column for _, column in places) + 1
        said = _wrap(origin(run), self.width - 20, self.small)
        below = 14 + _height(said, self.small)
        self.height = above + (max(row for row, _ in places) + 1) * height + below
        self.picture = matplotlib.figure.Figure(
            figsize=(self.width / _PIXELS, self.height / _PIXELS), dpi=_PIXELS
        )
        backend_agg.FigureCanvasAgg(self.picture)
        each = self.width / columns
        self.inner = each - left - right, height - top - bottom
        self.panels = []
        for row, column in places:
            corner = (column * each + left, self.height - above - (row + 1) * height + bottom)
            scale = (self.width, self.height) * 2
            axes = self.picture.add_axes([a / b for a, b in zip((*corner, *self.inner), scale)])
            axes.spines[["top", "right"]].set_visible(False)
            axes.spines[["left", "bottom"]].set_color(_DIM)
            axes.tick_params(labelsize=self.small, colors=_DIM, length=3)
            axes.grid(color=_GRID, linewidth=0.8)
            axes.set_axisbelow(True)
            self.panels.append(axes)
        at = 10 / self.width, 8 / self.height
        self.picture.text(*at, said, size=self.small, color=_DIM, linespacing=1.15)

    def name(self, axes, title: str, x: str, y: str) -> None:
        """The title, the horizontal axis, and above its end the vertical one."""
        inch = self.picture.dpi_scale_trans
        box = axes.get_position()
        left, top = (box.x0 * self.width - 8) / _PIXELS, box.y1 * self.height / _PIXELS
        self.picture.text(
            left, top + 0.26, title, transform=inch, size=self.size + 0.5, weight="bold", color=_INK
        )
        self.picture.text(left, top + 0.08, y, transform=inch, size=self.small, color=_DIM)
        axes.set_xlabel(x, size=self.small, color=_DIM)

    def png(self) -> bytes:
        drawn, small = io.BytesIO(), io.BytesIO()
        self.picture.savefig(drawn, format="png", dpi=125 if self.wide else 200)
        # A third of the size, and the same to the eye.
        few = (
            Image.open(drawn)
            .convert("RGB")
            .quantize(64, Image.Quantize.MAXCOVERAGE, kmeans=3, dither=Image.Dither.NONE)
        )
        few.save(small, format="PNG", optimize=True)
        return small.getvalue()


def _sizes(wide: bool) -> tuple[float, float]:
    """Points of the larger and the smaller letters."""
    return (10.5, 9.5) if wide else (9.5, 8.5)


# ---- lines with their names at their ends ---------------------------------------


class _Line(typing.NamedTuple):
    label: str  # in lines
    style: _Style
    points: list[tuple[float, Figure]]


def _room(wide: bool) -> int:
    return 302 if wide else 172


def _label(name: str, style: _Style, wide: bool) -> str:
    return _wrap(name, _room(wide) - 40, _sizes(wide)[1], style.ours)


def _lines(sheet: _Sheet, axes, lines: list[_Line], said: _Said) -> None:
    """Lines on two logarithmic axes."""
    axes.set_xscale("log")
    axes.set_yscale("log")
    for line in lines:
        xs = [x for x, _ in line.points]
        ys = [figure.median for _, figure in line.points]
        axes.plot(xs, ys, marker=line.style.marker, markersize=5, **line.style.line())
        if line.style.ours:
            ends = zip(*((figure.low, figure.high) for _, figure in line.points))
            axes.fill_between(xs, *ends, color=line.style.colour, alpha=0.15, linewidth=0)
    low, high = axes.get_ylim()
    axes.set_ylim(low / 1.1, high * 1.1)
    _fixed(axes.xaxis, (x for line in lines for x, _ in line.points), sheet.inner[0])
    _logarithmic(axes.yaxis, said, sheet.inner[1] / 30)

    def end(line: _Line) -> tuple[float, float]:
        x, y = axes.transData.transform((line.points[-1][0], line.points[-1][1].median))
        return float(x), float(y)

    inch = sheet.picture.dpi_scale_trans
    box = axes.get_position()
    lines = sorted(lines, key=lambda line: end(line)[1])
    middles = _apart(
        [end(line)[1] for line in lines],
        [_height(line.label, sheet.small) for line in lines],
        box.y0 * sheet.height - 34,
        box.y1 * sheet.height + 4,
    )
    for line, middle in zip(lines, middles):
        x, y = end(line)
        axes.annotate(
            line.label,
            xy=(x / _PIXELS, y / _PIXELS),
            xycoords=inch,
            xytext=(box.x1 * sheet.width / _PIXELS + 0.2, middle / _PIXELS),
            textcoords=inch,
            va="center",
            size=sheet.small,
            linespacing=1.1,
            color=line.style.colour if line.style.ours else _INK,
            weight="bold" if line.style.ours else "normal",
            arrowprops={**_POINTER, "color": line.style.colour},
            annotation_clip=False,
        )


# More lines than one can tell apart: the page's table has these.
_NOT_DRAWN = {"plain_adds", "shared_rust", "host_find_get", "urcu_bp", "urcu_qsbr", "ck_brlock"}


def _throughput(run: Run, wide: bool) -> _Sheet | None:
    titles = {"one": "One counter for all threads", "own": "A counter for each thread"}
    panels = [(kind, run.select("pairs", counters=kind)) for kind in titles]
    panels = [(kind, cells) for kind, cells in panels if cells]
    drawn = []
    for _, cells in panels:
        lines: dict[Candidate, _Line] = {}
        for cell in sorted(cells, key=lambda cell: cell.parameters["threads"]):
            if cell.candidate.key in _NOT_DRAWN:
                continue
            style = _Style.of(run, cell.candidate)
            line = _Line(_label(cell.candidate.name, style, wide), style, [])
            threads, ns = cell.parameters["threads"], cell.figure
            pairs = 1000 * min(threads, run.cpus)
            rate = Figure(pairs / ns.median, pairs / ns.high, pairs / ns.low)
            lines.setdefault(cell.candidate, line).points.append((threads, rate))
        drawn.append(list(lines.values()))
    if not drawn:
        return None
    labels = max(sum(_height(line.label, _sizes(wide)[1]) for line in lines) for lines in drawn)
    places, left = [(0, index) for index in range(len(panels))], 56 if wide else 46
    sheet = _Sheet(run, wide, places, max(420, labels + 70), left=left, right=_room(wide))
    for axes, (kind, _), lines_of in zip(sheet.panels, panels, drawn):
        _lines(sheet, axes, lines_of, _tick)
        threads_on = f"threads, on {count(run.cpus, 'CPU')}"
        sheet.name(axes, titles[kind], threads_on, "million pairs a second; more is better")
    return sheet


def _growth(run: Run, wide: bool) -> _Sheet | None:
    sweeps = [
        ("counters", "A get and a put", "counters", "ns a pair", _tick),
        ("memory", "Memory", "counters", "bytes a counter", _tick),
        ("modules", "Modules beside others", "modules in the host", "time", _time),
    ]
    drawn = {sweep[0]: run.select("growth", sweep=sweep[0]) for sweep in sweeps}
    sizes = {name: {cell.parameters[SIZES[name]] for cell in drawn[name]} for name in drawn}
    sweeps = [sweep for sweep in sweeps if len(sizes[sweep[0]]) > 1]
    if not sweeps:
        return None
    places = [divmod(index, 2) for index in range(len(sweeps))]
    left = 68 if wide else 56
    sheet = _Sheet(run, wide, places, 340, left=left, right=_room(wide))
    for axes, (sweep, title, x, y, said) in zip(sheet.panels, sweeps):
        cells = drawn[sweep]
        # Besides the candidate's name, a line's name has the parameters that differ.
        of = {
            name: {cell.parameters.get(name) for cell in cells} for name in ("measure", "threads")
        }
        varies = [name for name, values in of.items() if len(values) > 1]
        lines: dict[tuple[str, ...], _Line] = {}
        for cell in sorted(cells, key=lambda cell: cell.parameters[SIZES[sweep]]):
            words = tuple(
                value if isinstance(value, str) else count(value, "thread").replace(" ", "\u00a0")
                for value in (cell.parameters.get(name) for name in varies)
                if value is not None
            )
            key = (cell.candidate.key, *words)
            if key not in lines:
                variant = sum(other[0] == cell.candidate.key for other in lines)
                style = _Style.of(run, cell.candidate, variant)
                label = _label(", ".join([cell.candidate.name, *words]), style, wide)
                lines[key] = _Line(label, style, [])
            lines[key].points.append((int(cell.parameters[SIZES[sweep]]), cell.figure))
        _lines(sheet, axes, list(lines.values()), said)
        sheet.name(axes, title, x, y)
    return sheet


# ---- times of unloads and of stalls ---------------------------------------------

_NOTHING = 1e-9  # on a logarithmic axis: below all that is seen


def _times(run: Run, wide: bool, measure: str) -> _Sheet | None:
    """A panel for each load and number of workers, with the same axes in all of them."""
    panels: dict[tuple[str, int], list[Cell]] = {}
    for cell in [cell for cell in run.select("unload", measure=measure) if cell.values]:
        key = (cell.parameters["load"], cell.parameters["workers"])
        panels.setdefault(key, []).append(cell)
    if not panels:
        return None
    loads = [load for load in ("idle", "busy") if any(key[0] == load for key in panels)]
    workers = sorted({key[1] for key in panels})
    order = sorted(panels, key=lambda key: (loads.index(key[0]), key[1]))
    places = [(loads.index(load), workers.index(number)) for load, number in order]
    # The names, in two columns or one.
    small, columns = _sizes(wide)[1], 2 if wide else 1
    nobody = _Style(_GREY, (), ".", 4, False)
    styles = {cell.candidate: _Style.of(run, cell.candidate) for cell in sum(panels.values(), [])}
    styles |= {candidate: nobody for candidate in styles if candidate.key == "nobody"}
    named = {}
    for candidate, style in styles.items():
        name = _wrap(candidate.name, 480 if wide else 290, small)
        named[name] = matplotlib.lines.Line2D([], [], **style.line())
        if style is nobody and measure == "stall":
            named[name] = matplotlib.patches.Patch(color=_GRID)
    above = 10 + 1.05 * sum(_height(name, small) for name in named) / columns
    sheet = _Sheet(run, wide, places, 310 if wide else 290, left=64, above=above)
    place = {"loc": "upper left", "bbox_to_anchor": (0, 1), "ncols": columns, "frameon": False}
    look = {"fontsize": small, "labelcolor": _INK, "handlelength": 2.8, "labelspacing": 0.35}
    sheet.picture.legend(list(named.values()), list(named), **place, **look)
    curves = {
        key: [(cell.candidate, _CURVES[measure](cell)) for cell in cells]
        for key, cells in panels.items()
    }
    xs = [x for lines in curves.values() for _, (some, _) in lines for x in some if x > 0] or [1]
    ys = [y for lines in curves.values() for _, (_, some) in lines for y in some if y > _NOTHING]
    for axes, (load, number) in zip(sheet.panels, order):
        axes.set_xscale("log")
        axes.set_xlim(min(xs) / 1.2, max(xs) * 1.2)
        _logarithmic(axes.xaxis, _time, sheet.inner[0] / 55)
        title = f"{count(number, 'worker')}, module {'idle' if load == 'idle' else 'in use'}"
        if measure == "stall":
            axes.set_yscale("log")
            axes.set_ylim(min(ys, default=1) / 1.5, max(ys, default=10) * 1.5)
            _logarithmic(axes.yaxis, _tick, sheet.inner[1] / 30)
            sheet.name(axes, title, "time of a turn", "turns at least so long, in a second")
        else:
            axes.set_ylim(0, 102)
            of_time = measure == "latency"
            below = "time of an unload" if of_time else "longest stall in an unload"
            sheet.name(axes, title, below, "unloads done by then, %" if of_time else "unloads, %")
        for candidate, (x, y) in curves[load, number]:
            if candidate.key == "nobody" and measure == "stall":
                axes.fill_between(x, y, _NOTHING, color=_GRID, linewidth=0, zorder=1)
            else:
                axes.plot(x, y, **styles[candidate].line())
    return sheet


def _quantiles(cell: Cell) -> tuple[list[float], list[float]]:
    """How many percent took how long at most, over the values of all runs."""
    times = sorted(value for values in cell.values for value in values)
    times = times if len(times) > 1 else times * 2
    return times, [100 * index / (len(times) - 1) for index in range(len(times))]


def _stalls(cell: Cell) -> tuple[list[float], list[float]]:
    """How many turns in a second took at least so long, over all runs."""
    seconds = cell.total("seconds")
    counts = [*map(sum, itertools.zip_longest(*cell.values, fillvalue=0)), 0]
    while len(counts) > 2 and counts[-2] == 0:
        counts.pop()
    # The first also has what is shorter; the last is 0, and takes the line down to the axis.
    bins = range(1, len(counts))
    times = [10 ** (3 + index / 10) for index in bins]
    return times, [max(_NOTHING, sum(counts[index:]) / seconds) for index in bins]


_CURVES = {"latency": _quantiles, "stalled": _quantiles, "stall": _stalls}


# ---- bars -----------------------------------------------------------------------


def _bars(run: Run, wide: bool, question: str) -> _Sheet | None:
    """A bar for each candidate, or one for each number of threads, shortest first."""
    groups: dict[Candidate, list[Cell]] = {}
    for cell in run.select(question):
        groups.setdefault(cell.candidate, []).append(cell)
    if not groups:
        return None
    order = sorted(groups.values(), key=lambda group: group[0].figure.median)
    cells = [cell for group in order for cell in group]
    threads = {int(cell.parameters.get("threads", 1)) for cell in cells}
    row, gap, small = 20, 10, _sizes(wide)[1]
    left, right = (300, 120) if wide else (142, 104)
    ours = [group[0].candidate.ours for group in order]
    names = [
        _wrap(group[0].candidate.name, left - 14, small, bold) for group, bold in zip(order, ours)
    ]
    heights = [
        max(row * len(group), _height(name, small)) + gap for group, name in zip(order, names)
    ]
    margins = {"left": left, "right": right, "top": 32, "bottom": 26}
    sheet = _Sheet(run, wide, [(0, 0)], 32 + 26 + sum(heights), **margins)
    (axes,) = sheet.panels
    middles = [sum(heights[:index]) + height / 2 for index, height in enumerate(heights)]
    for group, centre in zip(order, middles):
        group = sorted(group, key=lambda cell: cell.parameters.get("threads", 1))
        for index, cell in enumerate(group):
            middle, figure = centre + row * (index - (len(group) - 1) / 2), cell.figure
            colour = _OURS[0] if cell.candidate.ours else _GREY
            axes.barh(middle, figure.median, row * 0.8, color=colour)
            if figure.low < figure.high:
                ends = [figure.low, figure.high]
                axes.plot(ends, [middle] * 2, color="white", linewidth=3.5)
                axes.plot(ends, [middle] * 2, color=_INK, linewidth=1.2)
            said = plain(figure.median)
            if len(threads) > 1:
                said += f", {count(cell.parameters['threads'], 'thread')}"
            at, look = (figure.high, middle), {"va": "center", "size": small, "color": _INK}
            axes.annotate(said, at, (5, 0), textcoords="offset points", **look)
    axes.set_ylim(sum(heights), 0)
    axes.set_xlim(0, max(cell.figure.high for cell in cells))
    axes.set_yticks(middles, names)
    axes.tick_params(axis="y", length=0, labelcolor=_INK)
    for label, bold in zip(axes.get_yticklabels(), ours):
        label.set_fontweight("bold" if bold else "normal")
    axes.grid(visible=False, axis="y")
    axes.locator_params(axis="x", nbins=8 if wide else 3)
    axes.xaxis.set_major_formatter(ticker.FuncFormatter(lambda value, _at: _tick(value)))
    sheet.name(axes, "", "", f"{cells[0].unit}; less is better")
    return sheet


_PLOTS: abc.Mapping[str, typing.Callable[[Run, bool], _Sheet | None]] = {
    "throughput": _throughput,
    "instructions": lambda run, wide: _bars(run, wide, "instructions"),
    "unload": lambda run, wide: _times(run, wide, "latency"),
    "stalled": lambda run, wide: _times(run, wide, "stalled"),
    "stalls": lambda run, wide: _times(run, wide, "stall"),
    "growth": _growth,
    "rust": lambda run, wide: _bars(run, wide, "rust"),
    "python": lambda run, wide: _bars(run, wide, "python"),
}


def draw(run: Run) -> dict[str, tuple[bytes, bytes]]:
    """PNGs by name, wide and narrow, of what the run has cells for."""
    pictures = {}
    # The file's names are text, also with a dollar in them.
    with matplotlib.rc_context({"text.parse_math": False, "font.family": "DejaVu Sans"}):
        for name, plot in _PLOTS.items():
            wide, narrow = plot(run, True), plot(run, False)
            if wide and narrow:
                pictures[name] = wide.png(), narrow.png()
    return pictures
