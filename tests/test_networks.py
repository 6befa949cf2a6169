"""The networks of problem 3: shapes, ranges, what must not be in them, and an initialisation that keeps sizes."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from labutils import networks, training, vae

g = training.generator
ARCHITECTURES = ("conv", "mlp")


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


def test_initial_signals_keep_their_size():
    """He: the mean square of each layer's input to the next stays about 1 (ReLU halves, the weights double)."""
    model, z = networks_of("conv"), torch.randn(200, 100, generator=g(0))
    sizes, x = [], z
    for layer in model.layers[:-2]:
        if isinstance(layer, nn.ConvTranspose2d | nn.Linear):
            sizes.append(x.square().mean().item())
        x = layer(x)
    assert all(0.6 < size < 1.6 for size in sizes), sizes


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
    with pytest.raises(ValueError, match=r"architecture is 'resnet'; choose 'conv' or 'mlp'"):
        make(architecture="resnet")
