"""Every number in the prose of README and notebooks is one that something printed, computed or fixed.

A number in a notebook's Markdown must occur in that notebook's stored outputs or code, among the exact and the
report's values in bands.yaml, or in a phrase of FACTS, which has its source; as it stands, or rounded to the digits
quoted. The README's are held against the published ledger, bands, profiles, manifest of assets and pyproject.
Names are no results: code, addresses, numbers of sections and problems. In formulas decimals and integers of three
digits or more are held; the others are the formulas' own constants.
"""

from __future__ import annotations

import json
import re
from html import unescape

import nbformat
import pytest
import yaml
from conftest import ROOT

from labutils import keynumbers
from labutils.commands.publish import BEGIN, END

# What no run prints: the phrase as it stands in the prose, and where its number comes from.
WGAN_GP = "year of arXiv 1704.00028"
PIXELS = "the format of SVHN, and of everything labutils.data calls a crop"
BYTE = "a grey level is a byte"
DISTRIBUTION4 = "the assignment's f, labutils.distributions"
MINUTES = "measured, the notebook alone on two cores or in make lab: 1:14 to 2:23, 3:56 to 8:54, 4:20 to 4:40"
PLANE = "two finite-element problems, tests/test_plane_optimum.py"
THE_REPORT = "the course report, its table of FIDs"
FACTS = {
    "README": {
        "| about 2 min |": MINUTES,
        "| 5 to 9 min |": MINUTES,
        "10 to 16 minutes": "the notebooks' own times added, 9:34 to 15:55 by the machine's day; make lab 14:44",
        "| 4 to 5 min |": MINUTES,
        "32×32": PIXELS,
        "grey/255": BYTE,
        "88 characters": "the notebooks' line length, tests/test_notebooks.py",
        "features of 2,500 training": "labutils.commands.remake.FEATURES_OF_TRAINING",
        "Netzer et al. 2011": "year of Reading Digits in Natural Images, NIPS workshop",
    },
    "problem1_divergences": {
        "0.75\\,x": DISTRIBUTION4,
        "0.75\\,X": DISTRIBUTION4,
        "Gulrajani et al. (2017)": WGAN_GP,
        "Arjovsky, Chintala and Bottou, 2017": "year of Wasserstein GAN, arXiv 1701.07875",
        "Arjovsky and Bottou, 2017": "year of Towards principled methods, arXiv 1701.04862",
        "Goodfellow et al., 2014": "year of arXiv 1406.2661",
        "from a logit of 17 on": "2^-24, the rounding of a float32 near 1, is e^-16.6",
        "gap 1.0600, gap − P 1.0311, gap − 2P 1.0023": PLANE,
        "at 1.532, 1.271, 1.010": PLANE,
    },
    "problem2_vae": {
        "5 to 9 minutes": MINUTES,
        "grey/255": BYTE,
        "a constant 3e-4": "labutils.vae, the recipe baseline; the assignment",
        "Roeder, Wu and Duvenaud, 2017": "year of arXiv 1703.09194",
        "$e^{-142}$": "mean log density of a standard normal code of 100 numbers, -50 (1 + log 2 pi)",
        "$e^{-103}$": "2^-149, the smallest positive float32",
        "Of 784 factors": "28 times 28 pixels",
        "Burda, Grosse and Salakhutdinov, 2016": "year of the ICLR paper, arXiv 1509.00519",
        "Cremer, Li and Duvenaud, 2018": "year of the ICML paper, arXiv 1801.03558",
    },
    "problem3_gan_vs_vae": {
        "4 to 5 minutes": MINUTES,
        "32×32": PIXELS,
        "Gulrajani et al., 2017": WGAN_GP,
        "Netzer et al., 2011": "year of Reading Digits in Natural Images, NIPS workshop",
        "Hoffman and Johnson, 2016": "year of ELBO surgery, a NIPS workshop",
        "Ghosh et al., 2020": "year of the ICLR paper, arXiv 1903.12436",
        "Dai and Wipf, 2019": "year of the ICLR paper, arXiv 1903.05789",
        "White, 2016": "year of arXiv 1609.04468",
        "44 parts to train on": "labutils.data.svhn_rows",
        "Heusel et al., 2017": "year of the NIPS paper, arXiv 1706.08500",
        "Kynkäänniemi et al., 2019": "year of the NeurIPS paper, arXiv 1904.06991",
        "Naeem et al., 2020": "year of the ICML paper, arXiv 2002.09797",
        "Bińkowski et al., 2018": "year of the ICLR paper, arXiv 1801.01401",
        "Rybkin et al., 2021": "year of the ICML paper on σ-VAE, arXiv 2006.13202",
        "29,526 for its GAN and 51,355 for its VAE": THE_REPORT,
        "100–128–256–512–1024–2048–3072": "the report's generator, labutils.networks.Generator of architecture mlp",
    },
}

NUMBER = re.compile(r"(?<![\w.])[−-]?\d+(?:,\d{3})*(?:\.\d+)?(?:e[−-]?\d+)?(?![A-Za-z_0-9]|\.\d)")
FORMULA = re.compile(r"\$\$.*?\$\$|\$[^$]*\$", re.DOTALL)
NAMES = re.compile(
    r"```.*?```|`[^`]*`|<!--.*?-->|\]\([^)]*\)|^#+ \d+ ·"  # code, comments, addresses, a section's number
    r"|\b[Ss]ections? \d+|\b[Pp]roblems? \d(?: and \d)?",
    re.DOTALL | re.MULTILINE,
)


def quoted(text):
    """(as it stands, value, half a unit of its last digit) of each number in a text."""
    for found in NUMBER.finditer(text):
        mantissa, _, exponent = found[0].replace(",", "").replace("−", "-").partition("e")
        value, digits = float(f"{mantissa}e{exponent or 0}"), len(mantissa.partition(".")[2])
        yield found[0], value, 0.5 * 10.0 ** (int(exponent or 0) - digits)


def claims(markdown, facts):
    """The numbers in prose that something must account for: text, value, tolerance. `facts`: phrases set aside."""
    for phrase in facts:
        markdown = markdown.replace(phrase, " ")
    text = NAMES.sub(" ", markdown)
    for formula in FORMULA.findall(text):
        for found in quoted(formula.replace("{,}", ",")):
            if "." in found[0] or abs(found[1]) >= 100:
                yield found
    yield from quoted(FORMULA.sub(" ", text))


def unaccounted(markdown, facts, known):
    """The quoted numbers that are no value of `known`, nor one rounded."""
    return [
        text
        for text, value, half in claims(markdown, facts)
        if not any(abs(value - v) <= half * (1 + 1e-9) for v in known)
    ]


def values(*texts):
    """Every number in the texts."""
    return {value for text in texts for _, value, _ in quoted(text)}


def leaves(content):
    """All numbers of a nested structure, those inside its texts too."""
    if isinstance(content, dict):
        content = [*content.values()]
    if isinstance(content, list):
        return set().union(*map(leaves, content)) if content else set()
    return {float(content)} if isinstance(content, (int, float)) else values(str(content))


def printed(cell):
    """What a code cell's stored outputs say: text, tables, captions; no pictures."""
    for output in cell.outputs:
        if output.output_type == "stream":
            yield output.text
        for kind, text in output.get("data", {}).items():
            if kind in ("text/plain", "text/markdown"):
                yield text
            elif kind == "text/html":
                yield unescape(re.sub(r"<[^>]*>", " ", text))


def of_notebook(path):
    """(its Markdown, the numbers it printed, has in its code, or has in the bands)."""
    cells = nbformat.read(path, as_version=4).cells
    code = [cell for cell in cells if cell.cell_type == "code"]
    known = values(*(text for cell in code for text in printed(cell)), *(cell.source for cell in code))
    problem = path.stem[len("problem")]
    for id, band in keynumbers.bands().items():
        if id.startswith(f"p{problem}."):
            known |= {band[key] for key in ("truth", "report") if key in band}
    return "\n\n".join(cell.source for cell in cells if cell.cell_type == "markdown"), known


def of_readme():
    """(its text outside the results, which test_publish holds, the numbers of the project's own files)."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    known = values((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    known |= leaves(keynumbers.bands())
    known |= leaves(json.loads((ROOT / "labutils" / "assets" / "manifest.json").read_text(encoding="utf-8")))
    for file in (ROOT / "labutils" / "profiles").glob("*.yaml"):
        known |= leaves(yaml.safe_load(file.read_text(encoding="utf-8")))
    ledger = ROOT / "figures" / keynumbers.LEDGER
    if ledger.exists():
        known |= leaves(json.loads(ledger.read_text(encoding="utf-8")))
    return text.split(BEGIN)[0] + text.split(END)[1], known


def of_deck(path):
    """(a deck's text, without what it takes from the notebook and the notebook's facts; the notebook's numbers)."""
    _, known = of_notebook(ROOT / "notebooks" / f"{path.stem}.ipynb")
    text = re.sub(r"<<.*?>>|\{#.*?min\}", " ", path.read_text(encoding="utf-8"))
    for phrase in FACTS[path.stem]:
        text = text.replace(phrase, " ")
    return text, known


TEXTS = {"README": of_readme}
for notebook in sorted((ROOT / "notebooks").glob("problem*.ipynb")):
    TEXTS[notebook.stem] = lambda path=notebook: of_notebook(path)
    deck = ROOT / "labutils" / "commands" / "slides" / f"{notebook.stem}.md"
    TEXTS[f"slides of {notebook.stem}"] = lambda path=deck: of_deck(path)
texts = pytest.mark.parametrize("name", TEXTS)


@texts
def test_every_number_in_the_prose_is_accounted_for(name):
    markdown, known = TEXTS[name]()
    facts = FACTS.get(name, {})
    assert [phrase for phrase in facts if phrase not in markdown] == [], "a fact that nobody quotes any more"
    assert unaccounted(markdown, facts, known) == []


@pytest.mark.parametrize(
    ("name", "right", "wrong"),
    [
        ("problem2_vae", "gives −93.58 (validation)", "gives −92.58 (validation)"),
        ("problem2_vae", "and −43.63 (test)", "and 43.63 (test)"),
        ("problem2_vae", "all 50,000 images", "all 55,000 images"),
        ("problem1_divergences", "it reads 0.64 at", "it reads 0.46 at"),
        ("problem1_divergences", "0.75\\,x \\pm 1", "0.85\\,x \\pm 1"),
        ("problem3_gan_vs_vae", "29,526 for its GAN", "29,526.5 for its GAN"),
        ("problem3_gan_vs_vae", "51,355 for its VAE", "51,555 for its VAE"),
        ("README", "same 44,000 of", "same 44,500 of"),
        ("README", "and 500 test crops", "and 512.5 test crops"),
    ],
)
def test_a_changed_number_is_reported(name, right, wrong):
    markdown, known = TEXTS[name]()
    assert markdown.count(right) >= 1
    before, found = (unaccounted(text, FACTS[name], known) for text in (markdown, markdown.replace(right, wrong)))
    assert before == [] and found, f"{wrong!r} passed"


def test_most_changes_of_one_digit_are_reported():
    """By chance some land on another number that was printed; numbers of one digit land there nearly always."""
    caught = []
    for name, of in TEXTS.items():
        markdown, known = of()
        for text, *_ in claims(markdown, FACTS.get(name, {})):
            if len(re.sub(r"\D", "", text).rstrip("0")) > 1:
                changed = [
                    text[:i] + other + text[i + 1 :]
                    for i, digit in enumerate(text) if digit.isdigit()
                    for other in "0123456789" if other != digit
                ]  # fmt: skip
                caught += [bool(unaccounted(text, {}, known)) for text in changed]
    assert len(caught) > 100 and sum(caught) > 0.75 * len(caught)


@pytest.mark.parametrize(
    ("markdown", "known", "expected"),
    [
        ("about −93.63 nats", "[-93.6312]", []),
        ("about −93.64 nats", "[-93.6312]", ["−93.64"]),
        ("93.63 below", "-93.6312", ["93.63"]),
        ("1.4 floors, 12,345 images", "1.384 12345", []),
        ("1.3 floors", "1.384", ["1.3"]),
        ("3e-4 and 2.5e-3", "0.0003 0.0026", ["2.5e-3"]),
        ("±45σ, 32×28, 9.4–15.3", "45 32 9.41", ["28", "15.3"]),
        ("it is 0.6. So", "0.64", []),
        ("it is 0.64", "0.6", ["0.64"]),
        ("$W = 0.596$, $K = 5{,}000$, $e^{-90}$, $\\tfrac12 x_1$", "0.5962", ["5,000"]),
        ("## 4 · Section 7 of `x = 99`, [problem 2](https://x.org/98), labutils2, f1", "", []),
        ("a table | 17.5 | 1 |", "1", ["17.5"]),
    ],
)
def test_what_counts_as_a_quotation(markdown, known, expected):
    assert unaccounted(markdown, {}, values(known)) == expected


def test_a_fact_covers_its_phrase_only():
    assert unaccounted("Gulrajani et al. (2017), 2017 images", {"Gulrajani et al. (2017)": ""}, set()) == ["2017"]


def test_the_published_numbers_may_be_quoted():
    ledger = {"numbers": [{"id": "p3.x", "value": 1.3841, "stderr": 0.021, "reason": "seeds gave 7.5"}]}
    assert unaccounted("1.38 ± 0.02, seeds 7.5; not 1.39", {}, leaves(ledger)) == ["1.39"]
