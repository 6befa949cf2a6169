"""`labutils run` as a person meets it: errors before work, skip, resume, refuse, exit status."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from labutils import keynumbers, parameters
from labutils.commands import cli, run

# The command in a process of its own, on the notebooks of the current folder.
RUN = """
import sys
from pathlib import Path
from labutils import parameters
from labutils.commands import cli
folder = Path("notebooks").resolve()
parameters.notebooks_folder = lambda: folder
cli.main(sys.argv[1:])
"""


def start(code, *arguments, encoding="utf-8", **more):
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, encoding=encoding, **more)


def wait_for(condition, child=None):
    begun = time.monotonic()
    while not condition():
        assert child is None or child.poll() is None, child.communicate()[0]
        assert time.monotonic() - begun < 120, "it never came"
        time.sleep(0.05)


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
        (["--out", "file.txt/run"], "file.txt/run cannot be used (Not a directory); choose another folder with --out"),
        (["--out", "full", "--force"], "full is not empty and was not made by `labutils run`"),
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
    here = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); " + RUN
    child = start(here, "run", start_new_session=True)
    try:
        wait_for((tmp_path / "runs/cpu/begun").exists, child)
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


# --- any stream, any path, any Jupyter ----------------------------------------------------------------------


HEADING = "W(p, q_φ) = |φ| ∀ φ"


@pytest.mark.parametrize("encoding", ["cp1252", "cp437", "ascii"])
def test_a_stream_that_lacks_characters_shows_question_marks(lab, tmp_path, encoding):
    """Every command's help and a run whose section, table and progress have characters the stream lacks."""
    notebook = lab.write(
        f"open(out_dir + '/key_numbers.json', 'w').write({json.dumps(ledger(True))!r})", parameters=PARAMETER
    )
    import nbformat

    content = nbformat.read(notebook, 4)
    content.cells.insert(1, nbformat.v4.new_markdown_cell(f"## {HEADING}"))
    nbformat.write(content, notebook)
    helps = """
lines = [[], *([name] for name in cli.main.commands), ["data", "build"]]
for line in lines:
    try:
        cli.main([*line, "--help"])
    except SystemExit as end:
        assert end.code == 0
print(len(lines), "helps")
"""
    click_writes = "utf-8" if encoding == "ascii" else encoding  # click takes ascii for a misunderstanding
    child = start(
        RUN.replace("cli.main(sys", helps + "cli.main(sys"), "run", encoding=click_writes,
        env=os.environ | {"PYTHONIOENCODING": encoding, "PYTHONUTF8": "0", "PYTHONUNBUFFERED": ""},
    )  # fmt: skip
    output, _ = child.communicate(timeout=300)
    assert child.returncode == 0, output
    assert f"{len(cli.main.commands) + 2} helps" in output and "Traceback" not in output
    assert HEADING.encode(encoding, "replace").decode(encoding) in output and "PASS" in output
    assert "−93.58".encode(click_writes, "replace").decode(click_writes) in output
    assert output.index("finished in") < output.index("PASS") < output.index("report: ")
    assert "−93.58" in (tmp_path / "runs/cpu/report.html").read_text(encoding="utf-8")


def test_the_report_is_written_before_anything_is_shown(lab, tmp_path, monkeypatch):
    lab.write(SIMPLE, parameters=PARAMETER)
    made_by(monkeypatch)

    def judge(out, jobs):
        assert (out / "report.html").exists()
        return keynumbers.Table([]), True

    monkeypatch.setattr(run, "judge", judge)
    assert lab("run")[0] == 0


def test_a_progress_line_read_while_it_is_written_is_shown(toy_notebook, tmp_path):
    notebook = toy_notebook(SIMPLE)
    watch = run._Watch(run.Job(2, notebook, {}, ""))
    watch.file = tmp_path / "progress"
    assert "starting" in watch._line()
    watch.file.write_bytes("training:  40%|██".encode()[:-1])
    assert "training:  40%|█" in watch._line()


WHERE = """
import json, os, sys
from pathlib import Path
places = {"data_dir": data_dir, **{n: os.environ.get(n) for n in ("LABUTILS_DATA", "PYTHONPATH", "LABUTILS_RUN")}}
Path(out_dir, "places.json").write_text(json.dumps(places))
"""


def test_paths_are_the_callers_and_a_moved_run_is_the_same(lab, tmp_path, monkeypatch):
    """The folder's name has a space, as in `make lab OUT="my run"`."""
    lab.write(WHERE, parameters=PARAMETER)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("USERPROFILE", str(tmp_path / "home"))
    monkeypatch.setenv("LABUTILS_DATA", os.path.join("~", "data"))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(["lib", os.environ.get("PYTHONPATH", "")]))
    status, output = lab("run", "--out", "my run", "-p", "data_dir=mydata")
    assert status == 0, output
    places = json.loads((tmp_path / "my run" / "places.json").read_text())
    assert places["data_dir"] == str(tmp_path / "mydata")
    assert places["LABUTILS_DATA"] == str(tmp_path / "home" / "data")
    assert places["PYTHONPATH"].split(os.pathsep)[0] == str(tmp_path / "lib")
    assert places["LABUTILS_RUN"] == "1" and "LABUTILS_RUN" not in os.environ
    assert os.environ["LABUTILS_DATA"] == os.path.join("~", "data"), "put back"

    (tmp_path / "my run").rename(tmp_path / "moved")
    status, output = lab("run", "--out", "moved", "-p", "data_dir=elsewhere")
    assert status == 0 and "nothing to do" in output
    assert f"its data_dir was {str(tmp_path / 'mydata')!r}" in " ".join(output.split())
    status, output = lab("run", "--out", "moved", "-p", "device=auto")
    assert status == 2 and "device 'cpu', now 'auto'" in output, "another device gives other bits"


@pytest.mark.parametrize("name", ["run-{seed}", "lr={0.01}"])
def test_braces_in_paths_and_values_are_braces(lab, tmp_path, monkeypatch, name):
    """papermill formats paths: {seed} would be another run's folder."""
    folder = tmp_path / "clone {profile}"
    lab.write("open(out_dir + '/said', 'w').write(data_dir)", parameters=PARAMETER).parent.rename(folder)
    monkeypatch.setattr(parameters, "notebooks_folder", lambda: folder)
    (tmp_path / "run-0").mkdir()
    (tmp_path / "run-0" / "problem2_toy.ipynb").write_text("another run's")
    status, output = lab("run", "--out", name, "-p", "data_dir={seed}")
    assert status == 0, output
    assert (tmp_path / name / "said").read_text() == str(tmp_path / "{seed}")
    assert (tmp_path / name / "problem2_toy.ipynb").exists()
    assert (tmp_path / "run-0" / "problem2_toy.ipynb").read_text() == "another run's"


def test_the_kernel_is_this_python_whatever_jupyter_the_user_has(lab, tmp_path, monkeypatch):
    """A kernelspec called python3, IPython's start-up files and PYTHONSTARTUP are the user's own business."""
    spec = tmp_path / "jupyter" / "kernels" / "python3"
    spec.mkdir(parents=True)
    spec.joinpath("kernel.json").write_text(
        json.dumps({"argv": [sys.executable, "-c", "1/0"], "display_name": "another", "language": "python"})
    )
    profile = tmp_path / "ipython" / "profile_default"
    (profile / "startup").mkdir(parents=True)
    (profile / "startup" / "00.py").write_text("theirs = 1")
    (tmp_path / "start.py").write_text("theirs = 2")
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "jupyter"))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    monkeypatch.setenv("PYTHONSTARTUP", str(tmp_path / "start.py"))
    lab.write(f"import sys\nassert sys.executable == {sys.executable!r}\nassert 'theirs' not in globals()",
              parameters=PARAMETER)  # fmt: skip
    status, output = lab("run")
    assert status == 0, output
    assert [path.name for path in profile.iterdir()] == ["startup"], "nothing was written into the user's profile"


def test_a_python_below_a_folder_with_braces_is_found(monkeypatch):
    """jupyter_client fills in {prefix}, {cwd} and the like wherever they stand in the command."""
    manager = run.this_python()(kernel_name="python3")
    manager._launch_args = {"cwd": "elsewhere"}
    monkeypatch.setattr(sys, "executable", "/labs/{prefix}/{cwd}/python")
    assert manager.format_kernel_cmd(["--more"])[0] == "/labs/{prefix}/{cwd}/python"
    assert manager.format_kernel_cmd(["--more"])[-1] == "--more"


def test_an_editors_files_beside_the_modules_are_no_code(toy_notebook, tmp_path, monkeypatch):
    notebook = toy_notebook(SIMPLE)
    (tmp_path / "parameters.py").write_text("x = 1")
    monkeypatch.setattr(parameters, "__file__", str(tmp_path / "parameters.py"))
    before = run.fingerprint(notebook)
    (tmp_path / "parameters-Copy1.py").write_text("x = 2")
    (tmp_path / ".#parameters.py").symlink_to("nowhere")  # an Emacs lock
    assert run.fingerprint(notebook) == before
    (tmp_path / "new.py").write_text("x = 1")
    assert run.fingerprint(notebook) != before


# --- several runs in one folder -----------------------------------------------------------------------------


def test_two_problems_side_by_side_and_no_problem_twice(lab, tmp_path):
    """Problem 1 ends while 2 is at work; both are finished in the end. What would disturb them is refused."""
    out = tmp_path / "runs" / "cpu"
    cell = "from pathlib import Path\nimport time\nhere = Path(out_dir, {0!r})\nhere.touch()\n" \
           "for _ in range(2400):\n    if here.with_suffix('.go').exists(): break\n    time.sleep(0.05)"  # fmt: skip
    lab.write(cell.format("one"), parameters=PARAMETER, name="problem1_toy")
    lab.write(cell.format("two"), parameters=PARAMETER, name="problem2_toy")
    children = [start(RUN, "run", number) for number in (1, 2)]
    try:
        for child, name in zip(children, ("one", "two"), strict=True):
            wait_for((out / name).exists, child)
        for arguments in (["1"], ["2", "--force"], ["1", "--force"], []):
            status, output = lab("run", *arguments)
            assert status == 2 and "is being run in" in output, output
        (out / "one.go").touch()
        said = [children[0].communicate(timeout=120)[0]]
        (out / "two.go").touch()
        said.append(children[1].communicate(timeout=120)[0])
    finally:
        for child in children:
            child.kill()
    assert [child.returncode for child in children] == [0, 0], said
    state = json.loads((out / "run.json").read_text())["notebooks"]
    assert {name: entry["state"] for name, entry in state.items()} == {
        "problem1_toy": "finished", "problem2_toy": "finished",
    }  # fmt: skip
    assert "was cut" not in (out / "report.html").read_text(encoding="utf-8")
    assert lab("run")[0] == 0, "nothing holds the folder any more"


# --- folders that cannot be renamed, or written -------------------------------------------------------------


def made_by(monkeypatch):
    """Runs without a kernel: each adds an x to the file `count`."""

    def execute(job, out):
        (out / job.notebook.name).write_bytes(job.notebook.read_bytes())
        count = out / "count"
        count.write_text((count.read_text() if count.exists() else "") + "x")

    monkeypatch.setattr(run, "_papermill", execute)


def test_force_in_the_current_folder_keeps_what_is_there_below_it(lab, tmp_path, monkeypatch):
    lab.write(SIMPLE, parameters=PARAMETER)
    made_by(monkeypatch)
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    assert lab("run", "--out", ".")[0] == 0, "an empty folder is as good as a new one"
    for k in (1, 2):
        (here / "mine").write_text(str(k))
        status, output = lab("run", "--out", ".", "--force")
        assert status == 0 and f"before.{k}" in output
        assert (here / "count").read_text() == "x", "a new start"
    assert [(here / f"before.{k}" / "mine").read_text() for k in (1, 2)] == ["1", "2"]
    assert (here / "before.1" / "run.json").exists() and not (here / "mine").exists()
    assert [path.name for path in tmp_path.iterdir() if "here" in path.name] == ["here"]


def test_force_behind_a_link_moves_what_it_leads_to(lab, tmp_path, monkeypatch):
    lab.write(SIMPLE, parameters=PARAMETER)
    made_by(monkeypatch)
    real, link = tmp_path / "disk" / "real", tmp_path / "link"
    real.parent.mkdir()
    link.symlink_to(real)  # it leads nowhere yet
    for _ in range(2):
        status, output = lab("run", "--out", "link", "--force")
        assert status == 0, output
        assert link.is_symlink() and (real / "count").read_text() == "x"
    assert (real.with_name("real.1") / "count").read_text() == "x"


def test_force_on_a_mount_or_below_a_folder_without_permission(lab, tmp_path, monkeypatch):
    lab.write(SIMPLE, parameters=PARAMETER)
    made_by(monkeypatch)
    assert lab("run", "--out", "out")[0] == 0
    rename = Path.rename

    def busy(path, target):
        if path.name == "out":
            raise OSError(16, "Device or resource busy", str(path))
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", busy)
    status, output = lab("run", "--out", "out", "--force")
    assert status == 0 and "before.1" in output
    assert (tmp_path / "out" / "count").read_text() == (tmp_path / "out" / "before.1" / "count").read_text() == "x"


def test_cut_while_it_is_put_aside_nothing_is_lost(lab, tmp_path, monkeypatch):
    lab.write(SIMPLE, parameters=PARAMETER)
    made_by(monkeypatch)
    monkeypatch.chdir(tmp_path)
    out = tmp_path / "out"
    assert lab("run", "--out", "out")[0] == 0
    (out / "figures").mkdir()
    rename = Path.rename

    def full(path, target):
        if path.name in ("out", "figures"):
            raise OSError(28, "No space left on device", str(path))
        return rename(path, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", full)
        status, output = lab("run", "--out", "out", "--force")
    assert status == 2 and "out cannot be used (No space left on device)" in " ".join(output.split())
    assert (out / "run.json").exists(), "the folder is still known as a run's"
    assert lab("run", "--out", "out", "--force")[0] == 0
    assert {path.name for path in tmp_path.rglob("*")} >= {"count", "figures", "before.1", "out.1"}


def test_force_keeps_a_damaged_run_aside(lab, tmp_path, monkeypatch):
    lab.write(SIMPLE, parameters=PARAMETER)
    made_by(monkeypatch)
    out = tmp_path / "runs" / "cpu"
    out.mkdir(parents=True)
    for k, damaged in enumerate(("{half", "[]", '{"notebooks": [1]}', '{"notebooks": {"problem2_toy": {}}}'), 1):
        (out / "run.json").write_text(damaged)
        assert "is damaged" in lab("run")[1]
        assert lab("run", "--force")[0] == 0
        assert (out.with_name(f"cpu.{k}") / "run.json").read_text() == damaged


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="a folder in which not even root may write")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "--out", "/proc/x"], "/proc/x cannot be used (No such file or directory)"),
        (["report", "one", "two", "--out", "/proc/x.html"], "/proc/x.html"),
        (["remake", "vae_mnist", "--out", "/proc/x"], "/proc/x"),
        (["sample", "gan", "--n", "1", "--out", "/proc/x/y"], "/proc/x"),
    ],
)
def test_a_place_that_cannot_be_written_is_one_clear_line(lab, tmp_path, arguments, message):
    lab.write(SIMPLE, parameters=PARAMETER)
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "key_numbers.json").write_text(json.dumps(ledger(True)))
    status, output = lab(*arguments)
    assert status == 2 and message in output and output.count("Error") == 1, output


# --- notebooks beside the notebook --------------------------------------------------------------------------


def test_a_copy_is_left_out_and_said(lab, tmp_path, monkeypatch):
    lab.write(SIMPLE, parameters=PARAMETER, name="problem2_vae")
    for name in ("problem2_vae-Copy1", "problem2_vae_backup", "problem2_a"):
        lab.write("1 / 0", parameters=PARAMETER, name=name)
    folder = tmp_path / "notebooks"
    (folder / ".ipynb_checkpoints").mkdir()
    for name in (".ipynb_checkpoints/problem2_vae-checkpoint.ipynb", ".~problem2_vae.ipynb", "._problem2_vae.ipynb"):
        (folder / name).write_text("no notebook")
    made_by(monkeypatch)
    monkeypatch.setattr(parameters, "profile_values", lambda profile, notebook: {"profile": profile})
    status, output = lab("run")
    assert status == 0, output
    for name in ("problem2_vae-Copy1.ipynb", "problem2_vae_backup.ipynb", "problem2_a.ipynb"):
        assert f"{name} is left out; problem2_vae.ipynb is run" in output
    assert output.count("left out") == 3
    assert [path.name for path in (tmp_path / "runs" / "cpu").glob("*.ipynb")] == ["problem2_vae.ipynb"]
    (folder / "problem2_vae.ipynb").unlink()
    status, output = lab("run", "--out", "other")
    assert status == 2 and output.count("Error") == 1
    for word in ("problem2_a.ipynb", "problem2_vae-Copy1.ipynb", "problem2_vae_backup.ipynb", "move the others away"):
        assert word in " ".join(output.split())
