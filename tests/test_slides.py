"""Decks: what a slide takes from its notebook, and what every slide of the three decks must have."""

from __future__ import annotations

import hashlib
import re

import nbformat
import pytest
from click.testing import CliRunner
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from labutils import parameters
from labutils.commands import cli, npm, slides

NAMES = [path.stem for path in parameters.notebooks().values()]
PRINTED = """K =    1: gap -0.50 ± 0.02, size 3
K = 2,000: gap 1.5e-06, size 4
of them 46% lie outside
"""
TABLE = "<table><tr><th style='x'>what</th><th>gives</th><th>unit</th></tr>" + "".join(
    f"<tr><td style='x'>{name} &amp; co</td><td>{value}</td><td>nats</td></tr>" for name, value in [("a", 1), ("b", 2)]
)


@pytest.fixture
def source():
    png = {"image/png": "AAAA\nBBBB"}
    cells = [
        new_code_cell(id="numbers", outputs=[new_output("stream", text=PRINTED)]),
        new_code_cell(id="figures", outputs=[
            new_output("display_data", data=png, metadata={"image/png": {"alt": f'the "{k}" figure'}}) for k in "12"
        ]),
        new_code_cell(id="table", outputs=[new_output("execute_result", data={"text/html": TABLE})]),
        new_markdown_cell("<details><summary><b>x</b></summary>\n\nNo.\n\n| for | points |\n|---|---|", id="answer",
                          metadata={"tags": ["model-answer"]}),
        new_markdown_cell("## Text", id="text"),
    ]  # fmt: skip
    return slides.Source(new_notebook(cells=cells), "problem9")


@pytest.mark.parametrize(
    ("pattern", "number"),
    [
        ("K = 1: gap {}, size", "−0.50 ± 0.02"),
        ("K = 1: gap {} ± *, size", "−0.50"),
        ("K = 1: gap * ± *, size {}", "3"),
        ("K = {}: gap 1.5e-06", "2,000"),
        ("K = 2,000: gap {}, size 4", "1.5e−06"),
        ("them {} lie", "46%"),
    ],
)
def test_a_number_is_the_printed_one(pattern, number, source):
    assert source.printed("numbers", pattern) == number


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda s: s.printed("numbers", "size {}"), "has 2 numbers"),
        (lambda s: s.printed("numbers", "nothing {}"), "has 0 numbers"),
        (lambda s: s.printed("nowhere", "{}"), "has no cell nowhere"),
        (lambda s: s.figure("figures", 2), "has 2 pictures; expected 3"),
        (lambda s: s.table("numbers"), "has no table"),
        (lambda s: s.table("table", rows="^c"), "no row"),
        (lambda s: s.answer("text"), "no model answer"),
    ],
)
def test_what_is_not_there_is_named(call, said, source):
    with pytest.raises(ValueError, match=said):
        call(source)


def test_figures_tables_and_answers(source):
    assert source.figure("figures", 1) == ""
    assert source.figures == ['<img src="data:image/png;base64,AAAABBBB" alt="the &quot;2&quot; figure">']
    whole = source.table("table")
    assert whole.count("<tr>") == 3 and "<td>a &amp; co</td><td>1</td><td>nats</td>" in whole and "style" not in whole
    assert source.table("table", rows="^b & ", columns=(1,)) == (
        "<table><tr><th>gives</th></tr><tr><td>2</td></tr></table>"
    )
    assert source.answer("answer") == "**The answer.** No."
    assert "½ left out" in source.mistakes("jsd") or "½" in source.mistakes("jsd")


TEXT = """# A {#text 1min}

Before $a < b$ <<figure("figures")>>

???

Ask.

---

## B {#numbers .side 2min}

- <<printed("numbers", "them {} lie")>>
"""


def test_slides_are_read(source):
    one, two = slides.read(TEXT, source)
    assert (one.title, one.cell, one.layout, one.start, one.minutes, one.first) == ("A", "text", "", 0, 1, True)
    assert (two.title, two.cell, two.layout, two.start, two.minutes, two.first) == ("B", "numbers", "side", 1, 2, False)
    assert len(one.figures) == 1 and two.figures == []
    assert "Ask." in one.notes and "Ask." not in one.html and "<li>46%</li>" in re.sub(r"\s*\n\s*", "", two.html)
    assert "$a &lt; b$" in one.html


@pytest.mark.parametrize("line", ["## B", "## B {#numbers}", "## B {#nowhere 2min}", "B {#numbers 2min}"])
def test_a_slide_without_cell_or_time_is_refused(line, source):
    with pytest.raises(ValueError, match=r"problem9, slide 2: expected|problem9 has no cell nowhere"):
        slides.read(TEXT.replace("## B {#numbers .side 2min}", line), source)


@pytest.mark.parametrize("path", parameters.notebooks().values(), ids=NAMES)
def test_a_deck_is_a_lecture(path):
    deck = slides.deck(path)
    assert 20 <= len(deck) <= 35 and sum(slide.minutes for slide in deck) == 45
    order = [cell.id for cell in nbformat.read(path, as_version=4).cells]
    sections = {id: k for k, id in enumerate(order)}
    for slide in deck:
        asks = (
            bool(slide.notes) if slide.layout == "ask" else "<strong>Ask" in slide.notes or "The answer" in slide.notes
        )
        assert asks, f"{slide.title}: nothing to ask the class"
        words = len(re.sub(r"\$.*?\$|<table>.*?</table>|<.*?>", " ", slide.html, flags=re.DOTALL).split())
        assert words <= 90, f"{slide.title}: {words} words are read, not listened to"
    assert [sections[slide.cell] for slide in deck] == sorted(sections[slide.cell] for slide in deck)


def test_the_command_writes_over_its_own_files_only(tmp_path):
    def call():
        return CliRunner().invoke(cli.main, ["teach", "slides", "--out", str(tmp_path)])

    (tmp_path / f"{NAMES[0]}.html").write_text("mine")
    done = call()
    assert done.exit_code == 2 and f"{NAMES[0]}.html was not written by" in done.output
    assert (tmp_path / f"{NAMES[0]}.html").read_text() == "mine" and len(list(tmp_path.iterdir())) == 1
    (tmp_path / f"{NAMES[0]}.html").unlink()
    for _ in range(2):
        done = call()
        assert done.exit_code == 0 and done.output.split() == [str(tmp_path / f"{name}.html") for name in NAMES]


def test_what_comes_from_npm_is_what_it_says():
    assert hashlib.sha256(npm.ARCHIVE.read_bytes()).hexdigest() == npm.SHA256
    for package in npm.PACKAGES.values():
        for name in package.files.values():
            assert len(npm.text(name)) > 500
    assert "MIT" in npm.text("reveal.LICENSE") or "Permission is hereby granted" in npm.text("reveal.LICENSE")
    with pytest.raises(ValueError, match=r"reveal.js 5.2.1: its SHA-512 is"):
        npm.make(dict.fromkeys(npm.PACKAGES, b"other bytes"))
