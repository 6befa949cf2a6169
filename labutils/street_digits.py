"""Rendered house numbers: 32×32 colour crops that look like SVHN's, from the fonts that Matplotlib ships.

A glyph is kept as a signed distance field: how far a point is from the outline, negative inside. Comparing it with
a threshold gives any size, stroke weight and rim (Green, "Improved Alpha-Tested Magnification for Vector Textures and
Special Effects", 2007). A picture is painted from back to front: wall, plate, shadow, rim, digits; then light, blur
and noise. The ranges were chosen until sheets and simple statistics (colour, contrast, spectrum) matched those of real
crops (Netzer et al., "Reading Digits in Natural Images with Unsupervised Feature Learning", 2011); no pixel is theirs.

An image depends on the seed and its index alone: neither on how many are rendered nor on the number of threads. No
more is promised: other processors or versions of torch round differently (a trial without vector instructions
changed 15 bytes of 1.5 million, each by one), and another Matplotlib may bring other fonts.
"""

from __future__ import annotations

import functools
from pathlib import Path

import matplotlib
import torch
from jaxtyping import Float, Integer, UInt8
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import TextPath
from torch import Tensor
from torch.nn import functional as F

from .training import generator

SIZE = 32
BLOCK = 250  # images whose random numbers are drawn together

# Font and code point of its digit 0. The mathematical sans-serif digits have the 1 without a foot that most house
# numbers have, so they come more often.
SANS = [("STIXGeneral", 0x1D7E2), ("STIXGeneral", 0x1D7EC)]
ASCII = (
    "DejaVuSans DejaVuSans-Bold DejaVuSerif DejaVuSerif-Bold DejaVuSerif-Italic STIXGeneral STIXGeneralBol "
    "STIXGeneralItalic STIXGeneralBolIta cmss10 cmr10 cmb10"
)
FACES = SANS * 3 + [(name, ord("0")) for name in ASCII.split()]
CELLS, HALF = 48, 0.8  # a field of 48×48 cells covers [−0.8, 0.8]², in heights of a digit

# What the darker side is painted with, as Cb and Cr: nothing, blue enamel, red or brick, gold or wood, green.
PAINTS = torch.tensor([[0.0, 0.0], [1.0, -0.35], [-0.4, 1.0], [-1.0, 0.3], [-0.4, -0.8]])
SHARES = torch.tensor([0.8, 0.11, 0.04, 0.035, 0.015])
YCC_TO_RGB = torch.tensor([[1.0, 0.0, 1.402], [1.0, -0.344, -0.714], [1.0, 1.772, 0.0]])  # JPEG's (ITU-T T.871)


def render(n: int, seed: int) -> tuple[UInt8[Tensor, "n 3 32 32"], Integer[Tensor, " n"]]:
    """`n` crops as bytes and the digit in the middle of each; the first of more are the same images.

    Raises ValueError when n is less than 1.
    """
    if n < 1:
        raise ValueError(f"n is {n}; expected at least one image")
    images, labels = [], []
    for block in range(-(-n // BLOCK)):
        picture, digits = paint(Draws(seed, block))
        images.append(picture.round_().clamp_(0, 255).to(torch.uint8))
        labels.append(digits)
    return torch.cat(images)[:n], torch.cat(labels)[:n]


# --- glyphs -----------------------------------------------------------------------------------------------


def signed_distance(
    x: Float[Tensor, " n"], y: Float[Tensor, " n"], outline: list[Float[Tensor, "_ 2"]]
) -> Float[Tensor, " n"]:
    """Distance of the points (x, y) to a set of closed polygons, negative inside (even-odd rule)."""
    ax, ay = torch.cat([polygon[:-1] for polygon in outline]).T
    bx, by = torch.cat([polygon.diff(dim=0) for polygon in outline]).T
    px, py = x[:, None] - ax, y[:, None] - ay
    along = ((px * bx + py * by) / (bx * bx + by * by).clamp_min(1e-12)).clamp(0, 1)
    distance = ((px - along * bx).square() + (py - along * by).square()).amin(dim=1).sqrt()
    # A ray to the right of the point crosses the edges that start on one side of it and end on the other.
    crosses = (py < 0) != (py < by)
    ahead = (px * by < py * bx) == (by > 0)
    inside = (crosses & ahead).sum(dim=1) % 2 == 1
    return torch.where(inside, -distance, distance)


@functools.cache
def glyphs() -> tuple[Float[Tensor, "faces 10 cells cells"], Float[Tensor, "faces 10"]]:
    """Distance fields of the ten digits of every face, each 1 high and centred, y down; and half their widths."""
    axis = ((torch.arange(CELLS) + 0.5) / CELLS * 2 - 1) * HALF
    made = {}
    for name, zero in dict.fromkeys(FACES):
        file = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / f"{name}.ttf"
        paths = [TextPath((0, 0), chr(zero + d), size=100, prop=FontProperties(fname=str(file))) for d in range(10)]
        height = paths[1].get_extents().height
        fields, widths = [], []
        for path in paths:
            box = path.get_extents()
            centre = [(box.x0 + box.x1) / 2, (box.y0 + box.y1) / 2]
            outline = [torch.tensor((p - centre) / height, dtype=torch.float32) for p in path.to_polygons()]
            fields.append(signed_distance(axis.repeat(CELLS), -axis.repeat_interleave(CELLS), outline))
            widths.append(box.width / height / 2)
        made[name, zero] = torch.stack(fields).view(10, CELLS, CELLS), torch.tensor(widths, dtype=torch.float32)
    fields, widths = zip(*(made[face] for face in FACES), strict=True)
    return torch.stack(fields), torch.stack(widths)


def look_up(
    fields: Float[Tensor, "n cells cells"], u: Float[Tensor, "n h w"], v: Float[Tensor, "n h w"]
) -> Float[Tensor, "n h w"]:
    """Each image's field read, linearly between cells, at the coordinates (u, v) of its pixels."""
    grid = torch.stack([u, v], dim=-1) / HALF
    return F.grid_sample(fields[:, None], grid, padding_mode="border", align_corners=False)[:, 0]


# --- one block of images ----------------------------------------------------------------------------------


class Draws:
    """The random numbers of a block, in order; by default one value an image, shaped (BLOCK, 1, 1)."""

    def __init__(self, seed: int, block: int) -> None:
        self.generator = generator(seed, "street digits", block)

    def uniform(self, low: float, high: float) -> Float[Tensor, "block 1 1"]:
        return low + (high - low) * torch.rand(BLOCK, 1, 1, generator=self.generator)

    def normal(self, sd: float, *shape: int) -> Float[Tensor, "block ..."]:
        return sd * torch.randn(BLOCK, *(shape or (1, 1)), generator=self.generator)

    def lognormal(self, median: float, sd: float, low: float, high: float) -> Float[Tensor, "block 1 1"]:
        return (median * self.normal(sd).exp()).clamp(low, high)

    def chance(self, share: float) -> Float[Tensor, "block 1 1"]:
        return (self.uniform(0.0, 1.0) < share).float()

    def choice(self, shares: Float[Tensor, " k"]) -> Integer[Tensor, " block"]:
        return torch.multinomial(shares, BLOCK, replacement=True, generator=self.generator)


def coordinates(d: Draws) -> tuple[Float[Tensor, "n h w"], Float[Tensor, "n h w"], Float[Tensor, "n 1 1"]]:
    """Where each pixel lies on the number's own axes, in heights of a digit, v down; and that height in pixels."""
    axis = torch.arange(SIZE) - (SIZE - 1) / 2
    x, y = axis - d.normal(1.2), axis[:, None] - d.normal(1.0)
    height = d.uniform(16.0, 31.0)
    turn = d.normal(0.05) + d.chance(0.1) * d.normal(0.25)
    u = (x * turn.cos() + y * turn.sin()) / height
    v = (y * turn.cos() - x * turn.sin()) / height
    # Slant and bends, then the width: house numbers are often narrower than any of the fonts.
    u = (u + d.normal(0.1) * v + d.normal(0.12) * u * v + d.normal(0.08) * v * v) / d.uniform(0.42, 1.05)
    v = v + d.normal(0.06) * u * v + d.normal(0.04) * u * u
    return u, v, height


def number(
    d: Draws, u: Float[Tensor, "n h w"], v: Float[Tensor, "n h w"]
) -> tuple[Integer[Tensor, " n"], Float[Tensor, "n h w"], Float[Tensor, "n h w"]]:
    """The digits in the middle; distance to the strokes of the whole number; distance to the edge of its plate.

    On each side of the middle stand none, one or two neighbours of the same face, cut off by the picture's edge.
    """
    fields, widths = glyphs()
    face, ten = d.choice(torch.ones(len(FACES))), torch.ones(10)
    labels = d.choice(ten)
    strokes = look_up(fields[face, labels], u, v)
    gap = d.uniform(0.04, 0.35)
    climb = d.normal(0.03) + d.chance(0.1) * d.normal(0.3)  # a number may be written uphill
    ends = []
    for side in (-1, 1):
        count = d.choice(torch.tensor([0.4, 0.37, 0.23])).view(-1, 1, 1)
        end = widths[face, labels].view(-1, 1, 1)
        for k in range(2):
            digit = d.choice(ten)
            half = widths[face, digit].view(-1, 1, 1)
            step = side * (end + gap + half)
            found = look_up(fields[face, digit], u - step, v - climb * step - d.normal(0.02))
            strokes = torch.where(count > k, torch.minimum(strokes, found), strokes)
            end = torch.where(count > k, end + gap + 2 * half, end)
        ends.append(end)
    beside = torch.maximum(-u - ends[0], u - ends[1]) - d.uniform(0.1, 0.5)
    plate = torch.maximum(beside, v.abs() - d.uniform(0.6, 0.95))
    return labels, strokes, plate


def colours(d: Draws) -> tuple[Float[Tensor, "n 3 1 1"], ...]:
    """Ground, digits, wall and rim, each as Y from 0 to 255 and Cb, Cr around 0."""
    contrast = d.lognormal(93.0, 0.38, 62.0, 190.0)
    middle = d.lognormal(110.0, 0.31, 50.0, 200.0)
    middle = torch.maximum(torch.minimum(middle, 250 - contrast / 2), 5 + contrast / 2)
    dark_ink = d.chance(0.5)
    ground = middle + (dark_ink - 0.5) * contrast
    ink = middle - (dark_ink - 0.5) * contrast
    cast, red = d.normal(5.0), d.normal(2.5)
    paint = PAINTS[d.choice(SHARES)].view(BLOCK, 2, 1, 1) * d.uniform(10.0, 32.0)[:, None]

    def colour(luminance: Tensor, bluer: Tensor | float, spread: float) -> Tensor:
        """A colour near the axis from blue to orange, along which daylight shifts most things."""
        blue = cast + d.normal(spread)
        return torch.stack([luminance, 3 + blue + bluer, -1.5 - 0.5 * blue + red + d.normal(0.8 * spread)], dim=1)

    shade = 0.05 * (ink - ground)  # what is darker is bluer
    grounds, inks = colour(ground, shade, 3.0), colour(ink, -shade, 3.5)
    grounds[:, 1:] += paint * (1 - dark_ink)[:, None]
    inks[:, 1:] += paint * dark_ink[:, None]
    wall = colour((ground + d.normal(45.0)).clamp(8, 245), 0.0, 8.0)
    rim = colour((ground + d.normal(60.0)).clamp(8, 245), 0.0, 5.0)
    return grounds, inks, wall, rim


def smear(sigma: Float[Tensor, "n 1 1"], shift: Float[Tensor, "n 1 1"] | float = 0.0) -> Float[Tensor, "n 32 32"]:
    """Matrices that blur a column of pixels with a Gaussian and shift it; rows sum to 1, so that edges stay bright."""
    i = torch.arange(SIZE, dtype=torch.float32)
    return torch.softmax(-0.5 * ((i - i[:, None] + shift) / sigma).square(), dim=-1)


def photograph(d: Draws, picture: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n 3 h w"]:
    """The painted block in uneven light, out of focus, with a camera's noise and JPEG's coarser colour."""

    def filtered(field: Tensor, across: Tensor, down: Tensor) -> Tensor:
        return down[:, None] @ field @ across[:, None].transpose(2, 3)

    axis = torch.linspace(-1, 1, SIZE)
    cloud = filtered(d.normal(1.0, 1, SIZE, SIZE), smear(d.uniform(1.0, 8.0)), smear(d.uniform(1.0, 8.0)))
    cloud = cloud / cloud.std(dim=(2, 3), keepdim=True)
    slope = d.normal(0.08) * axis + d.normal(0.08) * axis[:, None]
    light = 1 + slope[:, None] + d.uniform(0.0, 0.08)[:, None] * cloud
    dirt = d.normal(1.0, 1, SIZE, SIZE) * d.uniform(0.0, 12.0)[:, None]
    luminance, chroma = picture[:, :1] * light + dirt, picture[:, 1:]

    focus = d.lognormal(1.1, 0.35, 0.6, 2.0)
    across, down = (smear(focus * d.lognormal(1.0, 0.15, 0.8, 1.25)) for _ in range(2))
    grain = smear(d.uniform(0.5, 1.0))
    noise = filtered(d.normal(3.5, 1, SIZE, SIZE), grain, grain) * d.lognormal(1.0, 0.5, 0.3, 2.0)[:, None]
    coarse = smear((focus.square() + d.uniform(0.8, 2.0).square()).sqrt())
    speckle = filtered(d.normal(12.0, 2, SIZE, SIZE), coarse, coarse) * d.uniform(0.5, 2.0)[:, None]
    return torch.cat([filtered(luminance, across, down) + noise, filtered(chroma, coarse, coarse) + speckle], dim=1)


def paint(d: Draws) -> tuple[Float[Tensor, "n 3 h w"], Integer[Tensor, " n"]]:
    """One block of images, RGB from about 0 to 255, and their digits."""
    u, v, height = coordinates(d)
    labels, strokes, plate = number(d, u, v)
    ground, ink, wall, rim = colours(d)

    def cover(distance: Tensor) -> Tensor:
        """The share of each pixel that lies within a shape."""
        return (0.5 - distance * height).clamp(0, 1)[:, None]

    def over(below: Tensor, colour: Tensor, share: Tensor) -> Tensor:
        return below + share * (colour - below)

    picture = over(ground, wall, cover(-plate) * d.chance(0.55)[:, None])
    picture = over(picture, rim, cover(plate.abs() - d.uniform(0.02, 0.06)) * d.chance(0.25)[:, None])
    strokes = strokes - (0.02 + d.normal(0.025)).clamp(-0.01, 0.08)  # bolder
    right, below = (smear(d.uniform(0.4, 1.2), d.normal(1.5))[:, None] for _ in range(2))
    shadow = below @ cover(strokes) @ right.transpose(2, 3) * (d.chance(0.4) * d.uniform(-0.3, 0.6))[:, None]
    picture[:, :1] *= 1 - shadow
    picture = over(picture, rim, cover(strokes - d.uniform(0.03, 0.1)) * d.chance(0.2)[:, None])
    picture = over(picture, ink, cover(strokes))
    return torch.einsum("rc,nchw->nrhw", YCC_TO_RGB, photograph(d, picture)), labels
