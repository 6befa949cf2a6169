"""The variational autoencoder: the terms of the ELBO, its evaluation, its training.

Kingma and Welling, "Auto-Encoding Variational Bayes", 2014. Every quantity is in nats per image.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Float, Integer
from torch import Tensor, nn
from torch.nn import functional as F

from . import estimates
from .estimates import Estimate
from .training import Batches, History, fit, forked_rng, generator


def bernoulli_log_likelihood(
    logits: Float[Tensor, "*batch 1 h w"], x: Float[Tensor, "*batch 1 h w"]
) -> Float[Tensor, "*batch"]:
    """log p(x|z) = Σ_pixels x·l − log(1 + e^l), l the logits; never through probabilities, which saturate."""
    return -F.binary_cross_entropy_with_logits(logits, x, reduction="none").sum(dim=(-3, -2, -1))


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
    """Per image: elbo = reconstruction − kl."""

    elbo: Float[Tensor, " batch"]
    reconstruction: Float[Tensor, " batch"]
    kl: Float[Tensor, " batch"]


def elbo(model: nn.Module, x: Float[Tensor, "batch 1 h w"], noise: Float[Tensor, "batch latent"]) -> Elbo:
    """One-sample estimate of E_q[log p(x|z)] − KL(q(z|x)‖p(z)), the KL in closed form."""
    mean, logvar = model.encode(x)
    kl = gaussian_kl(mean, logvar).sum(dim=-1)
    reconstruction = bernoulli_log_likelihood(model.decode(reparametrise(mean, logvar, noise)), x)
    return Elbo(reconstruction - kl, reconstruction, kl)


def image_noise(seed: int, rows: range | Integer[Tensor, " batch"], *shape: int) -> Float[Tensor, batch * shape]:
    """Standard normal noise that belongs to an image: row i gets the same draw in any batch, in any order."""
    return torch.stack([torch.randn(shape, generator=generator(seed, "image", int(i))) for i in rows])


class ElboEstimate(NamedTuple):
    elbo: Estimate
    reconstruction: Estimate
    kl: Estimate
    per_image: Float[Tensor, " n"]


@torch.no_grad()
def evaluate_elbo(
    model: nn.Module,
    images: Integer[Tensor, "n 1 h w"],
    *,
    seed: int = 0,
    samples: int = 1,
    batch_size: int = 500,
) -> ElboEstimate:
    """ELBO averaged over a data set, with the standard error over images.

    images: bytes 0 or 1. samples: draws of z per image; more of them only remove noise within an image, which
    is small beside the spread between images. The result does not depend on `batch_size` beyond rounding.
    """
    device = next(model.parameters()).device
    columns: list[list[Tensor]] = [[], [], []]
    for start in range(0, len(images), batch_size):
        rows = range(start, min(start + batch_size, len(images)))
        x = images[start : rows.stop].to(device, torch.float32)
        noise = image_noise(seed, rows, samples, model.latent).to(device)
        draws = [elbo(model, x, noise[:, s]) for s in range(samples)]
        for k, column in enumerate(columns):
            column.append(torch.stack([draw[k].double() for draw in draws]).mean(dim=0).cpu())
    per_image = [torch.cat(column) for column in columns]
    return ElboEstimate(*(estimates.mean(column) for column in per_image), per_image[0])


def train(
    model: nn.Module,
    train_images: Integer[Tensor, "n 1 h w"],
    valid_images: Integer[Tensor, "m 1 h w"],
    *,
    epochs: int,
    batch_size: int = 64,
    learning_rate: float = 3e-4,
    seed: int = 0,
    checkpoint: Path | None = None,
    recipe: Mapping[str, object] | None = None,
) -> History:
    """Maximise the ELBO with Adam at a constant rate, the assignment's recipe; training ends in `model`.

    After every epoch the ELBO of all validation images joins the history (`valid_elbo`, `valid_kl`, …); the
    rows `loss`, `kl`, `reconstruction` are means over training batches. With `checkpoint` the training
    resumes exactly where it was cut. `recipe`: further plain values that the checkpoint must agree with, such
    as the hash of the data.
    """
    device = next(model.parameters()).device
    batches = Batches(len(train_images), batch_size, seed)
    images = train_images.to(device)
    optimiser = torch.optim.Adam(model.parameters(), learning_rate)

    def step(i: int) -> dict[str, Tensor]:
        x = images[batches(i).to(device)].float()
        noise = torch.randn(len(x), model.latent, generator=generator(seed, "z", i, device=device), device=device)
        terms = elbo(model, x, noise)
        loss = -terms.elbo.mean()
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        return {"loss": loss, "reconstruction": terms.reconstruction.mean(), "kl": terms.kl.mean()}

    def evaluate() -> dict[str, float]:
        found = evaluate_elbo(model, valid_images, seed=seed)
        return {f"valid_{name}": getattr(found, name).value for name in ("elbo", "reconstruction", "kl")}

    settings = {"epochs": epochs, "batch_size": batch_size, "learning_rate": learning_rate, "seed": seed}
    return fit(
        step,
        epochs * batches.per_epoch,
        parts={"model": model, "optimiser": optimiser},
        recipe=settings | {"latent": model.latent, "images": len(train_images)} | dict(recipe or {}),
        checkpoint=checkpoint,
        evaluate=evaluate,
        evaluate_every=batches.per_epoch,
        desc="training the VAE",
    )


def initialise(make: type[nn.Module], seed: int, **arguments: object) -> nn.Module:
    """`make(**arguments)` with PyTorch's default initialisation drawn from `seed` alone."""
    with forked_rng(seed, "init"):
        return make(**arguments)
