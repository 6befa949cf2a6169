"""Trainings, evaluations and scores on a device that is not the CPU, without a card (see elsewhere.py).

Every cell of the notebooks that takes a device runs there, and the package's loops come to the result they have here.
What this cannot show: bfloat16, compiled and fused code, memory and speed of a GPU, and an operation that one lacks.
"""

from __future__ import annotations

import contextlib
import io
from functools import partial
from unittest.mock import patch

import nbformat
import pytest
import torch
from elsewhere import DEVICE, elsewhere
from torch import nn

from labutils import data, features, gan, latent, networks, parameters, priors, training, vae

BYTES = torch.randint(0, 256, (40, 3, 32, 32), generator=training.generator(0, "images"), dtype=torch.uint8)
BITS = torch.randint(0, 2, (40, 1, 28, 28), generator=training.generator(0, "bits"), dtype=torch.uint8)

# --- the device itself ------------------------------------------------------------------------------------


def conv_left_behind():
    nn.Conv2d(3, 2, 3)(torch.zeros(1, 3, 8, 8, device=DEVICE))


def linear_left_behind():
    nn.Linear(3, 2)(torch.zeros(1, 3, device=DEVICE))


def sum_of_both():
    torch.zeros(3, device=DEVICE) + torch.ones(3)


def in_place():
    torch.zeros(3, device=DEVICE).lerp_(torch.ones(3), 0.5)


def joined():
    torch.cat([torch.zeros(3, device=DEVICE), torch.ones(3)])


def generator_of_here():
    torch.randn(3, generator=training.generator(0, "here"), device=DEVICE)


def generator_of_there():
    torch.randn(3, generator=training.generator(0, "there", device=DEVICE))


def loss_of_both():
    w = torch.zeros(3, device=DEVICE, requires_grad=True)
    (w * torch.ones(3)).sum().backward()


@pytest.mark.parametrize(
    "wrong",
    [conv_left_behind, linear_left_behind, sum_of_both, in_place, joined, generator_of_here, generator_of_there,
     loss_of_both],
)  # fmt: skip
def test_tensors_of_two_places_are_refused(wrong):
    with elsewhere(), training.forked_rng(0), pytest.raises(RuntimeError, match="device"):
        wrong()


def test_numpy_cannot_look_there():
    with elsewhere():
        x = torch.arange(3, device=DEVICE)
        with pytest.raises(TypeError, match="cpu"):
            x.numpy()
        assert x.cpu().numpy().tolist() == [0, 1, 2]


def test_what_a_gpu_allows_is_allowed():
    with elsewhere():
        x = torch.arange(12.0, device=DEVICE).view(3, 4).requires_grad_()
        y = (x * torch.tensor(2.0))[torch.tensor([0, 2])]
        y.sum().backward()
        assert (y.device, x.grad.device) == (DEVICE, DEVICE) and type(x.grad.cpu()) is torch.Tensor
        assert x.grad.cpu().tolist() == [[2.0] * 4, [0.0] * 4, [2.0] * 4]
        assert f"{y.sum():.1f}" == "88.0" and y.argmax().item() == 7


# --- the package's loops ----------------------------------------------------------------------------------


def narrow(make, device, **more):
    return vae.initialise(make, 0, architecture="narrow", **more).to(device)


def weights(*models):
    return torch.cat([p.detach().cpu().flatten() for model in models for p in model.parameters()])


def of_critic(critic, real, fake, epsilon, weight=10.0):
    """A reader's own loss: a number."""
    return gan.critic_loss(critic, real, fake, epsilon.flatten(), weight).loss


def train_gan(device, losses=None):
    model, critic = narrow(networks.Generator, device), narrow(networks.Critic, device)
    recipe = gan.Recipe(batch_size=8, decay=0.9, shift=2)
    trained = gan.train(model, critic, BYTES, recipe, steps=4, losses=losses)
    return weights(model, critic, trained.average)


def train_image_vae(device):
    model = narrow(networks.ImageVAE, device)
    recipe = vae.Recipe(batch_size=8, decay=0.9, schedule="one-cycle")
    vae.train(
        model, BYTES, recipe, epochs=1, watch={"valid": BYTES[:8]}, likelihood=vae.calibrated_log_likelihood,
        prepare=data.from_bytes,
    )  # fmt: skip
    return weights(model)


def train_mnist_vae(device):
    model = vae.initialise(networks.MnistVAE, 0).to(device)
    recipe = vae.Recipe(batch_size=8, path_gradient=True, shifted=1.0)
    vae.train(model, BITS, recipe, epochs=1, watch={"valid": BITS[:8]})
    return weights(model)


def evaluate_vae(device):
    model = vae.initialise(networks.MnistVAE, 0).to(device)
    bound = vae.evaluate_elbo(model, BITS)
    few = vae.evaluate_log_likelihood(model, BITS[:6], 30)
    curve = vae.likelihood_curve(model, BITS[:6], [1, 10])
    fitted = vae.fitted_variance(narrow(networks.ImageVAE, device), data.from_bytes(BYTES))
    return torch.tensor([bound.elbo.value, few.per_image.mean(), *(c.per_image.mean() for c in curve), fitted])


def codes_and_prior(device):
    model, x = narrow(networks.ImageVAE, device, latent=4), data.from_bytes(BYTES)
    mixture = priors.fit_mixture(priors.aggregate_codes(model, x), 2)
    priors.whiten(model, x)
    z = mixture.sample(6, 0).to(device)
    return torch.cat([weights(model), latent.images(model.decode, z).flatten().float()])


def walks(device):
    model = narrow(networks.Generator, device)
    z = torch.randn(6, 100, generator=training.generator(0, "z")).to(device)
    alphas, steps = torch.linspace(0, 1, 3), torch.tensor([-1.0, 1.0])
    found = [
        latent.sample(model, 5), latent.effects(model, z[:2]), latent.traverse(model, z[0], torch.arange(2), steps),
        model(latent.spherical(z[:3], z[3:], alphas)[0]), model(latent.straight(z[:3], z[3:], alphas)[0]),
    ]  # fmt: skip
    return torch.cat([x.detach().cpu().float().flatten() for x in found])


def read_features(device):
    network = features.load().to(device)
    split = data.Split(BYTES, torch.zeros(len(BYTES), dtype=torch.int64))
    return torch.cat(
        [features.extract(network, BYTES).flatten(), torch.tensor([features.accuracy(network, split).value])]
    )


LOOPS = {
    f.__name__: f
    for f in (train_gan, train_image_vae, train_mnist_vae, evaluate_vae, codes_and_prior, walks, read_features)
} | {"a reader's losses": lambda device: train_gan(device, (of_critic, gan.generator_loss))}


@pytest.mark.parametrize("name", LOOPS)
def test_the_result_is_that_of_the_cpu(name):
    here = LOOPS[name]("cpu")
    with elsewhere():
        there = LOOPS[name](DEVICE)
    assert type(there) is torch.Tensor
    # Fused and plain steps round differently; Adam's first steps make more of it.
    assert (there - here).abs().max() <= 2e-4 * here.abs().max()


def noise_of_here(mean, logvar, noise):
    return mean + torch.exp(logvar / 2) * noise.cpu()


def draw_of_here(seed, *path, device="cpu", made=training.generator):
    return made(seed, *path)


def average_left_behind(average, model, decay, step, update=training.update_average):
    update(average.cpu(), model, decay, step)


def constant_of_here(mean, logvar):
    return (0.5 * (mean.square() + logvar.exp() - logvar - 1) * torch.ones(mean.shape[-1:])).sum(dim=-1)


def epsilon_of_here(real, fake, epsilon):
    return torch.lerp(fake, real, torch.rand(len(epsilon), 1, 1, 1))


def features_of_here(network, images, batch_size=500):
    return torch.cat([network.features(data.from_bytes(x)) for x in images.split(batch_size)])


MISPLACED = {
    "the reparametrisation's noise": ("vae.reparametrise", noise_of_here, "train_image_vae"),
    "the same in an evaluation": ("vae.reparametrise", noise_of_here, "evaluate_vae"),
    "the generator of the codes, GAN": ("gan.generator", draw_of_here, "train_gan"),
    "the generator of the codes, VAE": ("vae.generator", draw_of_here, "train_mnist_vae"),
    "the averaged weights": ("gan.update_average", average_left_behind, "train_gan"),
    "a constant in the loss": ("vae.gaussian_kl", constant_of_here, "train_mnist_vae"),
    "the interpolation's weight": ("gan.interpolates", epsilon_of_here, "train_gan"),
    "the images of the feature network": ("features.extract", features_of_here, "read_features"),
}


@pytest.mark.parametrize("mistake", MISPLACED)
def test_what_is_misplaced_is_caught(mistake):
    where, wrong, loop = MISPLACED[mistake]
    with (
        elsewhere(), patch(f"labutils.{where}", wrong), training.forked_rng(0),
        pytest.raises(RuntimeError, match="device"),
    ):  # fmt: skip
        LOOPS[loop](DEVICE)


# --- the notebooks ----------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*copying from a non-meta parameter")  # it is copied all the same
@pytest.mark.parametrize("name", ["problem2_vae", "problem3_gan_vs_vae"])
def test_every_cell_of_a_notebook_computes_elsewhere(name, tmp_path, monkeypatch):
    """Problem 1 is not among them: its networks are so small that it computes on the CPU whatever the device."""
    path = parameters.notebooks_folder() / f"{name}.ipynb"
    cells = [c for c in nbformat.read(path, as_version=4).cells if c.cell_type == "code"]
    monkeypatch.chdir(path.parent)
    monkeypatch.setenv("LABUTILS_RUN", "1")
    said, scope = io.StringIO(), {}
    small = partial(data.street_digits, 600, 50, 200)
    with (
        elsewhere(), training.forked_rng(0), contextlib.redirect_stdout(said),
        patch("labutils.data.street_digits", small), patch("labutils.training.pick_device", lambda name: DEVICE),
    ):  # fmt: skip
        for cell in cells:
            exec(compile(cell.source, f"{name}, cell {cell.id}", "exec"), scope)
            if "parameters" in cell.metadata.get("tags", []):
                scope |= parameters.profile_values("smoke", path) | {"out_dir": str(tmp_path)}
    assert next(scope["model"].parameters()).device == DEVICE
    assert "not judged" in said.getvalue()  # the last cell was reached


def test_problem_1_never_asks_for_the_device():
    path = parameters.notebooks_folder() / "problem1_divergences.ipynb"
    source = "\n".join(c.source for c in nbformat.read(path, as_version=4).cells if c.cell_type == "code")
    assert "run.device" not in source and "cuda" not in source.replace("[auto, cpu, cuda]", "")
