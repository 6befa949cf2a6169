"""The networks of problem 3: shapes, ranges, what must not be in them, and an initialisation that keeps sizes."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from labutils import networks, training, vae

g = training.generator
ARCHITECTURES = ("conv", "narrow", "mlp")


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_one_generator_serves_gan_and_vae(architecture):
    model = vae.initialise(networks.Generator, 0, architecture=architecture)
    images = model(torch.randn(5, 100, generator=g(0)))
    assert images.shape == (5, 3, 32, 32) and images.abs().max() <= 1
    whole = vae.initialise(networks.ImageVAE, 1, architecture=architecture)
    assert type(whole.decoder) is networks.Generator
    whole.decoder.load_state_dict(model.state_dict())
    z = torch.randn(3, 100, generator=g(1))
    assert torch.allclose(whole.decode(z), model(z), atol=1e-6)


def test_the_mlp_is_the_reports():
    layers = [m for m in networks_of("mlp").layers if isinstance(m, nn.Linear)]
    assert [layers[0].in_features, *(m.out_features for m in layers)] == [100, 128, 256, 512, 1024, 2048, 3072]


def networks_of(architecture: str) -> networks.Generator:
    return vae.initialise(networks.Generator, 0, architecture=architecture)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_an_image_does_not_depend_on_its_batch(architecture):
    """Neither in training mode: the penalty is on one image's gradient, and an average has no statistics."""
    model = networks_of(architecture).train()
    critic = vae.initialise(networks.Critic, 0, architecture=architecture).train()
    z = torch.randn(6, 100, generator=g(0))
    images = model(z)
    assert torch.allclose(model(z[2:3]), images[2:3], atol=1e-5)
    assert torch.allclose(critic(images[2:3]), critic(images)[2:3], atol=1e-5)
    assert not list(model.buffers()) and not list(critic.buffers())


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_encoders_standard_deviation_is_positive(architecture):
    model = vae.initialise(networks.ImageVAE, 0, latent=7, architecture=architecture)
    mean, logvar = model.encode(100 * torch.randn(4, 3, 32, 32, generator=g(0)))
    assert mean.shape == logvar.shape == (4, 7)
    assert (torch.exp(0.5 * logvar.double()) > 0).all()


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_initial_signals_keep_their_size(architecture):
    """He: a layer's output of white noise has twice its input's mean square, of which a ReLU takes half."""
    for make in (networks.Generator, networks.Critic):
        net = vae.initialise(make, 0, architecture=architecture)
        layers = [m for m in net.layers if isinstance(m, nn.Linear | nn.Conv2d | nn.ConvTranspose2d)]
        for k, layer in enumerate(layers):
            transposed = isinstance(layer, nn.ConvTranspose2d)
            shape = (6, 6) if not isinstance(layer, nn.Linear) else ()
            width = layer.in_features if isinstance(layer, nn.Linear) else layer.in_channels
            noise = torch.randn(3000, width, *shape, generator=g(k))
            y = layer(noise)
            y = y[..., 2:-2, 2:-2] if transposed else y[..., 1:-1, 1:-1] if shape else y
            last = make is networks.Generator and layer is layers[-1]
            expected = 2 * 0.15**2 if last else 2  # the last one's is small, or the first images are black and white
            # Over few pairs of maps, each one number times a fixed kernel, the mean square itself is random.
            pairs = width * y.shape[1]
            assert y.square().mean().item() == pytest.approx(expected, rel=5 * (2 / pairs) ** 0.5 + 0.02), layer


@pytest.mark.parametrize("architecture", ["conv", "narrow"])
def test_untrained_images_are_smooth_and_neither_grey_nor_black_and_white(architecture):
    """The mean squared step to the neighbour over twice the variance is 1 for white noise, 0 for a flat image."""
    for seed in range(3):
        model = vae.initialise(networks.Generator, seed, architecture=architecture)
        images = model(torch.randn(100, 100, generator=g(seed)))
        centred = images - images.mean(dim=(0, 2, 3), keepdim=True)
        for step in (images.diff(dim=2), images.diff(dim=3)):
            assert step.square().mean() < 0.1 * 2 * centred.square().mean()
        assert 0.03 < images.square().mean() < 0.7


def test_a_transposed_convolution_starts_as_a_mixture_of_upsampled_maps():
    """Beside PyTorch's own bilinear upsampling, away from the edges, where the padding differs."""
    layer = vae.initialise(networks.Generator, 0, architecture="narrow").layers[3]
    x = torch.randn(2, 128, 6, 6, generator=g(0))
    mixed = torch.einsum(
        "ncij,co->noij", x, layer.weight[:, :, 0, 0] * 16
    )  # the corner tap of the bilinear kernel is 1/16
    upsampled = nn.functional.interpolate(mixed, scale_factor=2, mode="bilinear", align_corners=False)
    assert torch.allclose(layer(x)[..., 2:-2, 2:-2], upsampled[..., 2:-2, 2:-2], atol=1e-4)


def test_narrow_is_conv_with_half_the_maps():
    """A quarter of the weights between maps, so of the work; half of those to and from an image or a code."""
    for make in (networks.Generator, networks.Critic):
        wide, narrow = (vae.initialise(make, 0, architecture=a).layers for a in ("conv", "narrow"))
        assert [type(m) for m in wide] == [type(m) for m in narrow]
        counts = [
            (p.weight.numel() / q.weight.numel()) for p, q in zip(wide, narrow, strict=True) if hasattr(p, "weight")
        ]
        assert counts == [2, 4, 4, 2]


def test_the_masked_leaky_relu_is_pytorchs_also_when_differentiated_twice():
    x = torch.randn(50, generator=g(0), dtype=torch.float64).requires_grad_()
    assert torch.equal(networks.LeakyReLU()(x), nn.functional.leaky_relu(x, 0.2))
    w = torch.randn(50, generator=g(1), dtype=torch.float64).requires_grad_()
    norms = []
    for activation in (networks.LeakyReLU(), nn.LeakyReLU(0.2)):
        (gradient,) = torch.autograd.grad((activation(activation(x * w) * w)).sum(), x, create_graph=True)
        norms.append(torch.autograd.grad(gradient.norm(), w)[0])
    assert torch.allclose(*norms, rtol=1e-12)


@pytest.mark.parametrize("make", [networks.Generator, networks.Critic, networks.ImageVAE])
def test_an_unknown_architecture_is_named(make):
    with pytest.raises(ValueError, match=r"architecture is 'resnet'; choose one of 'conv', 'narrow', 'mlp'"):
        make(architecture="resnet")
