"""Reference models: damaged or missing files are named; what is shipped is what the manifest says."""

from __future__ import annotations

import hashlib

import pytest
import torch

from labutils import data, networks, reference, remake, vae
from labutils.reference import ReferenceModelError
from labutils.training import History


def test_save_and_load_round_trip(tmp_path):
    model = vae.initialise(networks.MnistVAE, 3, latent=7)
    reference.save("small", model, {"recipe": "none"}, tmp_path)
    again = vae.initialise(networks.MnistVAE, 4, latent=7)
    assert reference.load("small", again, tmp_path)["recipe"] == "none"
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), again.parameters(), strict=True))
    assert not again.training


def test_a_damaged_or_missing_file_is_named(tmp_path):
    model = vae.initialise(networks.MnistVAE, 0, latent=3)
    with pytest.raises(ReferenceModelError, match="no reference model 'small'"):
        reference.load("small", model, tmp_path)
    reference.save("small", model, {}, tmp_path)
    file = tmp_path / "small.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    with pytest.raises(ReferenceModelError, match=r"small\.safetensors is damaged"):
        reference.load("small", model, tmp_path)


def test_what_is_shipped_is_what_the_manifest_says():
    entries = reference.manifest()
    files = {p.stem: p for p in reference.ASSETS.glob("*.safetensors")}
    assert set(entries) == set(files)
    for name, entry in entries.items():
        assert hashlib.sha256(files[name].read_bytes()).hexdigest() == entry["sha256"]
        assert {"recipe", "settings", "seed", "data", "hardware", "minutes", "versions"} <= set(entry)
    assert entries["vae_mnist"]["data"] == {"binarized-mnist": data.BINARIZED_SHA256}
    assert entries["vae_mnist"]["settings"] == vae.asdict(vae.RECIPES["tuned"]) | {"epochs": remake.EPOCHS}


def test_curves_by_epoch():
    rows = [{"step": s, "loss": float(s)} for s in (2, 4, 5, 7, 9, 10)]
    rows += [{"step": 5, "valid_elbo": -3.0}, {"step": 10, "valid_elbo": -2.0}]
    curve = remake.epoch_curve(History(rows))
    assert curve == {"epoch": [1, 2], "valid_elbo": [-3.0, -2.0], "train_elbo": [-3.667, -8.667]}
