"""The optimum of the penalised objective between the lines in the plane, by two finite-element problems.

Interpolates of (0, Z) and (1, Z') are (t, (1 − t) Z + t Z'), t ~ U[0, 1]; r is their density. Dual: the greatest
gap − λ E_r(‖∇T‖ − 1)₊² over piecewise linear T on a triangulation of the square, a lower bound of the optimum.
Primal: the least ∫|w| + ∫|w|²/(4λr) over fluxes from q to p, w = curl ψ with ψ piecewise linear and ψ(t, z) = z on
the edge, from above. Both are convex. The two-sided penalty has the dual's maximum where ‖∇T‖ ≥ 1 everywhere.
"""

import re

import pytest
import torch

from labutils import divergences as dv

# A rule of seven points on a triangle (Dunavant 1985), exact to degree five: coordinates along two sides, weight.
NEAR, FAR, NEAR_WEIGHT, FAR_WEIGHT = 0.470142064105115, 0.101286507323456, 0.132394152788506, 0.125939180544827
N = 14  # cells a side; 64 give 1.0601, 1.0312, 1.0023 for λ = 10
RULE = torch.tensor(
    [(1 / 3, 1 / 3, 0.225)]
    + [(x, y, NEAR_WEIGHT) for x, y in ((NEAR, NEAR), (1 - 2 * NEAR, NEAR), (NEAR, 1 - 2 * NEAR))]
    + [(x, y, FAR_WEIGHT) for x, y in ((FAR, FAR), (1 - 2 * FAR, FAR), (FAR, 1 - 2 * FAR))],
    dtype=torch.float64,
)


def interpolate_density(t, z):
    """r(t, z): of a sum of U[0, 1 − t] and U[0, t], the length of the overlap over t(1 − t)."""
    return (torch.minimum(z, 1 - t) - (z - t).clamp(min=0)) / (t * (1 - t))


def over_triangles(f, n):
    """∫f over each lower and each upper triangle of an n × n grid of the unit square: (2, n²)."""
    i, j = (axis.flatten()[:, None] for axis in torch.meshgrid(torch.arange(n), torch.arange(n), indexing="ij"))
    corners = ((i + RULE[:, 0], j + RULE[:, 1]), (i + 1 - RULE[:, 0], j + 1 - RULE[:, 1]))
    return torch.stack([(f(t / n, z / n) * RULE[:, 2]).sum(1) for t, z in corners]) / (2 * n * n)


def slopes(values):
    """‖∇‖ of the piecewise linear function with these values at the grid's nodes, in the same triangles."""
    n = len(values) - 1
    dt, dz = values.diff(dim=0) * n, values.diff(dim=1) * n
    both = torch.stack([dt[:, :-1].square() + dz[:-1].square(), dt[:, 1:].square() + dz[1:].square()])
    return (both.flatten(1) + 1e-18).sqrt()


def minimise(loss, x):
    optimiser = torch.optim.LBFGS([x], max_iter=400, history_size=30, line_search_fn="strong_wolfe")

    def closure():
        optimiser.zero_grad()
        value = loss(x)
        value.backward()
        return value

    optimiser.step(closure)
    return x.detach()


def dual(n, lam):
    """(gap, penalty, least ‖∇T‖) of the best piecewise linear T."""
    r = over_triangles(interpolate_density, n)
    along = torch.full((n + 1,), 1 / n, dtype=torch.float64)
    along[[0, -1]] /= 2

    def parts(t):
        return ((t[0] - t[-1]) * along).sum(), lam * (r * (slopes(t) - 1).clamp(min=0).square()).sum()

    start = -(1 + 1 / (2 * lam)) * torch.linspace(0, 1, n + 1, dtype=torch.float64)[:, None].expand(n + 1, n + 1)
    t = minimise(lambda t: parts(t)[1] - parts(t)[0], start.clone().requires_grad_())
    return (*(part.item() for part in parts(t)), slopes(t).min().item())


def primal(n, lam):
    """(∫|w|, ∫|w|²/(4λr)) of the best flux."""
    weights = over_triangles(lambda t, z: 1 / interpolate_density(t, z), n) / (4 * lam)
    edge = torch.linspace(0, 1, n + 1, dtype=torch.float64).expand(n + 1, n + 1)

    def parts(inner):
        psi = edge.clone()
        psi[1:-1, 1:-1] = inner
        return slopes(psi).sum() / (2 * n * n), (weights * slopes(psi).square()).sum()

    inner = minimise(lambda x: sum(parts(x)), edge[1:-1, 1:-1].clone().requires_grad_())
    return tuple(part.item() for part in parts(inner))


@pytest.mark.parametrize(
    ("lam", "quoted", "tolerance"),
    [
        (10.0, "gap 1.0600, gap − P 1.0311, gap − 2P 1.0023 for λ = 10", 7e-4),
        (1.0, "1.532, 1.271, 1.010 for λ = 1", 2e-3),
    ],
    ids=["lam10", "lam1"],
)
def test_in_the_plane_the_correction_leaves_what_the_docstring_says(lam, quoted, tolerance):
    assert quoted in " ".join(dv.estimate_wasserstein.__doc__.split())
    gap, penalty, least_slope = dual(N, lam)
    expected = [float(number) for number in re.findall(r"\d\.\d{3,}", quoted)]
    assert [gap, gap - penalty, gap - 2 * penalty] == pytest.approx(expected, abs=tolerance)
    assert least_slope >= 1 - 1e-6, "where it is below 1 the two penalties differ"
    assert 0 < gap - penalty - dv.line_penalty_optimum(torch.ones(()), lam).objective.item() < 0.03
    assert gap - penalty <= sum(primal(N, lam)) < gap - penalty + 0.02, "the optimum lies between"


def test_the_density_of_interpolates():
    draw = torch.Generator().manual_seed(0)
    t, z, other = torch.rand(3, 400_000, generator=draw, dtype=torch.float64)
    z = (1 - t) * z + t * other
    for low in (0.0, 0.3, 0.5):
        inside = ((t >= low) & (t < low + 0.1) & (z >= low) & (z < low + 0.1)).double().mean().item()
        grid = low + (torch.arange(50, dtype=torch.float64) + 0.5) / 500
        expected = 0.01 * interpolate_density(grid[:, None], grid[None, :]).mean().item()
        assert inside == pytest.approx(expected, abs=5 * (expected / 400_000) ** 0.5)
