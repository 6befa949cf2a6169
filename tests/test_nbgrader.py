"""The course folder for nbgrader: what is written, and, where the extra is installed, what nbgrader makes of it."""

from __future__ import annotations

import csv
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from conftest import COMMON, ROOT
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from labutils import parameters
from labutils.commands import grade, nbgrader

WASSERSTEIN = '''def wasserstein_1d(x, y):
    """W₁ between two samples."""
    points = torch.cat([x, y]).sort().values
    width = points.diff()
    f, g = ((points[:-1, None] >= sample).double().mean(dim=1) for sample in (x, y))
    return ((f - g).abs() * width).sum()
'''
DENSITY = '''def density_of(logits, log_f0_at_x):
    """f₁ from logits."""
    return torch.exp(log_f0_at_x + logits)
'''
STUB = '    raise NotImplementedError("to be written")\n'


def code(source, *tags):
    return new_code_cell(source, metadata={"tags": list(tags)} if tags else {})


@pytest.fixture
def course(tmp_path):
    """A course folder of a small notebook with two exercises and a question."""
    cells = [
        code(COMMON.replace('"cpu"  #', '"cpu"  # how:'), "parameters"),
        code("import torch\nfrom labutils import checks"),
        code(WASSERSTEIN.rstrip(), "answer", "exercise:wasserstein_1d", "points:4"),
        code('wasserstein_1d = checks.exercise("wasserstein_1d", wasserstein_1d)'),
        new_markdown_cell("Why?", metadata={"tags": ["open:why", "points:3"]}),
        new_markdown_cell("Because.", metadata={"tags": ["model-answer"]}),
        code(DENSITY.rstrip(), "answer", "exercise:density", "points:3"),
        code('density_of = checks.exercise("density", density_of)'),
        code("raise AssertionError('compares with the package')", "solution"),
    ]
    notebook = new_notebook(cells=cells)
    notebook.metadata["kernelspec"] = {"display_name": "Python 3", "language": "python", "name": "python3"}
    (tmp_path / "notebooks").mkdir()
    nbformat.write(notebook, tmp_path / "notebooks" / "problem1_toy.ipynb")
    nbgrader.write(tmp_path / "course", tmp_path / "notebooks")
    return tmp_path / "course"


def test_a_folder_that_holds_something_is_left_alone(course):
    with pytest.raises(ValueError, match="a folder of its own"):
        nbgrader.write(course)


def test_answers_stand_in_marks_and_points_before_the_check(course):
    cells = nbformat.read(course / "source" / "lab" / "problem1_toy.ipynb", as_version=4).cells
    marks = [cell.metadata.get("nbgrader", {}) for cell in cells]
    assert [m.get("grade_id") for m in marks] == [
        "parameters", None, "wasserstein_1d", "wasserstein_1d-points", None,
        None, "why", "density", "density-points", None,
    ]  # fmt: skip
    assert sum(m.get("points", 0) for m in marks if m.get("grade")) == 4 + 3 + 3
    assert marks[0]["locked"] and 'profile: str = "smoke"' in cells[0].source
    lines = cells[7].source.splitlines()
    assert lines[1:3] == ['    """f₁ from logits."""', "    ### BEGIN SOLUTION"] and lines[-1] == "    ### END SOLUTION"


def test_the_packages_notebooks_make_a_course(tmp_path):
    written = nbgrader.write(tmp_path / "course")
    assert len(written) == 1 + len(parameters.notebooks())
    for path in written[1:]:
        for cell in nbformat.read(path, as_version=4).cells:
            assert cell.source.count("### BEGIN SOLUTION") == cell.source.count("### END SOLUTION")
            if cell.cell_type == "code":
                compile(cell.source, path.name, "exec")


@pytest.mark.skipif(
    importlib.util.find_spec("nbgrader") is None, reason="nbgrader is not installed: pip install '.[teach]'"
)
def test_nbgrader_gives_the_points_that_labutils_grade_gives(course):
    def call(*arguments):
        environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
        # nbgrader calls a program that lies beside its Python, as in an environment that is activated.
        environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
        done = subprocess.run(
            [sys.executable, "-m", "nbgrader", *arguments], cwd=course, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout + done.stderr

    call("generate_assignment", "lab")
    release = nbformat.read(course / "release" / "lab" / "problem1_toy.ipynb", as_version=4)
    text = "\n".join(cell.source for cell in release.cells)
    assert "HIDDEN" not in text and "cumsum" not in text and "Because" not in text and text.count(STUB.strip()) == 2
    class_ = {
        "right": (WASSERSTEIN, DENSITY),
        "nothing": ("", ""),
        "some": (WASSERSTEIN.replace("mean(dim=1)", "sum(dim=1) / 20"), DENSITY.replace("+ logits", "- logits")),
    }
    for student, answers in class_.items():
        notebook = nbformat.from_dict(release)
        for cell in notebook.cells:
            for answer, name in zip(answers, ("wasserstein_1d", "density"), strict=True):
                if answer and cell.metadata.get("nbgrader", {}).get("grade_id") == name:
                    cell.source = answer
        place = course / "submitted" / student / "lab"
        place.mkdir(parents=True)
        nbformat.write(notebook, place / "problem1_toy.ipynb")
        release = nbformat.read(course / "release" / "lab" / "problem1_toy.ipynb", as_version=4)
    call("autograde", "lab")
    call("export")
    rows = csv.DictReader((course / "grades.csv").open(encoding="utf-8"))
    found = {row["student_id"]: float(row["raw_score"]) for row in rows}
    ours = grade.grade(course / "submitted", course.parent / "out", limits=grade.Limits(5, 1024), jobs=1).records
    assert found == {record.student: record.points for record in ours}
    assert found["right"] == 7 and found["nothing"] == 0 and 0 < found["some"] < 7
