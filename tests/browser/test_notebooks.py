"""The notebooks in JupyterLab: every cell runs, every equation is set, every picture is there."""

from __future__ import annotations

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from labutils import parameters
from labutils.commands import teach

from . import lab

NOTEBOOKS = {f"problem{number}": path for number, path in parameters.notebooks().items()}


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
        "outside": new_markdown_cell("![a picture](http://example.org/x.png)"),
        "good": new_code_cell("from IPython.display import Markdown; Markdown('all is well: $x^2$')"),
        "broken": new_code_cell("Markdown('a dollar $ too many')"),
        "picture": new_code_cell("1 + 1"),
        "red": new_code_cell("import warnings; warnings.warn('mind the gap')"),
        "error": new_code_cell("raise ValueError('raised on purpose')"),
        "after": new_code_cell("2 + 2"),
    }
    notebook = new_notebook(cells=list(bad.values()))
    for name, cell in bad.items():
        cell.id = name
    notebook.metadata.kernelspec = dict(display_name="Python 3", language="python", name="python3")
    with jupyterlab.opened(notebook, "bad") as opened:
        found = complaints(notebook, opened.run_all(), {"picture"})
        print(found)
        assert sorted({line.partition(":")[0] for line in found}) == sorted(set(bad) - {"outside", "good"})
        assert opened.elsewhere == {"http://example.org/x.png"}
