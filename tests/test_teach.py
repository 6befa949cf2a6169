"""Both editions are built from the notebooks as they are; the student's runs whatever of it is answered."""

from __future__ import annotations

import ast
import functools
import json
import re
import subprocess
import sys
import warnings

import nbformat
import pytest
import torch
from click.testing import CliRunner
from conftest import ROOT
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook
from walk_edition import names_used

from labutils import divergences, parameters
from labutils.commands import cli, teach
from labutils.exercises import EXERCISES

SOURCES = {path.stem: path for path in parameters.notebooks().values()}
notebooks = pytest.mark.parametrize("name", SOURCES)


def read(path):
    return nbformat.read(path, as_version=4)


@pytest.fixture(scope="module")
def course(tmp_path_factory):
    folder = tmp_path_factory.mktemp("classroom") / "course"
    done = CliRunner().invoke(cli.main, ["teach", "build", "--out", str(folder)])
    assert done.exit_code == 0, done.output
    return folder


def exercises_in(name):
    found = {t.name: t for t in teach.tasks(read(SOURCES[name]), name) if not t.open}
    if not found:
        pytest.skip(f"{name} has no exercises yet")
    return found


# --- the notebooks ------------------------------------------------------------------------------------------


@notebooks
def test_the_notebook_has_the_exercises_of_its_problem_in_their_order(name):
    problem = int(name[len("problem")])
    by_module = [e.name for e in EXERCISES.values() if e.problem == problem]
    assert sorted(exercises_in(name)) == sorted(by_module)


@notebooks
def test_an_answer_has_hints_before_and_one_line_of_check_after(name):
    found, cells = exercises_in(name), read(SOURCES[name]).cells
    assert [c.id for c in cells if "answer" in teach.tags(c)] == [cells[task.cell].id for task in found.values()]
    for task in found.values():
        hint, check = cells[task.cell - 1], cells[task.cell + 1]
        assert "hint" in teach.tags(hint), f"{task.name}: the cell before it is no hint"
        assert hint.source.count("<details>") == hint.source.count("</details>") == 3, task.name
        (line,) = ast.parse(check.source).body
        functions = ", ".join(EXERCISES[task.name].functions)
        assert (
            ast.unparse(line).replace("(", "", 1).replace(")", "", 1)
            in (
                f"{functions} = checks.exercise'{task.name}', {functions}",
                f"{functions} = checks.exercise'{task.name}', {functions})",
            )
            or ast.unparse(line) == f"{functions} = checks.exercise('{task.name}', {functions})"
        ), task.name
        lines = [line for line in cells[task.cell].source.splitlines() if line.strip()]
        assert len(lines) <= 40


@notebooks
def test_an_answer_is_used_by_what_comes_after_it(name):
    """By something that is no check: a training, a curve, a score."""
    cells = read(SOURCES[name]).cells
    for task in exercises_in(name).values():
        later = [c for c in cells[task.cell + 2 :] if c.cell_type == "code"]
        later = [c for c in later if not {"solution", "nbval-check-output"} & set(teach.tags(c))]
        functions = set(EXERCISES[task.name].functions)
        assert any(functions & names_used(c.source) for c in later), f"nothing uses {task.name}"


def test_there_are_questions_with_model_answers_and_rubrics_that_add_up():
    found = 0
    for name, path in SOURCES.items():
        cells = read(path).cells
        for task in (t for t in teach.tasks(read(path), name) if t.open):
            answer = cells[task.cell + 1].source
            marks = re.findall(r"^\| .+ \| (\d+) \|$", answer, re.MULTILINE)
            assert sum(map(int, marks)) == task.points, task.name
            found += 1
    assert found >= 6


# --- the editions -------------------------------------------------------------------------------------------


@notebooks
def test_the_student_edition_gives_nothing_away(name, course):
    found = exercises_in(name)
    cells = read(course / "student" / f"{name}.ipynb").cells
    source = read(SOURCES[name]).cells
    nbformat.validate(read(course / "student" / f"{name}.ipynb"))
    first = next(i for i, c in enumerate(cells) if "answer" in teach.tags(c) and teach.tagged(c, "exercise"))
    assert not any(c.get("outputs") for c in cells[first:]) and any(c.get("outputs") for c in cells[:first])
    for tag in ("solution", "model-answer", "nbval-check-output"):
        assert not [c.id for c in cells if tag in teach.tags(c)], tag
    assert {c.id for c in cells if "hint" in teach.tags(c)} == {c.id for c in source if "hint" in teach.tags(c)}
    text = "\n".join(c.source for c in cells)
    for task in found.values():
        for node in ast.parse(source[task.cell].source).body:
            last = ast.unparse(node.body[-1])
            assert last not in text, f"the last line of {node.name}"
    assert "one of labutils" not in text, "a comparison with the package"


@notebooks
def test_the_student_edition_says_which_small_numbers_make_a_quick_run(name, course):
    first = read(course / "student" / f"{name}.ipynb").cells[0].source
    small = {k: v for k, v in parameters.written_profile("smoke")[name].items() if isinstance(v, int)}
    assert len(small) >= 5 and all(f"`{k} = {v}`" in first for k, v in small.items())


@notebooks
def test_a_stub_keeps_signature_and_docstring(name, course):
    student = {c.id: c for c in read(course / "student" / f"{name}.ipynb").cells}
    cells = read(SOURCES[name]).cells
    for task in exercises_in(name).values():
        given, stub = (
            [(node.name, ast.unparse(node.args), ast.get_docstring(node)) for node in ast.parse(cell.source).body]
            for cell in (cells[task.cell], student[cells[task.cell].id])
        )
        assert stub == given and all(doc for _, _, doc in given), f"{task.name} lacks a docstring"


@notebooks
def test_a_place_to_write_stands_after_each_question(name, course):
    cells = read(course / "student" / f"{name}.ipynb").cells
    asked = [i for i, c in enumerate(cells) if "question" in teach.tags(c)]
    assert [teach.tagged(cells[i + 1], "open") for i in asked] == [
        t.name for t in teach.tasks(read(SOURCES[name]), name) if t.open
    ]
    assert all(cells[i + 1].source == teach.YOURS and teach.tagged(cells[i + 1], "points") for i in asked)


@notebooks
def test_the_solution_edition_has_everything_unfolded(name, course):
    given, edition = read(SOURCES[name]), read(course / "solution" / f"{name}.ipynb")
    nbformat.validate(edition)
    kept = {c.id: c for c in edition.cells}
    assert all(kept[c.id].get("outputs") == c.get("outputs") for c in given.cells)
    for task in exercises_in(name).values():
        text = kept[f"mistakes-{task.name}"].source
        assert all(m.title in text and m.why in text for m in EXERCISES[task.name].mistakes)
    answers = [c for c in edition.cells if "model-answer" in teach.tags(c)]
    assert all(c.source.startswith("<details open>") for c in answers)
    assert f"{name}.ipynb" in (course / "solution" / "rubric.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("def f(x): return x", "def f(x):\n    RAISE"),
        ('def f(x):\n    """One."""\n    return x\n', 'def f(x):\n    """One."""\n    RAISE'),
        ('def f(x):\n    # told\n    """One."""\n\n    y = x\n    return y', 'def f(x):\n    """One."""\n    RAISE'),
        ("A = 1\n\n@wrap\ndef f(\n    x,\n    *y,\n):\n    return x\n\nB = 2",
         "A = 1\n\n@wrap\ndef f(x, *y):\n    RAISE\n\nB = 2"),
        ('def f(x: "int" = 3) -> int:\n    def g(): return 1\n    return g', "def f(x: 'int'=3) -> int:\n    RAISE"),
        ('def f(x): "One."; return x', "def f(x):\n    RAISE"),
    ],
)  # fmt: skip
def test_stubs_of_any_function_parse(source, expected):
    made = teach.stub(source)
    ast.parse(made)
    assert made == expected.replace("RAISE", 'raise NotImplementedError("f is to be written")')


# --- bad input ----------------------------------------------------------------------------------------------


DENSITY = "def density_of(logits, log_f0): return logits"


def toy(folder, *cells):
    (folder / "notebooks").mkdir()
    nbformat.write(new_notebook(cells=cells), folder / "notebooks" / "problem1_toy.ipynb")
    return folder / "notebooks"


def answer(source, *tags):
    return new_code_cell(source, id="a1", metadata={"tags": ["answer", *tags]})


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        ([answer(DENSITY, "exercise:densty", "points:3")], "no exercise 'densty'; .* has jsd,"),
        ([answer(DENSITY, "exercise:density")], "its tag is points:None; expected points:N"),
        ([answer(DENSITY, "exercise:density", "points:2.5")], "its tag is points:2.5; expected"),
        ([answer(DENSITY, "exercise:density", "points:4")], "points:4 here and 3 in labutils"),
        ([answer("def f(): pass", "exercise:density", "points:3")], "it defines f; expected density_of"),
        ([answer("x = 1", "exercise:density", "points:3")], "it defines nothing; expected density_of"),
        ([new_markdown_cell("?", metadata={"tags": ["open:why", "points:2"]})], "why has no .* tagged model-answer"),
    ],
)  # fmt: skip
def test_tags_that_do_not_fit_are_named_before_anything_is_written(cells, message, tmp_path):
    with pytest.raises(ValueError, match=rf"problem1_toy\.ipynb, cell \w+: .*{message}"):
        list(teach.build(tmp_path / "out", toy(tmp_path, new_markdown_cell("# Toy"), *cells)))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("edition", ["student", "solution"])
def test_nothing_a_teacher_made_is_overwritten(edition, tmp_path):
    place = tmp_path / "course" / edition
    place.mkdir(parents=True)
    (place / "mine.txt").write_text("mine")
    done = CliRunner().invoke(cli.main, ["teach", "build", "--out", str(tmp_path / "course")])
    assert done.exit_code == 2 and f"{edition} holds something; give another --out" in done.output
    assert [p.name for p in (tmp_path / "course").rglob("*") if p.is_file()] == ["mine.txt"]


def test_a_file_in_the_place_of_a_folder(tmp_path):
    (tmp_path / "course").write_text("")
    done = CliRunner().invoke(cli.main, ["teach", "build", "--out", str(tmp_path / "course")])
    assert done.exit_code == 2 and "course" in done.output and "Traceback" not in done.output


# --- the teacher's page -------------------------------------------------------------------------------------


def test_labutils_teach_says_where_the_page_lies():
    done = CliRunner().invoke(cli.main, ["teach"])
    assert done.exit_code == 0 and str(teach.PAGE) in done.output
    assert all(f"{name} " in done.output for name in EXERCISES)


def test_the_page_has_every_exercise_with_its_points_and_plans():
    page = teach.PAGE.read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)` \| .+ \| (\d+) \| (\d+) \| .+ \|$", page, re.MULTILINE)
    assert {name: int(points) for name, _, points in rows} == {e.name: e.points for e in EXERCISES.values()}
    assert all(5 <= int(minutes) <= 60 for _, minutes, _ in rows)
    for plan in ("Two sessions", "Three sessions", "Four sessions"):
        assert f"**{plan}.**" in page
    for path, source in SOURCES.items():
        for task in teach.tasks(read(source), path):
            assert f"`{task.name}`" in page, task.name


# --- run from top to bottom ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def walks(course):
    """By notebook what tests/walk_edition.py found, in a process of its own."""

    @functools.cache
    def walk(name):
        script = ROOT / "tests" / "walk_edition.py"
        command = [sys.executable, str(script), str(course / "student" / f"{name}.ipynb"), str(SOURCES[name])]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-3000:]
        return json.loads(done.stdout)

    return walk


@pytest.mark.slow
@notebooks
def test_the_student_edition_runs_whatever_is_answered(name, walks):
    asked = exercises_in(name)
    found = walks(name)
    without, everything = ("".join(found[key].values()) for key in ("without", "all"))
    for exercise in asked:
        assert f"({exercise}); until then the package's own function" in without and f"PASS {exercise}\n" not in without
        assert found["alone"][exercise] == f"PASS {exercise}\n", "no answer needs another that is not there"
        assert f"PASS {exercise}\n" in everything
    assert "not answered" not in everything


@pytest.mark.slow
@notebooks
def test_a_wrong_answer_stops_at_its_check_and_says_why(name, walks):
    asked = exercises_in(name)
    for exercise, said in walks(name)["wrong"].items():
        assert said.startswith(f"{exercise}: ") and "This looks like: " in said
    assert set(walks(name)["wrong"]) == set(asked)


def test_a_wrong_objective_shows_in_what_is_trained():
    """A penalty that is added: the critics' readings are others."""
    wrong = next(m for m in EXERCISES["penalised_gap"].mistakes if m.title == "the penalty added")
    p, q = divergences.line_samplers(torch.ones(1))
    found = {}
    for name, functions in ("right", EXERCISES["penalised_gap"].reference), ("wrong", wrong.functions):
        critic = divergences.train_critic(p, q, steps=40, objective=functions["penalised_gap"])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found[name] = divergences.estimate_wasserstein(critic, p, q, n=2000)[0].corrected.value
    assert abs(found["right"] - 1) < 0.5 < abs(found["wrong"] - 1)
