"""`labutils teach slides`: a deck for a lecture on each notebook, one HTML file, no network.

Texts and speaker notes are `slides/problemN_name.md`; figures, tables and numbers are taken from the notebook's stored
outputs when the deck is made, so they are those of the notebook as it is. A slide is what stands between two lines
`---`; what follows a line `???` in it is the speaker's:

    ## A heading {#c25 .side 2min}

    On $f_1$: <<printed("c05", "JSD(f1, f0) = {} nats")>> <<figure("c05")>>

    ???

    What to ask the class.

In braces stand the notebook's cell that the slide speaks of, how it is laid out, how long it takes. Between << and >>
stands a call of a method of `Source`.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import jinja2
import nbformat
from nbformat import NotebookNode

from .. import parameters
from ..exercises import EXERCISES
from ..training import write_whole
from . import npm

FOLDER = Path(__file__).with_name("slides")
WEB = Path(__file__).with_name("web")
GENERATOR = "labutils teach"  # which our pages name, and by which they are recognised
HEADING = re.compile(r"(#{1,2}) (?P<title>.+?) \{#(?P<cell>[\w-]+)(?P<layout>(?: \.\w+)*) (?P<minutes>\d)min\}\n")
NUMBER = r"[−+-]?\d[\d,]*(?:\.\d+)?(?:e[−+-]?\d+)?%?"
WITH_ERROR = rf"({NUMBER}(?: ± {NUMBER})?)"


@dataclass
class Slide:
    """html, notes: as HTML. start: minutes of the lecture gone before it. figures: each an `<img …>`."""

    title: str
    cell: str
    layout: str
    start: int
    minutes: int
    html: str = ""
    notes: str = ""
    figures: list[str] = field(default_factory=list)
    first: bool = False


@dataclass
class Source:
    """What a slide may take from its notebook. Each method raises ValueError naming what was looked for."""

    notebook: NotebookNode
    name: str
    figures: list[str] = field(default_factory=list)  # those asked for since it was last emptied

    def cell(self, id: str) -> NotebookNode:
        found = next((cell for cell in self.notebook.cells if cell.id == id), None)
        if found is None:
            raise ValueError(f"{self.name} has no cell {id}")
        return found

    def printed(self, id: str, pattern: str) -> str:
        """The number in the outputs of a cell where `pattern` has {}, with its ± if one follows; * is any number."""
        outputs = self.cell(id).get("outputs", [])
        text = "\n".join(
            o.text if o.output_type == "stream" else o.get("data", {}).get("text/plain", "") for o in outputs
        )
        regex = r"\s+".join(map(re.escape, pattern.split())).replace(r"\{\}", WITH_ERROR).replace(r"\*", NUMBER)
        found = set(re.findall(regex, text))
        if len(found) != 1:
            raise ValueError(f"{self.name}, cell {id} has {len(found)} numbers for {pattern!r}; expected one")
        return html.escape(found.pop().replace("-", "−"))

    def figure(self, id: str, k: int = 0) -> str:
        """The k-th picture of a cell; it is set beside or below the text."""
        data = [o for o in self.cell(id).get("outputs", []) if "image/png" in o.get("data", {})]
        if k >= len(data):
            raise ValueError(f"{self.name}, cell {id} has {len(data)} pictures; expected {k + 1}")
        alt = html.escape(data[k].metadata["image/png"]["alt"])
        png = "".join(data[k].data["image/png"].split())
        self.figures.append(f'<img src="data:image/png;base64,{png}" alt="{alt}">')
        return ""

    def table(self, id: str, rows: str = "", columns: tuple[int, ...] = ()) -> str:
        """The table of a cell; of it the rows in which the regular expression is found, and these columns."""
        found = [o.data["text/html"] for o in self.cell(id).get("outputs", []) if "text/html" in o.get("data", {})]
        if not found:
            raise ValueError(f"{self.name}, cell {id} has no table")
        lines = [re.findall("<t[hd].*?>(.*?)</t[hd]>", line) for line in re.findall("<tr>(.*?)</tr>", found[0])]
        body = [line for line in lines[1:] if re.search(rows, html.unescape(line[0]))]
        if not body:
            raise ValueError(f"{self.name}, cell {id}: no row of its table has {rows!r}")
        head, *body = ([line[k] for k in columns or range(len(line))] for line in (lines[0], *body))
        return f"<table>{''.join([_row('th', head), *(_row('td', line) for line in body)])}</table>"

    def mistakes(self, exercise: str) -> str:
        """What goes wrong in an exercise, for the notes."""
        known = EXERCISES[exercise]
        lines = [f"- *{mistake.title}*: {mistake.why}" for mistake in known.mistakes]
        return "\n".join([f"Exercise `{exercise}`, {known.points} points. What goes wrong:", "", *lines])

    def answer(self, id: str) -> str:
        """The model answer of a question, without its rubric, for the notes."""
        cell = self.cell(id)
        if "model-answer" not in cell.metadata.get("tags", []):
            raise ValueError(f"{self.name}, cell {id} is no model answer")
        return "**The answer.** " + cell.source.split("</summary>")[1].split("\n|")[0].strip()


def _row(tag: str, cells: list[str]) -> str:
    return f"<tr>{''.join(f'<{tag}>{cell}</{tag}>' for cell in cells)}</tr>"


def read(text: str, source: Source) -> list[Slide]:
    """The slides of a deck's text. ValueError, naming the slide, where its first line or a call does not fit."""
    environment = jinja2.Environment(
        variable_start_string="<<", variable_end_string=">>", block_start_string="<<%", comment_start_string="<<#"
    )
    calls = {name: getattr(source, name) for name in ("printed", "figure", "table", "mistakes", "answer")}
    slides: list[Slide] = []
    for k, part in enumerate(re.split(r"^---\n", text, flags=re.MULTILINE), 1):
        begins = HEADING.match(part.lstrip())
        if not begins:
            raise ValueError(f"{source.name}, slide {k}: expected ## Title {{#cell 2min}}, got {part.strip()[:60]!r}")
        source.cell(begins["cell"])
        shown, _, notes = part.lstrip()[begins.end() :].partition("\n???\n")
        start = slides[-1].start + slides[-1].minutes if slides else 0
        layout = begins["layout"].replace(".", "").strip()
        slide = Slide(begins["title"], begins["cell"], layout, start, int(begins["minutes"]), first=begins[1] == "#")
        source.figures.clear()
        slide.html, slide.notes = (markdown(environment.from_string(half).render(calls)) for half in (shown, notes))
        slide.figures = source.figures.copy()
        slides.append(slide)
    return slides


def markdown(text: str) -> str:
    """As HTML; formulas are left to MathJax. ValueError when what converts it is missing."""
    try:
        from nbconvert.filters.markdown_mistune import markdown2html_mistune
    except ImportError:
        raise ValueError("slides and site are made by nbconvert, which is missing: pip install nbconvert") from None
    return markdown2html_mistune(text).replace("&#182;", "")


def template(name: str) -> jinja2.Template:
    loader = jinja2.FileSystemLoader([WEB, WEB.parent])
    environment = jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.globals["npm"] = npm.text
    return environment.get_template(name)


def deck(path: Path) -> list[Slide]:
    """The slides for a notebook."""
    text = (FOLDER / f"{path.stem}.md").read_text(encoding="utf-8")
    return read(text, Source(nbformat.read(path, as_version=4), path.stem))


def decks(folder: Path | None = None) -> list[Path]:
    """The notebooks (of `folder`; else the package's) for which there is a deck."""
    return [path for path in parameters.notebooks(folder).values() if (FOLDER / f"{path.stem}.md").exists()]


def must_be_ours(paths: list[Path]) -> None:
    """ValueError when one of the files to write exists and is not from here."""
    for path in paths:
        if path.exists() and f'content="{GENERATOR}"' not in path.read_text(encoding="utf-8", errors="replace"):
            raise ValueError(f"{path} was not written by `{GENERATOR}`; give another --out, or move it away")


def build(out: Path, folder: Path | None = None) -> Iterator[Path]:
    """Write OUT/problemN_name.html, a deck for each notebook, one after the other."""
    must_be_ours([out / f"{path.stem}.html" for path in decks(folder)])
    out.mkdir(parents=True, exist_ok=True)
    for path in decks(folder):
        slides = deck(path)
        page = template("slides.html.j2").render(slides=slides, title=slides[0].title, generator=GENERATOR)
        write_whole(out / f"{path.stem}.html", page)
        yield out / f"{path.stem}.html"
