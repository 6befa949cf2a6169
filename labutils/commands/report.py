"""`report.html`: one self-contained page about a run; `comparison.html`: several runs side by side."""

from __future__ import annotations

import base64
import html
import json
import math
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jinja2

from .. import keynumbers, parameters
from ..keynumbers import KeyNumber
from ..training import locked, write_whole
from .run import read_state

COMPARISON = "labutils report, comparison"  # the generator a comparison page names, by which it is recognised


@dataclass
class Problem:
    """What the report shows of one notebook. key: problem1; trouble: why it did not finish, empty when it did."""

    key: str
    title: str
    asks: str = ""  # HTML
    trouble: str = ""
    notebooks: list[str] = field(default_factory=list)  # the executed ones that are there
    numbers: list[tuple[KeyNumber, dict[str, str]]] = field(default_factory=list)
    sections: list[tuple[str, list[dict[str, Any]]]] = field(default_factory=list)  # heading, its figures
    errata: list[tuple[str, ...]] = field(default_factory=list)


def write(out: Path) -> Path:
    """Write OUT/report.html from the ledger, the figures and the notebooks in `out`; returns its path."""
    with locked(out / "report.html"):  # several runs may end in one folder at this moment
        return _write(out, out / "report.html")


def _write(out: Path, target: Path) -> Path:
    ledger, numbers = read(out)
    table = keynumbers.Table(numbers)
    problems = _problems(out, ledger, table)
    page = _template("report.html.j2").render(
        ledger=ledger,
        columns=table.header[1:-1],
        problems=problems,
        failed=[n for n in numbers if n.passed is False],
        judged=sum(n.judged for n in numbers),
        numbers=len(numbers),
        notebooks=[name for problem in problems for name in problem.notebooks],
    )
    write_whole(target, page)
    return target


def read(out: Path) -> tuple[dict[str, Any], list[KeyNumber]]:
    """A run's ledger, empty when no notebook has written one, and its key numbers. ValueError when damaged."""
    file = out / keynumbers.LEDGER
    try:
        ledger = keynumbers.read(file) if file.exists() else {"numbers": []}
        return ledger, [KeyNumber(**n) for n in ledger["numbers"]]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{file} is damaged ({error}); make the run again with `labutils run --force`") from error


def _template(name: str) -> jinja2.Template:
    loader = jinja2.FileSystemLoader(Path(__file__).parent)
    return jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True).get_template(name)


def _problems(out: Path, ledger: dict[str, Any], table: keynumbers.Table) -> list[Problem]:
    """All that is known of each notebook, in order of the problems."""
    state = (read_state(out) or {"notebooks": {}})["notebooks"]
    states = {problem_of(name): entry["state"] for name, entry in state.items()}
    figures, errata = _figures(out / "figures"), ledger.get("errata", [])
    names = sorted({*state, *(n.notebook for n in table.numbers), *(e["notebook"] for e in errata)})
    keys = sorted({*figures, *map(problem_of, names)})
    problems = {key: Problem(key, key.replace("problem", "Problem ")) for key in keys}
    for number, row in zip(table.numbers, table.rows(), strict=True):
        problems[problem_of(number.notebook)].numbers.append((number, dict(zip(table.header, row, strict=True))))
    for entry in errata:
        mistake = keynumbers.Erratum(**{name: value for name, value in entry.items() if name != "notebook"})
        problems[problem_of(entry["notebook"])].errata += keynumbers.Errata([mistake]).rows()
    for key, problem in problems.items():
        own = [f"{name}.ipynb" for name in names if problem_of(name) == key]  # a copy beside them is not the run's
        problem.notebooks = [name for name in own if (out / name).exists()]
        cells = _cells([folder / name for folder in (out, parameters.notebooks_folder()) for name in own])
        problem.title, problem.asks = task(cells, problem.title)
        problem.trouble = _trouble(states.get(key, ""), cells)
        headings = _headings(cells)
        for k, figure in enumerate(figures.get(key, []), 1):
            heading = headings.get(figure["caption"], "")
            if not problem.sections or problem.sections[-1][0] != heading:
                problem.sections.append((heading, []))
            problem.sections[-1][1].append(figure | {"number": f"{key.removeprefix('problem')}.{k}"})
    return list(problems.values())


def problem_of(name: str) -> str:
    """problem2 of the notebook problem2_vae and of the figure problem2-curves."""
    return re.split("[_-]", name)[0]


def _figures(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """Problem → its figures with captions, in the order the notebook made them; files that are gone are left out."""
    file = folder / "captions.json"
    try:
        captions = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    except ValueError as error:
        raise ValueError(f"{file} is damaged ({error})") from error
    figures: dict[str, list[dict[str, Any]]] = {}
    for name, caption in captions.items():
        # PNG: a sheet of images as SVG holds the same pixels and is no sharper.
        if (picture := folder / f"{name}.png").exists():
            png = picture.read_bytes()
            figures.setdefault(problem_of(name), []).append(
                {"name": name, "caption": caption, "png": base64.b64encode(png).decode(),
                 "width": int.from_bytes(png[16:20], "big") // 2, "height": int.from_bytes(png[20:24], "big") // 2}
            )  # fmt: skip
    return figures


# --- what the notebook says -------------------------------------------------------------------------------


def _cells(paths: list[Path]) -> list[dict[str, Any]]:
    """Cells of the first notebook that can be read; none when there is none."""
    for path in paths:
        try:
            return json.loads(path.read_text(encoding="utf-8"))["cells"]
        except (OSError, ValueError, KeyError):
            continue  # cut while it was written
    return []


def task(cells: list[dict[str, Any]], title: str) -> tuple[str, str]:
    """Title and task: the first heading, and the paragraph that begins with **You will**."""
    for cell in cells:
        heading, _, text = "".join(cell["source"]).partition("\n")
        if cell["cell_type"] == "markdown" and heading.startswith("# "):
            task = re.search(r"^\*\*You will\*\* (.+)", text, re.MULTILINE)
            sentence = task[1][0].upper() + task[1][1:] if task else ""
            return heading.removeprefix("# "), markdown(sentence)
    return title, ""


def markdown(text: str) -> str:
    """**bold**, *emphasis* and `code` as HTML; formulas are left out, all else is escaped."""
    page = html.escape(re.sub(r"\s*\$[^$]+\$", "", text))
    for pattern, tag in ((r"\*\*(.+?)\*\*", "strong"), (r"\*(.+?)\*", "em"), ("`(.+?)`", "code")):
        page = re.sub(pattern, rf"<{tag}>\1</{tag}>", page)
    return page


def _headings(cells: list[dict[str, Any]]) -> dict[str, str]:
    """Caption → the section of the notebook that shows the figure."""
    heading, found = "", {}
    for cell in cells:
        if cell["cell_type"] == "markdown":
            titles = re.findall("^## (.+)", "".join(cell["source"]), re.MULTILINE)
            heading = titles[-1] if titles else heading
        for output in cell.get("outputs", []):
            caption = "".join(output.get("data", {}).get("text/markdown", ""))
            found[caption.strip("*")] = heading
    return found


def _trouble(state: str, cells: list[dict[str, Any]]) -> str:
    """Why a notebook did not finish, from the run's state and the error in its outputs."""
    if state == "running":
        return "This notebook was cut before its end, or still runs; below is what it reached."
    if state != "failed":
        return ""
    errors = [o for cell in cells for o in cell.get("outputs", []) if o["output_type"] == "error"]
    reason = f" with {errors[0]['ename']}: {errors[0]['evalue']}" if errors else ""
    return f"This notebook failed{reason}. Below is what it reached."


# --- several runs -----------------------------------------------------------------------------------------


def compare(folders: list[Path], target: Path) -> Path:
    """Write the runs in `folders` side by side to `target`; differences are taken to the first.

    Raises ValueError for a damaged ledger, a folder given twice, or a `target` that is no comparison page.
    """
    if target.exists() and f'content="{COMPARISON}"' not in target.read_text(encoding="utf-8", errors="replace"):
        raise ValueError(f"{target} was not written by a comparison; choose another file with --out")
    names, found = _names(folders), [read(folder) for folder in folders]
    by_id = [{n.id: n for n in numbers} for _, numbers in found]
    rows = [
        (next(run[id] for run in by_id if id in run), [_compared(by_id[0].get(id), run.get(id)) for run in by_id])
        for id in dict.fromkeys(id for run in by_id for id in run)
    ]
    pictures = [
        {figure["name"]: figure for of_problem in _figures(folder / "figures").values() for figure in of_problem}
        for folder in folders
    ]
    everywhere = dict.fromkeys(name for run in pictures for name in run)
    shared = [name for name in everywhere if sum(name in run for run in pictures) > 1]
    page = _template("comparison.html.j2").render(
        generator=COMPARISON, names=names, rows=rows, differing=_differing([ledger for ledger, _ in found]),
        figures=[(name, [run.get(name) for run in pictures]) for name in shared],
        single=[name for name in everywhere if name not in shared],
    )  # fmt: skip
    write_whole(target, page)
    return target


def _names(folders: list[Path]) -> list[str]:
    """The shortest ends of the paths that tell the folders apart."""
    paths = [folder.resolve() for folder in folders]
    for path in paths:
        if paths.count(path) > 1:
            raise ValueError(f"{path.name} is given twice; a comparison needs different runs")
    for length in range(1, max(len(path.parts) for path in paths) + 1):
        names = ["/".join(path.parts[-length:]) for path in paths]
        if len(set(names)) == len(names):
            break
    return names


def _compared(first: KeyNumber | None, number: KeyNumber | None) -> dict[str, Any] | None:
    """A cell of the comparison; z: the difference to the first run in joint standard errors, where both have one."""
    if number is None:
        return None
    z = None
    if first is not None and first is not number and first.stderr and number.stderr:
        z = (number.value - first.value) / math.hypot(first.stderr, number.stderr)
    finite = z is not None and math.isfinite(z)
    text = f"{z:+.1f}".replace("-", "−") if finite else ""
    return {"value": keynumbers.with_error(number), "verdict": keynumbers.VERDICTS[number.passed], "z": text}


def _differing(ledgers: list[dict[str, Any]]) -> list[tuple[str, list[str]]]:
    """What the ledgers say of the circumstances, one row each, where they do not all say the same."""
    told = [_circumstances(ledger) for ledger in ledgers]
    names = dict.fromkeys(name for run in told for name in run)
    rows = [(name, [run.get(name, "–") for run in told]) for name in names]
    return [(name, values) for name, values in rows if len({v for v in values if v != "–"}) > 1]


def _circumstances(ledger: dict[str, Any]) -> dict[str, str]:
    told = {name: ledger[name] for name in ("profile", "seed", "device", "hardware", "threads") if name in ledger}
    told["commit"] = ledger.get("commit", "")[:12] or "not recorded"
    told["notebooks"] = ", ".join(sorted(map(problem_of, ledger.get("parameters", {}))))
    told |= ledger.get("versions", {})
    told |= {f"data {name}": entry["sha256"][:12] for name, entry in ledger.get("data", {}).items()}
    for notebook, values in ledger.get("parameters", {}).items():
        told |= {f"{problem_of(notebook)}: {name}": value for name, value in values.items()}
    told |= {f"{key}: seconds taken": seconds for key, seconds in ledger.get("seconds", {}).items()}
    return {name: str(value) for name, value in told.items()}
