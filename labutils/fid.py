"""Scores of samples against real data, in the feature space of a frozen network.

Fréchet distance (Heusel et al., "GANs Trained by a Two Time-Scale Update Rule", 2017), precision and recall
(Kynkäänniemi et al. 2019), density and coverage (Naeem et al. 2020), kernel distance (Bińkowski et al. 2018). Each
comes with an error and its sample sizes, and means something only beside its *floor*: the same score of real data.

An error here is the standard error over repeated draws of both sets at these sizes. The bias of a small sample
is not in it: a Fréchet distance of 1,000 samples lies above that of 10,000 by far more than its error, so compare
equal sizes only.

Features are torch tensors or NumPy arrays, one row an image, of any float type; all arithmetic is in float64.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Float64
from scipy.linalg import eigh
from scipy.linalg.lapack import dpstrf
from torch import Tensor

from . import estimates
from .estimates import Estimate
from .training import generator

AnyVector = Float[Tensor, " _d"] | Float[np.ndarray, " _d"]
AnyMatrix = Float[Tensor, "_n _d"] | Float[np.ndarray, "_n _d"]
Features = AnyMatrix  # one row an image
Vector, Matrix = Float64[np.ndarray, " _d"], Float64[np.ndarray, "_r _c"]
BLOCK = 1024  # rows that a stream gathers before it updates its moments
PAIRS = 1 << 22  # distances held at once, 32 MB


# --- moments ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Moments:
    """count; mean (d,); scatter (d, d), the sum of (x − mean)(x − mean)ᵀ."""

    count: int
    mean: Vector
    scatter: Matrix

    @staticmethod
    def of(rows: Features) -> Moments:
        rows = _rows(rows, "features")
        mean = rows.mean(axis=0)
        centred = rows - mean
        return Moments(len(rows), mean, centred.T @ centred)

    @property
    def cov(self) -> Matrix:
        """Covariance with the n−1 denominator; ValueError for fewer than two vectors."""
        _at_least(2, self.count)
        return self.scatter / (self.count - 1)

    @property
    def root(self) -> Matrix:
        return covariance_root(self.cov)

    def merge(self, other: Moments) -> Moments:
        """Moments of both sets together (Chan, Golub and LeVeque 1979, eq. 2.1)."""
        return self._shift(other, 1)

    def without(self, part: Moments) -> Moments:
        """Moments of what is left when `part`, a subset, is taken out: `merge` read backwards."""
        return self._shift(part, -1)

    def _shift(self, other: Moments, sign: int) -> Moments:
        count = self.count + sign * other.count
        step = other.mean - self.mean
        weight = sign * other.count * self.count / count
        mean = self.mean + sign * other.count / count * step
        scatter = self.scatter + sign * other.scatter
        scatter += weight * np.outer(step, step)
        return Moments(count, mean, scatter)


def moments(features: Iterable[Tensor | np.ndarray]) -> Moments:
    """Moments of a stream of (d,) vectors or (batch, d) batches, in memory that does not grow with its length."""
    blocks = _blocks(features, "features")
    return _merged(next(blocks), blocks)


def _merged(first: Matrix, blocks: Iterable[Matrix]) -> Moments:
    found = Moments.of(first)
    for rows in blocks:
        found = found.merge(Moments.of(rows))
    return found


def _blocks(features: Iterable[Tensor | np.ndarray], name: str) -> Iterator[Matrix]:
    """The stream regrouped into checked float64 blocks: single vectors are too small to be worth a matrix product.

    A block holds at least as many rows as the features are wide, so that a shorter stream is one block.
    Rows are copied out at once: an iterator may yield the same buffer again and again.
    """
    buffer, filled, empty = None, 0, True
    for item in features:
        rows = item.detach().cpu().numpy() if isinstance(item, Tensor) else item
        if not isinstance(rows, np.ndarray) or rows.ndim not in (1, 2):
            kind = f"shape {rows.shape}" if isinstance(rows, np.ndarray) else f"type {type(item).__name__}"
            raise ValueError(f"{name}: an item of {kind}; the iterator yields (d,) vectors or (batch, d) batches")
        if buffer is None:
            buffer = np.empty((max(BLOCK, rows.shape[-1]), rows.shape[-1]))
        if rows.shape[-1] != buffer.shape[1]:
            raise ValueError(f"{name}: a vector of width {rows.shape[-1]} after vectors of width {buffer.shape[1]}")
        rows = rows[None] if rows.ndim == 1 else rows
        empty = empty and not len(rows)
        while len(rows):
            taken = min(len(rows), len(buffer) - filled)
            buffer[filled : filled + taken] = rows[:taken]
            rows, filled = rows[taken:], filled + taken
            if filled == len(buffer):
                yield _rows(buffer, name)
                filled = 0
    if empty:
        raise ValueError(f"{name}: the iterator is empty; it may have been used up before")
    if filled:
        yield _rows(buffer[:filled], name)


def _rows(features: Features, name: str) -> Matrix:
    """Checked float64 rows: a view of a float64 array, a copy of anything else."""
    rows = features.detach().cpu().numpy() if isinstance(features, Tensor) else np.asarray(features)
    if rows.ndim != 2:
        raise ValueError(f"{name}: shape {rows.shape}; expected (n, d), one row an image")
    rows = rows.astype(np.float64, copy=False)
    if not np.isfinite(rows).all():
        row, column = np.argwhere(~np.isfinite(rows))[0]
        raise ValueError(f"{name}: {rows[row, column]} in column {column}; features must be finite")
    return rows


def _at_least(n: int, count: int, what: str = "a covariance") -> None:
    if count < n:
        raise ValueError(f"{what} needs at least {n} feature vectors, got {count}")


def _pair(x: Features, y: Features) -> tuple[Matrix, Matrix]:
    x, y = _rows(x, "first set"), _rows(y, "second set")
    _same_width(x.shape[1], y.shape[1])
    return x, y


def _same_width(p: int, q: int) -> None:
    if p != q:
        raise ValueError(f"features of width {p} against features of width {q}; use one feature network for both")


# --- Fréchet distance -------------------------------------------------------------------------------------


def calculate_fid_score(
    sample_feature_iterator: Iterable[Tensor | np.ndarray], testset_feature_iterator: Iterable[Tensor | np.ndarray]
) -> float:
    """‖μ_p − μ_q‖² + Tr(Σ_p + Σ_q − 2(Σ_pΣ_q)^½) of two streams of features, in constant memory.

    Iterators yield (d,) vectors or (batch, d) batches, torch or NumPy; d is 512 in this lab, but any will do.
    Covariances have the n−1 denominator. Raises ValueError for an empty stream, fewer than two vectors,
    different widths, another number of dimensions, or a feature that is not finite.
    """
    p, q = _gather(sample_feature_iterator, "samples"), _gather(testset_feature_iterator, "test set")
    _same_width(len(p.mean), len(q.mean))
    if isinstance(p, Moments) and isinstance(q, Moments):
        return _moments_distance(p, q)
    return _not_negative(((p.mean - q.mean) ** 2).sum() + _root_distance(p.root, q.root))


def frechet_distance(mu_p: AnyVector, cov_p: AnyMatrix, mu_q: AnyVector, cov_q: AnyMatrix) -> float:
    """Squared Fréchet (2-Wasserstein) distance of N(mu_p, cov_p) and N(mu_q, cov_q); torch or NumPy.

    Dowson and Landau 1982, eq. 4. ValueError for a mean that is not finite or not as wide as its covariance, and
    for a matrix that is not a covariance.
    """
    mu_p, cov_p, mu_q, cov_q = (np.asarray(a, dtype=np.float64) for a in (mu_p, cov_p, mu_q, cov_q))
    for mu, cov in ((mu_p, cov_p), (mu_q, cov_q)):
        if cov.shape != (len(mu), len(mu)) or not np.isfinite(mu).all():
            raise ValueError(f"a mean of width {len(mu)}, {mu}, with a covariance of shape {cov.shape}")
        if not np.abs(cov - cov.T).max() <= 1e-8 * np.trace(cov):
            raise ValueError("the matrix is not a covariance: expected it finite and symmetric")
    _same_width(len(mu_p), len(mu_q))
    return _not_negative(((mu_p - mu_q) ** 2).sum() + _covariance_distance(cov_p, cov_q))


class _Few(NamedTuple):
    """No more vectors than dimensions: the centred vectors are a root of the covariance, and a smaller one."""

    mean: Vector
    root: Matrix


def _gather(features: Iterable[Tensor | np.ndarray], name: str) -> Moments | _Few:
    blocks = _blocks(features, name)
    first = next(blocks)
    if len(first) <= first.shape[1]:  # all there is
        _at_least(2, len(first), name)
        mean = first.mean(axis=0)
        return _Few(mean, (first - mean).T / math.sqrt(len(first) - 1))
    return _merged(first, blocks)


def _not_negative(distance: float) -> float:
    return 0.0 if distance < 0 else float(distance)  # by rounding only; NaN stays NaN


def _covariance_distance(p: Matrix, q: Matrix) -> float:
    """Tr(p + q − 2(pq)^½), from the eigenvalues of pq, those of the symmetric LᵀpL where q = LLᵀ.

    An eigenvalue is off by about ε‖p‖‖q‖, a root by at most the root of that, in sum some 1e-9 of the traces even for
    nearly singular matrices. Where one is singular, or comes out negative, roots of the matrices are used instead.
    """
    try:
        squares = eigh(p, q, type=2, eigvals_only=True, driver="gv", check_finite=False)
    except np.linalg.LinAlgError:
        squares = np.zeros(1)
    if squares[0] > 0:
        return np.trace(p) + np.trace(q) - 2 * np.sqrt(squares).sum()
    return _root_distance(covariance_root(p), covariance_root(q))


def _root_distance(a: Matrix, b: Matrix) -> float:
    """The same from any roots, p = aaᵀ and q = bbᵀ: pq has the eigenvalues of (aᵀb)(aᵀb)ᵀ, so Tr(pq)^½ = ‖aᵀb‖_*."""
    nuclear = np.linalg.svd(a.T @ b, compute_uv=False).sum()
    return np.vdot(a, a) + np.vdot(b, b) - 2 * nuclear


def _moments_distance(p: Moments, q: Moments) -> float:
    return _not_negative(((p.mean - q.mean) ** 2).sum() + _covariance_distance(p.cov, q.cov))


def covariance_root(cov: Matrix) -> Matrix:
    """A matrix A (d, rank) with AAᵀ = cov, by Cholesky decomposition with pivoting, which finds the rank.

    ValueError if cov is not positive semi-definite.
    """
    packed, pivots, rank, _ = dpstrf(cov, lower=1)
    root = np.zeros((len(cov), rank))
    root[pivots - 1] = np.tril(packed)[:, :rank]
    if not abs(np.vdot(root, root) - np.trace(cov)) <= 1e-8 * np.trace(cov):
        raise ValueError("the matrix is not a covariance: expected it finite and positive semi-definite")
    return root


def frechet_with_error(x: Features, y: Features, groups: int = 20, seed: int = 0) -> Estimate:
    """The Fréchet distance of two sets of features with its standard error, by a grouped jackknife over both.

    Each set is dealt at random into `groups`; the distance is computed again without each group in turn, and
    (G−1)/G Σ_g (d_g − mean)² is summed over both sets (Efron and Tibshirani 1993, eq. 11.5, for groups). A
    bootstrap would repeat points, which narrows the covariance and raises the distance. The error says how the
    distance varies over new sets of these sizes, around its expectation *at these sizes*: bias is not in it.
    """
    x, y = _pair(x, y)
    sets = [Moments.of(x), Moments.of(y)]
    for m in sets:
        _at_least(3, m.count, "a jackknife")
    variance = 0.0
    for rows, whole, other in ((x, *sets), (y, *sets[::-1])):
        rest = (whole.without(Moments.of(rows[group])) for group in _deal(len(rows), groups, seed))
        variance += _jackknife([_moments_distance(m, other) for m in rest])
    return Estimate(_moments_distance(*sets), math.sqrt(variance), len(x))


def _deal(n: int, groups: int, seed: int) -> list[np.ndarray]:
    """Row numbers of random groups of nearly equal size: files are often sorted by class."""
    if groups < 2:
        raise ValueError(f"groups is {groups}; a jackknife needs at least 2")
    order = torch.randperm(n, generator=generator(seed, "groups")).numpy()
    return np.array_split(order, min(groups, n))


def _jackknife(left_out: list[float] | Vector) -> float:
    return float((len(left_out) - 1) * np.var(left_out))


# --- precision and recall ---------------------------------------------------------------------------------


class ManifoldScores(NamedTuple):
    """Errors are over the averaged items, with the balls and the other set held fixed."""

    precision: Estimate  # share of fakes inside a ball of the real set: does a sample look real?
    recall: Estimate  # share of real ones inside a ball of the fakes: can the model make it?
    density: Estimate  # balls of the real set around a fake, over k; 1 where both laws agree
    coverage: Estimate  # share of balls of the real set with a fake in them


def manifold_scores(real: Features, fake: Features, k: int = 5) -> ManifoldScores:
    """Precision and recall (Kynkäänniemi et al. 2019, eq. 1 and 2), density and coverage (Naeem et al. 2020, eq. 1-5).

    A ball around each vector reaches to its k-th nearest neighbour in its own set; its boundary is outside.
    ValueError for a set of k vectors or fewer.
    """
    real, fake = _pair(real, fake)
    return _manifold_scores(real, fake, _balls(real, k), _balls(fake, k), k)


def _manifold_scores(real: Matrix, fake: Matrix, real_balls: Vector, fake_balls: Vector, k: int) -> ManifoldScores:
    around = np.zeros(len(fake))
    reached, covered = [], []
    for rows, squares in _square_distances(real, fake):
        inside = squares < real_balls[rows, None]
        around += inside.sum(axis=0)
        covered.append(inside.any(axis=1))
        reached.append((squares < fake_balls).any(axis=1))
    items = (around > 0, np.concatenate(reached), around / k, np.concatenate(covered))
    return ManifoldScores(*(estimates.mean(torch.as_tensor(v, dtype=torch.float64)) for v in items))


def _square_distances(x: Matrix, y: Matrix) -> Iterator[tuple[slice, Matrix]]:
    """Squared distances of some rows of x to all of y, PAIRS at a time."""
    centre = y.mean(axis=0)  # small numbers: |a|² + |b|² − 2ab loses what they have in common
    x, y = x - centre, y - centre
    y_squares = (y**2).sum(axis=1)
    step = max(1, PAIRS // len(y))
    for start in range(0, len(x), step):
        rows = slice(start, start + step)
        yield rows, (x[rows] ** 2).sum(axis=1)[:, None] + y_squares - 2 * x[rows] @ y.T


def _balls(x: Matrix, k: int) -> Vector:
    """Squared distance of each row to its k-th neighbour, less a hair: a vector on the boundary stays outside."""
    if k < 1:
        raise ValueError(f"k is {k}; expected at least 1 neighbour")
    _at_least(k + 1, len(x), f"a ball around {k} neighbours")
    nearest = [np.partition(squares, k, axis=1)[:, k] for _, squares in _square_distances(x, x)]
    return np.concatenate(nearest) * (1 - 1e-9)


# --- kernel distance --------------------------------------------------------------------------------------


def kid(fake: Features, real: Features, groups: int = 20, seed: int = 0) -> Estimate:
    """Squared maximum mean discrepancy with the kernel (a·b/d + 1)³, unbiased, of *standardised* features.

    Bińkowski et al. 2018, eq. 4. Both sets are first shifted and scaled by the real set's mean and standard
    deviation of each feature (one that never varies there is only shifted), since the cube of raw features is ruled
    by the few largest. All pairs are used, no subsets. Unlike the Fréchet distance it has no bias from small samples,
    so it can be negative. The error is a grouped jackknife's over both sets, the standardisation held fixed.
    """
    fake, real = _pair(fake, real)
    centre, scale = _standard(real)
    x = _deal_out((fake - centre) / scale, groups, seed)
    y = _deal_out((real - centre) / scale, groups, seed)
    return _kid(x, y, _kernel_sums(y, y))


def _standard(real: Matrix) -> tuple[Vector, Vector]:
    _at_least(3, len(real), "a kernel distance with its error")
    sd = real.std(axis=0, ddof=1)
    return real.mean(axis=0), np.where(sd > 0, sd, 1.0)


def _deal_out(rows: Matrix, groups: int, seed: int) -> list[Matrix]:
    _at_least(3, len(rows), "a kernel distance with its error")
    return [rows[group] for group in _deal(len(rows), groups, seed)]


def _kernel_sums(x: list[Matrix], y: list[Matrix]) -> Matrix:
    """Σ k(a, b) over each pair of groups; of a set with itself, without the pairs of a vector with itself."""
    joined = np.concatenate(y)
    starts = np.cumsum([0, *(len(b) for b in y[:-1])])
    d = joined.shape[1]
    sums = [np.add.reduceat(((a @ joined.T / d + 1) ** 3).sum(axis=0), starts) for a in x]
    alone = [(((a**2).sum(axis=1) / d + 1) ** 3).sum() for a in x] if x is y else np.zeros(len(x))
    return np.array(sums) - (np.diag(alone) if x is y else 0.0)


def _kid(x: list[Matrix], y: list[Matrix], within_y: Matrix) -> Estimate:
    within_x, across = _kernel_sums(x, x), _kernel_sums(x, y)
    sizes_x, sizes_y = np.array([len(a) for a in x]), np.array([len(b) for b in y])

    def value(keep_x: np.ndarray, keep_y: np.ndarray) -> float:
        n, m = keep_x @ sizes_x, keep_y @ sizes_y
        own = keep_x @ within_x @ keep_x / (n * (n - 1)) + keep_y @ within_y @ keep_y / (m * (m - 1))
        return float(own - 2 * keep_x @ across @ keep_y / (n * m))

    all_x, all_y = np.ones(len(x)), np.ones(len(y))
    variance = _jackknife([value(keep, all_y) for keep in 1 - np.eye(len(x))])
    variance += _jackknife([value(all_x, keep) for keep in 1 - np.eye(len(y))])
    return Estimate(value(all_x, all_y), math.sqrt(variance), int(sizes_x.sum()))


# --- all scores, and their floor --------------------------------------------------------------------------


@dataclass(frozen=True)
class Scores:
    """Every score of n vectors against m real ones."""

    fid: Estimate
    kid: Estimate
    precision: Estimate
    recall: Estimate
    density: Estimate
    coverage: Estimate
    n: int
    m: int


SCORES = tuple(f.name for f in fields(Scores))[:6]


class RealSet:
    """Real features with what each score needs of them, computed once: for several models, a ladder, a floor.

    k: neighbours of precision, recall, density and coverage; groups: of the jackknife.
    """

    def __init__(self, features: Features, k: int = 5, groups: int = 20, seed: int = 0):
        self.rows, self.k, self.groups, self.seed = _rows(features, "real set"), k, groups, seed
        self.centre, self.scale = _standard(self.rows)
        self.moments = Moments.of(self.rows)
        self.balls = _balls(self.rows, k)
        self.standardised = _deal_out((self.rows - self.centre) / self.scale, groups, seed)
        self.kernel_sums = _kernel_sums(self.standardised, self.standardised)


def scores(sample: Features, test: Features | RealSet, *, fid_error: bool = True) -> Scores:
    """All scores of a sample's features against those of the test set.

    fid_error: with the jackknife of the Fréchet distance, forty times the work of the distance; else it is NaN.
    """
    real = test if isinstance(test, RealSet) else RealSet(test)
    sample, _ = _pair(sample, real.rows)
    if fid_error:
        fid = frechet_with_error(sample, real.rows, real.groups, real.seed)
    else:
        fid = Estimate(_moments_distance(Moments.of(sample), real.moments), math.nan, len(sample))
    groups = _deal_out((sample - real.centre) / real.scale, real.groups, real.seed)
    kernel = _kid(groups, real.standardised, real.kernel_sums)
    manifold = _manifold_scores(real.rows, sample, real.balls, _balls(sample, real.k), real.k)
    return Scores(fid, kernel, *manifold, n=len(sample), m=len(real.rows))


def real_floor(train: Features, test: Features | RealSet, n: int, repeats: int = 10, seed: int = 0) -> Scores:
    """Real against real: the scores of `n` random training crops against the test crops, over `repeats` draws.

    Each value is a mean over draws; its error is the standard deviation of *one* draw, to lay beside one set of samples
    (not the smaller error of the mean). Draws from N crops overlap: the spread is corrected by √(1 − n/N) for that.
    ValueError unless 2 ≤ repeats and n < N.
    """
    train = _rows(train, "training set")
    if not (0 < n < len(train) and repeats >= 2):
        raise ValueError(f"{repeats} draws of {n} out of {len(train)} real vectors; expected 2 or more, of fewer")
    real = test if isinstance(test, RealSet) else RealSet(test)
    draws = []
    for i in range(repeats):
        chosen = torch.randperm(len(train), generator=generator(seed, "floor", i))[:n].numpy()
        draws.append(scores(train[chosen], real, fid_error=False))
    overlap = math.sqrt(1 - n / len(train))
    found = {name: np.array([getattr(draw, name).value for draw in draws]) for name in SCORES}
    summary = {name: Estimate(float(v.mean()), float(v.std(ddof=1) / overlap), n) for name, v in found.items()}
    return Scores(**summary, n=n, m=len(real.rows))
