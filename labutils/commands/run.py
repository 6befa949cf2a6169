"""`labutils run`: drive the notebooks through papermill into one folder, skip, resume, judge."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nbformat
from filelock import Timeout

from .. import keynumbers, parameters, training
from ..parameters import ParameterError

STATE = "run.json"
PLACES = ("data_dir", "out_dir")  # where something lies does not change it


class FolderInUse(RuntimeError):
    """The output folder cannot be written, or holds what this run must not touch; the message says what to do."""


@dataclass(frozen=True)
class Job:
    """One notebook to execute with all its parameters, and the fingerprint of the code it executes."""

    number: int
    notebook: Path
    parameters: dict[str, Any]
    code: str

    @property
    def name(self) -> str:
        return self.notebook.stem


# --- planning: every check happens here, before a kernel starts ------------------------------------------


def plan(
    numbers: list[int], profile: str, overrides: Mapping[str, str], out: Path, folder: Path | None = None
) -> list[Job]:
    """The jobs of a run, every name and value checked. Raises ParameterError naming what is wrong.

    overrides: `name=value` texts of the command line; each must be a parameter of at least one chosen notebook
    and goes to every one that has it.
    """
    known = parameters.notebooks(folder)
    missing = [n for n in numbers if n not in known]
    if missing:
        have = ", ".join(map(str, known))
        raise ParameterError(f"there is no notebook for problem {missing[0]}; there are: {have}")
    chosen = {n: known[n] for n in (numbers or known)}
    contracts = {n: parameters.contract(path) for n, path in chosen.items()}
    everything = {name: p for contract in contracts.values() for name, p in contract.items()}
    for name in overrides:
        if name in ("profile", "out_dir"):
            raise ParameterError(f"set {name} with {'--profile' if name == 'profile' else '--out'}, not with -p")
        if name not in everything:
            raise ParameterError(parameters.unknown_name(name, everything))
    jobs = []
    for number, path in chosen.items():
        contract = contracts[number]
        values = {name: p.default for name, p in contract.items()}
        values |= parameters.profile_values(profile, path)
        values |= {name: contract[name].parse(text) for name, text in overrides.items() if name in contract}
        values["out_dir"] = str(out.resolve())
        values["data_dir"] = _from_here(values["data_dir"])
        try:
            training.pick_device(values["device"])
        except ValueError as error:
            raise ParameterError(f"parameter {error}") from None
        jobs.append(Job(number, path, values, fingerprint(path)))
    return jobs


def _from_here(path: str) -> str:
    """`path` as it is meant in the caller's folder, for a process that starts in another; empty stays empty."""
    return os.path.abspath(os.path.expanduser(path)) if path else ""


def code_hash(notebook: nbformat.NotebookNode) -> str:
    """SHA-256 of a notebook's code cells: what its outputs are made from."""
    sources = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
    return hashlib.sha256("\0".join(sources).encode()).hexdigest()


def fingerprint(notebook: Path) -> str:
    """SHA-256 of what determines a run's results: the notebook's code cells and the package's modules."""
    digest = hashlib.sha256(code_hash(nbformat.read(notebook, as_version=4)).encode())
    for module in sorted(Path(parameters.__file__).parent.glob("*.py")):
        if module.stem.isidentifier():  # an editor's copies and lock files are no modules
            digest.update(module.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


@contextlib.contextmanager
def holding(out: Path, jobs: list[Job], force: bool = False) -> Iterator[None]:
    """Hold the folder `out` for the jobs, after checking that they may continue what is in it.

    Other notebooks may run in it at the same time. With `force` the jobs begin in an empty folder, and what was
    there is kept aside. Raises FolderInUse.
    """
    with contextlib.ExitStack() as held:
        try:
            if out.exists() and not out.is_dir():
                raise FolderInUse(f"{out} is a file; choose a folder with --out")
            if out.exists() and (content := _content(out)):
                if out / STATE not in content:
                    raise FolderInUse(
                        f"{out} is not empty and was not made by `labutils run`; choose another folder with --out"
                    )
                if force:
                    print(f"the old {out} is kept as {_put_aside(out)}")
            out.mkdir(parents=True, exist_ok=True)
            for job in jobs:
                held.enter_context(_claim(out / job.notebook.name))
            with training.locked(out / STATE):
                _may_continue(out, _read_state(out), jobs)
        except OSError as error:
            reason = error.strerror or error
            raise FolderInUse(f"{out} cannot be used ({reason}); choose another folder with --out") from error
        yield


def _content(out: Path) -> list[Path]:
    """What lies in a run folder, but for locks and what was put aside before."""
    return [path for path in out.iterdir() if not re.fullmatch(r"\..*\.lock|before\.\d+", path.name)]


@contextlib.contextmanager
def _claim(notebook: Path) -> Iterator[None]:
    """Hold an executed notebook's file; FolderInUse when another process does."""
    with contextlib.ExitStack() as held:
        try:
            held.enter_context(training.locked(notebook, timeout=0.0))
        except Timeout:
            raise FolderInUse(
                f"{notebook.name} is being run in {notebook.parent} at this moment; wait until it has ended, or "
                "choose another folder with --out"
            ) from None
        yield


def _put_aside(out: Path) -> Path:
    """Rename OUT to the first free OUT.1, OUT.2, …; else move what is in it to OUT/before.1, …

    The second is for a folder that one stands in, a mount, or a parent that cannot be written.
    """

    def free(path: Path) -> Path:
        return next(p for p in (path.with_name(f"{path.name}.{i}") for i in range(1, 10_000)) if not p.exists())

    for lock in out.glob(".problem*.lock"):
        with _claim(out / lock.name[1:].removesuffix(".lock")):  # a run at work would go on in the new folder
            pass
    if out not in (Path.cwd(), *Path.cwd().parents):
        with contextlib.suppress(OSError):
            return out.rename(free(out))
    aside = free(out / "before")
    aside.mkdir()
    # The state goes last: cut in between, the folder is still known as a run's.
    for path in sorted(_content(out), key=lambda path: path.name == STATE):
        path.rename(aside / path.name)
    return aside


def _may_continue(out: Path, state: dict[str, Any] | None, jobs: list[Job]) -> None:
    """FolderInUse when a job was begun in `out` with other parameters or code; begins the state of a new folder."""
    if state is None:
        _write_state(out, {"notebooks": {}})
        return
    for job in jobs:
        before = state["notebooks"].get(job.name)
        if before and (different := _difference(before, job)):
            raise FolderInUse(
                f"{out} holds {job.name} made with {different}. "
                "Choose another folder with --out, or start anew with --force (the old folder is kept aside)"
            )


def _difference(before: Mapping[str, Any], job: Job) -> str:
    """What of a job is another than `before`; empty when nothing is. A folder or data that were moved are the same."""
    old, new = before.get("parameters", {}), job.parameters
    changed = [
        f"{name} {old.get(name)!r}, now {new.get(name)!r}"
        for name in sorted({*old, *new} - {*PLACES})
        if old.get(name) != new.get(name)
    ]
    if changed:
        return "other parameters (" + "; ".join(changed) + ")"
    return "" if before.get("code") == job.code else "other code"


def _read_state(out: Path) -> dict[str, Any] | None:
    """The state of the run in `out`; None when there is none. FolderInUse when it is damaged."""
    try:
        return read_state(out)
    except ValueError as error:
        raise FolderInUse(f"{error}; use another --out, or --force") from error


def read_state(out: Path) -> dict[str, Any] | None:
    """The content of OUT/run.json: {"notebooks": {name: entry}}; None without the file, ValueError when damaged."""
    try:
        state = json.loads((out / STATE).read_text(encoding="utf-8"))
        for entry in state["notebooks"].values():
            entry["state"]
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{out / STATE} is damaged ({error})") from error
    return state


def _write_state(out: Path, state: Mapping[str, Any]) -> None:
    training.write_whole(out / STATE, json.dumps(state, indent=1) + "\n")


# --- executing ------------------------------------------------------------------------------------------


def execute(jobs: list[Job], out: Path) -> bool:
    """Run what is not finished; True when every cell of every notebook ran without an error."""
    good = True
    for job in jobs:
        entry = (_read_state(out) or {"notebooks": {}})["notebooks"].get(job.name, {})
        if entry.get("state") == "finished" and (out / job.notebook.name).exists():
            print(f"problem {job.number}: finished before, with the same parameters and code; nothing to do")
            if (before := entry["parameters"]["data_dir"]) != job.parameters["data_dir"]:
                print(f"  its data_dir was {before!r}; with --force it is computed from the new one")
            continue
        entry = {"parameters": job.parameters, "code": job.code, "state": "running"}
        _note(out, job, entry)
        started = time.monotonic()
        error = _papermill(job, out)
        seconds = time.monotonic() - started
        _note(out, job, entry | {"state": "failed" if error else "finished", "seconds": round(seconds, 1)})
        if error:
            print(f"problem {job.number} FAILED after {_clock(seconds)}: {error}\n  see {out / job.notebook.name}")
            good = False
        else:
            print(f"problem {job.number}: finished in {_clock(seconds)}")
    return good


def _note(out: Path, job: Job, entry: Mapping[str, Any]) -> None:
    """Write a job's entry into the folder's state; the other notebooks' part stays."""
    with training.locked(out / STATE):
        state = _read_state(out) or {"notebooks": {}}
        _write_state(out, state | {"notebooks": state["notebooks"] | {job.name: entry}})


def this_python() -> type:
    """A kernel manager whose kernel is `sys.executable`, whatever kernelspecs the user has."""
    from jupyter_client import AsyncKernelManager
    from jupyter_client.kernelspec import KernelSpecManager

    class ThisPython(AsyncKernelManager):
        def __init__(self, **arguments):
            super().__init__(**arguments | {"kernel_spec_manager": KernelSpecManager(kernel_dirs=[])})

        def format_kernel_cmd(self, extra_arguments=None):
            # It fills in {names}, which may stand in the path of a Python, too.
            return [sys.executable, *super().format_kernel_cmd(extra_arguments)[1:]]

    return ThisPython


@contextlib.contextmanager
def _environment(folder: Path) -> Iterator[None]:
    """What a run's kernel finds in its environment: our words to it, and nothing of the user's own Jupyter.

    folder: a temporary one, for the connection, IPython's profile and the progress.
    """
    values = {"LABUTILS_RUN": "1", "LABUTILS_PROGRESS": str(folder / "progress"), "PYTHONSTARTUP": ""}
    values |= {"JUPYTER_RUNTIME_DIR": str(folder), "IPYTHONDIR": str(folder)}
    if data := os.environ.get("LABUTILS_DATA"):
        values["LABUTILS_DATA"] = _from_here(data)
    if path := os.environ.get("PYTHONPATH"):
        values["PYTHONPATH"] = os.pathsep.join(map(os.path.abspath, path.split(os.pathsep)))
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _papermill(job: Job, out: Path) -> str | None:
    """Execute one notebook; None, or one line saying which cell failed and why."""
    import papermill
    from papermill.engines import NBClientEngine, papermill_engines

    watch = _Watch(job)

    class Engine(NBClientEngine):
        """papermill's engine, telling `watch` which cell begins."""

        @classmethod
        def execute_managed_notebook(cls, manager, kernel_name, **arguments):
            original = manager.cell_start

            def cell_start(cell, cell_index=None, **more):
                watch.cell(manager.nb.cells, cell_index)
                return original(cell, cell_index, **more)

            manager.cell_start = cell_start
            return super().execute_managed_notebook(manager, kernel_name, **arguments)

    papermill_engines.register("labutils", Engine)
    target = out / job.notebook.name

    def literal(path: Path) -> str:  # papermill formats paths, with the parameters
        return str(path).replace("{", "{{").replace("}", "}}")

    try:
        with (
            tempfile.TemporaryDirectory(prefix="labutils-", ignore_cleanup_errors=True) as folder,
            _environment(Path(folder)),
            watch.following(Path(folder) / "progress"),
        ):
            papermill.execute_notebook(
                literal(job.notebook), literal(target), job.parameters, engine_name="labutils", progress_bar=False,
                cwd=str(job.notebook.parent), kernel_name="python3", kernel_manager_class=this_python(),
                extra_arguments=["--log-level=50"],  # at Ctrl-C it would log a traceback
            )  # fmt: skip
    except papermill.PapermillExecutionError as error:
        return f"cell {error.cell_index}: {error.ename}: {error.evalue}"
    except Exception as error:  # a kernel that dies, a folder that cannot be written
        return f"{type(error).__name__}: {error}"
    # sys.exit(0) in a cell ends the kernel quietly: only executed cells prove that the end was reached.
    unrun = [c for c in nbformat.read(target, 4).cells if c.cell_type == "code" and c.source and not c.execution_count]
    return f"{len(unrun)} cells did not run" if unrun else None


class _Watch:
    """Says where a notebook is: one line kept up to date on a terminal, else a line a section and every 30 s."""

    def __init__(self, job: Job):
        self.job, self.live = job, sys.stderr.isatty()
        self.place, self.heading, self.shown = "starting", "", ""
        self.started = self.printed_at = time.monotonic()

    def cell(self, cells, index: int) -> None:
        is_code = [c.cell_type == "code" for c in cells]
        headings = [
            line.lstrip("# ")
            for c in cells[:index] if c.cell_type == "markdown"
            for line in c.source.splitlines() if line.startswith("#")
        ]  # fmt: skip
        self.place = f"cell {max(1, sum(is_code[: index + 1]))}/{sum(is_code)}"
        heading = headings[-1] if headings else ""
        if heading != self.heading:
            self.heading = heading
            if not self.live:
                self._print_line()

    @contextlib.contextmanager
    def following(self, file: Path) -> Iterator[None]:
        """While the notebook runs, a thread shows its place and the bar of its training, which stands in `file`."""
        self.file = file
        stop = threading.Event()
        thread = threading.Thread(target=self._loop, args=(stop,), daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()
            if self.live:
                print("\r\x1b[K", end="", file=sys.stderr, flush=True)

    def _loop(self, stop: threading.Event) -> None:
        while not stop.wait(0.5 if self.live else 2.0):
            if self.live:
                width = shutil.get_terminal_size().columns - 1
                print("\r\x1b[K" + self._line()[:width], end="", file=sys.stderr, flush=True)
            elif time.monotonic() - self.printed_at > 30:
                self._print_line()

    def _print_line(self) -> None:
        self.printed_at = time.monotonic()
        print(self._line(), file=sys.stderr, flush=True)

    def _line(self) -> str:
        line = f"problem {self.job.number} · {_clock(time.monotonic() - self.started)} · {self.place} · {self.heading}"
        bar = ""
        with contextlib.suppress(OSError):  # not there yet, or being written
            bar = self.file.read_text(encoding="utf-8", errors="ignore")
        if bar and "100%" not in bar:
            line += f" · {bar}"
        return line


def _clock(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


# --- judging --------------------------------------------------------------------------------------------


def judge(out: Path, jobs: list[Job]) -> tuple[keynumbers.Table, bool]:
    """The table of the chosen notebooks' key numbers, and whether every judged one passed."""
    file = out / keynumbers.LEDGER
    if not file.exists():
        return keynumbers.Table([]), True
    ledger = keynumbers.read(file)
    names = {job.name for job in jobs}
    numbers = [keynumbers.KeyNumber(**n) for n in ledger["numbers"] if n["notebook"] in names]
    return keynumbers.Table(numbers), all(n.passed is not False for n in numbers)
