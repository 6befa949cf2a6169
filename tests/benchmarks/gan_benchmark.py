"""A WGAN-GP step of problem 3 against a plain version of the same networks, in one run, on the CPU.

    python tests/benchmarks/gan_benchmark.py [--rounds 5] [--steps 6] [--threads N]

Plain: the same layers with PyTorch's LeakyReLU, three passes through the critic (real, fake, interpolates), Adam as it
comes, losses read with `.item()`. One generator step and `n_critic` critic steps each, batch 64, single precision.
Rounds alternate; medians are compared.
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch
from torch import nn

from labutils import data, gan, networks, training, vae


def plain_critic() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 64, 4, 2, 1), nn.LeakyReLU(0.2),
        nn.Conv2d(64, 128, 4, 2, 1), nn.LeakyReLU(0.2),
        nn.Conv2d(128, 256, 4, 2, 1), nn.LeakyReLU(0.2),
        nn.Flatten(), nn.Linear(4096, 1),
    )  # fmt: skip


def plain_generator() -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(100, 4096), nn.Unflatten(1, (256, 4, 4)), nn.ReLU(),
        nn.ConvTranspose2d(256, 128, 4, 2, 1), nn.ReLU(),
        nn.ConvTranspose2d(128, 64, 4, 2, 1), nn.ReLU(),
        nn.ConvTranspose2d(64, 3, 4, 2, 1), nn.Tanh(),
    )  # fmt: skip


def plain_training(images, steps, n_critic):
    model, critic = plain_generator(), plain_critic()
    model.load_state_dict(vae.initialise(networks.Generator, 0).layers.state_dict())
    critic.load_state_dict(vae.initialise(networks.Critic, 0).layers.state_dict())
    adam = [torch.optim.Adam(net.parameters(), 2e-4, betas=(0.0, 0.9)) for net in (model, critic)]

    def run():
        for i in range(steps):
            for k in range(n_critic):
                start = 64 * (i * n_critic + k)
                real = data.from_bytes(images[start : start + 64])
                fake = model(torch.randn(64, 100)).detach()
                epsilon = torch.rand(64, 1, 1, 1)
                x = (epsilon * real + (1 - epsilon) * fake).requires_grad_()
                (gradient,) = torch.autograd.grad(critic(x).sum(), x, create_graph=True)
                penalty = (gradient.flatten(1).norm(dim=1) - 1).square().mean()
                loss = critic(fake).mean() - critic(real).mean() + 10 * penalty
                adam[1].zero_grad()
                loss.backward()
                adam[1].step()
                loss.item()
            loss = -critic(model(torch.randn(64, 100))).mean()
            adam[0].zero_grad()
            loss.backward()
            adam[0].step()
            loss.item()

    return run


def our_training(images, steps, n_critic):
    model, critic = vae.initialise(networks.Generator, 0), vae.initialise(networks.Critic, 0)
    recipe = gan.Recipe(n_critic=n_critic, critic_rate=2e-4)

    def run():
        gan.train(model, critic, images, recipe, steps=steps)

    return run


def timed(run):
    started = time.process_time()  # of this process: others on the machine count less
    run()
    return time.process_time() - started


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--threads", type=int, default=0)
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {arguments.rounds} rounds")
    training.keep_freed_memory()  # for both alike
    for n_critic in (1, 2):
        count = 64 * arguments.steps * n_critic
        images = torch.randint(0, 256, (count, 3, 32, 32), generator=training.generator(0), dtype=torch.uint8)
        runs = [make(images, arguments.steps, n_critic) for make in (our_training, plain_training)]
        for run in runs:
            run()
        pairs = [[timed(run) for run in runs] for _ in range(arguments.rounds)]
        ours, plain = (statistics.median(column) / arguments.steps for column in zip(*pairs, strict=True))
        ratio = statistics.median(b / a for a, b in pairs)
        print(f"n_critic {n_critic}: labutils {ours:.3f} s a step, plain {plain:.3f} s, ratio {ratio:.2f}")


if __name__ == "__main__":
    main()
