"""WGAN-GP against closed forms, loops and plain recurrences; the training's resume and its averaged generator."""

from __future__ import annotations

import dataclasses
import math
from unittest import mock

import pytest
import torch
from torch import nn

from labutils import data, divergences, exercises, gan, networks, training, vae

g = training.generator


class Linear(nn.Module):
    """critic(x) = slope · (mean direction · x): its gradient has the norm `slope` everywhere."""

    def __init__(self, slope: float, values: int):
        super().__init__()
        direction = torch.linspace(-1, 2, values)
        self.weight = nn.Parameter(slope * direction / direction.norm())

    def forward(self, x):
        return x.flatten(1) @ self.weight


class Bent(nn.Module):
    """A small critic whose gradient differs from image to image."""

    def __init__(self):
        super().__init__()
        with training.forked_rng(0):
            self.layers = nn.Sequential(nn.Flatten(), nn.Linear(48, 7), nn.Tanh(), nn.Linear(7, 1))

    def forward(self, x):
        return self.layers(x).squeeze(1)


def pair(n: int = 5, seed: int = 0):
    real, fake = torch.randn(2, n, 3, 4, 4, generator=g(seed, "images"))
    return real, fake, torch.rand(n, generator=g(seed, "epsilon"))


@pytest.mark.parametrize(("slope", "penalty"), [(1.0, 0.0), (2.0, 1.0), (0.0, 1.0), (0.5, 0.25)])
def test_the_penalty_of_a_linear_critic_is_its_slope_less_one_squared(slope, penalty):
    real, fake, epsilon = pair()
    critic = Linear(slope, 48)
    assert gan.gradient_penalty(critic, real, fake, epsilon).item() == pytest.approx(penalty, abs=1e-6)
    terms = gan.critic_loss(critic, real, fake, epsilon, 10.0)
    assert terms.gradient_norm.item() == pytest.approx(slope, abs=1e-6)
    gap = (real - fake).mean(dim=0).flatten() @ critic.weight
    assert terms.wasserstein.item() == pytest.approx(gap.item(), abs=1e-5)
    assert terms.loss.item() == pytest.approx(10 * penalty - gap.item(), abs=1e-5)


def test_the_penalty_at_a_zero_gradient_can_be_differentiated():
    critic = Linear(0.0, 48)
    gan.gradient_penalty(critic, *pair()).backward()
    assert critic.weight.grad.isfinite().all()


def test_on_two_points_the_best_slope_and_gap_are_known():
    """Real images at a, fakes at b, a distance d apart: slope 1 + d/(2λ), gap d + d²/(2λ) (`divergences`)."""
    real = torch.zeros(4, 3, 4, 4)
    fake = real.clone()
    fake[:, 1, 2, 3] = 2.0
    critic = Linear(0.1, 48)
    optimiser = torch.optim.LBFGS(critic.parameters(), max_iter=200, line_search_fn="strong_wolfe")

    def closure():
        optimiser.zero_grad()
        loss = gan.critic_loss(critic, real, fake, torch.full((4,), 0.3), 10.0).loss
        loss.backward()
        return loss

    optimiser.step(closure)
    terms = gan.critic_loss(critic, real, fake, torch.full((4,), 0.3), 10.0)
    best = divergences.line_penalty_optimum(torch.tensor(2.0))
    assert terms.gradient_norm.item() == pytest.approx(best.slope.item(), rel=1e-3)
    assert terms.wasserstein.item() == pytest.approx(best.gap.item(), rel=1e-3)
    assert 10 * terms.penalty.item() == pytest.approx(best.penalty.item(), rel=1e-2)


def test_the_penalty_is_a_loop_over_images_with_all_values_of_an_image_together():
    real, fake, epsilon = pair()
    critic = Bent()
    norms = []
    for i in range(len(real)):
        x = (epsilon[i] * real[i] + (1 - epsilon[i]) * fake[i]).requires_grad_()
        (gradient,) = torch.autograd.grad(critic(x[None])[0], x)
        norms.append(sum(float(v) ** 2 for v in gradient.flatten()) ** 0.5)
    expected = sum((n - 1) ** 2 for n in norms) / len(norms)
    assert gan.gradient_penalty(critic, real, fake, epsilon).item() == pytest.approx(expected, rel=1e-5)

    # The mistake that is often seen: the norm over one dimension of an unflattened gradient.
    x = gan.interpolates(real, fake, epsilon).requires_grad_()
    (gradient,) = torch.autograd.grad(critic(x).sum(), x)
    unflattened = (gradient.norm(dim=1) - 1).square().mean().item()
    assert abs(unflattened - expected) > 0.1 * expected


def test_interpolates_run_from_fake_to_real():
    real, fake, _ = pair(3)
    x = gan.interpolates(real, fake, torch.tensor([0.0, 1.0, 0.25]))
    assert torch.equal(x[0], fake[0])
    assert torch.allclose(x[1], real[1])
    assert torch.allclose(x[2], 0.25 * real[2] + 0.75 * fake[2], atol=1e-6)


def test_the_critics_step_sends_no_gradient_into_the_generator():
    weight = torch.ones(3, 4, 4, requires_grad=True)
    real, noise, epsilon = pair()
    critic = Bent()
    gan.critic_loss(critic, real, noise * weight, epsilon).loss.backward()
    assert weight.grad is None and critic.layers[1].weight.grad.abs().sum() > 0
    gan.generator_loss(critic, noise * weight).backward()
    assert weight.grad.abs().sum() > 0


def test_scoring_real_and_fake_together_changes_nothing():
    critic = vae.initialise(networks.Critic, 0)
    real, fake = torch.rand(2, 6, 3, 32, 32, generator=g(0)) * 2 - 1
    terms = gan.critic_loss(critic, real, fake, torch.rand(6, generator=g(1)))
    assert terms.wasserstein.item() == pytest.approx((critic(real).mean() - critic(fake).mean()).item(), abs=1e-6)


def test_the_average_is_the_recurrence():
    model, average = (vae.initialise(nn.Linear, s, in_features=2, out_features=1, bias=False) for s in (0, 1))
    expected = average.weight.detach().clone().double()
    for step in range(50):
        with torch.no_grad():
            model.weight.copy_(torch.randn(1, 2, generator=g(0, step)))
        gan.update_average(average, model, 0.8, step)
        d = min(0.8, (1 + step) / (10 + step))
        expected = d * expected + (1 - d) * model.weight.detach().double()
    assert torch.allclose(average.weight.double(), expected, atol=1e-6)


class Small(nn.Module):
    """A generator of 3×32×32 images that takes no time."""

    latent = 4

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(4, 48), nn.Tanh(), nn.Unflatten(1, (3, 4, 4)), nn.Upsample(scale_factor=8)
        )

    def forward(self, z):
        return self.layers(z)


class SmallCritic(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(
            nn.AvgPool2d(8), nn.Flatten(), nn.Linear(48, 8), networks.LeakyReLU(), nn.Linear(8, 1)
        )

    def forward(self, x):
        return self.layers(x).squeeze(1)


IMAGES = torch.randint(0, 256, (70, 3, 32, 32), generator=g(0, "bytes"), dtype=torch.uint8)
RECIPE = gan.Recipe(batch_size=16, n_critic=2, shift=2, decay=0.9, learning_rate=1e-3, critic_rate=1e-3)


def trained(steps: int = 12, recipe=RECIPE, seed: int = 3, stop_at: int = 0, **settings):
    model, critic = vae.initialise(Small, seed), vae.initialise(SmallCritic, seed + 1)
    if stop_at:
        calls = []

        def cut(done, average):
            calls.append(done)
            if done >= stop_at:
                raise KeyboardInterrupt
            return {}

        with pytest.raises(KeyboardInterrupt):
            gan.train(model, critic, IMAGES, recipe, steps=steps, seed=seed, evaluate=cut, evaluate_every=1, **settings)
        return None
    return model, critic, gan.train(model, critic, IMAGES, recipe, steps=steps, seed=seed, **settings)


def same(a: nn.Module, b: nn.Module) -> bool:
    return all(torch.equal(p, q) for p, q in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


def test_a_cut_training_ends_bit_for_bit_where_an_uncut_one_does(tmp_path):
    model, critic, whole = trained()
    # Cut twice: the exception comes before the checkpoint of that step, so each resume repeats steps.
    for stop_at in (5, 9):
        trained(stop_at=stop_at, checkpoint=tmp_path / "c.pt")
    assert 0 < training.load_checkpoint(tmp_path / "c.pt")["done"] < 12
    again_model, again_critic, again = trained(checkpoint=tmp_path / "c.pt")
    assert same(model, again_model) and same(critic, again_critic) and same(whole.average, again.average)
    assert [r for r in whole.history.rows if "wasserstein" in r] == [
        r for r in again.history.rows if "wasserstein" in r
    ]
    assert not same(model, trained(seed=4)[0])


def test_the_average_lags_behind_the_generator_and_is_in_evaluation_mode():
    model, _, found = trained()
    start = vae.initialise(Small, 3)
    assert not found.average.training and not same(found.average, model)
    first = [p.detach().flatten() for m in (start, found.average, model) for p in [m.layers[0].weight]]
    assert (first[1] - first[2]).norm() < (first[0] - first[2]).norm()


def test_a_step_is_n_critic_critic_steps_on_fresh_draws_and_one_of_the_generator(monkeypatch):
    seen = []
    real_loss = gan.critic_loss

    def spy(critic, real, fake, epsilon, *rest):
        seen.append((real.clone(), fake.clone(), epsilon.clone()))
        return real_loss(critic, real, fake, epsilon, *rest)

    monkeypatch.setattr(gan, "critic_loss", spy)
    trained(steps=3, recipe=dataclasses.replace(RECIPE, n_critic=3, shift=0))
    assert len(seen) == 9
    for k in (1, 2):  # fakes and ε: never the same twice
        drawn = {tuple(s[k].flatten()[:6].tolist()) for s in seen}
        assert len(drawn) == 9
    rows = torch.cat([s[0] for s in seen[:5]])  # 70 images are five batches: each image once
    assert sorted(map(tuple, rows.flatten(1)[:, :6].tolist())) == sorted(
        map(tuple, data.from_bytes(IMAGES).flatten(1)[:, :6].tolist())
    )


def test_rates_stay_and_then_fall_to_zero():
    recipe = gan.Recipe(cool_down=0.25)
    factors = [recipe.factor(i, 100) for i in range(101)]
    assert set(factors[:76]) == {1.0} and factors[88] == pytest.approx(0.48) and factors[100] == 0
    assert gan.Recipe(cool_down=0.0).factor(99, 100) == 1.0


def test_training_learns_the_mean_image():
    images = torch.full((64, 3, 32, 32), 200, dtype=torch.uint8)
    images[:, 0] = 40
    model, critic = vae.initialise(Small, 0), vae.initialise(SmallCritic, 1)
    recipe = gan.Recipe(batch_size=16, learning_rate=1e-2, critic_rate=1e-2, decay=0.9)
    found = gan.train(model, critic, images, recipe, steps=200)
    made = found.average(torch.randn(50, 4, generator=g(9)))
    assert (made.mean(dim=(0, 2, 3)) - data.from_bytes(images).mean(dim=(0, 2, 3))).abs().max() < 0.1
    assert {"step", "wasserstein", "penalty", "gradient_norm", "generator_loss"} == set(found.history.rows[0])


def test_mixed_precision_is_nearly_the_same_loss():
    critic = vae.initialise(networks.Critic, 0)
    real, fake = torch.rand(2, 6, 3, 32, 32, generator=g(0)) * 2 - 1
    epsilon = torch.rand(6, generator=g(1))
    single = gan.critic_loss(critic, real, fake, epsilon)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = gan.critic_loss(critic, real, fake, epsilon)
    for name in gan.CriticTerms._fields:
        assert getattr(mixed, name).dtype == torch.float32
        assert getattr(mixed, name).item() == pytest.approx(getattr(single, name).item(), rel=0.02, abs=0.01)
        assert getattr(mixed, name).item() != getattr(single, name).item()


def answered(mistake: str = ""):
    """Losses as a reader writes them, plain numbers, epsilon (batch, 1, 1, 1): right, or with a known mistake."""
    asked = exercises.EXERCISES["wgan"]
    wrong = next((m.functions for m in asked.mistakes if m.title == mistake), {})
    assert bool(wrong) == bool(mistake)
    functions = asked.reference | wrong
    return functions["critic_loss"], functions["generator_loss"]


def test_a_readers_own_losses_train_as_the_packages_do_and_a_wrong_one_does_not():
    model, critic, packaged = trained(steps=52)
    own_model, own_critic, found = trained(steps=52, losses=answered())
    last = list(critic.parameters())[-1]  # its bias moves by rounding alone: a constant in a critic changes no loss
    for mine, theirs in ((own_model, model), (own_critic, critic)):
        for p, q in zip(mine.parameters(), theirs.parameters(), strict=True):
            assert q is last or torch.allclose(p, q, rtol=1e-3, atol=1e-4)
    calls = mock.Mock(wraps=gan.critic_loss)
    with mock.patch.object(gan, "critic_loss", calls):  # the package's terms cost a fifth of a step
        trained(steps=52, losses=answered())
    assert calls.call_count == math.ceil(52 * RECIPE.n_critic / 10)
    for mistake in ("the generator's sign turned", "the sign of the critic's gap"):
        wrong = trained(steps=52, losses=answered(mistake))[0]
        assert not torch.allclose(wrong.layers[0].weight, model.layers[0].weight, atol=1e-3), mistake
    for mine, theirs in zip(found.history.rows, packaged.history.rows, strict=True):
        assert mine.keys() == theirs.keys()
    first, theirs = found.history.rows[0], packaged.history.rows[0]  # every tenth of 100 critic steps, and all of them
    assert first["gradient_norm"] == pytest.approx(theirs["gradient_norm"], rel=0.2)
    assert first["gradient_norm"] != theirs["gradient_norm"]
