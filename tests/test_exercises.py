"""Right answers get full marks however they are written; every known mistake is told by its own hint, at any seed."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from right_answers import RIGHT

from labutils import exercises, marking
from labutils.exercises import EXERCISES

SEEDS = range(20)
every = pytest.mark.parametrize("exercise", EXERCISES.values(), ids=EXERCISES)
right = [pytest.param(EXERCISES[name], f, id=f"{name}: {title}") for name in RIGHT for title, f in RIGHT[name]]
mistakes = [mistake for exercise in EXERCISES.values() for mistake in exercise.mistakes]


def verdicts(exercise, functions, seed):
    return exercises.judge(exercise, exercises.answers(exercise, functions, seed), seed)


def test_there_is_enough_of_each():
    assert len(EXERCISES) >= 15 and len(mistakes) >= 40 and len(right) >= 30
    assert {e.problem for e in EXERCISES.values()} == {1, 2, 3} and set(RIGHT) == set(EXERCISES)


@every
def test_an_exercise_is_whole(exercise):
    assert set(exercise.reference) == set(exercise.functions)
    assert exercise.points > 0 and len(exercise.parts) >= 3
    for texts in ([p.title for p in exercise.parts], [m.title for m in exercise.mistakes]):
        assert len(set(texts)) == len(texts)
    for mistake in exercise.mistakes:
        assert set(mistake.functions) <= set(exercise.functions)
        assert re.search(r"[.!?)]$", mistake.why) and not mistake.title.endswith("."), mistake.title


@every
def test_the_reference_gets_full_marks(exercise):
    for seed in SEEDS:
        found = verdicts(exercise, exercise.reference, seed)
        assert [v.message for v in found if not v.passed] == []
        assert exercises.points(exercise, found) == exercise.points


@pytest.mark.parametrize(("exercise", "functions"), right)
def test_a_right_answer_gets_full_marks(exercise, functions):
    for seed in range(5):
        found = verdicts(exercise, {**exercise.reference, **functions}, seed)
        assert [(v.part, v.message) for v in found if not v.passed] == []


@every
def test_a_mistake_is_told_by_its_own_hint_and_by_no_other(exercise):
    for seed in SEEDS:
        _, wrong = marking._known(exercise, seed)
        for mistake, results in zip(exercise.mistakes, wrong(), strict=True):
            found = exercises.judge(exercise, results, seed)
            assert {v.mistake.title for v in found if v.mistake} == {mistake.title}, seed
            assert exercises.points(exercise, found) < exercise.points


@every
def test_a_mistake_is_recognised_when_it_is_asked_afresh(exercise):
    """Not only from the results that the judge has computed itself."""
    for mistake in exercise.mistakes:
        found = verdicts(exercise, {**exercise.reference, **mistake.functions}, 77)
        assert {v.mistake for v in found if v.mistake} == {mistake}


@every
def test_stubs_are_not_answered_and_get_nothing(exercise):
    def stub(*arguments):
        raise NotImplementedError("to be written")

    for functions in ({}, dict.fromkeys(exercise.functions, stub)):
        found = verdicts(exercise, functions, 0)
        assert not any(v.passed or v.answered for v in found)
        assert exercises.points(exercise, found) == 0


@every
def test_inputs_are_plain_float64_and_belong_to_the_seed(exercise):
    for k in range(len(exercise.parts)):
        once, again, other = (exercises.inputs(exercise, k, seed) for seed in (3, 3, 4))
        for name, value in once.items():
            assert isinstance(value, (int, float)) or value.dtype == torch.float64, name
            assert torch.equal(torch.as_tensor(value), torch.as_tensor(again[name]))
        tensors = [name for name, value in once.items() if isinstance(value, torch.Tensor)]
        assert any(not torch.equal(once[name], other[name]) for name in tensors), "another seed, other inputs"


@every
def test_an_answer_that_knows_one_seed_fails_at_another(exercise):
    """The truth of seed 0 returned for whatever comes: no part is so poor that it passes."""
    frozen = exercises.answers(exercise, exercise.reference, 0)
    passed = [v.passed for v in exercises.judge(exercise, frozen, 1)]
    # Parts whose truth is the same number at every seed, a zero or a one, are passed by that number.
    constant = [
        torch.equal(torch.as_tensor(p.truth(exercises.inputs(exercise, k, 0))).double(),
                    torch.as_tensor(p.truth(exercises.inputs(exercise, k, 1))).double())
        for k, p in enumerate(exercise.parts)
    ]  # fmt: skip
    assert passed == constant and sum(constant) <= len(constant) / 2


# --- the judge ----------------------------------------------------------------------------------------------


def judged(got, expected=(1.0, 2.0, 3.0)):
    part = exercises.Part("three", lambda g: {}, lambda f, i: f["f"](), lambda i: torch.tensor(expected))
    exercise = exercises.Exercise("toy", 1, 3, ("f",), (part,), (), {"f": lambda: torch.tensor(expected)})
    return exercises.judge(exercise, [got], 0)[0]


@pytest.mark.parametrize(
    "got",
    [
        torch.tensor([1.0, 2.0, 3.0]),
        torch.tensor([[1.0], [2.0], [3.0]], dtype=torch.float16),
        np.array([[1, 2, 3]], dtype=np.int32),
        torch.tensor([1.0, 2.0, 3.0002]),
    ],
)
def test_equivalent_results_pass(got):
    assert judged(got).passed


@pytest.mark.parametrize(
    ("got", "message"),
    [
        (torch.tensor([1.0, 2.0, 3.1]), r"expected 3, got 3\.1 \(1 of 3 values wrong; the worst is number 3\)"),
        (torch.tensor([1.0, torch.nan, 9.0]), r"expected 2, got nan \(2 of 3 values wrong; the worst is number 2\)"),
        (torch.tensor([1.0, torch.inf, 3.0]), r"expected 2, got inf"),
        (torch.zeros(2), r"its shape is \(2,\), expected \(3,\)"),
        (torch.zeros(3, 3), r"its shape is \(3, 3\), expected \(3,\)"),
        (ValueError("no\nlater line"), r"it raised ValueError: no$"),
        ("IndexError: at 7", r"it raised IndexError: at 7$"),
        (RuntimeError(), r"it raised RuntimeError$"),
    ],
)
def test_what_is_wrong_is_said(got, message):
    found = judged(got)
    assert not found.passed and found.answered and re.match(message, found.message), found.message


def test_nothing_is_close_to_what_is_infinite():
    assert not judged(torch.tensor([1.0, 2.0, 3.0]), (1.0, torch.inf, 3.0)).passed


def test_errors_as_text_are_judged_like_errors():
    """The judge of another process gets them so; a mistake that raises is recognised all the same."""
    exercise = EXERCISES["wgan"]
    mistake = next(m for m in exercise.mistakes if m.title == "create_graph left out")
    results = exercises.answers(exercise, {**exercise.reference, **mistake.functions}, 0)
    assert any(isinstance(r, Exception) for r in results)
    texts = [exercises.describe(r) if isinstance(r, Exception) else r.numpy() for r in results]
    found = exercises.judge(exercise, texts, 0)
    assert {v.mistake for v in found if v.mistake} == {mistake}


def test_a_mistake_that_is_infinite_is_told_from_one_that_is_not_a_number():
    assert not marking._same(torch.tensor(2.0), torch.tensor(torch.inf), 1e-4)
    assert not marking._same(torch.tensor(torch.nan), torch.tensor(torch.inf), 1e-4)
    assert marking._same(torch.tensor([torch.nan, torch.inf]), torch.tensor([torch.nan, torch.inf]), 1e-4)


def test_one_result_a_part():
    with pytest.raises(ValueError, match="jsd has 6 parts; got 1 results"):
        exercises.judge(EXERCISES["jsd"], [torch.zeros(1)], 0)


def test_points_are_shared_by_the_parts():
    exercise = EXERCISES["jsd"]
    wrong = {**exercise.reference, "logit_of_optimum": lambda log_p, log_q, x: 0 * x}
    assert exercises.points(exercise, verdicts(exercise, wrong, 0)) == round(4 * 4 / 6, 2)
    with_stub = {"logit_of_optimum": exercise.reference["logit_of_optimum"]}
    assert exercises.points(exercise, verdicts(exercise, with_stub, 0)) == round(4 * 2 / 6, 2)
