"""Every figure of the lab, in one style: a colour-blind-safe palette, labelled axes, units, PNG and SVG."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from .estimates import Estimate
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


# --- problem 2 --------------------------------------------------------------------------------------


def vae_curves(history: History, steps_per_epoch: int, target: float | None = None) -> Figure:
    """ELBO, reconstruction and KL after every epoch, on training and validation images, in nats per image."""
    fig, axes = figure(9.0, 3.2, columns=3)
    with rc_context(STYLE):
        for ax, term, title in zip(axes, ("elbo", "reconstruction", "kl"), TERMS, strict=True):
            for split, label, style in SPLITS:
                steps, values = history.column(f"{split}_{term}")
                ax.plot(steps / steps_per_epoch, values, label=label, **style)
            ax.set(title=title, xlabel="epoch", ylabel="nats per image", xlim=(0, None))
            ax.yaxis.set_major_locator(MaxNLocator(6, integer=True))
        if target is not None:
            axes[0].axhline(target, color=BLACK, linestyle=":", linewidth=1.2)
            axes[0].annotate(f"asked: −{-target:g}", (0, target), (3, 3), textcoords="offset points", fontsize=8.5)
        axes[0].legend(loc="lower right")
    return fig


TERMS = ("ELBO", "reconstruction  E log p(x|z)", "KL(q(z|x) ‖ p(z))")
SPLITS = (
    ("train", "training images", {"color": SKY, "marker": "s"}),
    ("valid", "validation images", {"color": BLUE, "marker": "o"}),
)


def recipe_curves(curves: dict[str, dict[str, list[float]]], report: float) -> Figure:
    """Validation and training ELBO of several recipes by epoch, and the report's final value.

    curves: recipe → {"epoch": …, "train_elbo": …, "valid_elbo": …}.
    """
    fig, ax = figure(7.0, 3.4)
    with rc_context(STYLE):
        for (name, curve), color in zip(curves.items(), (ORANGE, BLUE, GREEN), strict=False):
            ax.plot(curve["epoch"], curve["valid_elbo"], "o-", color=color, label=f"{name}, validation")
            ax.plot(curve["epoch"], curve["train_elbo"], "--", color=color, linewidth=1.2, label=f"{name}, training")
        ax.axhline(report, color=BLACK, linestyle=":", linewidth=1.2)
        ax.annotate(
            f"the report, validation: −{-report:g}", (0, report), (3, 3), textcoords="offset points", fontsize=8.5
        )
        low = min(min(c["valid_elbo"][1:]) for c in curves.values())
        ax.set(title="ELBO of two recipes", xlabel="epoch", ylabel="nats per image", xlim=(0, None), ylim=(low, None))
        ax.legend(loc="lower right")
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    return fig


def likelihood_by_codes(
    codes: list[int], log_p: list[Estimate], effective: list[float], elbo: float, asked: int
) -> Figure:
    """Left: mean estimate of log p(x) against the number of codes K. Right: median effective sample size."""
    fig, (left, right) = figure(8.4, 3.3, columns=2)
    with rc_context(STYLE):
        gain = [e.value for e in log_p]
        left.errorbar(codes, gain, yerr=[e.stderr for e in log_p], fmt="o-", color=BLUE, capsize=3)
        left.axhline(0, color=ORANGE, linewidth=1.2)
        left.annotate(f"ELBO of these images: −{-elbo:.1f}", (codes[0], 0), (0, 4), textcoords="offset points",
                      fontsize=8.5)  # fmt: skip
        left.set(title="what more codes add", xlabel="codes per image, K", ylabel="log p(x) − ELBO  [nats per image]")
        right.plot(codes, effective, "s-", color=GREEN, label="median over images")
        right.plot(codes, codes, color=BLACK, linestyle=":", linewidth=1.2, label="all codes count equally")
        right.set(title="effective sample size", xlabel="codes per image, K", ylabel="(Σw)² / Σw²", yscale="log")
        right.legend(loc="upper left")
        for ax in (left, right):
            ax.set_xscale("log")
            ax.axvline(asked, color=RED, linestyle="--", linewidth=1.0)
            ax.annotate(f"K = {asked}", (asked, 1), (3, -10), xycoords=("data", "axes fraction"),
                        textcoords="offset points", color=RED, fontsize=8.5)  # fmt: skip
    return fig


def latent_map(points: Tensor, labels: Tensor, explained: tuple[float, float]) -> Figure:
    """Codes in their two main directions, each drawn as the digit it came from.

    points: (n, 2); labels: (n,) digits; explained: share of the variance of each direction.
    """
    fig, ax = figure(7.0, 6.0)
    colors = [BLACK, BLUE, ORANGE, GREEN, RED, PURPLE, SKY, "#7a5c00", "#5f5f5f", "#004d3a"]
    with rc_context(STYLE):
        for (x, y), label in zip(points.tolist(), labels.tolist(), strict=True):
            ax.text(x, y, str(label), color=colors[label], fontsize=7, ha="center", va="center", alpha=0.9)
        low, high = points.min(dim=0).values - 0.2, points.max(dim=0).values + 0.2
        ax.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]), title="posterior means by digit")
        ax.set_xlabel(f"first principal direction of the code ({explained[0]:.0%} of its variance)")
        ax.set_ylabel(f"second ({explained[1]:.0%})")
    return fig


def kl_by_unit(kl: Tensor, active: int) -> Figure:
    """Mean KL of each latent unit, sorted; `active`: how many units carry information."""
    fig, ax = figure(7.5, 2.8)
    with rc_context(STYLE):
        ranked = kl.sort(descending=True).values
        ax.bar(
            range(1, len(ranked) + 1), ranked, color=[BLUE] * active + ["#bbbbbb"] * (len(ranked) - active), width=0.8
        )
        ax.axvline(active + 0.5, color=RED, linestyle="--", linewidth=1.0)
        ax.annotate(f"{active} active units", (active + 0.5, 0.85), (5, 0), xycoords=("data", "axes fraction"),
                    textcoords="offset points", color=RED, fontsize=9)  # fmt: skip
        ax.set(title="what each latent unit costs", xlabel="latent unit, sorted", ylabel="mean KL  [nats]")
        ax.set_xlim(0, len(ranked) + 1)
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
