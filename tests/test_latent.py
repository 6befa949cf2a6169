"""Walks in latent space against what is known of them."""

from __future__ import annotations

import math

import pytest
import torch

from labutils import latent, networks, vae
from labutils.data import from_bytes
from labutils.training import generator

ALPHAS = torch.linspace(0, 1, 11)


@pytest.fixture
def codes():
    return torch.randn(2, 5, 100, generator=generator(0, "test"))


@pytest.mark.parametrize("walk", [latent.straight, latent.spherical])
def test_a_walk_begins_at_the_second_code_and_ends_at_the_first(walk, codes):
    start, end = codes
    path = walk(start, end, ALPHAS)
    assert path.shape == (5, 11, 100)
    torch.testing.assert_close(path[:, 0], end)
    torch.testing.assert_close(path[:, -1], start)
    torch.testing.assert_close(walk(start, end, ALPHAS.flip(0)), path.flip(1))


def test_the_straight_walk_is_the_assignments_formula(codes):
    start, end = codes
    torch.testing.assert_close(latent.straight(start, end, ALPHAS)[:, 3], 0.3 * start + 0.7 * end)


def test_a_spherical_walk_on_a_circle_turns_evenly_and_keeps_its_length():
    angle = torch.tensor(2.0)
    start, end = torch.stack([angle.cos(), angle.sin()])[None], torch.tensor([[1.0, 0.0]])
    path = latent.spherical(3 * start, 3 * end, ALPHAS)[0]
    torch.testing.assert_close(path.norm(dim=1), torch.full((11,), 3.0))
    torch.testing.assert_close(torch.atan2(path[:, 1], path[:, 0]), 2 * ALPHAS)


def test_the_straight_walk_leaves_the_shell_of_the_prior_and_the_spherical_one_does_not(codes):
    start, end = codes
    middle = torch.tensor([0.5])
    for z in (start, end):
        assert (z.norm(dim=1) / 10 - 1).abs().max() < 0.25
    assert (latent.straight(start, end, middle).norm(dim=2) / 10 - 0.5**0.5).abs().max() < 0.15
    assert (latent.spherical(start, end, middle).norm(dim=2) / 10 - 1).abs().max() < 0.2


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("degrees", [0.01, 1, 60, 90, 120, 175, 179.8])
def test_a_spherical_walk_turns_and_lengthens_evenly_whatever_the_angle(degrees, dtype):
    """Lengths of 2 and 1: between them all the way, where weights on the codes themselves reach 11.5 at 175°."""
    omega = math.radians(degrees)
    start = torch.tensor([[2 * math.cos(omega), 2 * math.sin(omega), 0]], dtype=dtype)
    end = torch.tensor([[1.0, 0, 0]], dtype=dtype)
    path = latent.spherical(start, end, ALPHAS)
    assert path.dtype == dtype
    torch.testing.assert_close(path[0].norm(dim=1), 1 + ALPHAS.to(dtype), rtol=1e-5, atol=1e-5)
    turned = torch.atan2(path[0, :, 1], path[0, :, 0])
    torch.testing.assert_close(turned, ALPHAS.to(dtype) * omega, rtol=1e-3, atol=1e-6)
    assert (path[0, :, 2] == 0).all()
    assert latent.spherical(start, end, ALPHAS.double()).dtype == dtype


def test_nearly_equal_codes_and_impossible_ones(codes):
    z = codes[0]
    torch.testing.assert_close(latent.spherical(z, z, ALPHAS), z[:, None].expand(5, 11, 100))
    torch.testing.assert_close(latent.spherical(z, z * (1 + 1e-6), ALPHAS), latent.straight(z, z, ALPHAS))
    torch.testing.assert_close(latent.spherical(z, 3 * z, ALPHAS), latent.straight(z, 3 * z, ALPHAS))
    with pytest.raises(ValueError, match="length 0"):
        latent.spherical(z, 0 * z, ALPHAS)
    with pytest.raises(ValueError, match="opposite"):
        latent.spherical(z, -2 * z, ALPHAS)


WEIGHTS = torch.arange(1, 101.0)


def linear(z):
    """An image of one pixel: Σ_j j·z_j."""
    return (z @ WEIGHTS)[:, None, None, None]


def test_the_effect_of_a_linear_decoder_is_its_weight(codes):
    torch.testing.assert_close(latent.effects(linear, codes[0], 0.5), WEIGHTS.double(), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(latent.effects(linear, codes[0], 1.5), 3 * WEIGHTS.double(), rtol=1e-4, atol=1e-4)


def test_a_traversal_moves_one_coordinate_by_the_steps(codes):
    z, steps = codes[0, 0], torch.linspace(-3, 3, 7)
    images = latent.traverse(linear, z, torch.tensor([41, 7]), steps)
    assert images.shape == (2, 7, 1, 1, 1)
    base = (z @ WEIGHTS).item()
    torch.testing.assert_close(images[0].flatten(), base + 42 * steps, rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(images[1].flatten(), base + 8 * steps, rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(z, codes[0, 0])


def test_sharpness_of_a_ramp_is_its_slope():
    ramp = 0.25 * torch.arange(8.0).expand(3, 8, 8)
    both = ramp + ramp.mT
    found = latent.sharpness(torch.stack([ramp, both, torch.ones(3, 8, 8)]))
    torch.testing.assert_close(found, torch.tensor([0.25, 0.25 * math.sqrt(2), 0.0]))


def test_a_cross_fade_is_less_sharp_than_its_ends():
    x = torch.rand(2, 3, 32, 32, generator=generator(0, "test"))
    assert latent.sharpness(x.mean(dim=0)) < 0.9 * latent.sharpness(x).min()


def test_nearest_neighbours_against_a_loop():
    g = generator(1, "test")
    a, b = torch.rand(7, 3, 4, 4, generator=g), torch.rand(9, 3, 4, 4, generator=g)
    table = torch.tensor([[(x - y).square().mean().sqrt() for y in b] for x in a])
    for chunk in (2, 500):
        found = latent.nearest(a, b, chunk)
        torch.testing.assert_close(found.distance, table.min(dim=1).values)
        assert found.index.tolist() == table.argmin(dim=1).tolist()


def test_duplicates_within_a_set_are_found_and_an_image_is_not_its_own_neighbour():
    x = torch.rand(6, 3, 4, 4, generator=generator(2, "test"))
    x[4] = x[1]
    for chunk in (4, 500):
        found = latent.nearest(x, chunk=chunk)
        assert found.index[1] == 4 and found.index[4] == 1
        assert (found.distance < 1e-3).nonzero().flatten().tolist() == [1, 4]
    with pytest.raises(ValueError, match="among 1 images"):
        latent.nearest(x[:1])


def test_entropy_of_a_histogram():
    assert latent.entropy(torch.arange(10).repeat(3)) == pytest.approx(math.log(10))
    assert latent.entropy(torch.zeros(5, dtype=torch.long)) == 0
    assert latent.entropy(torch.tensor([0, 0, 0, 9])) == pytest.approx(-0.75 * math.log(0.75) - 0.25 * math.log(0.25))


def test_samples_depend_on_the_seed_and_not_on_the_batch():
    model = vae.initialise(networks.Generator, 0).eval()
    images = latent.sample(model, 7, seed=3)
    assert images.shape == (7, 3, 32, 32) and images.dtype == torch.uint8
    in_twos = latent.sample(model, 7, seed=3, batch_size=2).int()
    assert (in_twos - images.int()).abs().max() <= 1
    assert not torch.equal(latent.sample(model, 7, seed=4), images)
    z = torch.randn(7, 100, generator=generator(3, "samples"))
    with torch.no_grad():
        assert (from_bytes(images) - model(z)).abs().max() <= 1 / 255 + 1e-6
    exact = latent.sample(model.double(), 7, seed=3).int()
    assert (exact - images.int()).abs().max() <= 1
    with pytest.raises(ValueError, match="n is 0"):
        latent.sample(model, 0)


def test_an_unknown_generator_is_refused():
    with pytest.raises(ValueError, match="no generator 'dcgan'; choose gan, vae or vae_unit"):
        latent.reference_generator("dcgan")
