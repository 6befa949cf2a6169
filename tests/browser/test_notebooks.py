"""The notebooks in JupyterLab: every cell runs, every equation is set, every picture is there."""

from __future__ import annotations

import statistics

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from labutils import parameters
from labutils.commands import teach

from . import lab

NOTEBOOKS = {f"problem{number}": path for number, path in parameters.notebooks().items()}


SLIDERS = f"{lab.CELLS} .noUi-handle"  # of ipywidgets: the part that takes the keys
MEDIAN, WORST = 150, 400  # milliseconds from a key to the new picture, on two cores


def toy(*cells):
    notebook = new_notebook(cells=list(cells))
    notebook.metadata.kernelspec = {"display_name": "Python 3", "language": "python", "name": "python3"}
    return notebook


def quick(milliseconds: list[float]) -> None:
    assert statistics.median(milliseconds) <= MEDIAN and max(milliseconds) <= WORST, milliseconds


def complaints(notebook, seen, pictures) -> list[str]:
    """What is wrong with a notebook that has run. `pictures`: the ids of the cells that must show one."""
    found, number = [], 0
    assert len(seen) == len(notebook.cells), "a cell is not in the page"
    for cell, shown in zip(notebook.cells, seen, strict=True):
        what = []
        if cell.cell_type == "code":
            number += 1
            folded = cell.metadata.get("jupyter", {}).get("source_hidden")  # and with its code its number
            if shown["number"] != f"[{number}]:" and not folded:
                what.append(f"its number is {shown['number']!r}, not {number}")
        elif shown["equations"] != lab.equations(cell.source):
            what.append(f"{shown['equations']} equations in place of {lab.equations(cell.source)}")
        if cell.id in pictures and not shown["pictures"]:
            what.append("no picture")
        what += shown["errors"] + shown["raw"] + shown["wrong"] + shown["warnings"]
        found += [f"{cell.id}: {one}" for one in what]
    return found


def with_pictures(notebook) -> set[str]:
    """The cells of an executed notebook that show a picture."""
    return {
        cell.id
        for cell in notebook.cells
        for output in cell.get("outputs", [])
        if "image/png" in output.get("data", {})
    }


@pytest.mark.slow
@pytest.mark.parametrize("problem", NOTEBOOKS)
def test_a_notebook_runs_from_top_to_bottom(problem, jupyterlab):
    path = NOTEBOOKS[problem]
    notebook = nbformat.read(path, as_version=4)
    pictures = with_pictures(notebook)
    assert len(pictures) > 4
    lab.emptied(notebook)
    lab.quickly(notebook, path.stem)
    with jupyterlab.opened(notebook, path.stem) as opened:
        assert complaints(notebook, opened.run_all(), pictures) == []
        for handle in opened.page.locator(SLIDERS).all():
            quick(opened.press(handle, "ArrowRight", 3))
        if problem == "problem1":
            assert complaints(notebook, opened.restart_and_run_all(), pictures) == []
        assert not opened.elsewhere


@pytest.mark.slow
def test_the_student_edition_runs_with_its_stubs(jupyterlab):
    path = NOTEBOOKS["problem1"]
    solved = nbformat.read(path, as_version=4)
    notebook = teach.student(solved, path.name)
    pictures = with_pictures(solved) & {cell.id for cell in notebook.cells}
    assert len(pictures) > 4
    lab.emptied(notebook)
    lab.quickly(notebook, path.stem)
    with jupyterlab.opened(notebook, "student") as opened:
        assert complaints(notebook, opened.restart_and_run_all(), pictures) == []
        assert not opened.elsewhere
        said = opened.page.locator(lab.CELLS, has_text="not answered yet")
        assert said.count() == 5, "a check without an answer says so"


def test_what_can_be_wrong_is_seen(jupyterlab):
    """Everything the tests above look for, in a notebook that has it."""
    bad = {
        "raw": new_markdown_cell("Between $x$ and $ y there is a dollar too many, but `$HOME` is code."),
        "macro": new_markdown_cell("An unknown $\\nosuchmacro$ and a good $\\alpha$."),
        "brace": new_markdown_cell("An open $\\frac{1}{2$ brace."),
        "two": new_markdown_cell("Two exponents, $x^2^3$."),
        "outside": new_markdown_cell("![a picture](http://example.org/x.png)"),
        "good": new_code_cell("from IPython.display import Markdown; Markdown('all is well: $x^2$')"),
        "broken": new_code_cell("Markdown('a dollar $ too many')"),
        "picture": new_code_cell("1 + 1"),
        "red": new_code_cell("import warnings; warnings.warn('mind the gap')"),
        "error": new_code_cell("raise ValueError('raised on purpose')"),
        "after": new_code_cell("2 + 2"),
    }
    notebook = toy(*bad.values())
    for name, cell in bad.items():
        cell.id = name
    with jupyterlab.opened(notebook, "bad") as opened:
        found = complaints(notebook, opened.run_all(), {"picture"})
        assert sorted({line.partition(":")[0] for line in found}) == sorted(set(bad) - {"outside", "good"})
        assert opened.elsewhere == {"http://example.org/x.png"}


TRAINING = """
import torch

from labutils import distributions, divergences, live

live.EVERY, live.GUESS, live.SHARE = 0.05, 0.0, 1.0  # as if its steps were slow ones
phi = torch.linspace(-1, 1, 5)
p, q = divergences.line_samplers(phi)
with live.wasserstein(p, q, distributions.line_wasserstein(phi), phi):
    trained = divergences.train_critic(p, q, steps=80, batch_size=64)
"""


def test_a_training_can_be_watched(jupyterlab):
    pytest.importorskip("labutils.live", reason="the package has no frames of a training")
    notebook = toy(new_code_cell(TRAINING))
    with jupyterlab.opened(notebook, "training") as opened:
        opened.page.evaluate(lab.COLLECT)
        seen = opened.run_all()
        assert complaints(notebook, seen, set()) == []
        assert opened.page.evaluate("frames_seen.size") >= 3, "the first, and renewed at least twice"
        assert seen[0]["pictures"] == 0, "it goes when the training is over"


SLIDER = """
import io, time

import ipywidgets
from PIL import Image


def picture(value):
    time.sleep({seconds})
    file = io.BytesIO()
    Image.new("RGB", (40, 40), (25 * value, 0, 0)).save(file, "png")
    return file.getvalue()


slider = ipywidgets.IntSlider(0, 0, 10, continuous_update=False)
shown = ipywidgets.Image(value=picture(0))
slider.observe(lambda change, of=picture, to=shown: setattr(to, "value", of(change["new"])), "value")
ipywidgets.VBox([slider, shown])
"""


def test_the_time_of_a_slider_is_measured(jupyterlab):
    """One that draws at once is quick enough; one that waits half a second before it draws is found too slow."""
    pytest.importorskip("ipywidgets", reason="no sliders: pip install -e '.[jupyter]'")
    cells = [new_code_cell(SLIDER.format(seconds=seconds)) for seconds in (0.0, 0.5)]
    with jupyterlab.opened(toy(*cells), "sliders") as opened:
        opened.run_all()
        at_once, late = (opened.press(handle, "ArrowRight", 4) for handle in opened.page.locator(SLIDERS).all())
        print(at_once, late)
        quick(at_once)
        assert min(late) > 500
        with pytest.raises(AssertionError):
            quick(late)
