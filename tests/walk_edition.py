"""Execute a student edition, cell by cell, on the smoke profile: without answers, with each alone, with all.

    python tests/walk_edition.py STUDENT SOURCE

One process for all of it, in place of a kernel for each: what the cells print goes into a JSON object on standard
output. With one answer alone only the cells that name its functions are executed again, each in the state that the
edition without answers had before it.
"""

from __future__ import annotations

import ast
import contextlib
import io
import json
import sys
import warnings
from pathlib import Path

import matplotlib
import nbformat

from labutils import parameters
from labutils.commands import teach
from labutils.exercises import EXERCISES


def names_used(source: str) -> set[str]:
    return {node.id for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Name)}


def execute(cell, names: dict, source: str = "") -> str:
    text = io.StringIO()
    with contextlib.redirect_stdout(text), contextlib.redirect_stderr(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        exec(compile(source or cell.source, cell.id, "exec"), names)
    return text.getvalue()


def walk(cells, values: dict, answers: dict[str, str]):
    """All cells in order: what each printed, and the names as they were before it. answers: source by cell id."""
    names, before, said = {"__name__": "__main__"}, {}, {}
    for cell in cells:
        before[cell.id] = dict(names)
        said[cell.id] = execute(cell, names, answers.get(cell.id, ""))
        if "parameters" in teach.tags(cell):
            names |= values
    return said, before


def alone(cells, at: int, before: dict, answer: str) -> str:
    """One answer, its check, and every later cell that uses it. Returns what the check printed."""
    functions = EXERCISES[teach.tagged(cells[at], "exercise")].functions
    names = dict(before[cells[at].id])
    execute(cells[at], names, answer)
    said = execute(cells[at + 1], names)
    for cell in cells[at + 2 :]:
        if set(functions) & names_used(cell.source) and teach.tagged(cell, "exercise") is None:
            execute(cell, before[cell.id] | {f: names[f] for f in functions})
    return said


def main(student: Path, source: Path) -> dict:
    matplotlib.use("agg")
    cells = [c for c in nbformat.read(student, as_version=4).cells if c.cell_type == "code"]
    solved = {c.id: c.source for c in nbformat.read(source, as_version=4).cells}
    values = parameters.profile_values("smoke", source)
    asked = {teach.tagged(c, "exercise"): i for i, c in enumerate(cells) if teach.tagged(c, "exercise")}
    said, before = walk(cells, values, {})
    found = {"without": said, "alone": {}, "wrong": {}}
    for exercise, i in asked.items():
        found["alone"][exercise] = alone(cells, i, before, solved[cells[i].id])
    answers = {cells[i].id: solved[cells[i].id] for i in asked.values()}
    found["all"] = walk(cells, values, answers)[0]
    for exercise, i in asked.items():
        wrong = dict(EXERCISES[exercise].reference) | dict(EXERCISES[exercise].mistakes[0].functions)
        try:
            execute(cells[i + 1], before[cells[i + 1].id] | wrong)
            found["wrong"][exercise] = "passed"
        except AssertionError as error:
            found["wrong"][exercise] = str(error)
    return found


if __name__ == "__main__":
    print(json.dumps(main(*map(Path, sys.argv[1:3]))))
