"""`labutils teach site`: notebooks, report, slides, glossary and search as static pages.

They lie in one folder and name one another by relative addresses only, so they work from a folder, from any path of a
server and without a network.
"""

from __future__ import annotations

import ast
import json
import re
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import nbformat
import yaml
from nbformat import NotebookNode

from .. import keynumbers, parameters
from ..training import write_whole
from . import npm, report, slides

PACKAGE = Path(__file__).parents[1]
TEMPLATE = "labutils"  # of nbconvert, in web/


@dataclass(frozen=True)
class Entry:
    """A place that search finds. where: what it is a part of; text: what it says."""

    title: str
    where: str
    address: str
    text: str


def must_be_free(out: Path) -> None:
    """ValueError when `out` holds something that is not from here."""
    home = out / "index.html"
    if out.exists() and any(out.iterdir()) and not (home.exists() or (out / "explore.html").exists()):
        raise ValueError(f"{out} holds something else; give another --out")
    slides.must_be_ours([home])


def build(out: Path, run: Path | None = None, folder: Path | None = None) -> Iterator[Path]:
    """Write the site into `out`, a new folder or one of before; yields its pages.

    run: the run whose report it has, else the published one; folder: of the notebooks, else the package's. An
    explore.html that lies in `out` is linked.
    """
    must_be_free(out)
    notebooks = {path.stem: nbformat.read(path, as_version=4) for path in parameters.notebooks(folder).values()}
    (out / "static").mkdir(parents=True, exist_ok=True)
    decks = {path.stem for path in slides.build(out / "slides", folder)}
    has = {"decks": decks, "report": _report(out, run), "explore": (out / "explore.html").exists()}
    index: list[Entry] = []
    for name, notebook in notebooks.items():
        yield _notebook(out, name, notebook, has)
        index += sections(name, notebook)
    terms = glossary(notebooks)
    for module in sorted({term["module"] for entries in terms.values() for term in entries}):
        yield _page(out, f"source/{module}.html", f"labutils.{module}", has, code=source(module))
    yield _page(out, "glossary.html", "Glossary", has, terms=terms, titles=_titles(notebooks))
    index += [
        Entry(plain(term["symbol"]), "Glossary", f"glossary.html#{term['id']}", f"{term['meaning']} {term['function']}")
        for entries in terms.values() for term in entries
    ]  # fmt: skip
    yield _page(out, "search.html", "Search", has)
    found = [[entry.title, entry.where, entry.address, entry.text] for entry in index]
    write_whole(out / "static" / "index.js", f"window.SITE = {json.dumps(found, ensure_ascii=False)};\n")
    write_whole(out / "static" / "search.js", (slides.WEB / "search.js").read_text(encoding="utf-8"))
    write_whole(out / "static" / "mathjax.js", npm.text("mathjax.js"))
    yield _page(out, "index.html", "Deep generative lab", has, titles=_titles(notebooks), tasks=_tasks(notebooks))


def _page(out: Path, address: str, title: str, has: dict[str, object], **content: object) -> Path:
    (out / address).parent.mkdir(parents=True, exist_ok=True)
    kind = address.partition("/")[0].removesuffix(".html")
    page = slides.template("site.html.j2").render(
        kind=kind, title=title, has=has, up="../" * address.count("/"), generator=slides.GENERATOR, **content
    )
    write_whole(out / address, page)
    return out / address


def _titles(notebooks: dict[str, NotebookNode]) -> dict[str, str]:
    return {name: report.task(notebook.cells, name)[0] for name, notebook in notebooks.items()}


def _tasks(notebooks: dict[str, NotebookNode]) -> dict[str, str]:
    return {name: report.task(notebook.cells, name)[1] for name, notebook in notebooks.items()}


def _notebook(out: Path, name: str, notebook: NotebookNode, has: dict[str, object]) -> Path:
    """A notebook's page, its figures as files in NAME_files/."""
    try:
        from nbconvert import HTMLExporter
    except ImportError:
        raise ValueError("slides and site are made by nbconvert, which is missing: pip install nbconvert") from None
    exporter = HTMLExporter(template_name=TEMPLATE, extra_template_basedirs=[str(slides.WEB)])
    exporter.register_preprocessor("nbconvert.preprocessors.ExtractOutputPreprocessor", enabled=True)
    resources = {"output_files_dir": f"{name}_files", "unique_key": name}
    body, resources = exporter.from_notebook_node(notebook, resources)
    (out / f"{name}_files").mkdir(exist_ok=True)
    for file, content in resources["outputs"].items():
        (out / file).write_bytes(content)
    headings = re.findall(r'<h2 id="([^"]+)">(.*?)(?:<a class="anchor|</h2>)', body, re.DOTALL)
    return _page(out, f"{name}.html", _titles({name: notebook})[name], has, body=body, headings=headings, name=name)


def _report(out: Path, run: Path | None) -> bool:
    """Write OUT/report.html of a run, else of the published one where there is a clone around; whether it is there."""
    published = parameters.notebooks_folder().parent / "figures"
    if run is None and not (published / keynumbers.LEDGER).exists():
        return False
    if run is not None and not (run / keynumbers.LEDGER).exists():
        raise ValueError(f"{run} holds no {keynumbers.LEDGER}; a run's folder is written by `labutils run --out DIR`")
    with tempfile.TemporaryDirectory() as scratch:
        shutil.copytree(run or published, scratch, dirs_exist_ok=True, ignore=shutil.ignore_patterns("checkpoints"))
        if run is None:
            shutil.copytree(published, Path(scratch, "figures"))
            listed = json.loads((published / "manifest.json").read_text(encoding="utf-8"))["figures"]
            captions = {figure["file"].removesuffix(".png"): figure["caption"] for figure in listed}
            Path(scratch, "figures", "captions.json").write_text(json.dumps(captions), encoding="utf-8")
        shutil.copy(report.write(Path(scratch)), out / "report.html")
        for path in Path(scratch).glob("problem*.ipynb"):
            shutil.copy(path, out)  # the report links them
    return True


def sections(name: str, notebook: NotebookNode) -> list[Entry]:
    """A notebook's sections, for search: heading, and its prose and captions without marks."""
    title, found = _titles({name: notebook})[name], []
    for cell in notebook.cells:
        text = cell.source if cell.cell_type == "markdown" else "\n".join(
            output.data["text/markdown"] for output in cell.outputs if "text/markdown" in output.get("data", {})
        )  # fmt: skip
        for part in re.split(r"^(?=#{1,3} )", text, flags=re.MULTILINE):
            heading = re.match(r"#{1,3} (.+)", part)
            if heading:
                found.append([heading[1], f"{name}.html#cell-id={cell.id}", part[heading.end() :]])
            elif found:
                found[-1][2] += f" {part}"
    return [Entry(plain(heading), title, address, plain(text)) for heading, address, text in found]


def plain(text: str) -> str:
    """Markdown without its marks, formulas as words: what search looks through and shows."""
    text = re.sub(
        r"\$\$.*?\$\$|<[^>]*>|\\(mathrm|mathbb|mathcal|operatorname|tfrac|text|big|[,;!])", " ", text, flags=re.DOTALL
    )
    return " ".join(re.sub(r"[*`#|$\\{}]", "", text).split())


def glossary(notebooks: dict[str, NotebookNode]) -> dict[str, list[dict[str, str]]]:
    """Notebook → its symbols. ValueError for a function or a cell that is not there."""
    known = yaml.safe_load((slides.WEB / "glossary.yaml").read_text(encoding="utf-8"))
    found: dict[str, list[dict[str, str]]] = {}
    for name in notebooks:
        cells = {cell.id for cell in notebooks[name].cells}
        for k, (symbol, meaning, function, cell) in enumerate(known.get(name, [])):
            if cell not in cells:
                raise ValueError(f"glossary.yaml, {symbol}: {name} has no cell {cell}")
            module, _, own = function.partition(".")
            term = {"id": f"{name}-{k}", "symbol": symbol, "meaning": meaning, "function": function, "module": module}
            term |= {"source": f"source/{module}.html#line-{line(module, own)}", "cell": f"{name}.html#cell-id={cell}"}
            found.setdefault(name, []).append(term)
    return found


def line(module: str, function: str) -> int:
    """The line on which a module of the package defines a function or class. ValueError when it does not."""
    path = PACKAGE / f"{module}.py"
    for node in ast.parse(path.read_text(encoding="utf-8")).body if path.exists() else []:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name == function:
            return node.lineno
    raise ValueError(f"labutils has no {module}.{function}")


def source(module: str) -> str:
    """A module as HTML, with a name for every line."""
    from pygments import highlight
    from pygments.formatters import HtmlFormatter
    from pygments.lexers import PythonLexer

    text = (PACKAGE / f"{module}.py").read_text(encoding="utf-8")
    code = highlight(text, PythonLexer(), HtmlFormatter(nowrap=True))
    lines = (f'<span id="line-{k}">{part}</span>' for k, part in enumerate(code.rstrip("\n").split("\n"), 1))
    return '<div class="highlight"><pre tabindex="0">' + "\n".join(lines) + "</pre></div>"
