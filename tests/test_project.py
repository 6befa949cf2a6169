"""The project about itself: two dependency lists in agreement, a thin package, imports that point downward."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from conftest import ROOT

if sys.version_info >= (3, 11):
    import tomllib
else:
    tomllib = pytest.importorskip("tomli")

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
CONDA_NAMES = {"torch": "pytorch", "matplotlib": "matplotlib-base"}

# The top comes first; a module may import from layers below its own, and from its own layer.
COMMANDS = [
    {"cli"},
    {"address", "publish", "site"},
    {"report", "grade", "nbgrader", "explore"},
    {"slides"},
    {"run", "doctor", "remake", "score", "teach", "grade_alike", "grade_package", "grade_process", "grade_submissions"},
    {"grade_answers", "grade_worker", "npm"},
]
LAYERS = [
    {"keynumbers", "checks", "plots", "live", "parameters"},
    {"exercises"},
    {"exercises_divergences", "exercises_vae", "exercises_images"},
    {"marking"},
    {"divergences", "vae", "gan", "fid", "latent", "priors"},
    {"distributions", "networks", "features", "data", "distortions", "reference"},
    {"street_digits"},
    {"training", "estimates"},
]


def test_conda_and_pip_ask_for_the_same():
    # `teach` is for a teacher who wants it, `browser` for tests in one: not all of them is on conda-forge.
    wanted = {"jupyter", "test"}
    extras = [d for name, extra in PROJECT["optional-dependencies"].items() if name in wanted for d in extra]
    asked = [*PROJECT["dependencies"], *extras]
    expected = {re.split(r"[<>=]", d)[0]: d for d in asked}
    expected = {d.replace(name, CONDA_NAMES.get(name, name), 1) for name, d in expected.items()}
    conda = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))["dependencies"]
    assert conda[-1] == {"pip": ["-e ."]}
    assert {d for d in conda if isinstance(d, str)} - {"pip", f"python{PROJECT['requires-python']}"} == expected


def test_ranges_are_loose():
    for line in [*PROJECT["dependencies"], *(d for extra in PROJECT["optional-dependencies"].values() for d in extra)]:
        assert re.fullmatch(r"[a-z0-9-]+>=[\d.]+", line), f"{line}: a pin breaks machines that bring their own torch"


def modules(folder=""):
    found = sorted((ROOT / "labutils" / folder).glob("*.py"))
    return [path for path in found if path.stem != "__init__"]


def imports(path):
    """(level, module, names) of every relative import: level 1 is the module's own folder."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level:
            names = [alias.name for alias in node.names]
            for module in [node.module] if node.module else names:
                yield node.level, module, names if node.module else []


@pytest.mark.parametrize(("folder", "layers"), [("", LAYERS), ("commands", COMMANDS)])
def test_imports_point_downward_only(folder, layers):
    depth = {name: k for k, layer in enumerate(layers) for name in layer}
    assert {path.stem for path in modules(folder)} == set(depth), "every module has its layer"
    for path in modules(folder):
        for level, module, names in imports(path):
            if level == 1 and module in depth:
                assert depth[module] >= depth[path.stem], f"{path.stem} imports {module}, which is above it"
            private = [n for n in names if n.startswith("_") and not n.startswith("__")]
            assert not private, f"{path.stem} takes {private} from another module"


def test_nothing_imports_the_commands():
    """A notebook and the modules it uses never need the wing that a terminal does."""
    for path in [*modules(), *(ROOT / "notebooks").glob("problem*.ipynb")]:
        assert not re.search(r"^[\s\"]*(from|import) .*\bcommands\b", path.read_text(encoding="utf-8"), re.MULTILINE), (
            path
        )


def code_lines(path):
    """Lines that do something: no blank ones, no comments, no docstrings."""
    text = path.read_text(encoding="utf-8")
    documented = (ast.Module, ast.FunctionDef, ast.ClassDef)
    docstrings = sum(
        node.body[0].end_lineno - node.body[0].lineno + 1
        for node in ast.walk(ast.parse(text))
        if isinstance(node, documented) and ast.get_docstring(node, clean=False)
    )
    return sum(bool(line.strip()) and not line.strip().startswith("#") for line in text.splitlines()) - docstrings


def test_the_package_is_thin_and_public_things_are_documented():
    mathematics = {name for layer in LAYERS[4:] for name in layer}
    everything = [*modules(), *modules("commands")]
    # What is asked, what goes wrong and why is a text of its own, as the notebooks are.
    catalogue = {name for name in LAYERS[2] if name.startswith("exercises_")}
    lines = {path: code_lines(path) for path in everything if path.stem not in catalogue}
    methods = sum(n for path, n in lines.items() if path.stem in mathematics)
    assert methods < 2800, "readable in an afternoon"
    # What an exercise asks and what goes wrong in it is course material, most of it sentences; nothing imports it but
    # the list of exercises.
    material = sum(n for path, n in lines.items() if path.stem.startswith("exercises_"))
    assert material < 2100
    # As much again and half was meant for notebooks, report and ledger; the classroom's wing (editions, grading,
    # slides, sliders, site) came after and has the other half.
    assert sum(lines.values()) - methods - material < 2800 * 2
    for path in everything:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        assert ast.get_docstring(tree), path.name
        for node in tree.body:
            if isinstance(node, ast.FunctionDef):
                assert node.end_lineno - node.lineno < 75, f"{path.stem}.{node.name} is longer than a screen"


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="not a git checkout")
def test_no_tracked_file_is_huge_or_names_a_machine():
    files = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True).stdout.split("\n")
    for name in filter(None, files):
        path = ROOT / name
        assert path.stat().st_size < 8_000_000, name
        if path.suffix in (".py", ".md", ".yml", ".yaml", ".toml", ".ipynb") and not name.startswith("tests/"):
            assert not re.search(r"(?<![\w.])/(home|Users|root)/\w", path.read_text(encoding="utf-8")), name
    assets = sum(p.stat().st_size for p in (ROOT / "labutils" / "assets").iterdir())
    assert assets < 25_000_000


def test_makefile_explains_a_machine_without_venv(tmp_path):
    """Debian ships Python without venv: the message must say which package brings it."""
    fake = tmp_path / "python3"
    fake.write_text(f'#!/bin/sh\ncase "$*" in *ensurepip*) exit 1;; *) exec {sys.executable} "$@";; esac\n')
    fake.chmod(0o755)
    done = subprocess.run(
        ["make", "lab", f"PYTHON={fake}", f"VENV={tmp_path}/none"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode != 0
    assert "sudo apt install python3-venv" in done.stdout
    assert not (tmp_path / "none").exists()


def test_makefile_explains_a_missing_or_old_python(tmp_path):
    def make(python):
        command = ["make", "lab", f"PYTHON={python}", f"VENV={tmp_path}/none"]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)

    assert "Install Python 3.10 or newer" in make(tmp_path / "nowhere").stdout
    old = tmp_path / "python3"
    old.write_text('#!/bin/sh\ncase "$*" in *version_info*) exit 1;; --version) echo Python 3.8.1;; esac\n')
    old.chmod(0o755)
    assert "Python 3.8.1 is too old; the lab needs 3.10 or newer" in make(old).stdout


# A Python whose environments are folders with a link back to it, whose pip installs a `labutils` that says what it
# was asked. As with the real one, an environment knows where it lies, and dies when what it links to is renamed.
PYTHON = """#!/bin/sh
here=$(cd "$(dirname "$0")/.." && pwd)
for last; do :; done
case "$*" in
*"-m venv"*)
    case "$*" in *--clear*) rm -rf "$last";; esac
    mkdir -p "$last/bin"
    echo "prompt = 'labutils'" >"$last/pyvenv.cfg"
    ln -sf "$0" "$last/bin/python";;
*sys.prefix*) echo "3 12 $here";;
*"-m pip"*) printf '#!/bin/sh\\nprintf "[%%s]" "$@"\\n' >"$here/bin/labutils"; chmod +x "$here/bin/labutils";;
esac
"""


@pytest.fixture
def lab(tmp_path):
    """`make lab` in a clone below a folder with a blank, under the stand-in above; what it prints."""
    clone = tmp_path / "my courses" / "lab"
    clone.mkdir(parents=True)
    for name in ("Makefile", "pyproject.toml"):
        shutil.copy(ROOT / name, clone)

    def make(*more, cwd=clone, status=0):
        python = next(tmp_path.glob("python*"))
        done = subprocess.run(["make", "lab", f"PYTHON={python}", *more], cwd=cwd, capture_output=True, text=True)
        assert done.returncode == status, done.stdout + done.stderr
        return done.stdout

    make.python, make.clone = tmp_path / "python3.11", clone
    make.python.write_text(PYTHON)
    make.python.chmod(0o755)
    return make


MENDED = ".venv no longer works here"


def test_make_installs_once_and_passes_paths_whole(lab):
    said = lab("OUT=it's my run")
    assert "Making a virtual environment in .venv" in said and "[--out][it's my run]" in said and MENDED not in said
    said = lab("OUT=it's my run")
    assert "Making" not in said and "Installing" not in said and "[--out][it's my run]" in said
    assert "folder without" in subprocess.run(["make", "VENV=my env"], cwd=ROOT, capture_output=True, text=True).stderr


@pytest.mark.parametrize("what", ["renamed", "upgraded", "moved", "copied", "cut", "empty"])
def test_make_mends_an_environment_that_aged(what, lab):
    lab()
    (lab.clone / ".venv" / "old").touch()
    clone = lab.clone
    if what == "renamed":
        lab.python.rename(lab.python.with_name("python3.12"))
    elif what == "upgraded":
        lab.python.write_text(PYTHON.replace("3 12", "3 13"))
    elif what == "moved":
        clone = lab.clone.rename(lab.clone.with_name("moved"))
    elif what == "copied":
        clone = Path(shutil.copytree(lab.clone, lab.clone.with_name("copy"), symlinks=True))
    elif what == "cut":
        (clone / ".venv" / "bin" / "python").unlink()
    else:
        (clone / ".venv" / ".python").write_text("")
        (clone / ".venv" / "bin" / "python").unlink()
    said = lab(cwd=clone)
    assert MENDED in said and "Installing the lab" in said and not (clone / ".venv" / "old").exists()
    said = lab(cwd=clone)
    assert MENDED not in said and "Installing" not in said


def test_make_uses_an_environment_of_someones_own_and_never_clears_it(lab):
    subprocess.run([lab.python, "-m", "venv", lab.clone / "own"], check=True)
    (lab.clone / "own" / "pyvenv.cfg").write_text("prompt = 'mine'")
    assert "Using the environment that is in own" in lab("VENV=own")
    assert "Installing" not in lab("VENV=own")
    (lab.clone / "own" / "bin" / "python").unlink()
    assert "own is there, does not work, and was not made by make: move it away" in lab("VENV=own", status=2)
    assert (lab.clone / "own" / "pyvenv.cfg").read_text() == "prompt = 'mine'"
