"""The pages that the commands write, in a real browser: nothing from elsewhere, no error, no overflow, readable."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from labutils.commands import grade, report

from . import pages

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The published full run, as a run's folder, and a run without a result."""
    folder = tmp_path_factory.mktemp("runs")
    shutil.copytree(ROOT / "figures", folder / "full" / "figures")
    shutil.copy(ROOT / "figures" / "key_numbers.json", folder / "full" / "key_numbers.json")
    listed = json.loads((ROOT / "figures" / "manifest.json").read_text(encoding="utf-8"))["figures"]
    captions = {figure["file"].removesuffix(".png"): figure["caption"] for figure in listed}
    (folder / "full" / "figures" / "captions.json").write_text(json.dumps(captions))
    (folder / "empty").mkdir()
    return folder


@pytest.mark.parametrize("name", ["full", "empty"])
def test_the_report(name, runs, chromium):
    assert pages.wrong(chromium, report.write(runs / name).as_uri()) == []


def test_the_comparison_of_runs(runs, chromium):
    shutil.copytree(runs / "full", runs / "again", dirs_exist_ok=True)
    page = report.compare([runs / "full", runs / "again"], runs / "comparison.html")
    assert pages.wrong(chromium, page.as_uri()) == []


def test_the_page_that_a_student_gets(tmp_path, chromium):
    hint = {"hint": "½ left out", "why": "Each of the terms has the weight ½."}
    parts = [
        grade.Part("the value at random logits", True, "", ""),
        grade.Part("the optimum", False, "another value than the right one", "", **hint),
    ]
    marks = [
        grade.Mark("jsd", 1, 2.0, 4, parts),
        grade.Mark("effective_sample_size", 2, 0.0, 3, [], note="not answered"),
    ]
    record = grade.Record("Anna Berg", "17", "", "anna", "", marks)
    path = tmp_path / "feedback.html"
    path.write_text(grade.page(record, ["lower_bound"]), encoding="utf-8")
    assert pages.wrong(chromium, path.as_uri()) == []


BAD = {
    "a picture from elsewhere": ('<img src="http://example.org/x.png" alt="a picture">', "asks for http://example"),
    "a script from elsewhere": ('<script src="http://example.org/x.js"></script>', "asks for http://example"),
    "too wide": ('<p style="width: 1000px">wide</p>', "at 800: <p"),
    "too wide on a telephone": ("<p>" + "x" * 60 + "</p>", "at 390: the page is"),
    "no alternative text": ('<img src="data:image/svg+xml,<svg/>">', "image-alt"),
    "pale": ('<p style="color: #999">pale</p>', "color-contrast"),
    "pale in the dark": (
        "<style>@media (prefers-color-scheme: dark) { p { color: #333; background: #111 } }</style><p>dark</p>",
        "color-contrast",
    ),
    "an exception": ("<script>nothing.of.the.kind</script>", "error: nothing is not defined"),
    "a word on the console": ("<script>console.error('so be it')</script>", "console: so be it"),
}
GOOD = """<div style="overflow-x: auto"><p style="width: 2000px">scrolls on its own</p></div>
<img src="data:image/svg+xml,<svg xmlns='http://www.w3.org/2000/svg'/>" alt="nothing">"""


@pytest.mark.parametrize("what", [*BAD, "nothing"])
def test_what_can_be_wrong_with_a_page_is_seen(what, tmp_path, chromium):
    body, said = BAD.get(what, (GOOD, None))
    page = tmp_path / "page.html"
    page.write_text(
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>A page</title>'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"></head><body>{body}</body></html>'
    )
    found = pages.wrong(chromium, page.as_uri())
    if said is None:
        assert found == []
    else:
        assert any(said in line for line in found), found
