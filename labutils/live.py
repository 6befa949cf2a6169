"""A training one can watch: a small figure under its progress bar, renewed every few seconds while it runs.

    with live.samples(seed):
        trained = gan.train(…)

It shows the course so far and what the model does by now, from the same codes in every frame, and goes away when the
block ends; an interrupt or an error leaves the last frame standing. Nothing is drawn where nobody looks: see `seen`.
A training gives the same bits whether it is watched or not.
"""

from __future__ import annotations

import contextlib
import io
import math
import os
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from matplotlib.figure import Figure
from torch import Tensor, nn

from . import divergences, plots
from .divergences import Sampler
from .training import History, generator, in_kernel, watching

Draw = Callable[[nn.Module, History, int], Figure]  # of the model, the history and the steps in all
EVERY = 3.0  # seconds between frames, at least
SHARE = 0.02  # of a training's time, at most, that its frames may take
GUESS = 0.1  # seconds for the first frame


def seen() -> bool:
    """Whether somebody may be looking: JupyterLab, Notebook 7, VS Code or Colab has sent this cell.

    Those say which cell they execute; papermill, nbclient and nbval do not. LABUTILS_LIVE=1 or 0 in the environment
    answers instead, but never shows anything in a `labutils run`; ValueError for anything else in it.
    """
    asked = os.environ.get("LABUTILS_LIVE", "")
    if asked not in ("", "0", "1"):
        raise ValueError(
            f"LABUTILS_LIVE is {asked!r}; expected 1 to show trainings while they run, 0 not to, or nothing"
        )
    if asked == "0" or not in_kernel() or "LABUTILS_RUN" in os.environ:
        return False
    if asked == "1" or "google.colab" in sys.modules:
        return True
    from IPython import get_ipython

    return "cellId" in get_ipython().parent_header.get("metadata", {})


@contextlib.contextmanager
def figure(draw: Draw) -> Iterator[None]:
    """Trainings inside the block are shown in frames that `draw` makes, where somebody looks."""
    if not seen():
        yield
        return
    frames = _Frames(draw)
    with watching(frames):
        yield
    frames.clear()


class _Frames:
    """Draws, times what it takes, and waits until all frames together stay below their share of the time."""

    def __init__(self, draw: Draw):
        self.draw, self.display = draw, None
        self.begun, self.spent = time.monotonic(), 0.0
        self.due = self.begun + max(EVERY, GUESS / SHARE)

    def __call__(self, parts: Mapping[str, Any], history: History, done: int, total: int) -> None:
        start = time.monotonic()
        if start < self.due or done == total:
            return
        try:
            model = next(parts[name] for name in ("average", "model", "net") if name in parts)
            with torch.no_grad(), _evaluating(model):
                self._show(self.draw(model, history, total), f"the training after {done:,} of {total:,} steps")
        except Exception as error:  # a picture is never worth a failed training
            warnings.warn(f"no more frames of this training ({type(error).__name__}: {error})", stacklevel=2)
            self.due = math.inf
            return
        end = time.monotonic()
        self.spent += end - start
        self.due = max(end + EVERY, self.begun + (self.spent + end - start) / SHARE)

    def _show(self, fig: Figure, alt: str) -> None:
        from IPython.display import Image, display

        png = io.BytesIO()
        with plots.lab_style():
            fig.savefig(png, format="png", dpi=100, pil_kwargs={"compress_level": 1})
        image = Image(png.getvalue(), width=int(100 * fig.get_figwidth()), alt=alt)
        if self.display is None:
            self.display = display(image, display_id=True)
        else:
            self.display.update(image)

    def clear(self) -> None:
        if self.display is not None:
            self.display.update({"text/html": ""}, raw=True)  # takes no room, in any front end


@contextlib.contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """The model in evaluation inside the block, and every part of it as it was after."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


# --- what is drawn ----------------------------------------------------------------------------------------


def samples(seed: int = 0, n: int = 32) -> contextlib.AbstractContextManager:
    """For a GAN: the critic's estimate of the distance, and the averaged generator's images of `n` codes."""

    def draw(model: nn.Module, history: History, total: int) -> Figure:
        lines = {"": _line(history, "wasserstein")}
        course = plots.Course("E critic(real) − E critic(fake)", "unit of the image", total, lines)
        return plots.frame_of_images(course, [("samples", _unit(model(_codes(model, n, seed))))])

    return figure(draw)


def reconstructions(
    x: Float[Tensor, "n c h w"], seed: int = 0, *, logits: bool = False
) -> contextlib.AbstractContextManager:
    """For a VAE: the ELBO; images, what it makes of their mean codes, and of twice as many codes from the prior.

    x: what the model encodes, 8 images in [−1, 1]; logits: in [0, 1], and it decodes to logits.
    """

    def draw(model: nn.Module, history: History, total: int) -> Figure:
        inputs = x.to(next(model.parameters()))
        z = torch.cat([model.encode(inputs)[0], _codes(model, 2 * len(x), seed)])
        images = torch.sigmoid(model.decode(z)) if logits else _unit(model.decode(z))
        rows = [("images", inputs if logits else _unit(inputs)), ("rebuilt", images[: len(x)])]
        (steps, reconstruction), (_, kl) = _line(history, "reconstruction"), _line(history, "kl")
        lines = {"training": (steps, reconstruction - kl), "validation": _line(history, "valid_elbo")}
        lines = {name: line for name, line in lines.items() if len(line[0])}
        course = plots.Course("ELBO", "nats per image", total, lines)
        return plots.frame_of_images(course, [*rows, ("samples", images[len(x) :])], columns=len(x))

    return figure(draw)


def jsd(
    p: Sampler, q: Sampler, exact: Float[Tensor, " members"], at: Float[Tensor, " members"] | None = None, seed: int = 0
) -> contextlib.AbstractContextManager:
    """For discriminators: the estimate of each on 500 fixed pairs, with the exact divergence.

    at: the φ of each, to draw it over; else it is drawn over its number.
    """

    def estimate(net: nn.Module) -> Tensor:
        draw = generator(seed, "live")
        return divergences.jsd_objective(net(p(500, draw)), net(q(500, draw)))

    return _estimates(estimate, exact, at, ("nats", "JSD, on samples held out"))


def wasserstein(
    p: Sampler,
    q: Sampler,
    exact: Float[Tensor, " members"],
    at: Float[Tensor, " members"] | None = None,
    lam: float = 10.0,
    seed: int = 0,
) -> contextlib.AbstractContextManager:
    """For critics: gap − 2P of each on 500 fixed pairs, with the exact distance. at: as in `jsd`."""

    def estimate(net: nn.Module) -> Tensor:
        draw = generator(seed, "live")
        x, y = p(500, draw), q(500, draw)
        terms = divergences.wasserstein_objective(net, x, y, draw, lam, sample_dims=2)
        return terms.gap - 2 * terms.penalty

    return _estimates(estimate, exact, at, ("unit of x", "gap − 2P, on samples held out"))


def density(
    x: Float[Tensor, " points"], log_f0: Float[Tensor, " points"], exact: Float[Tensor, " points"]
) -> contextlib.AbstractContextManager:
    """For a discriminator of f₁ against f₀: the density f₀ D/(1 − D) at x against the exact f₁."""

    def estimate(net: nn.Module) -> Tensor:
        return divergences.density_from_discriminator(divergences.logits_on_line(net, x)[0], log_f0)

    return _estimates(estimate, exact, x, ("1/unit of x", "f₀ D/(1 − D)"), line=True)


def _estimates(
    estimate: Callable[[nn.Module], Tensor],
    exact: Tensor,
    at: Tensor | None,
    labels: tuple[str, str],
    line: bool = False,
) -> contextlib.AbstractContextManager:
    unit, of = "nats" if line else labels[0], "x" if line else "φ  [unit of x]"  # a density's critic climbs to a JSD
    if at is None:
        at, of = torch.arange(1, len(exact) + 1), "number of the critic"

    def draw(net: nn.Module, history: History, total: int) -> Figure:
        course = plots.Course("objective, mean", unit, total, {"": _line(history, "objective")})
        return plots.frame_of_estimates(course, at, estimate(net), exact, (of, *labels), line)

    return figure(draw)


def _codes(model: nn.Module, n: int, seed: int) -> Float[Tensor, "n latent"]:
    """The same at every call."""
    return torch.randn(n, model.latent, generator=generator(seed, "live")).to(next(model.parameters()))


def _unit(x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    return (x.float().clamp(-1, 1) + 1) / 2


def _line(history: History, name: str) -> tuple[np.ndarray, np.ndarray]:
    known = any(name in row for row in history.rows)
    return history.column(name) if known else (np.empty(0), np.empty(0))
