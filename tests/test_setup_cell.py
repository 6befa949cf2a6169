"""The part of the set-up cell that all notebooks share, in the places a notebook is opened in.

Its interpreter sees no site-packages but the stand-ins written here: the cell looks for packages, it imports none.
"""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys

import pytest
from test_notebooks import NOTEBOOKS, setup_cell

END = "importlib.invalidate_caches()\n"
CELL = setup_cell(NOTEBOOKS[0]).partition(END)[0] + END
PACKAGES = ast.literal_eval(re.search(r"PACKAGES = (\[.*?\])", CELL, re.DOTALL)[1])
# In place of pip: says what would be installed from where, and what holds the versions.
FAKE_PIP = """
import subprocess
def run(command, check):
    print("PIP", command[-2:], open(command[command.index("-c") + 1]).read().split())
subprocess.run = run
"""


def package(folder, name, *files):
    (folder / name).mkdir(parents=True)
    for file in ("__init__.py", *files):
        (folder / name / file).touch()


@pytest.fixture
def site(tmp_path):
    """Every package the cell asks for, but the bundle."""
    for name in PACKAGES:
        if name != "labutils":
            package(tmp_path / "site", name)
    return tmp_path / "site"


@pytest.fixture
def clone(tmp_path):
    """A clone in a folder that is called as the package is."""
    package(tmp_path / "content" / "labutils", "labutils", "bands.yaml")
    (tmp_path / "content" / "labutils" / "notebooks").mkdir()
    return tmp_path / "content" / "labutils"


def run(site, cwd, cell=CELL, **more):
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "LABUTILS"))}
    code = FAKE_PIP + cell + "\nimport importlib.util; print(importlib.util.find_spec('labutils').origin)"
    return subprocess.run(
        [sys.executable, "-S", "-c", code], cwd=cwd, capture_output=True, text=True,
        env={**environment, "PYTHONPATH": str(site), "PYTHONIOENCODING": "utf-8", **more},
    )  # fmt: skip


def test_installed_it_does_nothing(site, tmp_path):
    package(site, "labutils", "bands.yaml")
    done = run(site, tmp_path)
    assert done.stdout.split() == [str(site / "labutils" / "__init__.py")], done.stderr


def test_it_takes_the_clone_around_it(site, clone):
    for folder in (clone, clone / "notebooks"):
        done = run(site, folder)
        assert done.stdout.split() == [str(clone / "labutils" / "__init__.py")], done.stderr


@pytest.mark.parametrize("where", ["beside a clone called labutils", "beside an empty folder", "anywhere"])
def test_without_a_clone_around_it_says_what_to_do(where, site, clone, tmp_path):
    """A folder of the package's name is a package to Python's finder, of no content."""
    folder = clone.parent if "clone" in where else tmp_path
    if "empty" in where:
        (tmp_path / "labutils").mkdir()
    done = run(site, folder)
    assert re.search(r"^RuntimeError: .*lacks labutils .*pip install the bundle", done.stderr, re.MULTILINE)
    assert "PIP" not in done.stdout


def test_another_package_of_that_name_is_not_the_bundle(site, clone, tmp_path):
    package(site, "labutils")
    assert run(site, clone / "notebooks").stdout.split() == [str(clone / "labutils" / "__init__.py")]
    assert "pip install the bundle" in run(site, tmp_path).stderr


@pytest.mark.parametrize("how", ["missing", "a bare folder"])
def test_what_is_missing_is_installed(how, site, clone):
    (site / "torch" / "__init__.py").unlink()
    if how == "missing":
        (site / "torch").rmdir()
    (site / "torchvision-0.19.1.dist-info").mkdir()
    (site / "torchvision-0.19.1.dist-info" / "METADATA").write_text("Name: torchvision\nVersion: 0.19.1\n")
    said = run(site, clone / "notebooks").stdout
    assert "installing torch\n" in said and f"PIP ['-e', '{clone}'] ['torchvision==0.19.1']" in said
    address = "git+https://github.com/one/first@main"
    cell = CELL.replace('REPOSITORY = ""', f'REPOSITORY = "{address}"')
    assert f"'{address}'] ['torchvision==0.19.1']" in run(site, clone.parent, cell).stdout


def test_a_run_never_installs(site, clone):
    (site / "yaml" / "__init__.py").unlink()
    done = run(site, clone / "notebooks", LABUTILS_RUN="1")
    assert re.search(r"^RuntimeError: .*lacks yaml; a run installs nothing", done.stderr, re.MULTILINE)
    assert "PIP" not in done.stdout and "installing" not in done.stdout
