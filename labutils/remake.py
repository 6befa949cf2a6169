"""`labutils remake`: train the reference models again and write them as the package carries them."""

from __future__ import annotations

import platform
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch

from . import data, features, keynumbers, networks, reference, vae
from .training import History, pick_device

EPOCHS = 20


def vae_mnist(folder: Path, seed: int = 0, device: str = "auto") -> Path:
    """Both recipes of problem 2 for 20 epochs on all training images; keeps the weights of `tuned`.

    Checkpoints lie in `folder`, so that a cut run continues. Writes `vae_mnist.safetensors` and its entry in
    `manifest.json`, with the curves of both recipes. Tens of minutes on two cores.
    """
    mnist, where, curves = data.binarized_mnist(), pick_device(device), {}
    for name, recipe in vae.RECIPES.items():
        model = vae.initialise(networks.MnistVAE, seed).to(where)
        history = vae.train(
            model, mnist.train.images, recipe, epochs=EPOCHS, watch={"valid": mnist.valid.images}, seed=seed,
            checkpoint=folder / f"vae_mnist-{name}.pt", about={"data": mnist.sha256},
        )  # fmt: skip
        curves[name] = epoch_curve(history)
    about = {
        "recipe": "tuned",
        "settings": asdict(vae.RECIPES["tuned"]) | {"epochs": EPOCHS},
        "data": {mnist.name: mnist.sha256},
        "curves": curves,
    }
    reference.save("vae_mnist", model, about | _circumstances(seed, where, history), folder)
    return folder / "vae_mnist.safetensors"


def svhn_classifier(folder: Path, data_dir: str | Path = "", seed: int = 0, device: str = "auto") -> Path:
    """The digit classifier of problem 3, on the whole training file of `svhn`, and its features of all crops.

    Its recipe was chosen on the validation split; the test crops are read once, at the end. Writes
    `svhn_classifier.safetensors`, `svhn_features.safetensors` and their entries in `manifest.json`. A checkpoint
    lies in `folder`, so that a cut run continues. Half an hour on two cores.
    """
    where, found = pick_device(device), data.load("svhn", data_dir)
    # The rows in the order of the file, as the validation split is part of it.
    train = data.read_mat(data.data_folder(data_dir) / "train_32x32.mat")
    network = features.initialise(seed).to(where)
    history = features.train_classifier(
        network, train, epochs=features.EPOCHS, seed=seed,
        checkpoint=folder / "svhn_classifier.pt", about={"data": found.sha256},
    )  # fmt: skip
    about = {
        "recipe": "classifier",
        "settings": features.RECIPE | {"epochs": features.EPOCHS},
        "data": {found.name: found.sha256},
    } | _circumstances(seed, where, history)
    score = asdict(features.accuracy(network, found.test))
    reference.save("svhn_classifier", network, about | {"test_accuracy": score}, folder)
    network_sha256 = reference.manifest(folder)["svhn_classifier"]["sha256"]
    tensors = {}
    for name, split in (("train", train), ("test", found.test)):
        tensors[name] = features.extract(network, split.images).half()
        tensors[f"{name}_labels"] = split.labels.to(torch.uint8)
    reference.save("svhn_features", tensors, about | {"network": network_sha256}, folder)
    return folder / "svhn_classifier.safetensors"


def _circumstances(seed: int, where: torch.device, history: History) -> dict:
    return {
        "seed": seed,
        "hardware": keynumbers.describe_device(where) if where.type == "cuda" else _processor(),
        "minutes": round(history.seconds / 60, 1),
        "versions": keynumbers.versions(),
    }


def epoch_curve(history: History) -> dict[str, list]:
    """By epoch: ELBO of the validation images after it, and the mean ELBO of training batches during it."""
    ends, valid = history.column("valid_elbo")
    steps, loss = history.column("loss")
    epoch_of = np.searchsorted(ends, steps)
    train = [-loss[epoch_of == e].mean() for e in range(len(ends))]
    return {
        "epoch": list(range(1, len(ends) + 1)),
        "valid_elbo": [round(float(v), 3) for v in valid],
        "train_elbo": [round(float(v), 3) for v in train],
    }


def _processor() -> str:
    return f"{torch.get_num_threads()} CPU thread(s), {platform.machine()}"
