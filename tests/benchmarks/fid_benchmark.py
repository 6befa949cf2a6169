"""The Fréchet distance against torchmetrics, on the same features, in one run.

    OMP_NUM_THREADS=1 python tests/benchmarks/fid_benchmark.py [--rounds 7]

Both start from 1,000 and 1,000 feature vectors in batches of 100 and end with one number; torchmetrics gets a
network that passes them through, and float64, without which its numbers differ. Rounds alternate; medians of CPU
seconds are compared (of all threads; other processes do not disturb them).
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from pathlib import Path

import torch

from labutils import fid
from labutils.training import generator

sys.path.insert(0, str(Path(__file__).parent.parent))
from test_fid import torchmetrics_fid


def feature_sets(d: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Correlated float32 features whose standard deviations along rotated axes fall as 1/√i."""
    g = generator(0, "features", d)
    mix = torch.linalg.qr(torch.randn(d, d, generator=g))[0] * torch.arange(1, d + 1) ** -0.5
    x, y = (torch.randn(1000, d, generator=g) @ mix.T for _ in range(2))
    return x, 1.1 * y + 0.05


def timed(run) -> tuple[float, float]:
    started = time.process_time()
    value = run()
    return time.process_time() - started, value


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    print(f"torch {torch.__version__}, {torch.get_num_threads()} thread(s), {options.rounds} rounds, 1,000 v 1,000")
    for d, bar in ((512, 3), (2048, 10)):
        x, y = feature_sets(d)
        theirs = lambda x=x, y=y: torchmetrics_fid(x.double(), y.double())  # noqa: E731
        ours = lambda x=x, y=y: fid.calculate_fid_score(iter(x.split(100)), iter(y.split(100)))  # noqa: E731
        timed(theirs), timed(ours)  # warm up
        rounds = [(timed(ours), timed(theirs)) for _ in range(options.rounds)]
        seconds = [statistics.median(pair[k][0] for pair in rounds) for k in (0, 1)]
        ratio = statistics.median(b[0] / a[0] for a, b in rounds)
        difference = abs(rounds[0][0][1] / rounds[0][1][1] - 1)
        print(
            f"{d:5} features: labutils {seconds[0]:.3f} s, torchmetrics {seconds[1]:.3f} s, "
            f"ratio {ratio:.1f} (bar {bar}), relative difference {difference:.1e}"
        )


if __name__ == "__main__":
    main()
