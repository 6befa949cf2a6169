"""A number is reported with its standard error and its sample size."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Estimate:
    """A mean over `n` independent items, or a statistic of them; `stderr` is its standard error (same unit)."""

    value: float
    stderr: float
    n: int

    def __str__(self) -> str:
        # The error decides the digits: two significant ones of it.
        digits = 2 if not self.stderr > 0 else max(0, 1 - int(np.floor(np.log10(self.stderr))))
        return f"{self.value:.{digits}f} ± {self.stderr:.{digits}f} (n = {self.n:,})"


def mean(values: Tensor) -> Estimate:
    """Sample mean of a vector with standard error s/√n, s with the n−1 denominator; float64.

    Raises ValueError for fewer than two values or for a value that is not finite.
    """
    values = values.detach().to("cpu", torch.float64).flatten()
    if len(values) < 2:
        raise ValueError(f"a mean with a standard error needs at least two values, got {len(values)}")
    if not torch.isfinite(values).all():
        bad = int((~torch.isfinite(values)).nonzero()[0])
        raise ValueError(f"value {bad} of {len(values)} is {values[bad].item()}; a mean needs finite values")
    return Estimate(values.mean().item(), (values.std() / len(values) ** 0.5).item(), len(values))


def jackknife(without: Callable[..., float], groups: int) -> float:
    """Standard error of a statistic of independent items, which were dealt at random into groups of equal size.

    without: the statistic with the groups of these numbers left out: without(), without(3), without(3, 4). A group of
    several sets holds a part of each. First (G−1)/G Σ_g (t_g − mean)² (Efron and Tibshirani 1993, eq. 11.5). Where
    groups interact, as in a squared mean near zero, that is too much (twice the variance, if nothing but pairs matter):
    the part of pairs is taken off once (Efron and Stein 1981, section 4), as found from neighbouring groups. A third
    is left at least, which is right if nothing but triples matter.
    """
    whole = without()
    one = np.array([without(g) for g in range(groups)])
    pairs = [(g, (g + 1) % groups) for g in range(groups)]
    interactions = [groups * whole - (groups - 1) * (one[g] + one[h]) + (groups - 2) * without(g, h) for g, h in pairs]
    variance = (groups - 1) * np.var(one)
    return math.sqrt(max(variance - np.var(interactions, ddof=1) / 2, variance / 3))
