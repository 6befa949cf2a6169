"""The project about itself: two dependency lists in agreement, a thin package, imports that point downward."""

from __future__ import annotations

import ast
import re
import subprocess
import sys

import pytest
import yaml
from conftest import ROOT

if sys.version_info >= (3, 11):
    import tomllib
else:
    tomllib = pytest.importorskip("tomli")

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
CONDA_NAMES = {"torch": "pytorch", "matplotlib": "matplotlib-base"}

# Front on top; a module may import from layers below its own, and from its own layer.
LAYERS = [
    {"cli"},
    {"address", "publish"},
    {"runs", "report", "doctor", "remake", "score"},
    {"keynumbers", "checks", "plots", "widgets"},
    {"divergences", "vae", "gan", "fid", "latent"},
    {"distributions", "networks", "features", "data", "distortions", "reference"},
    {"street_digits"},
    {"training", "estimates", "parameters"},
]


def test_conda_and_pip_ask_for_the_same():
    asked = [*PROJECT["dependencies"], *(d for extra in PROJECT["optional-dependencies"].values() for d in extra)]
    expected = {re.split(r"[<>=]", d)[0]: d for d in asked}
    expected = {d.replace(name, CONDA_NAMES.get(name, name), 1) for name, d in expected.items()}
    conda = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))["dependencies"]
    assert conda[-1] == {"pip": ["-e ."]}
    assert {d for d in conda if isinstance(d, str)} - {"pip", f"python{PROJECT['requires-python']}"} == expected


def test_ranges_are_loose():
    for line in [*PROJECT["dependencies"], *(d for extra in PROJECT["optional-dependencies"].values() for d in extra)]:
        assert re.fullmatch(r"[a-z0-9-]+>=[\d.]+", line), f"{line}: a pin breaks machines that bring their own torch"


def modules():
    return sorted((ROOT / "labutils").glob("*.py"))


def test_imports_point_downward_only():
    depth = {name: k for k, layer in enumerate(LAYERS) for name in layer}
    for path in modules():
        if path.stem == "__init__":
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.level:
                names = [node.module] if node.module else [alias.name for alias in node.names]
                for name in set(names) & set(depth):
                    assert depth[name] >= depth[path.stem], f"{path.stem} imports {name}, which is above it"
                private = [a.name for a in node.names if a.name.startswith("_") and not a.name.startswith("__")]
                assert not private, f"{path.stem} takes {private} from another module"


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
    lines = {path.stem: code_lines(path) for path in modules()}
    assert sum(n for name, n in lines.items() if name in mathematics) < 2500, "readable in an afternoon"
    assert sum(lines.values()) < 5000
    for path in modules():
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
        assert path.stat().st_size < 6_000_000, name
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
