"""Mixtures against torch.distributions and closed forms; the codes of a linear VAE, whose aggregate law is known."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch.distributions import Categorical, MixtureSameFamily, MultivariateNormal

from labutils import networks, priors, training, vae


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=training.generator(seed, "test"), dtype=torch.float64)


@pytest.fixture
def three():
    """Three components in four dimensions, far enough apart to be told, and the same law by torch."""
    roots = draw(3, 4, 4).tril(-1) * 0.3 + torch.diag_embed(0.3 + draw(3, 4, seed=1).abs())
    means = 6 * draw(3, 4, seed=2)
    weights = torch.tensor([0.2, 0.3, 0.5], dtype=torch.float64)
    oracle = MixtureSameFamily(Categorical(weights), MultivariateNormal(means, scale_tril=roots))
    return priors.Mixture(weights.log(), means, roots), oracle


def test_log_prob_is_that_of_torch(three):
    mixture, oracle = three
    z = 4 * draw(200, 4, seed=3)
    torch.testing.assert_close(mixture.log_prob(z), oracle.log_prob(z), rtol=1e-12, atol=1e-10)


def test_log_prob_far_from_every_component_is_finite(three):
    mixture, oracle = three
    z = torch.full((1, 4), 1e4, dtype=torch.float64)
    torch.testing.assert_close(mixture.log_prob(z), oracle.log_prob(z), rtol=1e-9, atol=0)
    assert torch.isfinite(mixture.log_prob(z)).all()


def test_samples_follow_the_mixture(three):
    mixture, oracle = three
    z = mixture.sample(40_000, seed=4).double()
    centred = z - z.mean(dim=0)
    assert ((z.mean(dim=0) - oracle.mean).abs() < 5 * (oracle.variance / len(z)).sqrt()).all()
    within = torch.einsum("j,jab,jcb->ac", mixture.log_weights.exp(), mixture.roots, mixture.roots)
    apart = mixture.means - oracle.mean
    expected = within + torch.einsum("j,ja,jb->ab", mixture.log_weights.exp(), apart, apart)
    torch.testing.assert_close(
        centred.T @ centred / len(z), expected, rtol=0.05, atol=0.05 * expected.abs().max().item()
    )
    entropy = -mixture.log_prob(z).mean(), -oracle.log_prob(draw_from(oracle, 40_000)).mean()
    assert abs(entropy[0] - entropy[1]) < 0.05


def draw_from(law, n):
    with training.forked_rng(0, "oracle"):
        return law.sample((n,))


def test_samples_are_reproducible_and_single_precision(three):
    mixture, _ = three
    assert torch.equal(mixture.sample(50, seed=1), mixture.sample(50, seed=1))
    assert not torch.equal(mixture.sample(50, seed=1), mixture.sample(50, seed=2))
    assert not torch.equal(mixture.sample(50, 1, "set", 0), mixture.sample(50, 1, "set", 1))
    assert mixture.sample(5).dtype == torch.float32
    with pytest.raises(ValueError, match="n is 0; expected at least one code"):
        mixture.sample(0)


def test_one_component_is_the_normal_law_of_the_codes():
    z = draw(500, 3) @ torch.tensor([[2.0, 0, 0], [1, 1, 0], [0, 0.5, 0.1]], dtype=torch.float64) + 3
    fitted = priors.fit_mixture(z, 1)
    torch.testing.assert_close(fitted.means[0], z.mean(dim=0))
    torch.testing.assert_close(fitted.roots[0] @ fitted.roots[0].T, torch.cov(z.T, correction=0))
    assert fitted.log_weights.item() == pytest.approx(0, abs=1e-12)


def test_a_known_mixture_is_found_again(three):
    mixture, oracle = three
    z = draw_from(oracle, 6000)
    fitted = priors.fit_mixture(z, 3, seed=1, shrinkage=0.0, tolerance=1e-6)
    fresh = mixture.sample(20_000, seed=9)
    gap = (mixture.log_prob(fresh) - fitted.log_prob(fresh)).mean().item()  # KL(truth ‖ fit)
    assert -0.005 < gap < 0.02, gap  # 44 parameters cost 44/2n = 0.004 nats in expectation
    order = fitted.means[:, 0].argsort(), mixture.means[:, 0].argsort()
    torch.testing.assert_close(fitted.means[order[0]], mixture.means[order[1]], rtol=0, atol=0.15)
    weights = [m.log_weights.exp()[o] for m, o in zip((fitted, mixture), order, strict=True)]
    torch.testing.assert_close(*weights, rtol=0, atol=0.03)


def test_no_step_of_the_fit_lowers_the_likelihood(three):
    z = draw_from(three[1], 800)
    fits = [priors.fit_mixture(z, 5, shrinkage=0.0, tolerance=-math.inf, steps=n).log_prob(z).mean() for n in range(12)]
    assert all(b >= a - 1e-12 for a, b in itertools.pairwise(fits)) and fits[-1] > fits[1]


def test_a_maximising_step_is_the_textbooks():
    """Bishop 2006, equations 9.24 to 9.27, written out; shrinkage adds codes with the covariance of all."""
    z, shares = draw(60, 2), torch.rand(60, 2, generator=training.generator(5), dtype=torch.float64)
    shares /= shares.sum(dim=1, keepdim=True)
    whole = torch.cov(z.T, correction=0)
    for strength in (0.0, 7.0):
        found = priors._maximise(z, shares, whole, strength)
        for j in range(2):
            count = shares[:, j].sum()
            mean = sum(s * row for s, row in zip(shares[:, j], z, strict=True)) / count
            scatter = sum(s * torch.outer(row - mean, row - mean) for s, row in zip(shares[:, j], z, strict=True))
            cov = (scatter + strength * whole) / (count + strength)
            torch.testing.assert_close(found.means[j], mean)
            torch.testing.assert_close(found.roots[j] @ found.roots[j].T, cov)
            assert found.log_weights[j].item() == pytest.approx(math.log(count / 60))


def test_more_components_than_the_codes_can_carry_stay_proper():
    z = draw(40, 5)
    fitted = priors.fit_mixture(z, 40)
    assert torch.isfinite(fitted.log_prob(draw(100, 5, seed=7))).all()
    assert fitted.log_weights.logsumexp(dim=0).item() == pytest.approx(0, abs=1e-9)


def test_a_fit_is_reproducible_and_survives_a_file(three, tmp_path):
    z = draw_from(three[1], 300)
    a, b = (priors.fit_mixture(z, 4, seed=2) for _ in range(2))
    assert torch.equal(a.means, b.means) and torch.equal(a.roots, b.roots)
    again = priors.Mixture.of({name: value.float() for name, value in vars(a).items()})
    torch.testing.assert_close(again.log_prob(z), a.log_prob(z), rtol=0, atol=1e-3)


@pytest.mark.parametrize("components", [0, 6])
def test_a_number_of_components_out_of_range_is_named(components):
    with pytest.raises(ValueError, match=f"components is {components}; expected 1 to 5"):
        priors.fit_mixture(draw(5, 2), components)


def test_codes_without_volume_or_not_finite_are_refused():
    with pytest.raises(ValueError, match="3 codes of 4 dimensions have no covariance to invert"):
        priors.fit_mixture(draw(3, 4), 1)
    z = draw(9, 2)
    z[4, 1] = math.nan
    with pytest.raises(ValueError, match="1 of 9 codes are not finite"):
        priors.fit_mixture(z, 1)


def images_of_the_linear_model(n):
    model = networks.LinearGaussianVAE()
    x = draw(n, 3, seed=1) @ model.w.T + draw(n, 6, seed=2)
    return model, x.view(-1, *model.shape)


class Biased(networks.LinearGaussianVAE):
    """Its codes lie elsewhere than the prior: z' = 2z + 1 of the exact posterior's z."""

    def encode(self, x):
        mean, logvar = super().encode(x)
        return 2 * mean + 1, logvar + 2 * math.log(2)

    def decode(self, z):
        return super().decode((z - 1) / 2)


def parameterised(model):
    model.place = torch.nn.Parameter(torch.zeros(1))
    return model


def test_codes_of_an_exact_posterior_follow_the_prior():
    """q(z|x) the exact posterior and x of the model: q(z) is N(0, I), and nothing is to be gained."""
    model, x = images_of_the_linear_model(20_000)
    z = priors.aggregate_codes(model, x)
    torch.testing.assert_close(torch.cov(z.T), torch.eye(3, dtype=torch.float64), rtol=0, atol=0.04)
    fit = priors.fit_mixture(z[:10_000], 1)
    found = priors.kl_of_aggregate(z[10_000:], fit)
    assert abs(found.value) < 5 * found.stderr + 1e-3


def test_kl_of_codes_that_lie_elsewhere_is_the_closed_form_and_what_the_elbo_gains():
    """q(z) is N(1, 4I): KL from N(0, I) is 3·½(4 + 1 − 1 − log 4); with m = q(z) the bound is exact again."""
    model, x = images_of_the_linear_model(20_000)
    biased = Biased()
    z = priors.aggregate_codes(biased, x)
    found = priors.kl_of_aggregate(z[10_000:], priors.fit_mixture(z[:10_000], 1))
    expected = 1.5 * (4 - math.log(4))
    assert abs(found.value - expected) < 4 * found.stderr + 2e-3
    plain = vae.evaluate_elbo(biased, x[10_000:], seed=1, likelihood=vae.gaussian_log_likelihood)
    best = model.log_p(x[10_000:]).mean().item()  # q is exact, so this is its ELBO under the right prior
    assert plain.elbo.value + found.value == pytest.approx(best, abs=0.15)


def test_codes_belong_to_their_images():
    model, x = images_of_the_linear_model(40)
    whole = priors.aggregate_codes(model, x, seed=3)
    torch.testing.assert_close(priors.aggregate_codes(model, x, seed=3, batch_size=7), whole)
    mean, logvar = model.encode(x)
    noise = torch.stack([vae.image_noise(3, i, 3) for i in range(40)])
    torch.testing.assert_close(whole, mean + torch.exp(logvar / 2) * noise)


def pancake(n=600, latent=4):
    """An image VAE whose codes are far from N(0, I), and images for it."""
    model = vae.initialise(networks.ImageVAE, 0, latent=latent, architecture="narrow")
    last = model.encoder[-1]
    flat = torch.diag(torch.tensor([8.0, 2.0, 0.5, 0.1])[:latent]) @ draw(latent, latent, seed=4).float()
    with torch.no_grad():
        last.weight[:latent] = flat @ last.weight[:latent] * 4
        last.bias[:latent] += 3
        last.bias[latent:] -= 2
    draws = training.generator(0, "pancake")
    scale = torch.rand(n, 3, 1, 1, generator=draws)
    return model, scale * (2 * torch.rand(n, 3, 32, 32, generator=draws) - 1)


@torch.no_grad()
def test_whitened_codes_are_standard_and_decode_as_before():
    model, x = pancake()
    old_mean, old_logvar = (v.double() for v in model.encode(x))
    old_codes, before = priors.aggregate_codes(model, x, 1), model.decode(old_mean.float())
    cov = torch.cov(old_codes.T, correction=0)
    assert torch.linalg.cond(cov) > 50
    priors.whiten(model, x, 1)
    mean, logvar = (v.double() for v in model.encode(x))
    torch.testing.assert_close(model.decode(mean.float()), before, rtol=0, atol=2e-4)
    root = torch.linalg.cholesky(cov)  # any root: lengths in the metric of S
    away = torch.linalg.solve_triangular(root, (old_mean - old_codes.mean(dim=0)).T, upper=False)
    torch.testing.assert_close(mean.norm(dim=1), away.norm(dim=0), rtol=1e-3, atol=1e-3)
    codes = priors.aggregate_codes(model, x, 2)
    assert (codes.mean(dim=0).abs() < 5 / len(codes) ** 0.5).all()
    torch.testing.assert_close(torch.cov(codes.T), torch.eye(4, dtype=torch.float64), rtol=0, atol=0.25)

    values, axes = torch.linalg.eigh(cov)
    symmetric = axes @ values.sqrt().diag() @ axes.T
    for i in range(0, len(x), 100):  # among diagonal laws the nearest to the posterior in the new coordinates
        inverse = torch.linalg.inv(symmetric)
        exact = inverse @ old_logvar[i].exp().diag() @ inverse
        nearest = -torch.linalg.inv(exact).diagonal().log()
        assert (logvar[i] - nearest).abs().max() < 0.3


def test_the_nearest_diagonal_law_has_the_precisions_diagonal():
    """What `whiten` gives the encoder to say: KL(diagonal ‖ posterior) is least there."""
    a = draw(4, 4)
    exact = MultivariateNormal(torch.zeros(4, dtype=torch.float64), a @ a.T + 0.1 * torch.eye(4, dtype=torch.float64))
    nearest = 1 / exact.precision_matrix.diagonal()

    def kl(variances):
        diagonal = MultivariateNormal(exact.loc, torch.diag(variances))
        return torch.distributions.kl_divergence(diagonal, exact).item()

    for i in range(4):
        for factor in (0.9, 1.1):
            other = nearest.clone()
            other[i] *= factor
            assert kl(other) > kl(nearest)


def test_too_few_codes_cannot_be_whitened():
    model, x = pancake(3)
    with pytest.raises(ValueError, match="3 codes of 4 dimensions have no covariance to invert"):
        priors.whiten(model, x)
