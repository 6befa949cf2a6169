"""A notebook's run and its ledger of judged numbers.

A notebook starts with `run = keynumbers.start("problem2_vae", globals())`, which checks its parameters, and
ends with `run.errata(…)`, `run.table()` and `run.verdicts()`. What a number may be stands in bands.yaml.
"""

from __future__ import annotations

import atexit
import hashlib
import html
import inspect
import json
import math
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import CodeType
from typing import Any

import torch
import yaml

from . import __version__, data, parameters, plots, training
from .estimates import Estimate

# A run may change these and still be judged: they are not what a band depends on.
NOT_JUDGED = ("seed", "device", "data_dir", "out_dir")
LEDGER = "key_numbers.json"
FULL_RUN = Path(__file__).with_name("assets") / "full_run.json"  # the ledger of the full runs, once there are some
VERDICTS = {True: "PASS", False: "FAIL", None: "not judged"}


@dataclass
class KeyNumber:
    """One line of the ledger. judged: a band applies to this run; passed: None when not judged."""

    id: str
    value: float
    stderr: float | None
    unit: str
    low: float | None
    high: float | None
    truth: float | None
    report: float | None
    n: int | None
    judged: bool
    passed: bool | None
    reason: str
    title: str
    notebook: str


@dataclass
class Erratum:
    """A mistake, the number it gives and the right one, both in `unit`; None where there is no number."""

    mistake: str
    value: float | torch.Tensor | None
    right: float | torch.Tensor | None
    unit: str = ""

    def __post_init__(self) -> None:  # a tensor of one value becomes a float, which JSON can hold
        self.value, self.right = (None if x is None else float(x) for x in (self.value, self.right))


def read(file: Path) -> dict[str, Any]:
    """A ledger; nan and inf, which JSON does not know and the file holds as strings, are floats again."""
    ledger = json.loads(file.read_text(encoding="utf-8"))
    for kind, names in (("numbers", ("value", "stderr")), ("errata", ("value", "right"))):
        for row in ledger.get(kind, []):
            row |= {name: float(row[name]) for name in names if row[name] is not None}
    return ledger


def full_run() -> dict[str, KeyNumber]:
    """The key numbers of the full runs that travel with the package, by id; none when there are none."""
    if not FULL_RUN.exists():
        return {}
    return {n["id"]: KeyNumber(**n) for n in read(FULL_RUN)["numbers"]}


def bands() -> dict[str, dict[str, Any]]:
    return yaml.safe_load(Path(__file__).with_name("bands.yaml").read_text(encoding="utf-8"))


def versions() -> dict[str, str]:
    found = {"python": platform.python_version(), "labutils": __version__}
    for name in ("torch", "torchvision", "numpy", "scipy", "matplotlib", "papermill"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "missing"
    return found


def processor() -> str:
    """The processor's name and how many of its cores this process may use."""
    name = platform.processor() or platform.machine()
    if (file := Path("/proc/cpuinfo")).exists():
        known = re.search(r"^model name\s*: (.+)", file.read_text(encoding="utf-8", errors="replace"), re.MULTILINE)
        name = known[1] if known else name
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{name}, {cores} core{'s' * (cores != 1)}"


def commit() -> str:
    """The commit of the clone this package runs from, with + when tracked files differ; empty without a clone."""
    root = Path(__file__).parent.parent
    if not (root / ".git").exists():  # else git would answer for a repository around the environment
        return ""
    try:
        git = partial(subprocess.run, cwd=root, capture_output=True, encoding="utf-8", errors="replace", timeout=0.4)
        head = git(["git", "rev-parse", "HEAD"])
        changed = git(["git", "diff", "--quiet", "HEAD"]).returncode
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return head.stdout.strip() + "+" * (changed == 1) if head.returncode == 0 else ""


def peak_memory() -> int | None:
    """The most memory this process has held so far, MiB; None where the system does not say (Windows)."""
    try:
        import resource
    except ImportError:
        return None
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(most / (2**20 if sys.platform == "darwin" else 2**10))  # bytes there, KiB elsewhere


COLAB_DRIVE = Path("/content/drive")


def on_drive(notebook: str, values: Mapping[str, Any]) -> Path | None:
    """A folder of the reader's Drive on Colab, where it is mounted: it outlives the session. Elsewhere None.

    Each set of parameters has its own, so that a training goes on from its checkpoint exactly when it is the same one.
    """
    if "google.colab" not in sys.modules or not (COLAB_DRIVE / "MyDrive").is_dir():
        return None
    same = {name: value for name, value in values.items() if name not in ("device", "data_dir", "out_dir")}
    key = hashlib.sha256(json.dumps(same, sort_keys=True).encode()).hexdigest()[:8]
    return COLAB_DRIVE / "MyDrive" / "labutils" / f"{notebook.split('_')[0]}-{values['profile']}-{key}"


def _of_colab(run: Run) -> str:
    """What a reader on Colab should know of where the results lie, if anything."""
    if "google.colab" not in sys.modules or run.parameters["out_dir"]:
        return ""
    if run.out_dir.is_relative_to(COLAB_DRIVE.resolve()):
        return "a session that dies goes on from there; for another folder set out_dir, for a passing one to /tmp/lab"
    mount = "from google.colab import drive; drive.mount('/content/drive')"
    return f"to keep trainings when this session dies, mount your Drive and execute this cell again: {mount}"


class Run:
    """One execution of one notebook: its checked parameters, its device and folders, its ledger.

    out_dir is the folder of `labutils run`; when the parameter is empty, `on_drive`'s or a temporary one that goes
    with the kernel, so that reading a notebook leaves nothing behind.
    """

    def __init__(self, notebook: str, values: Mapping[str, Any], judged: bool):
        self.notebook, self.parameters, self.judged = notebook, dict(values), judged
        self.profile, self.seed = values["profile"], values["seed"]
        self.device = training.pick_device(values["device"])
        self.data_dir = data.data_folder(values["data_dir"])
        self.started, self.commit = time.monotonic(), commit()
        if kept := values["out_dir"] or on_drive(notebook, values):
            self.out_dir = Path(kept).expanduser().resolve()
            self.out_dir.mkdir(parents=True, exist_ok=True)
        else:
            self.out_dir = Path(tempfile.mkdtemp(prefix="labutils-"))
            atexit.register(shutil.rmtree, self.out_dir, ignore_errors=True)
        self.numbers: dict[str, KeyNumber] = {}
        self.mistakes: dict[str, Erratum] = {}
        self.data: dict[str, dict[str, Any]] = {}

    @property
    def figures(self) -> Path:
        return self.out_dir / "figures"

    def checkpoint(self, name: str, *answers: Callable) -> Path:
        """File of one training's checkpoint; training resumes from it when it is there.

        answers: functions of a reader's own that the training calls. When their text changes the file is another: a
        mended answer never goes on from, or takes for finished, what a wrong one has trained.
        """
        text = "\n".join(_text(answer) for answer in answers)
        of = f"-{hashlib.sha256(text.encode()).hexdigest()[:8]}" if answers else ""
        return self.out_dir / "checkpoints" / f"{self.notebook}-{name}{of}.pt"

    def use_data(self, dataset: data.DataSet) -> data.DataSet:
        """Print what the data set is and put its size and hash into the ledger."""
        print(dataset)
        sizes = {split: len(getattr(dataset, split)) for split in ("train", "valid", "test")}
        self.data[dataset.name] = {"sha256": dataset.sha256, "source": dataset.source, **sizes}
        return dataset

    def show(self, figure, name: str, caption: str) -> None:
        """Show a figure with its caption and keep it, as PNG and SVG, for the report."""
        plots.show(figure, self.figures, f"{self.notebook.split('_')[0]}-{name}", caption)

    def record(self, id: str, value: float | Estimate, **more: Any) -> KeyNumber:
        """Put a number into the ledger and judge it against its band.

        value: an Estimate brings its standard error and sample size; a float may give `stderr` and `n`.
        Raises KeyError when bands.yaml does not know the id: a number without a title and unit is no number.
        """
        known = bands()
        if id not in known:
            raise KeyError(f"{id!r} is not in bands.yaml; add its title and unit there, and its bands")
        entry = known[id]
        if isinstance(value, Estimate):
            more = {"stderr": value.stderr, "n": value.n} | more
            value = value.value
        band = entry.get(self.profile, {})
        judged = self.judged and bool(band)
        inside = math.isfinite(value) and band.get("low", -math.inf) <= value <= band.get("high", math.inf)
        reason = band.get("reason", "") if judged else self._why_not(band)
        self.numbers[id] = KeyNumber(
            id, float(value), more.get("stderr"), entry["unit"], band.get("low"), band.get("high"),
            entry.get("truth"), entry.get("report"), more.get("n"), judged, inside if judged else None,
            reason, entry["title"], self.notebook,
        )  # fmt: skip
        return self.numbers[id]

    def _why_not(self, band: Mapping[str, Any]) -> str:
        if not band:
            return f"no band for the {self.profile} profile"
        return "parameters differ from the profile"

    def errata(self, rows: Iterable[Erratum]) -> Errata:
        """Put mistakes into the ledger, each with its number; returns the table a notebook shows."""
        rows = list(rows)
        self.mistakes |= {row.mistake: row for row in rows}
        return Errata(rows)

    def table(self) -> Table:
        return Table(list(self.numbers.values()))

    def verdicts(self) -> None:
        """Print one discrete line a number (what nbval compares) and write the ledger."""
        self.save()
        for number in self.numbers.values():
            print(VERDICTS[number.passed], number.id)

    def save(self) -> None:
        """Merge what this notebook found and cost into OUT_DIR/key_numbers.json; the other notebooks' part stays."""
        with training.locked(self.out_dir / LEDGER):  # another notebook of the run may end at this moment
            self._merge(self.out_dir / LEDGER)

    def _merge(self, file: Path) -> None:
        ledger = read(file) if file.exists() else {}
        problem = self.notebook.split("_")[0]
        own = {name: value for name, value in self.parameters.items() if name not in parameters.COMMON}
        costs = {"seconds": round(time.monotonic() - self.started, 1), "memory_mib": peak_memory()}
        if self.device.type == "cuda":
            costs["cuda_memory_mib"] = round(torch.cuda.max_memory_allocated(self.device) / 2**20)

        def merge(rows: str, found: Iterable[KeyNumber | Erratum]) -> list[dict[str, Any]]:
            others = [row for row in ledger.get(rows, []) if row["notebook"] != self.notebook]
            found = [{"notebook": self.notebook} | asdict(row) for row in found]
            return sorted([*others, *found], key=lambda row: row["notebook"])

        content = {
            "profile": self.profile, "seed": self.seed, "device": describe_device(self.device),
            "hardware": processor(), "threads": torch.get_num_threads(), "commit": self.commit,
            "versions": versions(),
            "data": ledger.get("data", {}) | self.data,
            "parameters": ledger.get("parameters", {}) | {self.notebook: own},
        }  # fmt: skip
        for name, cost in costs.items():
            content[name] = dict(sorted((ledger.get(name, {}) | {problem: cost}).items()))
        content["errata"] = merge("errata", self.mistakes.values())
        content["numbers"] = merge("numbers", self.numbers.values())
        training.write_whole(file, json.dumps(_standard(content), indent=1, allow_nan=False) + "\n")


def _standard(value: Any) -> Any:
    """`value` with nan and inf as strings, so that any program can read the file."""
    if isinstance(value, Mapping):
        return {key: _standard(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_standard(item) for item in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def describe_device(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


def start(notebook: str, scope: Mapping[str, Any]) -> Run:
    """Check a notebook's parameters, found by name in `scope` (its globals), and begin its run.

    Raises ParameterError naming the first wrong one. A run whose parameters differ from its profile, seeds and
    places apart, is measured but not judged.
    """
    path = parameters.notebooks_folder() / f"{notebook}.ipynb"
    known = parameters.contract(path)
    values = parameters.check_all(known, {name: scope[name] for name in known}, where=notebook)
    profile = {name: p.default for name, p in known.items()} | parameters.profile_values(values["profile"], path)
    same = all(values[name] == profile[name] for name in known if name not in NOT_JUDGED)
    run = Run(notebook, values, judged=same)
    where = run.out_dir if on_drive(notebook, values) else "a temporary folder"
    where = values["out_dir"] or where
    print(
        f"profile {run.profile}{'' if same else ' (changed: numbers are not judged)'} · seed {run.seed} · "
        f"{describe_device(run.device)}, {torch.get_num_threads()} threads · torch {torch.__version__} · "
        f"results in {where}"
    )
    if hint := _of_colab(run):
        print(hint)
    return run


class Rows:
    """Rows under a header, as text or, in a notebook, as HTML."""

    header: tuple[str, ...]

    def rows(self) -> list[tuple[str, ...]]:
        raise NotImplementedError

    def __repr__(self) -> str:
        rows = [self.header, *self.rows()]
        widths = [max(len(row[k]) for row in rows) for k in range(len(self.header))]
        lines = ["  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows]
        return "\n".join([lines[0], "-" * sum(widths, 2 * len(widths) - 2), *lines[1:]])

    def _repr_html_(self) -> str:
        cell = "<{0} style='text-align:left'>{1}</{0}>"
        lines = [
            "".join(cell.format(tag, html.escape(text)) for text in row)
            for tag, row in [("th", self.header), *(("td", row) for row in self.rows())]
        ]
        return "<table>" + "".join(f"<tr>{line}</tr>" for line in lines) + "</table>"


class Table(Rows):
    """The key numbers: this run, the full runs' where there are some, truth or band, the report's value.

    full: key numbers of the full runs by id; those of the package when not given.
    """

    def __init__(self, numbers: list[KeyNumber], full: Mapping[str, KeyNumber] | None = None):
        full = full_run() if full is None else full
        self.numbers, self.full = numbers, {n.id: full[n.id] for n in numbers if n.id in full}
        middle = ("full run",) if self.full else ()
        self.header = ("quantity", "this run", "n", *middle, "truth or band", "the report", "")

    def rows(self) -> list[tuple[str, ...]]:
        return [
            (f"{n.title} [{n.unit}]", with_error(n), f"{n.n:,}" if n.n else "",
             *((with_error(self.full.get(n.id)),) if self.full else ()),
             _target(n), plain(n.report), VERDICTS[n.passed])
            for n in self.numbers
        ]  # fmt: skip


class Errata(Rows):
    """Mistakes, each with the number it gives and the right one."""

    header = ("the mistake", "gives", "right", "unit")

    def __init__(self, mistakes: list[Erratum]):
        self.mistakes = mistakes

    def rows(self) -> list[tuple[str, ...]]:
        return [(m.mistake, plain(m.value), plain(m.right), m.unit) for m in self.mistakes]


def _text(function: Callable) -> str:
    try:
        return inspect.getsource(function)
    except (OSError, TypeError):  # no file and no cell has it
        return _bytecode(function.__code__) if hasattr(function, "__code__") else repr(function)


def _bytecode(code: CodeType) -> str:
    """As text, the functions inside included, without what differs from process to process."""
    inner = [_bytecode(const) if isinstance(const, CodeType) else repr(const) for const in code.co_consts]
    return f"{code.co_code.hex()} {code.co_names} {inner}"


def plain(value: float | None) -> str:
    """Four digits, a real minus sign, no exponent before ten million; empty for None."""
    if value is None:
        return ""
    return f"{value:{',.0f' if 1e4 <= abs(value) < 1e7 else ',.4g'}}".replace("-", "−").replace("inf", "∞")


def with_error(number: KeyNumber | None) -> str:
    """`value ± standard error`, as many digits as the error allows."""
    if number is None:
        return ""
    if not number.stderr or not math.isfinite(number.stderr):
        return plain(number.value)
    value, _, error = str(Estimate(number.value, number.stderr, 2)).split(" (")[0].partition(" ± ")
    return f"{float(value):,.{len(value.partition('.')[2])}f} ± {error}".replace("-", "−")


def _target(number: KeyNumber) -> str:
    if number.truth is not None:
        return plain(number.truth)
    low, high = plain(number.low), plain(number.high)
    if low and high:
        return f"{low} to {high}"
    return f"≥ {low}" if low else f"≤ {high}" if high else ""
