"""Scores against closed forms, plain definitions, torchmetrics and prdc; errors against repeated draws."""

from __future__ import annotations

import itertools
import math
import subprocess
import sys
import time
import tracemalloc

import numpy as np
import pytest
import torch

from labutils import estimates, fid
from labutils.training import generator


def normal(n: int, d: int, *path: int) -> np.ndarray:
    return torch.randn(n, d, generator=generator(0, "test", *path), dtype=torch.float64).numpy()


def covariance(d: int, *path: int) -> np.ndarray:
    a = normal(d, d, *path)
    return a @ a.T / d + 0.1 * np.eye(d)


def textbook(x: np.ndarray, y: np.ndarray) -> float:
    """The definition, by the eigenvalues of the product of NumPy's covariances."""
    p, q = np.cov(x.T), np.cov(y.T)
    roots = np.sqrt(np.maximum(np.linalg.eigvals(p @ q).real, 0))
    return ((x.mean(0) - y.mean(0)) ** 2).sum() + np.trace(p) + np.trace(q) - 2 * roots.sum()


# --- Fréchet distance -------------------------------------------------------------------------------------


def test_two_dimensions_have_a_closed_form():
    p, q = np.array([[2.0, 0.7], [0.7, 1.0]]), np.array([[1.0, -0.9], [-0.9, 3.0]])
    root_trace = math.sqrt(np.trace(p @ q) + 2 * math.sqrt(np.linalg.det(p @ q)))
    expected = 0.25 + 4 + 7 - 2 * root_trace
    assert fid.frechet_distance(np.array([0.0, 1.0]), p, np.array([0.5, -1.0]), q) == pytest.approx(expected, rel=1e-12)


def test_commuting_covariances_compare_standard_deviations():
    a, b = np.array([1.0, 2.0, 0.0, 5.0]), np.array([3.0, 2.0, 1.0, 0.5])
    rotation = np.linalg.qr(normal(4, 4, 0))[0]
    p, q = (rotation @ np.diag(s**2) @ rotation.T for s in (a, b))
    found = fid.frechet_distance(torch.zeros(4), torch.tensor(p), np.ones(4), q)
    assert found == pytest.approx(4 + ((a - b) ** 2).sum(), rel=1e-7)


def test_a_known_optimal_map():
    """q is the law of Tx for symmetric positive T: the squared distance is E|x − Tx|²; T does not commute with Σ."""
    p, t = covariance(40, 1), covariance(40, 2)
    expected = np.trace((np.eye(40) - t) @ p @ (np.eye(40) - t))
    q = t @ p @ t
    assert fid.frechet_distance(np.zeros(40), p, np.zeros(40), (q + q.T) / 2) == pytest.approx(expected, rel=1e-9)


def test_equal_covariances_leave_the_means():
    p = covariance(30, 3)
    step = normal(1, 30, 4)[0]
    assert fid.frechet_distance(step, p, 0 * step, p) == pytest.approx((step**2).sum(), rel=1e-10)


def test_rank_one_and_rank_zero():
    u, v = normal(2, 50, 5)
    zero = np.zeros(50)
    found = fid.frechet_distance(zero, np.outer(u, u), zero, np.outer(v, v))
    assert found == pytest.approx(u @ u + v @ v - 2 * abs(u @ v), rel=1e-10)
    assert fid.frechet_distance(zero, np.outer(u, u), u, np.zeros((50, 50))) == pytest.approx(2 * u @ u, rel=1e-12)
    assert fid.frechet_distance(zero, np.zeros((50, 50)), u, np.zeros((50, 50))) == pytest.approx(u @ u, rel=1e-12)


@pytest.mark.parametrize(("n", "d"), [(500, 32), (33, 32), (32, 32), (20, 32), (2, 32)])
def test_identical_sets_are_at_distance_zero(n, d):
    x = 700 + 20 * normal(n, d, n)
    scale = x.var(axis=0, ddof=1).sum()
    assert 0 <= fid.calculate_fid_score(iter([x]), iter([x])) < 1e-9 * scale
    # The same set in another order and with other batches: only the means' rounding at 700 remains.
    assert 0 <= fid.calculate_fid_score(iter(x[::-1]), iter(np.array_split(x, 2))) < 1e-9 * scale


@pytest.mark.parametrize(
    ("n", "m", "d"), [(200, 300, 24), (2500, 1100, 24), (10, 12, 40), (10, 400, 40), (400, 41, 40), (40, 40, 40)]
)
def test_score_is_the_definition_also_with_fewer_samples_than_dimensions(n, m, d):
    x, y = 3 + normal(n, d, 6) @ covariance(d, 7), normal(m, d, 8)
    found = fid.calculate_fid_score(iter(x), iter([y]))
    assert found == pytest.approx(textbook(x, y), rel=1e-6)  # textbook's own error on singular matrices
    assert fid.calculate_fid_score(iter([y]), iter([x])) == pytest.approx(found, rel=1e-9)
    moments = fid.Moments.of(x), fid.Moments.of(y)
    arguments = [a for m in moments for a in (m.mean, m.cov)]
    assert fid.frechet_distance(*arguments) == pytest.approx(found, rel=1e-9)


def test_few_samples_against_an_exact_form():
    """Two points each: covariances of rank one along the differences."""
    x, y = normal(2, 512, 9), normal(2, 512, 10)
    u, v = (x[0] - x[1]) / math.sqrt(2), (y[0] - y[1]) / math.sqrt(2)
    expected = ((x.mean(0) - y.mean(0)) ** 2).sum() + u @ u + v @ v - 2 * abs(u @ v)
    assert fid.calculate_fid_score(iter(x), iter(y)) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("smallest", [1.0, 1e-2, 1e-4, 1e-8])
def test_well_and_ill_conditioned_covariances(smallest):
    """Standard deviations a and b along the same axes, down to `smallest`, where an eigenvalue's root loses digits."""
    d = 60
    axes = np.linalg.qr(normal(d, d, 11))[0]
    a = np.geomspace(1, smallest, d)
    b = a[::-1] + 0.5 * a
    p, q = ((axes * s**2) @ axes.T for s in (a, b))
    p, q = (p + p.T) / 2, (q + q.T) / 2
    zero = np.zeros(d)
    assert fid.frechet_distance(zero, p, zero, q) == pytest.approx(((a - b) ** 2).sum(), rel=1e-7)
    assert fid.frechet_distance(zero, p, zero, p) < 1e-8
    slow = fid._root_distance(fid.covariance_root(p), fid.covariance_root(q))
    assert slow == pytest.approx(((a - b) ** 2).sum(), rel=1e-8)
    root = fid.covariance_root(p)
    assert np.allclose(root @ root.T, p, atol=1e-14)


class Identity(torch.nn.Module):
    """Features that pass through torchmetrics unchanged."""

    def __init__(self, d: int):
        super().__init__()
        self.num_features = d
        self.register_buffer("anchor", torch.zeros(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.reshape(len(x), -1)[:, : self.num_features]


def torchmetrics_fid(x: torch.Tensor, y: torch.Tensor) -> float:
    image = pytest.importorskip("torchmetrics.image.fid")
    metric = image.FrechetInceptionDistance(Identity(x.shape[1]), input_img_size=(1, 1, x.shape[1])).set_dtype(
        torch.float64
    )
    metric.update(x, real=False)
    metric.update(y, real=True)
    return metric.compute().item()


@pytest.mark.parametrize(("n", "m", "d"), [(1000, 1000, 512), (400, 700, 64)])
def test_equal_to_torchmetrics(n, m, d):
    mix = covariance(d, 13)
    x = torch.tensor(30 * normal(n, d, 14) @ mix + 31)
    y = torch.tensor(25 * normal(m, d, 15) + 30)
    with torch.random.fork_rng():
        expected = torchmetrics_fid(x, y)
    assert fid.calculate_fid_score(iter(x.split(100)), iter(y.split(64))) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("d", [512, 7])
def test_any_iterator_of_any_batches(d):
    x, y = torch.tensor(normal(1500, d, 16)), torch.tensor(normal(1200, d, 17))
    expected = fid.calculate_fid_score(iter([x]), iter([y]))

    def one_buffer():  # what a careless reader of a file does
        buffer = np.empty(d)
        for row in x.numpy():
            buffer[:] = row
            yield buffer

    gradients = x.clone().requires_grad_()
    forms = (iter(x), iter(x.numpy()), one_buffer(), x.split(1), x.split(1499), [x[:5], x[5], x[6:].numpy()],
             gradients.split(333), [x[:0], x])  # fmt: skip
    for form in forms:
        assert fid.calculate_fid_score(form, iter(y)) == pytest.approx(expected, rel=1e-10)


def drifting(n: int, d: int, *path: int) -> np.ndarray:
    """Later rows lie elsewhere: a stream that is cut short has another mean and covariance."""
    return normal(n, d, *path) + np.linspace(0, 5, n)[:, None]


def by_cross_gram(x: np.ndarray, y: np.ndarray) -> float:
    """The definition through singular values of the cross-Gram matrix: no covariance is formed."""
    a, b = ((z - z.mean(0)) / math.sqrt(len(z) - 1) for z in (x, y))
    nuclear = np.linalg.svd(a @ b.T, compute_uv=False).sum()
    return ((x.mean(0) - y.mean(0)) ** 2).sum() + (a**2).sum() + (b**2).sum() - 2 * nuclear


@pytest.mark.parametrize("d", [1, 7, 8, 9, 17])
@pytest.mark.parametrize("block", [1, 8, 16])
def test_streams_at_below_and_above_every_inner_size(monkeypatch, block, d):
    """Blocks of 8 rows stand for the 1,024 of real ones: what is at work is their order of size beside d and n."""
    monkeypatch.setattr(fid, "BLOCK", block)
    y = drifting(23, d, 60)
    sizes = {2, block - 1, block, block + 1, 2 * block, d - 1, d, d + 1, d + 2, 2 * d, 2 * d + 1, 40}
    for n in filter(lambda n: n > 1, sizes):
        x = drifting(n, d, 61)
        expected = by_cross_gram(x, y)
        for form in (x, [x], [x[:1], x[1:]], np.array_split(x, max(1, n // 3)), [*x[:2], x[2:]]):
            assert fid.calculate_fid_score(iter(form), iter([y])) == pytest.approx(expected, rel=1e-6, abs=1e-9)
            assert fid.calculate_fid_score(iter(y), iter(form)) == pytest.approx(expected, rel=1e-6, abs=1e-9)
            found = fid.moments(iter(form))
            assert found.count == n
            assert np.allclose(found.mean, x.mean(axis=0)) and np.allclose(found.cov, np.cov(x.T).reshape(d, d))


@pytest.mark.parametrize("d", [1023, 1024, 1025])
def test_streams_as_wide_as_a_block_is_long(d):
    y = drifting(d // 2, d, 62)
    for n in (d, d + 1, 2 * d):
        x = drifting(n, d, 63)
        found = fid.calculate_fid_score(iter(np.array_split(x, 7)), iter(y))
        assert found == pytest.approx(by_cross_gram(x, y), rel=1e-6), n


def test_any_type_of_torch():
    x, y = torch.tensor(normal(80, 6, 64)), torch.tensor(normal(70, 6, 65))
    for kind in (torch.bfloat16, torch.float16, torch.float32):
        a, b = x.to(kind), y.to(kind)
        exact = fid.calculate_fid_score([a.double()], [b.double()])
        assert fid.calculate_fid_score(iter(a), iter([b])) == pytest.approx(exact, rel=1e-9)
        assert fid.scores(a, b) == fid.scores(a.double(), b.double())
        mean, cov = b.mean(dim=0), torch.eye(6, dtype=kind)
        assert fid.frechet_distance(mean, cov, 0 * mean, cov) == pytest.approx((mean.double() ** 2).sum().item())


def test_a_large_common_mean_costs_no_digits():
    """float32 features at 3,000 ± 1: sums of squares in float32 or uncentred lose the covariance."""
    x = (3000 + normal(5000, 16, 18)).astype(np.float32)
    found = fid.moments(iter(np.array_split(x, 7)))
    assert np.allclose(found.cov, np.cov(x.astype(np.float64).T), rtol=1e-10, atol=1e-10)
    assert np.allclose(found.mean, x.astype(np.float64).mean(axis=0), rtol=1e-14)
    y = x.astype(np.float64) + 1e-3
    assert fid.calculate_fid_score(iter(x), iter(y)) == pytest.approx(16e-6, rel=1e-5)


def test_moments_merge_and_part():
    x = 5 + normal(300, 20, 19)
    whole, a, b = (fid.Moments.of(part) for part in (x, x[:40], x[40:]))
    for found, expected in ((a.merge(b), whole), (b.merge(a), whole), (whole.without(a), b), (whole.without(b), a)):
        assert found.count == expected.count
        assert np.allclose(found.mean, expected.mean, rtol=1e-12)
        assert np.allclose(found.cov, expected.cov, rtol=1e-10, atol=1e-12)


def test_a_long_stream_needs_no_more_memory_than_a_short_one():
    assert abs(peak(30_000, 32) - peak(3_000, 32)) < 20_000


@pytest.mark.slow
def test_a_million_vectors_in_flat_memory():
    started = time.monotonic()
    long = peak(1_000_000, 512)
    print(f"\n1,000,000 vectors of 512: {time.monotonic() - started:.0f} s, peak {long / 1e6:.1f} MB")
    assert long < 60e6  # the vectors would fill 4 GB
    assert abs(long - peak(20_000, 512)) < 100_000


def peak(n: int, d: int) -> int:
    """Bytes at the most while `n` single vectors stream by."""
    pool = normal(1000, d, 20).astype(np.float32)
    tracemalloc.start()
    try:
        assert fid.moments(itertools.islice(itertools.cycle(pool), n)).count == n
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


GOOD = torch.tensor(normal(10, 4, 21))
BAD = GOOD.clone()
BAD[3, 2] = math.nan


@pytest.mark.parametrize(
    ("features", "message"),
    [
        ([], "iterator is empty"),
        ([GOOD[:1]], "at least 2 feature vectors, got 1"),
        ([GOOD[0]], "at least 2 feature vectors, got 1"),
        ([GOOD[:0]], "at least 2|empty"),
        ([GOOD, GOOD[:, :3]], "width 3 after vectors of width 4"),
        ([GOOD[:, :3]], "width"),
        ([GOOD, BAD], "nan in column 2"),
        ([GOOD, GOOD / 0], "inf in column"),
        ([GOOD[None]], r"shape \(1, 10, 4\)"),
        ([torch.tensor(1.0)], r"shape \(\)"),
        ([[1.0, 2.0]], "type list"),
    ],
)
def test_bad_streams_are_refused(features, message):
    good = [GOOD]
    for arguments in ((iter(features), iter(good)), (iter(good), iter(features))):
        with pytest.raises(ValueError, match=message):
            fid.calculate_fid_score(*arguments)


def test_what_is_no_covariance_is_refused():
    zero, eye = np.zeros(2), np.eye(2)
    for wrong in (
        [[1.0, 2.0], [2.0, 1.0]],
        [[1.0, 0.5], [0.0, 1.0]],
        [[1.0, 0.0], [0.0, math.nan]],
        [[-1.0, 0], [0, 1.0]],
    ):
        with pytest.raises(ValueError, match="not a covariance"):
            fid.frechet_distance(zero, np.array(wrong), zero, eye)
    with pytest.raises(ValueError, match=r"width 3, .* with a covariance of shape"):
        fid.frechet_distance(np.zeros(3), eye, zero, eye)
    with pytest.raises(ValueError, match="width 3 against features of width 2"):
        fid.frechet_distance(np.zeros(3), np.eye(3), zero, eye)
    with pytest.raises(ValueError, match="nan"):
        fid.frechet_distance(zero * math.nan, eye, zero, eye)


# --- errors -----------------------------------------------------------------------------------------------


def spread(draws: list) -> tuple[float, float]:
    """Standard deviation of the values of repeated draws, and the mean of their errors over it."""
    values, errors = (np.array([getattr(draw, f) for draw in draws]) for f in ("value", "stderr"))
    return values.std(ddof=1), errors.mean() / values.std(ddof=1)


@pytest.mark.parametrize(("shift", "scale"), [(0.0, 1.0), (0.3, 1.2)])
@pytest.mark.parametrize(("n", "m", "d"), [(150, 200, 16), (90, 60, 20)])
def test_jackknife_error_is_the_spread_of_repeated_draws(n, m, d, shift, scale):
    """Where the laws agree, too: there a plain jackknife gives half as much again. The spread is known to 9 %."""
    draws = [
        fid.frechet_with_error(normal(n, d, 22, i), shift + scale * normal(m, d, 23, i), seed=i) for i in range(60)
    ]
    assert 0.75 < spread(draws)[1] < 1.3
    assert draws[0].n == n
    values, errors = (np.array([getattr(draw, f) for draw in draws]) for f in ("value", "stderr"))
    assert (np.abs(values - values.mean()) < 2 * errors).mean() > 0.8


def test_jackknife_of_few_vectors_is_on_the_safe_side():
    """Fewer vectors than dimensions: no more than half as much again, never too small."""
    sd = 10 / np.sqrt(np.arange(1, 41))
    draws = [fid.frechet_with_error(normal(30, 40, 22, i) * sd, sd * normal(60, 40, 23, i), seed=i) for i in range(50)]
    assert 0.8 < spread(draws)[1] < 1.7


def test_jackknife_leaves_out_groups_of_both_sets():
    """Against the same by hand, from the rows; `value` is the plain score, so the interval contains it."""
    x, y = normal(23, 5, 24), 1 + 2 * normal(31, 5, 25)
    deals = [np.array_split(torch.randperm(n, generator=generator(4, "groups", of)).numpy(), 6)
             for n, of in ((23, "sample"), (31, "real"))]  # fmt: skip

    def score(*groups):
        rest = [np.delete(z, np.concatenate([[], *(deal[g] for g in groups)]).astype(int), axis=0)
                for z, deal in zip((x, y), deals, strict=True)]  # fmt: skip
        return textbook(*rest)

    one = np.array([score(g) for g in range(6)])
    plain = 5 / 6 * ((one - one.mean()) ** 2).sum()
    pairs = [(0, 1), (1, 2), (2, 3), (3, 4), (4, 5), (5, 0)]
    q = np.array([6 * score() - 5 * (one[g] + one[h]) + 4 * score(g, h) for g, h in pairs])
    found = fid.frechet_with_error(x, y, groups=6, seed=4)
    assert found.value == pytest.approx(score(), rel=1e-9)
    assert found.stderr == pytest.approx(math.sqrt(plain - ((q - q.mean()) ** 2).sum() / 5 / 2), rel=1e-6)


def test_jackknife_of_a_mean_and_of_its_square():
    """A mean: s/√n. |mean|² in d dimensions, mean 0: 2d/n² is the variance, and a plain jackknife says twice that."""
    draws = torch.randn(200, 40, 16, generator=generator(0, "square"), dtype=torch.float64).numpy()

    def rest(x, groups):
        return np.delete(x, groups, axis=0).mean(axis=0)

    for x in draws[:3]:
        error = estimates.jackknife(lambda *groups, x=x: rest(x, groups)[0], 40)
        assert error == pytest.approx(x[:, 0].std(ddof=1) / math.sqrt(40), rel=1e-9)
    squares = [estimates.jackknife(lambda *groups, x=x: (rest(x, groups) ** 2).sum(), 40) ** 2 for x in draws]
    assert np.mean(squares) == pytest.approx(2 * 16 / 40**2, rel=0.15)


def test_errors_do_not_depend_on_the_order_of_a_file():
    """Sorted by class, contiguous groups would each miss a class, and both sets dealt alike the same in both."""
    classes = np.repeat(np.arange(10.0), 40)[:, None] * np.ones(6)
    x, y = classes + normal(400, 6, 26), 1.2 * classes + normal(400, 6, 27)
    shuffled = x[torch.randperm(400, generator=generator(0, "shuffle")).numpy()]
    for scores in (fid.frechet_with_error, fid.kid, lambda a, b: fid.manifold_scores(b, a).density):
        a, b = scores(x, y), scores(shuffled, y)
        assert a.value == pytest.approx(b.value, rel=1e-9)
        assert 0.6 < a.stderr / b.stderr < 1.6


def test_bad_arguments_of_the_errors():
    for few in (1, 2, 3):
        with pytest.raises(ValueError, match=f"at least 4, got {few} in"):
            fid.frechet_with_error(GOOD[:few], GOOD)
    assert fid.frechet_with_error(GOOD[:4], GOOD).stderr > 0
    for groups in (1, 2):
        with pytest.raises(ValueError, match=f"groups is {groups}"):
            fid.frechet_with_error(GOOD, GOOD, groups=groups)
    with pytest.raises(ValueError, match="width 3 against features of width 4"):
        fid.frechet_with_error(GOOD[:, :3], GOOD)
    with pytest.raises(ValueError, match="nan in column 2"):
        fid.frechet_with_error(GOOD, BAD)


# --- precision, recall, density, coverage -----------------------------------------------------------------


def slow_manifold(real: np.ndarray, fake: np.ndarray, k: int) -> list[float]:
    """The four definitions with plain loops over pairs."""

    def distance(a, b):
        return math.sqrt(((a - b) ** 2).sum())

    def radii(x):
        return [sorted(distance(a, b) for j, b in enumerate(x) if j != i)[k - 1] for i, a in enumerate(x)]

    real_radii, fake_radii = radii(real), radii(fake)
    inside = [[distance(r, f) <= radius for f in fake] for r, radius in zip(real, real_radii, strict=True)]
    precision = np.mean([any(row[j] for row in inside) for j in range(len(fake))])
    recall = np.mean([any(distance(r, f) <= s for f, s in zip(fake, fake_radii, strict=True)) for r in real])
    return [precision, recall, np.sum(inside) / (k * len(fake)), np.mean([any(row) for row in inside])]


def values(scores) -> list[float]:
    return [score.value for score in scores]


@pytest.mark.parametrize("k", [1, 3, 5])
def test_manifold_scores_are_their_definitions(k):
    real, fake = normal(60, 3, 28), 0.8 + 0.7 * normal(45, 3, 29)
    expected = slow_manifold(real, fake, k)
    found = fid.manifold_scores(real, fake, k)
    assert values(found) == pytest.approx(expected, rel=1e-12)
    assert len(set(expected)) == 4  # no two could be exchanged unseen
    assert [s.n for s in found] == [45, 60, 45, 60]
    shifted = fid.manifold_scores(torch.tensor(real) + 1e7, torch.tensor(fake) + 1e7, k)
    assert values(shifted) == pytest.approx(expected, rel=1e-12)


def test_manifold_scores_do_not_depend_on_the_chunks(monkeypatch):
    real, fake = normal(130, 4, 30), 0.5 + normal(101, 4, 31)
    expected = fid.manifold_scores(real, fake)
    for pairs in (1, 404, 1 << 13):
        monkeypatch.setattr(fid, "PAIRS", pairs)
        assert fid.manifold_scores(real, fake) == expected


def test_manifold_scores_equal_prdc():
    prdc = pytest.importorskip("prdc", reason="pip install prdc: not on conda, so not in the test extra")
    real, fake = normal(300, 16, 32), 0.3 + 0.9 * normal(250, 16, 33)
    expected = prdc.compute_prdc(real, fake, nearest_k=5)
    found = fid.manifold_scores(real, fake)
    assert found._asdict().keys() == expected.keys()
    for name, estimate in found._asdict().items():
        assert estimate.value == pytest.approx(expected[name], rel=1e-9), name


def test_manifold_scores_at_their_ends():
    x = normal(400, 8, 34)
    assert values(fid.manifold_scores(x, x)) == pytest.approx([1, 1, 6 / 5, 1])  # a closed ball holds itself and k
    assert values(fid.manifold_scores(x, x + 100)) == [0, 0, 0, 0]
    one_mode = fid.manifold_scores(x, 0.01 * normal(400, 8, 35))
    assert one_mode.precision.value == 1 and one_mode.recall.value < 0.05 and one_mode.density.value > 2
    assert fid.manifold_scores(x, x[:12]).recall.stderr >= 0
    with pytest.raises(ValueError, match="two halves, needs at least 12 feature vectors, got 11"):
        fid.manifold_scores(x, x[:11])
    with pytest.raises(ValueError, match="at least 6 feature vectors, got 5"):
        fid.scores(x[:5], x, errors=False)
    with pytest.raises(ValueError, match="k is 0"):
        fid.manifold_scores(x, x, k=0)


@pytest.mark.parametrize("offset", [0, 700])
def test_copies_are_real_and_reachable(offset):
    """Six copies of each vector: with k = 5 every radius is 0, and an open ball would hold nothing."""
    x = np.repeat(normal(40, 30, 53).astype(np.float32) + offset, 6, axis=0)
    found = fid.manifold_scores(x, x)
    assert values(found) == pytest.approx([1, 1, 6 / 5, 1])
    shuffled = x[torch.randperm(240, generator=generator(0, "copies")).numpy()]
    assert values(fid.manifold_scores(x, shuffled)) == pytest.approx([1, 1, 6 / 5, 1])
    half = fid.manifold_scores(x, np.concatenate([x[:120], x[:120] + 50]))
    assert values(half) == pytest.approx([0.5, 0.5, 0.6, 0.5])


def test_a_vector_on_the_boundary_is_inside():
    """The numbers 0 to 19 and k = 2: at 0 a ball of radius 2, so −2 is in it and −2.1 is not."""
    real = np.arange(20.0)[:, None]
    for place, inside in ((-2.0, 1.0), (-2.1, 0.0)):
        fake = np.full((6, 1), place)
        assert fid.manifold_scores(real, fake, k=2).precision.value == inside


@pytest.mark.parametrize(("n", "m", "d", "shift", "scale"), [(150, 150, 8, 0.3, 0.8), (100, 200, 16, 0.2, 1.0)])
def test_manifold_errors_are_the_spread_of_repeated_draws(n, m, d, shift, scale):
    """Of both sets: with balls and the other set held fixed they would be half to three quarters of it."""
    draws = [fid.manifold_scores(normal(m, d, 54, i), shift + scale * normal(n, d, 55, i)) for i in range(120)]
    ratios = {name: spread([getattr(draw, name) for draw in draws])[1] for name in draws[0]._fields}
    assert all(0.75 < ratio < 1.3 for ratio in ratios.values()), ratios
    assert 0.85 < np.mean(list(ratios.values())) < 1.15, ratios


def test_manifold_errors_are_of_halves():
    """Against the definition: scores of halves by plain loops."""
    real, fake, gaps = normal(30, 3, 56), 0.5 + normal(26, 3, 57), []
    for r in range(4):
        orders = [torch.randperm(n, generator=generator(3, "groups", of, r)).numpy()
                  for n, of in ((30, "real"), (26, "sample"))]  # fmt: skip
        masks = [order.argsort() < len(order) // 2 for order in orders]
        one, other = (slow_manifold(real[a], fake[b], 4) for a, b in (masks, [~mask for mask in masks]))
        gaps.append(np.subtract(one, other))
    found = fid.manifold_scores(real, fake, 4, halvings=4, seed=3)
    expected = np.sqrt(np.mean(np.square(gaps), axis=0)) / 2
    assert [e.stderr for e in found] == pytest.approx(expected.tolist(), rel=1e-9)


def test_halves_of_one_crowd_each():
    """Two far crowds of which one half holds nearly all: the k-th neighbour in the own half is far down the list."""
    rows = np.concatenate([normal(70, 2, 58), 1e3 + normal(10, 2, 59)])
    balls = fid._balls(rows, 4, "real", 30, 0)
    for half, squares in zip(balls.half, balls.squares[1:], strict=True):
        for side in (half, ~half):
            inner = np.sort(((rows[side][:, None] - rows[side]) ** 2).sum(axis=2), axis=1)[:, 4]
            assert np.allclose(squares[side], inner, rtol=1e-6)


# --- kernel distance --------------------------------------------------------------------------------------


def slow_kid(fake: np.ndarray, real: np.ndarray, mean: np.ndarray | None = None, sd: np.ndarray | None = None) -> float:
    mean, sd = (real.mean(axis=0), real.std(axis=0, ddof=1)) if mean is None else (mean, sd)
    x, y = (fake - mean) / sd, (real - mean) / sd

    def k(a, b):
        return (a @ b / len(a) + 1) ** 3

    def within(z):
        return np.mean([k(a, b) for i, a in enumerate(z) for j, b in enumerate(z) if i != j])

    return within(x) + within(y) - 2 * np.mean([k(a, b) for a in x for b in y])


def test_kid_is_its_definition_and_its_error_a_jackknife():
    fake, real = 7 * (0.5 + normal(23, 6, 36)) + 100, 7 * normal(31, 6, 37) + 100
    found = fid.kid(fake, real, groups=5)
    assert found.value == pytest.approx(slow_kid(fake, real), rel=1e-9)
    assert fid.kid(torch.tensor(fake), real, groups=23).value == pytest.approx(found.value, rel=1e-9)
    mean, sd = real.mean(axis=0), real.std(axis=0, ddof=1)
    deals = [fid._deal(23, 5, 0, "sample"), fid._deal(31, 5, 0, "real")]

    def score(*groups):
        rest = [np.delete(z, np.concatenate([[], *(deal[g] for g in groups)]).astype(int), axis=0)
                for z, deal in zip((fake, real), deals, strict=True)]  # fmt: skip
        return slow_kid(*rest, mean, sd)

    assert found.stderr == pytest.approx(estimates.jackknife(score, 5), rel=1e-9)


def test_kid_equals_torchmetrics():
    kid = pytest.importorskip("torchmetrics.image.kid")
    fake, real = torch.tensor(0.3 + normal(50, 20, 38)), torch.tensor(normal(50, 20, 39))
    standard = [(z - real.mean(dim=0)) / real.std(dim=0) for z in (fake, real)]
    expected = kid.poly_mmd(*standard).item()
    assert fid.kid(fake, real).value == pytest.approx(expected, rel=1e-9)


def test_kid_has_hardly_any_bias_and_an_honest_error():
    draws = [fid.kid(normal(40, 10, 40, i), normal(60, 10, 41, i)) for i in range(150)]
    assert abs(np.mean([d.value for d in draws])) < 3.5 * spread(draws)[0] / math.sqrt(150)
    assert 0.75 < spread(draws)[1] < 1.3, "a plain jackknife gives two fifths more where the laws agree"
    shifted = [fid.kid(0.4 + normal(80, 10, 42, i), normal(80, 10, 43, i)) for i in range(100)]
    assert np.mean([d.value for d in shifted]) > 3 * spread(shifted)[0]
    assert 0.75 < spread(shifted)[1] < 1.3


def test_kid_of_a_given_standardisation_has_no_bias_and_of_a_small_sample_an_upward_one():
    """What the docstring says: 100 v 50 vectors of 512 features."""
    own, given = [], []
    for i in range(40):
        x, y = normal(100, 512, 66, i), normal(50, 512, 67, i)
        own.append(fid.kid(x, y).value)
        dealt = [fid._Dealt.of(z, 5, 0, "real") for z in (x, y)]
        given.append(fid._kid(*dealt, errors=False).value)
    assert abs(np.mean(given)) < 3.5 * np.std(given) / math.sqrt(40)
    assert 0.003 < np.mean(own) < 0.008


def test_kid_survives_a_dead_feature():
    fake, real = normal(30, 4, 44), normal(30, 4, 45)
    for constant in (0.0, 3.1, 1e-20 * normal(30, 1, 68)[:, 0], 3.1 + 1e-9 * normal(30, 1, 69)[:, 0]):
        real[:, 2] = constant  # up to rounding, as a network in float32 gives it
        assert abs(fid.kid(fake, real).value) < 100
    assert fid.kid(fake[:, :2] * 1e6, real[:, :2] * 1e6).value == pytest.approx(
        fid.kid(fake[:, :2], real[:, :2]).value, rel=1e-6
    )


# --- all scores and the floor -----------------------------------------------------------------------------


def test_all_scores_are_those_of_their_functions():
    fake, real = 0.2 + normal(150, 6, 46), normal(200, 6, 47)
    found = fid.scores(fake, real)
    assert (found.n, found.m) == (150, 200)
    assert found.fid == fid.frechet_with_error(fake, real)
    assert found.kid.value == pytest.approx(fid.kid(fake, real).value, rel=1e-12)
    assert found.kid.stderr == pytest.approx(fid.kid(fake, real).stderr, rel=1e-12)
    assert (found.precision, found.recall, found.density, found.coverage) == fid.manifold_scores(real, fake)
    few = fid.scores(fake[:12], real)
    assert few.fid == fid.frechet_with_error(fake[:12], real)
    prepared = fid.RealSet(torch.tensor(real))
    assert fid.scores(torch.tensor(fake), prepared) == found
    fast = fid.scores(fake, prepared, errors=False)
    assert fast.fid.value == pytest.approx(found.fid.value, rel=1e-10) and math.isnan(fast.fid.stderr)
    for name in fid.SCORES:
        assert getattr(fast, name).value == pytest.approx(getattr(found, name).value, rel=1e-10)
        assert math.isnan(getattr(fast, name).stderr)
    with pytest.raises(ValueError, match="width 5 against features of width 6"):
        fid.scores(fake[:, :5], prepared)


def test_floor_is_the_score_of_fresh_real_samples():
    """Its error is the spread of one set of real vectors against one test set, both drawn anew."""
    fresh = [fid.scores(normal(150, 6, 49, i), normal(100, 6, 48, i), errors=False) for i in range(120)]
    floors = [fid.real_floor(normal(200, 6, 50, i), normal(100, 6, 52, i), 150, repeats=2) for i in range(40)]
    ratios = []
    for name in fid.SCORES:
        expected = np.array([getattr(s, name).value for s in fresh])
        means, errors = (np.array([getattr(getattr(f, name), part) for f in floors]) for part in ("value", "stderr"))
        sd = expected.std(ddof=1)
        assert abs(means.mean() - expected.mean()) < 3.5 * sd * math.sqrt(1 / 40 + 1 / 120), name
        ratios.append(errors.mean() / sd)
        assert 0.7 < ratios[-1] < 1.4, name
    assert 0.85 < np.exp(np.log(ratios).mean()) < 1.2, ratios
    assert (floors[0].n, floors[0].m, floors[0].fid.n) == (150, 100, 150)


def test_floor_draws_from_everywhere_with_its_seed():
    """A file sorted by class: its first rows are of one class only."""
    train, test = np.repeat(np.eye(4), 30, axis=0) * 9 + normal(120, 4, 51), np.tile(np.eye(4), (15, 1)) * 9
    test = test + normal(60, 4, 52)
    floor = fid.real_floor(train, test, 60, repeats=3)
    assert floor == fid.real_floor(torch.tensor(train), test, 60, repeats=3)
    assert floor != fid.real_floor(train, test, 60, repeats=3, seed=1)
    assert floor.fid.value < 0.2 * fid.scores(train[:60], test, errors=False).fid.value
    draws = [train[torch.randperm(120, generator=generator(0, "floor", i))[:60].numpy()] for i in range(3)]
    by_hand = [fid.scores(draw, test) for draw in draws]
    assert floor.kid.value == pytest.approx(np.mean([s.kid.value for s in by_hand]), rel=1e-9)
    assert floor.recall.stderr == by_hand[0].recall.stderr
    assert fid.real_floor(train, test, 120, repeats=1).fid.value == pytest.approx(fid.scores(train, test).fid.value)
    for n, repeats in ((121, 3), (0, 3), (30, 0)):
        with pytest.raises(ValueError, match="draws of"):
            fid.real_floor(train, test, n, repeats=repeats)


# --- memory -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("copies", [False, True])
def test_all_scores_in_bounded_memory(monkeypatch, copies):
    """Distances of all to all would be 8 MB; also where every vector lies in every ball."""
    monkeypatch.setattr(fid, "PAIRS", 1 << 13)
    x, y = normal(1000, 4, 70), normal(1000, 4, 71)
    if copies:
        x, y = 0 * x, 0 * y
        x[0], y[0] = 1, 1
    tracemalloc.start()
    try:
        fid.scores(x, y)
        peak_bytes = tracemalloc.get_traced_memory()[1]
        print(f"\npeak {peak_bytes / 1e6:.1f} MB")
        assert peak_bytes < 4e6
    finally:
        tracemalloc.stop()


FULL_SIZE = """
import resource, sys
import numpy as np
from labutils import fid
rows = [np.random.default_rng(i).standard_normal((20_000, 512), dtype=np.float32) for i in range(2)]
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
fid.scores(*rows)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 2**20)
"""


@pytest.mark.slow
def test_all_scores_of_sets_as_papers_use_them():
    pytest.importorskip("resource")
    started = time.monotonic()
    done = subprocess.run([sys.executable, "-c", FULL_SIZE], capture_output=True, text=True, check=True)
    print(f"\n20,000 v 20,000 vectors of 512: {time.monotonic() - started:.0f} s, {float(done.stdout):.2f} GiB more")
    assert float(done.stdout) < 1.5
