"""Both 21-point sweeps of problem 1, the report's procedure against the batched ensemble, timed in one run.

    python tests/benchmarks/sweep_benchmark.py              # everything, about 5 minutes on one thread
    python tests/benchmarks/sweep_benchmark.py --phis 3     # the report's on 3 of the 21, time extrapolated

The report's procedure: for each φ in turn a network with 64 and 128 ReLU units, plain SGD, 5,000 steps on 512
samples; log(sigmoid) for the JSD; the estimate is the value on the last batch, for the Wasserstein distance
with the penalty subtracted. The report does not print its learning rate; --jsd-rate and --w-rate set it, and the
defaults are the best of 1e-3, 1e-2, 1e-1 on this problem (smaller ones reach less).
"""

from __future__ import annotations

import argparse
import math
import os
import time

import torch
from torch import Tensor, nn

from labutils import distributions, divergences
from labutils.networks import critic_mlp
from labutils.training import forked_rng, generator

LAM = 10.0


def report_jsd(net: nn.Module, x: Tensor, y: Tensor, draw: torch.Generator) -> Tensor:
    dp, dq = torch.sigmoid(net(x)), torch.sigmoid(net(y))
    return math.log(2) + 0.5 * torch.log(dp).mean() + 0.5 * torch.log(1 - dq).mean()


def report_wasserstein(net: nn.Module, x: Tensor, y: Tensor, draw: torch.Generator) -> Tensor:
    a = torch.rand(len(x), 1, generator=draw)
    z = (a * x + (1 - a) * y).requires_grad_(True)
    out = net(z)
    (gradients,) = torch.autograd.grad(out, z, torch.ones_like(out), create_graph=True)
    return net(x).mean() - net(y).mean() - LAM * ((gradients.norm(2, dim=1) - 1) ** 2).mean()


def run_report(objective, phi: Tensor, steps: int, rate: float, seed: int) -> list[float]:
    """The last value of the objective for every φ, one network after the other."""
    found = []
    for i, value in enumerate(phi.tolist()):
        with forked_rng(seed, "report", i):
            net = critic_mlp(2, (64, 128))
        optimiser = torch.optim.SGD(net.parameters(), rate)
        draw = generator(seed, "report batches", i)
        for _ in range(steps):
            x = distributions.sample_line(torch.tensor(0.0), 512, draw)
            y = distributions.sample_line(torch.tensor(value), 512, draw)
            estimate = objective(net, x, y, draw)
            optimiser.zero_grad()
            (-estimate).backward()
            optimiser.step()
        found.append(estimate.item())
    return found


def timed(task, *arguments, **settings):
    start = time.perf_counter()
    return task(*arguments, **settings), time.perf_counter() - start


def max_error(found: list[float], exact: Tensor) -> float:
    return (torch.tensor(found, dtype=torch.float64) - exact).abs().max().item()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--phis", type=int, default=21, help="how many of the 21 values the report's procedure runs on")
    parser.add_argument("--steps", type=int, default=5000, help="SGD steps of the report's procedure")
    parser.add_argument("--jsd-rate", type=float, default=1e-1)
    parser.add_argument("--w-rate", type=float, default=1e-2)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    if not 1 <= options.phis <= 21:
        parser.error(f"--phis is {options.phis}; expected 1 to 21")
    torch.set_num_threads(options.threads)
    os.environ.setdefault("TQDM_DISABLE", "1")
    phi = torch.linspace(-10, 10, 21) / 10  # 0 exactly in the middle
    # A fraction still holds the hard values: the smallest |φ| for the JSD, the largest for the penalty; 0 last.
    near = sorted((i for i in range(21) if i != 10), key=lambda i: abs(i - 10))
    order = [i for pair in zip(near[:10], near[:9:-1], strict=True) for i in pair] + [10]
    few = phi[order[: options.phis]]
    scale = 21 / options.phis

    ours_jsd, ours_jsd_s = timed(divergences.sweep_jsd, phi, seed=options.seed)
    ours_w, ours_w_s = timed(divergences.sweep_wasserstein, phi, seed=options.seed)
    theirs_jsd, theirs_jsd_s = timed(run_report, report_jsd, few, options.steps, options.jsd_rate, options.seed)
    theirs_w, theirs_w_s = timed(run_report, report_wasserstein, few, options.steps, options.w_rate, options.seed)

    jsd, w1 = distributions.line_jsd, distributions.line_wasserstein
    rows = [
        ("JSD", max_error(theirs_jsd, jsd(few)), theirs_jsd_s * scale,
         max_error([e.value for e in ours_jsd], jsd(phi)), ours_jsd_s),
        ("Wasserstein", max_error(theirs_w, w1(few)), theirs_w_s * scale,
         max_error([e.corrected.value for e in ours_w], w1(phi)), ours_w_s),
    ]  # fmt: skip
    note = "" if options.phis == 21 else f" (extrapolated from {options.phis} of 21 φ; its error is over those)"
    print(f"torch {torch.__version__}, {options.threads} thread(s), report: {options.steps} SGD steps{note}")
    print(f"{'sweep':12} {'report error':>13} {'report s':>10} {'our error':>11} {'our s':>8} {'ratio':>7}")
    for name, their_error, their_s, our_error, our_s in rows:
        print(f"{name:12} {their_error:13.5f} {their_s:10.1f} {our_error:11.6f} {our_s:8.1f} {their_s / our_s:7.1f}")
    theirs, ours = sum(r[2] for r in rows), sum(r[4] for r in rows)
    print(f"{'both':12} {'':13} {theirs:10.1f} {'':11} {ours:8.1f} {theirs / ours:7.1f}")


if __name__ == "__main__":
    main()
