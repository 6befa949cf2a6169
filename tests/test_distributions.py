"""The exact laws: against published digits, and each against a second, independent method."""

import math

import pytest
import torch

from labutils import distributions as d
from labutils.training import generator

F1, F0 = d.distribution4_log_density, d.normal_log_density
Q1, Q0 = d.distribution4_quantile, d.normal_quantile


def gaussian(mean, sd):
    return lambda x: d.normal_log_density(x, mean, sd)


# --- the printed digits of the quadrature values (FACTS) --------------------------------------------


@pytest.mark.parametrize(
    ("value", "printed"),
    [
        (lambda: d.kl_divergence(F1, F0), 0.382112),
        (lambda: d.kl_divergence(F0, F1), 0.352390),
        (lambda: d.jensen_shannon(F1, F0), 0.087457),
        (lambda: d.optimal_objective(F1, F0), -1.211380),
        (lambda: d.total_variation(F1, F0), 0.373689),
        (lambda: d.wasserstein(Q1, Q0), 0.596180),
        (lambda: d.wasserstein(Q1, Q0, 2), 0.637056),
        (lambda: d.mean_and_sd(F1)[0], 0.352344),
        (lambda: d.mean_and_sd(F1)[1], 1.447416),
        (lambda: d.entropy(F1), 1.646406),
    ],
)
def test_distribution4_to_the_printed_digits(value, printed):
    assert value() == pytest.approx(printed, abs=0.51e-6)


def test_modes_and_dip():
    found = d.extrema(F1)
    assert [e.is_mode for e in found] == [True, False, True]
    assert [e.x for e in found] == pytest.approx([-1.819, -0.667, 1.374], abs=6e-4)
    assert [e.density for e in found] == pytest.approx([0.1645, 0.1247, 0.3959], abs=6e-5)


def test_optimal_discriminator_where_facts_prints_it():
    x = torch.tensor([-0.258, -2.51, 2.30, 4, -4, 5, -5], dtype=torch.float64)
    expected = [0.2540, 0.798, 0.807, 0.5714, 0.5714, 0.1924, 0.1924]
    assert d.optimal_discriminator(F1, F0, x).tolist() == pytest.approx(expected, abs=5e-4)
    grid = torch.linspace(-2, 2, 4001, dtype=torch.float64)
    assert grid[d.optimal_logit(F1, F0, grid).argmin()].item() == pytest.approx(-0.258, abs=1e-3)


# --- the same against independent methods -----------------------------------------------------------


def test_inverse_undoes_the_map():
    y = torch.linspace(-40, 40, 100_001, dtype=torch.float64)
    assert (d.distribution4_map(d.distribution4_inverse(y)) - y).abs().max() < 1e-14 * 40
    x = torch.linspace(-8, 8, 1001, dtype=torch.float64).requires_grad_()
    (slope,) = torch.autograd.grad(d.distribution4_map(x).sum(), x)
    torch.testing.assert_close(d.distribution4_log_slope(x).exp(), slope, rtol=1e-12, atol=0)


def test_density_integrates_to_the_distribution_function():
    x = torch.linspace(-12, 12, 24_001, dtype=torch.float64)
    cdf = torch.cumulative_trapezoid(d.distribution4_density(x), x)
    torch.testing.assert_close(cdf, torch.special.ndtr(d.distribution4_inverse(x[1:])), rtol=0, atol=1e-6)
    assert cdf[-1].item() == pytest.approx(1, abs=1e-9)


def test_w1_is_the_area_between_distribution_functions():
    x = torch.linspace(-12, 12, 24_001, dtype=torch.float64)
    area = torch.trapezoid((torch.special.ndtr(d.distribution4_inverse(x)) - torch.special.ndtr(x)).abs(), x)
    assert d.wasserstein(Q1, Q0) == pytest.approx(area.item(), abs=1e-6)


def test_monte_carlo_agrees():
    draw = generator(0, "test")
    x = d.sample_distribution4(400_000, draw).double().flatten()
    y = d.sample_normal(400_000, draw).double().flatten()

    def close(values, exact):
        return abs(values.mean().item() - exact) < 4 * values.std().item() / len(values) ** 0.5

    assert close(x, d.mean_and_sd(F1)[0])
    assert close(F1(x) - F0(x), d.kl_divergence(F1, F0))
    assert close(F0(y) - F1(y), d.kl_divergence(F0, F1))
    assert close(-F1(x), d.entropy(F1))
    js = 0.5 * (d.optimal_discriminator(F1, F0, x).log() + (1 - d.optimal_discriminator(F1, F0, y)).log())
    assert close(js + math.log(2), d.jensen_shannon(F1, F0))
    sorted_w1 = (x.sort().values - y.sort().values).abs().mean().item()
    assert sorted_w1 == pytest.approx(d.wasserstein(Q1, Q0), abs=0.01)
    torch.testing.assert_close(
        x.quantile(torch.tensor([0.1, 0.5, 0.9], dtype=x.dtype)),
        Q1(torch.tensor([0.1, 0.5, 0.9])), rtol=0, atol=0.02,
    )  # fmt: skip


def test_two_gaussians_in_closed_form():
    p, q = gaussian(0.5, 0.8), gaussian(-0.3, 1.3)
    kl = math.log(1.3 / 0.8) + (0.8**2 + 0.8**2) / (2 * 1.3**2) - 0.5
    assert d.kl_divergence(p, q) == pytest.approx(kl, abs=1e-10)
    assert d.entropy(p) == pytest.approx(0.5 * math.log(2 * math.pi * math.e * 0.8**2), abs=1e-10)
    assert d.mean_and_sd(p) == pytest.approx((0.5, 0.8), abs=1e-10)
    same_sd = gaussian(1.5, 0.8)  # TV of two Gaussians one sd apart, on either side of the midpoint
    tv = 2 * torch.special.ndtr(torch.tensor(1 / 1.6, dtype=torch.float64)).item() - 1
    assert d.total_variation(p, same_sd) == pytest.approx(tv, abs=1e-7)

    def at(mean, sd):
        return lambda u: mean + sd * d.normal_quantile(u)

    assert d.wasserstein(at(0.5, 0.8), at(-0.3, 1.3), 2) == pytest.approx(math.hypot(0.8, 0.5), abs=1e-8)
    assert d.wasserstein(at(0.5, 0.8), at(-0.3, 0.8), 1) == pytest.approx(0.8, abs=1e-10)


def test_jsd_is_symmetric_zero_at_home_and_at_most_log_2():
    assert d.jensen_shannon(F1, F0) == pytest.approx(d.jensen_shannon(F0, F1), abs=1e-12)
    assert d.jensen_shannon(F1, F1) == pytest.approx(0, abs=1e-9)
    far = d.jensen_shannon(gaussian(-8.0, 0.1), gaussian(8.0, 0.1))
    assert far == pytest.approx(math.log(2), abs=1e-9)


# --- the lines --------------------------------------------------------------------------------------


def test_lines():
    phi = torch.linspace(-1, 1, 21)
    phi[10] = 0
    x = d.sample_line(phi, 5000, generator(0))
    assert x.shape == (21, 5000, 2)
    assert (x[..., 0] == phi[:, None]).all()
    z = x[..., 1]
    assert z.min() >= 0 and z.max() < 1
    assert z.mean() == pytest.approx(0.5, abs=0.005) and z.var() == pytest.approx(1 / 12, abs=0.002)
    correlation = torch.corrcoef(z)[0, 1:]
    assert correlation.abs().max() < 5 / 5000**0.5  # members have their own Z
    jsd = d.line_jsd(phi)
    assert jsd[10] == 0 and (jsd[torch.arange(21) != 10] - math.log(2)).abs().max() < 1e-15
    torch.testing.assert_close(d.line_wasserstein(phi), phi.double().abs())
    assert d.line_jsd_gradient(phi)[10].isnan() and d.line_jsd_gradient(phi)[:10].eq(0).all()
    assert d.line_wasserstein_gradient(phi)[:10].eq(-1).all() and d.line_wasserstein_gradient(phi)[11:].eq(1).all()


def test_line_samples_carry_the_gradient_of_phi():
    phi = torch.tensor([0.3], requires_grad=True)
    d.sample_line(phi, 10, generator(0)).sum().backward()
    assert phi.grad.item() == 10


# --- hygiene ----------------------------------------------------------------------------------------


def test_samplers_repeat_and_leave_the_global_state_alone():
    before = torch.random.get_rng_state()
    for sample in (d.sample_normal, d.sample_distribution4):
        assert torch.equal(sample(10, generator(3)), sample(10, generator(3)))
        assert sample(10, generator(3), members=4).shape == (4, 10, 1)
    assert torch.equal(before, torch.random.get_rng_state())


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: d.sample_line(torch.zeros(1), 0, generator(0)), "n is 0"),
        (lambda: d.sample_normal(0, generator(0)), "n is 0"),
        (lambda: d.sample_normal(5, generator(0), members=0), "members is 0"),
        (lambda: d.normal_log_density(torch.zeros(1), sd=0.0), "sd is 0"),
        (lambda: d.normal_quantile(torch.tensor([1.5])), "expected values in"),
        (lambda: d.wasserstein(Q1, Q0, 0), "order is 0"),
        (lambda: d.entropy(F0, (1.0, -1.0)), "the lower first"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
