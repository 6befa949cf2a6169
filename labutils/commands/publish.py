"""`labutils publish`: finished runs into the figures, the package data and the README of a clone."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import keynumbers, parameters
from ..estimates import Estimate
from .report import problem_of
from .run import STATE

FULL_RUN = Path("labutils", "assets", "full_run.json")
BEGIN, END = "<!-- results: written by labutils publish -->\n", "<!-- end of results -->"

# The README's choice among the key numbers, in its order: plain words, and what a perfect model or estimate gives.
ROWS = {
    "p1.jsd.max_abs_error": ("Jensen–Shannon divergence of two parallel lines, largest error", "0"),
    "p1.wasserstein.max_abs_error": ("Wasserstein distance of the lines, largest error", "0"),
    "p1.jsd.f1_f0": ("Jensen–Shannon divergence of a law with two peaks from the normal", ""),
    "p1.wasserstein.f1_f0": ("Wasserstein distance of a law with two peaks from the normal", ""),
    "p1.density.l1": ("density of that law from a discriminator, L1 error", "0"),
    "p2.elbo.valid": ("VAE, ELBO, validation", ""),
    "p2.elbo.test": ("VAE, ELBO, test", ""),
    "p2.loglik.valid": ("VAE, log-likelihood with 200 codes, validation", ""),
    "p2.loglik.test": ("VAE, log-likelihood with 200 codes, test", ""),
    "p2.reference.loglik.test": ("shipped VAE, log-likelihood with 200 codes, test", ""),
    "p3.reference.ratio.gan": ("shipped GAN, FID over that of real images", "1"),
    "p3.reference.ratio.vae": ("shipped VAE with calibrated variance, FID over that of real images", "1"),
    "p3.reference.ratio.vae_fitted": ("the same, with a prior fitted to its codes", "1"),
    "p3.reference.ratio.vae_unit": ("shipped VAE with variance 1, FID over that of real images", "1"),
    "p3.reference.precision.gan": ("shipped GAN, precision over that of real images", "1"),
    "p3.reference.recall.gan": ("shipped GAN, recall over that of real images", "1"),
}


class PublishError(RuntimeError):
    """Something stands in the way; nothing was written. The message says what it is and what to do."""


@dataclass(frozen=True)
class Finished:
    """A run folder whose notebooks all finished: its state by notebook, its ledger, its captions by figure."""

    folder: Path
    notebooks: dict[str, dict[str, Any]]
    ledger: dict[str, Any]
    captions: dict[str, str]


def read(folder: Path) -> Finished:
    """A finished run. PublishError naming what is missing, damaged or unfinished in the folder."""
    again = f"`labutils run --out {folder}` makes or finishes a run"
    content = []
    for name in (STATE, keynumbers.LEDGER, "figures/captions.json"):
        try:
            content.append(json.loads((folder / name).read_text(encoding="utf-8")))
        except FileNotFoundError:
            raise PublishError(f"{folder} is no finished run: it has no {name}; {again}") from None
        except ValueError as error:
            raise PublishError(f"{folder / name} is damaged ({error})") from None
    state, ledger, captions = content
    counted = {number["notebook"] for number in ledger["numbers"]}
    for name, entry in state["notebooks"].items():
        if entry["state"] != "finished" or name not in counted:
            raise PublishError(f"{folder}: {name} is {entry['state']} or has no key numbers; {again}")
    for figure in captions:
        if not (folder / "figures" / f"{figure}.png").exists():
            raise PublishError(f"{folder}: the picture figures/{figure}.png is missing")
        if not any(problem_of(name) == problem_of(figure) for name in state["notebooks"]):
            raise PublishError(f"{folder}: the figure {figure} belongs to none of its notebooks")
    return Finished(folder, state["notebooks"], ledger, captions)


def merge(values: Iterable[Any]) -> Any:
    """One value for several ledgers': lists joined, objects merged key by key, the rest as it is or `a / b`."""
    values = [value for value in values if value is not None]
    if values and all(isinstance(value, Mapping) for value in values):
        return {key: merge(value.get(key) for value in values) for key in dict.fromkeys(k for v in values for k in v)}
    if values and all(isinstance(value, list) for value in values):
        return [item for value in values for item in value]
    different = list(dict.fromkeys(json.dumps(value) for value in values))
    return json.loads(different[0]) if len(different) == 1 else " / ".join(different).replace('"', "") or None


def _one_ledger(found: list[Finished]) -> dict[str, Any]:
    """The runs' ledgers as one. PublishError when they do not belong together."""
    for key in ("profile", "seed"):
        if len({run.ledger[key] for run in found}) > 1:
            each = ", ".join(f"{run.ledger[key]} ({run.folder})" for run in found)
            raise PublishError(f"the runs differ in their {key}: {each}; publish runs of one {key}")
    owner: dict[str, Path] = {}
    for run in found:
        for name in run.notebooks:
            if name in owner:
                raise PublishError(f"{name} is in {owner[name]} and in {run.folder}; give each notebook once")
            owner[name] = run.folder
    ledger = merge(run.ledger for run in found)
    for rows in (ledger["numbers"], ledger.get("errata") or []):
        rows.sort(key=lambda row: row["notebook"])
    for entry in ledger["data"].values():  # a folder on somebody's machine tells a reader nothing
        entry["source"] = re.sub(r"^from .*?(?=, for |$)", "from files in data_dir", entry["source"])
    return ledger


def _about(run: Finished, name: str, clone: Path) -> dict[str, Any]:
    """Where one notebook's results come from. `changed`: parameter → [the profile's value, the run's]."""
    notebook, ledger = clone / "notebooks" / f"{name}.ipynb", run.ledger
    if not notebook.exists():
        raise PublishError(f"{run.folder} holds a run of {name}, and {clone} has no such notebook")
    profile = {key: p.default for key, p in parameters.contract(notebook).items()}
    profile |= parameters.profile_values(ledger["profile"], notebook)
    used = {k: v for k, v in run.notebooks[name]["parameters"].items() if k not in parameters.COMMON}
    return {
        **{key: ledger.get(key) for key in ("device", "hardware", "threads", "versions", "commit")},
        "code": run.notebooks[name]["code"],
        **{key: ledger.get(key, {}).get(problem_of(name)) for key in ("seconds", "memory_mib", "cuda_memory_mib")},
        "parameters": used,
        "changed": {key: [profile.get(key), value] for key, value in used.items() if profile.get(key) != value},
    }


def results(ledger: Mapping[str, Any], manifest: Mapping[str, Any]) -> str:
    """The README's results, Markdown: the chosen key numbers, and what they were measured with."""
    known = {number["id"]: number for number in ledger["numbers"]}
    which = "full run" if manifest["profile"] == "gpu" else f"{manifest['profile']} profile"
    lines = [f"| | {which} | exact or ideal | the report |", "|---|---|---|---|"]
    for id, (words, ideal) in ROWS.items():
        if id not in known:
            continue
        number = known[id]
        value, stderr = float(number["value"]), float(number["stderr"] or 0)  # nan and inf stand there as text
        value = str(Estimate(value, stderr, 2)).split(" (")[0] if stderr > 0 else f"{value:.3g}"
        if number["passed"] is False:
            value += " (outside its band)"
        exact = ideal if number["truth"] is None else f"{number['truth']:.4g}"
        report = "" if number["report"] is None else f"{number['report']:.4g}"
        unit = f" [{number['unit']}]" if number["unit"] not in ("floors", "ratio") else ""
        cells = " | ".join((value, exact, report)).replace("-", "−")
        lines.append(f"| {words}{unit} | {cells} |")
    lines += ["", f"Profile `{manifest['profile']}`, seed {manifest['seed']}."]
    for name, about in manifest["notebooks"].items():
        where = about["device"] if about["device"] != "cpu" else about["hardware"] or "cpu"
        if about["device"] == "cpu" and (threads := about["threads"]):  # a time on one thread is no time on two
            where += f", {threads} thread{'s' * (threads != 1)}"
        line = f"Problem {problem_of(name)[len('problem') :]}: {about['seconds'] / 60:.1f} minutes on {where}"
        changed = [f"`{key}` {_plain(new)} in place of {_plain(old)}" for key, (old, new) in about["changed"].items()]
        lines[-1] += f" {line}{', with ' + ', '.join(changed) if changed else ''}."
    return "\n".join(lines) + "\n"


def _plain(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else str(value)


def with_results(readme: str, table: str) -> str:
    """The README's text with `table` between its two marks. PublishError unless it has each mark once."""
    if readme.count(BEGIN) != 1 or readme.count(END) != 1 or readme.index(BEGIN) > readme.index(END):
        raise PublishError(f"README.md must have the lines {BEGIN.strip()} and {END} once each, in this order")
    before, rest = readme.split(BEGIN)
    return before + BEGIN + "\n" + table + "\n" + END + rest.split(END)[1]


def publish(folders: list[Path], clone: Path) -> list[str]:
    """Write what the runs in `folders` found into a clone; returns lines that say what was done.

    The runs replace what was published before, as a whole: pictures, ledger and manifest in figures/, the ledger
    as package data, the README's results. Every check and every picture's content comes before the first change,
    and a file in figures/ that no manifest vouches for is neither replaced nor removed. Interrupted between two
    files, the same call completes it. Raises PublishError.
    """
    found = [read(folder) for folder in folders]
    ledger = _one_ledger(found)
    figures = clone / "figures"
    pictures, entries = {}, []
    for run in found:
        for name, caption in run.captions.items():
            content = (run.folder / "figures" / f"{name}.png").read_bytes()
            pictures[figures / f"{name}.png"] = content
            notebook = next(n for n in run.notebooks if problem_of(n) == problem_of(name))
            digest = hashlib.sha256(content).hexdigest()
            entries.append({"file": f"{name}.png", "sha256": digest, "notebook": notebook, "caption": caption})
    manifest = {
        "profile": ledger["profile"],
        "seed": ledger["seed"],
        "notebooks": dict(sorted((n, _about(run, n, clone)) for run in found for n in run.notebooks)),
        "data": ledger["data"],
        "figures": sorted(entries, key=lambda entry: entry["notebook"]),
    }
    stale = _replaceable(figures, pictures) - set(pictures)
    try:
        readme = with_results((clone / "README.md").read_text(encoding="utf-8"), results(ledger, manifest))
    except FileNotFoundError:
        raise PublishError(f"{clone} has no README.md; expected a clone of the bundle") from None
    numbers = _json(ledger)
    texts = {figures / keynumbers.LEDGER: numbers, clone / FULL_RUN: numbers, clone / "README.md": readme.encode()}
    _write(pictures | texts | {figures / "manifest.json": _json(manifest)})
    for path in stale:
        path.unlink()
    return _what_was_done(figures, pictures, stale, ledger, readme)


def _json(content: Mapping[str, Any]) -> bytes:
    return (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode()


def _replaceable(figures: Path, pictures: Mapping[Path, bytes]) -> set[Path]:
    """The pictures published before. PublishError when one of them, or one in a new one's place, is another."""
    file = figures / "manifest.json"
    try:
        entries = json.loads(file.read_text(encoding="utf-8"))["figures"] if file.exists() else []
        published = {figures / entry["file"]: entry["sha256"] for entry in entries}
    except (ValueError, KeyError, TypeError) as error:
        raise PublishError(f"{file} is damaged ({error}); restore it first") from None
    for path in {*published, *pictures}:
        content = path.read_bytes() if path.exists() else None
        if content not in (None, pictures.get(path)) and hashlib.sha256(content).hexdigest() != published.get(path):
            raise PublishError(f"{path} is not a picture as it was published; move it away first")
    return {path for path in published if path.exists()}


def _write(contents: Mapping[Path, bytes]) -> None:
    """Write all files, or none: a full disk shows before the first one is replaced."""
    parts = {path: path.with_name(path.name + ".part") for path in contents}
    try:
        for path, part in parts.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            part.write_bytes(contents[path])
        for path, part in parts.items():
            os.replace(part, path)
    finally:
        for part in parts.values():
            with contextlib.suppress(OSError):  # what went wrong above is what the user must hear of
                part.unlink()


def _what_was_done(
    figures: Path, pictures: Mapping[Path, bytes], stale: set[Path], ledger: Mapping[str, Any], readme: str
) -> list[str]:
    total = sum(map(len, pictures.values())) / 1e6
    lines = [f"{figures}: {len(pictures)} pictures ({total:.1f} MB), {keynumbers.LEDGER}, manifest.json"]
    lines += [f"{path}: removed, the new run does not have it" for path in sorted(stale)]
    lines += [f"{path}: {len(c) / 1e6:.1f} MB; a picture should stay below 1 MB" for path, c in pictures.items()
              if len(c) > 1e6]  # fmt: skip
    ours = {*pictures, figures / keynumbers.LEDGER, figures / "manifest.json", figures / "README.md"}
    lines += [f"{path}: left alone, no run made it" for path in sorted(figures.iterdir()) if path not in ours]
    named = set(re.findall(r"\]\(figures/([^)]*\.png)\)", readme)) - {path.name for path in pictures}
    lines += [f"README.md names figures/{name}, which these runs did not make" for name in sorted(named)]
    lines += [f"{n['id']} lies outside its band" for n in ledger["numbers"] if n["passed"] is False]
    return [*lines, f"{FULL_RUN}: an installed package now shows these {len(ledger['numbers'])} numbers",
            "README.md: the results between its two marks"]  # fmt: skip


def around(folder: Path) -> Path:
    """The clone of the bundle that `folder` lies in. PublishError when there is none."""
    for candidate in (folder.resolve(), *folder.resolve().parents):
        if (candidate / "labutils" / "bands.yaml").exists() and (candidate / "notebooks").is_dir():
            return candidate
    raise PublishError(f"there is no clone of the bundle around {folder}; name one with --into")
