"""The Wasserstein GAN with gradient penalty: its two losses, the averaged generator, the training.

Gulrajani, Ahmed, Arjovsky, Dumoulin and Courville, "Improved Training of Wasserstein GANs", 2017. A generator is
a module z → image with `latent`, a critic a module image → number; images take values in [−1, 1].
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from .data import from_bytes, shift
from .divergences import gradient_norm, wasserstein_gap
from .training import Batches, History, compiled, fit, generator, update_average


def interpolates(
    real: Float[Tensor, "batch c h w"], fake: Float[Tensor, "batch c h w"], epsilon: Float[Tensor, " batch"]
) -> Float[Tensor, "batch c h w"]:
    """ε·real + (1 − ε)·fake, one ε an image."""
    return torch.lerp(fake, real, epsilon.view(-1, 1, 1, 1))


def gradient_penalty(
    critic: nn.Module,
    real: Float[Tensor, "batch c h w"],
    fake: Float[Tensor, "batch c h w"],
    epsilon: Float[Tensor, " batch"],
) -> Float[Tensor, ""]:
    """Mean of (‖∇critic(x)‖₂ − 1)² over interpolates x, the norm over all of an image's values together.

    Gulrajani et al. 2017, equation 3, without its λ. Differentiable in the critic's weights.
    """
    return (gradient_norm(critic, interpolates(real, fake, epsilon)) - 1).square().mean()


class CriticTerms(NamedTuple):
    """loss = −wasserstein + λ·penalty. wasserstein: mean critic of real less that of fake images, the estimate."""

    loss: Float[Tensor, ""]
    wasserstein: Float[Tensor, ""]
    penalty: Float[Tensor, ""]
    gradient_norm: Float[Tensor, ""]


def critic_loss(
    critic: nn.Module,
    real: Float[Tensor, "batch c h w"],
    fake: Float[Tensor, "batch c h w"],
    epsilon: Float[Tensor, " batch"],
    weight: float = 10.0,
) -> CriticTerms:
    """What the critic minimises; `weight` is λ, `epsilon` ~ U[0, 1]. No gradient reaches what made the fakes.

    Real and fake images pass through the critic together, which only is right for one without batch
    normalisation. Under autocast the critic runs in mixed precision; norm and means are taken in single.
    """
    fake = fake.detach()
    scores = critic(torch.cat([real, fake])).float()
    wasserstein = wasserstein_gap(scores[: len(real)], scores[len(real) :])
    norm = gradient_norm(critic, interpolates(real, fake, epsilon))
    penalty = (norm - 1).square().mean()
    return CriticTerms(weight * penalty - wasserstein, wasserstein, penalty, norm.mean())


def generator_loss(critic: nn.Module, fake: Float[Tensor, "batch c h w"]) -> Float[Tensor, ""]:
    """−E[critic(fake)], which the generator minimises."""
    return -critic(fake).float().mean()


@dataclass(frozen=True)
class Recipe:
    """How to train. Adam with β = (0, 0.9); rates fall linearly to 0 over the last `cool_down` of the steps.

    A step is n_critic critic steps and one generator step. shift: pixels by which the critic's images are moved.
    bfloat16: mixed precision, for a GPU or a processor that computes in it; the gradient of the penalty keeps its
    direction (cosine 1.000, one batch) and a size within 1 %. compile: the generator by `torch.compile`, on CUDA
    only (the penalty's second derivative cannot be compiled); where it cannot be, a warning says so. Not run yet.
    """

    batch_size: int = 64
    learning_rate: float = 2e-4
    critic_rate: float = 4e-4
    n_critic: int = 1
    penalty: float = 10.0
    decay: float = 0.999
    cool_down: float = 0.25
    shift: int = 0
    bfloat16: bool = False
    compile: bool = False

    def factor(self, step: int, total: int) -> float:
        """Share of the learning rates at a step."""
        return min(1.0, (total - step) / max(1.0, self.cool_down * total))


MEASURE_EVERY = 10  # critic steps, when the losses are a reader's own: the terms cost a fifth of a step


class Trained(NamedTuple):
    """average: the generator to sample from, its weights averaged over the steps."""

    average: nn.Module
    history: History


def _adam(net: nn.Module, rate: float, recipe: Recipe, steps: int):
    adam = torch.optim.Adam(net.parameters(), rate, betas=(0.0, 0.9), fused=True)
    return adam, torch.optim.lr_scheduler.LambdaLR(adam, lambda i: recipe.factor(i, steps))


def _maybe_compiled(model: nn.Module, recipe: Recipe, device: torch.device) -> Callable[..., Tensor]:
    if recipe.compile and device.type == "cuda":
        return compiled(model, torch.zeros(recipe.batch_size, model.latent, device=device))
    return model


def _means(terms: list[CriticTerms | None]) -> dict[str, Tensor]:
    """To log, by name: means over the critic steps at which they were measured; nothing where at none."""
    measured = [found for found in terms if found is not None]
    names = CriticTerms._fields[1:] if measured else ()
    return {name: torch.stack([getattr(found, name) for found in measured]).mean() for name in names}


def _update(net: nn.Module, optimiser: torch.optim.Optimizer, loss: Tensor) -> None:
    optimiser.zero_grad(set_to_none=True)
    loss.backward(inputs=list(net.parameters()))
    optimiser.step()


def train(
    model: nn.Module,
    critic: nn.Module,
    images: UInt8[Tensor, "n c h w"],
    recipe: Recipe,
    *,
    steps: int,
    seed: int = 0,
    checkpoint: Path | None = None,
    about: Mapping[str, object] | None = None,
    evaluate: Callable[[int, nn.Module], Mapping[str, float]] | None = None,
    evaluate_every: int = 0,
    losses: tuple[Callable, Callable] | None = None,
) -> Trained:
    """WGAN-GP for `steps` generator steps; training ends in `model` and `critic`, and in the average it returns.

    Logged, means over critic steps: `wasserstein`, `penalty` (without λ), `gradient_norm`; and `generator_loss`.
    evaluate: called with the number of steps done and the averaged generator; its row joins the history. With
    `checkpoint` the training resumes exactly where it was cut. `about`: further plain values that the checkpoint
    must agree with, such as the hash of the data. losses: of critic and generator, numbers, in place of this module's;
    called alike, but for epsilon, which is (batch, 1, 1, 1). The critic's terms are then measured beside them, at
    every tenth of its steps.
    """
    device = next(model.parameters()).device
    images = images.to(device)
    batches = Batches(len(images), recipe.batch_size, seed)
    average = copy.deepcopy(model).eval().requires_grad_(False)
    optimisers, schedules = zip(
        _adam(model, recipe.learning_rate, recipe, steps), _adam(critic, recipe.critic_rate, recipe, steps), strict=True
    )
    parts = {"generator": model, "critic": critic, "average": average}
    parts |= dict(zip(("generator_adam", "critic_adam"), optimisers, strict=True))
    parts |= dict(zip(("generator_schedule", "critic_schedule"), schedules, strict=True))
    precision = torch.autocast(device.type, torch.bfloat16, enabled=recipe.bfloat16)
    with precision:
        make = _maybe_compiled(model, recipe, device)

    def draw(n: int, draws: torch.Generator) -> Tensor:
        fake = make(torch.randn(n, model.latent, generator=draws, device=device)).float()
        return shift(fake, recipe.shift, draws)

    def critic_step(i: int) -> CriticTerms | None:
        draws = generator(seed, "critic", i, device=device)
        real = shift(from_bytes(images[batches(i).to(device)]), recipe.shift, draws)
        epsilon = torch.rand(len(real), generator=draws, device=device)
        with precision:
            with torch.no_grad():
                fake = draw(len(real), draws)
            measured = losses is None or i % MEASURE_EVERY == 0
            terms = critic_loss(critic, real, fake, epsilon, recipe.penalty) if measured else None
            each = epsilon.view(-1, 1, 1, 1)
            loss = terms.loss if losses is None else losses[0](critic, real, fake, each, recipe.penalty)
        _update(critic, optimisers[1], loss)
        return terms

    def step(i: int) -> dict[str, Tensor]:
        terms = [critic_step(i * recipe.n_critic + k) for k in range(recipe.n_critic)]
        draws = generator(seed, "generator", i, device=device)
        with precision:
            loss = (generator_loss if losses is None else losses[1])(critic, draw(recipe.batch_size, draws))
        _update(model, optimisers[0], loss)
        update_average(average, model, recipe.decay, i)
        for schedule in schedules:
            schedule.step()
        return _means(terms) | {"generator_loss": loss}

    done = fit(
        step, steps, parts=parts, checkpoint=checkpoint, evaluate_every=evaluate_every, save_every_s=25.0,
        recipe=asdict(recipe) | {"seed": seed, "images": len(images)} | dict(about or {}),
        evaluate=None if evaluate is None else lambda: evaluate(schedules[0].last_epoch, average),
        desc="training the GAN",
    )  # fmt: skip
    return Trained(average, done)
