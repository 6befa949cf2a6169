"""The variational autoencoder: the terms of the ELBO, its evaluation, its training.

Kingma and Welling, "Auto-Encoding Variational Bayes", 2014; the likelihood by importance sampling, Burda,
Grosse and Salakhutdinov, "Importance Weighted Autoencoders", 2016. Every quantity is in nats per image.

A model has `encode(x)` → mean and log-variance of q(z|x), each (batch, latent), and `decode(z)` → what the
likelihood needs, of the shape of x; `latent` is the number L of latent units. Functions take the likelihood as an
argument, Bernoulli by default.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import reduce
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Integer
from torch import Tensor, nn
from torch.nn import functional as F

from . import estimates
from .data import shift
from .estimates import Estimate
from .training import Batches, History, fit, forked_rng, generator, update_average


def bernoulli_log_likelihood(
    logits: Float[Tensor, "*batch 1 h w"], x: Float[Tensor, "*batch 1 h w"]
) -> Float[Tensor, "*batch"]:
    """log p(x|z) = Σ_pixels (x·l − log(1 + e^l)), l the logits; never through probabilities, which saturate."""
    return -F.binary_cross_entropy_with_logits(logits, x, reduction="none").sum(dim=(-3, -2, -1))


def gaussian_log_likelihood(
    mean: Float[Tensor, "*batch c h w"], x: Float[Tensor, "*batch c h w"], variance: float | Float[Tensor, ""] = 1.0
) -> Float[Tensor, "*batch"]:
    """log N(x; mean, σ²I), summed over pixels and channels: −½(x − mean)²/σ² − ½ log 2πσ² each. variance: σ²."""
    variance = torch.as_tensor(variance, dtype=mean.dtype, device=mean.device)
    return -0.5 * ((x - mean).square() / variance + torch.log(2 * math.pi * variance)).sum(dim=(-3, -2, -1))


def calibrated_log_likelihood(
    mean: Float[Tensor, "*batch c h w"], x: Float[Tensor, "*batch c h w"]
) -> Float[Tensor, "*batch"]:
    """log N(x; mean, σ²I) with the σ² that maximises it over the batch: the mean of (x − mean)².

    The optimal σ-VAE (Rybkin, Daniilidis and Levine 2021, equation 6): for training, where the right σ² falls as
    the decoder improves. It joins the images of a batch, so evaluate with `gaussian_log_likelihood` and a fixed σ².
    """
    return gaussian_log_likelihood(mean, x, (x - mean).square().mean())


Likelihood = Callable[[Tensor, Tensor], Tensor]


def gaussian_kl(
    mean: Float[Tensor, "*batch latent"], logvar: Float[Tensor, "*batch latent"]
) -> Float[Tensor, "*batch latent"]:
    """KL(N(mean, diag e^logvar) ‖ N(0, I)) of each latent unit: ½(mean² + e^logvar − 1 − logvar).

    Kingma and Welling 2014, appendix B. The KL of an image is the sum over units.
    """
    return 0.5 * (mean.square() + logvar.exp() - 1 - logvar)


def reparametrise(
    mean: Float[Tensor, "*#batch latent"],
    logvar: Float[Tensor, "*#batch latent"],
    noise: Float[Tensor, "*#batch latent"],
) -> Float[Tensor, "... latent"]:
    """A draw z = mean + e^{logvar/2}·noise from q(z|x), noise ~ N(0, I). (e^logvar is the variance.)"""
    return mean + torch.exp(0.5 * logvar) * noise


class Elbo(NamedTuple):
    """Per image, in nats: elbo = reconstruction − kl. From `path_elbo` all three are one draw, kl may be negative."""

    elbo: Float[Tensor, " batch"]
    reconstruction: Float[Tensor, " batch"]
    kl: Float[Tensor, " batch"]


def elbo(
    model: nn.Module,
    x: Float[Tensor, "batch c h w"],
    noise: Float[Tensor, "batch latent"],
    likelihood: Likelihood = bernoulli_log_likelihood,
) -> Elbo:
    """One-sample estimate of E_q[log p(x|z)] − KL(q(z|x)‖p(z)), the KL in closed form."""
    mean, logvar = model.encode(x)
    kl = gaussian_kl(mean, logvar).sum(dim=-1)
    reconstruction = likelihood(model.decode(reparametrise(mean, logvar, noise)), x)
    return Elbo(reconstruction - kl, reconstruction, kl)


def path_elbo(
    model: nn.Module,
    x: Float[Tensor, "batch c h w"],
    noise: Float[Tensor, "batch latent"],
    likelihood: Likelihood = bernoulli_log_likelihood,
) -> Elbo:
    """One-sample estimate log p(x|z) − log q(z|x)/p(z), the encoder's gradient through z alone: for training.

    Expectation and expected gradient are those of `elbo`, the decoder's gradient too. Left out is the encoder's
    gradient of log q with z held fixed, whose mean is zero; the noise of what stays vanishes as q nears the
    posterior ("Sticking the Landing", Roeder, Wu and Duvenaud 2017), where that of `elbo` does not.
    """
    mean, logvar = model.encode(x)
    z = reparametrise(mean, logvar, noise)
    kl = log_normal(z, mean.detach(), logvar.detach()) - log_normal(z, 0.0, 0.0)
    reconstruction = likelihood(model.decode(z), x)
    return Elbo(reconstruction - kl, reconstruction, kl)


def image_noise(seed: int, row: int, *shape: int, block: int = 0) -> Float[Tensor, "*shape"]:
    """Standard normal noise that belongs to an image: row i gets the same draw in any batch, in any order."""
    return torch.randn(shape, generator=generator(seed, "image", row, block))


class ElboEstimate(NamedTuple):
    """Means over images with their standard errors; per_image: the ELBO of each, float64. In nats."""

    elbo: Estimate
    reconstruction: Estimate
    kl: Estimate
    per_image: Float[Tensor, " n"]


@torch.no_grad()
def evaluate_elbo(
    model: nn.Module,
    images: Integer[Tensor, "n c h w"] | Float[Tensor, "n c h w"],
    *,
    seed: int = 0,
    samples: int = 1,
    batch_size: int = 200,
    likelihood: Likelihood = bernoulli_log_likelihood,
) -> ElboEstimate:
    """ELBO averaged over a data set, with the standard error over images.

    samples: draws of z per image; more of them only remove noise within an image, which is small beside the
    spread between images. The result does not depend on `batch_size` beyond rounding.
    """
    weights = next(model.parameters())  # images and noise go where it is, in its precision
    columns: list[list[Tensor]] = [[], [], []]
    for start in range(0, len(images), batch_size):
        x = images[start : start + batch_size].to(weights)
        noise = torch.stack([image_noise(seed, start + i, samples, model.latent) for i in range(len(x))]).to(weights)
        draws = [elbo(model, x, noise[:, s], likelihood) for s in range(samples)]
        for k, column in enumerate(columns):
            column.append(torch.stack([draw[k].double() for draw in draws]).mean(dim=0).cpu())
    per_image = [torch.cat(column) for column in columns]
    return ElboEstimate(*(estimates.mean(column) for column in per_image), per_image[0])


@torch.no_grad()
def fitted_variance(
    model: nn.Module, images: Float[Tensor, "n c h w"], *, seed: int = 0, batch_size: int = 500
) -> float:
    """The σ² with which N(x; g(z), σ²I) fits the images best: the mean of (x − g(z))², one z ~ q(z|x) an image."""
    weights, total = next(model.parameters()), 0.0
    for start in range(0, len(images), batch_size):
        x = images[start : start + batch_size].to(weights)
        noise = torch.stack([image_noise(seed, start + i, model.latent) for i in range(len(x))]).to(weights)
        total += (x - model.decode(reparametrise(*model.encode(x), noise))).double().square().sum().item()
    return total / images.numel()


# --- the likelihood, by importance sampling ---------------------------------------------------------------


def log_normal(
    z: Float[Tensor, "*#batch latent"],
    mean: Float[Tensor, "*#batch latent"] | float,
    logvar: Float[Tensor, "*#batch latent"] | float,
) -> Float[Tensor, "*batch"]:
    """log N(z; mean, diag e^logvar), summed over the last dimension; logvar is the log of the *variance*."""
    logvar = torch.as_tensor(logvar, dtype=z.dtype, device=z.device)
    return -0.5 * ((z - mean).square() * torch.exp(-logvar) + logvar + math.log(2 * math.pi)).sum(dim=-1)


def log_weights(
    model: nn.Module,
    x: Float[Tensor, "m c h w"],
    z: Float[Tensor, "m k latent"],
    likelihood: Likelihood = bernoulli_log_likelihood,
) -> Float[Tensor, "m k"]:
    """log w = log p(x|z) + log p(z) − log q(z|x) of every code: what importance sampling averages.

    x is encoded once; the densities of z are formed and subtracted as logarithms, never exponentiated.
    """
    m, k, latent = z.shape
    mean, logvar = model.encode(x)
    decoded = model.decode(z.reshape(m * k, latent)).view(m, k, *x.shape[1:])
    log_px_z = likelihood(decoded, x[:, None].expand_as(decoded))
    return log_px_z + log_normal(z, 0.0, 0.0) - log_normal(z, mean[:, None], logvar[:, None])


@torch.no_grad()
def log_likelihood(
    model: nn.Module,
    x: Float[Tensor, "m d"],
    z: Float[Tensor, "n k latent"],
    likelihood: Likelihood = bernoulli_log_likelihood,
    shape: tuple[int, int, int] = (1, 28, 28),
) -> Float[Tensor, " m"]:
    """log p(x) ≈ log 1/K Σ_k p(x|z_k) p(z_k) / q(z_k|x), for codes z_k drawn from q(z|x): the graded function.

    x: M images as rows of D values. z: K codes for each. Returns the M estimates in nats, in float64, by
    log-sum-exp. In expectation a lower bound on log p(x) that rises with K (Burda et al. 2016, theorem 1).
    All M·K codes are decoded at once: `evaluate_log_likelihood` is for many.
    Raises ValueError when x and z disagree on M, or D is not the product of `shape`.
    """
    if len(x) != len(z):
        raise ValueError(f"x holds {len(x)} images and z codes for {len(z)}; expected the same number")
    if x.shape[1] != math.prod(shape):
        raise ValueError(f"x has {x.shape[1]} values a row; an image of shape {shape} has {math.prod(shape)}")
    x, z = (v.to(next(model.parameters())) for v in (x, z))
    log_w = log_weights(model, x.view(-1, *shape), z, likelihood).double()
    return torch.logsumexp(log_w, dim=1) - math.log(z.shape[1])


class LikelihoodEstimate(NamedTuple):
    """estimate: the mean of per_image, with its standard error over images. Per image: log p(x); the ELBO from
    the same codes, the mean of their log w; and the effective sample size (Σw)²/Σw² of the K weights, from 1 (one
    code carries all) to K."""

    estimate: Estimate
    per_image: Float[Tensor, " n"]
    elbo: Float[Tensor, " n"]
    effective: Float[Tensor, " n"]


BLOCK = 50  # codes drawn at a time: fixes both the memory and which noise is which


def weight_blocks(
    model: nn.Module,
    images: Integer[Tensor, "n c h w"] | Float[Tensor, "n c h w"],
    codes: int,
    *,
    rows: Integer[Tensor, " n"] | None = None,
    seed: int = 0,
    batch_size: int = 5,
    likelihood: Likelihood = bernoulli_log_likelihood,
) -> Iterator[Iterator[Float[Tensor, "batch block"]]]:
    """For each batch of images, the float64 `log_weights` of codes drawn from q(z|x) here, BLOCK codes at a time.

    rows: numbers the images carry in their data set, so that an image of a subset gets the noise it has in the full
    set. Neither `batch_size` nor the other images change an image's weights beyond rounding.
    """
    weights = next(model.parameters())
    rows = torch.arange(len(images)) if rows is None else rows

    def blocks(x: Tensor, rows: Tensor) -> Iterator[Tensor]:
        mean, logvar = (v[:, None] for v in model.encode(x))
        for block, done in enumerate(range(0, codes, BLOCK)):
            noise = torch.stack([image_noise(seed, int(r), BLOCK, model.latent, block=block) for r in rows])
            z = reparametrise(mean, logvar, noise[:, : codes - done].to(weights))
            yield log_weights(model, x, z, likelihood).double()

    for x, some in zip(images.split(batch_size), rows.split(batch_size), strict=True):
        yield blocks(x.to(weights), some)


@torch.no_grad()
def evaluate_log_likelihood(
    model: nn.Module,
    images: Integer[Tensor, "n c h w"] | Float[Tensor, "n c h w"],
    k: int = 200,
    **options: Any,
) -> LikelihoodEstimate:
    """`log_likelihood` of a whole set, for any K: it draws the codes itself and keeps none.

    Memory does not grow with K: of the blocks of codes only the running sums of w, w² and log w are kept, the first
    two as logarithms. options: those of `weight_blocks`. Raises ValueError for a K below 1.
    """
    if k < 1:
        raise ValueError(f"k is {k}; expected at least one code per image")

    def sums(w: Tensor) -> tuple[Tensor, ...]:
        return w.logsumexp(dim=1), (2 * w).logsumexp(dim=1), w.sum(dim=1)

    def together(a: tuple[Tensor, ...], b: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return torch.logaddexp(a[0], b[0]), torch.logaddexp(a[1], b[1]), a[2] + b[2]

    columns: list[Tensor] = []
    for blocks in weight_blocks(model, images, k, **options):
        first, second, logs = reduce(together, map(sums, blocks))  # log Σw, log Σw², Σ log w
        columns.append(torch.stack([first - math.log(k), logs / k, torch.exp(2 * first - second)]).cpu())
    log_p, bound, effective = torch.cat(columns, dim=1)
    return LikelihoodEstimate(estimates.mean(log_p), log_p, bound, effective)


@torch.no_grad()
def likelihood_curve(
    model: nn.Module,
    images: Integer[Tensor, "n c h w"] | Float[Tensor, "n c h w"],
    ks: Sequence[int],
    **options: Any,
) -> list[LikelihoodEstimate]:
    """`evaluate_log_likelihood` at each K of `ks`, from the codes of the largest and with all the precision in them.

    The codes are cut into as many disjoint groups of K as they give. Each group yields one estimate at K, and their
    mean has the same expectation with less noise: at K = 1 it is the ELBO over all codes; at the largest K there is
    one group. The effective sample size, too, is the mean over groups. Of each code of a batch of images the weight
    is kept, eight bytes. options: those of `weight_blocks`. Raises ValueError for a K below 1.
    """
    if not ks or min(ks) < 1:
        raise ValueError(f"k is {min(ks, default=0)}; expected at least one code per image")
    found: dict[int, list[Tensor]] = {k: [] for k in ks}  # by batch, (3, batch): log p, ELBO, effective
    for blocks in weight_blocks(model, images, max(ks), **options):
        w = torch.cat(list(blocks), dim=1)
        for k in found:
            groups = w[:, : max(ks) // k * k].unflatten(1, (-1, k))
            first, second = torch.logsumexp(groups, dim=2), torch.logsumexp(2 * groups, dim=2)
            columns = (first - math.log(k), w, torch.exp(2 * first - second))
            found[k].append(torch.stack([column.mean(dim=1) for column in columns]).cpu())
    columns = [torch.cat(found[k], dim=1) for k in ks]
    return [LikelihoodEstimate(estimates.mean(log_p), log_p, *others) for log_p, *others in columns]


def correct_to_all(elbo_of_all: Float[Tensor, " n"], subset: LikelihoodEstimate) -> Estimate:
    """Mean log p(x) over all n images from m of them, by regression of log p on the ELBO, which all have.

    mean log p of the subset + slope · (mean ELBO of all − mean ELBO of the subset): the regression estimator
    (Cochran, "Sampling Techniques", 1977, chapter 7). On the subset the ELBO comes from the same many codes as
    log p, so that one and a half nats are left between images, where log p itself varies by twenty: m in the
    hundreds for n = 10,000 costs little. The standard error is that of the mean over images like these.
    """
    n, m = len(elbo_of_all), len(subset.per_image)
    if m == n:
        return subset.estimate
    covariance = torch.cov(torch.stack([subset.elbo, subset.per_image]))
    slope = covariance[0, 1] / covariance[0, 0]
    rest = subset.per_image - slope * subset.elbo  # uncorrelated with the ELBO, so both errors add up
    variance = slope.square() * elbo_of_all.double().var() / n + rest.var() * (m - 1) / (m - 2) / m
    return Estimate((rest.mean() + slope * elbo_of_all.double().mean()).item(), variance.sqrt().item(), n)


# --- where the gap comes from -----------------------------------------------------------------------------


class OwnPosterior(nn.Module):
    """`model` for some images only, with a q(z|x) of each image's own in place of the encoder's answer.

    It starts as the encoder's. `encode` takes those images in their order, once or several times over.
    """

    def __init__(self, model: nn.Module, x: Float[Tensor, "m c h w"]):
        super().__init__()
        self.decode, self.latent = model.decode, model.latent
        with torch.no_grad():
            self.mean, self.logvar = (nn.Parameter(v.clone()) for v in model.encode(x))

    def encode(
        self, x: Float[Tensor, "batch c h w"]
    ) -> tuple[Float[Tensor, "batch latent"], Float[Tensor, "batch latent"]]:
        """Mean and log-variance of q(z|x). Raises ValueError for a number of images that is no multiple of its own."""
        times, rest = divmod(len(x), len(self.mean))
        if rest or not times:
            raise ValueError(f"x holds {len(x)} images and q is of {len(self.mean)}; expected these, once or more")
        return self.mean.repeat(times, 1), self.logvar.repeat(times, 1)


def fit_posterior(
    model: nn.Module,
    images: Integer[Tensor, "m c h w"] | Float[Tensor, "m c h w"],
    *,
    steps: int = 60,
    samples: int = 8,
    learning_rate: float = 0.1,
    seed: int = 0,
    likelihood: Likelihood = bernoulli_log_likelihood,
) -> OwnPosterior:
    """The model with the diagonal Gaussian q(z|x) of each image that maximises its ELBO, by Adam from the encoder's.

    The encoder must answer for every image with one function; here each image has an answer of its own. What the
    ELBO gains is the price of that (amortisation), and what then still lacks to log p(x) is the family's (Cremer, Li
    and Duvenaud, "Inference Suboptimality in Variational Autoencoders", 2018). samples: codes per image and step;
    the rate falls to zero along a cosine. The model's weights are neither changed nor given gradients.
    """
    x = images.to(next(model.parameters()))
    own = OwnPosterior(model, x)
    optimiser = torch.optim.Adam(own.parameters(), learning_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    repeated = x.repeat(samples, 1, 1, 1)
    for i in range(steps):
        noise = torch.randn(len(repeated), own.latent, generator=generator(seed, "posterior", i)).to(x)
        loss = -path_elbo(own, repeated, noise, likelihood).elbo.mean() * len(x)
        optimiser.zero_grad()
        loss.backward(inputs=[own.mean, own.logvar])
        optimiser.step()
        schedule.step()
    return own


# --- training ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Recipe:
    """How to train. schedule: `constant`, or `one-cycle`: a linear rise to the rate, then a cosine to zero.

    path_gradient: of `path_elbo`, which has less noise, in place of `elbo`'s. shifted: share of the steps in which
    images may be moved by a pixel each way; the chance of it falls linearly from 1 at the first step to 0. decay: of
    an average of the weights over the steps, which then is what is evaluated and kept; 0: the last weights are.
    """

    batch_size: int = 64
    learning_rate: float = 3e-4
    schedule: str = "constant"
    warm_up: float = 0.1  # share of the steps
    path_gradient: bool = False
    shifted: float = 0.0
    decay: float = 0.0

    def at(self, learning_rate: float) -> Recipe:
        """This recipe with another (peak) learning rate; 0 keeps its own."""
        return replace(self, learning_rate=learning_rate or self.learning_rate)

    def factor(self, step: int, total: int) -> float:
        """Share of the learning rate at a step."""
        if self.schedule == "constant":
            return 1.0
        rise = self.warm_up * total
        if step < rise:
            return (step + 1) / rise
        return 0.5 * (1 + math.cos(math.pi * (step - rise) / (total - rise)))

    def chance_of_shift(self, step: int, total: int) -> float:
        """With which an image may be moved at a step."""
        return max(0.0, 1 - step / (self.shifted * total)) if self.shifted else 0.0


RECIPES = {
    "baseline": Recipe(),
    "tuned": Recipe(batch_size=128, learning_rate=5.5e-3, schedule="one-cycle", path_gradient=True),
}
RECIPES["long"] = replace(RECIPES["tuned"], learning_rate=4.5e-3, shifted=0.8)


def train(
    model: nn.Module,
    images: Integer[Tensor, "n c h w"],
    recipe: Recipe,
    *,
    epochs: int,
    watch: Mapping[str, Tensor],
    seed: int = 0,
    checkpoint: Path | None = None,
    about: Mapping[str, object] | None = None,
    likelihood: Likelihood = bernoulli_log_likelihood,
    prepare: Callable[[Tensor], Tensor] = Tensor.float,
) -> History:
    """Maximise the ELBO with Adam; training ends in `model`.

    images: what `prepare` makes x of, by default 0/1 integers. epochs: passes over them. seed: of the order of the
    images, their shifts and the noise; the start is `model`'s own. watch: name → images whose ELBO is measured after
    every epoch; rows such as `valid_elbo`, `valid_kl` and `valid_reconstruction` join the history beside `loss`, `kl`
    and `reconstruction`, means over training batches. With `checkpoint` the training resumes exactly where it was
    cut. about: further plain values that the checkpoint must agree with, such as the hash of the data. prepare: from
    stored numbers to the model's input, `data.from_bytes` for colour images.

    Raises what `training.fit` does: CheckpointMismatch for a checkpoint of another training, TrainingDiverged when
    the loss is no longer finite.
    """
    weights = next(model.parameters())
    device = weights.device
    batches = Batches(len(images), recipe.batch_size, seed)
    total = epochs * batches.per_epoch
    images = images.to(device)
    optimiser = torch.optim.Adam(model.parameters(), recipe.learning_rate, fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda i: recipe.factor(i, total))
    parts = {"model": model, "optimiser": optimiser, "schedule": schedule}
    kept = copy.deepcopy(model).requires_grad_(False) if recipe.decay else model
    if recipe.decay:
        parts["average"] = kept

    def step(i: int) -> dict[str, Tensor]:
        x = prepare(images[batches(i).to(device)]).to(weights)
        if chance := recipe.chance_of_shift(i, total):
            draws = generator(seed, "shift", i, device=device)
            moved = torch.rand(len(x), 1, 1, 1, generator=draws, device=device) < chance
            x = torch.where(moved, shift(x, 1, draws), x)
        noise = torch.randn(len(x), model.latent, generator=generator(seed, "z", i, device=device), device=device)
        terms = (path_elbo if recipe.path_gradient else elbo)(model, x, noise, likelihood)
        loss = -terms.elbo.mean()
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        schedule.step()
        if recipe.decay:
            update_average(kept, model, recipe.decay, i)
        return {"loss": loss, "reconstruction": terms.reconstruction.mean(), "kl": terms.kl.mean()}

    def evaluate() -> dict[str, float]:
        found = {
            name: evaluate_elbo(kept, prepare(some), seed=seed, likelihood=likelihood) for name, some in watch.items()
        }
        terms = ("elbo", "reconstruction", "kl")
        return {f"{name}_{term}": getattr(found[name], term).value for name in found for term in terms}

    settings = asdict(recipe) | {"epochs": epochs, "seed": seed, "latent": model.latent, "images": len(images)}
    history = fit(
        step,
        total,
        parts=parts,
        recipe=settings | dict(about or {}),
        checkpoint=checkpoint,
        evaluate=evaluate,
        evaluate_every=batches.per_epoch,
        desc="training the VAE",
    )
    if recipe.decay:
        model.load_state_dict(kept.state_dict())
    return history


def active_units(means: Float[Tensor, "n latent"], threshold: float = 0.01) -> Bool[Tensor, " latent"]:
    """Units whose posterior mean varies over the data by more than `threshold` (Burda et al. 2016, section 5.2)."""
    return means.var(dim=0) > threshold


def initialise(make: type[nn.Module], seed: int, **arguments: object) -> nn.Module:
    """`make(**arguments)` with PyTorch's default initialisation drawn from `seed` alone."""
    with forked_rng(seed, "init"):
        return make(**arguments)
