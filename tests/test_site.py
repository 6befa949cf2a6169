"""The site: what is in it, that its links lead somewhere, and what is refused."""

from __future__ import annotations

import json
import re
import shutil
from html.parser import HTMLParser
from urllib.parse import unquote, urlsplit

import pytest
import yaml
from click.testing import CliRunner
from conftest import ROOT

from labutils import parameters
from labutils.commands import cli, site, slides

NAMES = [path.stem for path in parameters.notebooks().values()]
pytest.importorskip("nbconvert", reason="no nbconvert: pip install -e '.[site]'")


class Page(HTMLParser):
    """ids, and what a page refers to; pictures without an alternative text."""

    def __init__(self, path):
        super().__init__()
        self.ids, self.links, self.unsaid = set(), set(), []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attributes):
        known = dict(attributes)
        self.ids.add(known.get("id"))
        self.links |= {known[name] for name in ("href", "src", "action") if known.get(name)}
        if tag == "img" and not known.get("alt"):
            self.unsaid.append(attributes)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    out = tmp_path_factory.mktemp("site") / "a path" / "site"
    done = CliRunner().invoke(cli.main, ["teach", "site", "--out", str(out)])
    assert done.exit_code == 0, done.output
    return out


def test_it_has_all_its_pages(made):
    expected = {"index.html", "glossary.html", "search.html", "report.html", *(f"{name}.html" for name in NAMES)}
    assert expected <= {path.name for path in made.glob("*.html")}
    assert {path.stem for path in (made / "slides").iterdir()} == set(NAMES)
    assert len(list(made.glob("*_files/*.png"))) >= 30


def test_every_link_leads_somewhere_inside(made):
    """Relative addresses only: from a folder and from any path of a server they mean the same."""
    apart = {made / "report.html", *(made / "slides").iterdir()}  # complete in themselves, and large
    pages = {path: Page(path) for path in made.rglob("*.html") if path not in apart}
    wrong = []
    for path, page in pages.items():
        assert page.unsaid == [], path.name
        for link in page.links:
            address = urlsplit(link)
            target = (path.parent / unquote(address.path)).resolve() if address.path else path
            if address.scheme in ("http", "https", "data"):  # a source that the text cites; a favicon there is none of
                continue
            if not target.is_relative_to(made.resolve()) or address.path.startswith("/") or not target.exists():
                wrong.append(f"{path.name}: {link}")
            elif (
                address.fragment
                and target in pages
                and not pages[target].ids & {address.fragment, unquote(address.fragment)}
            ):
                wrong.append(f"{path.name}: {link} names no place")
    assert wrong == []


def test_search_knows_every_section_and_leads_to_it(made):
    index = json.loads((made / "static" / "index.js").read_text(encoding="utf-8").removeprefix("window.SITE = ")[:-2])
    titles = {title for title, *_ in index}
    for path in parameters.notebooks().values():
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        prose = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
        headings = re.findall(r"^#{1,3} (.+)", prose, re.MULTILINE)
        assert len(headings) > 5 and {site.plain(heading) for heading in headings} <= titles
    pages = {path.name: Page(path) for path in made.glob("*.html")}
    for title, _, address, text in index:
        page, _, place = address.partition("#")
        assert place in pages[page].ids, f"{title}: {address}"
        assert "$" not in text and "\\" not in text and "<" not in text.replace("< ", "")


def test_plain_words():
    assert site.plain("**You** see $\\mathrm{KL}(p \\,\\|\\, q)$ in `f(x)`,\n$$\nx + y\n$$\n<b>so</b>") == (
        "You see KL(p q) in f(x), so"
    )


def test_the_glossary_names_what_is_there():
    entries = yaml.safe_load((slides.WEB / "glossary.yaml").read_text(encoding="utf-8"))
    assert list(entries) == NAMES and sum(map(len, entries.values())) >= 40
    lines = (ROOT / "labutils" / "vae.py").read_text(encoding="utf-8").splitlines()
    assert lines[site.line("vae", "elbo") - 1].startswith("def elbo(")
    assert lines[site.line("vae", "Elbo") - 1].startswith("class Elbo(")
    assert f'<span id="line-{site.line("vae", "elbo")}"><span class="k">def</span>' in site.source("vae")
    for module, name in (("vae", "nothing"), ("nowhere", "elbo"), ("vae", "")):
        with pytest.raises(ValueError, match=rf"labutils has no {module}\.{name}"):
            site.line(module, name)


def test_the_glossary_knows_every_module_of_the_methods():
    entries = yaml.safe_load((slides.WEB / "glossary.yaml").read_text(encoding="utf-8"))
    modules = {entry[2].partition(".")[0] for of_notebook in entries.values() for entry in of_notebook}
    assert {"divergences", "vae", "gan", "fid", "latent", "priors", "distributions"} <= modules


def test_a_runs_report_in_place_of_the_published_one(made, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    shutil.copy(ROOT / "figures" / "key_numbers.json", run)
    shutil.copy(parameters.notebooks_folder() / f"{NAMES[0]}.ipynb", run)
    before = {path.name for path in run.iterdir()}
    assert list(site.build(tmp_path / "site", run, folder=run))
    page = (tmp_path / "site" / "report.html").read_text(encoding="utf-8")
    assert "<img" not in page and "<img" in (made / "report.html").read_text(encoding="utf-8")  # it had no figures
    assert f'href="{NAMES[0]}.ipynb"' in page and (tmp_path / "site" / f"{NAMES[0]}.ipynb").exists()
    assert {path.name for path in run.iterdir()} == before


def test_what_is_refused(tmp_path):
    def said(*more):
        done = CliRunner().invoke(cli.main, ["teach", "site", "--out", str(tmp_path / "out"), *more])
        assert done.exit_code == 2
        return done.output

    (tmp_path / "out").mkdir()
    (tmp_path / "empty").mkdir()
    assert "holds no key_numbers.json" in said("--run", str(tmp_path / "empty"))
    for name, why in (("notes.txt", "holds something else"), ("index.html", "was not written by")):
        shutil.rmtree(tmp_path / "out")
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / name).write_text("mine")
        assert why in said()
        assert [path.name for path in (tmp_path / "out").iterdir()] == [name]
