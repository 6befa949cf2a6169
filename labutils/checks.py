"""Oracles: a value the reader's code gave beside the value it must have; whole answers asked at random inputs."""

from __future__ import annotations

import secrets
import textwrap
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from . import exercises

HERE = Path(__file__).parent


def agree(name: str, got: Tensor | float, expected: Tensor | float, tolerance: float = 1e-4) -> None:
    """Print `PASS name` when |got − expected| ≤ tolerance·max(1, |expected|) everywhere.

    Otherwise raises AssertionError showing both values at the worst place.
    """
    got, expected = (torch.as_tensor(v, dtype=torch.float64).detach().cpu() for v in (got, expected))
    if got.shape != expected.shape:
        raise AssertionError(f"{name}: shape is {tuple(got.shape)}, expected {tuple(expected.shape)}")
    # NaN compares false to everything, so the comparison asks for what is good, not for what is bad.
    good = (got - expected).abs() <= tolerance * expected.abs().clamp(min=1)
    if not good.all():
        worst = int((~good).flatten().nonzero()[0])
        pair = f"your value {got.flatten()[worst]:.6g}, true value {expected.flatten()[worst]:.6g}"
        raise AssertionError(f"{name}: {pair} (entry {worst} of {got.numel()}, tolerance {tolerance:g})")
    print("PASS", name)


def holds(name: str, condition: bool | Tensor, why: str) -> None:
    """Print `PASS name` when the condition is true; otherwise raises AssertionError saying `why` it is not.

    why: what the reader should look at. A tensor must have one element; for a whole one say `.all()`.
    """
    if not condition:
        raise AssertionError(f"{name}: {why}")
    print("PASS", name)


class WrongAnswer(AssertionError):
    """A notebook shows its text, and where the answer itself raised; the check's own frames help nobody there."""

    def _render_traceback_(self) -> list[str]:
        lines = [str(self)]
        if self.__cause__ is not None:
            frames = traceback.extract_tb(self.__cause__.__traceback__)
            own = [f for f in frames if "site-packages" not in f.filename and Path(f.filename).parent != HERE]
            lines += ["", "The answer raised here:"] if own else []
            lines += [f"  {_cell(f.filename)}, line {f.lineno}, in {f.name}\n    {f.line}" for f in own]
        return lines


def _cell(filename: str) -> str:
    """A notebook's cell has the name of a temporary file, which says nothing to its writer."""
    return "your cell" if "ipykernel" in filename else filename


def exercise(name: str, *functions: Any, seed: int | None = None) -> Any:
    """Ask an answer the parts of the exercise `name`, on fresh random inputs: print one PASS line, or raise.

    functions: the exercise's functions in their order, or one mapping of name to function. seed: of the inputs, to
    ask the same again; a failure says which it was.

    Returns the functions for the cells that follow: as given, except that the package's stand in where an answer
    only raises NotImplementedError, which a line says. One function comes alone, several as a tuple.
    Raises WrongAnswer with every part that is wrong, what was expected, what came, and, where the answer is a
    known mistake, why it is one. ValueError for an unknown exercise or another number of functions.
    """
    if name not in exercises.EXERCISES:
        raise ValueError(f"there is no exercise {name!r}; choose one of {', '.join(exercises.EXERCISES)}")
    asked = exercises.EXERCISES[name]
    given = dict(functions[0]) if len(functions) == 1 and isinstance(functions[0], Mapping) else None
    if given is None and len(functions) != len(asked.functions):
        raise ValueError(
            f"{name} has {len(asked.functions)} functions, {', '.join(asked.functions)}; got {len(functions)}"
        )
    given = dict(zip(asked.functions, functions, strict=True)) if given is None else given
    missing = [f for f in asked.functions if _unanswered(given.get(f), asked.reference[f])]
    if len(missing) < len(asked.functions):
        _ask(asked, given, missing, secrets.randbelow(10**6) if seed is None else seed)
    if missing:
        several = "functions stand" if len(missing) > 1 else "function stands"
        print(f"not answered yet: {', '.join(missing)} ({name}); until then the package's own {several} in")
    found = tuple(asked.reference[f] if f in missing else given[f] for f in asked.functions)
    return found if len(found) > 1 else found[0]


def _unanswered(function: Any, reference: Any) -> bool:
    """Nothing there, the package's stand-in, or a body that only raises NotImplementedError."""
    code = getattr(function, "__code__", None)
    return function is None or function is reference or getattr(code, "co_names", ()) == ("NotImplementedError",)


def _ask(asked: exercises.Exercise, given: Mapping[str, Any], missing: list[str], seed: int) -> None:
    answered = {f: function for f, function in given.items() if f not in missing}
    results = exercises.answers(asked, answered, seed)
    verdicts = exercises.judge(asked, results, seed)
    wrong = [v for v in verdicts if v.answered and not v.passed]
    if not wrong:
        right = sum(v.passed for v in verdicts)
        print(
            f"PASS {asked.name}" if right == len(verdicts) else f"{asked.name}: {right} of {len(verdicts)} parts right"
        )
        return
    lines = [f"{asked.name}: {len(wrong)} of {len(verdicts)} parts {'is' if len(wrong) == 1 else 'are'} wrong"]
    alike = wrong[0].message if len(wrong) > 1 and len({v.message for v in wrong}) == 1 else ""  # said once, below
    lines += [f"  {'right' if v.passed else 'WRONG' if v.answered else '-----'}  {v.part}"
              + (f": {v.message}" if v.message and v.message != alike else "") for v in verdicts]  # fmt: skip
    lines += [f"  All the same way: {alike}"] if alike else []
    hints = {v.mistake.title: v.mistake.why for v in wrong if v.mistake}
    lines += [f"  This looks like: {title}. {why}" for title, why in hints.items()]
    call = f'checks.exercise("{asked.name}", {", ".join(asked.functions)}, seed={seed})'
    lines += [f"  (the same inputs again: {call})"]
    # A front end breaks a long line anywhere, in the middle of a word too.
    told = [
        textwrap.fill(line, 96, subsequent_indent=9 * " ", break_long_words=False, break_on_hyphens=False)
        for line in lines
    ]
    raise WrongAnswer("\n".join(told)) from next((r for r in results if isinstance(r, Exception)), None)
