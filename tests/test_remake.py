"""The reference trainings of problem 3, in small: what they write can be loaded, and a second call trains nothing."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import scipy.io
import torch

from labutils import data, networks, priors, reference, training, vae
from labutils.commands import remake


def photographs(folder, n):
    for name, count in (("train", n), ("test", 12)):
        draws = np.random.default_rng(count)
        images = draws.integers(0, 256, (32, 32, 3, count), dtype=np.uint8)
        scipy.io.savemat(folder / f"{name}_32x32.mat", {"X": images, "y": draws.integers(1, 11, (count, 1))})


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with an SVHN of 50 + 12 random images, 44 to train on; recipes of a few steps."""
    photographs(tmp_path, 50)
    monkeypatch.setattr(remake, "GAN", dataclasses.replace(remake.GAN, batch_size=8, bfloat16=False))
    monkeypatch.setattr(remake, "GAN_STEPS", 2)
    monkeypatch.setattr(remake, "VAE", dataclasses.replace(remake.VAE, batch_size=16, learning_rate=1e-4))
    monkeypatch.setattr(remake, "COMPARED_GAN", remake.GAN)
    monkeypatch.setattr(remake, "COMPARED_VAE", remake.VAE)
    monkeypatch.setattr(remake, "VAE_EPOCHS", 1)
    return tmp_path


def test_the_gan_is_kept_as_its_averaged_generator(folder, monkeypatch):
    made = remake.svhn_gan(folder / "out", folder, device="cpu")
    model = vae.initialise(networks.Generator, 1)
    about = reference.load("svhn_gan", model, made.parent)
    assert about["images"] == 44
    assert about["settings"]["steps"] == 2 and len(about["curves"]["wasserstein"]) == len(about["curves"]["step"])
    average = training.load_checkpoint(folder / "out" / "svhn_gan-00002.pt")
    for name, value in model.state_dict().items():
        assert torch.equal(value, average[name].half().float()), name

    before = made.read_bytes()
    monkeypatch.setattr(networks.Generator, "forward", None)  # a training would need it
    assert remake.svhn_gan(folder / "out", folder, device="cpu").read_bytes() == before


def test_the_vaes_are_kept_with_their_variance_and_a_prior(folder, monkeypatch):
    photographs(folder, 160)  # a covariance of 100 dimensions wants more codes than that
    monkeypatch.setattr(remake, "PRIOR_COMPONENTS", 2)
    made = remake.svhn_vae(folder / "out", folder, device="cpu")
    whole, decoder = vae.initialise(networks.ImageVAE, 1), vae.initialise(networks.Generator, 1)
    about = reference.load("svhn_vae", whole, made.parent)
    unit = reference.load("svhn_vae_unit", decoder, made.parent)
    assert 0.3 < about["variance"] < 1.0, "1/3 for uniform bytes, and what the untrained decoder adds"
    assert unit["variance"] == 1.0 and unit["test_elbo"]["n"] == 12
    for part in ("train", "unseen", "test"):
        assert unit[f"{part}_elbo"]["value"] < about[f"{part}_elbo"]["value"], "σ = 1 is too wide for values in [−1, 1]"

    found = data.load("svhn", folder)
    assert about["images"] == unit["images"] == len(found.train)
    prior = priors.Mixture.of(reference.load_tensors("svhn_vae_prior", made.parent))
    assert prior.means.shape == (2, 100)
    assert reference.manifest(made.parent)["svhn_vae_prior"]["model"] == about["sha256"], "the codes are this model's"
    codes = priors.aggregate_codes(whole, data.from_bytes(found.unseen.images))
    expected = about["kl_of_aggregate"]["2"]["value"]
    assert priors.kl_of_aggregate(codes, prior).value == pytest.approx(expected, rel=0.02, abs=0.2), "half precision"
    trained = vae.initialise(networks.ImageVAE, 1)
    trained.load_state_dict(training.load_checkpoint(folder / "out" / "svhn_vae.pt")["parts"]["average"])
    priors.whiten(trained, data.from_bytes(found.train.images))
    for name, value in trained.state_dict().items():
        torch.testing.assert_close(whole.state_dict()[name], value, rtol=1e-3, atol=1e-4)
    assert about["kl_as_trained"].keys() == {"1", "2"} and about["kl_as_trained"] != about["kl_of_aggregate"]


def test_architectures_are_compared_on_the_same_images(folder, monkeypatch):
    monkeypatch.setattr(remake, "COMPARED_STEPS", 4)
    monkeypatch.setattr(remake, "COMPARED_SEEDS", 2)
    monkeypatch.setattr(remake, "COMPARED_SAMPLES", 40)
    made = remake.svhn_architectures(folder / "out", folder, device="cpu")
    rows = reference.table("svhn_architectures", made.parent)
    assert [(r["model"], r["architecture"]) for r in rows] == [
        (model, architecture) for architecture in ("conv", "narrow", "mlp") for model in ("GAN", "VAE")
    ]
    assert {(r["model"], r["images"], r["steps"]) for r in rows} == {("GAN", 32, 4), ("VAE", 32, 2)}
    assert all(r["fid"] > r["floor"] > 0 and r["sd"] > 0 and r["seeds"] == 2 for r in rows), (
        "untrained models are no match for real crops"
    )
    assert {r["seeds"] for r in rows} == {2}
    with pytest.raises(reference.ReferenceModelError, match="no table 'svhn_architectures'"):
        reference.table("svhn_architectures", folder)
