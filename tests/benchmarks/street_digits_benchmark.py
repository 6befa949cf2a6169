"""How fast house numbers are rendered, and how well a classifier that saw nothing else reads photographs of them.

    python tests/benchmarks/street_digits_benchmark.py                       # the time of 20,000 images
    python tests/benchmarks/street_digits_benchmark.py --svhn FOLDER         # and, in minutes, the reading

FOLDER holds train_32x32.mat and test_32x32.mat; every crop in either is read, none is trained on. The network and its
training are those of the feature network.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch

from labutils import data, features, street_digits


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--svhn", type=Path)
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()

    started, used = time.perf_counter(), time.process_time()
    rendered = data.Split(*street_digits.render(arguments.images, arguments.seed))
    print(
        f"{arguments.images:,} images in {time.perf_counter() - started:.1f} s, {time.process_time() - used:.1f} s of "
        f"processor time, {torch.get_num_threads()} thread(s)"
    )
    if arguments.svhn is None:
        return
    network = features.initialise(arguments.seed)
    features.train_classifier(network, rendered, epochs=arguments.epochs, seed=arguments.seed)
    fresh = data.Split(*street_digits.render(2_000, arguments.seed + 1))
    files = [data.read_mat(arguments.svhn / f"{part}_32x32.mat") for part in ("train", "test")]
    real = data.Split(torch.cat([f.images for f in files]), torch.cat([f.labels for f in files]))
    for name, split in (("rendered images, new ones", fresh), ("real crops", real)):
        print(f"reads {100 * features.accuracy(network, split).value:.2f} % of {len(split):,} {name}")
    right = features.logits(network, real.images).argmax(1) == real.labels
    shares = [f"{d}: {100 * right[real.labels == d].float().mean():.0f} %" for d in range(10)]
    print("real crops by digit: " + ", ".join(shares))


if __name__ == "__main__":
    main()
