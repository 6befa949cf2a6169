"""The codes of a trained VAE taken together, how far they lie from the prior, and a prior fitted to them.

The mean KL term of an ELBO falls into what a code says of its image, the mutual information, and KL(q(z) ‖ N(0, I)),
q(z) the *aggregate posterior*, the mean of q(z|x) over the images (Hoffman and Johnson, "ELBO Surgery", 2016). Where
the second is large the prior draws codes that the decoder never met. A density m(z) fitted to codes after the training
may take the prior's place (Dai and Wipf, "Diagnosing and Enhancing VAE Models", 2019; Ghosh et al., "From Variational
to Deterministic Autoencoders", 2020): p(x) = ∫ p(x|z) m(z) dz is a model like the first, with an ELBO of its own.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields

import torch
from jaxtyping import Float, Float32, Float64
from torch import Tensor, nn

from . import estimates
from .estimates import Estimate
from .training import generator
from .vae import image_noise, log_normal, reparametrise

Codes = Float[Tensor, "n latent"]


@torch.no_grad()
def aggregate_codes(
    model: nn.Module, images: Float[Tensor, "n c h w"], seed: int = 0, batch_size: int = 500
) -> Float64[Tensor, "n latent"]:
    """Draws of the aggregate posterior: one z ~ q(z|x) an image, on the CPU. Neither depends on `batch_size`."""
    device, found = next(model.parameters()).device, []
    for start in range(0, len(images), batch_size):
        mean, logvar = model.encode(images[start : start + batch_size].to(device))
        noise = torch.stack([image_noise(seed, start + i, model.latent) for i in range(len(mean))]).to(device)
        found.append(reparametrise(mean, logvar, noise).double().cpu())
    return torch.cat(found)


WHITENING_IMAGES, WHITENING_RIDGE = 5000, 100.0  # of the least squares for log-variances


@torch.no_grad()
def whiten(model: nn.Module, images: Float[Tensor, "n c h w"], seed: int = 0) -> None:
    """Other coordinates of an `ImageVAE`'s code, in place: the codes of `images` get the mean 0 and the covariance I.

    With the mean μ and the covariance S of the aggregate posterior and R = S^½, symmetric, z = μ + R u. The decoder's
    first layer, W z + b, takes u as W R u + (b + W μ), so that every code decodes as it did, and u ~ N(0, I) draws
    what z ~ N(μ, S) drew. Posterior means are R⁻¹(mean − μ), exactly. In u the posterior's covariance is not diagonal
    any more; of diagonal ones, 1/diag(R Σ⁻¹ R) is the nearest in KL(diagonal ‖ posterior), and the encoder's last
    layer is fitted to its logarithm by least squares on at most `WHITENING_IMAGES` images.

    Raises ValueError for codes without a covariance to invert, fewer than dimensions for one.
    """
    codes, latent = aggregate_codes(model, images, seed), model.latent
    mean, cov = codes.mean(dim=0), torch.cov(codes.T, correction=0).view(latent, latent)
    variances, axes = torch.linalg.eigh(cov)
    if not variances.min() > 1e-9 * variances.max():
        raise ValueError(f"{len(codes)} codes of {latent} dimensions have no covariance to invert")
    root, inverse = ((axes * variances**power) @ axes.T for power in (0.5, -0.5))
    device, products = next(model.parameters()).device, 0.0
    for part in images[:WHITENING_IMAGES].split(500):
        part = part.to(device).contiguous(memory_format=torch.channels_last)
        before = model.encoder[:-1](part).double().cpu()
        precision = torch.exp(-model.encode(part)[1].double().cpu()) @ root.square()
        rows = torch.cat([before, torch.ones(len(before), 1, dtype=torch.float64), -precision.log()], dim=1)
        products = products + rows[:, :-latent].T @ rows
    ridge = torch.full((len(products),), WHITENING_RIDGE, dtype=torch.float64)
    ridge[-1] = 0.0  # the constant is free
    logvars = torch.linalg.solve(products[:, :-latent] + ridge.diag(), products[:, -latent:]).T
    last, first = model.encoder[-1], model.decoder.layers[0]
    means = torch.cat([last.weight, last.bias[:, None]], dim=1)[:latent].double().cpu()
    means[:, -1] -= mean
    both = torch.cat([inverse @ means, logvars])
    last.weight.copy_(both[:, :-1])
    last.bias.copy_(both[:, -1])
    weight = first.weight.double().cpu()
    first.bias.add_((weight @ mean).to(first.bias))
    first.weight.copy_(weight @ root)


@dataclass(frozen=True, eq=False)
class Mixture:
    """Σ_j w_j N(z; mean_j, R_j R_jᵀ), R_j lower triangular. log_weights (k,), means (k, latent), roots."""

    log_weights: Float64[Tensor, " k"]
    means: Float64[Tensor, "k latent"]
    roots: Float64[Tensor, "k latent latent"]

    @staticmethod
    def of(tensors: Mapping[str, Tensor]) -> Mixture:
        """From tensors by field, as `vars` gives them, of any float type."""
        return Mixture(*(tensors[f.name].double() for f in fields(Mixture)))

    def log_joint(self, codes: Codes) -> Float64[Tensor, "n k"]:
        """log w_j + log N(z; mean_j, R_j R_jᵀ) of every code and component."""
        codes = codes.double().cpu()
        columns = []
        for log_weight, mean, root in zip(self.log_weights, self.means, self.roots, strict=True):
            standard = torch.linalg.solve_triangular(root, (codes - mean).T, upper=False).T
            columns.append(log_weight + log_normal(standard, 0.0, 0.0) - root.diagonal().log().sum())
        return torch.stack(columns, dim=1)

    def log_prob(self, codes: Codes) -> Float64[Tensor, " n"]:
        """log density of each code."""
        return self.log_joint(codes).logsumexp(dim=1)

    def sample(self, n: int, seed: int = 0, *purpose: int | str) -> Float32[Tensor, "n latent"]:
        """`n` codes that depend on the seed and their purpose alone, in single precision, as a decoder takes them.

        Raises ValueError for n < 1.
        """
        if n < 1:
            raise ValueError(f"n is {n}; expected at least one code")
        draws = generator(seed, "mixture", *purpose)
        which = torch.multinomial(self.log_weights.exp(), n, replacement=True, generator=draws)
        noise = torch.randn(n, self.means.shape[1], generator=draws, dtype=torch.float64)
        codes = torch.empty_like(noise)
        for j in which.unique():  # a component at a time: a root for every code would be 100 times the codes
            rows = which == j
            codes[rows] = self.means[j] + noise[rows] @ self.roots[j].T
        return codes.float()


def fit_mixture(
    codes: Codes,
    components: int,
    seed: int = 0,
    *,
    shrinkage: float | None = None,
    tolerance: float = 0.02,
    steps: int = 100,
) -> Mixture:
    """A mixture of `components` normal laws fitted to codes by expectation maximisation (Dempster et al. 1977).

    Each component starts at a random code with the covariance of all codes. One component is the normal law with their
    mean and covariance. shrinkage: a covariance is estimated as if so many further codes with the covariance of all had
    been seen, which keeps small components from closing in on their few codes; by default as many as there are
    dimensions. Ends when the mean log density gains less than `tolerance` nats in a step, or after `steps`.

    Raises ValueError unless 1 ≤ components ≤ codes, for codes that are not finite or fill no volume.
    """
    codes = codes.double().cpu()
    n, latent = codes.shape
    if not 1 <= components <= n:
        raise ValueError(f"components is {components}; expected 1 to {n}, the number of codes")
    if not torch.isfinite(codes).all():
        raise ValueError(f"{int((~torch.isfinite(codes)).any(dim=1).sum())} of {n} codes are not finite")
    shrinkage = float(latent) if shrinkage is None else shrinkage
    whole = torch.cov(codes.T, correction=0).view(latent, latent)
    root, failed = torch.linalg.cholesky_ex(whole)
    if failed:
        raise ValueError(
            f"{n} codes of {latent} dimensions have no covariance to invert; give more codes than dimensions"
        )
    chosen = torch.randperm(n, generator=generator(seed, "components"))[:components]
    start = torch.full((components,), -math.log(components), dtype=torch.float64)
    mixture = Mixture(start, codes[chosen], root.expand(components, -1, -1))
    before = -math.inf
    for _ in range(steps):
        joint = mixture.log_joint(codes)
        density = joint.logsumexp(dim=1)
        if density.mean() - before < tolerance:
            break
        before = density.mean()
        mixture = _maximise(codes, torch.exp(joint - density[:, None]), whole, shrinkage)
    return mixture


def _maximise(codes: Tensor, shares: Float64[Tensor, "n k"], whole: Tensor, shrinkage: float) -> Mixture:
    """The mixture that fits best when component j has the share shares[i, j] of code i."""
    counts = shares.sum(dim=0)
    means = shares.T @ codes / counts[:, None]
    roots = []
    for share, count, mean in zip(shares.T, counts, means, strict=True):
        centred = codes - mean
        scatter = centred.T @ (share[:, None] * centred)
        roots.append(torch.linalg.cholesky((scatter + shrinkage * whole) / (count + shrinkage)))
    return Mixture(torch.log(counts / counts.sum()), means, torch.stack(roots))


def kl_of_aggregate(codes: Codes, mixture: Mixture) -> Estimate:
    """Mean of log m(z) − log N(z; 0, I) over codes that the mixture m was not fitted to, in nats.

    What the ELBO of these images gains when m takes the prior's place, and a lower bound on KL(q(z) ‖ N(0, I)): it
    falls short by KL(q(z) ‖ m). (Of q(z) itself, a mean of thousands of narrow laws, no direct estimate is to be had:
    with n of them it cannot see more than log n nats of mutual information.)
    """
    return estimates.mean(mixture.log_prob(codes) - log_normal(codes.double().cpu(), 0.0, 0.0))
