"""Running answers: a worker process for each core, the questions in plain data, what comes back read as plain data."""

from __future__ import annotations

import json
import marshal
import os
import pickle
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from .. import exercises
from . import grade_worker
from .grade_answers import Answer

PLAIN = (bool, int, float, complex, str, bytes, type(None), Tensor, torch.dtype, torch.Size)
PYTHON = (sys.prefix, sys.base_prefix, "/usr")  # where Python lies: what answers may read
FOREIGN = {*sys.stdlib_module_names, "torch", "numpy", "scipy"}  # what a worker imports by name


class WorkerLost(RuntimeError):
    """The worker ended or said something that no worker says; nothing is known about the answer."""


@dataclass(frozen=True)
class Limits:
    """Of one exercise of one student. seconds: of processor time; memory: MiB above what torch needs."""

    seconds: int = 10
    memory: int = 2048

    @property
    def wall(self) -> float:
        return 2.0 * self.seconds + 5


@dataclass(frozen=True)
class Outcome:
    """What an answer gave: for each part a float64 tensor, or an error as text; where in the notebook it was raised.

    reason: why the process ended before its time: "time", "size", "status N" or empty. notes: of statements that
    could not be executed.
    """

    results: list[Tensor | str]
    where: dict[int, str] = field(default_factory=dict)
    kinds: dict[int, str] = field(default_factory=dict)
    reason: str = ""
    notes: list[str] = field(default_factory=list)


# --- functions as plain data -------------------------------------------------------------------------------


def ship(functions: Sequence[Callable]) -> dict[str, Any]:
    """Functions as plain data, with what they use and nothing else, for a process that must not have the module.

    A part's `call` lies beside its truth. Here its code travels with the functions, classes, numbers and tensors that
    this code names; modules, and what belongs to torch, NumPy or the rest of the package, travel by name.
    Raises TypeError naming what cannot travel.
    """
    made: dict[str, list[dict[str, Any] | None]] = {"function": [], "class": []}
    known: dict[int, int] = {}

    def pack(value: Any) -> tuple[str, Any]:
        while hasattr(value, "__wrapped__") and value.__globals__.get("__name__") != value.__module__:
            value = value.__wrapped__  # a check of types around it, say; what it checks travels
        kind = "function" if isinstance(value, FunctionType) else "class" if isinstance(value, type) else ""
        if kind and not _foreign(value.__module__):
            if id(value) not in known:
                known[id(value)] = len(made[kind])
                made[kind].append(None)
                made[kind][known[id(value)]] = entry(value) if kind == "function" else members(value)
            return kind, known[id(value)]
        if isinstance(value, ModuleType):
            return "module", value.__name__
        if isinstance(value, PLAIN):
            return "plain", value
        if isinstance(value, (tuple, list)) and type(value) in (tuple, list):
            return type(value).__name__, [pack(item) for item in value]
        if type(value) is dict:
            return "dict", [(key, pack(item)) for key, item in value.items()]
        module, name = getattr(value, "__module__", None), getattr(value, "__qualname__", "")
        if module and name and "<" not in name and _foreign(module):
            return "name", (module, name)
        owner = getattr(value, "__self__", None)  # a function of C, torch.logaddexp say
        if isinstance(owner, type) and name:
            return "name", (owner.__module__, f"{owner.__qualname__}.{value.__name__}")
        raise TypeError(f"{value!r} cannot travel to the process of an answer; use functions, classes, numbers")

    def entry(function: FunctionType) -> dict[str, Any]:
        names = _names(function.__code__) & function.__globals__.keys()
        return {
            "module": function.__module__,
            "name": function.__name__,
            "code": marshal.dumps(function.__code__),
            "globals": {name: pack(function.__globals__[name]) for name in sorted(names)},
            "defaults": pack(function.__defaults__),
            "keywords": pack(function.__kwdefaults__),
            "closure": [pack(cell.cell_contents) for cell in function.__closure__ or ()],
        }

    def members(cls: type) -> dict[str, Any]:
        kept = {name: value for name, value in vars(cls).items() if name == "__init__" or callable(value)
                or not name.startswith("__")}  # fmt: skip
        return {"name": cls.__name__, "bases": pack(cls.__bases__), "members": pack(kept)}

    roots = [pack(function) for function in functions]
    return {"roots": roots, "functions": made["function"], "classes": made["class"]}


def _foreign(module: str | None) -> bool:
    root, _, rest = (module or "").partition(".")
    return root in FOREIGN or (root == "labutils" and not rest.startswith(("exercises", "marking")))


def _names(code: CodeType) -> set[str]:
    """The global names that code and the functions inside it use."""
    inner = [_names(const) for const in code.co_consts if isinstance(const, CodeType)]
    return set(code.co_names).union(*inner)


# --- workers -----------------------------------------------------------------------------------------------


class Worker:
    """A process in which answers run, one at a time; a context manager. `open` says what is kept from them: "" or why
    namespaces could not be had.

    package: a folder with the copy of `labutils` that answers import. scratch: an empty folder of its own.
    """

    def __init__(self, package: Path, scratch: Path, limits: Limits, modules: Sequence[str], plain: bool) -> None:
        self.package, self.scratch, self.limits, self.modules, self.plain = package, scratch, limits, modules, plain
        self.process: subprocess.Popen | None = None
        self.open = ""

    def __enter__(self) -> Worker:
        (self.scratch / "root").mkdir(parents=True, exist_ok=True)
        (self.scratch / "work").mkdir(exist_ok=True)
        (self.scratch / "work").chmod(0o777)
        self.process = subprocess.Popen(
            [sys.executable, "-I", "-B", grade_worker.__file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd=self.scratch,
            env=_environment(self.scratch / "work" if self.plain else Path(grade_worker.PLACE)),
            start_new_session=True,  # Ctrl-C is the grader's
        )
        self._say(b"s", json.dumps(self._setting()).encode())
        self.open = self._hear(b"r").decode()
        return self

    def __exit__(self, *_: object) -> None:
        process, self.process = self.process, None
        if process:
            process.stdin.close()
            try:
                process.wait(1)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            process.stdout.close()

    def ask(
        self, exercise: exercises.Exercise, calls: dict[str, Any], answer: Answer, seed: int, right: Sequence[str] = ()
    ) -> Outcome:
        """What an answer gives at the inputs of a seed. right: functions of other exercises in whose place the right
        ones stand. Raises WorkerLost."""
        parts = range(len(exercise.parts))
        job = {
            "calls": calls,
            "right": {name: ship([_reference(name)]) for name in right},
            "inputs": [exercises.inputs(exercise, k, seed) for k in parts],
            "functions": exercise.functions,
            "statements": answer.statements,
            "folder": str(self.scratch / "work"),
        }
        self._say(b"j", pickle.dumps(job))
        results: list[Tensor | str | None] = [None for _ in parts]
        where, kinds, notes, reason, broken = {}, {}, [], "", ""
        while True:
            kind, k, content = self._frame()
            if kind == b"=":
                break
            if kind == b"!":
                broken = content.decode(errors="replace")
            elif kind == b".":
                reason = content.decode(errors="replace")
            elif kind == b"v" and k in parts:
                results[k] = _tensor(content)
            elif kind == b"e" and k in parts:
                results[k], where[k], kinds[k] = _error(content)
            elif kind == b"n":
                notes = _notes(content)
        if broken:
            raise WorkerLost(broken)
        if any(result is None for result in results):
            reason = reason or "status 0"
        missing = f"ended: {reason}"
        return Outcome([missing if r is None else r for r in results], where, kinds, reason, notes)

    def _setting(self) -> dict[str, Any]:
        path = [os.path.abspath(p) for p in sys.path if p and _holds_libraries(Path(os.path.abspath(p)))]
        shown = [*PYTHON, "/lib", "/lib64", "/bin", "/etc/ld.so.cache", str(self.package), *path]
        shown += [f"/dev/{name}" for name in ("null", "zero", "random", "urandom")]
        return {
            "path": [str(self.package), *path],
            "shown": shown,
            "hidden": [os.path.join(p, "labutils") for p in path],
            "modules": list(self.modules),
            "root": str(self.scratch / "root"),
            "plain": self.plain,
            "seconds": self.limits.seconds,
            "wall": self.limits.wall,
            "memory": self.limits.memory,
            "processes": _own_processes(),
        }

    def _say(self, kind: bytes, content: bytes) -> None:
        try:
            grade_worker.write(self.process.stdin, kind, 0, content)
        except OSError as error:
            raise WorkerLost(str(error)) from None

    def _frame(self) -> tuple[bytes, int, bytes]:
        frame = grade_worker.read(self.process.stdout)
        if frame is None:
            raise WorkerLost(f"it ended with status {self.process.poll()}")
        return frame

    def _hear(self, kind: bytes) -> bytes:
        got, _, content = self._frame()
        if got != kind:
            raise WorkerLost(content.decode(errors="replace"))
        return content


def _reference(name: str) -> Callable:
    return next(e.reference[name] for e in exercises.EXERCISES.values() if name in e.functions)


def _holds_libraries(entry: Path) -> bool:
    """Whether an entry of the path is Python's or a library's; a folder of the teacher's is on it, too, often."""
    installed = any(part in ("site-packages", "dist-packages") for part in entry.parts)
    return installed or entry.is_relative_to(sys.base_prefix) or (entry / "torch").exists()


def _environment(work: Path) -> dict[str, str]:
    """Nothing of the teacher's but what libraries need to load and to choose their kernels."""
    kept = ("PATH", "LANG", "LD_LIBRARY_PATH", "OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE")
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    return {name: os.environ[name] for name in kept if name in os.environ} | threads | {
        "HOME": str(work), "TMPDIR": str(work), "MPLBACKEND": "agg", "MPLCONFIGDIR": str(work)
    }  # fmt: skip


def _own_processes() -> int:
    """How many threads this account has: a limit on processes counts them, except for root's stand-ins."""
    if os.getuid() == 0:
        return 0
    count = 0
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if process.stat().st_uid == os.getuid():
                count += len(os.listdir(process / "task"))
        except OSError:
            continue
    return count + 50


def _tensor(content: bytes) -> Tensor | str:
    try:
        return safetensors.torch.load(content)["value"].double()
    except (SafetensorError, KeyError, ValueError, TypeError, RuntimeError):
        return "nothing that can be read as numbers"


def _error(content: bytes) -> tuple[str, str, str]:
    """(the error, where, its type if it is one of Python's), whatever the bytes are."""
    try:
        found = json.loads(content)
        return tuple(str(found[name])[:500] for name in ("error", "where", "type"))
    except (ValueError, KeyError, TypeError, RecursionError):
        return "an error that cannot be read", "", ""


def _notes(content: bytes) -> list[str]:
    try:
        return [str(note)[:300] for note in json.loads(content)][:5]
    except (ValueError, TypeError, RecursionError):
        return []
