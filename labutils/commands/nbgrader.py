"""A course folder for nbgrader, for those who use it: it generates, autogrades and exports what is written here.

nbgrader executes a student's whole notebook, in the account that calls it and with all of `labutils` at hand, and
clears, fills and counts by marks in the cells. These are made here from the tags of the notebooks.
"""

from __future__ import annotations

import ast
import secrets
from pathlib import Path
from typing import Any

import nbformat
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell

from .. import parameters
from ..exercises import EXERCISES
from . import teach

ASSIGNMENT = "lab"
CONFIGURATION = '''"""nbgrader reads this in the folder it is called in."""

c = get_config()
c.CourseDirectory.course_id = "deep-generative-lab"
c.ClearSolutions.code_stub = {"python": 'raise NotImplementedError("to be written")'}
c.ClearSolutions.text_stub = "*Your answer: write in place of this line.*"
c.Execute.timeout = 900  # seconds a cell
# Cells that only show or train may fail in a notebook that is not finished; points come from the graded cells.
c.Execute.allow_errors = True
'''
POINTS = """# The points of {name} are given here, by inputs that are not in this notebook.
### BEGIN HIDDEN TESTS
def points_of(name, functions, seed):
    from labutils import exercises

    asked = exercises.EXERCISES[name]
    given = {{f: functions[f] for f in asked.functions if f in functions}}
    found = exercises.answers(asked, given, seed)
    return exercises.points(asked, exercises.judge(asked, found, seed))


points_of("{name}", globals(), {seed})
### END HIDDEN TESTS"""


def write(folder: Path, notebooks: Path | None = None) -> list[Path]:
    """Write nbgrader_config.py and source/lab/ into a new or empty folder; returns the files.

    notebooks: the folder of the notebooks; else the package's. Raises ValueError for a folder that holds something.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"{folder} holds something; give nbgrader a folder of its own")
    sources = parameters.notebooks(notebooks).values()
    made = {path: _marked(nbformat.read(path, as_version=4), path) for path in sources}
    place = folder / "source" / ASSIGNMENT
    place.mkdir(parents=True)
    written = [folder / "nbgrader_config.py"]
    written[0].write_text(CONFIGURATION, encoding="utf-8")
    for path, notebook in made.items():
        nbformat.write(notebook, place / path.name)
        written.append(place / path.name)
    return written


def _marked(notebook: NotebookNode, path: Path) -> NotebookNode:
    """The notebook as nbgrader's source: answers and model answers in marks, a graded cell after each answer."""
    tasks = {task.cell: task for task in teach.tasks(notebook, path.name)}
    cells = []
    for i, cell in enumerate(notebook.cells):
        tags, task = teach.tags(cell), tasks.get(i)
        if "solution" in tags:
            continue
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
        cells.append(cell)
        asked = tasks.get(i - 1)
        if task and not task.open:
            cell.source = with_marks(cell.source)
            _mark(cell, task.name, solution=True)
            graded = new_code_cell(POINTS.format(name=task.name, seed=secrets.randbelow(2**31)))
            _mark(graded, f"{task.name}-points", grade=True, locked=True, points=EXERCISES[task.name].points)
            cells.append(graded)
        elif asked and asked.open:  # the model answer, in whose place the student's stands
            _mark(cell, asked.name, solution=True, grade=True, points=asked.points)
        elif "parameters" in tags:
            cell.source = _quick(cell.source, path)
            _mark(cell, "parameters", locked=True)
    notebook.cells = cells
    return notebook


def _mark(cell: NotebookNode, name: str, **marks: Any) -> None:
    usual = {"grade": False, "solution": False, "locked": False, "task": False, "schema_version": 3}
    cell.metadata["nbgrader"] = {**usual, **marks, "grade_id": name}
    if cell.cell_type == "code" and marks.get("grade"):
        cell.metadata["nbgrader"]["cell_type"] = "code"


def with_marks(source: str) -> str:
    """Each function's body, but for its docstring, between the marks that nbgrader clears."""
    lines = source.splitlines()
    for node in reversed(ast.parse(source).body):
        if isinstance(node, ast.FunctionDef):
            documented = ast.get_docstring(node) is not None
            first = node.body[1] if documented and len(node.body) > 1 else node.body[0]
            start = min([first, *getattr(first, "decorator_list", [])], key=lambda part: part.lineno).lineno - 1
            if start < node.lineno:  # all on the line of the signature
                raise ValueError(f"{node.name} stands on one line; write its body below the signature")
            lines[node.end_lineno : node.end_lineno] = ["    ### END SOLUTION"]
            lines[start:start] = ["    ### BEGIN SOLUTION"]
    return "\n".join(lines)


def _quick(source: str, path: Path) -> str:
    """A parameters cell with the values of the smoke profile: nbgrader executes the whole notebook of everybody.

    The cell is locked, so that autograding puts these back whatever a student tried.
    """
    values = parameters.profile_values("smoke", path)
    lines = source.splitlines()
    for node in ast.parse(source).body:
        if isinstance(node, ast.AnnAssign) and node.target.id in values:
            k, value = node.lineno - 1, node.value
            text = _literal(values[node.target.id])
            lines[k] = lines[k][: value.col_offset] + text + lines[k][value.end_col_offset :]
    return "\n".join(lines)


def _literal(value: Any) -> str:
    return f'"{value}"' if isinstance(value, str) else repr(value)
