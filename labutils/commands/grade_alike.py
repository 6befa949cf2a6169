"""Which answers are too alike: shared runs of tokens, by copydetect where it is installed, else by a short count here.

A formula of three lines has few forms, so what many share says nothing and is left out; a likeness is a reason to
look at two answers side by side, never a verdict.
"""

from __future__ import annotations

import ast
import collections
import importlib.util
import io
import keyword
import tempfile
import tokenize
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

RUN = 12  # tokens in a row
FEWEST = 40  # runs below which a text is too short to be like another
LEAST = 0.8  # share of the shorter text that also stands in the other
COPIED = 0.9  # share of an answer that also stands in the package
COMMON = 0.25  # share of the class that makes a run everybody's


def backend() -> str:
    return "copydetect" if importlib.util.find_spec("copydetect") else "runs of tokens"


def pairs(texts: Mapping[str, str], known: Sequence[str] = ()) -> list[tuple[str, str, float]]:
    """(one, other, share) of texts that are too alike, the most alike first.

    texts: Python source by student; known: cells that all were given, whose runs do not count.
    """
    found = {name: _runs(text) for name, text in texts.items()}
    found = {name: some for name, some in found.items() if len(some) >= FEWEST}
    count = collections.Counter(run for some in found.values() for run in some)
    few, ours = max(5, COMMON * len(texts)), runs(known)
    rare = {name: {run for run in some if count[run] <= few and run not in ours} for name, some in found.items()}
    alike = []
    names = sorted(rare)
    for i, one in enumerate(names):
        for other in names[i + 1 :]:
            least = min(len(rare[one]), len(rare[other]))
            if least >= FEWEST and (share := len(rare[one] & rare[other]) / least) >= LEAST:
                alike.append((one, other, share))
    if backend() == "copydetect":
        alike = _fingerprints(texts, alike, known)
    return sorted(alike, key=lambda found: -found[2])


def copied(text: str, package: set[tuple[str, ...]]) -> float:
    """The share of a text's runs that also stand in the package's; 0 for one that is too short to tell."""
    mine = _runs(text)
    return len(mine & package) / len(mine) if len(mine) >= FEWEST else 0.0


def runs(texts: Iterable[str]) -> set[tuple[str, ...]]:
    """The runs of tokens of several texts together."""
    return set().union(*map(_runs, texts))


def _runs(text: str) -> set[tuple[str, ...]]:
    """The runs of each statement on the top level of a text."""
    try:
        nodes = ast.parse(text).body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return set()
    found = set()
    for node in nodes:
        tokens = list(_tokens(node))
        found |= {tuple(tokens[k : k + RUN]) for k in range(len(tokens) - RUN + 1)}
    return found


def _tokens(top: ast.stmt) -> Iterator[str]:
    """A statement's tokens without comments, docstrings, spacing; local names all alike: renaming is no writing."""
    local = set()
    for node in ast.walk(top):
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and ast.get_docstring(node) is not None:
            node.body = node.body[1:] or [ast.Pass()]
        if isinstance(node, ast.arg):
            local.add(node.arg)
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            local.add(node.id)
    for token in tokenize.generate_tokens(io.StringIO(ast.unparse(top)).readline):
        if token.type in (tokenize.NAME, tokenize.OP, tokenize.NUMBER, tokenize.STRING):
            yield "name" if token.string in local and not keyword.iskeyword(token.string) else token.string


def _fingerprints(texts: Mapping[str, str], found: list, known: Sequence[str]) -> list[tuple[str, str, float]]:
    """The same pairs and more by copydetect's winnowed fingerprints: the larger of both shares counts."""
    import copydetect
    import numpy as np

    with tempfile.TemporaryDirectory() as folder:

        def fingerprint(text: str, boilerplate: np.ndarray) -> copydetect.CodeFingerprint:
            path = Path(folder) / "answer.py"
            path.write_text(text, encoding="utf-8")
            return copydetect.CodeFingerprint(str(path), 25, 1, boilerplate, language="python")

        ours = fingerprint("\n".join(known), np.array([])).hashes if known else ()
        marks = {name: fingerprint(text, np.array(list(ours))) for name, text in sorted(texts.items()) if text.strip()}
    every = collections.Counter(mark for one in marks.values() for mark in one.hashes)
    everybody = {mark for mark, n in every.items() if n > max(5, COMMON * len(texts))}
    rare = {name: set(one.hashes) - everybody for name, one in marks.items()}
    shares = {(one, other): share for one, other, share in found}
    names = sorted(rare)
    for i, one in enumerate(names):
        for other in names[i + 1 :]:
            least = min(len(rare[one]), len(rare[other]))
            if least >= FEWEST and (share := len(rare[one] & rare[other]) / least) >= LEAST:
                shares[one, other] = max(share, shares.get((one, other), 0.0))
    return [(*pair, share) for pair, share in shares.items()]
