"""`labutils teach explore`: one page on which a reader walks through the codes of the shipped models with sliders.

Every picture is rendered when the page is made and lies in it, so it needs neither a kernel nor a network. Nothing is
chosen by eye: coordinates are those of the most KL (problem 2) or with the largest effect (problem 3), codes are drawn.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from .. import data, latent, networks, reference, vae
from ..training import generator, write_whole
from . import slides

SEED, STARTS, COORDINATES, PAIRS = 0, 3, 8, 5
STEPS, ALPHAS = torch.linspace(-3, 3, 13), torch.linspace(0, 1, 21)
RANKS = [f"{k + 1}{', the most' * (k == 0)}" for k in range(COORDINATES)]
MODELS = {"GAN": "gan", "VAE, σ = 1": "vae_unit", "VAE, calibrated": "vae"}  # problem 3's, by the file's name


@dataclass(frozen=True)
class Frame:
    """A picture that the controls of its view change: `sheet`, a PNG of rows × columns of equal size, as an address.

    captions: what is said under it, by row and column.
    """

    name: str
    sheet: str
    captions: list[list[str]]


@dataclass(frozen=True)
class View:
    """A slider over the columns of its frames, and menus over their rows: the last menu moves fastest."""

    title: str
    text: str
    slider: str
    columns: list[str]
    menus: dict[str, list[str]]
    frames: list[Frame]


def sheet(images: Float[Tensor, "rows columns c h w"]) -> str:
    """Images with values in [0, 1] as one picture, as an address that holds it."""
    rows, columns, channels, h, w = images.shape
    whole = (255 * images.clamp(0, 1)).round().byte().permute(0, 3, 1, 4, 2).reshape(rows * h, columns * w, channels)
    file = io.BytesIO()
    Image.fromarray(np.squeeze(whole.numpy())).save(file, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def walked(name: str, decode: Callable[[Tensor], Tensor], codes: Tensor, top: Tensor, said: Tensor, unit: str) -> Frame:
    """Rows: every code with each coordinate of `top`; columns: that coordinate moved by `STEPS`."""
    images = torch.cat([latent.traverse(decode, z, top, STEPS) for z in codes])
    captions = [[f"coordinate {j}: {said[j]:.2f} {unit}"] * len(STEPS) for j in top.tolist()] * len(codes)
    return Frame(name, sheet(images), captions)


@torch.no_grad()
def handwriting() -> View:
    """Problem 2: the coordinates of the reference VAE with the most KL, around the codes of validation images."""
    model = vae.initialise(networks.MnistVAE, SEED)
    reference.load("vae_mnist", model)
    model.eval()
    split = data.binarized_mnist().valid
    mean, logvar = model.encode(split.images[:2000].float())
    kl = vae.gaussian_kl(mean, logvar).mean(dim=0)
    top = kl.argsort(descending=True)[:COORDINATES]
    first = [int((split.labels == digit).nonzero()[0]) for digit in range(10)]
    frame = walked("pixel probabilities", lambda z: model.decode(z).sigmoid(), mean[first], top, kl, "nats of KL")
    return View(
        "Problem 2: one coordinate of a digit's code",
        "The code of a validation image (the mean of its posterior), one coordinate moved. The coordinates are those "
        "that the encoder spends the most nats on; the others do nothing one can see.",
        "moved by", [f"{e:+.1f} sd of the prior" for e in STEPS],
        {"image of a": [str(digit) for digit in range(10)], "coordinate, by nats": RANKS}, [frame],
    )  # fmt: skip


@torch.no_grad()
def house_numbers() -> View:
    """Problem 3: the coordinates with the largest effect, of each reference model its own, around the same codes."""
    codes = torch.randn(STARTS, 100, generator=generator(SEED, "explore", "starts"))
    frames = []
    for name, file in MODELS.items():
        decode = latent.reference_generator(file)
        effect = latent.effects(decode, torch.randn(8, 100, generator=generator(SEED, "explore", "effects")))
        top = effect.argsort(descending=True)[:COORDINATES]
        frames.append(walked(name, lambda z, decode=decode: (decode(z) + 1) / 2, codes, top, effect, "RMS change"))
    return View(
        "Problem 3: one coordinate of a house number's code",
        "One draw of the prior for all three models, one coordinate moved: of each model the one that ranks as chosen "
        "by how much it changes the image between −1 and +1 standard deviation.",
        "moved by", [f"{e:+.1f} sd of the prior" for e in STEPS],
        {"draw": [str(k + 1) for k in range(STARTS)], "coordinate, by effect": RANKS}, frames,
    )  # fmt: skip


@torch.no_grad()
def between() -> View:
    """Problem 3: three ways from one sample to another, side by side."""
    start, end = (torch.randn(PAIRS, 100, generator=generator(SEED, "explore", which)) for which in ("start", "end"))
    images, captions = {}, {}
    for file in MODELS.values():
        decode = latent.reference_generator(file)
        paths = {"latent, straight": latent.straight(start, end, ALPHAS)}
        paths["latent, spherical"] = latent.spherical(start, end, ALPHAS)
        lengths = {way: z.norm(dim=2) for way, z in paths.items()}
        ways = {way: decode(z.flatten(0, 1)).unflatten(0, z.shape[:2]) for way, z in paths.items()}
        first, last = (decode(z).flatten(1) for z in (start, end))
        ways["cross-fade of pixels"] = latent.straight(first, last, ALPHAS).unflatten(2, (3, 32, 32))
        for way, x in ways.items():
            images.setdefault(way, []).append((x + 1) / 2)
            captions.setdefault(way, []).extend(_numbers(latent.sharpness(x), lengths.get(way)))
    return View(
        "Problem 3: three ways between two samples",
        "From one draw of the prior to another: straight through the codes, around them, and through the pixels. The "
        "middle of the straight path has a shorter code than the prior draws, and less contrast; the cross-fade shows "
        "two pictures at once.",
        "α", [f"{alpha:.2f}" for alpha in ALPHAS],
        {"model": list(MODELS), "pair": [str(k + 1) for k in range(PAIRS)]},
        [Frame(way, sheet(torch.cat(images[way])), captions[way]) for way in images],
    )  # fmt: skip


def _numbers(sharpness: Tensor, lengths: Tensor | None) -> list[list[str]]:
    code = lambda k, a: "" if lengths is None else f"code {lengths[k, a]:.1f} long, "  # noqa: E731
    return [[f"{code(k, a)}sharpness {s:.3f}" for a, s in enumerate(row)] for k, row in enumerate(sharpness)]


def build(out: Path) -> Path:
    """Write OUT/explore.html. ValueError when a file of that name is there and not from here."""
    path = Path(out) / "explore.html"
    slides.must_be_ours([path])
    path.parent.mkdir(parents=True, exist_ok=True)
    views = [handwriting(), house_numbers(), between()]
    write_whole(path, slides.template("explore.html.j2").render(views=views, generator=slides.GENERATOR))
    return path
