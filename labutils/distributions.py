"""Exact laws of problem 1: samplers, densities, quantiles, and distances by closed form or quadrature.

Two families. *The lines*: p is the law of (0, Z), q_φ the law of (φ, Z), Z ~ U[0, 1]; everything about them is
known in closed form. *distribution4*: f₁ is the law of f(X), X ~ N(0, 1), f(x) = tanh(2x + 1) + 0.75x, against
f₀ = N(0, 1); everything about them is known to quadrature precision. Distances and divergences are in nats
(KL, JSD, entropy) or in the unit of x (Wasserstein). Exact values are float64; samples are float32.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

LogDensity = Callable[[Tensor], Tensor]
Quantile = Callable[[Tensor], Tensor]

# --- the lines --------------------------------------------------------------------------------------


def sample_line(phi: Float[Tensor, "*members"], n: int, generator: torch.Generator) -> Float[Tensor, "*members n 2"]:
    """`n` independent draws of (φ, Z), Z ~ U[0, 1], for every φ. Differentiable in φ.

    Raises ValueError for n < 1.
    """
    _at_least("n", n, 1)
    z = torch.rand(*phi.shape, n, generator=generator, device=generator.device)
    return torch.stack([phi.to(z)[..., None].expand_as(z), z], dim=-1)


def line_jsd(phi: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """JSD(p, q_φ) in nats: 0 at φ = 0, log 2 for any other φ, where the supports are disjoint."""
    return math.log(2) * (phi.double() != 0)


def line_wasserstein(phi: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """W₁(p, q_φ) = |φ|: moving every (0, z) to (φ, z) costs |φ|, and T(x) = ∓x₁ shows no plan is cheaper."""
    return phi.double().abs()


def line_jsd_gradient(phi: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """d JSD(p, q_φ)/dφ = 0 for φ ≠ 0; NaN at 0, where the divergence jumps."""
    return torch.where(phi == 0, torch.nan, torch.zeros_like(phi, dtype=torch.float64))


def line_wasserstein_gradient(phi: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """d W₁(p, q_φ)/dφ = sign φ; NaN at 0, where the distance has a kink."""
    return torch.where(phi == 0, torch.nan, phi.double().sign())


# --- the standard normal f₀ -------------------------------------------------------------------------


def normal_log_density(x: Float[Tensor, "*shape"], mean: float = 0.0, sd: float = 1.0) -> Float[Tensor, "*shape"]:
    """log N(x; mean, sd²). With its defaults this is log f₀. Raises ValueError for sd ≤ 0."""
    if not sd > 0:
        raise ValueError(f"sd is {sd}; expected a positive number")
    return -0.5 * ((x - mean) / sd).square() - math.log(sd) - 0.5 * math.log(2 * math.pi)


def normal_quantile(u: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Φ⁻¹(u), the quantile function of N(0, 1), float64. Raises ValueError outside [0, 1]."""
    if ((u < 0) | (u > 1)).any():
        raise ValueError(f"probabilities range over [{u.min():g}, {u.max():g}]; expected values in [0, 1]")
    return torch.special.ndtri(u.double())


def sample_normal(n: int, generator: torch.Generator, members: int = 1) -> Float[Tensor, "members n 1"]:
    """`members` independent samples of size `n` from f₀ = N(0, 1). Raises ValueError for n or members < 1."""
    _at_least("n", n, 1)
    _at_least("members", members, 1)
    return torch.randn(members, n, 1, generator=generator, device=generator.device)


# --- distribution4 ----------------------------------------------------------------------------------


def distribution4_map(x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """f(x) = tanh(2x + 1) + 0.75x, increasing: 0.75 < f' ≤ 2.75."""
    return torch.tanh(2 * x + 1) + 0.75 * x


def distribution4_log_slope(x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """log f'(x) = log(0.75 + 2 sech²(2x + 1))."""
    return torch.log(0.75 + 2 * (1 - torch.tanh(2 * x + 1).square()))


def distribution4_inverse(y: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """f⁻¹(y) to rounding, float64, all values at once.

    |tanh| ≤ 1 brackets the root in [(y − 1)/0.75, (y + 1)/0.75]; 30 halvings bring the bracket to 3e-9, from
    where two Newton steps are exact to rounding.
    """
    y = y.double()
    low, high = (y - 1) / 0.75, (y + 1) / 0.75
    for _ in range(30):
        middle = (low + high) / 2
        below = distribution4_map(middle) < y
        low, high = torch.where(below, middle, low), torch.where(below, high, middle)
    x = (low + high) / 2
    for _ in range(2):
        x = x - (distribution4_map(x) - y) / distribution4_log_slope(x).exp()
    return x


def distribution4_log_density(y: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """log f₁(y) = log f₀(x) − log f'(x) at x = f⁻¹(y), the change of variables; float64."""
    x = distribution4_inverse(y)
    return normal_log_density(x) - distribution4_log_slope(x)


def distribution4_density(y: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """f₁(y), float64."""
    return distribution4_log_density(y).exp()


def distribution4_quantile(u: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """The quantile function f(Φ⁻¹(u)) of f₁ (f is increasing), float64. Raises ValueError outside [0, 1]."""
    return distribution4_map(normal_quantile(u))


def sample_distribution4(n: int, generator: torch.Generator, members: int = 1) -> Float[Tensor, "members n 1"]:
    """`members` independent samples of size `n` from f₁. Raises ValueError for n or members < 1."""
    return distribution4_map(sample_normal(n, generator, members))


# --- the optimal discriminator ----------------------------------------------------------------------


def optimal_logit(log_p: LogDensity, log_q: LogDensity, x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """logit D*(x) = log p(x) − log q(x) (Goodfellow et al. 2014, proposition 1)."""
    return log_p(x) - log_q(x)


def optimal_discriminator(log_p: LogDensity, log_q: LogDensity, x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """D*(x) = p/(p + q), where p a + q b is greatest with a = log D, b = log(1 − D)."""
    return torch.sigmoid(optimal_logit(log_p, log_q, x))


# --- divergences of two log-densities, by quadrature ------------------------------------------------
# The trapezoid rule: for a smooth integrand that vanishes at both ends it converges faster than any power of
# the spacing. Of the quantities here only |p − q| has kinks, where the error is of order spacing² ≈ 1e-6.

RANGE = (-12.0, 12.0)
POINTS = 24_001


def kl_divergence(log_p: LogDensity, log_q: LogDensity, span: tuple[float, float] = RANGE) -> float:
    """KL(p‖q) = ∫ p (log p − log q) in nats, over `span`, which must hold all but a negligible part of p."""
    x = _grid(span)
    lp, lq = log_p(x), log_q(x)
    return torch.trapezoid(lp.exp() * (lp - lq), x).item()


def jensen_shannon(log_p: LogDensity, log_q: LogDensity, span: tuple[float, float] = RANGE) -> float:
    """JSD(p, q) = ½KL(p‖r) + ½KL(q‖r), r = (p + q)/2, in nats.

    With l = log p − log q: log p/r = log 2 + log σ(l) and log q/r = log 2 + log σ(−l), so no r is formed.
    """
    x = _grid(span)
    lp, lq = log_p(x), log_q(x)
    inside = lp.exp() * F.logsigmoid(lp - lq) + lq.exp() * F.logsigmoid(lq - lp)
    return math.log(2) + 0.5 * torch.trapezoid(inside, x).item()


def optimal_objective(log_p: LogDensity, log_q: LogDensity, span: tuple[float, float] = RANGE) -> float:
    """max over D of E_p[log D] + E_q[log(1 − D)] = 2 JSD(p, q) − 2 log 2 (Goodfellow et al. 2014, theorem 1)."""
    return 2 * jensen_shannon(log_p, log_q, span) - 2 * math.log(2)


def total_variation(log_p: LogDensity, log_q: LogDensity, span: tuple[float, float] = RANGE) -> float:
    """TV(p, q) = ½∫|p − q|, between 0 and 1."""
    x = _grid(span)
    return 0.5 * torch.trapezoid((log_p(x).exp() - log_q(x).exp()).abs(), x).item()


def entropy(log_p: LogDensity, span: tuple[float, float] = RANGE) -> float:
    """Differential entropy −∫ p log p in nats."""
    x = _grid(span)
    lp = log_p(x)
    return -torch.trapezoid(lp.exp() * lp, x).item()


def mean_and_sd(log_p: LogDensity, span: tuple[float, float] = RANGE) -> tuple[float, float]:
    """Mean and standard deviation."""
    x = _grid(span)
    p = log_p(x).exp()
    mean = torch.trapezoid(p * x, x)
    return mean.item(), torch.trapezoid(p * (x - mean).square(), x).sqrt().item()


class Extremum(NamedTuple):
    """A local extremum of a density: where, the density there, and whether it is a mode (else a dip)."""

    x: float
    density: float
    is_mode: bool


def extrema(log_p: LogDensity, span: tuple[float, float] = RANGE) -> list[Extremum]:
    """Modes and dips of a density inside `span`, left to right.

    Found on the grid, then placed by the parabola through the grid point and its neighbours (error of order
    spacing², here below 1e-6).
    """
    x = _grid(span)
    lp = log_p(x)
    left, right = lp[1:-1] - lp[:-2], lp[2:] - lp[1:-1]
    found = []
    for i in ((left * right) < 0).nonzero().flatten().tolist():
        a, b = left[i].item(), right[i].item()  # the two differences around grid point i + 1
        at = x[i + 1] + (x[1] - x[0]) * 0.5 * (a + b) / (a - b)
        found.append(Extremum(at.item(), log_p(at).exp().item(), a > 0))
    return found


def wasserstein(quantile_p: Quantile, quantile_q: Quantile, order: int = 1) -> float:
    """W_k(p, q) = (∫₀¹ |Q_p(u) − Q_q(u)|^k du)^{1/k} for laws on the line, where the quantile coupling is optimal.

    Substituting u = Φ(t) turns the ends u → 0, 1 into Gaussian tails; |t| ≤ 8 leaves out 1e-15 of probability.
    Raises ValueError for order < 1. (Villani 2003, Topics in Optimal Transportation,
    section 2.2: theorem 2.18 for order 2, the remarks after it for every convex cost.)
    """
    if not order >= 1:
        raise ValueError(f"order is {order}; expected at least 1")
    t = _grid((-8.0, 8.0))
    u = torch.special.ndtr(t)
    cost = (quantile_p(u) - quantile_q(u)).abs() ** order
    return torch.trapezoid(cost * normal_log_density(t).exp(), t).item() ** (1 / order)


def _grid(span: tuple[float, float]) -> Tensor:
    low, high = span
    if not low < high:
        raise ValueError(f"span is {span}; expected two numbers, the lower first")
    return torch.linspace(low, high, POINTS, dtype=torch.float64)


def _at_least(name: str, value: int, least: int) -> None:
    if value < least:
        raise ValueError(f"{name} is {value}; expected at least {least}")
