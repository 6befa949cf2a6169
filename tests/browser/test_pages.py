"""The pages that the commands write, in a real browser: nothing from elsewhere, no error, no overflow, readable."""

from __future__ import annotations

import json
import shutil
import statistics
from pathlib import Path

import pytest
from click.testing import CliRunner

from labutils.commands import cli, explore, grade, report, site

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


@pytest.mark.slow
@pytest.mark.parametrize("what", ["slides", "site", "explore"])
def test_the_pages_for_a_class(what, tmp_path, chromium):
    """As they come from `labutils teach slides|site|explore`."""
    if what not in cli.teach.commands:
        pytest.skip(f"this package has no `labutils teach {what}`")
    done = CliRunner().invoke(cli.main, ["teach", what, "--out", str(tmp_path / "out")])
    assert done.exit_code == 0, done.output
    made = sorted(tmp_path.rglob("*.html"))
    assert made
    if what == "site":  # decks, report and explore page are looked at as what they are, and sources are alike
        names = {"index", "glossary", "search", "estimates"}
        made = [
            page for page in made if page.stem in names or (page.stem[:7] == "problem" and page.parent.name == "out")
        ]
        assert len(made) == 7
    found = {page.name: pages.wrong(chromium, page.as_uri()) for page in made}
    assert {name: lines for name, lines in found.items() if lines} == {}


@pytest.mark.slow
def test_a_word_is_found_and_leads_to_its_section(tmp_path, chromium):
    """From a folder, with the keyboard, as a reader does it."""
    notebooks = tmp_path / "notebooks"
    notebooks.mkdir()
    shutil.copy(ROOT / "notebooks" / "problem2_vae.ipynb", notebooks)
    list(site.build(tmp_path / "out", folder=notebooks))
    with pages.opened(chromium, (tmp_path / "out" / "index.html").as_uri()) as watched:
        page = watched.page
        page.get_by_label("Search").fill("effective samp")
        page.keyboard.press("Enter")
        page.wait_for_url("**/search.html?q=effective+samp")
        found = page.locator("#found a").all_inner_texts()
        assert "6 · Is K = 200 enough?" in found and "1 · The bound" not in found
        assert page.locator("#count").inner_text() == f"{len(found)} places"
        page.get_by_label("All pages").fill("no such word")
        assert page.locator("#count").inner_text() == "0 places" and page.locator("#found a").count() == 0
        page.get_by_label("All pages").fill("posterior")
        page.get_by_role("link", name="6 · Is K = 200 enough?").click()
        page.wait_for_selector("mjx-container")
        assert page.evaluate("document.getElementById(location.hash.slice(1)).innerText").startswith("6 · Is K")
        assert watched.complaints == []


# From a key on a slider to the frame after the one in which its picture was set.
TIMED = """() => {
    window.times = [];
    let pressed = 0;
    document.addEventListener("keydown", () => { pressed = performance.now(); }, true);
    document.addEventListener("input", (event) => event.target.type === "range" && requestAnimationFrame(
        () => requestAnimationFrame(() => window.times.push(performance.now() - pressed))));
}"""


@pytest.mark.slow
def test_the_explore_page_is_moved_by_keyboard(tmp_path, chromium):
    with pages.opened(chromium, explore.build(tmp_path).as_uri()) as watched:
        page = watched.page
        page.evaluate(TIMED)
        for view in page.locator(".view").all():
            slider, frame, said = view.get_by_role("slider"), view.get_by_role("img").last, view.locator("output")
            look = "(frame) => getComputedStyle(frame).backgroundPosition"
            slider.focus()
            for _ in range(6):
                before, seen = (frame.evaluate(look), said.inner_text()), page.evaluate("window.times.length")
                page.keyboard.press("ArrowLeft")
                page.wait_for_function("(seen) => window.times.length > seen", arg=seen)
                after = frame.evaluate(look), said.inner_text()
                assert before[0] != after[0] and before[1] != after[1]
            assert slider.get_attribute("aria-valuetext") == said.inner_text()
            caption, label = view.locator("figcaption").last.inner_text(), view.locator("select").last
            label.select_option(index=2)
            assert view.locator("figcaption").last.inner_text() != caption
        times = page.evaluate("window.times")
        assert len(times) == 18 and statistics.median(times) <= 150 and max(times) <= 400, times
        assert watched.complaints == []


# A mistake of each kind, and a word of what is said of it.
BAD = {
    '<img src="http://example.org/x.png" alt="a picture">': "asks for http://example.org/x.png",
    '<script src="http://example.org/x.js"></script>': "asks for http://example.org/x.js",
    '<p style="width: 1000px">wide</p>': 'at 800: <p style="width: 1000px">',
    '<img src="data:image/svg+xml,<svg/>">': "image-alt",
    '<p style="color: #999">pale</p>': "color-contrast: <p style",
    "<style>@media (prefers-color-scheme: dark) { i { color: #333; background: #111 } }</style><i>dark</i>": "<i>dark",
    "<script>nothing.of.the.kind</script>": "error: nothing is not defined",
    "<script>console.error('so be it')</script>": "console: so be it",
}
LONG = "<p>" + "x" * 60 + "</p>"
GOOD = """<div style="overflow-x: auto" tabindex="0"><p style="width: 2000px">scrolls on its own</p></div>
<img src="data:image/svg+xml,<svg xmlns='http://www.w3.org/2000/svg'/>" alt="nothing">"""


def test_what_can_be_wrong_with_a_page_is_seen(tmp_path, chromium):
    def found(body):
        page = tmp_path / "page.html"
        head = '<meta charset="utf-8"><title>A page</title><meta name="viewport" content="width=device-width">'
        page.write_text(f'<!doctype html><html lang="en"><head>{head}</head><body>{body}</body></html>')
        return pages.wrong(chromium, page.as_uri())

    lines = found("\n".join(BAD))
    assert [said for said in BAD.values() if not any(said in line for line in lines)] == []
    assert any(line.startswith("at 390: the page is") for line in found(LONG))
    assert found(GOOD) == []
