"""Figures: saved twice, labelled, on one scale."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from conftest import ROOT

from labutils import plots
from labutils.estimates import Estimate
from labutils.fid import Scores
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


# What a user may have set for pictures of their own: LaTeX text, a dark style, tight boxes, other marks and layout.
HOSTILE = """
text.usetex: True
text.color: white
axes.facecolor: black
axes.labelcolor: white
axes.titlecolor: white
axes.edgecolor: white
axes.prop_cycle: cycler(color=["r", "g"])
axes.xmargin: 0.3
axes.autolimit_mode: round_numbers
axes.unicode_minus: False
xtick.color: white
xtick.minor.visible: True
ytick.direction: in
grid.linestyle: :
lines.marker: x
path.sketch: 3, 100, 2
image.origin: lower
image.aspect: auto
figure.dpi: 40
figure.constrained_layout.w_pad: 0.5
savefig.bbox: tight
savefig.pad_inches: 1
savefig.transparent: True
svg.fonttype: none
"""
DRAW = """
import sys
from pathlib import Path
import torch
from test_plots import curves
from labutils import plots
figures = {"curves": curves(), "images": plots.image_rows([("a", torch.eye(9)[None, None])], title="one")}
for name, figure in figures.items():
    plots.show(figure, Path(sys.argv[1]), name, "")
"""


def test_the_users_own_settings_change_no_pixel(tmp_path):
    for name, settings in (("plain", ""), ("hostile", HOSTILE)):
        (tmp_path / f"{name}.rc").write_text(settings)
        environment = {
            **os.environ,
            "MATPLOTLIBRC": str(tmp_path / f"{name}.rc"),
            "PYTHONPATH": os.pathsep.join(map(str, (ROOT, ROOT / "tests"))),
        }
        done = subprocess.run(
            [sys.executable, "-c", DRAW, str(tmp_path / name)], env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
    plain, hostile = ({p.name: p.read_bytes() for p in (tmp_path / n).glob("[!.]*")} for n in ("plain", "hostile"))
    assert len(plain) == 5
    assert [name for name in plain if plain[name] != hostile[name]] == []


def test_every_figure_is_drawn_in_the_labs_style():
    """Outside of it the user's settings would hold: whoever makes a figure also draws within `lab_style()`."""
    for node in ast.parse((ROOT / "labutils" / "plots.py").read_text(encoding="utf-8")).body:
        text = ast.unparse(node)
        if isinstance(node, ast.FunctionDef) and node.name != "lab_style" and ("figure(" in text or "savefig(" in text):
            assert "with lab_style():" in text, node.name


def test_separating_directions_find_what_tells_classes_apart():
    """Classes differ in coordinates 1 and 3 only, where the spread within them is larger than elsewhere."""
    draw = torch.Generator().manual_seed(0)
    labels = torch.arange(3000) % 3
    codes = torch.randn(3000, 5, generator=draw) * torch.tensor([0.1, 2.0, 5.0, 1.0, 0.1])
    codes[:, 1] += 8.0 * (labels == 1)
    codes[:, 3] += 4.0 * (labels == 2)
    axes = plots.separating_directions(codes, labels)
    share = axes.abs() * codes.std(dim=0)[:, None]
    assert share[[1, 3]].sum() > 0.95 * share.sum()
    assert torch.allclose((codes - codes.mean(0))[labels == 0].matmul(axes).std(dim=0), torch.ones(2), atol=0.1)


def test_the_palette_is_told_apart_in_grey_too():
    from matplotlib.colors import to_rgb

    luminance = [float(np.dot(to_rgb(c), (0.299, 0.587, 0.114))) for c in (plots.BLACK, plots.BLUE, plots.ORANGE)]
    assert min(np.diff(sorted(luminance))) > 0.15


def problem1_figures():
    phi, lams, x = torch.linspace(-10, 10, 21) / 10, [1.0, 10.0], torch.linspace(-5, 5, 11)
    names = ("Jensen–Shannon divergence", "Wasserstein distance")
    exact = {names[0]: 0.7 * (phi != 0), names[1]: phi.abs()}
    readings = {name: torch.ones(2, 3) for name in ("gap", "gap − P", "gap − 2P")}
    lines = {name: torch.ones(2) for name in readings}
    units = dict(zip(names, ("nats", "unit of x"), strict=True))
    points = torch.zeros(5, 2)
    return {
        "two_pairs": plots.two_pairs(0.5, (points, points, points), x, x, x),
        "penalty_bias": plots.penalty_bias(lams, readings, (torch.tensor(lams), lines), truth=1.0),
        "sweep": plots.sweep(phi, {name: exact[name].repeat(3, 1) + 0.1 for name in names}, exact, units),
        "sweep, one seed": plots.sweep(phi, {name: exact[name][None] + 0.1 for name in names}, exact, units),
        "slopes": plots.slopes(phi, {name: phi.repeat(3, 1) for name in names}, exact),
        "descent": plots.descent({"JSD": [phi], "W₁": [phi, -phi]}),
        "density_estimate": plots.density_estimate(x, (x.abs(), x.exp()), (x.abs(), x.exp())),
        "training_paths": plots.training_paths(torch.arange(1, 4), {"SGD": torch.ones(3)}, 0.7, {"the report": 0.64}),
        "batch_spread": plots.batch_spread(
            {name: torch.linspace(0, 1, 50) for name in names}, dict.fromkeys(names, 0.5), units, size=512
        ),
    }


@pytest.mark.parametrize("name", problem1_figures())
def test_figures_of_problem_1_are_labelled(name):
    axes = problem1_figures()[name].axes
    shared = {ax for ax in axes if ax.get_subplotspec().is_first_row() and not ax.get_subplotspec().is_last_row()}
    for ax in axes:
        assert ax.get_ylabel() and ax.get_title(loc="left") and (ax.get_xlabel() or ax in shared)


def test_the_sweep_shows_the_estimates_and_every_error():
    """Each dot of the lower row is one seed's error, and none falls outside the axis."""
    phi = torch.linspace(-10, 10, 21) / 10
    exact = {"W": phi.abs(), "V": phi.abs()}
    values = {name: truth + 0.01 * torch.randn(3, 21, generator=torch.Generator().manual_seed(0))
              for name, truth in exact.items()}  # fmt: skip
    bottom = plots.sweep(phi, values, exact, dict.fromkeys(exact, "unit of x")).axes[2]
    rows = [line.get_ydata() for line in bottom.lines if line.get_color() == "#999999"]
    assert np.allclose(np.stack(rows), values["W"] - exact["W"], atol=1e-6)
    low, high = bottom.get_ylim()
    assert low < np.min(rows) and np.max(rows) < high


def test_effects_are_ranked_within_each_model():
    lines = (
        plots.ranked_effects({"GAN": torch.tensor([0.1, 0.3, 0.2]), "VAE": torch.tensor([0.0, 0.5, 0.1])}).axes[0].lines
    )
    assert np.allclose([line.get_ydata() for line in lines], [[0.3, 0.2, 0.1], [0.5, 0.1, 0.0]])


def test_paths_are_drawn_by_quantity_and_model():
    names = ("straight", "spherical", "pixels")
    values = {
        quantity: {
            model: {path: [Estimate(10.0 * q + m, 0.1, 9)] * 3 for path in names}
            for m, model in enumerate(("GAN", "VAE"))
        }
        for q, quantity in enumerate(("sharpness", "confidence"))
    }
    axes = plots.along_paths(torch.linspace(0, 1, 3), values).axes
    assert [ax.get_title(loc="left") for ax in axes] == ["GAN", "VAE", "", ""]
    assert [ax.lines[0].get_ydata()[0] for ax in axes] == [0, 1, 10, 11]
    assert axes[0].get_ylabel() == "sharpness" and axes[3].get_xlabel() == "α"


def test_the_ladder_is_relative_to_its_first_rung():
    def rung(k):
        return Scores(*[Estimate(k * value, 0.1, 9) for value in (600.0, 0.1, 0.9, 0.8, 1.0, 0.7)], n=9, m=9)

    left, right = plots.score_ladder({"undamaged": rung(1.0), "blur": rung(0.5)}).axes
    assert [bar.get_width() for bar in left.patches] == [1.0, 0.5]
    marks = [line.get_xdata() for line in right.lines if len(line.get_xdata()) == 2 and line.get_linestyle() == "None"]
    assert len(marks) == 4 and all(list(x) == [1.0, 0.5] for x in marks)


def test_a_model_has_one_row_of_ratios_and_every_ratio_is_drawn():
    ratios = {
        "GAN": Estimate(2.0, 0.1, 9),
        "VAE": Estimate(7.0, 0.1, 9),
    }
    (ax,) = plots.floor_ratios({"reference": ratios}).axes
    assert [label.get_text() for label in ax.get_yticklabels()] == ["GAN", "VAE"]
    drawn = [list(line.get_xdata()) for line in ax.lines if len(line.get_xdata()) == 2 and line.get_marker() == "o"]
    assert drawn == [[2.0, 7.0]] and [text.get_text() for text in ax.texts] == ["2", "7"]


def test_digits_and_sizes_are_drawn_as_they_are():
    real, samples = torch.full((10,), 0.1), torch.linspace(0, 0.2, 10)
    ax = plots.digit_shares(real, {"GAN": samples}).axes[0]
    assert np.allclose([bar.get_height() for bar in ax.patches], 0.1) and np.allclose(ax.lines[0].get_ydata(), samples)
    ax = plots.fid_by_size([200, 1000], {"real crops": [600.0, 300.0], "GAN": [900.0, 800.0]}, asked=1000).axes[0]
    assert [list(line.get_ydata()) for line in ax.lines[:2]] == [[600, 300], [900, 800]] and ax.get_ylabel()


def test_curves_of_gan_and_vae_add_up():
    gan = {"step": [1, 2], "wasserstein": [2.0, 1.0], "gradient_norm": [0.9, 1.0], "penalty": [0.1, 0.0]}
    vae = {"step": [1, 2], "reconstruction": [-50.0, -30.0], "kl": [5.0, 8.0]}
    axes = plots.gan_and_vae_curves(gan, {"unit": vae, "calibrated": vae}).axes
    assert list(axes[3].lines[0].get_ydata()) == [-55.0, -38.0]
    assert all(ax.get_title(loc="left") and ax.get_xlabel() for ax in axes)


def test_traversals_name_coordinates_and_steps():
    images = torch.rand(2, 3, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    ax = plots.traversals({"GAN": (torch.tensor([7, 40]), images)}, torch.tensor([-3.0, 0.0, 3.0])).axes[0]
    assert [label.get_text() for label in ax.get_yticklabels()] == ["7", "40"]
    assert [label.get_text() for label in ax.get_xticklabels()] == ["−3", "0", "3"]
    assert len(plots.image_sheets({"a": images[0], "b": images[1]}, columns=2).axes) == 2


def test_where_codes_and_prior_lie_is_drawn_with_every_source_named():
    draw = torch.Generator().manual_seed(0)
    codes, prior = torch.randn(300, generator=draw) - 130, 40 * torch.randn(300, generator=draw) - 2000
    fig = plots.aggregate_posterior({"calibrated": torch.tensor([0.02, 20.0, 1.0])}, {"codes": codes, "prior": prior})
    left, right = fig.axes
    assert left.lines[0].get_ydata().tolist() == pytest.approx([20.0, 1.0, 0.02]), "sorted"
    assert left.lines[1].get_ydata()[0] == 1.0, "the prior's variance"
    assert [t.get_text() for t in right.get_legend().get_texts()] == ["codes", "prior"]
    for ax in fig.axes:
        assert ax.get_xlabel() and ax.get_ylabel() and ax.get_title(loc="left")
    marked = [p.get_xy() for p in right.patches]  # nats below the best, on a logarithmic axis
    assert 10 ** marked[1][marked[1][:, 1] > 0][:, 0].max() == pytest.approx(
        (codes.max() - prior.min()).item(), rel=0.2
    )
