"""Every figure of the lab, in one style: a colour-blind-safe palette, labelled axes, units, PNG and SVG."""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from matplotlib import style
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator
from torch import Tensor

from .estimates import Estimate
from .fid import Scores
from .training import History, locked, write_whole

# Okabe and Ito's palette, told apart with every common form of colour blindness.
BLACK, BLUE, ORANGE, GREEN, RED, PURPLE, SKY = (
    "#000000", "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9",
)  # fmt: skip
STYLE = {
    "font.family": "DejaVu Sans", "font.size": 10, "axes.titlesize": 10.5, "axes.titleweight": "bold",
    "axes.titlelocation": "left", "axes.labelsize": 10, "xtick.labelsize": 9, "ytick.labelsize": 9,
    "legend.fontsize": 9, "legend.facecolor": "white", "legend.edgecolor": "none", "legend.framealpha": 0.9,
    "lines.linewidth": 1.8, "lines.markersize": 4.5,
    "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.color": "#e4e4e4",
    "grid.linewidth": 0.8, "axes.axisbelow": True, "image.interpolation": "nearest",
    "svg.hashsalt": "labutils", "figure.facecolor": "white", "savefig.facecolor": "white",
}  # fmt: skip
DPI = 200  # of the PNG; notebooks show it at half its pixels, sharp on a dense screen


def lab_style():
    """The context to make, draw and save a figure in: STYLE over the library's defaults, whatever the user has set.

    A matplotlibrc with a dark style, LaTeX text or tight boxes, or a notebook's own settings, change no pixel.
    """
    return style.context(["default", STYLE])


def figure(width: float = 7.5, height: float = 3.2, rows: int = 1, columns: int = 1, **arguments):
    """(Figure, axes) in the lab's style; sizes in inches. No pyplot: nothing is left open behind."""
    with lab_style():
        fig = Figure(figsize=(width, height), layout="constrained")
        return fig, fig.subplots(rows, columns, **arguments)


def show(fig: Figure, folder: Path, name: str, caption: str) -> None:
    """Save `folder/name.png` and `.svg`, keep the caption for the report, and display all in a notebook."""
    folder.mkdir(parents=True, exist_ok=True)
    with lab_style():
        fig.savefig(folder / f"{name}.png", dpi=DPI)
        fig.savefig(folder / f"{name}.svg", metadata={"Date": None})
    captions = folder / "captions.json"
    with locked(captions):  # another notebook of the run may add its own
        known = json.loads(captions.read_text(encoding="utf-8")) if captions.exists() else {}
        write_whole(captions, json.dumps(known | {name: caption}, indent=1, ensure_ascii=False) + "\n")
    from IPython.display import Image, Markdown, display

    png = (folder / f"{name}.png").read_bytes()
    display(Image(data=png, width=int(fig.get_figwidth() * DPI / 2), alt=caption), Markdown(f"*{caption}*"))


# --- a training while it runs -----------------------------------------------------------------------


class Course(NamedTuple):
    """A training so far. lines: name → (steps, values), in `unit`; total: how many steps there will be."""

    title: str
    unit: str
    total: int
    lines: dict[str, tuple[np.ndarray, np.ndarray]]


def frame_of_images(course: Course, rows: list[tuple[str, Tensor]], columns: int = 8) -> Figure:
    """A training's course, and beside it what its model draws: (name, images) in [0, 1], `columns` of them a row."""
    fig, ax = _frame(course, (0.49, 0.04, 0.5, 0.83))
    with lab_style():
        images = torch.cat([images for _, images in rows])
        _draw(ax, tile(images, columns))
        ax.set_anchor("NE")
        pitch, ends = images.shape[-1] + 2, np.cumsum([0] + [len(images) / columns for _, images in rows])
        ax.set_yticks(pitch * (ends[:-1] + ends[1:]) / 2 - 1, [name for name, _ in rows])
        ax.tick_params(length=0)
        ax.set_title("drawn by now, from the same codes")
    return fig


def frame_of_estimates(
    course: Course, x: Tensor, found: Tensor, exact: Tensor, labels: tuple[str, str, str], line: bool = False
) -> Figure:
    """A training's course, and beside it an estimate at each x with the exact value. labels: of x, of y, title."""
    fig, ax = _frame(course, (0.5, 0.2, 0.485, 0.67))
    with lab_style():
        ax.plot(x, exact, "-" if line else "_", color=BLACK, markersize=9, alpha=0.5, linewidth=3, label="exact")
        ax.plot(x, found, "-" if line else "o", color=BLUE, linewidth=1.4, label="by now")
        low, high = min(0.0, exact.min().item()), exact.max().item()
        ax.set(xlabel=labels[0], ylabel=labels[1], title=labels[2])
        ax.set_ylim(low - 0.1 * (high - low), high + 0.45 * (high - low))  # a young critic's values may lie anywhere
        ax.xaxis.set_major_locator(MaxNLocator(5, integer=not x.is_floating_point()))
        ax.legend(loc="upper center", ncols=2)
    return fig


def _frame(course: Course, place: tuple[float, float, float, float]) -> tuple:
    """A small figure, the course at its left, and empty axes at `place`: finding a layout would cost a drawing more."""
    with lab_style():
        fig = Figure(figsize=(7.5, 2.5))
        ax = fig.add_axes((0.1, 0.2, 0.29, 0.67))
        late = [np.empty(0)]
        for (name, (steps, values)), color, look in zip(course.lines.items(), (SKY, BLUE), (".-", "o"), strict=False):
            ax.plot(steps, values, look, color=color, label=name)
            late.append(values[len(values) // 5 :])  # the first ones would leave no room for the others
        if len(late := np.concatenate(late)):
            room = 0.1 * (np.ptp(late) or abs(late[0]) or 1.0)
            ax.set_ylim(late.min() - room, late.max() + room)
        else:
            ax.set_yticks([])
        if len(course.lines) > 1:
            ax.legend(loc="lower right")
        ax.set(title=course.title, xlabel="step", ylabel=course.unit, xlim=(0, course.total))
        ax.xaxis.set_major_locator(MaxNLocator(4, integer=True))
        ax.yaxis.set_label_coords(-0.26, 0.5)  # of its axes: clear of any number
        return fig, fig.add_axes(place)


# --- problem 1 --------------------------------------------------------------------------------------


def two_pairs(phi: float, lines: tuple[Tensor, Tensor, Tensor], x: Tensor, f1: Tensor, f0: Tensor) -> Figure:
    """The two pairs of laws of problem 1. Left: samples of p, of q_φ and of interpolates. Right: f₁ and f₀.

    lines: three (n, 2) samples, of p, of q_φ and of interpolates between them.
    """
    fig, (left, right) = figure(8.4, 3.0, columns=2)
    with lab_style():
        names = ("p: (0, Z)", f"q: (φ, Z), φ = {phi:g}", "interpolates")
        for points, name, color in zip(lines, names, (BLUE, ORANGE, "#999999"), strict=True):
            left.plot(*points.T, ".", color=color, markersize=3.0, alpha=0.8, label=name)
        left.set(title="the lines", xlabel="first coordinate", ylabel="second coordinate", xlim=(-0.1, phi + 0.1))
        left.legend(loc="upper left", bbox_to_anchor=(1, 1), markerscale=2.5)
        right.plot(x, f1, color=BLUE, label="f₁, the law of f(X)")
        right.plot(x, f0, "--", color=ORANGE, label="f₀ = N(0, 1)")
        right.set(title="distribution4 and the normal", xlabel="x", ylabel="density  [1/unit of x]", ylim=(0, 0.55))
        right.legend(loc="upper left")
    return fig


def penalty_bias(
    lams: list[float], found: dict[str, Tensor], lines: tuple[Tensor, dict[str, Tensor]], truth: float
) -> Figure:
    """Three readings of the same trained critics against λ, and their closed forms.

    found: reading → (len(lams), critics); lines: the λ of the closed forms, and reading → its values there.
    """
    fig, (left, right) = figure(8.8, 3.4, columns=2)
    grid, exact = lines
    with lab_style():
        for ax in (left, right):
            for (name, values), color, marker in zip(found.items(), (RED, ORANGE, BLUE), "s^o", strict=True):
                ax.plot(grid, exact[name] - truth, color=color, linewidth=1.2)
                ax.plot([], [], marker + "-", color=color, linewidth=1.2, label=name)
                for column in values.T:
                    ax.plot(lams, column - truth, marker, color=color, alpha=0.85)
            ax.set(xlabel="weight of the penalty, λ", ylabel="estimate − W₁  [unit of x]", xscale="log")
        left.set_title("bias of the three readings")
        left.legend(loc="upper right")
        bound = 0.02 * truth
        right.set(title="the same, ±2 % of W₁", ylim=(-bound, bound))
        right.yaxis.set_major_formatter(_minus)
    return fig


def sweep(phi: Tensor, estimates: dict[str, Tensor], exact: dict[str, Tensor], units: dict[str, str]) -> Figure:
    """Upper row: estimate against φ with the truth beneath. Lower row: estimate − truth, seed by seed and mean ± sd.

    estimates: distance → (seeds, φ); exact: distance → (φ,).
    """
    fig, axes = figure(8.8, 5.2, 2, 2, sharex=True, height_ratios=(1.5, 1))
    with lab_style():
        for (name, values), (top, bottom), color in zip(estimates.items(), axes.T, (BLUE, ORANGE), strict=True):
            truth = exact[name]
            mean, sd = values.mean(dim=0), values.std(dim=0) if len(values) > 1 else None
            if truth[phi != 0].max() - truth[phi != 0].min() < 1e-9:  # it jumps at 0: a line each side, a point there
                for side in (phi < 0, phi > 0):
                    top.plot(phi[side], truth[side], color=BLACK, linewidth=1.2)
                top.plot([0], truth[phi == 0], "s", color=BLACK, markersize=7, markerfacecolor="none")
            else:
                top.plot(phi, truth, color=BLACK, linewidth=1.2)
            top.plot([], [], color=BLACK, linewidth=1.2, label="exact")
            top.errorbar(
                phi, mean, yerr=sd, fmt="o", color=color, capsize=2.5, label=f"mean of {len(values)} repetitions ± sd"
            )
            top.set(title=name, ylabel=f"estimate  [{units[name]}]", ylim=(-0.06, 1.14))
            top.legend(loc="center right" if truth[phi != 0].min() > 0.5 else "upper center")
            bottom.axhline(0, color=BLACK, linewidth=1.2)
            for row in values:
                bottom.plot(phi, row - truth, ".", color="#999999", markersize=4)
            bottom.errorbar(phi, mean - truth, yerr=sd, fmt="o", color=color, capsize=2.5)
            bottom.set(title="the error, enlarged", xlabel="φ  [unit of x]", ylabel=f"error  [{units[name]}]")
            bottom.xaxis.set_major_locator(MaxNLocator(5))
            spread = 0 if sd is None else sd
            reach = 1.15 * max((values - truth).abs().max(), ((mean - truth).abs() + spread).max()).item()
            bottom.set_ylim(-reach, reach)
            bottom.ticklabel_format(axis="y", style="sci", scilimits=(-2, 2), useMathText=True)
    return fig


def slopes(phi: Tensor, found: dict[str, Tensor], exact: dict[str, Tensor]) -> Figure:
    """The derivative in φ of each trained objective, with the derivative of the distance it stands for.

    found: distance → (seeds, φ); exact: distance → (φ,), NaN where there is none.
    """
    fig, ax = figure(7.0, 3.2)
    with lab_style():
        for (name, values), color, marker in zip(found.items(), (BLUE, ORANGE), "os", strict=True):
            ax.plot(phi, exact[name], color=BLACK, linewidth=1.2)
            sd = values.std(dim=0) if len(values) > 1 else None
            ax.errorbar(phi, values.mean(dim=0), yerr=sd, fmt=marker, color=color, capsize=2.5, label=name)
        ax.plot([], [], color=BLACK, linewidth=1.2, label="exact")
        ax.set(title="what φ feels", xlabel="φ  [unit of x]", ylabel="derivative in φ", ylim=(-1.3, 1.3))
        ax.legend(loc="upper left")
    return fig


def descent(paths: dict[str, list[Tensor]]) -> Figure:
    """φ against the step of its descent, one line a start. paths: distance → vectors of φ."""
    fig, ax = figure(7.0, 3.2)
    with lab_style():
        ax.axhline(0, color=BLACK, linewidth=1.2)
        for (name, lines), color in zip(paths.items(), (BLUE, ORANGE), strict=True):
            for k, line in enumerate(lines):
                ax.plot(line, color=color, label=None if k else f"descending {name}")
        last = max(len(line) for lines in paths.values() for line in lines) - 1
        ax.annotate("p is here", (last, 0), (0, 4), textcoords="offset points", fontsize=8.5, ha="right")
        ax.set(title="φ learned by gradient descent", xlabel="step", ylabel="φ  [unit of x]", xlim=(0, last))
        ax.set_ylim(None, 1.5 * max(line.max().item() for lines in paths.values() for line in lines))
        ax.legend(loc="upper right", ncols=2)
    return fig


def density_estimate(
    x: Tensor, found: tuple[Tensor, Tensor], exact: tuple[Tensor, Tensor], edge: float = 4.0
) -> Figure:
    """D against D*, and the density it implies against f₁, on a linear and on a logarithmic axis.

    found, exact: (D, f₁) at x; beyond ±edge the plot is shaded: hardly any data there.
    """
    fig, axes = figure(9.6, 3.2, columns=3)
    titles = ("the discriminator", "the density", "the density, logarithmic")
    labels = ("D(x)", "density  [1/unit of x]", "density  [1/unit of x]")
    with lab_style():
        for ax, k, title, label in zip(axes, (0, 1, 1), titles, labels, strict=True):
            for side in (-1, 1):
                ax.axvspan(side * edge, side * x.abs().max().item(), color="#eeeeee", linewidth=0)
            ax.plot(x, exact[k], color=BLACK, linewidth=3.2, alpha=0.35, label=("D* = f₁/(f₁ + f₀)", "f₁")[k])
            ax.plot(x, found[k], color=BLUE, linewidth=1.4, label=("D", "f₀ D/(1 − D)")[k])
            ax.set(title=title, xlabel="x", ylabel=label, xlim=(x[0].item(), x[-1].item()))
        axes[0].set(ylim=(0, 1.2), yticks=[0, 0.25, 0.5, 0.75, 1])
        axes[1].set_ylim(0, 0.55)
        axes[2].set_yscale("log")
        axes[0].legend(loc="upper center", ncols=2, columnspacing=1.0, handlelength=1.4)
        axes[1].legend(loc="upper left")
        axes[2].legend(loc="lower center")
    return fig


def training_paths(steps: Tensor, paths: dict[str, Tensor], target: float, marks: dict[str, float]) -> Figure:
    """An estimate during training, one line a recipe, with horizontal marks at known values.

    paths: recipe → values at `steps`; target: what a perfect discriminator gives; marks: text → value.
    """
    fig, ax = figure(7.0, 3.2)
    with lab_style():
        for (name, values), color in zip(paths.items(), (BLUE, ORANGE, GREEN, RED), strict=False):
            ax.plot(steps[: len(values)], values, color=color, label=name)
        for text, value in {"exact": target, **marks}.items():
            ax.axhline(value, color=BLACK, linestyle=":", linewidth=1.2)
            ax.annotate(f"{text}: {value:.3g}", (0, value), (4, 3), xycoords=("axes fraction", "data"),
                        textcoords="offset points", fontsize=8.5)  # fmt: skip
        ax.set(title="the JSD estimate during training", xlabel="step", ylabel="JSD estimate  [nats]", xscale="log")
        ax.set_ylim(None, 1.12 * target)
        ax.legend(loc="center left")
    return fig


def batch_spread(found: dict[str, Tensor], exact: dict[str, float], units: dict[str, str], size: int) -> Figure:
    """Histograms of one trained network's estimate over many batches of `size` samples, and the exact value."""
    fig, axes = figure(8.4, 2.9, columns=len(found))
    with lab_style():
        for ax, (name, values), color in zip(axes, found.items(), (BLUE, ORANGE), strict=True):
            ax.hist(values, bins=30, color=color, alpha=0.8)
            ax.axvline(exact[name], color=BLACK, linewidth=1.6, label="exact")
            ax.set(title=name, xlabel=f"estimate from {size} samples  [{units[name]}]", ylabel="batches")
            ax.set_ylim(0, 1.2 * ax.get_ylim()[1])
            ax.legend(loc="upper right")
    return fig


def _minus(value: float, _: int) -> str:
    return f"{value:g}".replace("-", "−")


# --- problem 2 --------------------------------------------------------------------------------------


def vae_curves(history: History, steps_per_epoch: int, target: float | None = None) -> Figure:
    """ELBO, reconstruction and KL after every epoch, on training and validation images, in nats per image."""
    fig, axes = figure(9.0, 3.2, columns=3)
    with lab_style():
        for ax, term, title in zip(axes, ("elbo", "reconstruction", "kl"), TERMS, strict=True):
            for split, label, look in SPLITS:
                steps, values = history.column(f"{split}_{term}")
                ax.plot(steps / steps_per_epoch, values, label=label, **look)
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


def recipe_curves(curves: dict[str, dict[str, list[float] | list[int]]], report: float) -> Figure:
    """Validation and training ELBO of several recipes by epoch, and the report's final value.

    curves: recipe → {"epoch": …, "train_elbo": …, "valid_elbo": …}.
    """
    fig, ax = figure(7.0, 3.4)
    with lab_style():
        for (name, curve), color in zip(curves.items(), (ORANGE, BLUE, GREEN), strict=False):
            ax.plot(curve["epoch"], curve["valid_elbo"], "o-", color=color, label=f"{name}, validation")
            ax.plot(curve["epoch"], curve["train_elbo"], "--", color=color, linewidth=1.2, label=f"{name}, training")
        ax.axhline(report, color=BLACK, linestyle=":", linewidth=1.2)
        ax.annotate(f"the report, validation: −{-report:g}", (1, report), (-3, -3), xycoords=("axes fraction", "data"),
                    textcoords="offset points", ha="right", va="top", fontsize=8.5)  # fmt: skip
        low = min(min(c["valid_elbo"][1:]) for c in curves.values()) - 1
        best = max(max(c["train_elbo"] + c["valid_elbo"] + [report]) for c in curves.values())
        ax.set(
            title="ELBO of each recipe", xlabel="epoch", ylabel="nats per image", xlim=(0, None), ylim=(low, best + 1)
        )
        ax.legend(loc="lower right")
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    return fig


def likelihood_by_codes(
    codes: list[int], log_p: list[Estimate], effective: list[float], elbo: float, asked: int
) -> Figure:
    """Left: mean estimate of log p(x) against the number of codes K. Right: median effective sample size."""
    fig, (left, right) = figure(8.4, 3.3, columns=2)
    with lab_style():
        gain = [e.value for e in log_p]
        left.errorbar(codes, gain, yerr=[e.stderr for e in log_p], fmt="o-", color=BLUE, capsize=3)
        left.axhline(0, color=ORANGE, linewidth=1.2)
        left.annotate(f"ELBO of these images: −{-elbo:.1f}", (codes[-1], 0), (0, 4), textcoords="offset points",
                      ha="right", fontsize=8.5, bbox={"fc": "white", "ec": "none", "pad": 1})  # fmt: skip
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


def separating_directions(codes: Tensor, labels: Tensor) -> Tensor:
    """The two directions in which the classes' means differ most beside the spread within classes: (latent, 2).

    Fisher's linear discriminants: the leading eigenvectors of the between-class covariance after whitening the
    within-class one. codes: (n, latent); labels: (n,) class numbers.
    """
    codes = codes.double()
    means = torch.stack([codes[labels == c].mean(dim=0) for c in labels.unique()])
    index = torch.searchsorted(labels.unique(), labels)
    within = torch.linalg.cholesky((codes - means[index]).T.cov())
    between = torch.linalg.solve_triangular(within, (means - means.mean(dim=0)).T, upper=False)
    vectors = torch.linalg.svd(between).U[:, :2]
    return torch.linalg.solve_triangular(within.T, vectors, upper=True).float()


def latent_map(points: Tensor, labels: Tensor) -> Figure:
    """Codes in two directions, each drawn as the digit it came from. points: (n, 2); labels: (n,) digits."""
    fig, ax = figure(7.0, 6.0)
    colors = [BLACK, BLUE, ORANGE, GREEN, RED, PURPLE, SKY, "#7a5c00", "#5f5f5f", "#004d3a"]
    with lab_style():
        for (x, y), label in zip(points.tolist(), labels.tolist(), strict=True):
            ax.text(x, y, str(label), color=colors[label], fontsize=7, ha="center", va="center", alpha=0.9)
        low, high = points.min(dim=0).values - 0.2, points.max(dim=0).values + 0.2
        ax.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]), title="posterior means by digit")
        ax.set(xlabel="first separating direction  [within-digit sd]", ylabel="second  [within-digit sd]")
    return fig


def kl_by_unit(kl: Tensor, active: int) -> Figure:
    """Mean KL of each latent unit, sorted; `active`: how many units carry information."""
    fig, ax = figure(7.5, 2.8)
    with lab_style():
        ranked = kl.sort(descending=True).values.tolist()
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
    room = max(1.3, 0.078 * max(len(label) for label, _ in rows))  # inches for the labels
    fig, axes = figure(count * cell + room, len(rows) * cell + (0.35 if title else 0.05), len(rows), 1, squeeze=False)
    with lab_style():
        for ax, (label, images) in zip(axes[:, 0], rows, strict=True):
            _draw(ax, tile(images, columns=count))
            ax.set_anchor("W")  # beside its label: the layout knows nothing of the room that the aspect leaves
            ax.set_ylabel(label, rotation=0, ha="right", va="center", labelpad=6)
        if title:
            fig.suptitle(title, fontsize=10.5, fontweight="bold")
    return fig


def image_sheet(images: Tensor, columns: int = 16, title: str = "", cell: float = 0.45) -> Figure:
    """A sheet of images (n, channels, height, width) in [0, 1], every one on the same scale."""
    rows = -(-len(images) // columns)
    fig, ax = figure(columns * cell, rows * cell + (0.35 if title else 0.0))
    with lab_style():
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


# --- problem 3 --------------------------------------------------------------------------------------


def image_sheets(sheets: dict[str, Tensor], columns: int = 20, cell: float = 0.42) -> Figure:
    """Titled sheets of images (n, channels, height, width) in [0, 1], one under the other, all on one scale."""
    rows = {name: -(-len(images) // columns) for name, images in sheets.items()}
    fig, axes = figure(
        columns * cell, sum(rows.values()) * cell + 0.32 * len(rows), len(rows), 1, squeeze=False,
        height_ratios=list(rows.values()),
    )  # fmt: skip
    with lab_style():
        for ax, (name, images) in zip(axes[:, 0], sheets.items(), strict=True):
            _draw(ax, tile(images, columns))
            ax.set_title(name)
    return fig


def gan_and_vae_curves(gan: dict[str, list | np.ndarray], vaes: dict[str, dict[str, list | np.ndarray]]) -> Figure:
    """Upper row: what the critic logs, by step. Lower row: the ELBO and its terms on training batches, by step.

    gan: `step`, `wasserstein`, `gradient_norm`, `penalty`; vaes: name → `step`, `reconstruction`, `kl`.
    """
    fig, axes = figure(9.6, 4.8, 2, 3)
    with lab_style():
        for ax, name, title in zip(axes[0], ("wasserstein", "gradient_norm", "penalty"), CRITIC, strict=True):
            ax.plot(gan["step"], gan[name], ".-", color=BLUE)
            ax.set(title=title, xlabel="generator step", xlim=(0, None))
            low, high = min(0.0, np.nanmin(gan[name])), max(0.0, np.nanmax(gan[name]))
            ax.set_ylim(1.08 * low, 1.08 * high or None)
        axes[0, 0].set_ylabel("unit of the image")
        axes[0, 1].axhline(1, color=BLACK, linestyle=":", linewidth=1.2)
        for (name, curve), color in zip(vaes.items(), (ORANGE, GREEN), strict=False):
            reconstruction, kl = np.array(curve["reconstruction"]), np.array(curve["kl"])
            for ax, values in zip(axes[1], (reconstruction - kl, reconstruction, kl), strict=True):
                ax.plot(curve["step"], values, ".-", color=color, label=name)
        for ax, title in zip(axes[1], TERMS, strict=True):
            ax.set(title=title, xlabel="step", xlim=(0, None))
        axes[1, 0].set_ylabel("nats per image")
        if len(vaes) > 1:
            axes[1, 2].legend(loc="center right")
    return fig


CRITIC = ("GAN: E critic(real) − E critic(fake)", "GAN: mean gradient norm", "GAN: penalty, without λ")


def ranked_effects(effects: dict[str, Tensor]) -> Figure:
    """How much each latent coordinate moves the image, sorted within each model. effects: model → (latent,)."""
    fig, ax = figure(7.5, 3.0)
    with lab_style():
        for (name, values), color in zip(effects.items(), (BLUE, ORANGE, GREEN), strict=False):
            ranked = values.sort(descending=True).values
            ax.plot(range(1, len(ranked) + 1), ranked, "o-", color=color, label=name, markersize=3)
        ax.set(title="what one coordinate changes", xlabel="latent coordinate, sorted within its model")
        ax.set(ylabel="RMS change per ±1 sd", xlim=(0, None), ylim=(0, None))
        ax.legend(loc="upper right")
    return fig


def traversals(found: dict[str, tuple[Tensor, Tensor]], steps: Tensor, cell: float = 0.42) -> Figure:
    """Images along single coordinates, models side by side; rows: coordinates, columns: `steps` in sd.

    found: model → (dimensions (d,), images (d, k, c, h, w) in [0, 1]).
    """
    rows = max(len(dimensions) for dimensions, _ in found.values())
    fig, axes = figure(len(found) * (len(steps) * cell + 0.7), rows * cell + 0.9, 1, len(found), squeeze=False)
    with lab_style():
        for ax, (name, (dimensions, images)) in zip(axes[0], found.items(), strict=True):
            _draw(ax, tile(images.flatten(0, 1), columns=len(steps)))
            pitch = images.shape[-1] + 2
            ax.set_xticks([(k + 0.5) * pitch - 1 for k in range(len(steps))], [_minus(s, 0) for s in steps.tolist()])
            ax.set_yticks([(k + 0.5) * pitch - 1 for k in range(len(dimensions))], map(str, dimensions.tolist()))
            ax.tick_params(length=0)
            ax.set(title=name, xlabel="ε  [sd of the prior]", ylabel="coordinate")
    return fig


def along_paths(alphas: Tensor, found: dict[str, dict[str, dict[str, list[Estimate]]]]) -> Figure:
    """Numbers along interpolations, mean ± standard error over pairs; rows: quantities, columns: models.

    found: quantity → model → path → one Estimate per α.
    """
    fig, axes = figure(
        10.2, 2.4 * len(found) + 0.4, len(found), len(next(iter(found.values()))), sharex=True, sharey="row"
    )
    with lab_style():
        for k, (quantity, models) in enumerate(found.items()):
            row = axes[k]
            for ax, (model, paths) in zip(row, models.items(), strict=True):
                for (path, values), color, marker in zip(paths.items(), (BLUE, GREEN, ORANGE), "os^", strict=True):
                    ax.errorbar(
                        alphas, [e.value for e in values], yerr=[e.stderr for e in values], fmt=f"{marker}-",
                        color=color, capsize=2.5, label=path,
                    )  # fmt: skip
                ax.set(title="" if k else model, xlabel="α" if k == len(found) - 1 else "")
            row[0].set_ylabel(quantity)
        axes[-1, 0].legend(loc="lower left")
    return fig


def digit_shares(real: Tensor, models: dict[str, Tensor]) -> Figure:
    """Share of each digit among real images, as bars, and among samples, as marks; each of shape (10,)."""
    fig, ax = figure(7.5, 3.0)
    with lab_style():
        digits = np.arange(10)
        ax.bar(digits, real.numpy(), color="#cccccc", width=0.8, label="real test crops, their labels")
        shift = 0.5 / max(1, len(models) - 1)
        marks = zip(models.items(), (BLUE, ORANGE, GREEN), "os^", strict=False)
        for k, ((name, shares), color, marker) in enumerate(marks):
            ax.plot(digits + (k - (len(models) - 1) / 2) * shift, shares, marker, color=color, label=name, markersize=6)
        ax.set(title="digits that the classifier reads", xlabel="digit", ylabel="share", xticks=digits)
        ax.set_ylim(0, 1.45 * max(float(real.max()), *(float(s.max()) for s in models.values())))
        ax.legend(loc="upper right", ncols=2)
    return fig


def fid_by_size(sizes: list[int], lines: dict[str, list[float]], asked: int) -> Figure:
    """The Fréchet distance of the same source from more and more samples; both axes logarithmic."""
    fig, ax = figure(7.0, 3.2)
    with lab_style():
        for (name, values), color, marker in zip(lines.items(), (BLACK, BLUE, ORANGE, GREEN), "Dos^", strict=False):
            ax.plot(sizes[: len(values)], values, f"{marker}-", color=color, label=name)
        ax.axvline(asked, color=RED, linestyle="--", linewidth=1.0, label="asked for")
        ax.set(title="FID and the number of samples", xlabel="samples", ylabel="FID, reference network")
        ax.set(xscale="log", yscale="log", xlim=(0.9 * sizes[0], 1.1 * sizes[-1]))
        ax.set_xticks(sizes, [f"{n:,}" for n in sizes])
        ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        ax.yaxis.set_major_formatter(lambda v, _: f"{v:,.0f}")
        ax.minorticks_off()
        ax.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    return fig


def floor_ratios(groups: dict[str, dict[str, Estimate]]) -> Figure:
    """FID over its floor, a row a model, on a logarithmic axis. groups: data → model → ratio with its error."""
    count = sum(len(models) for models in groups.values())
    fig, axes = figure(
        8.4, 0.42 * count + 0.5 * len(groups) + 0.4, len(groups), 1, squeeze=False, sharex=True,
        height_ratios=[len(models) for models in groups.values()],
    )  # fmt: skip
    with lab_style():
        for ax, (group, models) in zip(axes[:, 0], groups.items(), strict=True):
            ratios = list(models.values())
            values, errors = [r.value for r in ratios], [r.stderr for r in ratios]
            ax.errorbar(values, range(len(models)), xerr=errors, fmt="o", capsize=3, color=BLUE)
            for row, value in enumerate(values):
                ax.annotate(f"{value:.3g}", (value, row), (0, 6), textcoords="offset points", ha="center")
            ax.axvline(1, color=BLACK, linewidth=1.2)
            ax.set_yticks(range(len(models)), models)
            ax.set(title=group, xscale="log", ylim=(len(models) - 0.4, -0.8))
            ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            ax.xaxis.set_major_formatter(lambda v, _: f"{v:g}")
            ax.xaxis.set_minor_locator(NullLocator())
        axes[-1, 0].set_xlabel("FID over the real-against-real floor of the same size")
    return fig


def score_ladder(rungs: dict[str, Scores]) -> Figure:
    """What damage does to each score, over that of the first rung, which is undamaged. rungs: damage → scores."""
    fig, (left, right) = figure(9.2, 0.36 * len(rungs) + 1.2, columns=2, sharey=True, width_ratios=(1, 1.4))
    first = next(iter(rungs.values()))
    places = np.arange(len(rungs))
    with lab_style():
        left.barh(places, [s.fid.value / first.fid.value for s in rungs.values()], color=BLUE, height=0.6)
        left.axvline(1, color=BLACK, linewidth=1.2)
        left.set(title="FID", xlabel="times that of undamaged images")
        left.set_yticks(places, rungs)
        left.invert_yaxis()
        marks = zip(("precision", "recall", "density", "coverage"), (ORANGE, GREEN, RED, PURPLE), "os^D", strict=True)
        for k, (name, color, marker) in enumerate(marks):
            ratio = [getattr(s, name).value / getattr(first, name).value for s in rungs.values()]
            right.plot(ratio, places + 0.13 * (k - 1.5), marker, color=color, label=name)
        right.axvline(1, color=BLACK, linewidth=1.2)
        right.set(title="precision and its kin", xlabel="times that of undamaged images", xlim=(0, None))
        right.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    return fig


def aggregate_posterior(
    spectra: dict[str, Tensor], densities: dict[str, Tensor], names: tuple[str, str] = ("codes of images", "prior")
) -> Figure:
    """Where the codes of a VAE lie and where its prior looks for them.

    spectra: model → variances of its codes along their principal axes, sorted here; the prior's are all 1.
    densities: source of codes → log density of each in one law fitted to the codes of images, drawn as histograms.
    """
    fig, (left, right) = figure(9.2, 3.2, columns=2, width_ratios=(1, 1.2))
    with lab_style():
        for (name, values), color in zip(spectra.items(), (BLUE, ORANGE, GREEN), strict=False):
            ranked = values.sort(descending=True).values.tolist()
            left.plot(range(1, len(ranked) + 1), ranked, color=color, label=f"{names[0]}, {name}")
        left.axhline(1, color=BLACK, linewidth=1.2, label=names[1])
        left.set(title="spread of the codes", yscale="log", xlabel="principal axis, sorted", ylabel="variance")
        left.legend(loc="upper right")
        # Logarithmic: the draws that miss the codes of images miss them by far.
        best = max(float(values.max()) for values in densities.values())
        below = {name: (best - values.double()).clamp(min=1).log10() for name, values in densities.items()}
        edges = np.linspace(0, max(float(v.max()) for v in below.values()) + 0.05, 70)
        for (name, values), color in zip(below.items(), (BLUE, BLACK, ORANGE, GREEN), strict=False):
            right.hist(
                values.numpy(), bins=edges, density=True, histtype="step", linewidth=1.8, color=color, label=name
            )
        right.set(title="how likely a code is among those of images", yticks=[], ylabel="share of codes")
        right.set_xlabel("nats below the most likely one")
        right.xaxis.set_major_locator(MaxNLocator(integer=True))
        right.xaxis.set_major_formatter(lambda v, _: f"{10**v:,.0f}")
        right.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return fig
