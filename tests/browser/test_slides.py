"""Every slide of every deck, in a window of 1280 by 720: complete, set, and inside the slide."""

from __future__ import annotations

import pytest

from labutils import parameters
from labutils.commands import slides

from . import pages

NAMES = [path.stem for path in parameters.notebooks().values()]
# Of the slide that is shown: what reaches over its edges, into the margin, or over its own body; figures too small to
# see; formulas that MathJax could not set, or did not.
LOOK = """() => {
    const slide = document.querySelector(".slides > section.present"), found = [];
    const inside = (e, left, top, right, bottom) => {
        const r = e.getBoundingClientRect();
        if (r.width && (r.left < left - 1 || r.top < top - 1 || r.right > right + 1 || r.bottom > bottom + 1))
            found.push(`${e.tagName} “${e.textContent.slice(0, 50).trim()}” at ` +
                `${[r.left, r.top, r.right, r.bottom].map(Math.round)}`);
    };
    slide.querySelectorAll(":scope > :not(aside), .body *:not(svg *)").forEach((e) => inside(e, 60, 20, 1236, 700));
    const text = slide.querySelector(".text")?.getBoundingClientRect();
    for (const e of slide.querySelectorAll("figure")) {
        const r = e.getBoundingClientRect();
        if (r.height < 170 || r.width < 400) found.push(`a figure of ${r.width} by ${r.height}`);
        if (text && r.top < text.bottom - 1 && r.left < text.right - 1) found.push("a figure over the text");
        const img = e.querySelector("img");
        if (!(img.complete && img.naturalWidth && img.alt.length > 30)) found.push(`a picture without an alt text`);
    }
    const said = [...slide.querySelectorAll(":scope > :not(aside)")].map((e) => e.innerText).join(" ");
    if (/\\$|\\\\[a-z]|<<|>>/.test(said)) found.push(`a formula or a call stands as text: ${said.slice(0, 200)}`);
    slide.querySelectorAll("mjx-merror, [data-mjx-error]").forEach((e) => found.push(e.outerHTML.slice(0, 200)));
    return found;
}"""


@pytest.fixture(scope="module")
def decks(tmp_path_factory):
    return {path.stem: path for path in slides.build(tmp_path_factory.mktemp("decks"))}


def looked_at(page, only=None):
    """Slide by slide, what is wrong: of all slides of the deck that `page` shows, or of one."""
    page.wait_for_function("() => window.Reveal && Reveal.isReady()")
    page.set_viewport_size({"width": 1280, "height": 720})
    found = []
    for k in range(page.evaluate("Reveal.getTotalSlides()")) if only is None else [only]:
        page.evaluate(f"Reveal.slide({k})")
        page.wait_for_function(f"() => Reveal.getIndices().h === {k}")
        found += [f"slide {k + 1}: {line}" for line in page.evaluate(LOOK)]
    return found


@pytest.mark.parametrize("name", NAMES)
def test_every_slide_fits(name, decks, chromium):
    with pages.opened(chromium, decks[name].as_uri()) as watched:
        assert looked_at(watched.page) == []
        assert watched.unreadable() + watched.complaints == []


# On a slide of the first deck: what is put in, and a word of what is said of it.
BAD = [
    ("$$" + "x + " * 40 + "x$$", "svg"),
    ("\n\n".join(["- one more line"] * 14), "LI “one more line”"),
    (r"$\frac{x}$", "merror"),
    (r"$\nosuchmacro$", "a formula or a call"),
    ("<<printed()>>", "a formula or a call"),
]


@pytest.mark.parametrize(("text", "said"), BAD)
def test_what_does_not_fit_is_seen(text, said, decks, chromium, tmp_path):
    page = decks[NAMES[0]].read_text(encoding="utf-8")
    before, begins, after = page.partition('<section id="slide-2"')
    (tmp_path / "deck.html").write_text(
        before + begins + after.replace('<div class="text">', '<div class="text">' + slides.markdown(text), 1),
        encoding="utf-8",
    )
    with pages.opened(chromium, (tmp_path / "deck.html").as_uri()) as watched:
        found = looked_at(watched.page, only=1)
    assert any(said in line for line in found), found


def test_the_speaker_has_a_window_with_notes(decks, chromium):
    with pages.opened(chromium, decks[NAMES[0]].as_uri()) as watched:
        watched.page.wait_for_function("() => window.Reveal && Reveal.isReady()")
        with watched.page.expect_popup() as opened:
            watched.page.keyboard.press("s")
        notes = opened.value.locator(".speaker-controls-notes .value")
        notes.get_by_text("Two distances between laws").wait_for()
        watched.page.keyboard.press("ArrowRight")
        notes.get_by_text("Keep the last column").wait_for()
        assert watched.complaints == []
