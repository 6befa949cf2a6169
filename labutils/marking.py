"""How an answer is judged: an exercise has parts, each drawn afresh from a seed, and mistakes it knows by name.

An answer is one or more functions. `answers` calls them and keeps what they return, `judge` compares that with the
truth and never calls them, so that the two may be different processes. Inputs are plain data: what an answer is
given besides, a critic or a small model, is made of them by the part.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from .training import generator

Functions = Mapping[str, Callable[..., Any]]
Inputs = dict[str, Any]  # float64 tensors and plain numbers by name


@dataclass(frozen=True, eq=False)
class Part:
    """One question put to an answer: fresh inputs, how to ask, and the value there must be.

    call: the answer's functions and the inputs → one tensor; it may make a critic or a model of the inputs.
    truth: the inputs → that tensor by a closed form, or by other means than the answer's.
    tolerance: as in `labutils.checks.agree`; wide enough for an answer that computes in single precision.
    """

    title: str
    draw: Callable[[torch.Generator], Inputs]
    call: Callable[[Functions, Inputs], Any]
    truth: Callable[[Inputs], Tensor]
    tolerance: float = 1e-4


@dataclass(frozen=True, eq=False)
class Mistake:
    """A known wrong answer; why: what a student who made it reads. functions: those that differ from the right ones."""

    title: str
    why: str
    functions: Functions


@dataclass(frozen=True, eq=False)
class Exercise:
    """functions: the names that the notebook's answer defines; reference: a right answer, with all of them."""

    name: str
    problem: int
    points: int
    functions: tuple[str, ...]
    parts: tuple[Part, ...]
    mistakes: tuple[Mistake, ...]
    reference: Functions


@dataclass(frozen=True)
class Verdict:
    """On one part. message: what was expected, what came, where. mistake: the known one that gives the same result.

    answered: False when the function only raises NotImplementedError, as the stub of a student edition does.
    """

    part: str
    passed: bool
    message: str
    mistake: Mistake | None = None
    answered: bool = True


class NoGradient(RuntimeError):
    """What an answer returns cannot be trained by: its gradient was cut on the way."""


def gradient(value: Any, at: Tensor | Sequence[Tensor]) -> Tensor:
    """∂ Σ value/∂at, one after the other where `at` is several; NoGradient where there is none."""
    value = torch.as_tensor(value)
    found = torch.autograd.grad(value.sum(), at, allow_unused=True) if value.requires_grad else (None,)
    if any(part is None for part in found):
        raise NoGradient("it was cut on the way (detach, numpy, item, no_grad?); a training would change nothing")
    return found[0] if len(found) == 1 else torch.cat([part.flatten() for part in found])


NOTHING = "None came back: is `return` missing?"


def member(found: Any, which: int, names: str) -> Any:
    """One of the several values that an answer returns; TypeError unless there are as many as names."""
    expected = names.split(", ")
    if found is None:
        raise TypeError(NOTHING)
    if not isinstance(found, (tuple, list)) or len(found) != len(expected):
        got = f"{len(found)} values" if isinstance(found, (tuple, list)) else f"one {type(found).__name__}"
        raise TypeError(f"{len(expected)} values must come back, {names}; got {got}")
    return found[which]


def normal(draw: torch.Generator, *shape: int) -> Tensor:
    """Standard normal numbers for the inputs of a part, float64."""
    return torch.randn(*shape, generator=draw, dtype=torch.float64)


def uniform(draw: torch.Generator, *shape: int) -> Tensor:
    """Numbers from U[0, 1] for the inputs of a part, float64."""
    return torch.rand(*shape, generator=draw, dtype=torch.float64)


def inputs(exercise: Exercise, k: int, seed: int) -> Inputs:
    """The inputs of part `k`: the same at each call, others for another seed."""
    return exercise.parts[k].draw(generator(seed, "exercise", exercise.name, k))


def answers(exercise: Exercise, functions: Functions, seed: int) -> list[Tensor | Exception]:
    """What the functions return, part by part: a float64 tensor, or the error that was raised.

    A function that is missing counts as one that is not answered yet.
    """
    known = {name: functions.get(name) or _missing(name) for name in exercise.functions}

    def ask(k: int) -> Tensor | Exception:
        try:
            found = exercise.parts[k].call(known, inputs(exercise, k, seed))
            if found is None:
                raise TypeError(NOTHING)
            return torch.as_tensor(found).detach().double().cpu()
        except Exception as error:
            return error

    return [ask(k) for k in range(len(exercise.parts))]


def _missing(name: str) -> Callable[..., Any]:
    def missing(*args: Any, **options: Any) -> Any:
        raise NotImplementedError(f"{name} is not defined")

    return missing


def describe(error: Exception | str) -> str:
    """An error as one line; a text that describes one stays as it is."""
    if isinstance(error, str):
        return error
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def judge(exercise: Exercise, results: Sequence[Any], seed: int) -> list[Verdict]:
    """A verdict a part on what `answers` gave for the same seed: tensors or arrays, errors as they are or described.

    A failed part names the known mistake that gives this result there; among several, the one that agrees with the
    answer on most parts. Raises ValueError when there is not one result a part.
    """
    if len(results) != len(exercise.parts):
        raise ValueError(f"{exercise.name} has {len(exercise.parts)} parts; got {len(results)} results")
    truths, wrong = _known(exercise, seed)
    found = [_compare(*row) for row in zip(exercise.parts, results, truths, strict=True)]
    if all(verdict.passed or not verdict.answered for verdict in found):
        return found
    fits = {}  # by mistake: on which parts it gives what the answer gave
    for mistake, others in zip(exercise.mistakes, wrong(), strict=True):
        rows = zip(exercise.parts, results, others, strict=True)
        fits[mistake.title] = [_same(got, other, part.tolerance) for part, got, other in rows]
    likely = sorted(exercise.mistakes, key=lambda mistake: -sum(fits[mistake.title]))
    return [
        verdict
        if verdict.passed or not verdict.answered
        else Verdict(verdict.part, False, verdict.message, next((m for m in likely if fits[m.title][k]), None))
        for k, verdict in enumerate(found)
    ]


@lru_cache(maxsize=64)  # a class is judged at one seed
def _known(exercise: Exercise, seed: int) -> tuple[list[Tensor], Callable[[], list[list[Tensor | Exception]]]]:
    """The truth, part by part; and what each mistake gives, worked out when it is first asked for."""

    @lru_cache(maxsize=1)
    def wrong() -> list[list[Tensor | Exception]]:
        return [answers(exercise, {**exercise.reference, **m.functions}, seed) for m in exercise.mistakes]

    return [part.truth(inputs(exercise, k, seed)) for k, part in enumerate(exercise.parts)], wrong


def points(exercise: Exercise, verdicts: Sequence[Verdict]) -> float:
    """The exercise's points, shared evenly among its parts, for those that passed."""
    return round(exercise.points * sum(v.passed for v in verdicts) / len(exercise.parts), 2)


def _compare(part: Part, got: Any, expected: Tensor) -> Verdict:
    if isinstance(got, (Exception, str)):
        text = describe(got)
        if text.startswith("NotImplementedError"):
            return Verdict(part.title, False, "not answered yet", answered=False)
        return Verdict(part.title, False, f"it raised {text}")
    got, expected = _plain(got), _plain(expected)
    if got.shape != expected.shape:
        return Verdict(part.title, False, f"its shape is {tuple(got.shape)}, expected {tuple(expected.shape)}")
    bad = ~_close(got, expected, part.tolerance).flatten()
    if not bad.any():
        return Verdict(part.title, True, "")
    distance = torch.nan_to_num((got - expected).abs().flatten(), nan=torch.inf)
    worst = int((distance * bad).nan_to_num(nan=0.0).argmax())
    pair = f"expected {expected.flatten()[worst]:.6g}, got {got.flatten()[worst]:.6g}"
    where = f" ({int(bad.sum())} of {got.numel()} values wrong; the worst is number {worst + 1})"
    where = where if got.numel() > 1 else ""
    return Verdict(part.title, False, pair + where)


def _plain(value: Any) -> Tensor:
    """As float64, without dimensions of length one: (n, 1) and (n,), a number and (1,) are the same answer."""
    return torch.as_tensor(value).detach().double().cpu().squeeze()


def _close(got: Tensor, expected: Tensor, tolerance: float) -> Tensor:
    """NaN is close to nothing, so the comparison asks for what is good; nothing is close to what is infinite."""
    return ((got - expected).abs() <= tolerance * expected.abs().clamp(min=1)) & expected.isfinite()


def _same(got: Any, other: Any, tolerance: float) -> bool:
    """Whether an answer's result is a mistake's: the same error, the same numbers, infinite and NaN ones in the same
    places."""
    if any(isinstance(value, (Exception, str)) for value in (got, other)):
        texts = [describe(value) for value in (got, other) if isinstance(value, (Exception, str))]
        return len(texts) == 2 and texts[0] == texts[1]
    got, other = _plain(got), _plain(other)
    return got.shape == other.shape and torch.allclose(got, other, tolerance, tolerance, equal_nan=True)
