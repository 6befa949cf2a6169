"""`report.html`: one self-contained page about a run."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import jinja2

from . import keynumbers
from .training import write_whole


def write(out: Path) -> Path:
    """Write OUT/report.html from the ledger and the figures in `out`; returns its path."""
    ledger_file = out / keynumbers.LEDGER
    ledger = json.loads(ledger_file.read_text(encoding="utf-8")) if ledger_file.exists() else {"numbers": []}
    numbers = [keynumbers.KeyNumber(**n) for n in ledger["numbers"]]
    judged = [n for n in numbers if n.judged]
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).with_name("assets")), autoescape=True, trim_blocks=True
    )
    page = environment.get_template("report.html.j2").render(
        ledger=ledger,
        numbers=list(zip(numbers, keynumbers.Table(numbers).rows(), strict=True)),
        passed=sum(bool(n.passed) for n in judged),
        judged=len(judged),
        problems=_figures(out / "figures"),
        notebooks=sorted(path.name for path in out.glob("problem*.ipynb")),
    )
    write_whole(out / "report.html", page)
    return out / "report.html"


def _figures(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """Problem title → its figures with captions, in the order the notebook made them."""
    file = folder / "captions.json"
    captions = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    problems: dict[str, list[dict[str, Any]]] = {}
    for name, caption in captions.items():
        # PNG: a sheet of images as SVG holds the same pixels and is no sharper.
        content = base64.b64encode((folder / f"{name}.png").read_bytes()).decode()
        title = name.split("-")[0].replace("problem", "Problem ")
        problems.setdefault(title, []).append({"name": name, "caption": caption, "png": content})
    return dict(sorted(problems.items()))
