"""The report of a benchmark run: its numbers, its page and plots, and what it says of bad files."""

import html.parser
import io
import json
import math
import re
import subprocess
import sys
from pathlib import Path

import page
import plots
import pytest
from data import ReportError, load
from PIL import Image
from report import main
from words import duration, table, title

HERE = Path(__file__).parent

# ---- a made-up run --------------------------------------------------------------

QUOTED = HERE.parents[1] / "docs" / "bench" / "run.json"
QUESTIONS = ("pairs", "instructions", "unload", "growth", "python", "rust")
PLOTS = {"pairs": {"throughput"}, "unload": {"unload", "stalled", "stalls"}}


def whole(content):
    """A run of three starts that has the figures of a quoted one."""
    made = {**content, "runs": 3}
    for kind in ("cells", "ratios"):
        made[kind] = []
        for entry in content[kind]:
            for run, figure in enumerate(("low", "median", "high")):
                one = {name: entry[name] for name in entry if name not in ("median", "low", "high")}
                one |= {"run": run, **values(entry.get("measure"), entry[figure])}
                # Of all runs together.
                one |= {name: 0 for name in ("count", "refused") if run and name in one}
                made[kind].append(one)
    return made


def values(measure, figure):
    if measure in ("latency", "stalled"):
        return {"values": [figure * (0.5 + part / 100) for part in range(101)]}
    if measure == "stall":
        # Fewer and fewer from shorter to longer ones.
        bins = [int(3e6 / 10 ** (index / 8)) for index in range(61)]
        return {"values": bins, "longest_ns": figure, "seconds": 2.0}
    return {"values": [figure]}


def ratio(values, goal=None, what="ours to theirs", **parameters):
    """One entry for each run."""
    head = {"question": "pairs", "what": what, "ours": "percpu_inlined", "theirs": "patch_inlined"}
    return [
        {**head, "goal": goal, "run": run, "values": of_run, **parameters}
        for run, of_run in enumerate(values)
    ]


def alone(made, question):
    made["cells"] = [cell for cell in made["cells"] if cell["question"] == question]
    return made


@pytest.fixture
def made():
    """A run of everything, to be changed."""
    return whole(json.loads(QUOTED.read_text()))


@pytest.fixture
def save(tmp_path):
    def save(content):
        path = tmp_path / "run.json"
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        return path

    return save


# ---- numbers --------------------------------------------------------------------


class TestTable:
    def rows(self, run):
        return [
            [cell.strip() for cell in line.strip("|").split(" | ")]
            for line in table(run).splitlines()
            if line.startswith("|") and not line.startswith("| ---")
        ]

    @pytest.mark.parametrize(
        ("values", "goal", "said"),
        [
            # Medians 0.2, 0.3 and 0.4; of all nine values it would be 0.22.
            ([[0.1, 0.2, 9], [0.4, 0.22, 0.3], [0.21, 0.4, 0.4]], None, "0.30 (0.20 to 0.40)"),
            ([[1, 2], [3, 5]], None, "2.75 (1.50 to 4.00)"),
            ([[0.34]], 0.35, "0.34 (one run; at most 0.35, met)"),
            ([[0.35]], 0.35, "0.35 (one run; at most 0.35, met)"),
            ([[0.36]], 0.35, "0.36 (one run; at most 0.35, missed)"),
            # Rounded it would look met, and the other way round.
            ([[0.3504]], 0.35, "0.3504 (one run; at most 0.35, missed)"),
            ([[0.9996]], 0.9998, "0.9996 (one run; at most 0.9998, met)"),
            ([[0.04321]], 0.1, "0.043 (one run; at most 0.1, met)"),
            ([[0.00097]], None, "0.00097 (one run)"),
            ([[12.345]], None, "12.3 (one run)"),
            ([[571.4]], None, "571 (one run)"),
        ],
    )
    def test_medians_spreads_and_goals(self, made, save, values, goal, said):
        made.update(runs=len(values), ratios=ratio(values, goal))
        assert self.rows(load(save(made))) == [["ratio", "ratio"], ["ours to theirs", said]]

    def test_a_column_for_each_size_and_a_row_for_the_rest(self, made, save):
        made["runs"] = 1
        made["ratios"] = (
            ratio([[1]], threads=1, counters="one")
            + ratio([[2]], threads=2, counters="one")
            + ratio([[3]], threads=2, counters="own")
        )
        assert self.rows(load(save(made))) == [
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
        assert [title(one) for one in load(save(made)).ratios] == [
            "ours to theirs (2 threads, one counter)",
            "ours to theirs (1 thread, own counters)",
            "lookup, 100 modules (1 thread)",
        ]

    def test_markdown_is_escaped(self, made, save):
        made["ratios"] = ratio([[1]], what="a|b <i> & c")
        assert "| a\\|b &lt;i&gt; &amp; c |" in table(load(save(made)))

    def test_says_where_from(self, made, save):
        made["machine"].update(cpu="AMD EPYC", cpus=2)
        made.update(date="2026-11-23T13:30:00Z", command="make bench")
        last = table(load(save(made))).splitlines()[-1]
        for part in ("AMD EPYC, 2 CPUs", "make bench", "2026-11-23 13:30", "3 runs"):
            assert part in last

    def test_without_ratios(self, made, save):
        made["ratios"] = []
        with pytest.raises(ReportError, match=r"run\.json: no ratios.*make bench"):
            table(load(save(made)))


@pytest.mark.parametrize(
    ("ns", "said"),
    [(0.5, "0.50 ns"), (14, "14 ns"), (999, "999 ns"), (1500, "1.50 µs"), (12.34e6, "12.3 ms")],
)
def test_durations(ns, said):
    assert duration(ns) == said


def test_figure_of_a_cell(made, save):
    cells = [cell for cell in made["cells"] if cell["question"] == "rust"][:3]
    for cell, values in zip(cells, ([1, 2, 3], [4, 4, 9], [5, 6, 700])):
        cell["values"] = values
    (found,) = load(save(made)).select("rust", **{})[:1]
    assert found.figure == (4, 2, 6)


class TestQuote:
    """What documents quote: every figure once."""

    def test_nothing_but_figures(self, made, save):
        text = load(save(made)).quote()
        assert table(load(QUOTED)) == table(load(save(made)))
        assert text == QUOTED.read_text()
        assert '"values"' not in text
        entries = sum(len(json.loads(text)[kind]) for kind in ("candidates", "cells", "ratios"))
        assert text.count("\n") == entries + 1

    def test_its_page(self):
        # Figures alone make no curve, nor another quantile than the middle.
        found = parsed(load(QUOTED), {"growth": PICTURES["growth"]})
        row = next(row for row in found.rows if row[0] == "module_ref, per CPU")
        assert re.fullmatch(r"[\d,]+", row[1])
        assert "µs" in row[2]
        assert row[3:5] == ["–", "–"]

    def test_written(self, made, save, tmp_path):
        path = save(alone(made, "unload"))
        assert main([str(path), "--quote", "--output", str(tmp_path / "docs")]) == 0
        again = tmp_path / "docs" / "run.json"
        assert {file.name for file in again.parent.iterdir()} == {"run.json", "unload.png"}
        assert main([str(again), "--output", str(tmp_path / "page")]) == 0
        assert [file.name for file in (tmp_path / "page").iterdir()] == ["report.html"]


# ---- bad files ------------------------------------------------------------------


def first(question, **members):
    """Changes the first cell of a question."""

    def change(file):
        next(cell for cell in file["cells"] if cell["question"] == question).update(members)

    return change


BROKEN = {
    "no machine": (lambda file: file.pop("machine"), "'machine'"),
    "no cells": (lambda file: file.pop("cells"), "'cells'"),
    "empty": (lambda file: file.update(cells=[]), "nothing was measured"),
    "another format": (lambda file: file.update(format="x-2"), "not a benchmark run in the format"),
    "unknown candidate": (first("pairs", candidate="nobody_knows"), "'nobody_knows'"),
    "no values": (first("pairs", values=[]), "no values"),
    "no values of a ratio": (lambda file: file.update(ratios=ratio([[]])), "no values"),
    "text for a value": (first("pairs", values=[1, "2"]), "str"),
    "not a number": (first("pairs", values=[math.nan]), "NaN"),
    "infinite": (first("pairs", values=[math.inf]), "Infinity"),
    "negative": (first("unload", values=[-1, 1, 2]), "0 or less"),
    "nothing": (first("pairs", values=[0, 1, 2]), "0 or less"),
    "no quantiles": (first("unload", values=[]), "no values"),
    "a spread without its median": (first("pairs", median=3, low=4, high=5), "no figure"),
    "cells as text": (lambda file: file.update(cells=["x"]), "TypeError"),
}


class TestBadFiles:
    @pytest.mark.parametrize("name", BROKEN)
    def test_broken(self, made, save, capsys, name):
        change, says = BROKEN[name]
        change(made)
        path = save(made)
        for arguments in ([str(path)], [str(path), "--table"]):
            assert main(arguments) == 2
            printed = capsys.readouterr()
            assert printed.out == ""
            assert str(path) in printed.err
            assert "make bench" in printed.err
            assert re.search(says, printed.err)
            assert printed.err.count("\n") == 1

    @pytest.mark.parametrize(
        "content", ["", "{", "[]", "null", "7", "[" * 100_000, '{"format": 1}', "\0", "\udcff"]
    )
    def test_foreign(self, tmp_path, capsys, content):
        path = tmp_path / "run.json"
        path.write_text(content, errors="surrogateescape")
        assert main([str(path), "--table"]) == 2
        says = (
            "not a benchmark run" if content in ("[]", "null", "7", '{"format": 1}') else "not JSON"
        )
        assert f"{path}: {says}" in capsys.readouterr().err

    @pytest.mark.parametrize(("name", "says"), [("none.json", "No such file"), ("", "directory")])
    def test_no_file(self, tmp_path, capsys, name, says):
        assert main([str(tmp_path / name)]) == 2
        assert re.search(f"{tmp_path / name}: .*{says}.*make bench", capsys.readouterr().err)


# ---- the page -------------------------------------------------------------------


class Page(html.parser.HTMLParser):
    """What a page refers to, its texts and tables, and that its elements are closed in order."""

    EMPTY = ("meta", "link", "img", "source", "br", "wbr")

    def __init__(self, text):
        super().__init__()
        self.open, self.loads, self.ids, self.links = [], [], [], []
        self.alts, self.images, self.rows, self.text = [], [], [], ""
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
    blank = io.BytesIO()
    Image.new("L", (width, height), 255).save(blank, format="PNG")
    return blank.getvalue()


NAMES = "throughput instructions unload stalled stalls growth rust python".split()
PICTURES = {name: (png(4, 3), png(2, 3)) for name in NAMES}


def parsed(run, pictures=PICTURES):
    return Page(page.page(run, pictures))


class TestPage:
    def test_loads_nothing(self, made, save):
        text = page.page(load(save(made)), PICTURES)
        loads = Page(text).loads
        assert len(loads) == 1 + 2 * len(PICTURES)
        assert all(load.startswith("data:") for load in loads)
        assert "url(" not in text
        assert "<script" not in text
        assert "@import" not in text

    def test_contents_lead_somewhere(self, made, save):
        found = parsed(load(save(made)))
        assert len(found.ids) == len(set(found.ids))
        assert {link.lstrip("#") for link in found.links} <= set(found.ids)

    def test_ratios_come_first_with_their_goals(self, made, save):
        made["ratios"] = ratio([[0.2], [0.3], [0.4]], 0.35) + ratio([[2]] * 3, 1, what="other")
        rows = parsed(load(save(made))).rows
        assert rows[0] == ["what", "ratio", "spread over 3 runs", "goal"]
        assert rows[2] == ["ours to theirs", "0.30", "0.20 to 0.40", "at most 0.35, met"]
        assert rows[3][1:] == ["2.00", "2.00 to 2.00", "at most 1, missed"]

    def test_many_ratios_without_a_goal_are_folded(self, made, save):
        made["ratios"] = ratio([[1]], 1, what="with") + [
            entry for number in range(6, 8) for entry in ratio([[1]], what=f"number {number}")
        ]
        text = page.page(load(save(made)), PICTURES)
        assert "2 ratios without a goal" in text
        before, after = text.split("<details>")
        assert "with</th>" in before
        assert "number 7</th>" not in before
        assert "number 7</th>" in after

    def test_tables_have_every_candidate(self, made, save):
        rows = {row[0]: row for row in parsed(load(save(made))).rows if len(row) == 11}
        pairs = {each["name"]: each for each in made["candidates"] if each["question"] == "pairs"}
        assert set(rows) == set(pairs)
        for name, row in rows.items():
            assert row[9:] == [pairs[name]["gives"], pairs[name]["lacks"]]
            assert all(re.match(r"\d", figure) for figure in row[1:9])

    def test_unloads(self, made, save):
        for cell in made["cells"]:
            if cell["question"] == "unload" and cell["candidate"] == "percpu":
                if cell["measure"] == "stall":
                    cell.update(longest_ns=5e6)
                else:
                    unit = 1000 if cell["measure"] == "latency" else 10
                    cell.update(values=[unit * number for number in range(1, 202)])
                    cell.update(count=5000, refused=3)
        rows = [row for row in parsed(load(save(made))).rows if row[0] == "module_ref, per CPU"]
        times = ["101 µs", "199 µs", "201 µs", "1.01 µs", "1.99 µs", "5 ms"]
        assert rows[0][1:] == ["15,0009 refused", *times]

    def test_unloads_that_were_all_refused(self, made, save):
        for cell in made["cells"]:
            if cell["candidate"] == "urcu" and cell.get("measure") == "latency":
                cell.update(values=[], count=0, refused=7)
        rows = [row for row in parsed(load(save(made))).rows if row[0] == "liburcu, memb"]
        assert rows[0][1:5] == ["021 refused", "–", "–", "–"]

    def test_alternatives_say_what_is_found(self, made, save):
        alts = parsed(load(save(made))).alts
        assert len(alts) == len(PICTURES)
        assert parsed(load(save(made))).images == ["wide", "narrow"] * len(PICTURES)
        made["machine"]["cpus"] = 2
        # A nanosecond of one of two CPUs for each pair: 2000 million pairs in a second.
        for cell in made["cells"]:
            if cell["candidate"] == "percpu_inlined" and cell["question"] == "pairs":
                cell["values"] = [1.0]
        assert (
            "8 threads, one counter: “module_ref, per-CPU, inlined” 2,000 million pairs a second; "
            "the others: “"
        ) in parsed(load(save(made))).alts[0]

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
        text = page.page(load(save(made)), PICTURES)
        assert "<script" not in text
        assert "<b>" not in text
        assert bad in Page(text).text
        assert any(bad in alt for alt in Page(text).alts)

    @pytest.mark.parametrize("question", QUESTIONS)
    def test_says_what_is_missing(self, made, save, question):
        made["cells"] = [cell for cell in made["cells"] if cell["question"] != question]
        names = PLOTS.get(question, {question})
        pictures = {name: PICTURES[name] for name in PICTURES if name not in names}
        found = parsed(load(save(made)), pictures)
        assert len(found.alts) == len(pictures)
        assert found.text.count("Not in this run") == len(names) + 1

    def test_only_pairs_and_a_peer_that_was_skipped(self, made, save):
        why = "not installed: apt-get install libfolly-dev"
        made["skipped"] = [{"question": "pairs", "name": "folly::hazptr", "why": why}]
        found = parsed(load(save(alone(made, "pairs"))), {"throughput": PICTURES["throughput"]})
        assert len(found.alts) == 1
        assert f"folly::hazptr (A get and a put): {why}" in found.text
        assert "Not in this run: Unloads, Growth, Look, Rust, Python, Instructions." in found.text


# ---- plots ----------------------------------------------------------------------


def size_of(content):
    picture = Image.open(io.BytesIO(content))
    # The last columns on the right are white, where nothing is cut off.
    edge = picture.convert("L").crop((picture.width - 3, 0, *picture.size))
    assert (picture.format, edge.getextrema()) == ("PNG", (255, 255))
    return picture.size


class TestPlots:
    @pytest.mark.parametrize("output", ["report", "a/b"])
    def test_writes_page_and_plots(self, made, save, capsys, output):
        path = save(alone(made, "pairs"))
        written = path.parent / output
        for _ in range(2):
            assert main([str(path), *(["--output", str(written)] * (output != "report"))]) == 0
            assert capsys.readouterr().out == f"{written / 'report.html'}\n"
        assert {file.name for file in written.iterdir()} == {"report.html", "throughput.png"}
        content = (written / "throughput.png").read_bytes()
        assert len(content) > 5000
        assert size_of(content)[0] == 1500
        assert len(Page((written / "report.html").read_text(encoding="utf-8")).alts) == 1

    def test_output_that_is_a_file(self, made, save, capsys):
        path = save(made)
        alone(made, "rust")
        assert main([str(save(made)), "--output", str(path)]) == 2
        assert str(path) in capsys.readouterr().err

    @pytest.mark.parametrize("question", QUESTIONS)
    def test_one_question_alone(self, made, save, question):
        drawn = plots.draw(load(save(alone(made, question))))
        assert set(drawn) == PLOTS.get(question, {question})
        for wide, narrow in drawn.values():
            assert (size_of(wide)[0], size_of(narrow)[0]) == (1500, 720)

    @pytest.mark.filterwarnings("error::UserWarning")
    def test_odd_runs(self, made, save):
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
        drawn = plots.draw(load(save(made)))
        assert set(drawn) == set(PICTURES)

    def test_labels_keep_apart(self):
        heights = [10, 10, 20, 10, 10]
        places = plots._apart([50, 50, 50, 52, 200], heights, 0, 300)
        for index in range(4):
            room = (heights[index] + heights[index + 1]) / 2
            assert places[index + 1] - places[index] >= room - 1e-9
        assert places[4] == 200
        assert sum(places[:4]) / 4 == pytest.approx(50.5, abs=5)
        assert plots._apart([0, 5], [10, 10], 0, 100) == [5, 15]
        assert plots._apart([98, 99], [10, 10], 0, 100) == [85, 95]


def python(*arguments):
    argv = [sys.executable, *map(str, arguments)]
    return subprocess.run(argv, capture_output=True, text=True, timeout=120)


def test_without_matplotlib(made, save, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(HERE))
    code = "import sys; sys.modules['matplotlib'] = None; import report; sys.exit(report.main())"
    path = save(made)
    ran = python("-c", code, path, "--table")
    assert (ran.returncode, ran.stdout) == (0, table(load(path))), ran.stderr
    ran = python("-c", code, path)
    assert ran.returncode == 2
    assert "pip install -r python/requirements-dev.txt" in ran.stderr
    assert "Traceback" not in ran.stderr
    assert not (path.parent / "report").exists()


def test_as_a_command(made, save):
    ran = python(HERE, save(made), "--table")
    assert (ran.returncode, ran.stderr) == (0, "")
    assert ran.stdout.startswith("| ratio | 1 thread | 2 threads |")
