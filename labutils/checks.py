"""Oracles: a value the reader's code gave beside the value it must have."""

from __future__ import annotations

import torch
from torch import Tensor


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
