"""`labutils teach`: the student and the solution edition, made from the notebooks and their tags.

A code cell with the tags `answer`, `exercise:NAME` and `points:N` answers an exercise; the next one calls
`checks.exercise`. A Markdown cell with `open:NAME` and `points:N` asks a question, the one after it, tagged
`model-answer`, answers it. What is tagged `solution` is for readers of the solved text alone: checks that compare with
the package's own functions.
"""

from __future__ import annotations

import ast
import copy
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import nbformat
from nbformat import NotebookNode
from nbformat.v4 import new_markdown_cell

from .. import parameters
from ..exercises import EXERCISES

PAGE = Path(__file__).with_name("teaching.md")
YOURS = "*Your answer: double-click here and write in place of this line.*"
STUDENT = """

**This is the student edition.** A cell tagged `answer` has functions that you write, under the names that stand there.
Until you do, the check after it says so and the package's own functions stand in, so the notebook runs from top to
bottom at any time; a wrong answer stops it at its check, whose red box says why. A hint has three steps, folded. What
you have written is what the cells below call, so when a picture looks wrong, look at your answer; a training whose
answer you have changed starts anew. After a restart run all cells above the one you work at; a cell that ended in an
error leaves its names as they were before."""
QUICKLY = """ To try things out quickly, put small numbers into the parameters
cell, {}; the table at the end then judges nothing."""


@dataclass(frozen=True)
class Task:
    """An exercise or an open question as a notebook has it: where it stands, its name and points."""

    cell: int
    name: str
    points: int
    open: bool


def tags(cell: NotebookNode) -> list[str]:
    return cell.metadata.get("tags", [])


def tagged(cell: NotebookNode, prefix: str) -> str | None:
    """What follows `prefix:` in one of the cell's tags."""
    return next((tag.partition(":")[2] for tag in tags(cell) if tag.startswith(f"{prefix}:")), None)


def tasks(notebook: NotebookNode, where: str) -> list[Task]:
    """The exercises and questions of a notebook, in order.

    Raises ValueError, naming notebook and cell, for tags that do not fit: an exercise that `labutils.exercises` does
    not know, lacks a function of, or gives other points; points that are no number; a question without model answer.
    """
    found = []
    for i, cell in enumerate(notebook.cells):
        exercise, question = tagged(cell, "exercise"), tagged(cell, "open")
        if not (exercise or question):
            continue
        place = f"{where}, cell {cell.id}"
        if not re.fullmatch(r"[1-9]\d?", tagged(cell, "points") or ""):
            raise ValueError(f"{place}: its tag is points:{tagged(cell, 'points')}; expected points:N, N from 1 to 99")
        found.append(Task(i, exercise or question, int(tagged(cell, "points")), exercise is None))
        if exercise:
            _must_fit(cell, found[-1], place)
        elif "model-answer" not in tags(notebook.cells[i + 1] if i + 1 < len(notebook.cells) else cell):
            raise ValueError(f"{place}: the question {question} has no Markdown cell tagged model-answer after it")
    return found


def _must_fit(cell: NotebookNode, task: Task, place: str) -> None:
    if task.name not in EXERCISES:
        raise ValueError(f"{place}: there is no exercise {task.name!r}; labutils.exercises has {', '.join(EXERCISES)}")
    known = EXERCISES[task.name]
    if task.points != known.points:
        raise ValueError(f"{place}: {task.name} has points:{task.points} here and {known.points} in labutils.exercises")
    defined = [node.name for node in ast.parse(cell.source).body if isinstance(node, ast.FunctionDef)]
    if sorted(defined) != sorted(known.functions):
        expected = f"expected {', '.join(known.functions)}, the functions of the exercise {task.name}"
        raise ValueError(f"{place}: it defines {', '.join(defined) or 'nothing'}; {expected}")


def stub(source: str) -> str:
    """Code with every function's body replaced by NotImplementedError; signature and docstring stay."""
    lines, parts, done = source.splitlines(), [], 0
    for node in ast.parse(source).body:
        if isinstance(node, ast.FunctionDef):
            first = min([node, *node.decorator_list], key=lambda part: part.lineno)
            parts += [*lines[done : first.lineno - 1], *_hollow(node, lines)]
            done = node.end_lineno
    return "\n".join([*parts, *lines[done:]])


def _hollow(node: ast.FunctionDef, lines: list[str]) -> list[str]:
    head = copy.copy(node)
    head.body = [ast.Pass()]
    signature = ast.unparse(head).splitlines()[:-1]
    text = node.body[0]
    documented = ast.get_docstring(node) is not None and text.lineno > node.lineno
    docstring = lines[text.lineno - 1 : text.end_lineno] if documented else []
    return [*signature, *docstring, f'    raise NotImplementedError("{node.name} is to be written")']


def student(notebook: NotebookNode, where: str) -> NotebookNode:
    """The student edition of a notebook: stubs, places for answers, no output from the first exercise on."""
    found = {task.cell: task for task in tasks(notebook, where)}
    edition = copy.deepcopy(notebook)
    cells, before = [], True
    for i, cell in enumerate(edition.cells):
        if {"solution", "model-answer"} & set(tags(cell)):
            continue
        cells.append(cell)
        task = found.get(i)
        if task and task.open:
            marks, cell.metadata["tags"] = tags(cell), ["question"]
            cells.append(new_markdown_cell(YOURS, id=f"open-{task.name}"[:64], metadata={"tags": marks}))
        elif task:
            before, cell.source = False, stub(cell.source)
        if cell.cell_type == "code":
            cell.execution_count = None
            if not before:
                cell.outputs = []
            cell.metadata["tags"] = [tag for tag in tags(cell) if tag != "nbval-check-output"]
            if not cell.metadata["tags"]:
                del cell.metadata["tags"]
    edition.cells = cells
    small = parameters.written_profile("smoke").get(Path(where).stem, {})
    small = ", ".join(f"`{name} = {value}`" for name, value in small.items() if isinstance(value, int))
    edition.cells[0].source += STUDENT + (QUICKLY.format(small) if small else "")
    edition.metadata["labutils"] = {"edition": "student"}
    return edition


def solution(notebook: NotebookNode, where: str) -> NotebookNode:
    """The solved notebook, model answers unfolded, and after each answer what goes wrong there."""
    found = {task.cell: task for task in tasks(notebook, where)}
    edition = copy.deepcopy(notebook)
    cells = []
    for i, cell in enumerate(edition.cells):
        if "model-answer" in tags(cell):
            cell.source = cell.source.replace("<details>", "<details open>")
        cells.append(cell)
        if i in found and not found[i].open:
            cells.append(new_markdown_cell(_mistakes(found[i]), id=f"mistakes-{found[i].name}"[:64]))
    edition.cells = cells
    edition.metadata["labutils"] = {"edition": "solution"}
    return edition


def _mistakes(task: Task) -> str:
    known = EXERCISES[task.name]
    lines = [f"- **{mistake.title}**: {mistake.why}" for mistake in known.mistakes]
    parts = "; ".join(part.title for part in known.parts)
    head = f"<details><summary>{task.points} points for {len(known.parts)} parts; what goes wrong here</summary>"
    return "\n".join([head, "", f"Asked: {parts}.", "", *lines, "", "</details>"])


def rubric(found: dict[str, list[Task]]) -> str:
    """A table of everything that has points, for the solution edition."""
    rows = [
        f"| {where} | {task.name} | {'a person' if task.open else 'labutils grade'} | {task.points} |"
        for where, some in found.items()
        for task in some
    ]
    total = sum(task.points for some in found.values() for task in some)
    head = ["# What has points", "", "| notebook | exercise or question | marked by | points |", "|---|---|---|---|"]
    tail = ["", "Each part of an exercise counts alike; its full points need all parts. The points of a question are "]
    return "\n".join([*head, *rows, f"| | | | **{total}** |", *tail, "broken down after its model answer.", ""])


def build(out: Path, folder: Path | None = None) -> Iterator[Path]:
    """Write OUT/student and OUT/solution from the notebooks (of `folder`; else the package's), one after the other.

    Raises ValueError, before anything is written, when one of the two folders holds something or a tag does not fit.
    """
    for edition in ("student", "solution"):
        if (out / edition).exists() and (not (out / edition).is_dir() or any((out / edition).iterdir())):
            raise ValueError(f"{out / edition} holds something; give another --out, or move it away")
    sources = list(parameters.notebooks(folder).values())
    read = {path.name: nbformat.read(path, as_version=4) for path in sources}
    found = {name: tasks(notebook, name) for name, notebook in read.items()}
    for make in (student, solution):
        place = out / make.__name__
        place.mkdir(parents=True, exist_ok=True)
        for name, notebook in read.items():
            nbformat.write(make(notebook, name), place / name)
            yield place / name
    (out / "solution" / "rubric.md").write_text(rubric(found), encoding="utf-8")
    yield out / "solution" / "rubric.md"
