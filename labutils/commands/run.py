"""`labutils run`: drive the notebooks through papermill into one folder, skip, resume, judge."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
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

from .. import keynumbers, parameters, training
from ..parameters import ParameterError

STATE = "run.json"


class FolderInUse(RuntimeError):
    """The output folder holds something this run must not touch; the message says what and what to do."""


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
        try:
            training.pick_device(values["device"])
        except ValueError as error:
            raise ParameterError(f"parameter {error}") from None
        jobs.append(Job(number, path, values, fingerprint(path)))
    return jobs


def code_hash(notebook: nbformat.NotebookNode) -> str:
    """SHA-256 of a notebook's code cells: what its outputs are made from."""
    sources = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
    return hashlib.sha256("\0".join(sources).encode()).hexdigest()


def fingerprint(notebook: Path) -> str:
    """SHA-256 of what determines a run's results: the notebook's code cells and the package's modules."""
    digest = hashlib.sha256(code_hash(nbformat.read(notebook, as_version=4)).encode())
    for module in sorted(Path(parameters.__file__).parent.glob("*.py")):
        digest.update(module.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


def prepare(out: Path, jobs: list[Job], force: bool = False) -> dict[str, Any]:
    """The folder's state, after checking that the jobs may continue it; with `force` a new, empty folder.

    An old folder is never deleted: `force` renames it to OUT.1, OUT.2, … Raises FolderInUse.
    """
    state = _read_state(out)
    if force and out.exists() and any(out.iterdir()):
        aside = next(p for p in (out.with_name(f"{out.name}.{i}") for i in range(1, 10_000)) if not p.exists())
        out.rename(aside)
        print(f"the old {out} is kept as {aside}")
        state = None
    elif state is None and out.exists() and any(out.iterdir()):
        raise FolderInUse(f"{out} is not empty and was not made by `labutils run`; choose another folder with --out")
    state = state or {"notebooks": {}}
    for job in jobs:
        before = state["notebooks"].get(job.name)
        if before and (before["parameters"], before["code"]) != (job.parameters, job.code):
            raise FolderInUse(
                f"{out} holds {job.name} made with {_difference(before, job)}. "
                "Choose another folder with --out, or start anew with --force (the old folder is kept aside)"
            )
    out.mkdir(parents=True, exist_ok=True)
    return state


def _difference(before: Mapping[str, Any], job: Job) -> str:
    old, new = before["parameters"], job.parameters
    changed = [
        f"{name} {old.get(name)!r}, now {new.get(name)!r}"
        for name in sorted({*old, *new})
        if old.get(name) != new.get(name)
    ]
    return "other parameters (" + "; ".join(changed) + ")" if changed else "other code"


def _read_state(out: Path) -> dict[str, Any] | None:
    if out.exists() and not out.is_dir():
        raise FolderInUse(f"{out} is a file; choose a folder with --out")
    try:
        return json.loads((out / STATE).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except json.JSONDecodeError as error:
        raise FolderInUse(f"{out / STATE} is damaged ({error}); use another --out, or --force") from error


def _write_state(out: Path, state: Mapping[str, Any]) -> None:
    training.write_whole(out / STATE, json.dumps(state, indent=1) + "\n")


# --- executing ------------------------------------------------------------------------------------------


def execute(jobs: list[Job], out: Path, state: dict[str, Any]) -> bool:
    """Run what is not finished; True when every cell of every notebook ran without an error."""
    good = True
    for job in jobs:
        entry = state["notebooks"].get(job.name, {})
        if entry.get("state") == "finished" and (out / job.notebook.name).exists():
            print(f"problem {job.number}: finished before, with the same parameters and code; nothing to do")
            continue
        entry = {"parameters": job.parameters, "code": job.code, "state": "running"}
        state["notebooks"][job.name] = entry
        _write_state(out, state)
        started = time.monotonic()
        error = _papermill(job, out)
        seconds = time.monotonic() - started
        entry |= {"state": "failed" if error else "finished", "seconds": round(seconds, 1)}
        _write_state(out, state)
        if error:
            print(f"problem {job.number} FAILED after {_clock(seconds)}: {error}\n  see {out / job.notebook.name}")
            good = False
        else:
            print(f"problem {job.number}: finished in {_clock(seconds)}")
    return good


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
    try:
        with watch.following():
            papermill.execute_notebook(
                str(job.notebook), str(target), job.parameters, engine_name="labutils", progress_bar=False,
                cwd=str(job.notebook.parent), kernel_name="python3",
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
    def following(self) -> Iterator[None]:
        """While the notebook runs, a thread shows its place and the bar of its training."""
        with tempfile.TemporaryDirectory(prefix="labutils-") as folder:
            self.file = Path(folder) / "progress"
            os.environ["LABUTILS_PROGRESS"] = str(self.file)
            stop = threading.Event()
            thread = threading.Thread(target=self._loop, args=(stop,), daemon=True)
            thread.start()
            try:
                yield
            finally:
                stop.set()
                thread.join()
                del os.environ["LABUTILS_PROGRESS"]
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
        bar = self.file.read_text(encoding="utf-8") if self.file.exists() else ""
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
