"""The report of a run and the comparison of several: complete, self-contained, safe, and right in its numbers."""

from __future__ import annotations

import io
import json
from html.parser import HTMLParser

import pytest
from click.testing import CliRunner
from PIL import Image

from labutils import keynumbers, parameters
from labutils.commands import cli, report
from labutils.keynumbers import Erratum

BANDS = {
    "p1.a": {"title": "first", "unit": "nats", "truth": 0.5, "cpu": {"low": 0.0, "high": 1.0, "reason": "closed form"}},
    "p2.b": {"title": "second <b>", "unit": "nats/image", "report": -43.63,
             "cpu": {"low": -90.0, "high": -80.0, "reason": "five & seeds"}},
    "p2.c": {"title": "third", "unit": "ratio"},
}  # fmt: skip
HOSTILE = "<script>alert(1)</script> & 'quotes\" onload="
VOID = {"meta", "link", "img", "br", "hr", "input"}


class Page(HTMLParser):
    """Every tag with its attributes; the text; rows of tables as lists of cells; balanced or an error."""

    def __init__(self, path):
        super().__init__()
        self.tags, self.text, self.rows, self.open, self.style = [], "", [], [], ""
        self.feed(path.read_text(encoding="utf-8"))
        assert not self.open, f"never closed: {self.open}"
        self.text = " ".join(self.text.split())
        self.rows = [[" ".join(cell.split()) for cell in row] for row in self.rows]

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, f"</{tag}> closes nothing"

    def handle_data(self, data):
        if self.open and self.open[-1] == "style":
            self.style += data
            return
        self.text += data
        if "td" in self.open or "th" in self.open:
            self.rows[-1][-1] += data

    def all(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]

    def row(self, start):
        return next(row for row in self.rows if row and row[0].startswith(start))


def assert_self_contained(page):
    assert not page.all("script") and not page.all("link") and not page.all("iframe")
    for tag, attributes in page.tags:
        assert not any(name.startswith("on") for name in attributes), (tag, attributes)
        if "src" in attributes:
            assert attributes["src"].startswith("data:image/png;base64,")
    assert "url(" not in page.style and "@import" not in page.style
    assert any(m.get("name") == "viewport" for m in page.all("meta"))


def png(colour, size=(30, 20)):
    file = io.BytesIO()
    Image.new("RGB", size, colour).save(file, "png")
    return file.getvalue()


@pytest.fixture
def make(tmp_path, monkeypatch):
    """A function that makes a run folder of two notebooks: numbers by id as (value, stderr), captions by name."""
    monkeypatch.setattr(keynumbers, "bands", lambda: BANDS)
    monkeypatch.setattr(keynumbers, "FULL_RUN", tmp_path / "no_full_run.json")

    def run(name, numbers, captions=(), errata=(), seed=0, **changed):
        for k, notebook in ((1, "problem1_divergences"), (2, "problem2_vae")):
            values = {"profile": "cpu", "seed": seed, "device": "cpu", "data_dir": "", "out_dir": str(tmp_path / name)}
            one = keynumbers.Run(notebook, values | {"epochs": 8} | changed, judged=True)
            for id, (value, stderr) in numbers.items():
                if id.startswith(f"p{k}."):
                    one.record(id, value, stderr=stderr, n=1000)
            one.errata([row for problem, row in errata if problem == k])
            one.save()
        figures = tmp_path / name / "figures"
        figures.mkdir(exist_ok=True)
        for figure in dict(captions):
            (figures / f"{figure}.png").write_bytes(png((seed, 0, 0)))
        (figures / "captions.json").write_text(json.dumps(dict(captions)))
        return tmp_path / name

    return run


NUMBERS = {"p1.a": (0.51, 0.02), "p2.b": (-86.02, 0.25), "p2.c": (3.0, None)}
CAPTIONS = {"problem1-x": "What x shows.", "problem2-y": "What y shows.", "problem2-z": f"Caption {HOSTILE}"}
ERRATA = [(1, Erratum("sign inverted", float("inf"), 0.5, "nats")), (2, Erratum(HOSTILE, -18.4, None))]


def test_every_number_figure_and_erratum_is_on_the_page(make):
    page = Page(report.write(make("run", NUMBERS, CAPTIONS, ERRATA)))
    assert_self_contained(page)
    assert "All 2 judged numbers lie in their bands" in page.text and "1 more is measured" in page.text
    assert page.row("first [nats]") == ["first [nats]", "0.510 ± 0.020", "1,000", "0.5", "", "PASS"]
    assert page.row("second <b>")[1:] == ["−86.02 ± 0.25", "1,000", "−90 to −80", "−43.63", "PASS"]
    assert page.row("third")[1:] == ["3", "1,000", "", "", "not judged"]
    assert "five & seeds" in page.text and "Not judged: no band for the cpu profile." in page.text
    assert page.row("sign inverted") == ["sign inverted", "∞", "0.5", "nats"]
    assert page.row("<script>alert(1)")[1:] == ["−18.4", "", ""]
    for number, caption in zip(("1.1", "2.1", "2.2"), CAPTIONS.values(), strict=True):
        assert f"Figure {number}. {' '.join(caption.split())}" in page.text
    pictures = page.all("img")
    assert [p["alt"] for p in pictures] == list(CAPTIONS.values())
    assert {(p["width"], p["height"]) for p in pictures} == {("15", "10")}, "at half its pixels"
    for text in (keynumbers.processor(), "seed", "epochs = 8", "MiB", keynumbers.versions()["torch"]):
        assert text in page.text


def test_links_lead_somewhere(make):
    page = Page(report.write(make("run", {**NUMBERS, "p1.a": (9.0, 0.1)}, CAPTIONS, ERRATA)))
    targets = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(targets) == len(set(targets))
    links = [a["href"] for a in page.all("a")]
    assert "#p1.a" in links, "the number that failed"
    assert {link[1:] for link in links if link.startswith("#")} <= set(targets)
    assert "1 of 2 judged numbers lies outside its band: first." in page.text


def test_the_task_and_sections_come_from_the_executed_notebook(make):
    folder = make("run", NUMBERS, CAPTIONS)
    task = "# My title\n\n**You will** see <i>x</i>, **boldly**, $\\frac{a<b}{c}$ and `code`.\n\n**Time:** long."
    shown = {"output_type": "display_data", "data": {"text/markdown": "*What y shows.*"}}
    cells = [
        {"cell_type": "markdown", "source": ["<span>An exception</span>"]},  # papermill's, on top
        {"cell_type": "markdown", "source": task.splitlines(keepends=True)},
        {"cell_type": "markdown", "source": "## 1 · The <curves>\n\ntext"},
        {"cell_type": "code", "source": "show()", "outputs": [shown]},
    ]
    (folder / "problem2_vae.ipynb").write_text(json.dumps({"cells": cells}))
    text = report.write(folder).read_text(encoding="utf-8")
    assert "See &lt;i&gt;x&lt;/i&gt;, <strong>boldly</strong>, and <code>code</code>.</p>" in text
    page = Page(folder / "report.html")
    assert "My title" in page.text and "1 · The <curves> Figure 2.1. What y shows." in page.text
    assert "Problem 1 · Distances between distributions" in page.text, "of the package's notebook, as no other is there"
    assert {"href": "problem2_vae.ipynb"} in page.all("a")


def test_a_copy_in_the_run_folder_is_not_the_runs(make):
    folder = make("run", NUMBERS)
    for name, title in (("problem2_vae", "The run's"), ("problem2_vae-Copy1", "A copy's"), ("problem2_a", "A copy's")):
        cells = [{"cell_type": "markdown", "source": f"# {title} title"}]
        (folder / f"{name}.ipynb").write_text(json.dumps({"cells": cells}))
    page = Page(report.write(folder))
    assert "The run's title" in page.text and "A copy's" not in page.text
    assert [a["href"] for a in page.all("a") if a["href"].endswith(".ipynb")] == ["problem2_vae.ipynb"]


@pytest.mark.parametrize("name", ["run.json", "figures/captions.json", "key_numbers.json"])
def test_a_damaged_file_of_a_run_is_named(make, name):
    folder = make("run", NUMBERS, CAPTIONS)
    (folder / name).write_text("{half")
    status, output = lab("report", folder)
    assert status == 2 and f"{name} is damaged" in output and output.count("Error") == 1


def test_a_notebook_cut_while_it_was_written_does_not_stop_the_report(make):
    folder = make("run", NUMBERS)
    (folder / "problem2_vae.ipynb").write_text('{"cells": [')
    assert "Problem 2 · A variational autoencoder" in Page(report.write(folder)).text


def test_unfinished_runs_say_so(tmp_path):
    error = {"output_type": "error", "ename": "ValueError", "evalue": "<boom>"}
    cells = [{"cell_type": "code", "source": "", "outputs": [error]}]
    (tmp_path / "problem2_vae.ipynb").write_text(json.dumps({"cells": cells}))
    state = {"problem2_vae": {"state": "failed"}, "problem3_gan_vs_vae": {"state": "running"}}
    (tmp_path / "run.json").write_text(json.dumps({"notebooks": state}))
    page = Page(report.write(tmp_path))
    assert_self_contained(page)
    for text in ("an unfinished run", "Problem 2 did not finish.", "failed with ValueError: <boom>.",
                 "Problem 3 did not finish.", "was cut before its end", "There are no numbers yet"):  # fmt: skip
        assert text in page.text, text
    assert "All" not in page.text.split("There are no numbers")[0][-60:]


def test_an_empty_folder_gives_a_page(tmp_path):
    assert "There are no numbers yet" in Page(report.write(tmp_path)).text


def test_the_full_run_has_its_column_only_when_there_is_one(make, monkeypatch, tmp_path):
    folder = make("run", NUMBERS)
    assert "full run" not in Page(report.write(folder)).text
    full = make("full", {"p2.b": (-85.5, 0.05)}) / "key_numbers.json"
    monkeypatch.setattr(keynumbers, "FULL_RUN", full)
    page = Page(report.write(folder))
    assert page.row("quantity") == [
        "quantity", "this run", "n", "full run", "truth or band", "original report", "verdict",
    ]  # fmt: skip
    assert page.row("second")[3] == "−85.500 ± 0.050" and page.row("first")[3] == ""


# --- several runs -----------------------------------------------------------------------------------------


def lab(*arguments):
    result = CliRunner().invoke(cli.main, [*map(str, arguments)])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, " ".join(result.output.split())


def test_the_comparison_has_a_row_an_id_and_the_difference_in_joint_errors(make, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    one = make("a/cpu", NUMBERS, CAPTIONS)
    two = make("b/cpu", {"p1.a": (0.46, 0.015), "p2.b": (-95.0, None)}, {"problem1-x": "Other."}, seed=7, epochs=9)
    status, output = lab("report", one, two)
    assert (status, output) == (0, "comparison.html")
    page = Page(tmp_path / "comparison.html")
    assert_self_contained(page)
    assert page.row("quantity") == ["quantity", "a/cpu", "b/cpu"]
    # (0.46 − 0.51)/√(0.02² + 0.015²) = −2
    assert page.row("first") == ["first [nats]", "0.510 ± 0.020 PASS", "0.460 ± 0.015 (−2.0 σ) PASS"]
    assert page.row("second")[1:] == ["−86.02 ± 0.25 PASS", "−95 FAIL"], "no difference without both errors"
    assert page.row("third")[1:] == ["3 not judged", "–"]
    assert page.row("seed") == ["seed", "0", "7"] and page.row("problem2: epochs")[1:] == ["8", "9"]
    assert not [row for row in page.rows if row and row[0] in ("profile", "device", "torch")], "they are the same"
    assert [p["alt"] for p in page.all("img")] == ["What x shows.", "Other."], "the figure of both runs, side by side"
    assert page.all("img")[0]["src"] != page.all("img")[1]["src"]
    assert "In one run only: problem2-y, problem2-z." in page.text


def test_a_comparison_replaces_only_a_comparison(make, tmp_path):
    one, two = make("a", NUMBERS, {"problem1-x": HOSTILE}), make("b", NUMBERS, {"problem1-x": HOSTILE})
    mine = tmp_path / "thesis.html"
    mine.write_text("mine")
    for target in (mine, report.write(one)):
        before = target.read_bytes()
        status, output = lab("report", one, two, "--out", target)
        assert status == 2 and "was not written by a comparison" in output and target.read_bytes() == before
    for _ in range(2):
        assert lab("report", one, two, "--out", tmp_path / "new.html")[0] == 0
    page = Page(tmp_path / "new.html")
    assert_self_contained(page)
    assert [p["alt"] for p in page.all("img")] == [HOSTILE, HOSTILE]
    assert page.row("first")[2] == "0.510 ± 0.020 (+0.0 σ) PASS"


def test_wrong_arguments_of_report_are_named(make, tmp_path):
    one = make("a", NUMBERS)
    (tmp_path / "empty").mkdir()
    status, output = lab("report", one, tmp_path / "empty", "--out", tmp_path / "c.html")
    assert status == 2 and "empty holds no key_numbers.json" in output and "labutils run --out" in output
    status, output = lab("report", one, one, "--out", tmp_path / "c.html")
    assert status == 2 and "a is given twice" in output
    status, output = lab("report", one, "--out", tmp_path / "c.html")
    assert status == 2 and "--out is for the comparison" in output
    (tmp_path / "empty" / "key_numbers.json").write_text("{half")
    status, output = lab("report", tmp_path / "empty")
    assert status == 2 and "is damaged" in output
    assert lab("report")[0] == 2 and not (tmp_path / "c.html").exists()
    assert lab("report", one)[0] == 0


def test_every_notebook_says_what_it_asks():
    for path in parameters.notebooks().values():
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        title, asks = report.task(cells, "")
        assert title.startswith("Problem") and 40 < len(asks) < 900 and asks[0].isupper(), path.name
