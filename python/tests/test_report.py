"""The report of a benchmark run: its numbers, its page and plots, and what it says of bad files."""

import copy
import html.parser
import json
import math
import random
import re
import struct
import subprocess
import sys
import zlib

import pytest
from module_ref import _report_page, report
from module_ref.__main__ import main

# ---- a made-up run --------------------------------------------------------------

# Name, whether it is ours; ns on one thread, on several that share, on several that do not;
# instructions.
PAIRS = {
    "plain_adds": ("floor: two adds to thread-local memory", False, 0.7, 0.7, 0.7, 4),
    "percpu_inlined": ("module_ref, per-CPU, inlined", True, 1.4, 1.4, 1.4, 14),
    "patch_inlined": ("the patch's counter, inlined", False, 5.2, 38, 5.2, 12),
    "percpu_rust": ("module_ref, per-CPU, guard in Rust", True, 1.5, 1.5, 1.5, 16),
    "urcu_memb": ("liburcu (memb), read side", False, 1.0, 1.0, 1.0, 13),
    "urcu_bp": ("liburcu (bp), read side", False, 1.1, 1.1, 1.1, 14),
    "urcu_qsbr": ("liburcu (qsbr), read side and a quiescent state", False, 0.9, 0.9, 0.9, 9),
    "ck_brlock": ("Concurrency Kit: ck_brlock, read side", False, 5.1, 5.2, 5.0, 15),
    "ck_epoch": ("Concurrency Kit: ck_epoch, begin and end", False, 5.6, 5.7, 5.6, 30),
    "percpu_called": ("module_ref, per-CPU, by calls", True, 5.0, 5.0, 5.0, 33),
    "patch_called": ("the patch's counter, by calls", False, 5.5, 40, 5.5, 22),
    "shared_called": ("module_ref, shared word, by calls", True, 4.6, 30, 4.6, 25),
    "shared_rust": ("module_ref, shared word, guard in Rust", True, 4.2, 29, 4.2, 18),
    "weak_ptr": ("std::weak_ptr::lock", False, 9.2, 48, 9.3, 31),
    "rust_weak": ("std::sync::Weak::upgrade", False, 8.1, 41, 8.1, 24),
    "arc_swap": ("ArcSwap::load", False, 7.9, 8.2, 8.0, 40),
    "crossbeam_epoch": ("crossbeam_epoch::pin", False, 6.5, 6.8, 6.6, 48),
    "parking_lot": ("parking_lot::RwLock, read side", False, 7.7, 44, 7.6, 20),
    "pthread_rwlock": ("pthread_rwlock, read side", False, 12.4, 72, 12.1, 62),
    "host_try_get": ("module host: module_try_get, by calls", True, 5.8, 6.0, 5.8, 41),
    "host_find_get": ("module host: module_find_get, by name", True, 24, 27, 25, 190),
}
# Name, whether it is ours, ns of an unload, ns of its stalls.
SCHEMES = {
    "percpu": ("module_ref, per-CPU", True, 18e3, 60e3),
    "shared": ("module_ref, shared word", True, 2e3, 40e3),
    "patch": ("the patch's counter", False, 2.2e3, 42e3),
    "stop_the_world": ("stop the world: every worker stopped by a signal", False, 3e6, 12e6),
    "pausing": ("pausing: workers poll a flag and wait", False, 4e6, 14e6),
    "urcu": ("liburcu: synchronize_rcu()", False, 90e3, 55e3),
    "nobody": ("no unload at all", False, None, None),
}
PYTHON = {
    "try_get_put": ("ref.try_get(), ref.put()", True, 78),
    "hold": ("with ref.hold()", True, 140),
    "acquire_release": ("lock.acquire(), lock.release()", False, 62),
    "with_lock": ("with lock", False, 41),
}


class Made:
    """Builds the file of a run, with figures near those above."""

    def __init__(self, runs=3, rounds=3):
        self.runs, self.rounds, self.random = runs, rounds, random.Random(1)
        self.file = {
            "format": "module-ref-bench-1",
            "version": "0.1.0",
            "date": "2026-11-23T13:30:00Z",
            "command": "make bench",
            "seconds": 300.0,
            "machine": {
                "cpu": "AMD EPYC",
                "cpus": 2,
                "kernel": "Linux 6.18.44",
                "libc": "glibc 2.36",
                "compiler": "cc (Debian 12.2.0-14) 12.2.0",
                "rustc": "rustc 1.95.0",
                "python": "3.11.7",
                "liburcu": "0.13.2",
            },
            "runs": runs,
            "candidates": [],
            "skipped": [],
            "cells": [],
            "ratios": [],
        }

    def near(self, value, width=0.05):
        return float(f"{value * self.random.lognormvariate(0, width):.6g}")

    def candidate(self, question, key, name, ours):
        texts = {"gives": "counts references", "lacks": "needs somebody to ask"}
        head = {"question": question, "key": key, "name": name, "ours": ours}
        self.file["candidates"].append({**head, **texts})

    def in_runs(self, kind, value, **head):
        for run in range(self.runs):
            values = [self.near(value) for _ in range(self.rounds)]
            self.file[kind].append({**head, "run": run, "values": values})

    def cell(self, question, key, unit, value, **parameters):
        self.in_runs("cells", value, question=question, candidate=key, unit=unit, **parameters)

    def ratio(self, question, what, ours, theirs, value, goal, **parameters):
        head = {"question": question, "what": what, "ours": ours, "theirs": theirs, "goal": goal}
        self.in_runs("ratios", value, **head, **parameters)

    def pairs(self):
        for key, (name, ours, alone, shared, apart, _) in PAIRS.items():
            self.candidate("pairs", key, name, ours)
            for threads in (1, 2, 4, 8):
                for counters, several in (("one", shared), ("own", apart)):
                    value = alone if threads == 1 else several
                    where = {"threads": threads, "counters": counters}
                    self.cell("pairs", key, "ns per pair", value, **where)
        for what, kind, goals in (
            ("per-CPU to the patch, inlined", "inlined", {1: 0.35, 2: 0.1}),
            ("per-CPU to the patch, by calls", "called", {1: 1.05, 2: 0.1}),
        ):
            for threads in (1, 2, 4, 8):
                ours, theirs = f"percpu_{kind}", f"patch_{kind}"
                value = PAIRS[ours][min(threads + 1, 3)] / PAIRS[theirs][min(threads + 1, 3)]
                where = {"threads": threads, "counters": "one"}
                self.ratio("pairs", what, ours, theirs, value, goals.get(threads), **where)
        why = "not installed: apt-get install libfolly-dev"
        self.file["skipped"].append({"question": "pairs", "name": "folly::hazptr", "why": why})

    def instructions(self):
        for key, (*_, instructions) in PAIRS.items():
            head = {"question": "instructions", "unit": "instructions per pair", "run": 0}
            self.file["cells"].append({**head, "candidate": key, "values": [instructions]})

    def unload(self):
        for key, (name, ours, _, _) in SCHEMES.items():
            self.candidate("unload", key, name, ours)
            for workers in (1, 2, 8):
                for load in ("idle", "busy"):
                    for run in range(self.runs):
                        head = {"question": "unload", "candidate": key, "run": run}
                        self.unload_cells({**head, "workers": workers, "load": load})
        for workers in (1, 2, 8):
            what = f"unload, per-CPU to stop-the-world, {workers} workers, idle"
            where = {"workers": workers, "load": "idle", "measure": "latency"}
            self.ratio("unload", what, "percpu", "stop_the_world", 0.006, None, **where)

    def unload_cells(self, head):
        takes, stalls = SCHEMES[head["candidate"]][2:]
        if takes is not None:
            more = (1 + 0.6 * (head["workers"] - 1)) * (3 if head["load"] == "busy" else 1)
            times = [self.near(takes * more, 0.3) for _ in range(197)]
            times += [40 * self.near(takes * more, 0.5) for _ in range(4)]
            besides = {"measure": "latency", "count": 5000, "refused": 7}
            self.file["cells"].append({**head, "unit": "ns", **besides, "values": sorted(times)})
        during = [0] * 3 + [self.near((stalls or 30e3) * 0.4, 0.4) for _ in range(198)]
        besides = {"measure": "stalled", "count": 5007, "values": sorted(during)}
        self.file["cells"].append({**head, "unit": "ns", **besides})
        # Fewer and fewer from shorter to longer, and a hump of those that the unloads make.
        bins = [3e6] + [self.near(3e4 * 10 ** (-index / 8)) for index in range(1, 61)]
        if stalls is not None:
            for index in range(61):
                away = 3 + index / 10 - math.log10(stalls)
                bins[index] += 4000 * math.exp(-30 * away**2) * head["workers"] ** 0.5
        bins = [int(value) for value in bins]
        longest = max(index for index in range(61) if bins[index])
        besides = {"measure": "stall", "longest_ns": 10 ** (3.05 + longest / 10)}
        besides.update(seconds=2.0, iterations=sum(bins))
        self.file["cells"].append({**head, "unit": "stalls", **besides, "values": bins})

    def growth(self):
        for key, name, ours in (
            ("percpu_inlined", "module_ref, per-CPU, inlined", True),
            ("shared_called", "module_ref, shared word, by calls", True),
            ("patch_inlined", "the patch's counter, inlined", False),
            ("host_find_get", "module_find_get and module_put", True),
            ("dlopen_noload", "dlopen(RTLD_NOLOAD) and dlclose", False),
        ):
            self.candidate("growth", key, name, ours)
        for counters in (1, 10, 100, 1000, 10_000, 100_000):
            for key, ns in (("percpu_inlined", 1.4), ("shared_called", 30), ("patch_inlined", 36)):
                where = {"counters": counters, "threads": 2}
                self.growth_cell("counters", key, ns * (1 + counters / 4e4), **where)
        # Of one size, and of a candidate that is declared for pairs.
        self.growth_cell("memory", "percpu_called", 16.3, counters=100_000, cpus=2)
        for cpus in (2, 16, 64, 256, 1024):
            self.growth_cell("cpus", "percpu_called", 9e3 + 3 * cpus, cpus=cpus, measure="idle")
            self.growth_cell("cpus", "percpu_called", 30 + 2 * cpus, cpus=cpus, measure="refused")
        for modules in (1, 100, 10_000):
            for threads in (1, 2):
                where = {"modules": modules, "threads": threads, "measure": "lookup"}
                self.growth_cell("modules", "host_find_get", 25, **where)
                self.growth_cell("modules", "dlopen_noload", 180 + modules * threads / 4, **where)
            for measure, ns in (("load", 9e4), ("unload", 5e4)):
                where = {"modules": modules, "threads": 1, "measure": measure}
                self.growth_cell("modules", "host_find_get", ns + 30 * modules, **where)

    def growth_cell(self, sweep, key, value, **parameters):
        unit = {"counters": "ns per pair", "memory": "bytes per counter"}.get(sweep, "ns")
        self.cell("growth", key, unit, value, sweep=sweep, **parameters)

    def python(self):
        for key, (name, ours, value) in PYTHON.items():
            self.candidate("python", key, name, ours)
            for threads in (1, 2):
                self.cell("python", key, "ns per pair", value * threads**0.2, threads=threads)

    def rust(self):
        for key in ("percpu_rust", "shared_rust", "rust_weak", "arc_swap"):
            self.cell("rust", key, "ns per pair", PAIRS[key][2])


QUESTIONS = ("pairs", "instructions", "unload", "growth", "python", "rust")


def everything(runs=3):
    made = Made(runs)
    for question in QUESTIONS:
        getattr(made, question)()
    return made.file


@pytest.fixture(scope="session")
def whole():
    return everything()


@pytest.fixture
def made(whole):
    """A run of everything, to be changed."""
    return copy.deepcopy(whole)


@pytest.fixture
def save(tmp_path):
    def save(content):
        path = tmp_path / "run.json"
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        return path

    return save


def ratio(values, goal=None, what="ours to theirs", **parameters):
    """One entry for each run."""
    head = {"question": "pairs", "what": what, "ours": "percpu_inlined", "theirs": "patch_inlined"}
    return [
        {**head, "goal": goal, "run": run, "values": of_run, **parameters}
        for run, of_run in enumerate(values)
    ]


# ---- numbers --------------------------------------------------------------------


class TestTable:
    def rows(self, run):
        return [
            [cell.strip() for cell in line.strip("|").split(" | ")]
            for line in report.table(run).splitlines()
            if line.startswith("|") and not line.startswith("| ---")
        ]

    def test_median_of_medians_and_spread(self, made, save):
        # Medians 0.2, 0.3 and 0.4; of all nine values it would be 0.22.
        made["ratios"] = ratio([[0.1, 0.2, 9], [0.4, 0.22, 0.3], [0.21, 0.4, 0.4]])
        assert self.rows(report.load(save(made))) == [
            ["ratio", "ratio"],
            ["ours to theirs", "0.30 (0.20 to 0.40)"],
        ]

    def test_even_numbers_of_rounds_and_runs(self, made, save):
        made["ratios"] = ratio([[1, 2], [3, 5]])
        assert self.rows(report.load(save(made)))[1][1] == "2.75 (1.50 to 4.00)"

    @pytest.mark.parametrize(
        ("value", "goal", "said"),
        [
            (0.34, 0.35, "0.34 (one run; at most 0.35, met)"),
            (0.35, 0.35, "0.35 (one run; at most 0.35, met)"),
            (0.36, 0.35, "0.36 (one run; at most 0.35, missed)"),
            # Rounded it would look met, and the other way round.
            (0.3504, 0.35, "0.3504 (one run; at most 0.35, missed)"),
            (0.9996, 0.9998, "0.9996 (one run; at most 0.9998, met)"),
            (0.04321, 0.1, "0.043 (one run; at most 0.1, met)"),
            (0.00097, None, "0.00097 (one run)"),
            (12.345, None, "12.3 (one run)"),
            (571.4, None, "571 (one run)"),
        ],
    )
    def test_goals(self, made, save, value, goal, said):
        made["ratios"] = ratio([[value]], goal)
        assert self.rows(report.load(save(made)))[1][1] == said

    def test_a_column_for_each_size_and_a_row_for_the_rest(self, made, save):
        made["ratios"] = (
            ratio([[1]], threads=1, counters="one")
            + ratio([[2]], threads=2, counters="one")
            + ratio([[3]], threads=2, counters="own")
        )
        assert self.rows(report.load(save(made))) == [
            ["ratio", "1 thread", "2 threads"],
            ["ours to theirs", "1.00 (one run)", "2.00 (one run)"],
            ["ours to theirs (own counters)", "", "3.00 (one run)"],
        ]

    def test_titles_say_parameters_once(self, made, save):
        made["ratios"] = (
            ratio([[1]], threads=2, counters="one")
            + ratio([[1]], threads=1, counters="own")
            + ratio([[1]], what="lookup, 100 modules", modules=100, threads=1, sweep="modules")
        )
        assert [one.title for one in report.load(save(made)).ratios] == [
            "ours to theirs (2 threads, one counter)",
            "ours to theirs (1 thread, own counters)",
            "lookup, 100 modules (1 thread)",
        ]

    def test_markdown_is_escaped(self, made, save):
        made["ratios"] = ratio([[1]], what="a|b <i> & c")
        assert "| a\\|b &lt;i&gt; &amp; c |" in report.table(report.load(save(made)))

    def test_says_where_from(self, made, save):
        last = report.table(report.load(save(made))).splitlines()[-1]
        for part in ("AMD EPYC, 2 CPUs", "make bench", "2026-11-23 13:30", "3 runs"):
            assert part in last

    def test_without_ratios(self, made, save):
        made["ratios"] = []
        with pytest.raises(report.ReportError, match=r"run\.json: no ratios.*make bench"):
            report.table(report.load(save(made)))


@pytest.mark.parametrize(
    ("ns", "said"),
    [(0.5, "0.50 ns"), (14, "14 ns"), (999, "999 ns"), (1500, "1.50 µs"), (12.34e6, "12.3 ms")],
)
def test_durations(ns, said):
    assert report.duration(ns) == said


def test_figure_of_a_cell(made, save):
    cells = [cell for cell in made["cells"] if cell["question"] == "rust"][:3]
    for cell, values in zip(cells, ([1, 2, 3], [4, 4, 9], [5, 6, 700])):
        cell["values"] = values
    (found,) = report.load(save(made)).select("rust", **{})[:1]
    assert found.figure == (4, 2, 6)


# ---- bad files ------------------------------------------------------------------


def first(question, kind="cells", **parameters):
    """Changes the first entry of a question that has these parameters."""

    def change(file, **members):
        for entry in file[kind]:
            if entry["question"] == question and parameters.items() <= entry.items():
                entry.update(members)
                return
        raise KeyError(question)

    return change


BROKEN = {
    "no machine": (lambda file: file.pop("machine"), "the file has no 'machine'"),
    "no cells": (lambda file: file.pop("cells"), "the file has no 'cells' that is a list"),
    "empty": (lambda file: file.update(cells=[]), "empty list of 'cells'"),
    "another format": (lambda file: file.update(format="x-2"), "not a benchmark run in the format"),
    "unknown candidate": (
        lambda file: first("pairs")(file, candidate="nobody_knows"),
        r"cells\[0\] names 'nobody_knows', which is not among the candidates of 'pairs'",
    ),
    "unknown candidate of a ratio": (
        lambda file: first("pairs", "ratios")(file, theirs="x"),
        r"ratios\[0\] names 'x'",
    ),
    "unknown question": (
        lambda file: file["cells"][0].update(question="weather"),
        r"cells\[0\] is of the question 'weather'",
    ),
    "no values": (lambda file: first("pairs")(file, values=[]), "empty list of 'values'"),
    "no values of a ratio": (
        lambda file: first("pairs", "ratios")(file, values=[]),
        "empty list of 'values'",
    ),
    "text for a value": (lambda file: first("pairs")(file, values=[1, "2"]), "a number of 0"),
    "true for a value": (lambda file: first("pairs")(file, values=[True]), "a number of 0"),
    "not a number": (lambda file: first("pairs")(file, values=[math.nan]), "a number of 0"),
    "infinite": (lambda file: first("pairs")(file, values=[math.inf]), "a number of 0"),
    "huge": (lambda file: first("pairs")(file, values=[10**400]), "a number of 0"),
    "negative": (lambda file: first("pairs")(file, values=[-1]), "a number of 0"),
    "nothing": (lambda file: first("pairs")(file, values=[0]), "has a 0 among"),
    "no threads": (lambda file: file["cells"][0].pop("threads"), "no 'threads'"),
    "0 threads": (lambda file: first("pairs")(file, threads=0), "'threads' below 1"),
    "other counters": (lambda file: first("pairs")(file, counters="two"), "not one or own"),
    "no seconds": (
        lambda file: first("unload", measure="stall")(file, seconds=0),
        "has no 'seconds'",
    ),
    "many bins": (
        lambda file: first("unload", measure="stall")(file, values=[1] * 10**4),
        "more than 200 'values'",
    ),
    "an unload in no time": (
        lambda file: first("unload", measure="latency")(file, values=[0, 1]),
        "has a 0 among",
    ),
    "unknown measure": (
        lambda file: first("unload", measure="latency")(file, measure="weight"),
        "'weight', not latency or stalled or stall",
    ),
    "no quantiles": (
        lambda file: first("unload", measure="latency")(file, values=[]),
        "empty list of 'values'",
    ),
    "no size": (lambda file: first("growth", sweep="modules")(file, modules=None), "'modules'"),
    "cells as text": (lambda file: file.update(cells=["x"]), r"cells\[0\] is not an object"),
}


class TestBadFiles:
    @pytest.mark.parametrize("name", BROKEN)
    def test_broken(self, made, save, capsys, name):
        change, says = BROKEN[name]
        change(made)
        path = save(made)
        for arguments in (["report", str(path)], ["report", str(path), "--table"]):
            assert main(arguments) == 2
            printed = capsys.readouterr()
            assert printed.out == ""
            assert str(path) in printed.err
            assert "make bench" in printed.err
            assert re.search(says, printed.err)
            assert printed.err.count("\n") == 1

    @pytest.mark.parametrize(
        "content", ["", "{", "[]", "null", "7", "[" * 100_000, '{"format": 1}', "\0"]
    )
    def test_foreign(self, save, capsys, content):
        path = save(content)
        assert main(["report", str(path), "--table"]) == 2
        assert str(path) in capsys.readouterr().err

    def test_not_text(self, tmp_path, capsys):
        path = tmp_path / "run.json"
        path.write_bytes(b"\xff\xfe\x00")
        assert main(["report", str(path)]) == 2
        assert "not JSON" in capsys.readouterr().err

    def test_missing(self, tmp_path, capsys):
        assert main(["report", str(tmp_path / "none.json")]) == 2
        assert re.search(r"none\.json: No such file.*make bench", capsys.readouterr().err)

    def test_a_directory(self, tmp_path, capsys):
        assert main(["report", str(tmp_path)]) == 2
        assert str(tmp_path) in capsys.readouterr().err

    def test_no_command(self, capsys):
        with pytest.raises(SystemExit) as ended:
            main([])
        assert ended.value.code == 2
        assert "COMMAND" in capsys.readouterr().err


# ---- the page -------------------------------------------------------------------


class Page(html.parser.HTMLParser):
    """What a page refers to, its texts and tables, and that its elements are closed in order."""

    EMPTY = ("meta", "link", "img", "source", "br", "wbr")

    def __init__(self, text):
        super().__init__()
        self.open, self.loads, self.ids, self.links = [], [], [], []
        self.alts, self.images = [], []
        self.rows, self.text = [], ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        if tag not in self.EMPTY:
            self.open.append(tag)
        for name in ("src", "srcset", "href", "data", "action"):
            if name in attributes and not (tag == "a" and attributes[name].startswith("#")):
                self.loads.append(attributes[name])
        if tag == "a":
            self.links.append(attributes["href"])
        if tag == "img":
            self.images.append(attributes["class"])
            if attributes["class"] == "wide":
                self.alts.append(attributes["alt"])
        if "id" in attributes:
            self.ids.append(attributes["id"])
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data
        if {"td", "th"} & set(self.open):
            self.rows[-1][-1] += data


def png(width, height):
    """A blank picture."""

    def chunk(kind, data):
        check = zlib.crc32(kind + data)
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", check)

    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    rows = zlib.compress((b"\0" + b"\xff" * width) * height)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


PICTURES = {
    name: (png(4, 3), png(2, 3))
    for name in (
        *("throughput", "instructions", "unload", "stalled", "stalls"),
        *("growth", "rust", "python"),
    )
}


def page(run, pictures=PICTURES):
    return Page(_report_page.page(run, pictures))


class TestPage:
    def test_loads_nothing(self, made, save):
        text = _report_page.page(report.load(save(made)), PICTURES)
        loads = Page(text).loads
        assert len(loads) == 1 + 2 * len(PICTURES)
        assert all(load.startswith("data:") for load in loads)
        assert "url(" not in text
        assert "<script" not in text
        assert "@import" not in text

    def test_contents_lead_somewhere(self, made, save):
        found = page(report.load(save(made)))
        assert len(found.ids) == len(set(found.ids))
        assert {link.lstrip("#") for link in found.links} <= set(found.ids)

    def test_ratios_come_first_with_their_goals(self, made, save):
        made["ratios"] = ratio([[0.2], [0.3], [0.4]], 0.35) + ratio([[2]], 1, what="other")
        rows = page(report.load(save(made))).rows
        assert rows[0] == ["what", "ratio", "spread over 3 runs", "goal"]
        assert rows[2] == ["ours to theirs", "0.30", "0.20 to 0.40", "at most 0.35, met"]
        assert rows[3][1:] == ["2.00", "one run", "at most 1, missed"]

    def test_many_ratios_without_a_goal_are_folded(self, made, save):
        made["ratios"] = ratio([[1]], 1, what="with") + [
            entry for number in range(31) for entry in ratio([[1]], what=f"number {number}")
        ]
        text = _report_page.page(report.load(save(made)), PICTURES)
        assert "31 ratios without a goal" in text
        before, after = text.split("<details>")
        assert "with</th>" in before
        assert "number 7</th>" not in before
        assert "number 7</th>" in after

    def test_tables_have_every_candidate(self, made, save):
        rows = {row[0]: row for row in page(report.load(save(made))).rows if len(row) == 12}
        assert set(rows) == {name for name, *_ in PAIRS.values()}
        percpu = rows["module_ref, per-CPU, inlined"]
        assert percpu[9:] == ["14", "counts references", "needs somebody to ask"]

    def test_unloads(self, made, save):
        for cell in made["cells"]:
            if cell["question"] == "unload" and cell["candidate"] == "percpu":
                if cell["measure"] == "stall":
                    cell.update(longest_ns=5e6)
                else:
                    unit = 1000 if cell["measure"] == "latency" else 10
                    cell.update(values=[unit * number for number in range(1, 202)])
        rows = [row for row in page(report.load(save(made))).rows if row[0] == SCHEMES["percpu"][0]]
        assert rows[0][1:] == [
            "15,00021 refused",
            *("101 µs", "199 µs", "201 µs"),
            *("1.01 µs", "1.99 µs"),
            "5 ms",
        ]

    def test_unloads_that_were_all_refused(self, made, save):
        for cell in made["cells"]:
            if cell["candidate"] == "urcu" and cell.get("measure") == "latency":
                cell.update(values=[], count=0)
        rows = [row for row in page(report.load(save(made))).rows if row[0] == SCHEMES["urcu"][0]]
        assert rows[0][1:5] == ["021 refused", "–", "–", "–"]

    def test_alternatives_say_what_is_found(self, made, save):
        alts = page(report.load(save(made))).alts
        assert len(alts) == len(PICTURES)
        assert page(report.load(save(made))).images == ["wide", "narrow"] * len(PICTURES)
        # A nanosecond of one of two CPUs for each pair: 2000 million pairs in a second.
        for cell in made["cells"]:
            if cell["candidate"] == "percpu_inlined" and cell["question"] == "pairs":
                cell["values"] = [1.0]
        assert (
            "8 threads, one counter: “module_ref, per-CPU, inlined” 2,000 million pairs a second; "
            "the others: “floor: two adds to thread-local memory”"
        ) in page(report.load(save(made))).alts[0]

    def test_text_is_escaped(self, made, save):
        bad = "<script>x</script>\"'&"
        made["machine"]["cpu"] = made["command"] = made["version"] = made["date"] = bad
        made["machine"]["<b>"] = bad
        for candidate in made["candidates"]:
            candidate.update(name=bad + candidate["name"], gives=bad, lacks=bad)
        for entry in made["cells"]:
            entry["unit"] += bad
        for entry in made["ratios"]:
            entry["what"] += bad
        made["skipped"].append({"question": "pairs", "name": bad, "why": bad})
        text = _report_page.page(report.load(save(made)), PICTURES)
        assert "<script" not in text
        assert "<b>" not in text
        assert bad in Page(text).text
        assert any(bad in alt for alt in Page(text).alts)

    @pytest.mark.parametrize("question", QUESTIONS)
    def test_says_what_is_missing(self, made, save, question):
        made["cells"] = [cell for cell in made["cells"] if cell["question"] != question]
        names = {"pairs": ["throughput"], "unload": ["unload", "stalled", "stalls"]}
        names = names.get(question, [question])
        pictures = {name: PICTURES[name] for name in PICTURES if name not in names}
        found = page(report.load(save(made)), pictures)
        assert len(found.alts) == len(pictures)
        assert found.text.count("Not in this run") == len(names) + 1

    def test_skipped_peers_have_their_reason(self, made, save):
        text = page(report.load(save(made))).text
        assert "folly::hazptr (A get and a put): not installed: apt-get install libfolly" in text

    def test_only_pairs_of_one_run(self, save):
        only = Made(1, 1)
        only.pairs()
        found = page(report.load(save(only.file)), {"throughput": PICTURES["throughput"]})
        assert len(found.alts) == 1
        assert "Not in this run: Unloads, Growth, Rust, Python, Instructions." in found.text


# ---- plots ----------------------------------------------------------------------


@pytest.fixture(scope="session")
def drawing():
    pytest.importorskip("matplotlib")
    from module_ref import _report_plots

    return _report_plots


def size_of(content):
    assert content.startswith(b"\x89PNG\r\n\x1a\n")
    return struct.unpack(">II", content[16:24])


class TestPlots:
    def test_writes_page_and_plots(self, drawing, made, save, capsys):
        path = save(made)
        assert main(["report", str(path)]) == 0
        written = path.parent / "report"
        assert capsys.readouterr().out == f"{written / 'report.html'}\n"
        assert {file.name for file in written.iterdir()} == {
            "report.html",
            *(f"{name}.png" for name in PICTURES),
        }
        for name in PICTURES:
            content = (written / f"{name}.png").read_bytes()
            assert len(content) > 5000
            width, height = size_of(content)
            assert width == 1800
            assert height > 200
        assert len(Page((written / "report.html").read_text(encoding="utf-8")).alts) == len(
            PICTURES
        )

    def test_output(self, drawing, made, save, tmp_path):
        made["cells"] = [cell for cell in made["cells"] if cell["question"] == "rust"]
        out = tmp_path / "a" / "b"
        for _ in range(2):
            assert main(["report", str(save(made)), "--output", str(out)]) == 0
        assert {file.name for file in out.iterdir()} == {"report.html", "rust.png"}

    def test_output_that_is_a_file(self, drawing, made, save, capsys):
        path = save(made)
        made["cells"] = [cell for cell in made["cells"] if cell["question"] == "rust"]
        assert main(["report", str(save(made)), "--output", str(path)]) == 2
        assert str(path) in capsys.readouterr().err

    @pytest.mark.parametrize("question", QUESTIONS)
    def test_one_question_alone(self, drawing, save, question):
        made = Made(1, 1)
        made.pairs()
        if question != "pairs":
            getattr(made, question)()
        made.file["cells"] = [cell for cell in made.file["cells"] if cell["question"] == question]
        drawn = drawing.draw(report.load(save(made.file)))
        names = {"pairs": {"throughput"}, "unload": {"unload", "stalled", "stalls"}}
        assert set(drawn) == names.get(question, {question})
        for wide, narrow in drawn.values():
            assert (size_of(wide)[0], size_of(narrow)[0]) == (1800, 720)

    @pytest.mark.filterwarnings("error::UserWarning")
    def test_odd_runs(self, drawing, made, save):
        """One thread, one size, one value each, a long name with a dollar, no stall."""
        made["cells"] = [
            cell
            for cell in made["cells"]
            if cell.get("threads", 1) == 1 and cell.get("counters", 1) in (1, "one")
        ]
        made["command"] = "make bench $HOME $x^{ \\frac"
        made["candidates"][0]["name"] = "$ \\alpha_ " + "abc" * 40
        for cell in made["cells"]:
            cell["values"] = [0] * 61 if cell.get("measure") == "stall" else [5]
        drawn = drawing.draw(report.load(save(made)))
        assert set(drawn) == set(PICTURES)

    def test_labels_keep_apart(self, drawing):
        heights = [10, 10, 20, 10, 10]
        places = drawing._apart([50, 50, 50, 52, 200], heights, 0, 300)
        for index in range(4):
            room = (heights[index] + heights[index + 1]) / 2
            assert places[index + 1] - places[index] >= room - 1e-9
        assert places[4] == 200
        assert sum(places[:4]) / 4 == pytest.approx(50.5, abs=5)
        assert drawing._apart([0, 5], [10, 10], 0, 100) == [5, 15]
        assert drawing._apart([98, 99], [10, 10], 0, 100) == [85, 95]


def python(code, *arguments):
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


WITHOUT = "import sys; sys.modules['matplotlib'] = None; "


class TestWithoutMatplotlib:
    def test_package_and_table(self, made, save):
        code = (
            "from module_ref.__main__ import main; import module_ref.report; "
            "sys.exit(main(['report', sys.argv[1], '--table']))"
        )
        ran = python(WITHOUT + code, save(made))
        assert ran.returncode == 0, ran.stderr
        assert ran.stdout == report.table(report.load(save(made)))

    def test_drawing_says_what_to_install(self, made, save):
        code = "from module_ref.__main__ import main; sys.exit(main(['report', sys.argv[1]]))"
        path = save(made)
        ran = python(WITHOUT + code, path)
        assert ran.returncode == 2
        assert "pip install 'module-ref[report]'" in ran.stderr
        assert "Traceback" not in ran.stderr
        assert not (path.parent / "report").exists()


def test_as_a_command(made, save):
    path = save(made)
    ran = subprocess.run(
        [sys.executable, "-m", "module_ref", "report", str(path), "--table"],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert ran.stdout.startswith("| ratio | 1 thread | 2 threads |")
