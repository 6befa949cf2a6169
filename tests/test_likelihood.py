"""Importance sampling against a VAE whose log p(x) is known exactly, and each known mistake against the truth."""

from __future__ import annotations

import math

import mistakes_problem2
import pytest
import torch
from torch.distributions import Normal

from labutils import data, estimates, keynumbers, networks, training, vae

g = training.generator
LinearGaussian = networks.LinearGaussianVAE
SHAPE, L = LinearGaussian.shape, LinearGaussian.latent


def draws(model, x, k, seed=1):
    mean, logvar = model.encode(x.view(-1, *SHAPE))
    noise = torch.randn(len(x), k, L, generator=g(seed), dtype=torch.float64)
    return vae.reparametrise(mean[:, None], logvar[:, None], noise).detach()


@pytest.fixture
def x():
    return 1.5 * torch.randn(40, 6, generator=g(2), dtype=torch.float64)


GAUSSIAN = {"likelihood": vae.gaussian_log_likelihood, "shape": SHAPE}


def test_with_the_exact_posterior_one_code_is_enough(x):
    model = LinearGaussian()
    for k in (1, 7):
        got = vae.log_likelihood(model, x, draws(model, x, k), **GAUSSIAN)
        assert torch.allclose(got, model.log_p(x.view(-1, *SHAPE)).detach(), atol=1e-10)


def test_with_a_wrong_posterior_it_converges_to_the_truth(x):
    model = LinearGaussian(spread=1.4, shift=0.2)
    truth = model.log_p(x.view(-1, *SHAPE)).detach()
    errors = [(vae.log_likelihood(model, x, draws(model, x, k), **GAUSSIAN) - truth).mean().item()
              for k in (1, 10, 100, 20_000)]  # fmt: skip
    assert errors[0] < errors[1] < errors[2] < 0.01, "a lower bound that rises with K"
    assert abs(errors[3]) < 0.002
    elbo = vae.evaluate_elbo(model, x.view(-1, *SHAPE), samples=200, likelihood=vae.gaussian_log_likelihood)
    assert (elbo.per_image < truth).double().mean() > 0.9 and elbo.elbo.value < truth.mean()
    assert errors[0] == pytest.approx(elbo.elbo.value - truth.mean().item(), abs=0.1), "K = 1 is the ELBO"


def test_the_densities_are_those_of_torch_distributions():
    z, mean, logvar = torch.randn(3, 4, 5, L, generator=g(3), dtype=torch.float64)
    expected = Normal(mean, torch.exp(0.5 * logvar)).log_prob(z).sum(dim=-1)
    assert torch.allclose(vae.log_normal(z, mean, logvar), expected)
    assert torch.allclose(vae.log_normal(z, 0.0, 0.0), Normal(0.0, 1.0).log_prob(z).sum(dim=-1))
    a, b = torch.randn(2, 4, *SHAPE, generator=g(4), dtype=torch.float64)
    assert torch.allclose(vae.gaussian_log_likelihood(a, b), Normal(a, 1.0).log_prob(b).sum(dim=(1, 2, 3)))


def codes_of(model, images, k, seed):
    """The codes that evaluation draws for images 0, 1, …: (m, k, L), put together without it."""
    with torch.no_grad():
        mean, logvar = model.encode(images.float())
    noise = [
        torch.cat([vae.image_noise(seed, i, vae.BLOCK, 100, block=b) for b in range(-(-k // vae.BLOCK))])
        for i in range(len(images))
    ]
    return vae.reparametrise(mean[:, None], logvar[:, None], torch.stack(noise)[:, :k])


def test_streaming_is_the_graded_function_with_the_same_codes():
    model = vae.initialise(networks.MnistVAE, 0)
    images = (torch.rand(5, 1, 28, 28, generator=g(5)) < 0.2).to(torch.uint8)
    k = 2 * vae.BLOCK + 7
    found = vae.evaluate_log_likelihood(model, images, k, seed=3)
    z = codes_of(model, images, k, seed=3)
    expected = vae.log_likelihood(model, images.flatten(1).float(), z)
    assert torch.allclose(found.per_image, expected, rtol=1e-6)
    with torch.no_grad():
        log_w = vae.log_weights(model, images.float(), z).double()
    w = torch.softmax(log_w, dim=1)
    assert torch.allclose(found.elbo, log_w.mean(dim=1), rtol=1e-6)
    assert torch.allclose(found.effective, 1 / w.square().sum(dim=1), rtol=1e-3)
    assert ((found.effective >= 1) & (found.effective <= k)).all()


def test_the_curve_averages_the_graded_function_over_groups_of_its_codes():
    model = vae.initialise(networks.MnistVAE, 0)
    images = (torch.rand(7, 1, 28, 28, generator=g(5)) < 0.2).to(torch.uint8)
    most = 2 * vae.BLOCK + 7
    ks = [most, 1, vae.BLOCK, vae.BLOCK + 1, 3]
    curve = vae.likelihood_curve(model, images, ks, seed=2, batch_size=3)
    z, rows = codes_of(model, images, most, seed=2), images.flatten(1).float()
    for k, found in zip(ks, curve, strict=True):
        groups = [z[:, i * k : (i + 1) * k] for i in range(most // k)]
        expected = torch.stack([vae.log_likelihood(model, rows, group) for group in groups]).mean(dim=0)
        assert torch.allclose(found.per_image, expected, rtol=1e-6), k
        assert torch.allclose(found.elbo, curve[0].elbo) and found.estimate.value == found.per_image.mean().item()
        assert ((found.effective >= 1) & (found.effective <= k)).all()
    alone = vae.evaluate_log_likelihood(model, images, most, seed=2)
    assert torch.allclose(curve[0].per_image, alone.per_image, rtol=1e-6), "all codes: one group"
    assert torch.allclose(curve[0].elbo, alone.elbo, rtol=1e-6)
    assert torch.allclose(curve[0].effective, alone.effective, rtol=1e-3)
    assert torch.equal(curve[1].per_image, curve[1].elbo) and (curve[1].effective == 1).all(), "one code"
    subset = torch.tensor([4, 1])
    part = vae.likelihood_curve(model, images[subset], ks, rows=subset, seed=2)
    for whole, some in zip(curve, part, strict=True):
        assert torch.allclose(whole.per_image[subset], some.per_image, rtol=1e-6), "an image of a subset"


def test_the_curve_has_the_mean_of_single_estimates_and_less_noise(x):
    """At K = 10 from 300 codes: thirty groups, so the same expectation as one estimate and 1/√30 of its noise."""
    model, images = LinearGaussian(spread=1.4, shift=0.2), x.view(-1, *SHAPE)
    options = {"likelihood": vae.gaussian_log_likelihood, "batch_size": 40}
    single, grouped = [], []
    for seed in range(60):
        single.append(vae.evaluate_log_likelihood(model, images, 10, seed=seed, **options).per_image)
        grouped.append(vae.likelihood_curve(model, images, [10, 300], seed=seed, **options)[0].per_image)
    single, grouped = torch.stack(single), torch.stack(grouped)
    ratio = (grouped.std(dim=0).square().mean() / single.std(dim=0).square().mean()).sqrt()
    assert 0.14 < ratio < 0.23, "1/√30 = 0.18"
    difference = (single - grouped).mean(dim=1)
    assert abs(estimates.mean(difference).value) < 4 * estimates.mean(difference).stderr < 0.03


def test_an_image_gets_the_same_number_in_any_batch_and_any_subset(mnist):
    model = vae.initialise(networks.MnistVAE, 0)
    images = mnist.valid.images[:12]
    whole = vae.evaluate_log_likelihood(model, images, 60, batch_size=12).per_image
    for size in (1, 5):
        assert torch.allclose(
            whole, vae.evaluate_log_likelihood(model, images, 60, batch_size=size).per_image, rtol=1e-6
        )
    rows = torch.tensor([7, 2, 11])
    part = vae.evaluate_log_likelihood(model, images[rows], 60, rows=rows).per_image
    assert torch.allclose(whole[rows], part, rtol=1e-6)


def test_no_underflow_where_probabilities_would(mnist):
    model = vae.initialise(networks.MnistVAE, 0)
    found = vae.evaluate_log_likelihood(model, mnist.valid.images[:3], 10)
    assert (found.per_image < -400).all() and torch.isfinite(found.per_image).all()


def test_wrong_shapes_are_named():
    model = vae.initialise(networks.MnistVAE, 0)
    with pytest.raises(ValueError, match="x holds 2 images and z codes for 3"):
        vae.log_likelihood(model, torch.zeros(2, 784), torch.zeros(3, 4, 100))
    with pytest.raises(ValueError, match="x has 783 values a row"):
        vae.log_likelihood(model, torch.zeros(2, 783), torch.zeros(2, 4, 100))
    with pytest.raises(ValueError, match="k is 0"):
        vae.evaluate_log_likelihood(model, torch.zeros(2, 1, 28, 28), 0)
    with pytest.raises(ValueError, match="k is -3"):
        vae.likelihood_curve(model, torch.zeros(2, 1, 28, 28), [5, -3])


def mistakes():
    """Each known mistake alone, applied to log p(x|z), log p(z), log q(z|x), each (M, K)."""
    k_mean = lambda w: torch.logsumexp(w, dim=1) - math.log(w.shape[1])  # noqa: E731
    return {
        "sign of the likelihood": lambda a, b, c: k_mean(-a + b - c),
        "prior forgotten": lambda a, b, c: k_mean(a - c),
        "q multiplied": lambda a, b, c: k_mean(a + b + c),
        "not divided by K": lambda a, b, c: torch.logsumexp(a + b - c, dim=1),
        "mean of logarithms": lambda a, b, c: (a + b - c).mean(dim=1),
        "mean over the batch too": lambda a, b, c: (torch.logsumexp((a + b - c).flatten(), 0) - math.log(a.numel()))
        .expand(len(a)),
    }  # fmt: skip


@pytest.mark.parametrize("name", mistakes())
def test_each_mistake_would_be_caught(x, name):
    """The oracle above is sharp: every mistake misses the exact value by far more than its tolerance."""
    model = LinearGaussian(spread=1.4, shift=0.2)
    k = 2000
    z = draws(model, x, k)
    mean, logvar = model.encode(x.view(-1, *SHAPE))
    decoded = model.decode(z.view(-1, L)).view(len(x), k, *SHAPE)
    a = vae.gaussian_log_likelihood(decoded, x.view(-1, 1, *SHAPE).expand_as(decoded))
    b, c = vae.log_normal(z, 0.0, 0.0), vae.log_normal(z, mean[:, None], logvar[:, None])
    truth = model.log_p(x.view(-1, *SHAPE))
    right = torch.logsumexp(a + b - c, dim=1) - math.log(k)
    assert (right - truth).abs().mean() < 0.02
    assert (mistakes()[name](a, b, c) - truth).abs().mean() > 0.1


@pytest.fixture(scope="module")
def shipped(mnist):
    """The reference model, some test images, and their log p(x)."""
    model, images = mistakes_problem2.shipped(), data.random_subset(mnist.test, 20).images
    return model, images, vae.evaluate_log_likelihood(model, images, mistakes_problem2.K).per_image


def widths(kind):
    """How wide the bands of the ELBO, or of the likelihood, are."""
    ids = [f"p2.{model}{kind}.{split}" for model in ("", "reference.") for split in ("valid", "test")]
    return [keynumbers.bands()[id]["cpu"]["high"] - keynumbers.bands()[id]["cpu"]["low"] for id in ids]


@pytest.mark.parametrize("name", mistakes_problem2.ELBO)
def test_a_mistake_in_the_elbo_leaves_its_bands(shipped, name):
    """Moved by more than a band is wide, it falls outside wherever in the band the right value was."""
    model, images, _ = shipped
    assert abs(mistakes_problem2.elbo_shift(name, model, images).value) > 2 * max(widths("elbo"))


@pytest.mark.parametrize("name", mistakes_problem2.LIKELIHOOD)
def test_a_mistake_in_the_likelihood_leaves_its_bands(shipped, name):
    shift = mistakes_problem2.likelihood_shift(name, *shipped)
    assert not abs(shift) < 1.5 * max(widths("loglik")), "or is no number"


def test_the_bands_tell_test_images_from_validation_images():
    bands = {id: band["cpu"] for id, band in keynumbers.bands().items() if id.startswith("p2.")}
    assert bands["p2.reference.elbo.valid"]["high"] < bands["p2.reference.elbo.test"]["low"]
    assert bands["p2.elbo.test_minus_valid"]["low"] > 0


def test_subset_correction_is_unbiased_and_its_error_is_right():
    """Simulated: log p = ELBO + 6 − 0.07 (ELBO + 95) ± 1.5, the ELBO of all from one noisy code; random subsets."""
    n, m, population = 2000, 100, 400
    values, errors, plain = [], [], []
    for i in range(population):
        draw = g(6, i)
        elbo = -95 + 22 * torch.randn(n, generator=draw, dtype=torch.float64)
        log_p = elbo + 6 + 1.5 * torch.randn(n, generator=draw, dtype=torch.float64) - 0.07 * (elbo + 95)
        noisy = elbo + 5 * torch.randn(n, generator=draw, dtype=torch.float64)
        rows = torch.randperm(n, generator=draw)[:m]
        subset = vae.LikelihoodEstimate(estimates.mean(log_p[rows]), log_p[rows], elbo[rows], elbo[rows])
        found = vae.correct_to_all(noisy, subset)
        values.append(found.value - log_p.mean().item())
        plain.append((noisy.mean() + (log_p - elbo)[rows].mean() - log_p.mean()).item())
        errors.append(found.stderr)
    # The images themselves are given here; of the error printed, 22·0.93/√n is how other images would differ.
    luck = torch.tensor(values).std().item()
    assert abs(sum(values)) / population < 4 * luck / population**0.5
    others = (0.93 * 22) ** 2 / n
    assert sum(errors) / population == pytest.approx((luck**2 + others) ** 0.5, rel=0.05)
    assert luck == pytest.approx((1.5**2 / m + (0.93 * 5) ** 2 / n) ** 0.5, rel=0.12)
    assert luck < 0.9 * torch.tensor(plain).std().item(), "less than by the mean of log p − ELBO"
    everything = vae.LikelihoodEstimate(estimates.mean(log_p), log_p, elbo, elbo)
    assert vae.correct_to_all(noisy, everything).value == pytest.approx(log_p.mean().item())


class Correlated(LinearGaussian):
    """x = Wz + ε with columns of W that are not orthogonal: the posterior is no diagonal Gaussian; q is the prior."""

    def __init__(self):
        super().__init__()
        with torch.no_grad():
            self.w[:, 1] += 0.6 * self.w[:, 0]
            self.w[:, 2] -= 0.4 * self.w[:, 1]

    def encode(self, x):
        return (torch.zeros(len(x), L, dtype=torch.float64),) * 2


def test_the_fitted_posterior_is_the_best_of_its_family(x):
    """For precision Λ = I + WᵀW and mean m = Λ⁻¹Wᵀx the best diagonal q is N(m, 1/Λ_jj), and what its ELBO lacks to
    log p(x) is KL(q‖p(z|x)) = ½ (Σ log Λ_jj − log det Λ), for every image the same (Bishop 2006, section 10.1.2)."""
    model, images = Correlated(), x.view(-1, *SHAPE)
    precision = torch.eye(L, dtype=torch.float64) + model.w.T @ model.w
    mean = torch.linalg.solve(precision, model.w.T @ x.T).T
    lacks = 0.5 * (precision.diagonal().log().sum() - torch.logdet(precision))
    assert lacks > 0.2, "a gap that can be seen"
    before = [p.clone() for p in model.parameters()]
    own = vae.fit_posterior(model, images, steps=400, samples=8, likelihood=vae.gaussian_log_likelihood)
    for fitted, best in ((own.mean, mean), (own.logvar, -precision.diagonal().log().expand_as(mean))):
        assert (fitted - best).abs().max() < 0.12 and (fitted - best).square().mean() < 0.03**2
    options = {"likelihood": vae.gaussian_log_likelihood, "batch_size": len(x)}
    found, plain = (vae.evaluate_log_likelihood(m, images, 2000, **options) for m in (own, model))
    assert (model.log_p(images) - found.elbo).mean().item() == pytest.approx(lacks.item(), abs=0.005)
    assert found.estimate.value == pytest.approx(model.log_p(images).mean().item(), abs=0.005)
    assert (found.elbo > plain.elbo).all()
    for p, q in zip(model.parameters(), before, strict=True):
        assert torch.equal(p, q) and p.grad is None


def test_a_fitted_posterior_where_the_family_holds_the_true_one_leaves_no_gap(x):
    model, images = LinearGaussian(spread=1.4, shift=0.2), x.view(-1, *SHAPE)
    own = vae.fit_posterior(model, images, steps=200, likelihood=vae.gaussian_log_likelihood)
    right = LinearGaussian().encode(images)
    for found, expected in zip(own.encode(images), right, strict=True):
        assert torch.allclose(found, expected, atol=1e-3), "the path gradient has no noise there"
    again = vae.fit_posterior(model, images, steps=200, likelihood=vae.gaussian_log_likelihood)
    assert torch.equal(own.mean, again.mean) and torch.equal(own.logvar, again.logvar)


def test_a_fitted_posterior_is_of_its_images_only(mnist):
    model = vae.initialise(networks.MnistVAE, 0)
    own = vae.fit_posterior(model, mnist.valid.images[:3], steps=2)
    assert all(p.grad is None for p in model.parameters())
    with pytest.raises(ValueError, match="x holds 4 images and q is of 3"):
        vae.evaluate_elbo(own, mnist.valid.images[:4])
    start, x = vae.fit_posterior(model, mnist.valid.images[:3], steps=0), mnist.valid.images[:3].float()
    with torch.no_grad():
        for found, expected in zip(start.encode(x), model.encode(x), strict=True):
            assert torch.equal(found, expected), "it begins at the encoder's answer"


def test_evaluations_follow_the_precision_of_the_network(mnist):
    model, images = vae.initialise(networks.MnistVAE, 0), mnist.valid.images[:4]
    rows, z = images.flatten(1).float(), torch.randn(4, 3, 100, generator=g(7))

    def evaluations():
        return {
            "elbo": vae.evaluate_elbo(model, images).per_image,
            "log p": vae.evaluate_log_likelihood(model, images, 20).per_image,
            "curve": vae.likelihood_curve(model, images, [1, 20])[1].per_image,
            "graded": vae.log_likelihood(model, rows, z),
            "variance": torch.tensor(vae.fitted_variance(model, images.float()), dtype=torch.float64),
            "fitted": vae.evaluate_elbo(vae.fit_posterior(model, images, steps=3), images).per_image,
        }

    single = evaluations()
    model.double()
    double = evaluations()
    for name in single:
        assert torch.allclose(single[name].double(), double[name].double(), rtol=1e-5), name
        assert not torch.equal(single[name].double(), double[name].double()), f"{name} was computed in float32"
    vae.train(model, images, vae.Recipe(batch_size=4), epochs=1, watch={"valid": images})
    assert next(model.parameters()).dtype == torch.float64


@pytest.mark.slow
def test_memory_does_not_grow_with_k(mnist):
    import resource

    model = vae.initialise(networks.MnistVAE, 0)

    def peak(k):
        vae.evaluate_log_likelihood(model, mnist.valid.images[:40], k, batch_size=20)
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

    small = peak(2 * vae.BLOCK)
    assert peak(20 * vae.BLOCK) < small + 60, "megabytes"
