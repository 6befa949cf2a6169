"""A notebook's run and its ledger of judged numbers.

A notebook starts with `run = keynumbers.start("problem2_vae", globals())`, which checks its parameters, and
ends with `run.table()` and `run.verdicts()`. What a number may be stands in bands.yaml.
"""

from __future__ import annotations

import atexit
import html
import json
import math
import platform
import shutil
import tempfile
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
import yaml

from . import __version__, data, parameters, plots, training
from .estimates import Estimate

# A run may change these and still be judged: they are not what a band depends on.
NOT_JUDGED = ("seed", "device", "data_dir", "out_dir")
LEDGER = "key_numbers.json"


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


class Run:
    """One execution of one notebook: its checked parameters, its device and folders, its ledger.

    out_dir is the folder of `labutils run`; when the parameter is empty, a temporary one that goes with the
    kernel, so that reading a notebook leaves nothing behind.
    """

    def __init__(self, notebook: str, values: Mapping[str, Any], judged: bool):
        self.notebook, self.parameters, self.judged = notebook, dict(values), judged
        self.profile, self.seed = values["profile"], values["seed"]
        self.device = training.pick_device(values["device"])
        self.data_dir = data.data_folder(values["data_dir"])
        self.started = time.monotonic()
        if values["out_dir"]:
            self.out_dir = Path(values["out_dir"]).expanduser().resolve()
            self.out_dir.mkdir(parents=True, exist_ok=True)
        else:
            self.out_dir = Path(tempfile.mkdtemp(prefix="labutils-"))
            atexit.register(shutil.rmtree, self.out_dir, ignore_errors=True)
        self.numbers: dict[str, KeyNumber] = {}
        self.data: dict[str, dict[str, Any]] = {}

    @property
    def figures(self) -> Path:
        return self.out_dir / "figures"

    def checkpoint(self, name: str) -> Path:
        """File of one training's checkpoint; training resumes from it when it is there."""
        return self.out_dir / "checkpoints" / f"{self.notebook}-{name}.pt"

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

    def table(self) -> Table:
        return Table(list(self.numbers.values()))

    def verdicts(self) -> None:
        """Print one discrete line a number (what nbval compares) and write the ledger."""
        self.save()
        for number in self.numbers.values():
            word = {True: "PASS", False: "FAIL", None: "not judged"}[number.passed]
            print(word, number.id)

    def save(self) -> None:
        """Merge this notebook's numbers into OUT_DIR/key_numbers.json; the other notebooks' stay."""
        file = self.out_dir / LEDGER
        ledger = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
        others = [n for n in ledger.get("numbers", []) if n["notebook"] != self.notebook]
        problem = self.notebook.split("_")[0]
        own = {name: value for name, value in self.parameters.items() if name not in parameters.COMMON}
        seconds = ledger.get("seconds", {}) | {problem: round(time.monotonic() - self.started, 1)}
        content = {
            "profile": self.profile, "seed": self.seed, "device": describe_device(self.device),
            "threads": torch.get_num_threads(), "versions": versions(),
            "data": ledger.get("data", {}) | self.data,
            "parameters": ledger.get("parameters", {}) | {self.notebook: own},
            "seconds": dict(sorted(seconds.items())),
            "numbers": sorted([*others, *map(asdict, self.numbers.values())], key=lambda n: n["notebook"]),
        }  # fmt: skip
        training.write_whole(file, json.dumps(content, indent=1) + "\n")


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
    where = values["out_dir"] or "a temporary folder"
    print(
        f"profile {run.profile}{'' if same else ' (changed: numbers are not judged)'} · seed {run.seed} · "
        f"{describe_device(run.device)}, {torch.get_num_threads()} threads · torch {torch.__version__} · "
        f"results in {where}"
    )
    return run


class Table:
    """The key numbers as text or, in a notebook, as HTML: this run, truth or band, the report's value."""

    header = ("quantity", "this run", "n", "truth or band", "the report", "")

    def __init__(self, numbers: list[KeyNumber]):
        self.numbers = numbers

    def rows(self) -> list[tuple[str, ...]]:
        return [
            (f"{n.title} [{n.unit}]", _with_error(n.value, n.stderr), f"{n.n:,}" if n.n else "", _target(n),
             _plain(n.report), {True: "PASS", False: "FAIL", None: "not judged"}[n.passed])
            for n in self.numbers
        ]  # fmt: skip

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


def _plain(value: float | None) -> str:
    return "" if value is None else f"{value:,.4g}".replace("-", "−")


def _with_error(value: float, stderr: float | None) -> str:
    text = f"{value:.4g}" if not stderr else str(Estimate(value, stderr, 2)).split(" (")[0]
    return text.replace("-", "−")


def _target(number: KeyNumber) -> str:
    if number.truth is not None:
        return _plain(number.truth)
    low, high = _plain(number.low), _plain(number.high)
    if low and high:
        return f"{low} to {high}"
    return f"≥ {low}" if low else f"≤ {high}" if high else ""
