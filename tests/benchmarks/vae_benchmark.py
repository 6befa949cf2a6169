"""Problem 2 against the report's way of doing it, in one run: training and likelihood, images a second.

    python tests/benchmarks/vae_benchmark.py [--rounds 5] [--threads N]

Training: the same network in plain PyTorch as the report trains it (batch 64 from a DataLoader, probabilities and
binary cross-entropy, Adam), against labutils. Likelihood, K = 200: the report's loop over images with SciPy's
multivariate normal, with its formula mended, against labutils. Rounds alternate; medians are compared.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from pathlib import Path

import numpy as np
import torch
from scipy.stats import multivariate_normal
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from labutils import data, networks, training, vae

sys.path.insert(0, str(Path(__file__).parent.parent))
from test_vae import plain_network


def plain_training(images, steps):
    encoder, decoder = plain_network()
    optimiser = torch.optim.Adam([*encoder.parameters(), *decoder.parameters()], 3e-4)
    loader = DataLoader(TensorDataset(images.float()), batch_size=64, shuffle=True)

    def run():
        for i, (x,) in enumerate(loader):
            if i == steps:
                break
            mean, logvar = encoder(x).chunk(2, dim=1)
            z = mean + torch.exp(0.5 * logvar) * torch.randn_like(mean)
            probabilities = torch.sigmoid(decoder(z))
            loss = F.binary_cross_entropy(probabilities, x, reduction="sum")
            loss = (loss - 0.5 * torch.sum(1 + logvar - mean.pow(2) - logvar.exp())) / len(x)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            loss.item()

    return run


def our_training(images, steps):
    model = vae.initialise(networks.MnistVAE, 0)
    recipe = vae.RECIPES["baseline"]

    def run():
        vae.train(model, images[: 64 * steps], recipe, epochs=1, watch={"valid": images[:2]})

    return run


def report_likelihood(model, x, z):
    """The report's procedure with its two errors mended: one image at a time, densities by SciPy."""
    with torch.no_grad():
        mean, logvar = model.encode(x)
        std = torch.exp(0.5 * logvar)
        result = np.zeros(len(x))
        for i in range(len(x)):
            p = torch.sigmoid(model.decode(z[i])).flatten(1)
            true = x[i].flatten().expand_as(p)
            log_px = torch.sum(true * torch.log(p) + (1 - true) * torch.log(1 - p), dim=1).double().numpy()
            codes = z[i].numpy()
            log_q = multivariate_normal.logpdf(codes, mean=mean[i].numpy(), cov=np.diag(std[i].numpy() ** 2))
            log_p = multivariate_normal.logpdf(codes, mean=np.zeros(100), cov=np.diag(np.ones(100)))
            log_w = log_px + log_p - log_q
            result[i] = np.log(np.mean(np.exp(log_w - log_w.max()))) + log_w.max()
    return result


def timed(run):
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


def compare(name, ours, theirs, count, rounds):
    ours(), theirs()  # warm up
    pairs = [(timed(ours), timed(theirs)) for _ in range(rounds)]
    speed = [count / statistics.median(column) for column in zip(*pairs, strict=True)]
    ratio = statistics.median(b / a for a, b in pairs)
    print(f"{name:12} labutils {speed[0]:8.1f} images/s   plain {speed[1]:8.1f} images/s   ratio {ratio:.2f}")
    return ratio


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=0)
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {arguments.rounds} rounds")
    mnist = data.binarized_mnist()
    steps = 60
    images = mnist.train.images[: 64 * steps]
    # The plain loop first: labutils asks the C library to keep freed memory, for the whole process.
    compare("training", our_training(images, steps), plain_training(images, steps), 64 * steps, arguments.rounds)

    count = 40
    plain_model, model = networks.MnistVAE(), vae.initialise(networks.MnistVAE, 0)
    encoder, decoder = plain_network()
    encoder.load_state_dict(model.encoder.state_dict())
    decoder.load_state_dict(model.decoder.state_dict())
    plain_model.encoder, plain_model.decoder = encoder, decoder
    plain_model.encode = lambda x: encoder(x).chunk(2, dim=1)
    x = mnist.valid.images[:count].float()
    with torch.no_grad():
        mean, logvar = model.encode(x)
    noise = torch.randn(count, 200, 100, generator=training.generator(0, "codes"))
    z = vae.reparametrise(mean[:, None], logvar[:, None], noise)
    difference = np.abs(report_likelihood(plain_model, x, z) - vae.log_likelihood(model, x.flatten(1), z).numpy()).max()
    print(f"both give the same log p(x): largest difference {difference:.1e} nats")
    compare(
        "likelihood",
        lambda: vae.evaluate_log_likelihood(model, mnist.valid.images[:count], 200),
        lambda: report_likelihood(plain_model, x, z),
        count,
        arguments.rounds,
    )


if __name__ == "__main__":
    main()
