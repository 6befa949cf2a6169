"""The commands `labutils sample` and `labutils fid`: images into a folder; images in, a table of scores out."""

from __future__ import annotations

import io
import json
import math
import sys
import tempfile
import zipfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor, nn

from .. import data, features, fid
from ..estimates import Estimate
from ..training import write_whole

IMAGES = (".png", ".jpg", ".jpeg")
FLOOR = "unseen"  # of the shipped real crops, those a floor is drawn from: no model and no network has seen them
LEGEND = """\
±: standard deviation of a score over repeated draws of both sets at these sizes; of a floor, for one draw of it.
Not in it: the bias of small sets, another training of a model. kid: of features standardised by those of B."""


class StatisticsError(ValueError):
    """A statistics file cannot be used, or two do not belong together; the message says why."""


@dataclass(frozen=True, eq=False)
class Statistics:
    """What is kept of a set of images: moments of its features, maybe the features, and which network they are of."""

    name: str
    moments: fid.Moments
    network: str
    network_sha256: str
    real: bool  # real images: scores against them have a floor
    features: Float[np.ndarray, "_n _d"] | None = None


def statistics(name: str, rows: Float[Tensor, "n d"], network: nn.Module, real: bool) -> Statistics:
    """Statistics of features extracted with `network`."""
    return Statistics(name, fid.Moments.of(rows), network.name, network.sha256, real, rows.numpy())


def save_statistics(path: Path, statistics: Statistics, with_features: bool = True) -> None:
    """Write an .npz file of plain arrays: with the features every score can be told from it, else only the FID.

    FileExistsError if there is a file of that name already.
    """
    path = Path(path)
    must_be_new(path)
    m = statistics.moments
    content = {"name": statistics.name, "mean": m.mean, "cov": m.cov, "count": m.count, "real": statistics.real}
    content |= {"network": statistics.network, "network_sha256": statistics.network_sha256}
    if with_features and statistics.features is not None:
        content["features"] = statistics.features
    file = io.BytesIO()
    np.savez(file, **content)
    write_whole(path, file.getvalue())


def must_be_new(path: Path) -> None:
    """FileExistsError if there is something of that name, FileNotFoundError if there is no folder for it."""
    if path.exists():
        raise FileExistsError(f"{path} exists; choose another name, or move it away")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"{path}: {path.parent} is no folder; make it first, or choose another")


def load_statistics(path: Path) -> Statistics:
    """Read what `save_statistics` wrote; nothing in it can execute. StatisticsError for any other or damaged file."""
    try:
        with np.load(path, allow_pickle=False) as file:
            content = {name: file[name] for name in file.files}
        count, mean, cov = int(content["count"]), content["mean"], content["cov"]
        fid.frechet_distance(mean, cov, mean, cov)  # a mean and a covariance, finite and of one width
        rows = content.get("features")
        if count < 2 or (rows is not None and rows.shape != (count, len(mean))):
            raise ValueError("its features, their count and their moments do not fit together")
        name, network, digest = (str(content[key]) for key in ("name", "network", "network_sha256"))
        moments = fid.Moments(count, mean, cov * (count - 1))
        return Statistics(name, moments, network, digest, bool(content["real"]), rows)
    except FileNotFoundError:
        raise
    except KeyError as error:
        raise StatisticsError(
            f"{path} is no file of feature statistics: it has no {error.args[0].split()[0]}"
        ) from None
    except (ValueError, TypeError, AttributeError, EOFError, OSError, zipfile.BadZipFile) as error:
        # NumPy advises to allow pickles, which may execute anything: never passed on.
        reason = "it holds more than plain arrays" if "pickle" in str(error) else str(error)
        raise StatisticsError(
            f"{path} is damaged, or no file of feature statistics, as --save writes them: {reason}"
        ) from error


def must_be_empty(folder: Path) -> None:
    """FileExistsError unless `folder` is new or an empty folder."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise FileExistsError(f"{folder} exists and is not empty; choose another folder, or move it away")


def write_images(images: UInt8[Tensor, "n 3 32 32"], folder: Path) -> None:
    """Write `folder/00000.png`, …; they appear when all of them are written. FileExistsError if it holds anything.

    A new folder appears whole, by one renaming. One that is there and empty is filled: the current folder, a mount, or
    what a link leads to cannot be replaced. OSError saying why it cannot be written; nothing is left behind then.
    """
    must_be_empty(folder)
    there = folder.exists()
    try:
        if not there:
            folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder if there else folder.parent, prefix=".images-") as parent:
            made = Path(parent, "images")
            made.mkdir()
            for i, image in enumerate(images):
                Image.fromarray(image.permute(1, 2, 0).numpy()).save(made / f"{i:05}.png")
            if there:
                _move_all(made, folder)
            else:
                made.rename(folder)
    except OSError as error:
        parent = "" if folder.parent.is_dir() else f", {folder.parent} is no folder"
        reason = f"{error.strerror or error}{parent}"
        raise OSError(f"{folder} cannot be written ({reason}); choose another folder") from error


def _move_all(source: Path, target: Path) -> None:
    """Move the files of one folder into another; none if one cannot be moved."""
    moved = []
    try:
        for path in sorted(source.iterdir()):
            moved.append(path.rename(target / path.name))
    except BaseException:
        for path in moved:
            path.unlink()
        raise


def read_images(folder: Path) -> UInt8[Tensor, "n 3 32 32"]:
    """Every PNG and JPEG in a folder and below it, in the order of their names.

    Hidden files and folders (.ipynb_checkpoints, .Trash-1000) and __MACOSX are left out; stderr says so if they hold
    images. data.DataError naming the file that cannot be read or is not 32×32 RGB, or a folder without images.
    """
    found = sorted(p for p in folder.rglob("*") if p.suffix.lower() in IMAGES)
    hidden = {path: part for path in found if (part := _hidden(path.relative_to(folder)))}
    if hidden:
        names = ", ".join(sorted(set(hidden.values())))
        print(f"{folder}: {len(hidden):,} hidden images are left out, in or as {names}", file=sys.stderr)
    paths = [path for path in found if path not in hidden]
    if not paths:
        raise data.DataError(f"{folder} has no images; expected files that end in {', '.join(IMAGES)}")
    images = []
    for path in paths:
        try:
            with Image.open(path) as image:
                mode, (width, height), pixels = image.mode, image.size, np.array(image)
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            raise data.DataError(f"{path} cannot be read as an image: {error}") from None
        if (mode, width, height) != ("RGB", 32, 32):
            raise data.DataError(f"{path} is {mode}, {width} pixels wide and {height} high; expected RGB, 32×32")
        images.append(torch.from_numpy(pixels).permute(2, 0, 1))
    return torch.stack(images)


def _hidden(path: Path) -> str:
    """The first part of a path that a person did not put there, or nothing."""
    return next((part for part in path.parts if part.startswith(".") or part == "__MACOSX"), "")


def read(name: str, network: nn.Module) -> Statistics:
    """Statistics of a folder of images, a .mat file, a saved statistics file, or the shipped `real` test crops."""
    path = Path(name)
    if name == "real" and not path.exists():
        _must_be_reference(network)
        return statistics("real test crops", features.real("test")[0], network, real=True)
    if path.is_dir():
        return statistics(name, features.extract(network, read_images(path)), network, real=False)
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist; expected a folder, a .mat or a statistics file, or real")
    if path.suffix.lower() == ".mat":
        return statistics(name, features.extract(network, data.read_mat(path).images), network, real=True)
    found = load_statistics(path)
    if found.network_sha256 != network.sha256:
        theirs, ours = f"{found.network} ({found.network_sha256[:12]})", f"{network.name} ({network.sha256[:12]})"
        raise StatisticsError(
            f"{path} holds features of the network {theirs}, not of {ours}: they cannot be compared. "
            "Name its network with --features, or extract the statistics again"
        )
    return found


def _is_reference(network: nn.Module) -> bool:
    return network.name == "reference"


def _must_be_reference(network: nn.Module) -> None:
    if not _is_reference(network):
        raise StatisticsError(f"the shipped real features are the reference network's, not of {network.name}")


def floor_crops(b: Statistics, network: nn.Module, split: str = FLOOR) -> tuple[Float[Tensor, "n d"] | None, str]:
    """Features of other real crops to lay beside `b`, or None and the reason why there are none.

    The shipped ones of `split` with the reference network. Else those of train_32x32.mat beside a test_32x32.mat, of
    which nobody knows here whether the network was trained on them.
    """
    beside = Path(b.name).with_name("train_32x32.mat")
    if not b.real or b.features is None:
        return None, f"no floor: {b.name} {'has no features' if b.real else 'is not known to be real'}"
    if _is_reference(network):
        crops = features.real(split)[0]
    elif Path(b.name).name.lower() == "test_32x32.mat" and beside.exists():
        crops = features.extract(network, data.read_mat(beside).images)
    else:
        return None, f"no floor: no other real crops with features of {network.name}"
    first = torch.as_tensor(b.features[:200]).double()
    nearest = torch.cdist(first, crops.double()).min(dim=1).values
    if (nearest < 2e-3 * first.norm(dim=1)).any():  # half precision moves a vector by 3e-4 of its length
        return None, f"no floor: {b.name} holds crops that are among the real crops of the floor"
    return crops, ""


@dataclass(frozen=True)
class ScoreTable:
    """Scores with their floor beside; printed, one line a score. Without features there is only the FID."""

    a: str
    b: str
    network: str
    scores: fid.Scores | Estimate
    floor: fid.Scores | None = None
    note: str = ""

    def __str__(self) -> str:
        if isinstance(self.scores, Estimate):
            n = f"n = {self.scores.n:,}"
            return (
                f"{self.a} against {self.b}, features: {self.network}\nfid {self.scores.value:.2f} ({n})\n{self.note}"
            )
        s, floor = self.scores, self.floor
        lines = [f"{self.a} against {self.b}, features: {self.network}"]
        lines += [f"{'':10}{f'{s.n:,} against {s.m:,}':>24}" + (f"{f'floor: {floor.n:,} real':>24}" if floor else "")]
        for name in fid.SCORES:
            line = f"{name:10}{_short(getattr(s, name)):>24}"
            if floor:
                line += f"{_short(getattr(floor, name)):>24}"
                of = getattr(floor, name).value
                if name != "kid" and of > 0:  # no multiple of zero; and that of kid can be below
                    line += f"{getattr(s, name).value / of:10.2f} times"
            lines.append(line)
        return "\n".join([*lines, *filter(None, [self.note]), LEGEND])

    def json(self) -> str:
        """The same as a JSON object; an error that is not known is null."""
        return json.dumps(_plain(asdict(self)), indent=1)


def _short(estimate: Estimate) -> str:
    return str(estimate).rsplit(" (", 1)[0]


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def compare(a: Statistics, b: Statistics, network: nn.Module, seed: int = 0) -> ScoreTable:
    """All scores of `a` against `b`, with the floor where `b` is real. seed: of the floor's draws and the errors'."""
    if a.features is None or b.features is None:
        p, q = a.moments, b.moments
        value = Estimate(fid.frechet_distance(p.mean, p.cov, q.mean, q.cov), math.nan, p.count)
        return ScoreTable(a.name, b.name, network.name, value, note="moments only: no error, no other scores, no floor")
    real = fid.RealSet(b.features, seed=seed)
    found = fid.scores(a.features, real)
    crops, note = floor_crops(b, network)
    floor = None if crops is None else fid.real_floor(crops, real, min(found.n, len(crops)), seed=seed)
    return ScoreTable(a.name, b.name, network.name, found, floor, note)


def run(a: str, b: str | None, network_name: str, save: Path | None, seed: int = 0) -> ScoreTable | None:
    """What `labutils fid` does: keep the statistics of `a` if asked to, and compare with `b` if there is one."""
    if save is not None:
        must_be_new(save)
    network = features.load(network_name)
    found = read(a, network)
    other = read(b, network) if b is not None else None
    if save is not None:
        save_statistics(save, found)
    return compare(found, other, network, seed) if other is not None else None
