"""Grading: forty awkward submissions of which only one exercise may suffer, the class that goes on, what comes out."""

from __future__ import annotations

import ast
import csv
import html
import importlib
import inspect
import json
import os
import socket
import stat
import subprocess
import sys
import threading
import zipfile
from pathlib import Path
from typing import ClassVar

import nbformat
import pytest
import torch
from click.testing import CliRunner
from conftest import ROOT

from labutils import exercises, parameters
from labutils.commands import (
    cli,
    grade,
    grade_alike,
    grade_answers,
    grade_package,
    grade_process,
    grade_submissions,
    teach,
)
from labutils.commands.grade_process import Limits
from labutils.exercises import Exercise, Mistake, Part

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="answers run in forks, which this system has not")

# --- three exercises ---------------------------------------------------------------------------------------------


COURSE = grade.course  # as it is; the tests have one of three exercises


def normal(draw, *shape):
    return torch.randn(*shape, generator=draw, dtype=torch.float64)


def kl_truth(inputs):
    m, v = inputs["mean"], inputs["log_var"]
    return 0.5 * (m.square() + v.exp() - 1 - v).sum(-1)


def without_half(mean, log_var):
    return (mean.square() + log_var.exp() - 1 - log_var).sum(-1)


def bowl(matrix):
    return lambda z: 0.5 * (z * (z.to(matrix) @ matrix)).sum(dim=1, keepdim=True)


def ask_slope(functions, inputs):
    return functions["slope"](bowl(inputs["A"]), inputs["x"])


def draw_slope(g):
    root = normal(g, 3, 3)
    return {"A": root + root.T, "x": normal(g, 5, 3)}


def codes(*shape):
    return lambda g: {"mean": normal(g, *shape), "log_var": normal(g, *shape)}


TOYS = (
    Exercise(
        "mean", 1, 2, ("centre", "shifted"),
        tuple(
            Part(
                f"{n} numbers",
                lambda g, n=n: {"x": normal(g, n), "by": 1.5},
                lambda f, i: torch.stack([f["centre"](i["x"]), f["shifted"](i["x"], i["by"])]),
                lambda i: torch.stack([i["x"].mean(), i["x"].mean() + i["by"]]),
            )
            for n in (5, 7)
        ),
        (),
        {"centre": lambda x: x.mean(), "shifted": lambda x, by: x.mean() + by},
    ),
    Exercise(
        "kl", 2, 4, ("kl",),
        tuple(
            Part(title, codes(*shape), lambda f, i: f["kl"](i["mean"], i["log_var"]), kl_truth)
            for title, shape in (("one code", (6,)), ("several codes", (3, 6)))
        ),
        (Mistake("½ left out", "Each of the terms has the weight ½.", {"kl": without_half}),),
        {"kl": lambda mean, log_var: without_half(mean, log_var) / 2},
    ),
    Exercise(
        "slope", 3, 3, ("slope",),
        (Part("a curved critic", draw_slope, ask_slope, lambda i: (i["x"] @ i["A"]).norm(dim=1)),),
        (),
        {"slope": lambda critic, x: None},
    ),
)  # fmt: skip

SETUP = "import math\nimport torch\nfrom torch import nn\nfrom labutils import checks, vae\n"
MEAN = "def centre(x):\n    return x.mean()\n\n\ndef shifted(x, by):\n    return centre(x) + by\n"
KL = 'def kl(mean, log_var):\n    """KL."""\n    return 0.5 * (mean ** 2 + log_var.exp() - 1 - log_var).sum(-1)\n'
SLOPE = """def slope(critic, x):
    x = x.detach().requires_grad_(True)
    (gradient,) = torch.autograd.grad(critic(x).sum(), x)
    return gradient.norm(dim=1)
"""
STUB = 'def kl(mean, log_var):\n    """KL."""\n    raise NotImplementedError("write kl")\n'


@pytest.fixture(autouse=True)
def toys(monkeypatch):
    with_toys(monkeypatch)


def with_toys(patch):
    patch.setattr(exercises, "EXERCISES", {toy.name: toy for toy in TOYS})
    patch.setattr(grade, "course", lambda: (exercises.EXERCISES, {}))


def notebook(*cells, **changes):
    """A notebook's bytes. changes: keys of the notebook, or of every cell, in place of the usual ones."""
    made = [
        {"cell_type": "code", "id": f"c{k}", "metadata": {}, "execution_count": None, "outputs": [], "source": source}
        for k, source in enumerate(cells)
    ]
    whole = {"cells": made, "metadata": {}, "nbformat": 4, "nbformat_minor": 5}
    return json.dumps(whole | changes).encode()


def usual(kl=KL, setup=SETUP, mean=MEAN, slope=SLOPE, **changes):
    return notebook("# @title Set-up\n" + setup, mean, kl, slope, **changes)


def cells_of(content):
    return json.loads(content)["cells"]


def body(*lines):
    """A kl that does something first, and then the right thing."""
    return "def kl(mean, log_var):\n" + "".join(f"    {line}\n" for line in lines) + KL.split('"""\n')[1]


# --- the awkward class -------------------------------------------------------------------------------------------

# Filled in by the fixture: a port somebody listens at, the folder of the results, a folder nobody may write into.
FULL, NONE = 4, 0
AWKWARD = {
    # what a browser, Colab or a careless hand makes of a file: full marks
    "as it should be": (usual(), FULL),
    "Colab, format 4.0 without ids": (
        usual(nbformat_minor=0, cells=[{k: v for k, v in c.items() if k != "id"} for c in cells_of(usual())]), FULL),
    "metadata lost": (
        json.dumps({"cells": [{k: c[k] for k in ("cell_type", "source")} for c in cells_of(usual())]}).encode(), FULL),
    "metadata broken": (usual(metadata=[1, "x"], nbformat="four"), FULL),
    "broken widget state": (
        usual(metadata={"widgets": {"application/vnd.jupyter.widget-state+json": {"state": None, "x": [3]}}}), FULL),
    "format 3": (
        json.dumps({"nbformat": 3, "worksheets": [{"cells": [
            {"cell_type": "code", "input": c["source"].splitlines(True)} for c in cells_of(usual())]}]}).encode(),
        FULL),
    "a byte order mark, carriage returns": (b"\xef\xbb\xbf" + usual(KL.replace("\n", "\r\n")), FULL),
    "lines as a list": (
        usual(cells=[c | {"source": c["source"].splitlines(True)} for c in cells_of(usual())]), FULL),
    "odd cells": (usual(cells=[None, 3, {"cell_type": "markdown"}, {"cell_type": "code"}, *cells_of(usual())]), FULL),
    # what students do: full marks
    "edited checks": (
        notebook(SETUP, MEAN, KL, SLOPE, "checks.exercise = lambda *a: print('PASS')\nassert 1 == 2"), FULL),
    "a copied cell": (notebook(SETUP, MEAN, KL, KL, SLOPE, MEAN), FULL),
    "two definitions": (notebook(SETUP, MEAN, "def kl(m, v):\n    return m.sum()", KL, SLOPE), FULL),
    "the stub again below": (notebook(SETUP, MEAN, KL, SLOPE, STUB), FULL),
    "answers in a helper cell": (notebook(SETUP, f"{MEAN}\n{KL}\n{SLOPE}\n", "x = 1"), FULL),
    "a helper in a later cell": (
        notebook(SETUP, MEAN, "def kl(mean, log_var):\n    return HALF * terms(mean, log_var).sum(-1)\n", SLOPE,
                 "HALF = 0.25\nHALF = HALF * 2\ndef terms(m, v):\n    return m ** 2 + v.exp() - 1 - v"), FULL),
    "a syntax error in one cell": (notebook(SETUP, "def helper(:\n    pass", MEAN, KL, SLOPE, "print('x'"), FULL),
    "a syntax error in the set-up": (usual(setup="import torch\nfrom labutils import (\n"), FULL),
    "a cell nested too deeply": (
        notebook(SETUP, "x = " + "(" * 50_000 + ")" * 50_000, "-" * 90_000 + "1", MEAN, KL, SLOPE), FULL),
    "magics": (notebook("%matplotlib inline\n!pip install x\n" + SETUP, "%%time\n" + MEAN, "%load_ext x\n" + KL,
                        "%%bash\nrm -rf x\n", "kl?", SLOPE), FULL),
    "a cell that trains for an hour": (notebook(SETUP, "import time\ntime.sleep(3600)", MEAN, KL, SLOPE), FULL),
    "an answer as a lambda": (usual("kl = lambda m, v: 0.5 * (m ** 2 + v.exp() - 1 - v).sum(-1)"), FULL),
    "single precision, prints, a matrix in place": (
        usual(body("print('kl', mean)", "mean, log_var = mean.float(), log_var.float()", "mean[..., 0] *= 1")), FULL),
    "a star import": (usual("from numpy import *\ndef kl(mean, log_var):\n"
                            "    m, v = asarray(mean), asarray(log_var)\n"
                            "    return 0.5 * (m ** 2 + exp(v) - 1 - v).sum(-1)"), FULL),
    # an answer that uses another exercise's: a mistake costs once (kl is the one that is wrong or not there)
    "kl is borrowed, and a stub": (
        usual(STUB, mean=MEAN.replace("x.mean()", "x.mean() + 0 * kl(x, x)")), NONE),
    "kl is borrowed, and wrong": (
        usual(KL.replace("0.5 * ", ""), mean=MEAN.replace("x.mean()", "x.mean() * kl(x, x) / (2 * kl(x, x) - "
              "(x ** 2 + x.exp() - 1 - x).sum(-1) / 2)")), NONE),
    "kl is borrowed, and nowhere": (
        usual("kl = checks.exercise('kl', 1)", mean=MEAN.replace("x.mean()", "x.mean() + 0 * kl(x, x)")), NONE),
    # what goes wrong in one exercise: nothing for it, all for the others
    "not answered": (usual(STUB), NONE),
    "no such function": (usual("kkl = 3"), NONE),
    "½ left out": (usual(KL.replace("0.5 * ", "")), NONE),
    "right for one code only": (usual(KL.replace(".sum(-1)", ".sum()")), FULL / 2),
    "infinite loop": (usual(body("while True: pass")), NONE),
    "sleeps": (usual(body("import time; time.sleep(1e6)")), NONE),
    "os._exit": (usual(body("import os; os._exit(0)")), NONE),
    "os._exit at the second part": (usual(body("if mean.ndim > 1: __import__('os')._exit(3)")), FULL / 2),
    "sys.exit": (usual(body("raise SystemExit('done')")), NONE),
    "a segmentation fault": (usual(body("import ctypes; ctypes.string_at(0)")), NONE),
    "fork bomb": (usual(body("import os", "while True:", "    try: os.fork()", "    except OSError: pass")), NONE),
    "kills everything": (usual(body("import os", "for n in (-1, os.getppid(), 1): os.kill(n, 9)")), NONE),
    "endless print": (usual(body("while True: print('x' * 10000)")), NONE),
    "fills the disk": (usual(body("for k in range(10 ** 6): open(str(k), 'wb').write(bytes(10 ** 7))")), NONE),
    "10 GB array": (usual(body("return torch.ones(10 ** 10 // 8, dtype=torch.float64)")), NONE),
    "returns 100 MB": (usual(body("return torch.ones(13_000_000, dtype=torch.float64)")), NONE),
    "an object whose comparison lies": (usual(
        "class Liar:\n    shape = ()\n    __eq__ = __le__ = __ge__ = __ne__ = lambda *a: True\n"
        "    __array__ = __float__ = lambda *a, **k: self\n\ndef kl(mean, log_var):\n    return Liar()"), NONE),
    "an object that unpickles": (usual(
        "class Trap:\n    def __reduce__(self):\n        return (print, ('unpickled',))\n"
        "def kl(mean, log_var):\n    return Trap()"), NONE),
    "a tensor that lies": (usual(
        "class Liar(torch.Tensor):\n    @classmethod\n    def __torch_function__(cls, f, t, a=(), k=None):\n"
        "        return True\n\ndef kl(mean, log_var):\n    return torch.zeros(3).as_subclass(Liar)"), NONE),
    "import of the reference": (usual(
        "def kl(mean, log_var):\n    from labutils.vae import gaussian_kl\n"
        "    return gaussian_kl(mean, log_var).sum(-1)"), NONE),
    "the reference in place of the stub": (usual(STUB + "\nfrom labutils.vae import gaussian_kl as kl"), NONE),
    "the truth from the caller's frame": (usual(body(
        "import sys, gc", "names = set()", "f = sys._getframe()", "while f: names |= set(f.f_globals); f = f.f_back",
        "names |= {getattr(o, '__name__', '') for o in gc.get_objects() if callable(o)}",
        "if 'kl_truth' in names or 'without_half' in names: return mean * 0",
        "raise ValueError('not there')")), NONE),
    "the exercises": (usual(
        "def kl(mean, log_var):\n    from labutils import exercises\n"
        "    return exercises.EXERCISES['kl'].parts[0].truth(dict(mean=mean, log_var=log_var))"), NONE),
    "torch patched": (usual(
        "torch.allclose = torch.equal = lambda *a, **k: True\ntorch.Tensor.__eq__ = lambda *a: True\n"
        "def kl(mean, log_var):\n    torch.allclose\n    return mean.sum(-1)"), NONE),
    "a forged reply": (usual(body(
        "import os, struct", "os.write(3, struct.pack('<1sIQ', b'v', 0, 8) + bytes(8))",
        "os.write(3, struct.pack('<1sIQ', b'=', 0, 2 ** 60))", "os._exit(0)")), NONE),
    "a message that tells the inputs": (usual(body(
        "raise type('Inputs' + str(float(mean.flatten()[0])), (ValueError,), {})(mean.tolist())")), NONE),
    "markup in an error": (usual(body("raise ValueError('<script>alert(1)</script>')")), NONE),
}  # fmt: skip


def reaching(port, out, outside):
    """Submissions that reach for what is not theirs; each gives NaN where it got something, and fails either way."""
    package = str(Path(grade.__file__).parent)
    return {
        "network": body(
            "import socket", f"socket.create_connection(('127.0.0.1', {port}), 1)", "return mean.sum(-1) * float('nan')"
        ),
        "reading the grader's files": body(
            f"import glob; found = glob.glob({str(out)!r} + '/*')", "if found: return mean.sum(-1) * float('nan')",
            f"open({str(out / 'secret.txt')!r}).read()",
        ),
        "the package's own file": body(
            f"text = open({str(Path(grade.__file__).parents[1] / 'vae.py')!r}).read()",
            "return mean.sum(-1) * float('nan')",
        ),
        "writing outside": body(
            "import pathlib",
            f"for place in ({outside!r}, {str(out)!r}, {package!r}, '/tmp', '/', '/usr', '/var/tmp'):",
            f"    try: pathlib.Path(place, 'written-by-{port}').write_text('x')",
            "    except OSError: pass",
            "raise ValueError('nothing')",
        ),
    }  # fmt: skip


def moodle_zip(path, files):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


class Listener:
    """Somebody who listens, and counts who came."""

    def __init__(self):
        self.server = socket.create_server(("127.0.0.1", 0))
        self.port, self.came = self.server.getsockname()[1], 0
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self):
        while True:
            try:
                self.server.accept()[0].close()
            except OSError:
                return
            self.came += 1


@pytest.fixture(scope="module")
def awkward(tmp_path_factory):
    """All of them graded in one go, out of a zip as Moodle makes it; every name of a file is another."""
    folder = tmp_path_factory.mktemp("awkward")
    out, outside, listener = folder / "out", folder / "outside", Listener()
    outside.mkdir(mode=0o777)
    files = {name: content for name, (content, _) in AWKWARD.items()}
    files |= {name: usual(kl) for name, kl in reaching(listener.port, out, str(outside)).items()}
    people = {name: 100 + k for k, name in enumerate(files)}
    entries = {
        f"{name}_{n}_assignsubmission_file_/blatt {n} (Kopie).ipynb{'.txt' * (n % 2)}": files[name]
        for name, n in people.items()
    }
    with pytest.MonkeyPatch.context() as patch:
        with_toys(patch)
        found = grade.grade(moodle_zip(folder / "abgaben.zip", entries), out, limits=Limits(2, 1024))
    listener.server.close()
    return found, out, outside, listener, {record.student: record for record in found.records}


def points(record):
    return {mark.exercise: mark.points for mark in record.marks}


@pytest.mark.slow
@pytest.mark.parametrize("name", AWKWARD)
def test_only_the_exercise_concerned_loses_points(awkward, name):
    record = awkward[-1][name]
    assert points(record) == {"mean": 2, "kl": AWKWARD[name][1], "slope": 3}, record.look


def test_there_are_enough_of_them(awkward):
    assert len(AWKWARD) >= 40 and len(awkward[0].records) == len(AWKWARD) + 4


@pytest.mark.parametrize("name", ["network", "reading the grader's files", "the package's own file", "writing outside"])
def test_nothing_outside_is_in_reach(awkward, name):
    found, out, outside, listener, records = awkward
    assert points(records[name]) == {"mean": 2, "kl": 0, "slope": 3}
    if found.open:
        pytest.skip(f"this system has no namespaces for it: {found.open}")
    public = [part.public for mark in records[name].marks for part in mark.parts if mark.exercise == "kl"]
    assert all("raised" in text for text in public), public
    assert listener.came == 0
    assert list(outside.iterdir()) == []
    for place in (out, Path(grade.__file__).parent, Path("/tmp"), Path("/"), Path("/usr"), Path("/var/tmp")):
        assert not (place / f"written-by-{listener.port}").exists()


def test_the_results_are_all_there_is(awkward):
    _, out, *_ = awkward
    assert {path.name for path in out.iterdir()} == {
        "feedback", "feedback.zip", "grades.csv", "grading.json", "results", "secret.txt", "to_look_at.csv"
    }  # fmt: skip
    assert stat.S_IMODE((out / "secret.txt").stat().st_mode) == 0o600


@pytest.mark.parametrize(
    ("name", "public"),
    [
        ("infinite loop", "it ran out of time"),
        ("sleeps", "it ran out of time"),
        ("returns 100 MB", "it returned more than anybody asked for"),
        ("os._exit", "its process ended before it had answered (status 0)"),
        ("an object whose comparison lies", "it returned nothing that can be read as numbers"),
        ("10 GB array", "it raised RuntimeError, code cell 3, line 2"),
        ("not answered", "not answered yet"),
        ("no such function", "not answered yet"),
        ("import of the reference", "it calls the package's own function, which is not there while answers are graded"),
        ("a message that tells the inputs", "it raised an error of its own, code cell 3, line 2"),
        ("½ left out", "its values are not the expected ones"),
    ],
)
def test_a_student_reads_what_happened(awkward, name, public):
    (mark,) = (mark for mark in awkward[-1][name].marks if mark.exercise == "kl")
    assert {part.public for part in mark.parts} == {public}


def test_a_known_mistake_is_explained(awkward):
    (mark,) = (mark for mark in awkward[-1]["½ left out"].marks if mark.exercise == "kl")
    assert {part.hint for part in mark.parts} == {"½ left out"}
    text = grade.page(awkward[-1]["½ left out"])
    assert "Each of the terms has the weight ½." in html.unescape(text)


def test_a_page_repeats_no_input_and_runs_nothing(awkward):
    found, out, *_ = awkward
    seed, _ = grade._seed(out, None)
    hidden = {
        f"{abs(value):.4g}"
        for toy in TOYS for k in range(len(toy.parts)) for tensor in exercises.inputs(toy, k, seed).values()
        for value in torch.as_tensor(tensor).flatten().tolist() if value != 1.5
    }  # fmt: skip
    pages = list((out / "feedback").rglob("*.html"))
    assert len(pages) == len(found.records)
    for page in pages:
        text = page.read_text(encoding="utf-8")
        assert not [value for value in hidden if value[:5] in text.partition("</style>")[2]], page
        assert "<script" not in text and "default-src 'none'" in text


def test_what_a_person_should_look_at(awkward):
    _, out, *_ = awkward
    rows = list(csv.reader((out / "to_look_at.csv").open(encoding="utf-8", newline="")))
    assert rows[0] == ["student", "what", "detail"]
    found = {(student, what) for student, what, _ in rows[1:]}
    for expected in [
        ("no such function", "missing"), ("a syntax error in one cell", "cell not read"), ("infinite loop", "stopped"),
        ("import of the reference", "calls the package"), ("two definitions", "defined twice"),
    ]:  # fmt: skip
        assert expected in found
    assert not [row for row in found if row[0] == "as it should be"]
    assert not [row for row in found if row[1] == "not graded"]


def test_moodle_can_import_the_table(awkward):
    _, out, *_ = awkward
    rows = list(csv.DictReader((out / "grades.csv").open(encoding="utf-8", newline="")))
    by_name = {row["Full name"]: row for row in rows}
    row = by_name["right for one code only"]
    assert row["Identifier"] == f"Participant {100 + list(AWKWARD).index('right for one code only')}"
    assert (row["mean"], row["kl"], row["slope"], row["Grade"], row["Maximum grade"]) == ("2", "2", "3", "7", "9")
    assert {"Last modified (grade)", "Feedback comments"} <= row.keys()
    pages = zipfile.ZipFile(out / "feedback.zip").namelist()
    number = row["Identifier"].split()[1]
    assert f"right for one code only_{number}_assignsubmission_file_/feedback.html" in pages


# --- a class again, other systems, other results -----------------------------------------------------------------


class Quick:
    """A worker without a process, for what does not depend on one: it counts how often it was asked."""

    asked: ClassVar[list] = []
    lost = 0

    def __init__(self, *_):
        self.process, self.open = None, "no process"

    def __enter__(self):
        self.process = self

    def __exit__(self, *_):
        self.process = None

    def ask(self, exercise, calls, answer, seed, right):
        self.asked.append(exercise.name)
        if Quick.lost and exercise.name == "kl":
            Quick.lost -= 1
            raise grade_process.WorkerLost("gone")
        space = {"torch": torch}
        for cell, node in answer.statements:
            exec(compile(ast.Module([node], []), cell, "exec"), space)
        functions = {name: space[name] for name in exercise.functions if name in space}
        results = exercises.answers(exercise, functions, seed)
        return grade_process.Outcome([exercises.describe(r) if isinstance(r, Exception) else r for r in results])


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(grade, "Worker", Quick)
    monkeypatch.setattr(Quick, "asked", [])
    return Quick


def table(out):
    return list(csv.DictReader((out / "grades.csv").open(encoding="utf-8", newline="")))


def test_a_second_call_grades_what_is_new_and_keeps_what_was_filled_in(tmp_path, quick, monkeypatch):
    monkeypatch.setattr(grade, "course", lambda: (exercises.EXERCISES, {"why": 2}))
    folder, out = tmp_path / "handed in", tmp_path / "out"
    for name in ("Anna", "Ben"):
        (folder / name).mkdir(parents=True)
        (folder / name / "x.ipynb").write_bytes(usual())
    arguments = ["grade", str(folder), "--out", str(out), "--jobs", "1"]
    done = CliRunner().invoke(cli.main, arguments)
    assert done.exit_code == 0 and "2 students" in done.output, done.output
    assert "not apart from network and files" in done.output
    assert len(quick.asked) == 6
    assert [row["Total"] for row in table(out)] == ["9", "9"]
    path = out / "grades.csv"
    path.write_text(path.read_text().replace("Anna,2,4,3,,9", "Anna,2,4,3,1.5,9"))
    (folder / "Ben" / "x.ipynb").write_bytes(usual(STUB))
    CliRunner().invoke(cli.main, arguments)
    assert len(quick.asked) == 8, "Ben's two answers, nothing of Anna's"
    assert [(row["why"], row["Total"]) for row in table(out)] == [("1.5", "10.5"), ("", "5")]
    (out / "secret.txt").write_text("another")
    path.write_text("no table")
    done = CliRunner().invoke(cli.main, arguments)
    assert done.exit_code == 2 and "cannot be read as the table it was" in done.output
    assert path.read_text() == "no table"
    assert len(quick.asked) == 8 + 5, "another secret, other inputs"


@pytest.mark.slow
def test_limits_hold_without_namespaces(tmp_path):
    """What is left where the system has no namespaces: time, memory, output, and the class goes on."""
    names = ["as it should be", "infinite loop", "os._exit", "endless print", "10 GB array", "fills the disk"]
    for name in names:
        (tmp_path / "in").mkdir(exist_ok=True)
        (tmp_path / "in" / f"{name}.ipynb").write_bytes(AWKWARD[name][0])
    found = grade.grade(tmp_path / "in", tmp_path / "out", limits=Limits(2, 1024), jobs=1, plain=True)
    assert found.open == "not asked for"
    for record in found.records:
        assert points(record) == {"mean": 2, "kl": AWKWARD[record.student][1], "slope": 3}, record.student
    assert not list((tmp_path / "out").glob(".work*"))


def test_canvas_can_import_the_table(tmp_path, quick):
    files = {"annamuster_1001_77_x-1.ipynb": usual(), "bentest_LATE_1002_78_problem1.ipynb": usual(STUB)}
    files["bentest_LATE_1002_79_other.pdf"] = b"%PDF"
    path = moodle_zip(tmp_path / "submissions.zip", files)
    found = grade.grade(path, tmp_path / "out", limits=Limits(2, 1024), jobs=1)
    rows = list(csv.reader((tmp_path / "out" / "grades.csv").open(encoding="utf-8", newline="")))
    assert found.system == "canvas" and not found.records[0].look
    assert rows == [
        ["Student", "ID", "Section", "mean", "kl", "slope", "Total"],
        ["    Points Possible", "", "", "2", "4", "3", "9"],
        ["annamuster", "1001", "", "2", "4", "3", "9"],
        ["bentest", "1002", "", "2", "0", "3", "5"],
    ]
    assert ("not read", "other.pdf: it is no notebook, or a damaged one (Expecting value, line 1)") in (
        found.records[1].look
    )


def test_a_worker_that_is_lost_is_replaced(tmp_path, monkeypatch):
    lost = []
    ask = grade_process.Worker.ask

    def once(self, exercise, *rest):
        if exercise.name == "kl" and not lost:
            lost.append(self.process.pid)
            self.process.kill()
        return ask(self, exercise, *rest)

    monkeypatch.setattr(grade_process.Worker, "ask", once)
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "Anna.ipynb").write_bytes(usual())
    (anna,) = grade.grade(tmp_path / "in", tmp_path / "out", limits=Limits(2, 1024)).records
    assert lost and points(anna) == {"mean": 2, "kl": 4, "slope": 3} and not anna.look


def test_the_class_goes_on_whatever_happens_to_one(tmp_path, quick, monkeypatch):
    monkeypatch.setattr(Quick, "lost", 2)
    collect = grade.collect
    monkeypatch.setattr(grade, "collect", lambda s, asked: 1 / 0 if s.student == "Ben" else collect(s, asked))
    (tmp_path / "in").mkdir()
    for name in ("Anna", "Ben", "Cleo"):
        (tmp_path / "in" / f"{name}.ipynb").write_bytes(usual())
    anna, ben, cleo = grade.grade(tmp_path / "in", tmp_path / "out", jobs=1).records
    assert points(anna) == {"mean": 2, "kl": 0, "slope": 3} and [what for what, _ in anna.look] == ["stopped"]
    assert ben.look == [("not graded", "ZeroDivisionError: division by zero")] and ben.points == 0
    assert cleo.points == 9 and len(table(tmp_path / "out")) == 3


def test_a_worker_that_does_not_start_is_one_clear_line(tmp_path, monkeypatch):
    monkeypatch.setattr(grade_process.Worker, "_setting", lambda self: {"path": []})
    (tmp_path / "in").mkdir()
    for name in ("Anna", "Ben"):
        (tmp_path / "in" / f"{name}.ipynb").write_bytes(usual())
    with pytest.raises(grade.GradingError, match="does not start: ModuleNotFoundError"):
        grade.grade(tmp_path / "in", tmp_path / "out", jobs=1)


@pytest.mark.slow
def test_the_solved_notebooks_have_full_marks_and_the_student_edition_none(tmp_path, monkeypatch):
    """The command as a teacher types it, on the course as it is."""
    monkeypatch.undo()
    for path in parameters.notebooks().values():
        solved = nbformat.read(path, as_version=4)
        for student, edition in ("solved", solved), ("stubs", teach.student(solved, path.name)):
            (tmp_path / "in" / student).mkdir(parents=True, exist_ok=True)
            nbformat.write(edition, tmp_path / "in" / student / path.name)
    command = [sys.executable, "-m", "labutils.commands.cli", "grade", "in", "--out", "out", "--jobs", "1"]
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0 and "2 students" in done.stdout, done.stdout + done.stderr
    asked, questions = COURSE()
    solved, stubs = table(tmp_path / "out")
    full = {name: str(exercise.points) for name, exercise in asked.items()}
    assert {name: solved[name] for name in asked} == full and solved["Total"] == str(sum(map(int, full.values())))
    assert stubs["Total"] == "0" and {solved[name] for name in questions} == {""}
    assert len(asked) >= 12 and len(questions) >= 6
    look = (tmp_path / "out" / "to_look_at.csv").read_text(encoding="utf-8")
    assert "helper failed" not in look and "like the package" in look


# --- without a worker --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "system", "student", "number"),
    [
        ("Zoë van Dam_4711_assignsubmission_file_/a/b.ipynb", "moodle", "Zoë van Dam", "4711"),
        ("Zoë van Dam_4711_assignsubmission_file/b.ipynb", "moodle", "Zoë van Dam", "4711"),
        ("Zoë_van_Dam_4711_assignsubmission_file_b_2.ipynb", "moodle", "Zoë_van_Dam", "4711"),
        ("vandamzoe_4711_99_problem_1.ipynb", "canvas", "vandamzoe", "4711"),
        ("vandamzoe_LATE_4711_99_problem_1.ipynb", "canvas", "vandamzoe", "4711"),
        ("Zoë/problem1.ipynb", "folder", "Zoë", ""),
        ("Zoë.ipynb", "folder", "Zoë", ""),
    ],
)
def test_whose_a_file_is(tmp_path, name, system, student, number):
    found = grade_submissions.read(moodle_zip(tmp_path / "x.zip", {name: b"x", "__MACOSX/._x": b"", "other/.x": b""}))
    assert (found[0], [(s.student, s.number) for s in found[1]]) == (system, [(student, number)])
    (tmp_path / "x" / name).parent.mkdir(parents=True)
    (tmp_path / "x" / name).write_bytes(b"x")
    (tmp_path / "x" / "link.ipynb").symlink_to("/etc/passwd")
    assert [(s.student, s.number) for s in grade_submissions.read(tmp_path / "x")[1]] == [(student, number)]


def test_a_zip_cannot_write_or_fill_the_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(grade_submissions, "LARGEST", 10_000)
    inner = moodle_zip(tmp_path / "inner.zip", {"../../up.ipynb": b"1", "deep/er.ipynb": b"2"})
    path = moodle_zip(
        tmp_path / "x.zip",
        {"../../evil_1_assignsubmission_file_/x.ipynb": b"", "b_2_assignsubmission_file_/bomb": bytes(10**6),
         "c_3_assignsubmission_file_/all.zip": inner.read_bytes(),
         "c_3_assignsubmission_file_/bad.zip": b"PK\x03\x04x"},
    )  # fmt: skip
    before = sorted(tmp_path.rglob("*"))
    found = {s.student: dict(s.contents()) for s in grade_submissions.read(path)[1]}
    assert found["evil"] == {"x.ipynb": b""}
    assert "it is larger than 0 MiB" in found["b"]["bomb"]
    assert found["c"]["all.zip/up.ipynb"] == b"1" and found["c"]["all.zip/deep/er.ipynb"] == b"2"
    assert "cannot be unpacked" in found["c"]["bad.zip"]
    assert sorted(tmp_path.rglob("*")) == before


def test_two_students_of_one_name_have_two_pages(tmp_path):
    files = {f"Ann/Lee{k}_5_assignsubmission_file_".replace("/", c) + "/x": b"" for k, c in ((1, "-"), (1, "+"))}
    found = grade_submissions.read(moodle_zip(tmp_path / "x.zip", files))[1]
    assert len({s.key.lower() for s in found}) == 2


@pytest.mark.parametrize(
    ("place", "out", "more", "message"),
    [
        ("file", "out", [], "neither a folder nor a zip"),
        ("empty", "out", [], "holds no file"),
        ("in", "in/out", [], "lies in"),
        ("in", "mine", [], "was not made by `labutils grade`"),
        ("in", "file", [], "is a file"),
        ("in", "out", ["--secret", "nothing"], "is empty"),
    ],
)
def test_bad_arguments_are_one_clear_line(tmp_path, monkeypatch, place, out, more, message):
    monkeypatch.chdir(tmp_path)
    for folder in ("in", "mine", "empty"):
        Path(folder).mkdir()
    for file in ("in/a.ipynb", "mine/letter", "file"):
        Path(file).write_text("x")
    Path("nothing").touch()
    done = CliRunner().invoke(cli.main, ["grade", place, "--out", out, *more])
    assert done.exit_code == 2 and message in done.output, done.output


def sliced(*cells, names=("f",)):
    found, problems = grade_answers.statements(cells)
    answer = grade_answers.answer(found, names)
    return answer, problems


@pytest.mark.parametrize(
    ("cells", "expected"),
    [
        (["import os, torch as t\nfrom m import (a, b)\ndef f(): return t, b"],
         "import torch as t\nfrom m import b\nDEF"),
        (["x = 1", "x = x + 1", "y = x", "def f(): return x"], "x = 1\nx = x + 1\nDEF"),
        (["x = 1", "z = x", "x = 2", "def f(): return z"], "x = 1\nz = x\nDEF"),
        (["c = {}", "c['a'] = 1", "d = {}", "def f(): return c"], "c = {}\nc['a'] = 1\nDEF"),
        (["def g(): return h()", "def f(): return g()", "def h(): return 1"],
         "def g():\n    return h()\nDEF\ndef h():"),
        (["def f(): return [x for x in range(3)]", "x = 3"], "DEF"),
        (["n = 3", "def f(k=n): return k", "n = 4"], "n = 3\nDEF"),
        (["from m import *", "def f(): return what", "q = 1"], "from m import *\nDEF"),
        (["class C:\n    y = w\n", "w = 2", "def f(): return C"], "class C:\n    y = w\nw = 2\nDEF"),
        (["try:\n    k = 1\nexcept E:\n    k = 2", "def f(): return k"], "try:\n    k = 1\nexcept E:\n    k = 2\nDEF"),
    ],
)  # fmt: skip
def test_an_answer_brings_what_it_needs_and_nothing_else(cells, expected):
    answer, _ = sliced(*cells)
    lines = [line for line in answer.text.replace("\n\n", "\n").split("\n")]
    (place,) = [k for k, line in enumerate(lines) if line.startswith("def f(")]
    text = "\n".join([*lines[:place], "DEF", *lines[place + 2 :]])
    assert text.startswith(expected), text
    assert len(text) <= len(expected) + 20


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "it is no notebook"), (b"[1, 2]", "it is no notebook"), (b"{}", "KeyError"),
        (b'{"cells": 3}', "TypeError"),
        (b"\xff\xfe\x00", "it is no notebook"), (b'{"cells": [', "damaged"), (b"[" * 10**6, "damaged"),
    ],
)  # fmt: skip
def test_what_is_no_notebook_is_said_to_be_none(content, message):
    with pytest.raises(grade_answers.NotANotebook, match=message):
        grade_answers.code_cells(content)


def test_a_folder_on_the_path_is_not_shown(tmp_path, monkeypatch):
    """A script's folder, the current one, a clone that is installed as it lies: the teacher's, none of a library's."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend("")
    setting = grade_process.Worker(tmp_path / "p", tmp_path / "w", Limits(), [], False)._setting()
    assert not [p for p in setting["shown"] if tmp_path.is_relative_to(p)]
    assert not [p for p in setting["shown"] if Path(grade.__file__).is_relative_to(p) and "site-packages" not in p]


def test_only_functions_numbers_and_tensors_travel():
    class Odd:
        pass

    def make(x):
        return lambda functions, inputs: x

    assert grade_process.ship([make((1, torch.ones(2), {"a": [None]}))])
    with pytest.raises(TypeError, match="cannot travel"):
        grade_process.ship([make(Odd())])


def test_the_truth_does_not_travel():
    shipped = grade_process.ship([part.call for toy in TOYS for part in toy.parts])
    names = {entry["name"] for entry in shipped["functions"]}
    assert {"ask_slope", "bowl"} <= names and not {"kl_truth", "without_half", "draw_slope"} & names


def test_the_copy_has_signatures_and_no_bodies(tmp_path):
    copy = grade_package.build(tmp_path / "copy") / "labutils"
    for module, names in grade_package.WITHHELD.items():
        text = (copy / f"{module}.py").read_text()
        assert text.count(grade.WITHHELD) == len(names), module
    assert not list(copy.glob("exercises_*")) and "Part(" not in (copy / "exercises.py").read_text()
    with pytest.raises(ValueError, match="has no such function"):
        grade_package.without_bodies("def f():\n    return 1\n", ("f", "g"))


def takes(function, count):
    """Whether a function can be called with so many arguments."""
    known = inspect.signature(function).parameters.values()
    return sum(p.default is p.empty for p in known) <= count <= len(known)


@pytest.mark.slow
def test_nothing_that_is_left_in_the_package_answers_an_exercise(monkeypatch):
    """Each function that answers can import, in the place of each function asked for, the others right."""
    monkeypatch.undo()
    left = {}
    for module in grade_package.WITHHELD:
        here = vars(importlib.import_module(f"labutils.{module}"))
        for name, value in here.items():
            if inspect.isfunction(value) and value.__module__ == f"labutils.{module}":
                left[f"{module}.{name}"] = value
    withheld = {f"{module}.{name}" for module, names in grade_package.WITHHELD.items() for name in names}
    slow = ("train", "sweep", "fit", "learn", "build", "evaluate", "estimate", "likelihood_curve")
    found = set()
    for exercise in exercises.EXERCISES.values():
        for name, candidate in left.items():
            if name.partition(".")[2].lstrip("_").startswith(slow):
                continue
            for asked in exercise.functions:
                if not takes(candidate, len(inspect.signature(exercise.reference[asked]).parameters)):
                    continue
                results = exercises.answers(exercise, {**exercise.reference, asked: candidate}, 3)
                if any(isinstance(result, Exception) for result in results):
                    continue
                if all(verdict.passed for verdict in exercises.judge(exercise, results, 3)):
                    found.add(name)
    assert found - withheld == set()
    assert found & withheld, "the package answers something, or this test asks nothing"


LONG = """def f(critic, x, y, lam):
    z = (x + y) / 2
    z.requires_grad_(True)
    total = critic(z).sum() + critic(x).mean() - critic(y).mean()
    slope = torch.autograd.grad(total, z, create_graph=True)[0].flatten(1).norm(dim=1)
    return lam * (slope - 1).clamp(min=0).square().mean() + 3 * slope.max()
"""


def likeness(monkeypatch, texts, known=(), backend="runs of tokens"):
    monkeypatch.setattr(grade_alike, "backend", lambda: backend)
    return {(one, other) for one, other, _ in grade_alike.pairs(texts, known)}


@pytest.mark.parametrize("backend", ["runs of tokens", "copydetect"])
def test_renaming_is_no_writing(monkeypatch, backend):
    if backend == "copydetect":
        pytest.importorskip("copydetect")
    renamed = LONG.replace("slope", "s").replace("total", "t").replace("    return", "    # mine\n    return")
    other = "".join(f"def g{k}(a):\n    return torch.stack([a, a + {k}]).cumsum({k}).exp() / {k}\n" for k in range(9))
    texts = {"Anna": LONG, "Ben": other, "Cleo": renamed}
    assert likeness(monkeypatch, texts, backend=backend) == {("Anna", "Cleo")}
    assert likeness(monkeypatch, texts, [LONG], backend) == set(), "all were given it"
    crowd = {f"student {k}": LONG for k in range(9)} | {"Ben": other}
    assert likeness(monkeypatch, crowd, backend=backend) == set(), "what many write says nothing"


def test_a_copy_of_the_package_is_seen():
    package = grade_alike.runs([Path(grade_answers.__file__).read_text(encoding="utf-8")])
    text = Path(grade_answers.__file__).read_text(encoding="utf-8")
    own = "\n".join(text.split("\n\n\n")[-1:])
    assert grade_alike.copied(own, package) > 0.9 and grade_alike.copied(LONG, package) < 0.2


def test_a_name_is_no_formula():
    assert [grade._cell(text) for text in ("=1+1", "@x", "-x", "-", "Ben")] == ["'=1+1", "'@x", "'-x", "-", "Ben"]


def test_a_page_escapes_everything():
    part = grade.Part("<b>", False, "<i>", "", "<u>", "<script>alert(1)</script>")
    record = grade.Record("<script>x</script>", "", "", "k", "", [grade.Mark("<e>", 1, 0.5, 2, [part], "<n>")])
    text = grade.page(record, ["<q>"]).partition("</style>")[2]
    for tag in ("<b>", "<i>", "<u>", "<script", "<e>", "<n>", "<q>"):
        assert tag not in text
