"""`labutils remake`: train the reference models again and write them as the package carries them."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch

from .. import data, features, fid, gan, keynumbers, latent, networks, priors, reference, vae
from ..training import History, pick_device, save_checkpoint, write_whole

VAE_MNIST_EPOCHS = {"baseline": 20, "tuned": 20, "long": 50}
GAN, GAN_STEPS = gan.Recipe(batch_size=32, learning_rate=3e-4, critic_rate=5e-4), 30_000
VAE, VAE_EPOCHS = vae.Recipe(learning_rate=1e-3, schedule="one-cycle", decay=0.999), 12
PRIOR_COMPONENTS = 10

COMPARED_SEEDS, COMPARED_STEPS, COMPARED_SAMPLES = 3, 600, 1000
COMPARED_GAN = replace(GAN, decay=0.99)
COMPARED_VAE = replace(VAE, learning_rate=3e-4, decay=0.99)  # at 1e-3 the MLP's diverges


def vae_mnist(folder: Path, seed: int = 0, device: str = "auto") -> Path:
    """The recipes of problem 2 on all training images; keeps the weights of `long`.

    Checkpoints lie in `folder`, so that a cut run continues. Writes `vae_mnist.safetensors` and its entry in
    `manifest.json`, with the curves of all recipes. An hour and more on two cores.
    """
    mnist, where, curves = data.binarized_mnist(), pick_device(device), {}
    for name, epochs in VAE_MNIST_EPOCHS.items():
        model = vae.initialise(networks.MnistVAE, seed).to(where)
        history = vae.train(
            model, mnist.train.images, vae.RECIPES[name], epochs=epochs, watch={"valid": mnist.valid.images}, seed=seed,
            checkpoint=folder / f"vae_mnist-{name}.pt", about={"data": mnist.sha256},
        )  # fmt: skip
        curves[name] = epoch_curve(history)
    about = {
        "recipe": name,
        "settings": asdict(vae.RECIPES[name]) | {"epochs": epochs},
        "data": {mnist.name: mnist.sha256},
        "curves": curves,
    }
    reference.save("vae_mnist", model, about | _circumstances(seed, where, history), folder)
    return folder / "vae_mnist.safetensors"


FEATURES_OF_TRAINING = 2500  # crops whose features travel with the package, beside all unseen and test ones


def svhn_classifier(folder: Path, data_dir: str | Path = "", seed: int = 0, device: str = "auto") -> Path:
    """The digit classifier of problem 3, on the training split of `svhn`, and its features of real crops.

    The recipe was chosen by the validation split, whose accuracy is measured on the way; the test crops are read once,
    at the end. Writes `svhn_classifier.safetensors`, three `svhn_features_….safetensors` and their entries
    in `manifest.json`. A checkpoint lies in `folder`, so that a cut run continues. An hour on one core.
    """
    where, found = pick_device(device), data.load("svhn", data_dir)
    network = features.initialise(seed).to(where)
    history = features.train_classifier(
        network, found.train, epochs=features.EPOCHS, seed=seed, watch=found.valid,
        checkpoint=folder / "svhn_classifier.pt", about={"data": found.sha256},
    )  # fmt: skip
    splits = {"test": found.test, "unseen": found.unseen}
    about = {
        "recipe": "classifier",
        "settings": features.RECIPE | {"epochs": features.EPOCHS},
        "data": {found.name: found.sha256},
        "images": len(found.train),
        "accuracy": {name: asdict(features.accuracy(network, split)) for name, split in splits.items()},
    } | _circumstances(seed, where, history)
    reference.save("svhn_classifier", network, about, folder)
    about["network"] = reference.manifest(folder)["svhn_classifier"]["sha256"]
    splits["train"] = data.random_subset(found.train, min(FEATURES_OF_TRAINING, len(found.train)))
    for name, split in splits.items():
        tensors = {"features": features.extract(network, split.images).half(), "labels": split.labels.to(torch.uint8)}
        reference.save(f"svhn_features_{name}", tensors, about, folder)
    return folder / "svhn_classifier.safetensors"


def _circumstances(seed: int, where: torch.device, history: History) -> dict:
    return {
        "seed": seed,
        "hardware": keynumbers.describe_device(where) if where.type == "cuda" else keynumbers.processor(),
        "threads": torch.get_num_threads(),
        "minutes": round(history.seconds / 60, 1),
        "versions": keynumbers.versions(),
    }


def svhn_gan(folder: Path, data_dir: str | Path = "", seed: int = 0, device: str = "auto") -> Path:
    """The GAN of problem 3 on the training split of `svhn`; keeps the averaged generator, in half precision.

    A checkpoint lies in `folder`, so that a cut run continues, and beside it the averaged generator after every
    thousand steps. Writes `svhn_gan.safetensors` and its entry in `manifest.json`, with the curves of the losses.
    Four hours on one core.
    """
    where, found = pick_device(device), data.load("svhn", data_dir)
    model, critic = (vae.initialise(make, seed).to(where) for make in (networks.Generator, networks.Critic))

    def snapshot(done: int, average: torch.nn.Module) -> dict[str, float]:
        save_checkpoint(folder / f"svhn_gan-{done:05d}.pt", average.state_dict())
        return {}

    trained = gan.train(
        model, critic, found.train.images, GAN, steps=GAN_STEPS, seed=seed, checkpoint=folder / "svhn_gan.pt",
        about={"data": found.sha256}, evaluate=snapshot, evaluate_every=1000,
    )  # fmt: skip
    about = {
        "recipe": "WGAN-GP",
        "settings": asdict(GAN) | {"steps": GAN_STEPS},
        "data": {found.name: found.sha256},
        "images": len(found.train),
        "curves": step_curve(trained.history, ("wasserstein", "penalty", "gradient_norm")),
    }
    reference.save("svhn_gan", trained.average.half(), about | _circumstances(seed, where, trained.history), folder)
    return folder / "svhn_gan.safetensors"


def svhn_vae(folder: Path, data_dir: str | Path = "", seed: int = 0, device: str = "auto") -> Path:
    """Both VAEs of problem 3 on the training split of `svhn`, in half precision, and a prior for one of them.

    `svhn_vae` has the calibrated variance, which its entry in `manifest.json` holds; `svhn_vae_unit` is the decoder
    of N(x; g(z), I); `svhn_vae_prior` is the mixture fitted to the codes of the first, which were whitened after the
    training. The manifest also says of each the ELBO of training, unseen and test crops, and how far its codes lie from
    N(0, I), now and as trained. Checkpoints lie in `folder`, so that a cut run continues. Hours each on one core.
    """
    where, found = pick_device(device), data.load("svhn", data_dir)
    train = found.train.images
    some = data.random_subset(found.train, min(len(found.unseen), len(train)), seed)
    parts = {"train": some, "unseen": found.unseen, "test": found.test}
    parts = {part: data.from_bytes(split.images) for part, split in parts.items()}
    for name in ("svhn_vae_unit", "svhn_vae"):
        model, unit = vae.initialise(networks.ImageVAE, seed).to(where), name == "svhn_vae_unit"
        history = vae.train(
            model, train, VAE, epochs=VAE_EPOCHS, watch={}, seed=seed, checkpoint=folder / f"{name}.pt",
            likelihood=vae.gaussian_log_likelihood if unit else vae.calibrated_log_likelihood,
            prepare=data.from_bytes, about={"data": found.sha256, "model": name},
        )  # fmt: skip
        as_trained = _of_codes(model, train, parts["unseen"], seed)[0]
        if not unit:
            priors.whiten(model, data.from_bytes(train), seed)
        variance = 1.0 if unit else vae.fitted_variance(model, parts["train"], seed=seed)
        likelihood = partial(vae.gaussian_log_likelihood, variance=variance)
        bounds = {part: vae.evaluate_elbo(model, x, seed=seed, likelihood=likelihood).elbo for part, x in parts.items()}
        of_aggregate, mixture = _of_codes(model, train, parts["unseen"], seed)
        about = {
            "recipe": "N(g, I)" if unit else "calibrated",
            "settings": asdict(VAE) | {"epochs": VAE_EPOCHS},
            "data": {found.name: found.sha256},
            "images": len(train),
            "variance": variance,
            **{f"{part}_elbo": asdict(bound) for part, bound in bounds.items()},
            "kl_of_aggregate": of_aggregate,
            "kl_as_trained": as_trained,
            "curves": step_curve(history, ("reconstruction", "kl")),
        } | _circumstances(seed, where, history)
        kept = model.decoder if unit else model
        reference.save(name, kept.half(), about, folder)
    settings = {"components": PRIOR_COMPONENTS, "codes": len(train)}
    of = {"model": reference.manifest(folder)["svhn_vae"]["sha256"], "recipe": "mixture", "settings": settings}
    tensors = {key: value.half() for key, value in vars(mixture).items()}
    reference.save("svhn_vae_prior", tensors, about | of, folder)
    return folder / "svhn_vae.safetensors"


def _of_codes(
    model: networks.ImageVAE, train: torch.Tensor, unseen: torch.Tensor, seed: int
) -> tuple[dict[int, dict], priors.Mixture]:
    """What a prior of 1 and of `PRIOR_COMPONENTS` normal laws gains on unseen crops, and the latter."""
    codes, fresh = (priors.aggregate_codes(model, x, seed) for x in (data.from_bytes(train), unseen))
    mixtures = {k: priors.fit_mixture(codes, k, seed) for k in (1, PRIOR_COMPONENTS)}
    return {k: asdict(priors.kl_of_aggregate(fresh, m)) for k, m in mixtures.items()}, mixtures[PRIOR_COMPONENTS]


def svhn_architectures(folder: Path, data_dir: str | Path = "", seed: int = 0, device: str = "auto") -> Path:
    """Wide and narrow convolutional networks against the report's MLP, in both models of problem 3, on equal terms.

    The same images seen, each once, none moved, weights averaged, the same recipe for every architecture. Writes
    `svhn_architectures.json`, a table: the FID of 1,000 samples against the real test crops, mean and sd over
    `COMPARED_SEEDS` trainings, each a mean over three sets of samples, with its floor. Far shorter trainings than the
    reference models'; checkpoints lie in `folder`. Half an hour on one core.
    """
    where, found = pick_device(device), data.load("svhn", data_dir)
    network, real = features.load(), fid.RealSet(features.real("test")[0])
    floor = fid.real_floor(features.real("unseen")[0], real, COMPARED_SAMPLES).fid.value
    table = []
    for architecture in networks.WIDTHS:
        seeds = range(seed, seed + COMPARED_SEEDS)
        each = [_compared(architecture, found, network, real, folder, k, where) for k in seeds]
        for name in each[0]:
            scores, images, steps = zip(*(models[name] for models in each), strict=True)
            row = {"model": name, "architecture": architecture, "images": images[0], "steps": steps[0]}
            row |= {"fid": float(np.mean(scores)), "sd": float(np.std(scores, ddof=1)), "seeds": len(scores)}
            table.append(row | {"floor": floor})
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "svhn_architectures.json"
    write_whole(path, json.dumps(table, indent=1) + "\n")
    return path


def _compared(
    architecture: str, found: data.DataSet, network: torch.nn.Module, real: fid.RealSet, folder: Path, seed: int,
    where: torch.device,
) -> dict[str, tuple[float, int, int]]:  # fmt: skip
    """One training of both models: model → (FID, images seen, steps)."""
    make = partial(vae.initialise, seed=seed, architecture=architecture)
    generator, critic, model = (make(c).to(where) for c in (networks.Generator, networks.Critic, networks.ImageVAE))
    train = found.train.images[: COMPARED_STEPS * COMPARED_GAN.batch_size]
    about = {"data": found.sha256, "architecture": architecture}
    path = "compared-{}-" + f"{architecture}-{seed}.pt"
    trained = gan.train(
        generator, critic, train, COMPARED_GAN, steps=COMPARED_STEPS, seed=seed,
        checkpoint=folder / path.format("gan"), about=about,
    )  # fmt: skip
    vae.train(
        model, train, COMPARED_VAE, epochs=1, watch={}, seed=seed, likelihood=vae.calibrated_log_likelihood,
        checkpoint=folder / path.format("vae"), prepare=data.from_bytes, about=about,
    )  # fmt: skip

    def score(net: torch.nn.Module) -> float:
        sets = [features.extract(network, latent.sample(net, COMPARED_SAMPLES, k)) for k in range(3)]
        return float(np.mean([fid.calculate_fid_score([rows], [real.rows]) for rows in sets]))

    return {
        "GAN": (score(trained.average), len(train), COMPARED_STEPS),
        "VAE": (score(model.decoder), len(train), math.ceil(len(train) / COMPARED_VAE.batch_size)),
    }


def step_curve(history: History, names: tuple[str, ...], points: int = 60) -> dict[str, list]:
    """Means of logged quantities over `points` equal stretches of the steps."""
    curve: dict[str, list] = {}
    for name in names:
        steps, values = history.column(name)
        parts = [slice(p[0], p[-1] + 1) for p in np.array_split(np.arange(len(steps)), min(points, len(steps)))]
        curve["step"] = [int(steps[p][-1]) for p in parts]
        curve[name] = [float(f"{values[p].mean():.4g}") for p in parts]
    return curve


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
