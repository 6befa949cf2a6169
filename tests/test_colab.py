"""A reader on Colab, without Colab: the notebook alone in an empty folder, an environment that has all but the bundle,
`google.colab` stood in for, the bundle fetched by the set-up cell from a git server at the tag that the badge names.

What stands in has what the lab touches: that `google.colab` is imported, and `drive.mount`. Not tried: Colab's own
kernel and front end, its GPU images, Drive's speed and its habit of writing late, the size of its disk.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import site
import socket
import subprocess
import sys
import time
import venv
from pathlib import Path

import nbformat
import pytest
import torch
from click.testing import CliRunner
from conftest import ROOT

from labutils import keynumbers, parameters
from labutils.commands import address, cli

HOME = "https://github.com/some-teacher/generative-lab"
DRIVE = """
import os, pathlib, sys
def mount(mountpoint, force_remount=False):
    place = pathlib.Path(os.environ["STAND_IN_ROOT"] + mountpoint)
    (place / "MyDrive").mkdir(parents=True, exist_ok=True)
    from labutils import keynumbers
    keynumbers.COLAB_DRIVE = place
    print("Mounted at", mountpoint)
"""
# One session: a kernel of the environment executes the notebook, as far as it gets, and keeps what it has printed.
SESSION = """
import sys, nbformat
from jupyter_client import KernelManager
from nbclient import NotebookClient
path, python = sys.argv[1:]
notebook = nbformat.read(path, 4)
class Manager(KernelManager):
    def format_kernel_cmd(self, extra_arguments=None):
        return [python, "-m", "ipykernel_launcher", "-f", self.connection_file]
NotebookClient(notebook, timeout=600, kernel_manager_class=Manager).execute()
nbformat.write(notebook, path.replace(".ipynb", ".done.ipynb"))
"""


def reaches_an_index():
    try:
        socket.create_connection(("pypi.org", 443), timeout=3).close()
    except OSError:
        return False
    return True


@pytest.fixture(scope="module")
def colab(tmp_path_factory):
    """(python, environment variables, a folder for the notebook) of a machine that has everything but the bundle."""
    if not reaches_an_index():
        pytest.skip("no package index: pip cannot build the bundle that the set-up cell fetches")
    folder = tmp_path_factory.mktemp("colab")
    server = folder / "server"
    subprocess.run(["git", "clone", "-q", str(ROOT), str(server)], check=True)
    address.write(HOME, server / "notebooks", ref="v1.0")
    who = ["-c", "user.name=A teacher", "-c", "user.email=teacher@example.org"]
    subprocess.run(["git", *who, "commit", "-qam", "Our address"], cwd=server, check=True)
    subprocess.run(["git", "tag", "v1.0"], cwd=server, check=True)
    venv.create(folder / "env", with_pip=True)
    packages = next((folder / "env").glob("lib/python*/site-packages"))
    # What is installed is seen, but for the bundle: of a folder named in a .pth file no .pth file is read.
    (packages / "installed.pth").write_text("\n".join(p for p in site.getsitepackages() if Path(p).is_dir()) + "\n")
    (packages / "google" / "colab").mkdir(parents=True)
    for name, text in {"__init__": "", "drive": DRIVE, "files": "", "output": ""}.items():
        (packages / "google" / "colab" / f"{name}.py").write_text(text)
    (folder / "content").mkdir()
    outer = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "LABUTILS", "PIP"))}
    redirect = {
        "GIT_CONFIG_COUNT": "1",
        "GIT_CONFIG_KEY_0": f"url.{server.as_uri()}.insteadOf",
        "GIT_CONFIG_VALUE_0": HOME,
    }
    settings = {"STAND_IN_ROOT": str(folder), "PIP_DISABLE_PIP_VERSION_CHECK": "1", "OMP_NUM_THREADS": "1"}
    return folder / "env" / "bin" / "python", outer | redirect | settings, folder / "content", server


def opened(server, folder, **values):
    """Problem 2 as Colab opens it from the badge, Drive mounted after the set-up cell; parameters as papermill sets."""
    notebook = nbformat.read(server / "notebooks" / "problem2_vae.ipynb", 4)
    of_setup = next(i for i, c in enumerate(notebook.cells) if c.source.startswith("# @title Set-up"))
    start = "import google.colab\n"  # Colab's kernel has it imported
    notebook.cells[of_setup].source = start + notebook.cells[of_setup].source
    mount = "from google.colab import drive\ndrive.mount('/content/drive')"
    notebook.cells.insert(of_setup + 1, nbformat.v4.new_code_cell(mount))
    at = next(i for i, c in enumerate(notebook.cells) if "parameters" in c.metadata.get("tags", []))
    smoke = parameters.profile_values("smoke", ROOT / "notebooks" / "problem2_vae.ipynb") | values
    notebook.cells.insert(at + 1, nbformat.v4.new_code_cell("\n".join(f"{k} = {v!r}" for k, v in smoke.items())))
    path = folder / "problem2_vae.ipynb"
    nbformat.write(notebook, path)
    return path


def session(path, python, environment):
    return subprocess.Popen(
        [sys.executable, "-c", SESSION, str(path), str(python)], cwd=path.parent, env=environment,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
    )  # fmt: skip


def steps_done(checkpoint):
    while True:  # between two names there is a moment without a file
        with contextlib.suppress(FileNotFoundError):
            return torch.load(checkpoint, weights_only=True)["done"]


@pytest.mark.slow
def test_a_session_that_dies_goes_on_from_the_drive(colab):
    python, environment, content, server = colab
    path = opened(server, content, epochs=6)
    first = session(path, python, environment)
    place = content.parent / "content" / "drive" / "MyDrive" / "labutils"
    deadline = time.monotonic() + 300
    while not (found := list(place.glob("problem2-smoke-*/checkpoints/*.pt"))):
        assert first.poll() is None and time.monotonic() < deadline, first.communicate(timeout=5)[0][-3000:]
        time.sleep(0.05)
    once = steps_done(found[0])
    while steps_done(found[0]) == once:  # so that a training that begins anew would show
        assert first.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    subprocess.run(["pkill", "-9", "-f", str(python)], check=False)  # the kernel has a group of its own
    before = torch.load(found[0], weights_only=True)
    assert 0 < before["done"] < before["recipe"]["total_steps"]

    second = session(path, python, environment)
    steps = {before["done"]}
    while second.poll() is None:  # the steps done in each checkpoint that the new session writes
        steps.add(steps_done(found[0]))
        time.sleep(0.02)
    said = second.communicate()[0]
    assert second.returncode == 0, said[-3000:]
    done = nbformat.read(path.with_suffix(".done.ipynb"), 4)
    text = {c.id: "".join(o.get("text", "") for o in c.outputs) for c in done.cells if c.cell_type == "code"}
    assert any("a session that dies goes on from there" in printed for printed in text.values())
    after = torch.load(found[0], weights_only=True)
    assert after["done"] == before["recipe"]["total_steps"] and len(list(place.iterdir())) == 1
    assert min(steps) == before["done"], "it began anew"
    assert after["rows"][: len(before["rows"])] == before["rows"]
    assert after["seconds"] > before["seconds"]
    installed = subprocess.run(
        [str(python), "-c", "import labutils; print(labutils.__file__)"], cwd=content, env=environment, text=True,
        capture_output=True, check=True,
    ).stdout  # fmt: skip
    assert str(content.parent / "env") in installed  # what the set-up cell fetched, not the clone that tests it


VALUES = {"profile": "cpu", "seed": 0, "device": "auto", "data_dir": "", "out_dir": "", "epochs": 8}


@pytest.fixture
def drive(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "google.colab", sys)
    monkeypatch.setattr(keynumbers, "COLAB_DRIVE", tmp_path / "drive")
    return tmp_path / "drive" / "MyDrive"


def test_a_mounted_drive_is_found_and_each_set_of_parameters_has_its_folder(drive, monkeypatch):
    assert keynumbers.on_drive("problem2_vae", VALUES) is None  # not mounted
    drive.mkdir(parents=True)
    found = keynumbers.on_drive("problem2_vae", VALUES)
    assert found.parent == drive / "labutils" and found.name.startswith("problem2-cpu-")
    assert keynumbers.on_drive("problem2_vae", VALUES | {"epochs": 9}) != found
    assert keynumbers.on_drive("problem2_vae", VALUES | {"seed": 1}) != found
    assert keynumbers.on_drive("problem2_vae", VALUES | {"device": "cuda"}) == found
    monkeypatch.delitem(sys.modules, "google.colab")
    assert keynumbers.on_drive("problem2_vae", VALUES) is None


def started(**values):
    known = parameters.contract(ROOT / "notebooks" / "problem2_vae.ipynb")
    return keynumbers.start("problem2_vae", {name: p.default for name, p in known.items()} | values)


def test_the_drive_is_offered_where_it_is_not_mounted_and_named_where_it_is(drive, capsys, tmp_path):
    run = started()
    assert "mount your Drive" in capsys.readouterr().out and "labutils-" in run.out_dir.name
    drive.mkdir(parents=True)
    run = started()
    said = capsys.readouterr().out
    assert str(run.out_dir) in said and run.out_dir.parent == drive / "labutils" and "mount your" not in said
    own = started(out_dir=str(tmp_path / "own"))
    said = capsys.readouterr().out
    assert own.out_dir == tmp_path / "own" and "Drive" not in said and "session that dies" not in said


def test_elsewhere_nothing_is_said_of_it(capsys):
    assert "labutils-" in started().out_dir.name
    said = capsys.readouterr().out
    assert said.count("\n") == 1 and "Drive" not in said


def test_the_badge_and_the_set_up_cell_name_the_tag(tmp_path):
    source = nbformat.read(ROOT / "notebooks" / "problem2_vae.ipynb", 4)
    nbformat.write(source, tmp_path / "problem2_vae.ipynb")
    address.write(HOME, tmp_path, ref="v2.1")
    text = json.dumps(nbformat.read(tmp_path / "problem2_vae.ipynb", 4))
    assert "some-teacher/generative-lab/blob/v2.1/notebooks/problem2_vae.ipynb" in text
    assert f"git+{HOME}@v2.1" in text
    with pytest.raises(ValueError, match="expected the name of a tag or branch"):
        address.write(HOME, tmp_path, ref="v2 1")
    assert CliRunner().invoke(cli.main, ["address", HOME, "--ref", "a b"]).exit_code == 2
