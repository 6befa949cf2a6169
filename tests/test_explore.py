"""The page of sliders: its pictures and numbers are the package's, at the place that the controls say."""

from __future__ import annotations

import base64
import io
import json
import re

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from labutils import latent, training
from labutils.commands import cli, explore


def tile(frame, row, column):
    """The picture that a frame shows, and its size in pixels: (h, w) or (h, w, 3) bytes."""
    whole = np.asarray(Image.open(io.BytesIO(base64.b64decode(frame.sheet.partition(",")[2]))))
    h, w = whole.shape[0] // len(frame.captions), whole.shape[1] // len(frame.captions[0])
    return whole[row * h : (row + 1) * h, column * w : (column + 1) * w].astype(int)


def as_bytes(image):
    return (255 * (image + 1) / 2).clamp(0, 255).round().permute(1, 2, 0).numpy()


@pytest.fixture(scope="module")
def between():
    return explore.between()


def test_a_tile_of_a_sheet_is_the_image_of_its_row_and_column():
    images = torch.rand(2, 3, 3, 4, 4, generator=training.generator(0, "tiles"))
    frame = explore.Frame("x", explore.sheet(images), [[""] * 3] * 2)
    for row, column in ((0, 0), (1, 2), (0, 1)):
        assert np.abs(tile(frame, row, column) - (255 * images[row, column]).permute(1, 2, 0).numpy()).max() <= 0.51


def test_a_coordinate_is_moved_as_the_labels_say():
    view = explore.house_numbers()
    assert [frame.name for frame in view.frames] == list(explore.MODELS)
    codes = torch.randn(explore.STARTS, 100, generator=training.generator(explore.SEED, "explore", "starts"))
    frame, decode = view.frames[0], latent.reference_generator("gan")
    for draw, rank, column in ((0, 0, 0), (2, 3, 12), (1, 7, 6)):
        row = draw * explore.COORDINATES + rank  # the last menu moves fastest
        coordinate = int(re.match(r"coordinate (\d+):", frame.captions[row][column])[1])
        z = codes[draw].clone()
        z[coordinate] += float(view.columns[column].split()[0])
        with torch.no_grad():
            assert np.abs(tile(frame, row, column) - as_bytes(decode(z[None])[0])).max() <= 1
    effects = [float(re.search(r": ([\d.]+) RMS", line[0])[1]) for line in frame.captions[: explore.COORDINATES]]
    assert effects == sorted(effects, reverse=True) and effects[-1] > 0


def test_the_digits_are_those_of_the_menu_and_the_middle_is_not_moved():
    view = explore.handwriting()
    (frame,) = view.frames
    middle = view.columns.index("+0.0 sd of the prior")
    for digit in range(10):
        rows = [tile(frame, digit * explore.COORDINATES + k, middle) for k in range(explore.COORDINATES)]
        assert all((row == rows[0]).all() for row in rows)
    assert np.abs(tile(frame, 0, 0) - tile(frame, 0, middle)).max() > 50
    assert np.abs(tile(frame, 0, middle) - tile(frame, explore.COORDINATES, middle)).max() > 50


def test_the_three_ways_have_their_ends_in_common(between):
    straight, spherical, pixels = between.frames
    for row in range(len(explore.MODELS) * explore.PAIRS):
        for end in (0, -1):
            column = end % len(between.columns)
            assert np.abs(tile(straight, row, column) - tile(pixels, row, column)).max() <= 1
            assert np.abs(tile(straight, row, column) - tile(spherical, row, column)).max() <= 2
    middle = between.columns.index("0.50")
    both = (tile(pixels, 0, 0) + tile(pixels, 0, len(between.columns) - 1)) / 2
    assert np.abs(tile(pixels, 0, middle) - both).max() <= 1.5


def test_the_straight_path_is_short_in_the_middle_and_the_last_column_is_the_start(between):
    straight, spherical, _ = between.frames
    lengths = [[float(c.split()[1]) for c in frame.captions[0]] for frame in (straight, spherical)]
    start = torch.randn(explore.PAIRS, 100, generator=training.generator(explore.SEED, "explore", "start"))
    assert lengths[0][-1] == pytest.approx(float(start[0].norm()), abs=0.051)
    middle = between.columns.index("0.50")
    assert lengths[0][middle] < 0.85 * lengths[1][middle]


def test_the_page_is_one_small_file_that_asks_for_nothing(tmp_path):
    done = CliRunner().invoke(cli.main, ["teach", "explore", "--out", str(tmp_path)])
    assert done.exit_code == 0, done.output
    (path,) = tmp_path.iterdir()
    text = path.read_text(encoding="utf-8")
    assert path.stat().st_size < 12e6
    outside = re.sub(r"url\(data:image/png;base64,[^)]*\)", "", text)
    assert not re.search(r"(src|href)=\"(?!data:,)|url\(", outside)
    views = [json.loads(v) for v in re.findall(r'<script type="application/json">(.*?)</script>', text)]
    assert len(views) == 3
    for view in views:
        assert {len(frame) for frame in view["captions"]} == {len(view["captions"][0])}
        assert {len(row) for frame in view["captions"] for row in frame} == {len(view["columns"])}


def test_a_page_of_someone_else_is_left_alone(tmp_path):
    (tmp_path / "explore.html").write_text("mine")
    done = CliRunner().invoke(cli.main, ["teach", "explore", "--out", str(tmp_path)])
    assert done.exit_code == 2 and "was not written by" in done.output
    assert (tmp_path / "explore.html").read_text() == "mine"
