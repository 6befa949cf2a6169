"""The exercises by name, in the order of the notebooks; `labutils.marking` says what one is and judges answers."""

from __future__ import annotations

from . import exercises_divergences, exercises_images, exercises_vae
from .marking import Exercise, Mistake, Part, Verdict, answers, describe, inputs, judge, points

__all__ = ["EXERCISES", "Exercise", "Mistake", "Part", "Verdict", "answers", "describe", "inputs", "judge", "points"]

EXERCISES: dict[str, Exercise] = {
    exercise.name: exercise
    for module in (exercises_divergences, exercises_vae, exercises_images)
    for exercise in module.EXERCISES
}
