"""Scores of samples against real data, in the feature space of a frozen network.

Fréchet distance (Heusel et al., "GANs Trained by a Two Time-Scale Update Rule", 2017), precision and recall
(Kynkäänniemi et al. 2019), density and coverage (Naeem et al. 2020), kernel distance (Bińkowski et al. 2018). Each
comes with an error and its sample sizes, and means something only beside its *floor*: the same score of real data.

Every error here is one thing: the standard deviation of the score over repeated draws of *both* sets at these sizes, by
a jackknife that leaves out groups of both (distances) or by halving both (counts in balls). It is itself known to a
quarter or so, and where two laws agree to a half.
Not in it: the seed of a model's training, and the bias of a small sample. A Fréchet distance of 1,000 samples lies
above that of 10,000 by far more than its error, so compare equal sizes only.

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
from scipy.linalg import eigvalsh, helmert
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

    A block holds more rows than the features are wide: a first block that does not is the whole stream.
    Rows are copied out at once: an iterator may yield the same buffer again and again.
    """
    buffer, filled, empty = None, 0, True
    for item in features:
        rows = _array(item) if isinstance(item, Tensor) else item
        if not isinstance(rows, np.ndarray) or rows.ndim not in (1, 2):
            kind = f"shape {rows.shape}" if isinstance(rows, np.ndarray) else f"type {type(item).__name__}"
            raise ValueError(f"{name}: an item of {kind}; the iterator yields (d,) vectors or (batch, d) batches")
        if buffer is None:
            buffer = np.empty((max(BLOCK, rows.shape[-1] + 1), rows.shape[-1]))
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


def _array(values: Tensor | np.ndarray) -> np.ndarray:
    """float64, since NumPy lacks some of torch's types; a view of what is float64 already."""
    values = values.detach().cpu().double().numpy() if isinstance(values, Tensor) else np.asarray(values)
    return values.astype(np.float64, copy=False)


def _rows(features: Features, name: str) -> Matrix:
    """Checked float64 rows: a view of a float64 array, a copy of anything else."""
    rows = _array(features)
    if rows.ndim != 2 or not rows.shape[1]:
        raise ValueError(f"{name}: shape {rows.shape}; expected (n, d), one row an image")
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
    mu_p, cov_p, mu_q, cov_q = (_array(a) for a in (mu_p, cov_p, mu_q, cov_q))
    for mu, cov in ((mu_p, cov_p), (mu_q, cov_q)):
        if cov.shape != (len(mu), len(mu)) or not np.isfinite(mu).all():
            raise ValueError(f"a mean of width {len(mu)}, {mu}, with a covariance of shape {cov.shape}")
        if not np.abs(cov - cov.T).max() <= 1e-8 * np.trace(cov):
            raise ValueError("the matrix is not a covariance: expected it finite and symmetric")
    _same_width(len(mu_p), len(mu_q))
    return _not_negative(((mu_p - mu_q) ** 2).sum() + _covariance_distance(cov_p, cov_q))


class _Few(NamedTuple):
    """No more vectors than dimensions: of n centred vectors n − 1 combinations are a root of the covariance."""

    mean: Vector
    root: Matrix


def _gather(features: Iterable[Tensor | np.ndarray], name: str) -> Moments | _Few:
    blocks = _blocks(features, name)
    first = next(blocks)
    if len(first) <= first.shape[1]:  # all there is
        _at_least(2, len(first), name)
        mean = first.mean(axis=0)
        return _Few(mean, (helmert(len(first)) @ (first - mean)).T / math.sqrt(len(first) - 1))
    return _merged(first, blocks)


def _not_negative(distance: float) -> float:
    return 0.0 if distance < 0 else float(distance)  # by rounding only; NaN stays NaN


def _covariance_distance(p: Matrix, q: Matrix) -> float:
    """Tr(p + q − 2(pq)^½)."""
    return _root_distance(covariance_root(p), covariance_root(q))


def _root_distance(a: Matrix, b: Matrix) -> float:
    """The same from any roots, p = aaᵀ and q = bbᵀ: pq has the eigenvalues of MMᵀ, M = aᵀb, so Tr(pq)^½ = ‖M‖_*.

    A third of the time of M's singular values. An eigenvalue is off by about ε‖M‖², its root by at most √ε‖M‖, and
    only where it is as good as zero: in sum some 1e-9 of the traces.
    """
    product = a.T @ b if a.shape[1] <= b.shape[1] else b.T @ a
    nuclear = np.sqrt(eigvalsh(product @ product.T, check_finite=False).clip(min=0)).sum()
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
    """The Fréchet distance of two sets of features with its standard error, by `estimates.jackknife`.

    A bootstrap would repeat points, which narrows the covariance and raises the distance; a jackknife without the
    correction for interactions gives up to twice the error where the laws agree, since the distance is then quadratic
    in what was drawn. With fewer vectors than dimensions the error stays too large, by a third in tests.
    ValueError for a set too small to leave out two groups.
    """
    x, y = _pair(x, y)
    p, q = Moments.of(x), Moments.of(y)
    groups = _groups(groups, p.count, q.count)
    deals = [_deal(len(x), groups, seed, "sample"), _deal(len(y), groups, seed, "real")]

    def without(*left_out: int) -> float:
        rest = [p, q]
        for g in left_out:
            rest = [m.without(Moments.of(rows[deal[g]])) for m, rows, deal in zip(rest, (x, y), deals, strict=True)]
        return _moments_distance(*rest)

    return Estimate(without(), estimates.jackknife(without, groups), len(x))


def _groups(asked: int, *sizes: int) -> int:
    """How many groups a jackknife has: no more than vectors, and two vectors left without two of them."""
    groups = min(asked, *sizes)
    if asked < 3:
        raise ValueError(f"groups is {asked}; a jackknife needs at least 3")
    for n in sizes:
        if n - 2 * math.ceil(n / max(groups, 1)) < 2:
            raise ValueError(f"a jackknife needs more vectors: at least 4, got {n} in {groups} groups")
    return groups


def _deal(n: int, groups: int, seed: int, of: str, *path: int) -> list[np.ndarray]:
    """Row numbers of random groups of nearly equal size: files are often sorted by class.

    of: which set they are of. Groups of two sets in the same order, dealt alike, would lack the same classes.
    """
    order = torch.randperm(n, generator=generator(seed, "groups", of, *path)).numpy()
    return np.array_split(order, groups)


# --- precision and recall ---------------------------------------------------------------------------------


class ManifoldScores(NamedTuple):
    """Errors, like all here, are over repeated draws of both sets: of the fakes, the real ones and so their balls."""

    precision: Estimate  # share of fakes inside a ball of the real set: does a sample look real?
    recall: Estimate  # share of real ones inside a ball of the fakes: can the model make it?
    density: Estimate  # balls of the real set around a fake, over k; 1 where both laws agree
    coverage: Estimate  # share of balls of the real set with a fake in them


class _Balls(NamedTuple):
    """A set and the squared radii of its balls: among all vectors, then among those of the same half, by halving."""

    rows: Matrix
    half: np.ndarray  # (halvings, n), true for one half and false for the other
    squares: Matrix  # (1 + halvings, n)


def manifold_scores(real: Features, fake: Features, k: int = 5, halvings: int = 20, seed: int = 0) -> ManifoldScores:
    """Precision and recall (Kynkäänniemi et al. 2019, eq. 1 and 2), density and coverage (Naeem et al. 2020, eq. 1-5).

    A ball around each vector reaches to its k-th nearest neighbour in its own set. Its boundary belongs to it, as in
    the first paper: with < a ball among k copies would be empty. (The code of the second has <; they differ for copies
    only, and the density of a set in itself is (k + 1)/k.)

    Errors: both sets are halved at random, and the score of one pair of halves less that of the other has four times
    the variance of the score of the whole, as it falls with 1/n; a mean of squares over `halvings`. No jackknife: it
    takes each of the k neighbours for a cause of its own, and gives up to twice the error.
    ValueError for halves with no k neighbours.
    """
    real, fake = _pair(real, fake)
    return _manifold_scores(_balls(real, k, "real", halvings, seed), _balls(fake, k, "sample", halvings, seed), k)


def _manifold_scores(real: _Balls, fake: _Balls, k: int) -> ManifoldScores:
    around_fake, reaches_fake = _inside(real, fake)
    around_real, _ = _inside(fake, real)

    def four(of_real: np.ndarray, of_fake: np.ndarray, i: int) -> np.ndarray:
        around, reached = around_fake[i, of_fake], around_real[i, of_real] > 0
        return np.array([(around > 0).mean(), reached.mean(), around.mean() / k, reaches_fake[i, of_real].mean()])

    values = four(np.full(len(real.rows), True), np.full(len(fake.rows), True), 0)
    halves = enumerate(zip(real.half, fake.half, strict=True), 1)
    gaps = [four(of_real, of_fake, i) - four(~of_real, ~of_fake, i) for i, (of_real, of_fake) in halves]
    errors = np.sqrt(np.mean(np.square(gaps), axis=0)) / 2 if gaps else np.full(4, math.nan)
    sizes = (len(fake.rows), len(real.rows)) * 2
    return ManifoldScores(*map(Estimate, values.tolist(), errors.tolist(), sizes))


def _inside(x: _Balls, y: _Balls) -> tuple[np.ndarray, np.ndarray]:
    """How many balls of x lie around each y, and whether a ball of x holds a y: among all, and half by half.

    Only the few pairs that lie in the widest ball are looked at again for each halving.
    """
    around, reaches = np.zeros((len(x.squares), len(y.rows)), int), np.zeros(x.squares.shape, bool)
    widest = x.squares.max(axis=0)
    for rows, squares in _square_distances(x.rows, y.rows):
        i, j = np.nonzero(squares <= widest[rows, None])
        near, i = squares[i, j], i + rows.start
        for r, balls in enumerate(x.squares):
            hit = near <= balls[i]
            if r:
                hit &= x.half[r - 1, i] == y.half[r - 1, j]
            around[r] += np.bincount(j[hit], minlength=len(y.rows))
            reaches[r, i[hit]] = True
    return around, reaches


def _square_distances(x: Matrix, y: Matrix) -> Iterator[tuple[slice, Matrix]]:
    """Squared distances of some rows of x to all of y, PAIRS at a time; 0 where nothing but rounding is left."""
    centre = y.mean(axis=0)  # small numbers: |a|² + |b|² − 2ab loses what they have in common
    y = y - centre
    y_squares = (y**2).sum(axis=1)
    step = max(1, PAIRS // len(y))
    for start in range(0, len(x), step):
        rows = slice(start, start + step)
        part = x[rows] - centre
        sums = (part**2).sum(axis=1)[:, None] + y_squares
        squares = part @ y.T
        squares *= -2
        squares += sums
        sums *= 1e-12
        squares[squares < sums] = 0
        yield rows, squares


def _balls(x: Matrix, k: int, of: str, halvings: int, seed: int) -> _Balls:
    """Squared distance of each row to its k-th neighbour, and a hair: a vector on the boundary is inside."""
    n = len(x)
    if k < 1:
        raise ValueError(f"k is {k}; expected at least 1 neighbour")
    if halvings:
        _at_least(2 * (k + 1), n, f"a ball around {k} neighbours, in each of two halves,")
    _at_least(k + 1, n, f"a ball around {k} neighbours")
    half = np.zeros((halvings, n), bool)
    for r in range(halvings):
        half[r, _deal(n, 2, seed, of, r)[0]] = True
    radii = np.empty((1 + halvings, n))
    few = min(n, 6 * (k + 1))  # of so many neighbours nearly always k are of the same half
    for rows, squares in _square_distances(x, x):
        near = np.argpartition(squares, few - 1, axis=1)[:, :few]
        distances = np.take_along_axis(squares, near, axis=1)
        order = distances.argsort(axis=1)
        near, distances = (np.take_along_axis(a, order, axis=1) for a in (near, distances))
        radii[0, rows] = distances[:, k]  # the nearest is the vector itself
        for r, one in enumerate(half, 1):
            count = (one[near] == one[rows, None]).cumsum(axis=1)
            radii[r, rows] = np.take_along_axis(distances, (count > k).argmax(axis=1)[:, None], axis=1)[:, 0]
            for i in np.flatnonzero(count[:, -1] <= k):
                radii[r, rows.start + i] = np.partition(squares[i, one == one[rows.start + i]], k)[k]
    return _Balls(x, half, radii * (1 + 1e-9))


# --- kernel distance --------------------------------------------------------------------------------------


def kid(fake: Features, real: Features, groups: int = 20, seed: int = 0) -> Estimate:
    """Squared maximum mean discrepancy with the kernel (a·b/d + 1)³ of *standardised* features.

    Bińkowski et al. 2018, eq. 4. Both sets are first shifted and scaled by the real set's mean and standard
    deviation of each feature (one that is constant there, up to rounding, is only shifted), since the cube of raw
    features is ruled by the few largest. All pairs are used, no subsets. The estimate is unbiased for a *given*
    standardisation, so it can be negative; taken from a small real set, this leaves a bias, upwards, far below that of
    a Fréchet distance: with 512 normal features and 50 real vectors 0.005. The error is the jackknife's, over both
    sets, the standardisation held fixed.
    """
    fake, real = _pair(fake, real)
    groups = _groups(groups, len(fake), len(real))
    centre, scale = _standard(real)
    x, y = (fake - centre) / scale, (real - centre) / scale
    return _kid(_Dealt.of(x, groups, seed, "sample"), _Dealt.of(y, groups, seed, "real"))


def _standard(real: Matrix) -> tuple[Vector, Vector]:
    _at_least(2, len(real), "a standardisation")
    mean, sd = real.mean(axis=0), real.std(axis=0, ddof=1)
    varies = sd > 1e-6 * np.maximum(np.abs(mean), sd.max())
    return mean, np.where(varies, sd, 1.0)


class _Dealt(NamedTuple):
    """Vectors in the order of their groups, and the sums of the kernel over pairs of groups, none with itself."""

    rows: Matrix
    starts: np.ndarray  # (groups,): where each group begins
    within: Matrix

    @staticmethod
    def of(rows: Matrix, groups: int, seed: int, of: str) -> _Dealt:
        deal = _deal(len(rows), groups, seed, of)
        rows, starts = rows[np.concatenate(deal)], np.cumsum([0, *map(len, deal[:-1])])
        alone = np.add.reduceat(((rows**2).sum(axis=1) / rows.shape[1] + 1) ** 3, starts)
        return _Dealt(rows, starts, _kernel_sums(rows, starts, rows, starts) - np.diag(alone))

    @property
    def sizes(self) -> np.ndarray:
        return np.diff([*self.starts, len(self.rows)])


def _kernel_sums(x: Matrix, x_starts: np.ndarray, y: Matrix, y_starts: np.ndarray) -> Matrix:
    """Σ k(a, b) over each pair of groups, PAIRS at a time."""
    sums, step = np.empty((len(x), len(y_starts))), max(1, PAIRS // len(y))
    for start in range(0, len(x), step):
        kernel = x[start : start + step] @ y.T
        kernel /= x.shape[1]
        kernel += 1
        kernel *= kernel**2
        sums[start : start + step] = np.add.reduceat(kernel, y_starts, axis=1)
    return np.add.reduceat(sums, x_starts, axis=0)


def _kid(x: _Dealt, y: _Dealt, errors: bool = True) -> Estimate:
    across = _kernel_sums(x.rows, x.starts, y.rows, y.starts)

    def without(*left_out: int) -> float:
        keep = np.ones(len(across))
        keep[list(left_out)] = 0
        n, m = keep @ x.sizes, keep @ y.sizes
        own = keep @ x.within @ keep / (n * (n - 1)) + keep @ y.within @ keep / (m * (m - 1))
        return float(own - 2 * keep @ across @ keep / (n * m))

    return Estimate(without(), estimates.jackknife(without, len(across)) if errors else math.nan, len(x.rows))


# --- all scores, and their floor --------------------------------------------------------------------------


@dataclass(frozen=True)
class Scores:
    """Every score of n vectors against m real ones.

    Each error is the standard deviation over repeated draws of n and m vectors. It is no error of a model's training.
    """

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

    k: neighbours of precision, recall, density and coverage; groups: of the jackknife, no more than vectors.
    """

    def __init__(self, features: Features, k: int = 5, groups: int = 20, seed: int = 0):
        self.rows, self.k, self.seed = _rows(features, "real set"), k, seed
        self.groups = _groups(groups, len(self.rows))
        self.centre, self.scale = _standard(self.rows)
        self.moments = Moments.of(self.rows)
        self.balls = _balls(self.rows, k, "real", self.groups, seed)
        self.standardised = _Dealt.of((self.rows - self.centre) / self.scale, self.groups, seed, "real")


def scores(sample: Features, test: Features | RealSet, *, errors: bool = True) -> Scores:
    """All scores of a sample's features against those of the test set.

    errors: by the jackknife, forty times the work of a Fréchet distance; without, they are NaN.
    """
    real = test if isinstance(test, RealSet) else RealSet(test)
    sample, _ = _pair(sample, real.rows)
    if (groups := _groups(real.groups, len(sample))) < real.groups:  # both sets are dealt into as many
        real = RealSet(real.rows, real.k, groups, real.seed)
    if errors:
        fid = frechet_with_error(sample, real.rows, real.groups, real.seed)
    else:
        fid = Estimate(_moments_distance(Moments.of(sample), real.moments), math.nan, len(sample))
    standardised = _Dealt.of((sample - real.centre) / real.scale, real.groups, real.seed, "sample")
    kernel = _kid(standardised, real.standardised, errors)
    balls, real_balls = _balls(sample, real.k, "sample", real.groups * errors, real.seed), real.balls
    if not errors:
        real_balls = real_balls._replace(half=balls.half, squares=real_balls.squares[:1])
    manifold = _manifold_scores(real_balls, balls, real.k)
    return Scores(fid, kernel, *manifold, n=len(sample), m=len(real.rows))


def real_floor(others: Features, test: Features | RealSet, n: int, repeats: int = 10, seed: int = 0) -> Scores:
    """Real against real: the scores of `n` random other real vectors against the test set, over `repeats` draws.

    Each value is a mean over draws; its error is that of *one* draw, to lay beside that of one set of samples: the
    standard deviation over repeated draws of n real vectors and of the test set (not the smaller error of the mean).
    Rows are drawn from all of `others`, without replacement. ValueError unless 1 ≤ repeats and n ≤ N, their number.
    """
    others = _rows(others, "real set")
    if not (0 < n <= len(others) and repeats >= 1):
        raise ValueError(f"{repeats} draws of {n} out of {len(others)} real vectors; expected 1 or more, of no more")
    rows = (torch.randperm(len(others), generator=generator(seed, "floor", i))[:n].numpy() for i in range(repeats))
    return over_sets((others[chosen] for chosen in rows), test)


def over_sets(sets: Iterable[Features], test: Features | RealSet) -> Scores:
    """The mean of the scores of several sets of one size; its error is that of *one* set, of the first."""
    real = test if isinstance(test, RealSet) else RealSet(test)
    each = [scores(sample, real, errors=i == 0) for i, sample in enumerate(sets)]
    first = each[0]

    def summary(name: str) -> Estimate:
        mean = float(np.mean([getattr(s, name).value for s in each]))
        return Estimate(mean, getattr(first, name).stderr, getattr(first, name).n)

    return Scores(**{name: summary(name) for name in SCORES}, n=first.n, m=first.m)
