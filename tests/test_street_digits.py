"""The rendered house numbers: repeatable, balanced, labelled right, readable, varied; and like the real ones."""

from __future__ import annotations

import time

import numpy as np
import pytest
import torch
from conftest import ROOT

from labutils import data, street_digits
from labutils.street_digits import BLOCK, Draws, glyphs, look_up, paint, render, signed_distance, smear

SVHN = ROOT.parent / "shared" / "data" / "svhn"
LUMINANCE = torch.tensor([0.299, 0.587, 0.114])


@pytest.fixture(scope="module")
def crops():
    return render(3000, 7)


def luminance(images):
    return torch.einsum("c,nchw->nhw", LUMINANCE, images.float())


# --- repeatable -------------------------------------------------------------------------------------------


def test_an_image_depends_on_seed_and_index_alone(crops):
    images, labels = crops
    for n in (1, BLOCK, BLOCK + 3):
        few, their = render(n, 7)
        assert few.shape == (n, 3, 32, 32) and few.dtype == torch.uint8 and their.dtype == torch.int64
        assert torch.equal(few, images[:n]) and torch.equal(their, labels[:n])


@pytest.mark.parametrize("threads", [2, 3])
def test_the_number_of_threads_changes_no_bit(threads, crops):
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = render(2 * BLOCK, 7)[0]
        torch.set_num_threads(threads)
        assert torch.equal(render(2 * BLOCK, 7)[0], one)
    finally:
        torch.set_num_threads(before)


def test_seeds_give_other_images():
    a, b = render(BLOCK, 0), render(BLOCK, 1)
    assert not torch.equal(a[1], b[1])
    assert (a[0].flatten(1).float() - b[0].flatten(1).float()).abs().mean(dim=1).min() > 5


@pytest.mark.parametrize("n", [0, -3])
def test_a_bad_number_of_images_is_named(n):
    with pytest.raises(ValueError, match=f"n is {n}; expected at least one image"):
        render(n, 0)
    with pytest.raises(ValueError, match=f"n is {n}"):
        data.street_digits(10, n, 10)


# --- glyphs -----------------------------------------------------------------------------------------------


def test_signed_distance_of_a_square_with_a_hole():
    def square(half):
        return half * torch.tensor([[-1.0, -1], [1, -1], [1, 1], [-1, 1], [-1, -1]])

    x = torch.tensor([0.0, 1.5, 3.0, 3.0, 1.75, -1.5])
    y = torch.tensor([0.0, 0.0, 0.0, 3.0, 0.3, 1.25])
    found = signed_distance(x, y, [square(2.0), square(1.0)])
    assert torch.allclose(found, torch.tensor([1.0, -0.5, 1.0, 2**0.5, -0.25, -0.5]), atol=1e-6)


def test_every_face_has_ten_digits_of_one_height_that_differ():
    fields, widths = glyphs()
    assert fields.shape[:2] == widths.shape == (len(street_digits.FACES), 10)
    inside = (fields < 0).double()
    rows = inside.amax(dim=3).sum(dim=2) * 2 * street_digits.HALF / street_digits.CELLS
    assert ((rows > 0.9) & (rows < 1.1)).all()
    across = inside.amax(dim=2).sum(dim=2) * 2 * street_digits.HALF / street_digits.CELLS
    assert (across - 2 * widths).abs().max() < 2 * 2 * street_digits.HALF / street_digits.CELLS
    # The same digit of two faces overlaps better than two digits of one face, on average over pairs.
    flat = (fields < 0.02).double().flatten(2)
    overlap = torch.einsum("fap,gbp->fgab", flat, flat)
    overlap = overlap / (flat.sum(2)[:, None, :, None] + flat.sum(2)[None, :, None, :] - overlap)
    same, mean = torch.eye(10, dtype=torch.bool), overlap.mean(dim=(0, 1))
    assert (mean[same] > mean.masked_fill(same, 0).amax(dim=1)).all()


def test_look_up_reads_the_field_where_it_is_asked():
    fields, widths = glyphs()
    axis = torch.linspace(-0.7, 0.7, 9)
    u, v = axis.expand(1, 9, 9), axis[:, None].expand(1, 9, 9)
    # The zero of a sans-serif face: inside its bowl is background, on its left and right wall is stroke.
    found = look_up(fields[:1, 0], u, v)[0]
    assert found[4, 4] > 0 and found[0, 0] > 0
    wall = look_up(fields[:1, 0], torch.tensor([[[-1.0, 1.0]]]) * (widths[0, 0] - 0.03), torch.zeros(1, 1, 2))
    assert (wall < 0).all()


def test_smear_keeps_constants_and_shifts():
    matrix = smear(torch.full((1, 1, 1), 0.3), torch.full((1, 1, 1), 2.0))[0]
    assert torch.allclose(matrix.sum(dim=1), torch.ones(32))
    assert torch.allclose(matrix @ torch.eye(32)[10], torch.eye(32)[12], atol=0.02)


# --- labels and looks -------------------------------------------------------------------------------------


def test_digits_are_about_equally_frequent(crops):
    found = crops[1].bincount(minlength=10).double()
    assert ((found - 300).square() / 300).sum() < 27.9  # χ² with 9 degrees of freedom, 0.1 %


def test_images_and_labels_belong_together(crops):
    """The nearest of ten subspaces (three principal patterns of each digit) reads far more than one in ten."""
    images, labels = crops
    grey = luminance(images)[:, 4:-4, 8:-8].flatten(1)
    # Ink may be dark or light: a subspace through the origin does not mind the sign.
    grey = torch.nn.functional.normalize(grey - grey.mean(dim=1, keepdim=True))
    train, test = grey[:2000], grey[2000:]
    score = []
    for d in range(10):
        own = train[labels[:2000] == d]
        score.append((test @ torch.linalg.eigh(own.T @ own)[1][:, -3:]).square().sum(dim=1))
    assert (torch.stack(score).argmax(dim=0) == labels[2000:]).double().mean() > 0.55


def test_every_digit_stands_out_from_its_ground(monkeypatch):
    """Luminance on the strokes against that beside them, and its range over both, in the finished image."""
    seen = []
    number = street_digits.number
    monkeypatch.setattr(street_digits, "number", lambda *a: seen.append(number(*a)) or seen[-1])
    contrasts, spans = [], []
    for block in range(8):
        grey = torch.einsum("c,nchw->nhw", LUMINANCE, paint(Draws(5, block))[0].clamp(0, 255))
        strokes = seen[-1][1]
        ink, ground = (strokes < 0).float(), ((strokes > 0.1) & (strokes < 0.25)).float()
        on, beside = ((grey * part).sum(dim=(1, 2)) / part.sum(dim=(1, 2)) for part in (ink, ground))
        contrasts.append(on - beside)
        smooth, near = torch.nn.functional.avg_pool2d(grey, 2), torch.nn.functional.avg_pool2d(strokes, 2) < 0.25
        spans += [x[m].quantile(0.95) - x[m].quantile(0.05) for x, m in zip(smooth, near, strict=True)]
    contrasts = torch.cat(contrasts)
    assert min(spans) > 15, "every image"
    # A rim lighter than both can level the two means, but only now and then.
    assert contrasts.abs().quantile(0.01) > 8
    assert contrasts.abs().median() > 40
    assert 0.4 < (contrasts < 0).double().mean() < 0.6, "dark on light and light on dark"


def test_the_whole_range_of_grey_is_used_and_seldom_exceeded(crops):
    values = crops[0].flatten()
    assert values.min() == 0 and values.max() == 255
    assert ((values == 0) | (values == 255)).double().mean() < 0.04


def test_no_image_is_nearly_another(crops):
    """Neither byte by byte nor, brightness and contrast apart, by its pattern."""
    flat = crops[0][:1000].flatten(1).double()
    distance = torch.cdist(flat, flat).fill_diagonal_(torch.inf) / flat.shape[1] ** 0.5
    assert distance.min() > 8  # grey levels, root mean square
    correlation = torch.corrcoef(flat).fill_diagonal_(0)
    assert correlation.max() < 0.97


# --- the data set -----------------------------------------------------------------------------------------


def test_the_data_set_has_disjoint_splits_and_a_hash():
    small = data.street_digits(60, 30, 20)
    assert [len(s) for s in (small.train, small.valid, small.test)] == [60, 30, 20]
    assert small.sha256 == data.street_digits(60, 30, 20).sha256 != data.street_digits(60, 30, 21).sha256
    assert not torch.equal(small.train.images[:20], small.valid.images[:20])
    assert not torch.equal(small.valid.images[:20], small.test.images[:20])
    assert torch.equal(small.train.images, data.street_digits(70, 1, 1).train.images[:60])
    assert str(small).startswith("street-digits: 60 / 30 / 20 images")


@pytest.mark.slow
def test_load_renders_all_of_it_within_seconds():
    started = time.process_time()
    found = data.load("street-digits")
    assert time.process_time() - started < 40  # about 7 s on one core
    assert [len(s) for s in (found.train, found.valid, found.test)] == [20_000, 2_000, 2_000]


# --- beside the real thing --------------------------------------------------------------------------------


def summary(images):
    """Medians over images: mean luminance, its spread within the image, spread of Cb, share of fine detail."""
    x = images.astype(np.float64)
    y = 0.299 * x[:, 0] + 0.587 * x[:, 1] + 0.114 * x[:, 2]
    cb = 0.564 * (x[:, 2] - y)
    centred = y - y.mean(axis=(1, 2), keepdims=True)
    spectrum = np.abs(np.fft.fft2(centred * np.hanning(32)[:, None] * np.hanning(32))) ** 2
    f = np.abs(np.fft.fftfreq(32) * 32)
    fine = np.maximum(f[:, None], f) > 5
    values = (
        y.mean(axis=(1, 2)),
        y.std(axis=(1, 2)),
        cb.std(axis=(1, 2)),
        spectrum[:, fine].sum(1) / spectrum.sum((1, 2)),
    )
    return np.array([np.median(v) for v in values])


def test_statistics_are_those_of_real_crops(crops):
    file = SVHN / "train_32x32.mat"
    if not file.exists():
        pytest.skip(f"{file} is not there")
    from scipy.io import loadmat

    real = summary(loadmat(file)["X"].transpose(3, 2, 0, 1))
    ratio = summary(crops[0].numpy()) / real
    assert ((ratio > 0.75) & (ratio < 1.33)).all(), ratio
