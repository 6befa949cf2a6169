"""The feature network that scores are computed in: the digit classifier, frozen, always in evaluation mode.

`load()` gives the shipped one, trained on crops of SVHN's training file; `load("svhn_classifier.pt")` the course's
own, from its pickled file, of which only the tensors are taken. The networks differ, and so do the
scores computed with them: name the network beside a score.
"""

from __future__ import annotations

import hashlib
import io
import math
import pickle
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float32, Int64, UInt8
from torch import Tensor, nn
from torch.nn import functional as F

from . import estimates, networks, reference
from .data import Split, from_bytes
from .estimates import Estimate
from .reference import ReferenceModelError
from .training import Batches, History, fit, forked_rng, generator


def load(name_or_path: str | Path = "reference") -> nn.Module:
    """The digit classifier in evaluation mode, its weights fixed; attributes `name` and `sha256` say which.

    name_or_path: `reference` for the shipped one, else the file of a pickled classifier, the course's
    `svhn_classifier.pt`. Raises ReferenceModelError when a file is missing, damaged or holds another network.
    """
    network = initialise()
    if name_or_path == "reference":
        network.name, network.sha256 = "reference", reference.load("svhn_classifier", network)["sha256"]
        return network.requires_grad_(False)
    given = read_module(name_or_path)
    expected = network.state_dict()
    wrong = [
        f"{key}: {tuple(given[key].shape) if key in given else 'absent'} there, "
        f"{tuple(expected[key].shape) if key in expected else 'absent'} here"
        for key in sorted({*given, *expected})
        if key not in given or key not in expected or given[key].shape != expected[key].shape
    ]
    if wrong:
        raise ReferenceModelError(f"{name_or_path} holds another network than the course's: {'; '.join(wrong[:3])}")
    network.load_state_dict(given)
    network.name = Path(name_or_path).name
    network.sha256 = hashlib.sha256(Path(name_or_path).read_bytes()).hexdigest()
    return network.eval().requires_grad_(False)


def initialise(seed: int = 0) -> networks.DigitClassifier:
    """A classifier before training."""
    with forked_rng(seed, "initialise"):
        return networks.DigitClassifier(RECIPE["dropout"])


def extract(
    network: nn.Module, images: UInt8[Tensor, "n 3 32 32"], batch_size: int = 500
) -> Float[Tensor, "n features"]:
    """Features of images, on the CPU. Dropout is off whatever mode the network is in; the mode is left as it was.

    network: its `features` takes images in [−1, 1]; a float64 network gives float64, any other float32.
    Raises ValueError when the images are no bytes.
    """
    return _evaluate(network, network.features, images, batch_size)


def logits(network: nn.Module, images: UInt8[Tensor, "n 3 32 32"], batch_size: int = 500) -> Float[Tensor, "n 10"]:
    """Logits of the ten digits, like `extract`."""
    return _evaluate(network, network, images, batch_size)


@torch.no_grad()
def _evaluate(network: nn.Module, function: Callable[[Tensor], Tensor], images: Tensor, batch_size: int) -> Tensor:
    if images.dtype != torch.uint8:
        raise ValueError(f"images are {images.dtype}; expected bytes (data.to_bytes makes them from [-1, 1])")
    like = next(network.parameters())  # its device and type; a narrow one is widened again afterwards
    wide = torch.promote_types(like.dtype, torch.float32)
    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        parts = [function(from_bytes(x.to(like.device)).to(like)).to("cpu", wide) for x in images.split(batch_size)]
        return torch.cat(parts)
    finally:
        for module, training in modes:
            module.training = training


def real(split: str) -> tuple[Float32[Tensor, "n 512"], Int64[Tensor, " n"]]:
    """The shipped features of real crops and their digits, in the splits of `data.svhn_rows`.

    `train`: 2,500 random ones of those that the network and the reference models were trained on; `unseen`: 5,000 of
    the same law that none of them was; `test`: 500 of SVHN's test file. Kept with half precision.
    """
    if split not in ("train", "unseen", "test"):
        raise ValueError(f"there are no shipped features of {split!r}; choose 'train', 'unseen' or 'test'")
    tensors = reference.load_tensors(f"svhn_features_{split}")
    return tensors["features"].float(), tensors["labels"].long()


# --- the course's file ------------------------------------------------------------------------------------

DTYPES = {"FloatStorage": "<f4", "DoubleStorage": "<f8", "HalfStorage": "<f2", "LongStorage": "<i8"}


class _Inert(dict):
    """What every class or function a foreign pickle names becomes: it notes what was done to it, and does nothing.

    args: what it was called with; state: what an instance was given.
    """

    origin, args, state = "", (), None

    def __new__(cls, *args, **kwargs):
        made = super().__new__(cls)
        made.args = args
        return made

    def __init__(self, *args, **kwargs):
        super().__init__()

    def __setstate__(self, state: Any) -> None:
        self.state = state


class _Names(pickle.Unpickler):
    """Unpickles the structure of anything and runs none of it: no name that it asks for is ever imported."""

    def __init__(self, file: io.BufferedIOBase):
        super().__init__(file)
        self.storages: dict[str, tuple[np.dtype, int]] = {}  # key → type and number of values

    def find_class(self, module: str, name: str) -> type:
        return type("inert", (_Inert,), {"origin": f"{module}.{name}"})  # a new one each: nothing shared to tamper with

    def persistent_load(self, pid: tuple) -> Any:
        if pid[0] == "module":  # old torch wrote the source of each class beside it
            return pid[1]
        _, kind, key, _, count, *view = pid
        if any(view) or kind.origin.rpartition(".")[2] not in DTYPES:
            raise ValueError(f"its storage {key} is a {'view' if any(view) else kind.origin}")
        self.storages[key] = (np.dtype(DTYPES[kind.origin.rpartition(".")[2]]), count)
        return key


def _read_zip(file: io.BufferedIOBase) -> tuple[Any, dict[str, Tensor]]:
    with zipfile.ZipFile(file) as archive:
        name = next((n for n in archive.namelist() if n.endswith("/data.pkl")), "data.pkl")
        names = _Names(io.BytesIO(archive.read(name)))
        found, folder = names.load(), name.removesuffix("data.pkl") + "data/"
        return found, {key: _values(archive.read(folder + key), *about) for key, about in names.storages.items()}


def _read_legacy(file: io.BufferedIOBase) -> tuple[Any, dict[str, Tensor]]:
    """Magic number, version, system; the object; the keys of its storages; of each, the count and the values."""
    for _ in range(3):
        _Names(file).load()
    names = _Names(file)
    found, storages = names.load(), {}
    for key in _Names(file).load():
        dtype, count = names.storages[key]
        file.seek(8, io.SEEK_CUR)
        storages[key] = _values(file.read(count * dtype.itemsize), dtype, count)
    return found, storages


def _values(content: bytes, dtype: np.dtype, count: int) -> Tensor:
    return torch.from_numpy(np.frombuffer(content, dtype, count).copy())


def _entries(found: Any) -> dict[str, Any]:
    """A dictionary that was an OrderedDict: its items, which Python 2 wrote as its argument."""
    return {**dict(*found.args[:1]), **found} if isinstance(found, _Inert) else found


def _tensors(module: _Inert, storages: dict[str, Tensor], prefix: str = "") -> Iterator[tuple[str, Tensor]]:
    """(name, tensor) of all parameters and buffers, named as in the state dict of the module."""
    for name, value in {**_entries(module.state["_parameters"]), **_entries(module.state["_buffers"])}.items():
        if value is None:
            continue
        if value.origin.startswith("torch._utils._rebuild_parameter"):
            value = value.args[0]
        if not value.origin.startswith("torch._utils._rebuild_tensor"):
            raise ValueError(f"{prefix}{name} is a {value.origin}, not a tensor")
        key, offset, size, stride = value.args[:4]
        yield prefix + name, torch.as_strided(storages[key], size, stride, offset)
    for name, child in _entries(module.state["_modules"]).items():
        yield from _tensors(child, storages, f"{prefix}{name}.")


def read_module(path: str | Path) -> dict[str, Tensor]:
    """The state dict of a whole pickled module, in the format of torch before 1.6 or in the zip format since.

    Only the tensors are taken. The classes and functions that the file names are neither imported nor called,
    whatever they are. Raises ReferenceModelError when the file is missing or damaged, or holds no module.
    """
    try:
        with open(path, "rb") as file:
            read = _read_zip if zipfile.is_zipfile(file) else _read_legacy
            file.seek(0)
            found, storages = read(file)
            if not (isinstance(found, _Inert) and isinstance(found.state, dict) and "_modules" in found.state):
                what = found.origin if isinstance(found, _Inert) else type(found).__name__
                raise ValueError(f"it holds a {what}, not a module")
            return dict(_tensors(found, storages))
    except FileNotFoundError:
        raise ReferenceModelError(f"{path} does not exist; expected 'reference' or the course's .pt file") from None
    except Exception as error:  # a foreign file can be wrong in any way
        reason = f"{type(error).__name__}: {error}"
        raise ReferenceModelError(f"{path} cannot be read as a pickled module ({reason})") from error


# --- training ---------------------------------------------------------------------------------------------

RECIPE = {"batch_size": 128, "learning_rate": 2e-3, "weight_decay": 1e-4, "warm_up": 0.2, "dropout": 0.02, "clip": 1.0}
EPOCHS = 40


def augment(x: Float[Tensor, "n 3 32 32"], generator: torch.Generator) -> Float[Tensor, "n 3 32 32"]:
    """Images in [−1, 1] turned, scaled, sheared, shifted and recoloured, half of them negatives; none mirrored."""
    u = torch.rand(len(x), 12, generator=generator, device=x.device) * 2 - 1
    angle, scale = math.radians(12) * u[:, 0], 1 + 0.15 * u[:, 1]
    turn = torch.stack([angle.cos(), 0.15 * u[:, 2] - angle.sin(), angle.sin(), angle.cos()], 1).view(-1, 2, 2)
    shift = u[:, 3:5, None] * 3 / 16  # 3 pixels; the grid runs from −1 to 1
    grid = F.affine_grid(torch.cat([turn * scale[:, None, None], shift], 2), list(x.shape), align_corners=False)
    x = F.grid_sample(x, grid, padding_mode="border", align_corners=False)
    contrast = torch.exp(0.3 * u[:, 5:8]) * u[:, 8:9].sign()
    return x * contrast[:, :, None, None] + 0.3 * u[:, 9:12, None, None]


def train_classifier(
    network: nn.Module,
    split: Split,
    *,
    epochs: int,
    seed: int = 0,
    watch: Split | None = None,
    checkpoint: Path | None = None,
    about: Mapping[str, object] | None = None,
) -> History:
    """Train the digit classifier on augmented images by cross-entropy, with AdamW and a one-cycle schedule.

    watch: images whose `accuracy` is measured every five epochs. With `checkpoint` the training resumes exactly
    where it was cut; `about` holds further plain values that the checkpoint must agree with.
    """
    device = next(network.parameters()).device
    batches = Batches(len(split), RECIPE["batch_size"], seed)
    total = epochs * batches.per_epoch
    images, labels = split.images.to(device), split.labels.to(device)
    rate = RECIPE["learning_rate"]
    optimiser = torch.optim.AdamW(network.parameters(), rate, weight_decay=RECIPE["weight_decay"], fused=True)
    # One step more than are taken: the schedule is stepped after the last, too.
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, rate, total + 1, pct_start=RECIPE["warm_up"])

    def step(i: int) -> dict[str, Tensor]:
        rows = batches(i).to(device)
        x = augment(from_bytes(images[rows]), generator(seed, "augment", i, device=device))
        with forked_rng(seed, "dropout", i):
            loss = F.cross_entropy(network.train()(x), labels[rows])
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), RECIPE["clip"])  # without it one bad batch ended a training
        optimiser.step()
        schedule.step()
        return {"loss": loss}

    history = fit(
        step,
        total,
        parts={"network": network, "optimiser": optimiser, "schedule": schedule},
        recipe=RECIPE | {"epochs": epochs, "seed": seed, "images": len(split)} | dict(about or {}),
        checkpoint=checkpoint,
        evaluate=(lambda: {"accuracy": accuracy(network, watch).value}) if watch else None,
        evaluate_every=5 * batches.per_epoch,
        desc="training the classifier",
    )
    network.eval()
    return history


def accuracy(network: nn.Module, split: Split) -> Estimate:
    """Share of images whose digit the network reads."""
    return estimates.mean(logits(network, split.images).argmax(1) == split.labels)
