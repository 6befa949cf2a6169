"""Every estimator against its closed form, and the proof by mutation that these tests can fail."""

import inspect
import math
import types

import pytest
import torch
from torch import nn

from labutils import distributions as d
from labutils import divergences as dv
from labutils.networks import CriticEnsemble
from labutils.training import generator

F1, F0 = d.distribution4_log_density, d.normal_log_density
LOG2 = math.log(2)


def linear(slope):
    """T(x) = slope · x₁, a critic whose gap and slope are known."""
    return lambda x: slope * x[..., 0]


def lines(*phi):
    return dv.line_samplers(torch.tensor(phi))


def distribution4(members=1):
    return (
        lambda n, draw: d.sample_distribution4(n, draw, members),
        lambda n, draw: d.sample_normal(n, draw, members),
    )


# --- the checks, as functions of the module, so that mutants of it can be put through the same ------


def check_jsd_at_the_optimal_discriminator(m):
    draw = generator(1)
    x = d.sample_distribution4(200_000, draw)[..., 0].double()
    y = d.sample_normal(200_000, draw)[..., 0].double()
    value = m.jsd_objective(d.optimal_logit(F1, F0, x), d.optimal_logit(F1, F0, y))
    assert value.item() == pytest.approx(d.jensen_shannon(F1, F0), abs=0.003)


def check_jsd_at_fixed_logits(m):
    a, b = torch.tensor([[1.0, 3.0]]), torch.tensor([[-2.0]])
    sigma = torch.sigmoid
    expected = LOG2 + 0.25 * (sigma(a).log()).sum() + 0.5 * (1 - sigma(b)).log().sum()
    assert m.jsd_objective(a, b).item() == pytest.approx(expected.item(), abs=1e-6)
    assert m.jsd_objective(torch.zeros(1, 4), torch.zeros(1, 4)).item() == pytest.approx(0, abs=1e-7)


def check_jsd_is_stable(m):
    logits = torch.full((1, 2), 300.0, requires_grad=True)
    wrong = m.jsd_objective(-logits, logits)  # a discriminator that is sure and wrong
    assert wrong.item() == pytest.approx(LOG2 - 300, rel=1e-6)
    (gradient,) = torch.autograd.grad(wrong.sum(), logits)
    assert gradient.sum().item() == pytest.approx(-1, abs=1e-5)


def check_terms_of_a_linear_critic(m):
    x, y = torch.zeros(1, 4000, 2), torch.zeros(1, 4000, 2)
    y[..., 0] = 0.5
    found = m.wasserstein_objective(linear(-1.2), x, y, generator(0), lam=10.0, sample_dims=2)
    assert found.gap.item() == pytest.approx(0.6, abs=1e-4)
    assert found.penalty.item() == pytest.approx(10 * 0.2**2, abs=1e-5)
    assert found.objective.item() == pytest.approx(0.6 - 0.4, abs=1e-4)
    below = m.wasserstein_objective(linear(-0.8), x, y, generator(0), lam=10.0, sample_dims=2)
    assert below.penalty.item() == pytest.approx(10 * 0.2**2, abs=1e-5)  # two-sided


def check_norm_is_over_the_whole_sample(m):
    x, y = torch.randn(6, 3, 4, 4, generator=generator(0)), torch.zeros(6, 3, 4, 4)
    weight = torch.arange(1.0, 7.0)[:, None, None, None]  # a different slope for each sample of the batch
    penalty = m.gradient_penalty(lambda z: (weight * z).sum(dim=(1, 2, 3)), x, y, generator(1))
    torch.testing.assert_close(penalty, (torch.arange(1.0, 7.0) * 48**0.5 - 1).square())


def check_interpolation(m):
    x, y = torch.zeros(2, 5000, 3), torch.ones(2, 5000, 3)
    z = m.interpolate(x, y, generator(0), sample_dims=2)
    assert (z == z[..., :1]).all()  # one coefficient for a sample
    assert z[0, :, 0].unique().numel() > 4000 and not torch.equal(z[0], z[1])
    assert z.mean().item() == pytest.approx(0.5, abs=0.02) and z.min() < 0.01 and z.max() > 0.99


def check_line_optimum(m):
    """Against a brute-force search over slopes, with the objective computed from samples."""
    x, y = torch.zeros(1, 500, 2), torch.zeros(1, 500, 2)
    y[..., 0] = 0.7
    optimum = m.line_penalty_optimum(torch.tensor([0.7]), 10.0)
    slopes = torch.linspace(0.9, 1.2, 301)
    found = [dv.wasserstein_objective(linear(-s), x, y, generator(0), 10.0, 2) for s in slopes.tolist()]
    best = max(range(301), key=lambda i: found[i].objective.item())
    assert slopes[best].item() == pytest.approx(optimum.slope.item(), abs=1.1e-3)
    assert found[best].gap.item() == pytest.approx(optimum.gap.item(), abs=1e-3)
    assert found[best].penalty.item() == pytest.approx(optimum.penalty.item(), abs=1e-3)
    assert found[best].objective.item() == pytest.approx(optimum.objective.item(), abs=1e-4)
    one = m.line_penalty_optimum(torch.tensor([1.0, -1.0]))
    assert one.gap.tolist() == pytest.approx([1.05, 1.05])
    assert one.objective.tolist() == pytest.approx([1.025, 1.025])
    assert one.corrected.tolist() == pytest.approx([1.0, 1.0], abs=1e-12)


def check_corrected_estimate_on_the_lines(m):
    p, q = lines(1.0)
    for lam in (10.0, 3.0):
        optimum = dv.line_penalty_optimum(torch.tensor([1.0]), lam)
        (found,) = m.estimate_wasserstein(linear(-optimum.slope.item()), p, q, lam=lam, n=4000)
        assert found.corrected.value == pytest.approx(1, abs=1e-4)
        assert found.gap.value == pytest.approx(optimum.gap.item(), abs=1e-4)
        assert found.objective.value == pytest.approx(optimum.objective.item(), abs=1e-4)
        assert found.over_mean_slope.value == pytest.approx(1, abs=1e-4)


def optimal_penalised_critic(lam):
    """The exact maximiser between f₁ and f₀ (one dimension), T' = s(1 + δ/(2λr)), δ = |F₀ − F₁|, as a table.

    One slope a cell, that of its middle: a mean over the cell in which T turns would be a slope of 0, and the
    penalty's λ there alone biases the estimate by as much as P.
    """
    cell = 0.002
    x = -9 + cell * (torch.arange(9000, dtype=torch.float64) + 0.5)
    a = (torch.arange(200, dtype=torch.float64) + 0.5) / 200
    flux = torch.special.ndtr(x) - torch.special.ndtr(d.distribution4_inverse(x))
    # r(z) = ∫∫ f₀(y) f₁((z − (1 − a) y)/a)/a dy da, by sampling on a fine histogram: only λ's bias depends on it.
    draw = generator(0, "r")
    p = d.sample_distribution4(4_000_000, draw).double().flatten()
    q = d.sample_normal(4_000_000, draw).double().flatten()
    mix = a[torch.randint(200, (4_000_000,), generator=draw)]
    counts = torch.histc(mix * p + (1 - mix) * q, 180, -9, 9)
    r = (counts / counts.sum() / 0.1).repeat_interleave(50).clamp(min=1e-9)
    slope = flux.sign() * (1 + (flux.abs() / (2 * lam * r)).clamp(max=0.5))
    values = torch.cat([torch.zeros(1, dtype=x.dtype), (slope * cell).cumsum(0)])

    def critic(z):
        position = ((z[..., 0].double() + 9) / cell).clamp(0, 8999.0)
        i = position.detach().floor().long()
        return values[i] + (position - i) * (values[i + 1] - values[i])

    return critic


@pytest.fixture(scope="module")
def table_critic():
    return optimal_penalised_critic(4.0)


def check_corrected_estimate_in_one_dimension(m, table_critic):
    p, q = distribution4()
    (found,) = m.estimate_wasserstein(table_critic, p, q, lam=4.0, n=400_000, seed=1)
    exact = d.wasserstein(d.distribution4_quantile, d.normal_quantile)
    assert found.corrected.stderr < 0.002
    assert found.corrected.value == pytest.approx(exact, abs=4 * found.corrected.stderr)
    assert found.gap.value - exact > 0.04  # λ = 4 makes every uncorrected estimate visibly wrong
    assert found.objective.value - exact > 0.02


def check_density(m):
    x = torch.linspace(-5, 5, 2001, dtype=torch.float64)
    logit = d.optimal_logit(F1, F0, x)
    estimate = m.density_from_discriminator(logit, F0(x))
    torch.testing.assert_close(estimate, d.distribution4_density(x))
    torch.testing.assert_close(m.density_ratio(logit), torch.sigmoid(logit) / torch.sigmoid(-logit))
    assert m.density_ratio(torch.tensor([60.0])).isfinite().all()
    assert m.l1_error(x, 1.1 * d.distribution4_density(x), d.distribution4_density(x)).item() == pytest.approx(
        0.1, abs=1e-4
    )


def check_training_reaches_the_closed_forms(m):
    phi = torch.tensor([-1.0, 0.0, 0.1, 1.0])
    jsd = m.sweep_jsd(phi, steps=150, n=4000)
    for found, exact in zip(jsd, d.line_jsd(phi).tolist(), strict=True):
        assert found.value == pytest.approx(exact, abs=0.002)
    phi = torch.tensor([-1.0, -0.3, 0.6, 1.0])
    for found, exact in zip(m.sweep_wasserstein(phi, steps=300, n=4000), phi.abs().tolist(), strict=True):
        assert found.corrected.value == pytest.approx(exact, abs=0.01)


CHECKS = [
    check_jsd_at_the_optimal_discriminator,
    check_jsd_at_fixed_logits,
    check_jsd_is_stable,
    check_terms_of_a_linear_critic,
    check_norm_is_over_the_whole_sample,
    check_interpolation,
    check_line_optimum,
    check_corrected_estimate_on_the_lines,
    check_density,
]


@pytest.mark.parametrize("check", [*CHECKS, check_training_reaches_the_closed_forms], ids=lambda c: c.__name__)
def test_closed_forms(check):
    check(dv)


def test_corrected_estimate_is_unbiased_in_one_dimension(table_critic):
    check_corrected_estimate_in_one_dimension(dv, table_critic)


MUTANTS = {
    "jsd: half of the first term": ("0.5 * F.logsigmoid(logits_p)", "F.logsigmoid(logits_p)"),
    "jsd: half of the second term": ("0.5 * F.logsigmoid(-logits_q)", "F.logsigmoid(-logits_q)"),
    "jsd: sign of the second logit": ("F.logsigmoid(-logits_q).mean", "F.logsigmoid(logits_q).mean"),
    "jsd: sign of the second term": ("+ 0.5 * F.logsigmoid(-logits_q)", "- 0.5 * F.logsigmoid(-logits_q)"),
    "jsd: log 2": ("return math.log(2) + 0.5 * F", "return 0.5 * F"),
    "jsd: log of sigmoid": ("F.logsigmoid(logits_p).mean", "torch.sigmoid(logits_p).log().mean"),
    "gap: sign": ("values_p.mean(-1) - values_q", "values_q.mean(-1) - values_p"),
    "gap: sum": ("values_p.mean(-1) - values_q", "values_p.mean(-1) + values_q"),
    "penalty: added": ("WassersteinTerms(gap - penalty", "WassersteinTerms(gap + penalty"),
    "penalty: left out": ("WassersteinTerms(gap - penalty", "WassersteinTerms(gap"),
    "penalty: without λ": ("penalty = lam * gradient_penalty", "penalty = gradient_penalty"),
    "penalty: of norm, not norm − 1": ("sample_dims) - 1).square()", "sample_dims)).square()"),
    "penalty: norm + 1": ("sample_dims) - 1).square()", "sample_dims) + 1).square()"),
    "penalty: not squared": ("sample_dims) - 1).square()", "sample_dims) - 1).abs()"),
    "penalty: one-sided": ("sample_dims) - 1).square()", "sample_dims) - 1).clamp(min=0).square()"),
    "penalty: norm over the last axis": ("gradient.flatten(sample_dims), dim=-1)", "gradient, dim=-1)"),
    "penalty: squared norm": ("gradient.flatten(sample_dims), dim=-1)", "gradient.flatten(sample_dims), dim=-1) ** 2"),
    "interpolate: only x": ("a * x + (1 - a) * y", "x + 0 * a * y"),
    "interpolate: one a for the batch": ("a = torch.rand(shape", "a = torch.rand((1,) * len(shape)"),
    "interpolate: an a for each coordinate": ("a = torch.rand(shape", "a = torch.rand(x.shape"),
    "optimum: slope": ("1 + d / (2 * lam)", "1 + d / lam"),
    "optimum: gap": ("d + d.square() / (2 * lam)", "d + d.square() / (4 * lam)"),
    "optimum: penalty": ("d.square() / (4 * lam)", "d.square() / (2 * lam)"),
    "corrected: minus one penalty": ("(gap - 2 * penalty, gap", "(gap - penalty, gap"),
    "corrected: plus": ("(gap - 2 * penalty, gap", "(gap + 2 * penalty, gap"),
    "corrected: no penalty": ("(gap - 2 * penalty, gap", "(gap, gap"),
    "estimate: penalty without λ": ("penalty = lam * (slope - 1)", "penalty = (slope - 1)"),
    "estimate: gap sign": ("critic(x).double() - critic(y)", "critic(y).double() - critic(x)"),
    "held-out jsd: sign": ("+ F.logsigmoid(-logits_q)))", "+ F.logsigmoid(logits_q)))"),
    "held-out jsd: half": ("math.log(2) + 0.5 * (F.log", "math.log(2) + (F.log"),
    "held-out jsd: log 2": ("columns.append(math.log(2) + 0.5", "columns.append(0.5"),
    "density: sign of the logit": ("log_f0.double() + logit", "log_f0.double() - logit"),
    "density: half": ("(log_f0.double() + logit", "0.5 * (log_f0.double() + logit"),
    "ratio: sign": ("return logit.double().exp()", "return (-logit.double()).exp()"),
    "training: descends": ("(-values.sum()).backward()", "values.sum().backward()"),
}  # fmt: skip


@pytest.mark.parametrize("name", MUTANTS)
def test_a_mutant_is_caught(name):
    """One edit of the source at a time; at least one check must fail on it."""
    old, new = MUTANTS[name]
    source = inspect.getsource(dv)
    assert source.count(old) == 1, f"{old!r} is in the source {source.count(old)} times"
    mutant = types.ModuleType("labutils.mutant")
    mutant.__package__ = "labutils"
    exec(compile(source.replace(old, new), "mutant", "exec"), mutant.__dict__)
    deep = name.startswith(("held-out", "training"))
    with pytest.raises(AssertionError):
        for check in CHECKS if not deep else [check_training_reaches_the_closed_forms]:
            check(mutant)


# --- what training must do besides ------------------------------------------------------------------


def test_held_out_jsd_is_not_biased_upward_by_overfitting():
    """A table that memorises its training batch scores log 2 on it, and at most 0 on fresh samples."""
    p, q = lines(0.0)
    x, y = p(64, generator(0)), q(64, generator(1))

    def memorising(z):
        to_x = torch.cdist(z, x).min(dim=-1).values
        to_y = torch.cdist(z, y).min(dim=-1).values
        return 1e4 * (to_y - to_x)

    assert dv.jsd_objective(memorising(x), memorising(y)).item() > 0.6
    (found,) = dv.estimate_jsd(memorising, p, q, n=4000)
    assert found.value < 0


def test_standard_errors_cover():
    """Over 60 repetitions the errors in units of their standard error have about unit variance."""
    p, q = lines(*[0.0] * 60)
    found = dv.estimate_wasserstein(lambda x: x[..., 1], p, q, n=2000)
    scores = torch.tensor([e.corrected.value / e.corrected.stderr for e in found])
    assert 0.6 < scores.square().mean() < 1.6
    ratios = torch.tensor([e.over_mean_slope.value / e.over_mean_slope.stderr for e in found])
    assert 0.6 < ratios.square().mean() < 1.6


def test_the_penalty_ramp_finds_the_sign_that_full_weight_loses():
    p, q = distribution4(4)
    settings = {"steps": 300, "seed": 5}
    with_ramp = dv.estimate_wasserstein(dv.train_critic(p, q, **settings), p, q, n=20_000)
    without = dv.estimate_wasserstein(dv.train_critic(p, q, ramp=0.0, **settings), p, q, n=20_000)
    assert with_ramp[dv.best_critic(with_ramp)].corrected.value == pytest.approx(0.596, abs=0.03)
    assert all(e.gap.value > 0.55 for e in with_ramp)
    assert min(e.gap.value for e in without) < 0.45  # some are stuck at T(x) ≈ x or −x


def test_gradient_penalty_trains_the_critic_through_its_gradient():
    net = CriticEnsemble(2, 3, seed=0)
    x = torch.randn(2, 8, 3, generator=generator(0))
    dv.gradient_penalty(net, x, x.flip(1), generator(1), sample_dims=2).sum().backward()
    assert all(w.grad.abs().sum() > 0 for w in net.weights)
    flat = dv.gradient_penalty(lambda z: 0 * z.sum(-1), x, x, generator(1), sample_dims=2)
    assert (flat == 1).all()


def test_learn_phi_stuck_under_jsd_and_arriving_under_wasserstein():
    stuck = dv.learn_phi("jsd", 1.0, steps=40)
    arriving = dv.learn_phi("wasserstein", 1.0, steps=60)
    assert (stuck.phi - 1).abs().max() < 0.02
    assert stuck.distance[-1].item() == pytest.approx(LOG2, abs=0.01)
    assert abs(arriving.phi[-1].item()) < 0.1
    assert (arriving.phi[:5].diff() < 0).all()


def test_a_network_that_died_or_diverged_is_named():
    p, q = lines(0.5, 0.5)
    x = distribution4()

    def one_dead(z):
        return z[..., 0] * torch.tensor([-1.0, 0.0])[:, None]

    with pytest.warns(UserWarning, match=r"critic 2 of 2 has gap 0 and penalty 1e\+04 .*another seed") as told:
        found = dv.estimate_wasserstein(one_dead, p, q, lam=1e4, n=1000)
    assert found[1].corrected.value == -20_000 and len(told) == 1
    with pytest.warns(UserWarning, match="critic 1 of 1"):
        dv.estimate_wasserstein(linear(40.0), *x, n=1000)
    with pytest.warns(UserWarning, match=r"discriminator 1 of 1 gives -6\d\d\.\d nats"):
        dv.estimate_jsd(linear(-1000.0), *x, n=1000)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("slope", [1.0, -1.0, 1.4, -1.4])
def test_a_critic_short_of_its_optimum_is_no_failure(slope):
    for p, q in (lines(0.0, 0.3), distribution4()):
        dv.estimate_wasserstein(linear(slope), p, q, n=2000)
        dv.estimate_jsd(linear(0.1 * slope), p, q, n=2000)
    dv.estimate_wasserstein(linear(-3.0), *lines(4.0), lam=1.0, n=2000)  # steep, and the optimum


def test_same_seed_same_result_and_the_global_state_is_left_alone():
    before = torch.random.get_rng_state()
    phi = torch.tensor([0.5, 1.0])
    runs = [dv.sweep_wasserstein(phi, seed=s, steps=5, n=100) for s in (0, 0, 1)]
    assert runs[0] == runs[1] != runs[2]
    dv.learn_phi("jsd", 0.5, steps=2, warm_up=1)
    assert torch.equal(before, torch.random.get_rng_state())


# --- the ensemble -----------------------------------------------------------------------------------


@pytest.mark.parametrize("activation", [nn.ReLU, nn.Tanh])
def test_ensemble_members_are_plain_networks(activation):
    net = CriticEnsemble(3, 2, (8, 5), activation, seed=1)
    x = torch.randn(3, 40, 2, generator=generator(0)) * 3 + 1
    net.standardise(x)
    assert net.shift.abs().sum() > 0
    for i in range(3):
        with torch.random.fork_rng():
            plain = nn.Sequential(nn.Linear(2, 8), activation(), nn.Linear(8, 5), activation(), nn.Linear(5, 1))
        with torch.no_grad():
            for k, layer in enumerate(plain[::2]):
                layer.weight.copy_(net.weights[k][i].T)
                layer.bias.copy_(net.biases[k][i, 0])
        standardised = (x[i] - x[i].mean(0)) / x[i].std(0)
        torch.testing.assert_close(net(x)[i], plain(standardised)[:, 0])
        torch.testing.assert_close(net(x)[i], net.member(i)(x[i])[:, 0])


def test_ensemble_initialisation_and_constant_inputs():
    net = CriticEnsemble(50, 2, (16, 64), seed=0)
    assert net.weights[2].abs().max() <= 1 / 8 and net.weights[2].std().item() == pytest.approx(1 / 8 / 3**0.5, rel=0.1)
    assert not torch.equal(net.weights[0][0], net.weights[0][1])
    x = torch.full((50, 100, 2), 0.3)
    net.standardise(x)
    assert ((x - net.shift) / net.scale).abs().max() < 1e-5 and net(x).isfinite().all()


# --- bad input --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: CriticEnsemble(0, 2), "members is 0"),
        (lambda: dv.interpolate(torch.zeros(3, 2), torch.zeros(4, 2), generator(0)), "expected one shape"),
        (
            lambda: dv.wasserstein_objective(linear(1.0), torch.zeros(2, 2), torch.zeros(2, 2), generator(0), 0.0),
            "lam is 0",
        ),
        (lambda: dv.line_penalty_optimum(torch.zeros(1), -1.0), "lam is -1"),
        (lambda: dv.estimate_jsd(linear(1.0), *lines(1.0), n=1), "n is 1"),
        (lambda: dv.train_critic(*lines(1.0), ramp=2.0), "ramp is 2"),
        (lambda: dv.train_critic(*lines(1.0), batch_size=0), "batch_size is 0"),
        (lambda: dv.train_discriminator(*lines(1.0), learning_rate=0.0), "learning_rate is 0"),
        (lambda: dv.train_discriminator(*lines(1.0), steps=0), "total_steps is 0"),
        (lambda: dv.train_critic(lines(1.0)[0], lines(1.0, 2.0)[0]), "have shapes"),
        (lambda: dv.learn_phi("jsd", 1.0, steps=0), "steps is 0"),
        (lambda: dv.best_critic([]), "found is empty"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
