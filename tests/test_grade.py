"""Grading: forty awkward submissions of which only one exercise may suffer, the class that goes on, what comes out."""

from __future__ import annotations

import ast
import csv
import html
import io
import json
import os
import socket
import stat
import threading
import zipfile
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from labutils import exercises
from labutils.commands import cli, grade, grade_alike, grade_answers, grade_package, grade_process, grade_submissions
from labutils.commands.grade_process import Limits
from labutils.exercises import Exercise, Mistake, Part

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="answers run in forks, which this system has not")

# --- three exercises ---------------------------------------------------------------------------------------------


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
    monkeypatch.setattr(exercises, "EXERCISES", {toy.name: toy for toy in TOYS})


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
        json.dumps({"cells": [{"cell_type": c["cell_type"], "source": c["source"]} for c in cells_of(usual())]}).encode(),
        FULL),
    "metadata broken": (usual(metadata=[1, "x"], nbformat="four"), FULL),
    "broken widget state": (
        usual(metadata={"widgets": {"application/vnd.jupyter.widget-state+json": {"state": None, "x": [3]}}}), FULL),
    "format 3": (
        json.dumps({"nbformat": 3, "worksheets": [{"cells": [
            {"cell_type": "code", "input": c["source"].splitlines(True)} for c in cells_of(usual())]}]}).encode(), FULL),
    "a byte order mark, carriage returns": (b"\xef\xbb\xbf" + usual(KL.replace("\n", "\r\n")), FULL),
    "lines as a list": (
        usual(cells=[c | {"source": c["source"].splitlines(True)} for c in cells_of(usual())]), FULL),
    "odd cells": (usual(cells=[None, 3, {"cell_type": "markdown"}, {"cell_type": "code"}, *cells_of(usual())]), FULL),
    # what students do: full marks
    "edited checks": (notebook(SETUP, MEAN, KL, SLOPE, "checks.exercise = lambda *a: print('PASS')\nassert 1 == 2"), FULL),
    "a copied cell": (notebook(SETUP, MEAN, KL, KL, SLOPE, MEAN), FULL),
    "two definitions": (notebook(SETUP, MEAN, "def kl(m, v):\n    return m.sum()", KL, SLOPE), FULL),
    "the stub again below": (notebook(SETUP, MEAN, KL, SLOPE, STUB), FULL),
    "answers in a helper cell": (notebook(SETUP, f"{MEAN}\n{KL}\n{SLOPE}\n", "x = 1"), FULL),
    "a helper in a later cell": (
        notebook(SETUP, MEAN, "def kl(mean, log_var):\n    return HALF * terms(mean, log_var).sum(-1)\n", SLOPE,
                 "HALF = 0.25\nHALF = HALF * 2\ndef terms(m, v):\n    return m ** 2 + v.exp() - 1 - v"), FULL),
    "a syntax error in one cell": (notebook(SETUP, "def helper(:\n    pass", MEAN, KL, SLOPE, "print('x'"), FULL),
    "a syntax error in the set-up": (usual(setup="import torch\nfrom labutils import (\n"), FULL),
    "a cell nested too deeply": (notebook(SETUP, "x = " + "(" * 50_000 + ")" * 50_000, "-" * 90_000 + "1", MEAN, KL, SLOPE), FULL),
    "magics": (notebook("%matplotlib inline\n!pip install x\n" + SETUP, "%%time\n" + MEAN, "%load_ext x\n" + KL,
                        "%%bash\nrm -rf x\n", "kl?", SLOPE), FULL),
    "a cell that trains for an hour": (notebook(SETUP, "import time\ntime.sleep(3600)", MEAN, KL, SLOPE), FULL),
    "an answer as a lambda": (usual("kl = lambda m, v: 0.5 * (m ** 2 + v.exp() - 1 - v).sum(-1)"), FULL),
    "single precision, prints, a matrix in place": (
        usual(body("print('kl', mean)", "mean, log_var = mean.float(), log_var.float()", "mean[..., 0] *= 1")), FULL),
    "a star import": (usual("from numpy import *\ndef kl(mean, log_var):\n"
                            "    m, v = asarray(mean), asarray(log_var)\n"
                            "    return 0.5 * (m ** 2 + exp(v) - 1 - v).sum(-1)"), FULL),
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
        "    __array__ = lambda *a, **k: self\n    def __reduce__(self):\n"
        "        return (print, ('unpickled',))\n\ndef kl(mean, log_var):\n    return Liar()"), NONE),
    "a tensor that lies": (usual(
        "class Liar(torch.Tensor):\n    @classmethod\n    def __torch_function__(cls, f, t, a=(), k=None):\n"
        "        return True\n\ndef kl(mean, log_var):\n    return torch.zeros(3).as_subclass(Liar)"), NONE),
    "import of the reference": (usual(
        "def kl(mean, log_var):\n    from labutils.vae import gaussian_kl\n    return gaussian_kl(mean, log_var)"), NONE),
    "the reference in place of the stub": (usual(STUB + "\nfrom labutils.vae import gaussian_kl as kl"), NONE),
    "the reference by its file": (usual(body(
        "import glob, sys, os", "found = [p for p in glob.glob('/**/labutils/vae.py', recursive=True)]",
        "found = [p for p in found if 'is withheld' not in open(p).read()]",
        "assert found, 'no file'", "return mean.sum(-1) * float('nan')")), NONE),
    "the truth from the caller's frame": (usual(body(
        "import sys, gc", "names = set()", "f = sys._getframe()", "while f: names |= set(f.f_globals); f = f.f_back",
        "names |= {getattr(o, '__name__', '') for o in gc.get_objects() if callable(o)}",
        "if 'kl_truth' in names or 'without_half' in names: return mean * 0",
        "raise ValueError('not there')")), NONE),
    "the exercises": (usual(
        "def kl(mean, log_var):\n    from labutils import exercises\n"
        "    return exercises.EXERCISES['kl'].parts[0].truth(dict(mean=mean, log_var=log_var))"), NONE),
    "torch patched": (usual("torch.allclose = torch.equal = lambda *a, **k: True\n"
                            "torch.Tensor.__eq__ = lambda *a: True\ndef kl(mean, log_var):\n    return mean.sum(-1)"), NONE),
    "a forged reply": (usual(body(
        "import os, struct", "os.write(3, struct.pack('<1sIQ', b'v', 0, 8) + bytes(8))",
        "os.write(3, struct.pack('<1sIQ', b'=', 0, 2 ** 60))", "os._exit(0)")), NONE),
    "a message that tells the inputs": (usual(body(
        "raise type('Inputs' + str(float(mean.flatten()[0])), (ValueError,), {})(mean.tolist())")), NONE),
    "markup in an error": (usual(body("raise ValueError('<script>alert(1)</script>')")), NONE),
}  # fmt: skip


def reaching(port, out, outside):
    """Submissions that reach for what is not theirs; each gives NaN where it got something, and fails either way."""
    home = str(Path(grade.__file__).parent)
    return {
        "network": body(
            "import socket", f"s = socket.create_connection(('127.0.0.1', {port}), 1)", "return mean.sum(-1) * float('nan')"
        ),
        "reading the grader's files": body(
            f"import glob; found = glob.glob({str(out)!r} + '/*')", "if found: return mean.sum(-1) * float('nan')",
            f"open({str(out / 'secret.txt')!r}).read()",
        ),
        "writing outside": body(
            "import os, pathlib, tempfile",
            f"for place in ({outside!r}, {str(out)!r}, {home!r}, '/tmp', '/', '/usr', '/var/tmp'):",
            "    try: pathlib.Path(place, 'written-by-an-answer').write_text('x')",
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
        f"{name}_{people[name]}_assignsubmission_file_/blatt {people[name]} (Kopie).ipynb{'.txt' * (people[name] % 2)}": content
        for name, content in files.items()
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exercises, "EXERCISES", {toy.name: toy for toy in TOYS})
        found = grade.grade(moodle_zip(folder / "abgaben.zip", entries), out, limits=Limits(2, 1024))
    listener.server.close()
    return found, out, outside, listener, {record.student: record for record in found.records}


def points(record):
    return {mark.exercise: mark.points for mark in record.marks}


@pytest.mark.parametrize("name", AWKWARD)
def test_only_the_exercise_concerned_loses_points(awkward, name):
    record = awkward[-1][name]
    assert points(record) == {"mean": 2, "kl": AWKWARD[name][1], "slope": 3}, record.look


def test_there_are_enough_of_them(awkward):
    assert len(AWKWARD) >= 40 and len(awkward[0].records) == len(AWKWARD) + 3


@pytest.mark.parametrize("name", ["network", "reading the grader's files", "writing outside"])
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
        assert not (place / "written-by-an-answer").exists()


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
        ("os._exit", "it returned nothing that can be read as numbers"),
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
    assert "½ left out_125_assignsubmission_file_/feedback.html" in pages or len(pages) >= len(rows)
