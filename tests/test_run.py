"""`labutils run` as a person meets it: errors before work, skip, resume, refuse, exit status."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import pytest
from click.testing import CliRunner

from labutils import parameters
from labutils.commands import cli, run


@pytest.fixture
def lab(toy_notebook, tmp_path, monkeypatch):
    """A lab of one small notebook; returns a function that runs the command and gives (status, output)."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(parameters, "notebooks_folder", lambda: tmp_path / "notebooks")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")

    def command(*arguments):
        result = CliRunner().invoke(cli.main, [*map(str, arguments)])
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
        return result.exit_code, result.output

    command.write = toy_notebook
    return command


SIMPLE = "x = 1"
PARAMETER = "epochs: int = 8  # passes over the training set [1 to 500]\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-p", "epohcs=3"], "no parameter is called 'epohcs'; did you mean epochs?"),
        (["-p", "epochs=many"], "parameter epochs is 'many'; expected an int from 1 to 500: passes over the"),
        (["-p", "epochs=501"], "parameter epochs is 501"),
        (["-p", "epochs"], "expected NAME=VALUE"),
        (["-p", "profile=gpu"], "set profile with --profile"),
        (["-p", "device=tpu"], "expected one of auto, cpu, cuda"),
        (["7"], "there is no notebook for problem 7"),
        (["--profile", "huge"], "'huge' is not one of"),
        (["--out", "file.txt"], "file.txt is a file"),
        (["--out", "full"], "full is not empty and was not made by `labutils run`"),
    ],
)
def test_bad_arguments_are_one_clear_error_before_any_kernel(lab, tmp_path, monkeypatch, arguments, message):
    lab.write(SIMPLE, parameters=PARAMETER)
    monkeypatch.setattr(run, "_papermill", lambda *_: pytest.fail("a kernel was started"))
    (tmp_path / "file.txt").write_text("mine")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("mine")
    status, output = lab("run", *arguments)
    assert status == 2
    assert message in " ".join(output.split()) and output.count("Error") == 1
    assert (tmp_path / "file.txt").read_text() == (tmp_path / "full" / "thesis.txt").read_text() == "mine"
    assert not (tmp_path / "runs").exists()


def test_a_missing_gpu_is_said_before_any_kernel(lab, monkeypatch):
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    lab.write(SIMPLE, parameters=PARAMETER)
    status, output = lab("run", "-p", "device=cuda")
    assert status == 2 and "no CUDA device" in output


def test_run_skip_refuse_force(lab, tmp_path):
    lab.write("from pathlib import Path", "m = Path(out_dir, 'count'); m.write_text(m.read_text() + 'x' if m.exists() "
              "else 'x'); print(epochs)", parameters=PARAMETER)  # fmt: skip
    out = tmp_path / "runs" / "cpu"
    status, output = lab("run", "-p", "epochs=3")
    assert status == 0 and "problem 2: finished in" in output and "report.html" in output
    assert (out / "count").read_text() == "x"

    status, output = lab("run", "-p", "epochs=3")
    assert status == 0 and "nothing to do" in output
    assert (out / "count").read_text() == "x", "a finished notebook was run again"

    status, output = lab("run", "-p", "epochs=4")
    assert status == 2 and "epochs 3, now 4" in output and "--force" in output
    assert (out / "count").read_text() == "x"

    status, output = lab("run", "-p", "epochs=4", "--force")
    assert status == 0 and "is kept as" in output
    assert (out.with_name("cpu.1") / "count").read_text() == "x", "the old folder was lost"
    assert (out / "count").read_text() == "x"

    lab.write("print('other code')", parameters=PARAMETER)
    status, output = lab("run", "-p", "epochs=4")
    assert status == 2 and "made with other code" in output


def test_a_failed_cell_is_reported_and_run_again(lab, tmp_path):
    flag = tmp_path / "mended"
    lab.write(f"import os\nif not os.path.exists({str(flag)!r}): raise ValueError('boom')", parameters=PARAMETER)
    status, output = lab("run")
    assert status == 1 and "problem 2 FAILED" in output and "ValueError: boom" in output
    assert (tmp_path / "runs/cpu/problem2_toy.ipynb").exists()
    flag.touch()
    assert lab("run")[0] == 0


@pytest.mark.parametrize("cell", ["import sys; sys.exit(0)", "import os; os._exit(0)"])
def test_a_notebook_that_ends_early_has_failed(lab, cell):
    lab.write(cell, "print('the end')", parameters=PARAMETER)
    assert lab("run")[0] == 1


@pytest.mark.skipif(os.name == "nt", reason="sends Ctrl-C as POSIX does")
def test_ctrl_c_keeps_the_folder_and_says_how_to_go_on(lab, tmp_path):
    """The child takes SIGINT's handler itself: what starts in a shell's background inherits that it be ignored."""
    lab.write("from pathlib import Path\nimport time\nPath(out_dir, 'begun').touch()\ntime.sleep(60)",
              parameters=PARAMETER)  # fmt: skip
    here = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); " \
           "from pathlib import Path; from labutils import parameters; from labutils.commands import cli; " \
           "parameters.notebooks_folder = lambda: Path('notebooks').resolve(); cli.main(['run'])"  # fmt: skip
    child = subprocess.Popen([sys.executable, "-c", here], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                             start_new_session=True)  # fmt: skip
    try:
        begun = time.monotonic()
        while not (tmp_path / "runs/cpu/begun").exists():
            assert child.poll() is None and time.monotonic() - begun < 60, "the cell never began"
            time.sleep(0.1)
        os.killpg(child.pid, signal.SIGINT)
        output, _ = child.communicate(timeout=60)
    finally:
        child.kill()
    assert child.returncode == 130 and "the same command resumes" in output
    assert "Traceback" not in output
    state = json.loads((tmp_path / "runs/cpu/run.json").read_text())
    assert state["notebooks"]["problem2_toy"]["state"] == "running"


def ledger(passed):
    number = dict(id="p2.elbo.valid", value=-94.0, stderr=0.2, unit="nats", low=-95.0, high=-90.0, truth=None,
                  report=-93.58, n=100, judged=passed is not None, passed=passed, reason="spread", title="ELBO",
                  notebook="problem2_toy")  # fmt: skip
    return {
        "profile": "cpu",
        "seed": 0,
        "device": "cpu",
        "threads": 1,
        "seconds": {"problem2": 1.0},
        "numbers": [number],
    }


@pytest.mark.parametrize(("passed", "status"), [(True, 0), (False, 1), (None, 0)])
def test_exit_status_is_the_verdict_on_the_numbers(lab, passed, status):
    lab.write(f"open(out_dir + '/key_numbers.json', 'w').write({json.dumps(ledger(passed))!r})", parameters=PARAMETER)
    got, output = lab("run")
    assert got == status
    assert {True: "PASS", False: "FAIL", None: "not judged"}[passed] in output and "−93.58" in output
    assert lab("run")[0] == status, "a finished run keeps its verdict"


def test_a_damaged_state_file_is_not_overwritten(lab, tmp_path):
    lab.write(SIMPLE, parameters=PARAMETER)
    out = tmp_path / "runs" / "cpu"
    out.mkdir(parents=True)
    (out / "run.json").write_text("{half")
    status, output = lab("run")
    assert status == 2 and "damaged" in output
    assert (out / "run.json").read_text() == "{half"


def test_progress_lines_name_the_section(lab):
    notebook = lab.write("x = 1", parameters=PARAMETER)
    import nbformat

    content = nbformat.read(notebook, 4)
    content.cells.insert(1, nbformat.v4.new_markdown_cell("## The long part"))
    nbformat.write(content, notebook)
    _, output = lab("run")
    assert "The long part" in output
    assert "LABUTILS_PROGRESS" not in os.environ


def test_doctor_and_report_commands(lab, tmp_path):
    lab.write(SIMPLE, parameters=PARAMETER)
    _, output = lab("doctor")
    for subject in ("python", "torch", "CUDA device", "threads", "binarized-mnist", "data folder"):
        assert subject in output
    (tmp_path / "empty").mkdir()
    status, output = lab("report", "empty")
    assert status == 2 and "key_numbers.json" in output


def test_data_build_does_not_overwrite(lab, tmp_path):
    (tmp_path / "mine.xz").write_text("mine")
    status, output = lab("data", "build", "--out", "mine.xz", "--source", "nothing")
    assert status == 2 and "exists" in output
    assert (tmp_path / "mine.xz").read_text() == "mine"
    status, output = lab("data", "build", "--out", "new.xz", "--source", "nothing")
    assert status == 1 and "nothing does not exist" in output
