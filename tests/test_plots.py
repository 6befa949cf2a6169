"""Figures: saved twice, labelled, on one scale."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from labutils import plots
from labutils.training import History


def test_tile_places_images_without_rescaling_them():
    images = torch.zeros(3, 1, 2, 2)
    images[1] = 0.25
    canvas = plots.tile(images, columns=2, gap=1)
    assert canvas.shape == (5, 5, 3)
    assert (canvas[:2, 3:5] == 0.25).all() and (canvas[:2, 2] == 1).all() and (canvas[3:, 3:] == 1).all()


@pytest.mark.parametrize("value", [-0.1, 1.1])
def test_images_outside_the_scale_are_refused(value):
    with pytest.raises(ValueError, match="expected values from 0 to 1"):
        plots.tile(torch.full((1, 1, 2, 2), value), columns=1)


def curves():
    rows = [
        {"step": s, **{f"{split}_{term}": v for split in ("train", "valid") for term, v in
                       (("elbo", -105.0), ("kl", 25.0), ("reconstruction", -80.0))}}
        for s in (400, 800)
    ]  # fmt: skip
    return plots.vae_curves(History(rows), steps_per_epoch=400, target=-96.0)


def test_every_axis_says_what_it_shows_and_in_which_unit():
    for ax in curves().axes:
        assert ax.get_xlabel() and "nats" in ax.get_ylabel() and ax.get_title(loc="left")


def test_show_writes_png_svg_and_caption(tmp_path):
    plots.show(curves(), tmp_path, "a", "first")
    plots.show(curves(), tmp_path, "b", "second")
    assert json.loads((tmp_path / "captions.json").read_text()) == {"a": "first", "b": "second"}
    assert (tmp_path / "a.png").read_bytes()[:4] == b"\x89PNG"
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes(), "SVG is the same every time"
    assert "date" not in (tmp_path / "a.svg").read_text()


def test_the_palette_is_told_apart_in_grey_too():
    from matplotlib.colors import to_rgb

    luminance = [float(np.dot(to_rgb(c), (0.299, 0.587, 0.114))) for c in (plots.BLACK, plots.BLUE, plots.ORANGE)]
    assert min(np.diff(sorted(luminance))) > 0.15
