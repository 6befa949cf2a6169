"""Each rung of the ladder does the damage it is named after, and no other."""

from __future__ import annotations

import pytest
import torch
from scipy import ndimage

from labutils import data, distortions
from labutils.training import generator


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    """Smooth images of 40 to 200 grey levels, so that nothing is clamped."""
    x = torch.rand(6, 3, 8, 8, generator=generator(0, "test images"))
    x = torch.nn.functional.interpolate(x, size=(32, 32), mode="bicubic").clamp(0, 1)
    return (40 + 160 * x).to(torch.uint8)


@pytest.mark.parametrize("sd", [0.7, 1.0, 2.5])
def test_blur_is_scipys(images, sd):
    kept = images.clone()
    expected = ndimage.gaussian_filter(images.double().numpy(), (0, 0, sd, sd), mode="mirror", truncate=3.0)
    # Half a grey level of rounding, and the two cut the bell at slightly different pixels.
    assert (distortions.blur(images, sd).double() - torch.from_numpy(expected)).abs().max() < 1.0
    assert torch.equal(images, kept), "the original is left alone"
    with pytest.raises(ValueError, match=r"sd is 0\.0; expected a positive"):
        distortions.blur(images, 0.0)


def test_noise_has_its_size_and_its_seed(images):
    added = distortions.noise(images, 10.0).double() - images
    n = added.numel()
    assert abs(added.mean()) < 4 * 10 / n**0.5
    assert added.std().item() == pytest.approx(10.0, rel=4 / (2 * n) ** 0.5 + 0.005)
    assert torch.equal(distortions.noise(images), distortions.noise(images))
    assert not torch.equal(distortions.noise(images), distortions.noise(images, seed=1))
    assert distortions.noise(torch.full((1, 3, 32, 32), 255, dtype=torch.uint8)).min() > 100, "clamped, not wrapped"


def test_half_resolution_keeps_means_and_forgets_detail(images):
    board = (torch.arange(32)[:, None] + torch.arange(32)) % 2 * 200
    board = board.to(torch.uint8).expand(1, 3, 32, 32).contiguous()
    assert (distortions.half_resolution(board) == 100).all(), "a chessboard of single pixels is gone"
    flat = torch.full_like(board, 77)
    assert torch.equal(distortions.half_resolution(flat), flat)
    seen = distortions.half_resolution(images).float()
    assert (seen.mean((1, 2, 3)) - images.float().mean((1, 2, 3))).abs().max() < 1


def test_min_max_stretches_every_image_by_itself(images):
    seen = distortions.min_max(images)
    assert (seen.amin((1, 2, 3)) == 0).all() and (seen.amax((1, 2, 3)) == 255).all()
    low, high = images[2].min().item(), images[2].max().item()
    expected = (images[2].double() - low) / (high - low) * 255
    assert (seen[2].double() - expected).abs().max() <= 0.501
    assert torch.equal(distortions.min_max(seen), seen)
    assert (distortions.min_max(torch.full((1, 3, 32, 32), 9, dtype=torch.uint8)) == 0).all()


def test_a_digit_goes_missing(images):
    split = data.Split(images, torch.tensor([3, 1, 1, 0, 9, 3]))
    left = distortions.without_digit(split, 1)
    assert left.labels.tolist() == [3, 0, 9, 3]
    assert torch.equal(left.images, images[[0, 3, 4, 5]])
    with pytest.raises(ValueError, match=r"no image shows 7; its labels are \[0, 1, 3, 9\]"):
        distortions.without_digit(split, 7)
