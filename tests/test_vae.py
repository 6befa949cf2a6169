"""The VAE's terms against closed forms and torch.distributions; the network against the given architecture."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import nn
from torch.distributions import Bernoulli, Normal, kl_divergence

from labutils import data, estimates, networks, training, vae

g = training.generator


def plain_network(latent: int = 100) -> tuple[nn.Module, nn.Module]:
    """The architecture table of the assignment, layer by layer, in plain PyTorch."""
    encoder = nn.Sequential(
        nn.Conv2d(1, 32, 3), nn.ELU(), nn.AvgPool2d(2),
        nn.Conv2d(32, 64, 3), nn.ELU(), nn.AvgPool2d(2),
        nn.Conv2d(64, 256, 5), nn.ELU(), nn.Flatten(),
        nn.Linear(256, 2 * latent),
    )  # fmt: skip
    decoder = nn.Sequential(
        nn.Linear(latent, 256), nn.ELU(), nn.Unflatten(1, (256, 1, 1)),
        nn.Conv2d(256, 64, 5, padding=4), nn.ELU(), nn.UpsamplingBilinear2d(scale_factor=2),
        nn.Conv2d(64, 32, 3, padding=2), nn.ELU(), nn.UpsamplingBilinear2d(scale_factor=2),
        nn.Conv2d(32, 16, 3, padding=2), nn.ELU(),
        nn.Conv2d(16, 1, 3, padding=2),
    )  # fmt: skip
    return encoder, decoder


def test_the_network_is_the_given_architecture():
    model = vae.initialise(networks.MnistVAE, 1).double()
    with training.forked_rng(2):
        encoder, decoder = plain_network()
    model.encoder.load_state_dict(encoder.state_dict())  # same names, same shapes
    model.decoder.load_state_dict(decoder.state_dict())
    encoder, decoder = encoder.double(), decoder.double()
    x = (torch.rand(7, 1, 28, 28, generator=g(0)) < 0.3).double()
    z = torch.randn(7, 100, generator=g(1)).double()

    assert torch.allclose(torch.cat(model.encode(x), dim=1), encoder(x), rtol=1e-12, atol=1e-12)
    assert torch.allclose(model.decode(z), decoder(z), rtol=1e-12, atol=1e-12)

    for ours, theirs in ((model.encoder, encoder), (model.decoder, decoder)):
        argument = x if ours is model.encoder else z
        ours(argument).square().sum().backward()
        theirs(argument).square().sum().backward()
        for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
            assert torch.allclose(p.grad, q.grad, rtol=1e-9, atol=1e-9)


def test_point_convolutions_fall_back_on_other_shapes():
    with training.forked_rng(0):
        up, down = networks.ConvFromPoint(3, 4, 5, padding=4), networks.ConvToPoint(3, 4, 5)
    for layer, shape in ((up, (2, 3, 6, 6)), (down, (2, 3, 9, 9))):
        x = torch.randn(shape, generator=g(0))
        expected = nn.functional.conv2d(x, layer.weight, layer.bias, padding=layer.padding)
        assert torch.allclose(layer(x), expected, atol=1e-6)


@pytest.mark.parametrize("kernel, size", [(3, (5, 7)), (2, (4, 4)), (4, (3, 6))])
def test_the_convolution_to_one_map_is_pytorchs(kernel, size):
    layer = nn_initialised(networks.ConvToOneMap, 3, 1, kernel, padding=kernel - 1).double()
    x = torch.randn(2, 3, *size, generator=g(0), dtype=torch.float64).requires_grad_()
    expected = nn.functional.conv2d(x, layer.weight, layer.bias, padding=kernel - 1)
    assert torch.allclose(layer(x), expected, rtol=1e-12)
    assert torch.autograd.gradcheck(lambda *_: layer(x), (x, layer.weight, layer.bias))


def test_the_convolution_to_one_map_falls_back_on_other_paddings_and_widths():
    for out, padding in ((1, 1), (2, 2)):
        layer = nn_initialised(networks.ConvToOneMap, 3, out, 3, padding=padding)
        x = torch.randn(2, 3, 6, 6, generator=g(0))
        assert torch.equal(layer(x), nn.functional.conv2d(x, layer.weight, layer.bias, padding=padding))


def nn_initialised(make, *arguments, **options):
    with training.forked_rng(0):
        return make(*arguments, **options)


def test_the_fast_elu_is_pytorchs():
    x = torch.cat([torch.linspace(-30, 30, 10_001, dtype=torch.float64), torch.tensor([0.0, 1e-9, -1e-9])])
    ours, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
    a, b = networks.ELU()(ours), nn.functional.elu(theirs)
    assert torch.allclose(a, b, rtol=1e-12, atol=1e-15)
    a.sin().sum().backward()
    b.sin().sum().backward()
    assert torch.allclose(ours.grad, theirs.grad, rtol=1e-12)
    single = x.float()
    assert (networks.ELU()(single) - nn.functional.elu(single)).abs().max() < 1.3e-7
    assert torch.autograd.gradcheck(
        networks.ELU(), torch.tensor([-2.0, -0.5, 0.7], dtype=torch.float64).requires_grad_()
    )


def test_initialisation_is_pytorchs_default_and_depends_on_the_seed_alone():
    first, again, other = (vae.initialise(networks.MnistVAE, s) for s in (3, 3, 4))
    same = [torch.equal(p, q) for p, q in zip(first.parameters(), again.parameters(), strict=True)]
    assert all(same)
    assert not torch.equal(next(first.parameters()), next(other.parameters()))
    weight = first.encoder[3].weight  # Kaiming uniform with a = √5: bound 1/√fan_in
    assert weight.abs().max() <= 1 / math.sqrt(32 * 9) and weight.abs().max() > 0.99 / math.sqrt(32 * 9)


def test_bernoulli_log_likelihood_is_that_of_torch_distributions():
    logits = 5 * torch.randn(6, 1, 28, 28, generator=g(0), dtype=torch.float64)
    x = (torch.rand(6, 1, 28, 28, generator=g(1)) < 0.5).double()
    expected = Bernoulli(logits=logits).log_prob(x).sum(dim=(1, 2, 3))
    assert torch.allclose(vae.bernoulli_log_likelihood(logits, x), expected, rtol=1e-12)


def test_bernoulli_log_likelihood_survives_a_sure_decoder():
    logits = torch.tensor([[[[200.0, -200.0]]], [[[200.0, -200.0]]]])
    x = torch.tensor([[[[1.0, 0.0]]], [[[0.0, 1.0]]]])
    assert vae.bernoulli_log_likelihood(logits, x).tolist() == [0.0, -400.0]


def test_gaussian_log_likelihood_is_that_of_torch_distributions():
    mean, x = torch.randn(2, 6, 3, 4, 4, generator=g(0), dtype=torch.float64)
    for variance in (1.0, 0.04):
        expected = Normal(mean, variance**0.5).log_prob(x).sum(dim=(1, 2, 3))
        assert torch.allclose(vae.gaussian_log_likelihood(mean, x, variance), expected, rtol=1e-12)
    assert torch.equal(vae.gaussian_log_likelihood(mean, x), vae.gaussian_log_likelihood(mean, x, 1.0))


def test_the_calibrated_variance_is_the_best_one_and_its_gradient_that_of_a_fixed_one():
    mean, x = torch.randn(2, 6, 3, 4, 4, generator=g(0), dtype=torch.float64)
    mean = (x + 0.3 * mean).requires_grad_()
    total = vae.calibrated_log_likelihood(mean, x).sum()
    best = (x - mean).square().mean().item()
    # In closed form −½ n (log 2πσ² + 1), n values in all; and no other σ² does better.
    assert total.item() == pytest.approx(-0.5 * x.numel() * (math.log(2 * math.pi * best) + 1), rel=1e-12)
    for other in (0.9 * best, 1.1 * best, 1.0):
        assert vae.gaussian_log_likelihood(mean, x, other).sum() < total
    (gradient,) = torch.autograd.grad(total, mean)
    (fixed,) = torch.autograd.grad(vae.gaussian_log_likelihood(mean, x, best).sum(), mean)
    assert torch.allclose(gradient, fixed, rtol=1e-10), "σ² is at its optimum: its own change adds nothing"


def test_fitted_variance_is_that_of_the_linear_model():
    """For x ~ p(x) and z ~ p(z|x), x − Wz is the noise of the model, N(0, I) in every value."""
    model = networks.LinearGaussianVAE()
    z = torch.randn(20_000, 3, generator=g(0), dtype=torch.float64)
    x = model.decode(z) + torch.randn(20_000, 1, 2, 3, generator=g(1), dtype=torch.float64)
    found = vae.fitted_variance(model, x)
    assert found == pytest.approx(1.0, abs=5 * (2 / 120_000) ** 0.5)
    assert vae.fitted_variance(model, x[:100], batch_size=7) == pytest.approx(vae.fitted_variance(model, x[:100]))


def test_gaussian_kl_is_the_closed_form_and_the_expectation():
    mean, logvar = torch.randn(2, 5, 100, generator=g(0), dtype=torch.float64)
    kl = vae.gaussian_kl(mean, logvar)
    expected = kl_divergence(Normal(mean, torch.exp(0.5 * logvar)), Normal(0.0, 1.0))
    assert torch.allclose(kl, expected, rtol=1e-10)
    # A second method that shares no formula with the first: the expectation of log q − log p.
    q, p = Normal(mean[0, :3], torch.exp(0.5 * logvar[0, :3])), Normal(0.0, 1.0)
    z = vae.reparametrise(mean[0, :3], logvar[0, :3], torch.randn(200_000, 3, generator=g(1), dtype=torch.float64))
    draws = q.log_prob(z) - p.log_prob(z)
    assert ((draws.mean(dim=0) - kl[0, :3]).abs() < 5 * draws.std(dim=0) / len(draws) ** 0.5).all()


def test_kl_is_zero_exactly_at_the_prior():
    assert vae.gaussian_kl(torch.zeros(1, 4), torch.zeros(1, 4)).abs().max() == 0


class LinearGaussianLike(nn.Module):
    """A VAE with two pixels and one unit, small enough to integrate: logits = w z, q = N(m(x), e^v)."""

    latent = 1

    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.tensor([1.5, -0.7], dtype=torch.float64))

    def encode(self, x):
        mean = (x.flatten(1).double() @ self.w.detach()).unsqueeze(1) * 0.4
        return mean, torch.full_like(mean, -0.3)

    def decode(self, z):
        return (z.double() * self.w).view(-1, 1, 1, 2)


def test_elbo_is_the_integral_and_below_the_likelihood():
    model = LinearGaussianLike()
    x = torch.tensor([[1.0, 0.0], [1.0, 1.0], [0.0, 1.0]], dtype=torch.float64).view(3, 1, 1, 2)
    grid = torch.linspace(-12, 12, 200_001, dtype=torch.float64)
    step = grid[1] - grid[0]
    log_px_z = torch.stack([vae.bernoulli_log_likelihood(model.decode(grid[:, None]), xi.expand(len(grid), 1, 1, 2))
                            for xi in x])  # fmt: skip
    mean, logvar = model.encode(x)
    q = Normal(mean, torch.exp(0.5 * logvar)).log_prob(grid)
    p = Normal(0.0, 1.0).log_prob(grid)
    exact_elbo = ((log_px_z + p - q) * q.exp()).sum(dim=1) * step
    log_px = torch.logsumexp(log_px_z + p, dim=1) + math.log(step)

    draws = torch.stack([vae.elbo(model, x, torch.randn(3, 1, generator=g(0, i), dtype=torch.float64)).elbo
                         for i in range(4000)])  # fmt: skip
    error = draws.std(dim=0) / len(draws) ** 0.5
    assert ((draws.mean(dim=0) - exact_elbo).abs() < 5 * error).all()
    assert (exact_elbo < log_px).all()


class _Shifted(networks.LinearGaussianVAE):
    """The exact posterior, moved by a mean and a log-variance that have gradients."""

    def __init__(self, mean=0.0, logvar=0.0):
        super().__init__()
        self.moved = [nn.Parameter(torch.full((3,), v, dtype=torch.float64)) for v in (mean, logvar)]

    def encode(self, x):
        mean, logvar = super().encode(x)
        return mean + self.moved[0], logvar + self.moved[1]


def _gradients(bound, model, x, noise):
    """Gradient of each draw's mean bound with respect to the moved mean and log-variance: (draws, 6)."""
    found = []
    for draw in noise:
        value = bound(model, x, draw, vae.gaussian_log_likelihood).elbo.mean()
        found.append(torch.cat(torch.autograd.grad(value, model.moved)))
    return torch.stack(found)


def test_the_path_gradient_vanishes_draw_by_draw_where_the_posterior_is_exact():
    g = training.generator(0, "path")
    x = 1.5 * torch.randn(20, 1, 2, 3, generator=g, dtype=torch.float64)
    noise = torch.randn(8, 20, 3, generator=g, dtype=torch.float64)
    model = _Shifted()
    assert _gradients(vae.path_elbo, model, x, noise).abs().max() < 1e-12
    assert _gradients(vae.elbo, model, x, noise).abs().max() > 0.01
    torch.testing.assert_close(vae.path_elbo(model, x, noise[0], vae.gaussian_log_likelihood).elbo, model.log_p(x))


def test_the_path_gradient_has_the_same_mean_as_that_of_the_bound():
    g = training.generator(1, "path")
    x = 1.5 * torch.randn(20, 1, 2, 3, generator=g, dtype=torch.float64)
    noise = torch.randn(3000, 20, 3, generator=g, dtype=torch.float64)
    model = _Shifted(0.3, 0.4)
    both = [_gradients(bound, model, x, noise) for bound in (vae.path_elbo, vae.elbo)]
    difference = both[0] - both[1]
    error = difference.std(dim=0) / len(noise) ** 0.5
    assert (difference.mean(dim=0).abs() < 4.5 * error).all()
    assert (both[1].mean(dim=0).abs() > 20 * error).all(), "and that mean is not zero"


def test_evaluation_does_not_depend_on_the_batch_size(mnist):
    model = vae.initialise(networks.MnistVAE, 0)
    images = mnist.valid.images[:130]
    runs = [vae.evaluate_elbo(model, images, seed=1, batch_size=b) for b in (1, 7, 64, 130)]
    for other in runs[1:]:
        assert torch.allclose(runs[0].per_image, other.per_image, rtol=1e-6)
        assert other.elbo.value == pytest.approx(runs[0].elbo.value, rel=1e-7)


def test_evaluation_is_the_mean_over_images_with_its_error(mnist):
    model = vae.initialise(networks.MnistVAE, 0)
    found = vae.evaluate_elbo(model, mnist.valid.images[:50], seed=1, samples=3)
    assert found.elbo.n == 50
    assert found.elbo.value == pytest.approx(found.per_image.mean().item())
    assert found.elbo.stderr == pytest.approx(found.per_image.std().item() / 50**0.5)
    assert found.elbo.value == pytest.approx(found.reconstruction.value - found.kl.value)
    other = vae.evaluate_elbo(model, mnist.valid.images[:50], seed=2, samples=3)
    assert other.elbo.value != found.elbo.value
    assert other.kl.value == pytest.approx(found.kl.value), "the KL is in closed form: no noise in it"


@pytest.mark.slow
def test_training_raises_the_bound_and_leaves_history(mnist):
    model = vae.initialise(networks.MnistVAE, 0)
    before = vae.evaluate_elbo(model, mnist.valid.images[:200]).elbo.value
    recipe = vae.Recipe(batch_size=50, learning_rate=1e-3)
    history = vae.train(model, mnist.train.images[:2000], recipe, epochs=2, watch={"valid": mnist.valid.images[:200]})
    steps, valid = history.column("valid_elbo")
    assert steps.tolist() == [40, 80]
    assert before < -500 and valid[0] > -260 and valid[1] > valid[0]
    # Trained weights describe digits better than other pictures: the bound is not a constant.
    upside_down = vae.evaluate_elbo(model, mnist.valid.images[:200].flip(2, 3).roll(9, 3)).elbo.value
    assert upside_down < valid[1] - 20


class SmallColour(nn.Module):
    """A VAE of 3×32×32 images that is linear, so that it trains in no time."""

    latent = 2

    def __init__(self):
        super().__init__()
        self.down, self.up = nn.Linear(3072, 4), nn.Linear(2, 3072)
        nn.init.zeros_(self.up.weight)

    def encode(self, x):
        mean, logvar = self.down(x.flatten(1)).chunk(2, dim=1)
        return mean, logvar

    def decode(self, z):
        return self.up(z).view(-1, 3, 32, 32)


def test_training_on_colour_images_learns_the_mean_and_the_variance():
    images = torch.randint(20, 61, (128, 3, 32, 32), generator=g(0), dtype=torch.uint8)
    model = vae.initialise(SmallColour, 0)
    history = vae.train(
        model, images, vae.Recipe(batch_size=4, learning_rate=1e-2), epochs=4, watch={"train": images[:16]},
        likelihood=vae.calibrated_log_likelihood, prepare=data.from_bytes,
    )  # fmt: skip
    x = data.from_bytes(images)
    noise = (x - x.mean()).square().mean().item()  # of a decoder that knows the mean and nothing else
    assert 0.8 * noise < vae.fitted_variance(model, x) < 1.3 * noise
    found = history.column("train_elbo")[1]
    assert found[-1] > found[0] + 1000 and found[-1] < -0.5 * 3072 * (math.log(2 * math.pi * noise) + 1)


def weights(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def small_training(epochs, decay, **more):
    """A step an epoch, all at one rate: the weights after step i are those of a training of i epochs."""
    images = torch.randint(0, 256, (8, 3, 32, 32), generator=g(0), dtype=torch.uint8)
    with training.forked_rng(1):
        model = SmallColour()
    recipe = vae.Recipe(batch_size=8, learning_rate=1e-2, decay=decay)
    options = dict(likelihood=vae.gaussian_log_likelihood, prepare=data.from_bytes, watch={}) | more
    return model, vae.train(model, images, recipe, epochs=epochs, **options)


def test_the_average_of_weights_is_the_recurrence_over_the_steps():
    with training.forked_rng(1):
        expected = weights(SmallColour())
    for step in range(12):
        d = min(0.6, (step + 1) / (step + 10))
        expected = d * expected + (1 - d) * weights(small_training(step + 1, 0.0)[0])
    averaged = small_training(12, 0.6)[0]
    assert torch.allclose(weights(averaged), expected, atol=1e-6)
    assert all(p.requires_grad for p in averaged.parameters()), "the model is as trainable as it was"


def test_the_average_is_what_is_evaluated_and_it_survives_an_interruption(tmp_path, monkeypatch):
    x = data.from_bytes(torch.randint(0, 256, (5, 3, 32, 32), generator=g(3), dtype=torch.uint8))
    more = dict(watch={"valid": x}, prepare=lambda v: data.from_bytes(v) if v.dtype == torch.uint8 else v)
    whole, history = small_training(6, 0.9, **more)
    last = vae.evaluate_elbo(whole, x, likelihood=vae.gaussian_log_likelihood).elbo.value
    assert history.column("valid_elbo")[1][-1] == pytest.approx(last)

    update, calls = training.update_average, []

    def cut(*arguments):
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        update(*arguments)

    monkeypatch.setattr(vae, "update_average", cut)
    with pytest.raises(KeyboardInterrupt):
        small_training(6, 0.9, checkpoint=tmp_path / "c.pt", **more)
    again, _ = small_training(6, 0.9, checkpoint=tmp_path / "c.pt", **more)
    assert torch.equal(weights(again), weights(whole))
    finished, _ = small_training(6, 0.9, checkpoint=tmp_path / "c.pt", **more)
    assert torch.equal(weights(finished), weights(whole)), "a finished training gives the average, too"


def test_schedules():
    constant, cycle = vae.Recipe(), vae.Recipe(schedule="one-cycle", warm_up=0.25)
    assert {constant.factor(i, 100) for i in range(100)} == {1.0}
    factors = [cycle.factor(i, 100) for i in range(100)]
    assert factors[24] == 1.0 and factors[0] == pytest.approx(0.04) and factors[99] < 0.001
    assert all(a < b for a, b in itertools.pairwise(factors[:25]))
    assert all(a > b for a, b in itertools.pairwise(factors[25:]))


def test_an_estimate_prints_as_many_digits_as_it_knows():
    assert str(estimates.Estimate(-93.5812, 0.2213, 10_000)) == "-93.58 ± 0.22 (n = 10,000)"
    assert str(estimates.Estimate(1234.56, 34.2, 12)) == "1235 ± 34 (n = 12)"


def test_mean_refuses_what_has_no_error_bar():
    with pytest.raises(ValueError, match="at least two"):
        estimates.mean(torch.tensor([1.0]))
    with pytest.raises(ValueError, match=r"value 1 of 3 is nan"):
        estimates.mean(torch.tensor([1.0, float("nan"), 2.0]))


def test_images_are_moved_less_and_less_often_and_at_last_not_at_all():
    images = torch.zeros(64, 1, 28, 28, dtype=torch.uint8)
    images[:, :, 14, 14] = 1
    seen = []

    class Watching(networks.MnistVAE):
        def encode(self, x):
            seen.append((x[:, 0, 14, 14] == 0).float().mean().item())
            return super().encode(x)

    recipe = vae.Recipe(batch_size=64, shifted=0.8)
    vae.train(vae.initialise(Watching, 0), images, recipe, epochs=20, watch={})
    assert recipe.chance_of_shift(0, 20) == 1.0 and recipe.chance_of_shift(8, 20) == pytest.approx(0.5)
    still = 8 / 9  # one of nine moves leaves an image where it is
    for step in range(16):
        expected = still * (1 - step / 16)
        assert seen[step] == pytest.approx(expected, abs=0.25), "four standard errors of 64 images"
    assert sum(seen[:16]) / 16 == pytest.approx(still * 17 / 32, abs=0.06)
    assert seen[16:] == [0.0] * 4
    assert vae.Recipe().chance_of_shift(0, 20) == 0.0
