"""Every figure of the lab, in one style: a colour-blind-safe palette, labelled axes, units, PNG and SVG."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure
from torch import Tensor

from .training import History

# Okabe and Ito's palette, told apart with every common form of colour blindness.
BLACK, BLUE, ORANGE, GREEN, RED, PURPLE, SKY = (
    "#000000", "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9",
)  # fmt: skip
STYLE = {
    "font.family": "DejaVu Sans", "font.size": 10, "axes.titlesize": 10.5, "axes.titleweight": "bold",
    "axes.titlelocation": "left", "axes.labelsize": 10, "xtick.labelsize": 9, "ytick.labelsize": 9,
    "legend.fontsize": 9, "legend.frameon": False, "lines.linewidth": 1.8, "lines.markersize": 4.5,
    "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.color": "#e4e4e4",
    "grid.linewidth": 0.8, "axes.axisbelow": True, "image.interpolation": "nearest",
    "svg.hashsalt": "labutils", "figure.facecolor": "white", "savefig.facecolor": "white",
}  # fmt: skip
DPI = 200  # of the PNG; notebooks show it at half its pixels, sharp on a dense screen


def figure(width: float = 7.5, height: float = 3.2, rows: int = 1, columns: int = 1, **arguments):
    """(Figure, axes) in the lab's style; sizes in inches. No pyplot: nothing is left open behind."""
    with rc_context(STYLE):
        fig = Figure(figsize=(width, height), layout="constrained")
        return fig, fig.subplots(rows, columns, **arguments)


def show(fig: Figure, folder: Path, name: str, caption: str) -> None:
    """Save `folder/name.png` and `.svg`, keep the caption for the report, and display all in a notebook."""
    folder.mkdir(parents=True, exist_ok=True)
    with rc_context(STYLE):
        fig.savefig(folder / f"{name}.png", dpi=DPI)
        fig.savefig(folder / f"{name}.svg", metadata={"Date": None})
    captions = folder / "captions.json"
    known = json.loads(captions.read_text(encoding="utf-8")) if captions.exists() else {}
    captions.write_text(json.dumps(known | {name: caption}, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    from IPython.display import Image, Markdown, display

    png = (folder / f"{name}.png").read_bytes()
    display(Image(data=png, width=int(fig.get_figwidth() * DPI / 2), alt=caption), Markdown(f"*{caption}*"))


def png_bytes(fig: Figure) -> bytes:
    buffer = io.BytesIO()
    with rc_context(STYLE):
        fig.savefig(buffer, dpi=DPI)
    return buffer.getvalue()


# --- problem 2 --------------------------------------------------------------------------------------


def elbo_curves(history: History, steps_per_epoch: int, target: float | None = None) -> Figure:
    """Left: ELBO of training batches and of the validation set by epoch. Right: its two terms."""
    fig, (left, right) = figure(8.4, 3.4, columns=2)
    with rc_context(STYLE):
        steps, loss = history.column("loss")
        left.plot(steps / steps_per_epoch, -loss, color=SKY, linewidth=0.9, label="training batches")
        steps, valid = history.column("valid_elbo")
        left.plot(steps / steps_per_epoch, valid, "o-", color=BLUE, label="validation set")
        if target is not None:
            left.axhline(target, color=BLACK, linestyle=":", linewidth=1.2)
            left.annotate(f"the assignment asks {target:g}", (steps[-1] / steps_per_epoch, target), (0, 4),
                          textcoords="offset points", ha="right", fontsize=8.5)  # fmt: skip
        bottom = min(valid.min(), -loss[len(loss) // 20 :].min()) - 1
        left.set(title="ELBO", xlabel="epoch", ylabel="nats per image", ylim=(bottom, None), xlim=(0, None))
        left.legend(loc="lower right")
        steps, kl = history.column("valid_kl")
        right.plot(steps / steps_per_epoch, -history.column("valid_reconstruction")[1], "s-", color=ORANGE,
                   label="−reconstruction  −E log p(x|z)")  # fmt: skip
        right.plot(steps / steps_per_epoch, kl, "^-", color=GREEN, label="KL(q(z|x) ‖ p(z))")
        right.set(title="its two terms, validation", xlabel="epoch", ylabel="nats per image", ylim=(0, None),
                  xlim=(0, None))  # fmt: skip
        right.legend(loc="center right")
    return fig


def image_rows(rows: list[tuple[str, Tensor]], title: str = "", cell: float = 0.62) -> Figure:
    """Rows of images, each with a label at its left; every image on the same scale, 0 black to 1 white.

    rows: (label, images), images (n, channels, height, width) in [0, 1] with 1 or 3 channels.
    """
    count = max(len(images) for _, images in rows)
    fig, axes = figure(count * cell + 1.3, len(rows) * cell + (0.35 if title else 0.05), len(rows), 1, squeeze=False)
    with rc_context(STYLE):
        for ax, (label, images) in zip(axes[:, 0], rows, strict=True):
            _draw(ax, tile(images, columns=count))
            ax.set_ylabel(label, rotation=0, ha="right", va="center", labelpad=6)
        if title:
            fig.suptitle(title, fontsize=10.5, fontweight="bold")
    return fig


def image_sheet(images: Tensor, columns: int = 16, title: str = "", cell: float = 0.45) -> Figure:
    """A sheet of images (n, channels, height, width) in [0, 1], every one on the same scale."""
    rows = -(-len(images) // columns)
    fig, ax = figure(columns * cell, rows * cell + (0.35 if title else 0.0))
    with rc_context(STYLE):
        _draw(ax, tile(images, columns))
        if title:
            ax.set_title(title)
    return fig


def tile(images: Tensor, columns: int, gap: int = 2) -> np.ndarray:
    """Images (n, c, h, w) side by side, `gap` white pixels between: (H, W, 3), values as they are."""
    pixels = images.detach().float().cpu().numpy()
    if pixels.min() < 0 or pixels.max() > 1:
        raise ValueError(f"images span {pixels.min():g} to {pixels.max():g}; expected values from 0 to 1")
    n, channels, h, w = pixels.shape
    pixels = np.broadcast_to(pixels, (n, 3, h, w)) if channels == 1 else pixels
    rows = -(-n // columns)
    canvas = np.ones((rows * (h + gap) - gap, columns * (w + gap) - gap, 3), np.float32)
    for i, picture in enumerate(pixels):
        y, x = (i // columns) * (h + gap), (i % columns) * (w + gap)
        canvas[y : y + h, x : x + w] = picture.transpose(1, 2, 0)
    return canvas


def _draw(ax, canvas: np.ndarray) -> None:
    ax.imshow(canvas, vmin=0, vmax=1)
    ax.set(xticks=[], yticks=[])
    ax.grid(False)
    ax.spines[:].set_visible(False)
