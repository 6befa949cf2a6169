"""How fast house numbers are rendered, and how well a classifier that saw nothing else reads photographs of them.

    python tests/benchmarks/street_digits_benchmark.py                       # the time of 20,000 images
    python tests/benchmarks/street_digits_benchmark.py --svhn FOLDER         # and, in about 4 minutes, the reading

FOLDER holds train_32x32.mat and test_32x32.mat; every crop in either is read, none is trained on. The network is the
course's digit classifier.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from scipy.io import loadmat
from torch import Tensor, nn
from torch.nn import functional as F

from labutils import street_digits
from labutils.networks import ELU
from labutils.training import forked_rng, generator


def classifier() -> nn.Module:
    def block(channels: int, out: int) -> list[nn.Module]:
        return [nn.Conv2d(channels, out, 3, padding=1), ELU(), nn.Dropout2d(0.1)]

    class TopLeft(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x[:, :, :2, :2]  # all that the course's feature, the top-left output of the next layer, sees

    convolutions = [*block(3, 8), *block(8, 16), nn.MaxPool2d(2), *block(16, 16), *block(16, 32), nn.MaxPool2d(2)]
    convolutions += [*block(32, 64), *block(64, 128), nn.MaxPool2d(2), TopLeft(), nn.Conv2d(128, 512, 2), nn.Flatten()]
    return nn.Sequential(*convolutions, ELU(), nn.Dropout(0.5), nn.Linear(512, 10))


def scaled(images: Tensor) -> Tensor:
    return (images.float() / 127.5 - 1).contiguous(memory_format=torch.channels_last)


def train(images: Tensor, labels: Tensor, epochs: int, seed: int, batch_size: int = 100) -> nn.Module:
    """One-cycle Adam, peak rate 3e-3."""
    with forked_rng(seed, "classifier"):
        network = classifier().to(memory_format=torch.channels_last)
        optimiser = torch.optim.Adam(network.parameters(), 3e-3, fused=True)
        per_epoch = len(images) // batch_size
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 3e-3, epochs * per_epoch, pct_start=0.2)
        for epoch in range(epochs):
            order = torch.randperm(len(images), generator=generator(seed, "epoch", epoch))
            losses = []
            for rows in order[: per_epoch * batch_size].split(batch_size):
                loss = F.cross_entropy(network(scaled(images[rows])), labels[rows])
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
                schedule.step()
                losses.append(loss.item())
            print(f"  epoch {epoch + 1}: mean loss {np.mean(losses):.3f}", flush=True)
    return network.eval()


@torch.no_grad()
def accuracy(network: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """Share read right: of all images, and of each digit."""
    right = torch.cat([network(scaled(part)).argmax(dim=1) for part in images.split(500)]) == labels
    return torch.stack([right.double().mean(), *(right[labels == d].double().mean() for d in range(10))])


def real_crops(folder: Path) -> tuple[Tensor, Tensor]:
    files = [loadmat(folder / f"{part}_32x32.mat") for part in ("train", "test")]
    images = torch.cat([torch.from_numpy(f["X"].transpose(3, 2, 0, 1).copy()) for f in files])
    return images, torch.cat([torch.from_numpy(f["y"].ravel().astype(np.int64)) % 10 for f in files])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--svhn", type=Path, help="folder with train_32x32.mat and test_32x32.mat")
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    clocks = time.perf_counter(), time.process_time()
    images, labels = street_digits.render(options.images, options.seed)
    spent = time.perf_counter() - clocks[0], time.process_time() - clocks[1]
    print(f"{options.images:,} images in {spent[0]:.1f} s ({spent[1]:.1f} s of CPU), {options.threads} thread(s)")
    if options.svhn is None:
        return
    network = train(images, labels, options.epochs, options.seed)
    fresh = street_digits.render(2_000, options.seed + 1)
    for name, (x, y) in {"fresh rendered": fresh, "real": real_crops(options.svhn)}.items():
        found = accuracy(network, x, y)
        each = " ".join(f"{d}: {value:.0%}" for d, value in enumerate(found[1:].tolist()))
        print(f"{len(x):,} {name} crops: {found[0]:.2%} read right ({each})")


if __name__ == "__main__":
    main()
