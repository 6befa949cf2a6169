"""Notebooks as contracts: parameters, checked cells, stored outputs, and a set-up cell that works anywhere."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
import textwrap
from importlib.metadata import version

import nbformat
import papermill
import pytest
import yaml
from conftest import ROOT

from labutils import keynumbers, parameters
from labutils.commands import address
from labutils.commands.run import code_hash

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
notebooks = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)


def read(path):
    return nbformat.read(path, as_version=4)


def code_cells(path, tag=None):
    cells = [c for c in read(path).cells if c.cell_type == "code"]
    return [c for c in cells if tag is None or tag in c.metadata.get("tags", [])]


def test_there_are_notebooks():
    assert NOTEBOOKS and all(re.fullmatch(r"problem\d_\w+\.ipynb", p.name) for p in NOTEBOOKS)


@notebooks
def test_the_parameters_cell_is_a_contract(path):
    known = parameters.contract(path)
    assert list(known)[: len(parameters.COMMON)] == list(parameters.COMMON)
    for name, parameter in known.items():
        assert len(parameter.help) > 10, f"{name} has no help"
        if parameter.type in ("int", "float"):
            assert parameter.low is not None, f"{name} has no range"
    assert known["profile"].choices == parameters.PROFILES
    assert list(papermill.inspect_notebook(str(path))) == list(known), "papermill reads the same"


@notebooks
@pytest.mark.parametrize("profile", parameters.PROFILES)
def test_profiles_fit_the_contract(path, profile):
    values = parameters.profile_values(profile, path)
    own = set(parameters.contract(path)) - set(parameters.COMMON)
    assert set(values) - {"profile"} == own, "a profile says every parameter of a notebook"


@notebooks
def test_the_defaults_are_the_cpu_profile(path):
    defaults = {name: p.default for name, p in parameters.contract(path).items()}
    assert parameters.profile_values("cpu", path).items() <= defaults.items()


def test_profiles_name_no_notebook_that_is_not_there():
    for file in (ROOT / "labutils" / "profiles").glob("*.yaml"):
        assert set(yaml.safe_load(file.read_text())) == {p.stem for p in NOTEBOOKS}, file.name


@notebooks
def test_every_cell_was_run_in_order_and_without_error(path):
    cells = [c for c in code_cells(path) if c.source]
    assert [c.execution_count for c in cells] == list(range(1, len(cells) + 1))
    assert not [o for c in cells for o in c.outputs if o.output_type == "error"]


@notebooks
def test_stored_outputs_belong_to_the_stored_code(path):
    notebook = read(path)
    assert notebook.metadata["labutils"]["outputs_of"] == code_hash(notebook), "run `make notebooks`"


@notebooks
def test_checked_cells_have_discrete_outputs(path):
    checked = code_cells(path, "nbval-check-output")
    assert checked
    for cell in checked:
        # nbval passes a checked cell without count or output in silence.
        assert cell.execution_count and cell.outputs, cell.source[:60]
        text = "".join(o.get("text", "") for o in cell.outputs)
        assert text.strip(), "a checked cell prints text"
        assert not re.search(r"\d\.\d", text), f"a measured number is no discrete fact: {text}"


@notebooks
def test_the_last_checked_cell_judges_every_key_number(path):
    text = "".join(o.get("text", "") for o in code_cells(path, "nbval-check-output")[-1].outputs)
    judged = re.findall(r"^PASS (\S+)$", text, re.MULTILINE)
    problem = path.name[len("problem")]
    expected = [id for id, band in keynumbers.bands().items() if id.startswith(f"p{problem}.") and "cpu" in band]
    assert sorted(judged) == sorted(expected), "every number with a cpu band is judged, and passes, in the notebook"
    assert judged


@notebooks
def test_no_stored_output_names_a_machine(path):
    text = path.read_text(encoding="utf-8")
    assert "papermill" not in read(path).metadata
    assert not re.search(r'"(image/png)": ".{1500000}', text), "an output over a megabyte"
    assert not re.search(r"/(home|Users|root|tmp)/\w", text)


@notebooks
def test_figures_go_through_the_run_and_have_a_reading(path):
    cells = read(path).cells
    shows = [i for i, c in enumerate(cells) if c.cell_type == "code" and "run.show(" in c.source]
    assert shows
    for i in shows:
        after = [c for c in cells[i + 1 : i + 3] if c.cell_type == "markdown"]
        assert after, f"no prose reads the figure of cell {i}"


# --- what a reader sees of the code -------------------------------------------------------------------


def is_folded(cell):
    """In JupyterLab or in Colab."""
    return cell.metadata.get("jupyter", {}).get("source_hidden", False) or "cellView" in cell.metadata


@notebooks
def test_a_page_shows_whole_lines(path):
    """JupyterLab beside its sidebar, 1,400 pixels wide, shows 88 characters of a line; the rest is cut off."""
    lines = [line for cell in code_cells(path) for line in cell.source.splitlines()]
    assert [line for line in lines if len(line) > 88] == []


def test_ruff_holds_notebooks_to_the_same_width():
    assert "line-length = 88" in (ROOT / "notebooks" / ".ruff.toml").read_text(encoding="utf-8").splitlines()


@notebooks
def test_a_cell_fits_a_screen(path):
    cells = [cell for cell in code_cells(path) if cell.source != setup_cell(path)]
    assert {cell.id: len(cell.source.splitlines()) for cell in cells if len(cell.source.splitlines()) > 25} == {}


@notebooks
def test_a_folded_cell_is_folded_everywhere_and_says_what_it_does(path):
    """JupyterLab's mark, Colab's, and the title that either shows in its place."""
    folded = [cell for cell in code_cells(path) if is_folded(cell) or "@title" in cell.source]
    assert setup_cell(path) in [cell.source for cell in folded], "the first sight is not a screen of plumbing"
    for cell in folded:
        marks = cell.metadata.get("jupyter", {}).get("source_hidden"), cell.metadata.get("cellView")
        assert marks == (True, "form"), f"{cell.id} has the marks {marks}"
        assert re.match(r"# @title \S.{5,59}[^.\s]\n", cell.source), cell.source[:80]


@notebooks
def test_what_teaches_is_not_folded(path):
    taught = {"answer", "parameters", "nbval-check-output"}
    for cell in code_cells(path):
        assert not (is_folded(cell) and taught & set(cell.metadata.get("tags", []))), cell.source[:80]
        assert not (is_folded(cell) and re.search(r"\btrain_\w+\(|\.train\(", cell.source)), (
            "an experiment in a folded cell"
        )


@notebooks
def test_nothing_fails_and_goes_on(path):
    """A check stops the notebook (labutils.checks); verdicts come from the run's ledger."""
    assert [cell.id for cell in code_cells(path) if "FAIL" in cell.source] == []


def test_one_command_writes_address_and_badge(tmp_path):
    for path in NOTEBOOKS:
        shutil.copy(path, tmp_path)
    before = {p.name: read(p) for p in NOTEBOOKS}
    for url in ("https://github.com/one/first.git", "https://github.com/class-of/2026-lab"):
        assert len(address.write(url, tmp_path)) == len(NOTEBOOKS)
    for path in tmp_path.glob("*.ipynb"):
        now, then = read(path), before[path.name]
        assert now.cells[0].source.count("colab-badge") == 1 and now.cells[0].source.endswith(then.cells[0].source)
        assert f"class-of/2026-lab/blob/main/notebooks/{path.name}" in now.cells[0].source
        assert 'REPOSITORY = "git+https://github.com/class-of/2026-lab@main"' in setup_cell(path)
        kept = then.metadata["labutils"]["outputs_of"] == code_hash(then)
        assert (now.metadata["labutils"]["outputs_of"] == code_hash(now)) == kept
    with pytest.raises(ValueError, match=r"expected https://github\.com/OWNER/REPOSITORY"):
        address.write("github.com/one", tmp_path)


def setup_cell(path):
    return next(c.source for c in code_cells(path) if "REPOSITORY" in c.source)


def test_all_notebooks_share_one_setup():
    heads = {setup_cell(p).split("importlib.invalidate_caches()\n")[0] for p in NOTEBOOKS}
    assert len(heads) == 1


@pytest.fixture(scope="module")
def bare_python(tmp_path_factory):
    """A virtual environment that sees this one's libraries, but neither labutils nor its console script.

    What a kernel on Colab looks like: torch is there, the bundle is not.
    """
    folder = tmp_path_factory.mktemp("bare")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    python = folder / ("Scripts" if os.name == "nt" else "bin") / "python"
    site = subprocess.run(
        [python, "-c", "import site; print(site.getsitepackages()[0])"], capture_output=True, text=True
    )
    import torch

    libraries = os.path.dirname(os.path.dirname(torch.__file__))
    # Added as plain path entries: the editable install's .pth of that folder is not read.
    with open(os.path.join(site.stdout.strip(), "libraries.pth"), "w") as file:
        file.write(libraries + "\n")
    return python


def run_cell(python, source, cwd):
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    # A kernel puts its working folder on the path; python -c does the same.
    return subprocess.run([python, "-c", source], cwd=cwd, env=environment, capture_output=True, text=True)


@notebooks
def test_the_setup_cell_works_on_a_bare_kernel_in_a_clone(path, bare_python, tmp_path):
    probe = "\nimport labutils; print(labutils.__file__)"
    done = run_cell(bare_python, setup_cell(path) + probe, ROOT / "notebooks")
    assert done.returncode == 0, done.stderr
    assert str(ROOT / "labutils") in done.stdout


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A folder with the bundle as `pip install` leaves it, away from the clone."""
    folder = tmp_path_factory.mktemp("installed")
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(folder), str(ROOT)]
    done = subprocess.run(pip, capture_output=True, text=True)
    if "No matching distribution found for hatchling" in done.stderr:
        pytest.skip("pip cannot fetch the build tool: no network")
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.slow
@notebooks
def test_the_setup_cell_works_after_pip_install(path, bare_python, installed, tmp_path):
    probe = (
        "\nimport labutils; from labutils import data, parameters, reference"
        "\nprint(labutils.__file__, labutils.__version__, sorted(p.stem for p in parameters.notebooks().values()))"
        "\nprint(data.binarized_mnist().name, sorted(reference.manifest()))"
    )
    done = run_cell(
        bare_python, f"import sys; sys.path.insert(1, {str(installed)!r})\n{setup_cell(path)}{probe}", tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert str(installed) in done.stdout and path.stem in done.stdout and "binarized-mnist" in done.stdout


@notebooks
def test_the_setup_cell_outside_a_clone_says_what_to_do(path, bare_python, tmp_path):
    done = run_cell(bare_python, setup_cell(path), tmp_path)
    assert done.returncode != 0
    assert "pip install the bundle" in done.stderr


@notebooks
def test_the_setup_cell_installs_what_is_missing_and_pins_torch(path, bare_python, tmp_path):
    """With a library missing it calls pip for the clone, under constraints that hold torch where it is."""
    fake = textwrap.dedent("""
        import importlib.util, subprocess, sys
        find = importlib.util.find_spec
        importlib.util.find_spec = lambda name, *a: None if name == "papermill" else find(name, *a)
        def run(command, check):
            pins = open(command[command.index("-c") + 1]).read()
            print("PIP", command[1:4], command[-2:], pins.split())
            sys.exit(0)
        subprocess.run = run
    """)
    done = run_cell(bare_python, fake + setup_cell(path), ROOT / "notebooks")
    assert f"'-e', '{ROOT}'" in done.stdout, done.stderr
    assert f"torch=={version('torch')}" in done.stdout


@notebooks
def test_the_setup_cell_names_every_import_of_the_package(path):
    """Otherwise a kernel that lacks one fails on import instead of installing it."""
    listed = ast.literal_eval(re.search(r"PACKAGES = (\[.*?\])", setup_cell(path), re.DOTALL)[1])
    used = set()
    for module in (ROOT / "labutils").glob("*.py"):
        for node in ast.walk(ast.parse(module.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                used |= {name.name.split(".")[0] for name in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                used.add(node.module.split(".")[0])
    # IPython is there in any kernel; torch brings numpy; papermill click and nbformat; Matplotlib brings PIL.
    implied = {"IPython", "numpy", "click", "nbformat", "PIL"}
    assert used - set(sys.stdlib_module_names) - implied <= set(listed)
