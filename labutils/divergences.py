"""Distances between distributions, estimated from samples by training a discriminator or a critic.

The objectives work on tensors of any leading shape, so that one critic and an ensemble of them use the same
formula. A *sampler* is a function (n, generator) → (members, n, dim): nothing here knows a law except through
its samples. Divergences are in nats, Wasserstein distances in the unit of x.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from . import distributions, estimates
from .estimates import Estimate
from .networks import CriticEnsemble
from .training import fit, generator

Sampler = Callable[[int, torch.Generator], Tensor]
Critic = Callable[[Tensor], Tensor]


# --- Jensen–Shannon ---------------------------------------------------------------------------------


def jsd_objective(
    logits_p: Float[Tensor, "*members n"], logits_q: Float[Tensor, "*members m"]
) -> Float[Tensor, "*members"]:
    """log 2 + ½ E_p[log D] + ½ E_q[log(1 − D)] in nats, D = σ(logit): at most JSD(p, q), its value at D*.

    logits_p, logits_q: the discriminator's logits on samples of p and of q.

    1 − σ(l) = σ(−l), and log σ is computed as one stable function. In single precision log(sigmoid(l)) is −∞ from
    l = −89 on, where e^−l overflows, and log(1 − sigmoid(l)) from l = 17 on, where sigmoid rounds to 1; the
    gradient is then no number. (Goodfellow et al. 2014, equation 1, scaled.)
    """
    return math.log(2) + 0.5 * F.logsigmoid(logits_p).mean(-1) + 0.5 * F.logsigmoid(-logits_q).mean(-1)


# --- Wasserstein with gradient penalty --------------------------------------------------------------


def wasserstein_gap(
    values_p: Float[Tensor, "*members n"], values_q: Float[Tensor, "*members m"]
) -> Float[Tensor, "*members"]:
    """E_p[T] − E_q[T]: at most W₁(p, q) if T is 1-Lipschitz (Kantorovich and Rubinstein)."""
    return values_p.mean(-1) - values_q.mean(-1)


def interpolate(x: Tensor, y: Tensor, generator: torch.Generator, sample_dims: int = 1) -> Tensor:
    """z = a x + (1 − a) y with one a ~ U[0, 1] per sample.

    x, y: samples of one shape, of which the first `sample_dims` dimensions number the samples (1 for a batch,
    2 for an ensemble's members × batch) and the rest is one sample. Raises ValueError for different shapes.
    """
    if x.shape != y.shape:
        raise ValueError(f"samples of shape {tuple(x.shape)} and {tuple(y.shape)}; expected one shape for both")
    shape = x.shape[:sample_dims] + (1,) * (x.ndim - sample_dims)
    a = torch.rand(shape, generator=generator, device=generator.device).to(x)
    return a * x + (1 - a) * y


def gradient_norm(
    critic: Critic, z: Tensor, sample_dims: int = 1, create_graph: bool = True
) -> Float[Tensor, "*samples"]:
    """‖∇T(z)‖₂ of each sample, over all its dimensions together (an image's pixels and channels).

    create_graph: keep the result differentiable in the critic's weights, as training needs.

    The gradient of Σᵢ T(zᵢ) is the stack of the ∇T(zᵢ) as long as T treats samples separately, which batch
    normalisation does not.
    """
    z = z.detach().requires_grad_(True)
    with torch.enable_grad():
        (gradient,) = torch.autograd.grad(critic(z).sum(), z, create_graph=create_graph)
    return torch.linalg.vector_norm(gradient.flatten(sample_dims), dim=-1)


def gradient_penalty(
    critic: Critic,
    x: Tensor,
    y: Tensor,
    generator: torch.Generator,
    sample_dims: int = 1,
) -> Float[Tensor, "*samples"]:
    """(‖∇T(z)‖₂ − 1)² at one interpolate z of each pair (x, y); multiply the mean by λ.

    x, y: as in `interpolate`. Differentiable in the critic's weights. (Gulrajani et al. 2017, equation 3.)
    """
    return (gradient_norm(critic, interpolate(x, y, generator, sample_dims), sample_dims) - 1).square()


class WassersteinTerms(NamedTuple):
    """objective = gap − penalty; the penalty includes λ."""

    objective: Float[Tensor, "*members"]
    gap: Float[Tensor, "*members"]
    penalty: Float[Tensor, "*members"]


def wasserstein_objective(
    critic: Critic,
    x: Tensor,
    y: Tensor,
    generator: torch.Generator,
    lam: float = 10.0,
    sample_dims: int = 1,
) -> WassersteinTerms:
    """E_p[T(x)] − E_q[T(y)] − λ E_r[(‖∇T(z)‖₂ − 1)²], which the critic maximises, and its two terms.

    x ~ p and y ~ q as in `interpolate`; lam: λ > 0. Means are over the last of the sample dimensions.
    Raises ValueError for λ ≤ 0 or different shapes.
    """
    _positive("lam", lam)
    shape = x.shape[:sample_dims]
    gap = wasserstein_gap(critic(x).reshape(shape), critic(y).reshape(shape))
    penalty = lam * gradient_penalty(critic, x, y, generator, sample_dims).mean(-1)
    return WassersteinTerms(gap - penalty, gap, penalty)


class PenaltyOptimum(NamedTuple):
    """The WGAN-GP optimum between the lines: slope of T, gap, penalty (with λ), objective, gap − 2 penalty."""

    slope: Float[Tensor, "*shape"]
    gap: Float[Tensor, "*shape"]
    penalty: Float[Tensor, "*shape"]
    objective: Float[Tensor, "*shape"]
    corrected: Float[Tensor, "*shape"]


def line_penalty_optimum(phi: Float[Tensor, "*shape"], lam: float = 10.0) -> PenaltyOptimum:
    """Optimum of the penalised objective between p and q_φ among critics of the first coordinate; float64.

    A critic that bends with the second coordinate too does a little better (see `estimate_wasserstein`).

    Let d = |φ|. The interpolates' first coordinate is uniform between 0 and φ, with density 1/d, and the gap of
    T is the integral of its slope s from one line to the other. So the objective is the mean over
    interpolates of  d s − λ (s − 1)², greatest where d = 2λ(s − 1):

        slope     s = 1 + d/(2λ)
        gap       d s = d + d²/(2λ)
        penalty   P = λ(s − 1)² = d²/(4λ)
        objective gap − P = d + d²/(4λ)        what is usually plotted: too large
        corrected gap − 2P = d                 W₁, whatever λ > 0

    Raises ValueError for λ ≤ 0.
    """
    _positive("lam", lam)
    d = phi.double().abs()
    gap, penalty = d + d.square() / (2 * lam), d.square() / (4 * lam)
    return PenaltyOptimum(1 + d / (2 * lam), gap, penalty, gap - penalty, gap - 2 * penalty)


# --- estimates on fresh samples ---------------------------------------------------------------------

CHUNK = 2_000  # samples a member evaluated at a time: small enough to stay in the processor's cache


def _chunks(n: int, seed: int) -> Any:
    if n < 2:
        raise ValueError(f"n is {n}; expected at least 2 held-out samples")
    for start in range(0, n, CHUNK):
        yield min(CHUNK, n - start), generator(seed, "held out", start // CHUNK)


@torch.no_grad()
def estimate_jsd(
    discriminator: Critic, sample_p: Sampler, sample_q: Sampler, *, n: int = 20_000, seed: int = 0
) -> list[Estimate]:
    """JSD(p, q) of each member by `jsd_objective` on `n` fresh pairs, in nats, with standard errors.

    The discriminator has not seen these samples, so the expectation of the estimate is a lower bound of the
    divergence: overfitting lowers it. On the training batch it would raise it. The streams of `seed` here are
    others than those of the training functions. Warns of members far below 0. Raises ValueError for n < 2.
    """
    columns = []
    for size, draw in _chunks(n, seed):
        logits_p = discriminator(sample_p(size, draw)).double()
        logits_q = discriminator(sample_q(size, draw)).double()
        columns.append(math.log(2) + 0.5 * (F.logsigmoid(logits_p) + F.logsigmoid(-logits_q)))
    found = [estimates.mean(row) for row in torch.cat(columns, dim=1)]
    _warn_of_failures(  # a discriminator that says ½ everywhere has 0, and one short of its training not much less
        f"discriminator {i + 1} of {len(found)} gives {e.value:.4g} nats, and the least divergence is 0"
        for i, e in enumerate(found)
        if e.value + 5 * e.stderr < 0 and e.value < -0.1
    )
    return found


def _warn_of_failures(found: Iterable[str]) -> None:
    for text in found:
        warnings.warn(
            f"{text}: it died, diverged, or knows only the samples it was trained on. No distance can be read off it; "
            "train with another seed, a lower learning rate, or fresh samples",
            stacklevel=3,
        )


class WassersteinEstimate(NamedTuple):
    """What one trained critic says about W₁; `corrected` is the estimate to report.

    gap: E_p[T] − E_q[T].            Too large: the critic is steeper than 1.
    penalty: λ E_r(‖∇T‖ − 1)².
    objective: gap − penalty.        Too large by the penalty, and what is usually plotted.
    corrected: gap − 2 penalty.      Unbiased at the optimum in one dimension, for any λ.
    over_mean_slope: gap/E_r‖∇T‖.    Invariant to T's scale; its bias is positive unless slopes are constant.
    over_max_slope: gap/max ‖∇T‖ over the interpolates seen: a lower bound where these cover the supports.
    """

    corrected: Estimate
    gap: Estimate
    penalty: Estimate
    objective: Estimate
    over_mean_slope: Estimate
    over_max_slope: Estimate


def estimate_wasserstein(
    critic: Critic,
    sample_p: Sampler,
    sample_q: Sampler,
    *,
    lam: float = 10.0,
    n: int = 200_000,
    seed: int = 0,
) -> list[WassersteinEstimate]:
    """W₁(p, q) of each member on `n` fresh pairs, with the penalty's effect removed to the order it can be.

    Write w for the flux of a transport of q to p (a vector field with div w = q − p; its cost is ∫|w|) and r for
    the density of interpolates. At a maximum T of  gap − P,  P = λ E_r(‖∇T‖ − 1)²,  setting the variation to
    zero says that  w = 2λ r (‖∇T‖ − 1) ∇T/‖∇T‖  is such a flux, and  gap = ∫∇T·w  for every flux. Hence, where
    ‖∇T‖ ≥ 1,

        ‖∇T‖ = 1 + |w|/(2λr),   gap = ∫|w| + ∫|w|²/(2λr),   P = ∫|w|²/(4λr),   gap − 2P = ∫|w| ≥ W₁.

    * One dimension: the only flux is the difference of the distribution functions, whose ∫|w| is W₁: gap − 2P
      has no bias, for any p, q and λ. (Gap − P keeps +P, gap +2P, gap/E‖∇T‖ a Cauchy–Schwarz defect.)
    * More dimensions: w minimises ∫|w| + ∫|w|²/(4λr), not ∫|w|: it makes detours round places where interpolates
      are rare. So gap − 2P is too large still, but by less than gap − P, whose bias has P on top. Between the
      lines at φ = 1 (W₁ = 1), by finite elements: gap 1.0600, gap − P 1.0311, gap − 2P 1.0023 for λ = 10, and
      1.532, 1.271, 1.010 for λ = 1.

    These are statements about the optimal critic. At any other one the estimate moves by δ(gap − 2P) =
    −E_r[2λ(‖∇T‖ − 1) δ‖∇T‖], and needless variation v of the slope costs 2λv: a rough critic reads low.

    Standard errors are the delta method's over pairs, whose gap and interpolate belong together. Warns of members
    that have died or diverged, whose −2λ and the like is no distance. Raises ValueError for n < 2 or λ ≤ 0.
    """
    _positive("lam", lam)
    gaps, slopes = [], []
    for size, draw in _chunks(n, seed):
        x, y = sample_p(size, draw), sample_q(size, draw)
        with torch.no_grad():
            gaps.append(critic(x).double() - critic(y).double())
        z = interpolate(x, y, draw, sample_dims=2)
        slopes.append(gradient_norm(critic, z, sample_dims=2, create_graph=False).double())
    pairs = zip(torch.cat(gaps, dim=1), torch.cat(slopes, dim=1), strict=True)
    found = [_wasserstein_estimate(gap, slope, lam) for gap, slope in pairs]
    # Some T of slope one has an objective of 0 or more. Slopes half a unit off are no optimum that falls short of it.
    _warn_of_failures(
        f"critic {i + 1} of {len(found)} has gap {e.gap.value:.4g} and penalty {e.penalty.value:.4g} (λ = {lam:g})"
        for i, e in enumerate(found)
        if e.objective.value + 5 * e.objective.stderr < 0 and e.penalty.value > lam / 4
    )
    return found


def best_critic(found: list[WassersteinEstimate]) -> int:
    """The member with the greatest penalised objective, among restarts of one problem.

    The estimate is defined by the maximum over T, and a critic with needless kinks or a stretch of the wrong
    sign stands out by a lower objective. `found` should come from samples other than those of the reported
    estimate: choosing by a noisy value favours the noise. Raises ValueError for an empty list.
    """
    if not found:
        raise ValueError("found is empty; expected the estimates of at least one critic")
    return max(range(len(found)), key=lambda i: found[i].objective.value)


def _wasserstein_estimate(gap: Tensor, slope: Tensor, lam: float) -> WassersteinEstimate:
    penalty = lam * (slope - 1).square()
    mean_slope, max_slope = slope.mean(), slope.max().clamp(min=1e-12)
    ratio = gap.mean() / mean_slope.clamp(min=1e-12)
    linear = ratio + (gap - ratio * slope) / mean_slope.clamp(min=1e-12)  # its mean is the ratio, its sd the error's
    values = (gap - 2 * penalty, gap, penalty, gap - penalty, linear, gap / max_slope)
    return WassersteinEstimate(*(estimates.mean(value) for value in values))


# --- the density ratio ------------------------------------------------------------------------------


def density_ratio(logit: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """D/(1 − D) = e^logit, the estimate of p/q; float64. Formed from the logit: 1 − D rounds to 0 from logit 17."""
    return logit.double().exp()


def density_from_discriminator(
    logit: Float[Tensor, "*members points"], log_f0: Float[Tensor, " points"]
) -> Float[Tensor, "*members points"]:
    """f₁ = f₀ D/(1 − D) = exp(log f₀ + logit), not normalised; float64.

    logit: of a discriminator trained with f₁ as p and f₀ as q; log_f0: the known log-density at the same points.
    """
    return (log_f0.double() + logit.double()).exp()


def l1_error(
    x: Float[Tensor, " points"], estimate: Float[Tensor, "*members points"], truth: Float[Tensor, " points"]
) -> Float[Tensor, "*members"]:
    """∫|estimate − truth| dx by the trapezoid rule over the increasing points `x`; float64."""
    return torch.trapezoid((estimate.double() - truth.double()).abs(), x.double())


@torch.no_grad()
def logits_on_line(discriminator: nn.Module, x: Float[Tensor, " points"]) -> Float[Tensor, "members points"]:
    """A one-dimensional ensemble's logits at points of the line."""
    weight = next(discriminator.parameters())
    points = x.to(weight)[None, :, None]
    return discriminator(points.expand(weight.shape[0], -1, -1)).double()


# --- training ---------------------------------------------------------------------------------------


def _adam(net: nn.Module, steps: int, learning_rate: float) -> tuple[Any, Any]:
    """Adam and a cosine decay of its rate to zero: the last steps average the noise of the batches out."""
    optimiser = torch.optim.Adam(net.parameters(), learning_rate, betas=(0.9, 0.99), fused=True)
    return optimiser, torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)


def _train(
    net: CriticEnsemble,
    objective: Callable[[int, torch.Generator], Tensor],
    *,
    steps: int,
    learning_rate: float,
    seed: int,
    desc: str,
) -> CriticEnsemble:
    _positive("learning_rate", learning_rate)
    optimiser, schedule = _adam(net, steps, learning_rate)

    def step(i: int) -> dict[str, Tensor]:
        values = objective(i, generator(seed, "training", i))
        optimiser.zero_grad(set_to_none=True)
        (-values.sum()).backward()  # the sum: each member climbs its own objective
        optimiser.step()
        schedule.step()
        return {"objective": values.mean()}

    parts = {"net": net, "optimiser": optimiser, "schedule": schedule}
    fit(step, steps, parts=parts, recipe={"seed": seed}, desc=desc)
    return net


def train_discriminator(
    sample_p: Sampler,
    sample_q: Sampler,
    *,
    seed: int = 0,
    steps: int = 200,
    batch_size: int = 512,
    learning_rate: float = 2e-2,
    hidden: tuple[int, int] = (32, 32),
    activation: Callable[[], nn.Module] = nn.ReLU,
    objective: Callable[[Tensor, Tensor], Tensor] = jsd_objective,
    desc: str = "discriminators",
) -> CriticEnsemble:
    """Maximise `jsd_objective`, or another `objective`, for every member at once, on fresh samples at each step.

    Inputs are standardised by a sample of 4,096 of each law. The defaults suit the lines; a smooth logit wants
    `activation=nn.Tanh`, more steps and larger batches. Same seed, same network.
    Raises ValueError for steps, batch_size < 1 or a rate that is not positive.
    """
    net = _ensemble(sample_p, sample_q, batch_size, hidden, activation, seed)
    draw = generator(seed, "standardise")
    net.standardise(torch.cat([sample_p(4096, draw), sample_q(4096, draw)], dim=1))

    def of_step(i: int, draw: torch.Generator) -> Tensor:
        return objective(net(sample_p(batch_size, draw)), net(sample_q(batch_size, draw)))

    return _train(net, of_step, steps=steps, learning_rate=learning_rate, seed=seed, desc=desc)


def train_critic(
    sample_p: Sampler,
    sample_q: Sampler,
    *,
    lam: float = 10.0,
    seed: int = 0,
    steps: int = 500,
    batch_size: int = 512,
    learning_rate: float = 1e-2,
    hidden: tuple[int, int] = (32, 32),
    ramp: float = 0.25,
    objective: Callable[[Critic, Tensor, Tensor, Tensor, float], tuple[Tensor, ...]] | None = None,
    desc: str = "critics",
) -> CriticEnsemble:
    """Maximise `wasserstein_objective` for every member at once, on fresh samples at each step.

    ramp: the fraction of the steps over which the penalty's weight grows from λ/1000 to λ. At full weight from
    the start the penalty pushes every slope from its random initial value to the nearer of −1 and +1 before the
    gap is felt, and the way across 0 then costs λ: of 16 critics of f₁ against f₀, eleven ended as T(x) ≈ ±x, a
    local maximum with gap ≈ ±0.37 where the distance is 0.596. Growing from a small weight, the slope takes its
    sign from the gap and its size from the penalty.

    objective: one's own in place of `wasserstein_objective`, (critic, x, y, a, λ) → what is maximised, first of
    a tuple: x, y (members, batch, dim), a (members, batch, 1) the weight of x in each pair.

    Inputs are not standardised, since the distance and the penalty are about the slope in x itself. ReLU: the
    optimum between the lines is linear, and in one dimension it has kinks. Same seed, same network.
    Raises ValueError for steps, batch_size < 1, a rate or λ that is not positive, or a ramp outside [0, 1].
    """
    if not 0 <= ramp <= 1:
        raise ValueError(f"ramp is {ramp}; expected a fraction of the steps, 0 to 1")
    _positive("lam", lam)
    net = _ensemble(sample_p, sample_q, batch_size, hidden, nn.ReLU, seed)

    def of_step(i: int, draw: torch.Generator) -> Tensor:
        x, y = sample_p(batch_size, draw), sample_q(batch_size, draw)
        weight = lam * 1000 ** min(0.0, i / (ramp * steps) - 1) if ramp else lam
        if objective is None:
            return wasserstein_objective(net, x, y, draw, weight, sample_dims=2).objective
        a = torch.rand(*x.shape[:2], 1, generator=draw, device=draw.device).to(x)
        return objective(net, x, y, a, weight)[0]

    return _train(net, of_step, steps=steps, learning_rate=learning_rate, seed=seed, desc=desc)


def _ensemble(
    sample_p: Sampler, sample_q: Sampler, batch_size: int, hidden: tuple[int, int], activation: Any, seed: int
) -> CriticEnsemble:
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}; expected at least 1")
    shapes = [tuple(sample(2, generator(seed, "shape")).shape) for sample in (sample_p, sample_q)]
    if shapes[0] != shapes[1] or len(shapes[0]) != 3:
        raise ValueError(f"two samples have shapes {shapes[0]} and {shapes[1]}; expected one (members, 2, dim)")
    return CriticEnsemble(shapes[0][0], shapes[0][2], hidden, activation, seed=seed)


def _positive(name: str, value: float) -> None:
    if not value > 0:
        raise ValueError(f"{name} is {value}; expected a positive number")


# --- the experiments of problem 1 -------------------------------------------------------------------


def line_samplers(phi: Float[Tensor, " members"]) -> tuple[Sampler, Sampler]:
    """Samplers of p and q_φ, one member for each value of φ."""

    def p(n: int, draw: torch.Generator) -> Tensor:
        return distributions.sample_line(torch.zeros_like(phi), n, draw)

    def q(n: int, draw: torch.Generator) -> Tensor:
        return distributions.sample_line(phi, n, draw)

    return p, q


def sweep_jsd(phi: Float[Tensor, " members"], *, seed: int = 0, n: int = 20_000, **settings: Any) -> list[Estimate]:
    """Held-out estimate of JSD(p, q_φ) for every φ, all trained at once; settings of `train_discriminator`."""
    p, q = line_samplers(phi)
    return estimate_jsd(train_discriminator(p, q, seed=seed, **settings), p, q, n=n, seed=seed)


def sweep_wasserstein(
    phi: Float[Tensor, " members"], *, seed: int = 0, n: int = 200_000, lam: float = 10.0, **settings: Any
) -> list[WassersteinEstimate]:
    """Held-out estimates of W₁(p, q_φ) for every φ, all trained at once; settings of `train_critic`."""
    p, q = line_samplers(phi)
    return estimate_wasserstein(train_critic(p, q, lam=lam, seed=seed, **settings), p, q, lam=lam, n=n, seed=seed)


class PhiPath(NamedTuple):
    """φ and the estimated distance before each step and after the last: two vectors of steps + 1 values."""

    phi: Float[Tensor, " points"]
    distance: Float[Tensor, " points"]


def learn_phi(
    distance: Literal["jsd", "wasserstein"],
    start: float,
    *,
    steps: int = 100,
    learning_rate: float = 0.05,
    critic_steps: int = 5,
    warm_up: int = 200,
    batch_size: int = 512,
    lam: float = 1.0,
    seed: int = 0,
) -> PhiPath:
    """Gradient descent on φ to bring q_φ to p, under one distance or the other: a GAN of one parameter.

    At each step the discriminator or critic is updated `critic_steps` times (after `warm_up` updates at the
    start), then φ descends the objective through the samples (φ, Z), the network held fixed (the derivative
    of a maximum is the partial derivative at the maximiser). The rate of φ
    decays to zero as (1 − i/steps)².

    lam is small here: with 10 the slope, to change its sign after φ has passed 0, must cross a region where the
    penalty costs 10, lags behind, and φ overshoots by 0.3.

    Under JSD a good discriminator is flat wherever there are samples, and φ does not move; under W₁ its slope is
    sign φ all the way. Raises ValueError for an unknown distance, steps < 1, or a rate that is not positive.
    """
    if distance not in ("jsd", "wasserstein"):
        raise ValueError(f"distance is {distance!r}; expected 'jsd' or 'wasserstein'")
    if steps < 1:
        raise ValueError(f"steps is {steps}; expected at least 1")
    _positive("learning_rate", learning_rate)
    _positive("lam", lam)
    phi = torch.tensor([float(start)], requires_grad=True)
    p, q = line_samplers(phi)
    net = CriticEnsemble(1, 2, seed=seed)
    optimiser = torch.optim.Adam(net.parameters(), 1e-2, betas=(0.5, 0.9))

    def objective(draw: torch.Generator) -> Tensor:
        x, y = p(batch_size, draw), q(batch_size, draw)
        if distance == "jsd":
            return jsd_objective(net(x), net(y)).sum()
        return wasserstein_objective(net, x, y, draw, lam, sample_dims=2).objective.sum()

    path = []
    for i in range(steps + 1):
        for k in range(critic_steps + (warm_up if i == 0 else 0)):
            optimiser.zero_grad(set_to_none=True)
            (-objective(generator(seed, "critic", i, k))).backward()
            optimiser.step()
        draw = generator(seed, "phi", i)
        x, y = p(batch_size, draw), q(batch_size, draw)
        value = (jsd_objective if distance == "jsd" else wasserstein_gap)(net(x), net(y)).sum()
        path.append((phi.item(), value.item()))
        (slope,) = torch.autograd.grad(value, phi)
        with torch.no_grad():
            phi -= learning_rate * (1 - i / steps) ** 2 * slope
    found = torch.tensor(path, dtype=torch.float64)
    return PhiPath(found[:, 0], found[:, 1])
