"""Walks in latent space and what they do to the image: traversals, interpolations, and numbers along the way.

`decode` maps codes (n, latent) to images (n, c, h, w) in [−1, 1]: a GAN's generator or a VAE's decoder. The prior of
both models is N(0, I), so one unit of a coordinate is one standard deviation.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float, Integer, UInt8
from torch import Tensor

from . import networks, reference
from .data import to_bytes
from .training import generator

Decode = Callable[[Tensor], Tensor]


def reference_generator(name: str) -> networks.Generator:
    """A shipped generator in evaluation mode: `gan`, `vae` (calibrated variance) or `vae_unit`, of N(x; g(z), I).

    Raises ValueError for another name, ReferenceModelError when its file is missing or damaged.
    """
    if name not in ("gan", "vae", "vae_unit"):
        raise ValueError(f"there is no generator {name!r}; choose gan, vae or vae_unit")
    with torch.random.fork_rng():  # the initialisation is overwritten
        whole = networks.ImageVAE() if name == "vae" else networks.Generator()
    reference.load(f"svhn_{name}", whole)
    return whole.decoder if name == "vae" else whole


def sample(model: networks.Generator, n: int, seed: int = 0, batch_size: int = 250) -> UInt8[Tensor, "n 3 32 32"]:
    """`n` images g(z), z ~ N(0, I), as bytes: what a score is computed on. Neither depends on `batch_size`.

    Raises ValueError for n < 1.
    """
    if n < 1:
        raise ValueError(f"n is {n}; expected at least one sample")
    z = torch.randn(n, model.latent, generator=generator(seed, "samples")).to(next(model.parameters()))
    return images(model, z, batch_size)


@torch.no_grad()
def images(decode: Decode, z: Float[Tensor, "n latent"], batch_size: int = 250) -> UInt8[Tensor, "n c h w"]:
    """The images g(z) as bytes, as if they had been saved and read again; on the CPU."""
    return torch.cat([to_bytes(decode(part)).cpu() for part in z.split(batch_size)])


def straight(
    start: Float[Tensor, "n latent"], end: Float[Tensor, "n latent"], alphas: Float[Tensor, " k"]
) -> Float[Tensor, "n k latent"]:
    """αs + (1−α)e, the assignment's z_α: `end` at α = 0, `start` at α = 1.

    Between two draws of the prior its middle has length √(L/2) where draws have √L: a place the prior hardly visits.
    """
    a = alphas.to(start)[:, None]
    return a * start[:, None] + (1 - a) * end[:, None]


def spherical(
    start: Float[Tensor, "n latent"], end: Float[Tensor, "n latent"], alphas: Float[Tensor, " k"]
) -> Float[Tensor, "n k latent"]:
    """The same walk around the origin: the direction turns evenly along the great circle, the length changes evenly.

    With u, v the unit vectors of s, e and ω the angle between them: α|s| + (1−α)|e| times (sin(αω) u + sin((1−α)ω) v)
    / sin ω. The formula for s and e themselves (White 2016, eq. 2) is the same for equal lengths; for others, at an
    obtuse angle, it leaves the range between them: lengths 2 and 1 at 175° pass through 11.5. Straight where ω is tiny.
    Raises ValueError for codes of length 0, and for opposite ones, between which no great circle is shortest.
    """
    lengths = [z.norm(dim=1, keepdim=True) for z in (start, end)]
    if not all((length > 0).all() for length in lengths):
        raise ValueError("a code of length 0 has no direction to interpolate from")
    u, v = start / lengths[0], end / lengths[1]
    apart, together = (u - v).norm(dim=1)[:, None, None], (u + v).norm(dim=1)[:, None, None]
    if (together < 1e-3).any():
        raise ValueError("two codes point in opposite directions; no great circle between them is the shortest")
    angle = 2 * torch.atan2(apart, together)  # arccos loses small angles
    a = alphas.to(start)[:, None]
    weights = [torch.sin(part * angle) / torch.sin(angle).clamp(min=1e-7) for part in (a, 1 - a)]
    around = weights[0] * u[:, None] + weights[1] * v[:, None]
    direction = torch.where(angle < 1e-3, straight(u, v, alphas), around)
    return direction * straight(*lengths, alphas)


@torch.no_grad()
def effects(decode: Decode, z: Float[Tensor, "n latent"], step: float = 1.0) -> Float[Tensor, " latent"]:
    """How much each latent coordinate moves the image: root mean square of g(z + εe_j) − g(z − εe_j) over ε-steps
    around every code of `z` and all pixels, in units of the image, per 2ε. float64.

    step: ε in standard deviations of the prior. Costs 2nL decodings.
    """
    found = []
    for j in range(z.shape[1]):
        shift = torch.zeros(z.shape[1], dtype=z.dtype, device=z.device)
        shift[j] = step
        found.append((decode(z + shift) - decode(z - shift)).double().square().mean().sqrt().cpu())
    return torch.stack(found)


@torch.no_grad()
def traverse(
    decode: Decode, z: Float[Tensor, " latent"], dimensions: Integer[Tensor, " d"], steps: Float[Tensor, " k"]
) -> Float[Tensor, "d k c h w"]:
    """Images of z + ε e_j for each dimension j (rows) and each ε of `steps` (columns), in standard deviations."""
    codes = z.repeat(len(dimensions), len(steps), 1)
    for row, j in enumerate(dimensions.tolist()):
        codes[row, :, j] += steps.to(z)
    return decode(codes.flatten(0, 1)).unflatten(0, (len(dimensions), len(steps)))


def sharpness(images: Float[Tensor, "*batch c h w"]) -> Float[Tensor, "*batch"]:
    """Mean length of the grey level's gradient (forward differences), in units of the image per pixel.

    Zero for a flat image; a cross-fade or a blur lowers it. Noise raises it: read it beside the picture.
    """
    grey = images.mean(dim=-3)
    across, down = grey.diff(dim=-1)[..., :-1, :], grey.diff(dim=-2)[..., :, :-1]
    return (across.square() + down.square()).sqrt().mean(dim=(-2, -1))


class Neighbours(NamedTuple):
    """distance: root mean square difference per pixel and channel to the nearest row; index: which one it is."""

    distance: Float[Tensor, " n"]
    index: Integer[Tensor, " n"]


def nearest(
    images: Float[Tensor, "n c h w"], among: Float[Tensor, "m c h w"] | None = None, chunk: int = 500
) -> Neighbours:
    """Each image's nearest neighbour in pixel space: among other images, or, by default, among the rest of its own
    set (which finds near-duplicates).

    Raises ValueError when there is no other image to compare with.
    """
    own = among is None
    pool = (images if among is None else among).flatten(1)
    if len(pool) < 1 + own:
        raise ValueError(f"a nearest neighbour was asked among {len(pool)} images; expected at least {1 + own}")
    found = []
    for start in range(0, len(images), chunk):
        distance = torch.cdist(images[start : start + chunk].flatten(1), pool)
        if own:
            rows = torch.arange(len(distance), device=distance.device)
            distance[rows, start + rows] = torch.inf
        found.append(distance.min(dim=1))
    distances = torch.cat([f.values for f in found]) / pool.shape[1] ** 0.5
    return Neighbours(distances, torch.cat([f.indices for f in found]))


def entropy(labels: Integer[Tensor, " n"], classes: int = 10) -> float:
    """Entropy in nats of the histogram of `labels`; log(classes) when all are equally frequent."""
    shares = torch.bincount(labels, minlength=classes).double() / len(labels)
    return -torch.special.xlogy(shares, shares).sum().item()
