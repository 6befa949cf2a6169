"""Reference models: damaged or missing files are named; what is shipped is what the manifest says."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
import scipy.io
import torch
from click.testing import CliRunner

from labutils import data, features, networks, reference, vae
from labutils.commands import cli, remake
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
    name = entries["vae_mnist"]["recipe"]
    assert entries["vae_mnist"]["settings"] == vae.asdict(vae.RECIPES[name]) | {"epochs": remake.VAE_MNIST_EPOCHS[name]}
    classifier = entries["svhn_classifier"]
    assert classifier["settings"] == features.RECIPE | {"epochs": features.EPOCHS}
    for split in ("train", "unseen", "test"):
        shipped = entries[f"svhn_features_{split}"]
        assert shipped["network"] == classifier["sha256"], "the features come from the shipped network"
        assert shipped["data"] == classifier["data"] and set(shipped["data"]) == {"svhn"}


def test_tensors_are_kept_as_they_are(tmp_path):
    tensors = {"a": torch.arange(6).half().view(2, 3), "b": torch.tensor([1, 9], dtype=torch.uint8)}
    reference.save("some", tensors, {}, tmp_path)
    again = reference.load_tensors("some", tmp_path)
    assert set(again) == {"a", "b"}
    assert all(torch.equal(again[k], v) and again[k].dtype == v.dtype for k, v in tensors.items())


def test_the_classifier_is_remade_from_a_folder(tmp_path, monkeypatch):
    """The whole path on a few random crops: files in the folder, the manifest's entries, features that fit."""
    draw = np.random.default_rng(0)
    for name, n in (("train", 160), ("test", 20)):
        labels = (np.arange(n) % 10 + 1).astype(np.uint8)[:, None]
        content = {"X": draw.integers(0, 256, (32, 32, 3, n), dtype=np.uint8), "y": labels}
        scipy.io.savemat(tmp_path / f"{name}_32x32.mat", content)
    monkeypatch.setattr(features, "EPOCHS", 1)
    out = tmp_path / "out"
    done = CliRunner().invoke(cli.main, ["remake", "svhn_classifier", "--data-dir", str(tmp_path), "--out", str(out)])
    assert done.exit_code == 0, done.output
    assert done.output.strip().endswith(str(out / "svhn_classifier.safetensors"))
    network, entries = features.initialise(5), reference.manifest(out)
    reference.load("svhn_classifier", network, out)
    crops = data.load("svhn", tmp_path)
    for name in ("train", "unseen", "test"):
        found, split = reference.load_tensors(f"svhn_features_{name}", out), getattr(crops, name)
        assert found["features"].dtype == torch.float16 and entries[f"svhn_features_{name}"]["network"]
        expected = features.extract(network, split.images)
        torch.testing.assert_close(found["features"].float(), expected, rtol=1e-3, atol=1e-3)
        assert found["labels"].tolist() == split.labels.tolist()
    assert entries["svhn_classifier"]["accuracy"]["test"]["n"] == 20
    assert entries["svhn_classifier"]["images"] == len(crops.train) < 160
    assert entries["svhn_classifier"]["settings"]["epochs"] == 1


def test_remake_says_what_is_missing(tmp_path, monkeypatch):
    from torchvision.datasets import SVHN

    monkeypatch.setattr(SVHN, "split_list", {"train": ["http://127.0.0.1:9/a.mat", "a.mat", "0"]})
    done = CliRunner().invoke(
        cli.main, ["remake", "svhn_classifier", "--data-dir", str(tmp_path), "--out", str(tmp_path)]
    )
    assert done.exit_code == 1 and "put a.mat into" in done.output
    assert CliRunner().invoke(cli.main, ["remake", "nobody"]).exit_code == 2


def test_curves_by_epoch():
    rows = [{"step": s, "loss": float(s)} for s in (2, 4, 5, 7, 9, 10)]
    rows += [{"step": 5, "valid_elbo": -3.0}, {"step": 10, "valid_elbo": -2.0}]
    curve = remake.epoch_curve(History(rows))
    assert curve == {"epoch": [1, 2], "valid_elbo": [-3.0, -2.0], "train_elbo": [-3.667, -8.667]}
