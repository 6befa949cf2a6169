"""The exercises of problem 3: the losses of a GAN, the likelihood of an image, walks between codes, scores."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from .marking import Exercise, Functions, Inputs, Mistake, Part, gradient, normal, uniform

SHAPE = (3, 4, 4)  # of the small images that answers are asked about


# --- WGAN-GP ------------------------------------------------------------------------------------------------


def small_critic(w: Tensor, c: Tensor) -> Callable[[Tensor], Tensor]:
    """f(x) = ⟨w, x⟩ + ½ Σᵢ cᵢ xᵢ² of each image, (batch, 3, 4, 4) → (batch,); its gradient at x is w + c x."""

    def critic(x: Tensor) -> Tensor:
        x = x.to(w)
        return (w * x + 0.5 * c * x**2).flatten(1).sum(dim=1)

    return critic


def _critic(inputs: Inputs) -> Callable[[Tensor], Tensor]:
    return small_critic(inputs["w"], inputs["c"])


def _images(g: torch.Generator) -> Inputs:
    return {
        "w": 0.2 * normal(g, *SHAPE) + 0.1,
        "c": 0.3 * normal(g, *SHAPE),
        "real": 2 * uniform(g, 8, *SHAPE) - 1,
        "fake": 2 * uniform(g, 8, *SHAPE) - 1,
        "epsilon": uniform(g, 8, 1, 1, 1),
        "weight": 2 + 5 * uniform(g, 1).item(),
    }


def _penalty_truth(inputs: Inputs) -> Tensor:
    between = inputs["fake"] + inputs["epsilon"] * (inputs["real"] - inputs["fake"])
    length = (inputs["w"] + inputs["c"] * between).square().sum(dim=(1, 2, 3)).sqrt()
    return (length - 1).square().mean()


def _gap_truth(inputs: Inputs) -> Tensor:
    score = _critic(inputs)
    return score(inputs["real"]).mean() - score(inputs["fake"]).mean()


def _slope(
    critic: Callable,
    x: Tensor,
    create_graph: bool = True,
    track: Callable = lambda x: x.detach().requires_grad_(True),
) -> Tensor:
    x = track(x)
    return torch.autograd.grad(critic(x).sum(), x, create_graph=create_graph)[0]


def _wgan(
    size: Callable = lambda gradient: gradient.flatten(1).norm(dim=1),
    penalise: Callable = lambda norm: ((norm - 1) ** 2).mean(),
    between: Callable = lambda real, fake, epsilon: epsilon * real + (1 - epsilon) * fake,
    join: Callable = lambda gap, penalty, weight: weight * penalty - gap,
    constant: Callable = lambda fake: fake.detach(),
    generator_loss: Callable = lambda critic, fake: -critic(fake).mean(),
    gap_of: Callable = lambda on_real, on_fake: on_real.mean() - on_fake.mean(),
    **how: Any,
) -> Functions:
    def gradient_penalty(critic: Callable, real: Tensor, fake: Tensor, epsilon: Tensor) -> Tensor:
        return penalise(size(_slope(critic, between(real, fake, epsilon), **how)))

    def critic_loss(critic: Callable, real: Tensor, fake: Tensor, epsilon: Tensor, weight: float = 10.0) -> Tensor:
        gap = gap_of(critic(real), critic(constant(fake)))
        return join(gap, gradient_penalty(critic, real, fake, epsilon), weight)

    return {"gradient_penalty": gradient_penalty, "critic_loss": critic_loss, "generator_loss": generator_loss}


def _ask_penalty(functions: Functions, inputs: Inputs) -> Any:
    return functions["gradient_penalty"](_critic(inputs), inputs["real"], inputs["fake"], inputs["epsilon"])


def _ask_loss(functions: Functions, inputs: Inputs) -> Any:
    four = (inputs[name] for name in ("real", "fake", "epsilon", "weight"))
    return functions["critic_loss"](_critic(inputs), *four)


def _ask_leak(functions: Functions, inputs: Inputs) -> Tensor:
    """The gradient that the critic's loss sends into the fakes."""
    fake, w = (inputs[name].clone().requires_grad_(True) for name in ("fake", "w"))
    four = (inputs["real"], fake, inputs["epsilon"], inputs["weight"])
    loss = functions["critic_loss"](small_critic(w, inputs["c"]), *four)
    (found,) = torch.autograd.grad(loss + 0 * w.sum(), fake, allow_unused=True)
    return torch.zeros_like(fake) if found is None else found


def _ask_weights(functions: Functions, inputs: Inputs) -> Tensor:
    """The gradient of the penalty in the weights of a linear critic."""
    w = inputs["w"].clone().requires_grad_(True)
    three = (inputs[name] for name in ("real", "fake", "epsilon"))
    return gradient(functions["gradient_penalty"](small_critic(w, torch.zeros_like(w)), *three), w)


def _weights_truth(inputs: Inputs) -> Tensor:
    length = inputs["w"].norm()
    return 2 * (length - 1) * inputs["w"] / length


def _ask_loss_weights(functions: Functions, inputs: Inputs) -> Tensor:
    """The gradient of the critic's loss in the weights of a linear critic."""
    w = inputs["w"].clone().requires_grad_(True)
    four = (inputs[name] for name in ("real", "fake", "epsilon", "weight"))
    return gradient(functions["critic_loss"](small_critic(w, torch.zeros_like(w)), *four), w)


def _loss_weights_truth(inputs: Inputs) -> Tensor:
    gap = inputs["real"].mean(dim=0) - inputs["fake"].mean(dim=0)
    return inputs["weight"] * _weights_truth(inputs) - gap


def _ask_generator(functions: Functions, inputs: Inputs) -> Tensor:
    fake = inputs["fake"].clone().requires_grad_(True)
    return gradient(functions["generator_loss"](_critic(inputs), fake), fake)


WGAN = Exercise(
    name="wgan",
    problem=3,
    points=6,
    functions=("gradient_penalty", "critic_loss", "generator_loss"),
    parts=(
        Part("the gradient penalty of a curved critic", _images, _ask_penalty, _penalty_truth),
        Part("the penalty has a gradient in the critic's weights", _images, _ask_weights, _weights_truth),
        Part(
            "the critic's loss",
            _images,
            _ask_loss,
            lambda inputs: inputs["weight"] * _penalty_truth(inputs) - _gap_truth(inputs),
        ),
        Part(
            "the critic's loss has a gradient in the critic's weights", _images, _ask_loss_weights, _loss_weights_truth
        ),
        Part(
            "the critic's loss leaves the generator alone",
            _images,
            _ask_leak,
            lambda inputs: torch.zeros_like(inputs["fake"]),
        ),
        Part(
            "the generator's loss",
            _images,
            lambda functions, inputs: functions["generator_loss"](_critic(inputs), inputs["fake"]),
            lambda inputs: -_critic(inputs)(inputs["fake"]).mean(),
        ),
        Part(
            "the generator's loss has a gradient in the images",
            _images,
            _ask_generator,
            lambda inputs: -(inputs["w"] + inputs["c"] * inputs["fake"]) / len(inputs["fake"]),
        ),
    ),
    mistakes=(
        Mistake(
            "the norm over one dimension of an image",
            "The critic's slope at an image is the norm over *all* its values, channels and pixels: flatten(1) first.",
            _wgan(size=lambda gradient: gradient.norm(dim=1)),
        ),
        Mistake(
            "one norm for the whole batch",
            "‖∇f(x)‖ is the norm of one image's gradient: flatten(1).norm(dim=1).",
            _wgan(size=lambda gradient: gradient.norm()),
        ),
        Mistake(
            "the mean taken before the square",
            "(E‖∇f‖ − 1)² is zero as soon as slopes are 1 on average. Square, then average.",
            _wgan(penalise=lambda norm: (norm.mean() - 1) ** 2),
        ),
        Mistake(
            "the squared norm in place of the norm",
            "The square root is missing: this is (‖∇f‖² − 1)².",
            _wgan(size=lambda gradient: gradient.flatten(1).square().sum(dim=1)),
        ),
        Mistake(
            "real and fake exchanged between",
            "x̂ = ε x + (1 − ε) g(z): at ε = 1 it is the real image.",
            _wgan(between=lambda real, fake, epsilon: epsilon * fake + (1 - epsilon) * real),
        ),
        Mistake(
            "the penalty at the real images",
            "The slope is held between real and fake images.",
            _wgan(between=lambda real, fake, epsilon: real),
        ),
        Mistake(
            "create_graph left out",
            "Without create_graph=True the penalty trains no weight.",
            _wgan(create_graph=False),
        ),
        Mistake(
            "the sign of the critic's gap",
            "The critic raises real − fake, so its loss is the penalty *minus* the gap.",
            _wgan(join=lambda gap, penalty, weight: weight * penalty + gap),
        ),
        Mistake(
            "the penalty subtracted",
            "A loss is minimised, so a penalty is added to it.",
            _wgan(join=lambda gap, penalty, weight: -gap - weight * penalty),
        ),
        Mistake(
            "λ left out",
            "The penalty has the weight λ in the loss.",
            _wgan(join=lambda gap, penalty, weight: penalty - gap),
        ),
        Mistake(
            "fakes not detached",
            "The critic's step sends a gradient into the generator: detach the fakes.",
            _wgan(constant=lambda fake: fake),
        ),
        Mistake(
            "fakes detached nowhere",
            "The points of the penalty are made of the fakes, so it too sends a gradient into the generator: detach "
            "the fakes first, for both.",
            _wgan(constant=lambda fake: fake, track=lambda x: x.requires_grad_(True)),
        ),
        Mistake(
            "the gap's gradient cut",
            "The critic is trained to raise the gap. Without its gradient only the penalty is trained.",
            _wgan(gap_of=lambda on_real, on_fake: (on_real.mean() - on_fake.mean()).detach()),
        ),
        Mistake(
            "points that track no gradient",
            "autograd.grad asks for the gradient at x̂, so x̂ must be told to keep track of it before the critic sees "
            "it: requires_grad_().",
            _wgan(track=lambda x: x.detach()),
        ),
        Mistake(
            "λ fixed at ten",
            "Ten is the default; the weight is an argument.",
            _wgan(join=lambda gap, penalty, weight: 10 * penalty - gap),
        ),
        Mistake(
            "the generator's sign turned",
            "The generator raises the score of its images: its loss is −E[f(g(z))].",
            _wgan(generator_loss=lambda critic, fake: critic(fake).mean()),
        ),
        Mistake(
            "fakes detached in the generator's loss, too",
            "The generator learns through its images: only the critic's loss detaches them.",
            _wgan(generator_loss=lambda critic, fake: -critic(fake.detach()).mean()),
        ),
        Mistake(
            "a logarithm in the generator's loss",
            "A Wasserstein critic gives a number, not a logit: no sigmoid and no logarithm.",
            _wgan(generator_loss=lambda critic, fake: -torch.nn.functional.logsigmoid(critic(fake)).mean()),
        ),
    ),
    reference=_wgan(),
)


# --- the likelihood of an image -----------------------------------------------------------------------------


def _pixel(function: Callable) -> Functions:
    return {"log_normal_pixels": function}


def _ask_pixel(functions: Functions, inputs: Inputs) -> Any:
    return functions["log_normal_pixels"](inputs["x"], inputs["mean"], inputs["variance"])


def _pixel_truth(inputs: Inputs) -> Tensor:
    law = torch.distributions.Normal(inputs["mean"], inputs["variance"] ** 0.5)
    return law.log_prob(inputs["x"]).flatten(1).sum(dim=1)


def _pixel_inputs(low: float, high: float) -> Callable[[torch.Generator], Inputs]:
    return lambda g: {
        "x": 2 * uniform(g, 6, *SHAPE) - 1,
        "mean": 2 * uniform(g, 6, *SHAPE) - 1,
        "variance": low + (high - low) * uniform(g, 1).item(),
    }


LOG_2PI = math.log(2 * math.pi)

PIXEL_NORMAL = Exercise(
    name="pixel_normal",
    problem=3,
    points=2,
    functions=("log_normal_pixels",),
    parts=(
        Part("a variance below one", _pixel_inputs(0.05, 0.4), _ask_pixel, _pixel_truth),
        Part("a variance above one", _pixel_inputs(2.0, 4.0), _ask_pixel, _pixel_truth),
        Part("the assignment's variance, 1", _pixel_inputs(1.0, 1.0), _ask_pixel, _pixel_truth),
    ),
    mistakes=(
        Mistake(
            "½ left out of both",
            "−½ stands before the whole sum: −½ Σ ((x − m)²/σ² + log 2πσ²).",
            _pixel(lambda x, m, v: -((x - m) ** 2 / v + math.log(v) + LOG_2PI).sum((1, 2, 3))),
        ),
        Mistake(
            "½ left out of the square",
            "−(x − m)²/σ² without ½ is the density of a law with half the variance.",
            _pixel(lambda x, m, v: -((x - m) ** 2 / v + 0.5 * (math.log(v) + LOG_2PI)).sum((1, 2, 3))),
        ),
        Mistake(
            "½ left out of the logarithm",
            "½ stands before the whole sum: −½ ((x − m)²/σ² + log 2πσ²).",
            _pixel(lambda x, m, v: -(0.5 * (x - m) ** 2 / v + math.log(v) + LOG_2PI).sum((1, 2, 3))),
        ),
        Mistake(
            "the variance taken for the deviation",
            "The argument is σ²: divide by it, do not square it.",
            _pixel(lambda x, m, v: -0.5 * ((x - m) ** 2 / v**2 + 2 * math.log(v) + LOG_2PI).sum((1, 2, 3))),
        ),
        Mistake(
            "the deviation in place of the variance",
            "The argument is σ² already: (x − m)²/σ², not (x − m)²/σ.",
            _pixel(lambda x, m, v: -0.5 * ((x - m) ** 2 / v**0.5 + math.log(v) + LOG_2PI).sum((1, 2, 3))),
        ),
        Mistake(
            "log 2π left out",
            "Without log 2π this is no density, and its value cannot be compared with that of another family.",
            _pixel(lambda x, m, v: -0.5 * ((x - m) ** 2 / v + math.log(v)).sum((1, 2, 3))),
        ),
        Mistake(
            "the logarithm once an image",
            "Every pixel has the factor 1/√(2πσ²): log 2πσ² counts once for each value of the image.",
            _pixel(lambda x, m, v: -0.5 * (((x - m) ** 2 / v).sum((1, 2, 3)) + math.log(v) + LOG_2PI)),
        ),
        Mistake(
            "only the square",
            "The sum of squares forgets how wide the law is: −½ log 2πσ² for each value of the image.",
            _pixel(lambda x, m, v: -0.5 * ((x - m) ** 2 / v).sum((1, 2, 3))),
        ),
        Mistake(
            "averaged over the pixels",
            "The values are independent given z: a sum of logarithms.",
            _pixel(lambda x, m, v: -0.5 * ((x - m) ** 2 / v + math.log(v) + LOG_2PI).mean((1, 2, 3))),
        ),
        Mistake(
            "summed over the batch as well",
            "One number an image is wanted.",
            _pixel(lambda x, m, v: -0.5 * ((x - m) ** 2 / v + math.log(v) + LOG_2PI).sum()),
        ),
        Mistake(
            "the sign turned",
            "This is the loss, −log p(x|z).",
            _pixel(lambda x, m, v: 0.5 * ((x - m) ** 2 / v + math.log(v) + LOG_2PI).sum((1, 2, 3))),
        ),
    ),
    reference=_pixel(lambda x, m, v: -0.5 * ((x - m) ** 2 / v + math.log(2 * math.pi * v)).sum((1, 2, 3))),
)


# --- between two codes --------------------------------------------------------------------------------------


def straight(a: Tensor, b: Tensor, alphas: Tensor) -> Tensor:
    t = alphas.to(a)[:, None]
    return t * a[:, None] + (1 - t) * b[:, None]


def _unit(z: Tensor) -> Tensor:
    return z / z.norm(dim=-1, keepdim=True)


def _lengths(a: Tensor, b: Tensor, alphas: Tensor) -> Tensor:
    return straight(a.norm(dim=1, keepdim=True), b.norm(dim=1, keepdim=True), alphas)


def _around(a: Tensor, b: Tensor, alphas: Tensor, small: float = 1e-3) -> Tensor:
    """Directions (n, k, L) along the great circle between unit vectors; straight where they nearly agree."""
    angle = torch.arccos((a * b).sum(dim=1).clamp(-1, 1))[:, None, None]
    t = alphas.to(a)[:, None]
    arc = (torch.sin(t * angle) * a[:, None] + torch.sin((1 - t) * angle) * b[:, None]) / torch.sin(angle)
    return torch.where(angle < small, straight(a, b, alphas), arc) if small else arc


def _walk(function: Callable) -> Functions:
    return {"spherical": function}


def _ends(g: torch.Generator) -> Inputs:
    return {"start": normal(g, 5, 12), "end": normal(g, 5, 12), "alphas": uniform(g, 6)}


def _ask_walk(functions: Functions, inputs: Inputs) -> Any:
    return functions["spherical"](inputs["start"], inputs["end"], inputs["alphas"])


def _walk_truth(inputs: Inputs) -> Tensor:
    """Turned in the plane of the two codes: `end` rotated by α times the angle towards `start`."""
    start, end, t = inputs["start"], inputs["end"], inputs["alphas"][:, None]
    v = _unit(end)
    aside = start - (start * v).sum(dim=1, keepdim=True) * v
    angle = torch.atan2(aside.norm(dim=1), (start * v).sum(dim=1))[:, None, None]
    turned = torch.cos(t * angle) * v[:, None] + torch.sin(t * angle) * _unit(aside)[:, None]
    return turned * (t * start.norm(dim=1)[:, None, None] + (1 - t) * end.norm(dim=1)[:, None, None])


def _one_length(g: torch.Generator) -> Inputs:
    found = _ends(g)
    return found | {name: 3.5 * _unit(found[name]) for name in ("start", "end")}


def _nearly_one(g: torch.Generator) -> Inputs:
    start = normal(g, 4, 12)
    start[0] = 4 * torch.eye(12)[0]  # the angle is exactly 0 here, and rounds to nearly 0 elsewhere
    return {"start": start, "end": 2 * start, "alphas": uniform(g, 5)}


SPHERICAL = Exercise(
    name="spherical",
    problem=3,
    points=4,
    functions=("spherical",),
    parts=(
        Part("codes of one length", _one_length, _ask_walk, _walk_truth),
        Part("codes of different lengths", _ends, _ask_walk, _walk_truth),
        Part(
            "the ends: `end` at α = 0, `start` at α = 1",
            lambda g: _ends(g) | {"alphas": torch.tensor([0.0, 1.0], dtype=torch.float64)},
            _ask_walk,
            lambda inputs: torch.stack([inputs["end"], inputs["start"]], dim=1),
        ),
        Part(
            "codes of one direction: straight",
            _nearly_one,
            _ask_walk,
            lambda inputs: straight(inputs["start"], inputs["end"], inputs["alphas"]),
        ),
    ),
    mistakes=(
        Mistake(
            "the straight line",
            "This is α s + (1 − α) e, whose middle is too short for the prior.",
            _walk(straight),
        ),
        Mistake(
            "the straight line, stretched",
            "The lengths are right, but the direction does not turn evenly: near the ends it turns too slowly. The "
            "weights are sin(αω)/sin ω and sin((1 − α)ω)/sin ω.",
            _walk(lambda a, b, t: _unit(straight(_unit(a), _unit(b), t)) * _lengths(a, b, t)),
        ),
        Mistake(
            "the weights on the codes themselves",
            "With codes of different lengths the arc is taken between the unit vectors, and the length goes straight "
            "from one to the other.",
            _walk(lambda a, b, t: torch.where(torch.isfinite(arc := _arc_of_codes(a, b, t)), arc, straight(a, b, t))),
        ),
        Mistake(
            "the ends exchanged",
            "At α = 1 the walk is at `start`, as in α z₀ + (1 − α) z₁.",
            _walk(lambda a, b, t: _around(_unit(b), _unit(a), t) * _lengths(b, a, t)),
        ),
        Mistake(
            "the lengths left out",
            "These are directions, of length one. Codes of 100 dimensions have lengths near 10.",
            _walk(lambda a, b, t: _around(_unit(a), _unit(b), t)),
        ),
        Mistake(
            "one length for the whole walk",
            "The length goes from that of one end to that of the other.",
            _walk(
                lambda a, b, t: _around(_unit(a), _unit(b), t) * (a.norm(dim=1) / 2 + b.norm(dim=1) / 2)[:, None, None]
            ),
        ),
        Mistake(
            "0/0 for codes of one direction",
            "Where the angle is tiny sin ω is 0 and 0/0 is not a number: walk straight there.",
            _walk(lambda a, b, t: _around(_unit(a), _unit(b), t, small=0.0) * _lengths(a, b, t)),
        ),
        Mistake(
            "the angle between codes that are not normalised",
            "arccos wants the cosine ⟨s, e⟩/(‖s‖ ‖e‖), not ⟨s, e⟩.",
            _walk(lambda a, b, t: _arc_of_angle(_unit(a), _unit(b), t, (a * b).sum(dim=1)) * _lengths(a, b, t)),
        ),
        Mistake(
            "one angle for all pairs",
            "Each pair of codes has an angle of its own: norms and products over the last dimension only.",
            _walk(lambda a, b, t: _arc_of_angle(_unit(a), _unit(b), t, _cosine_of_all(a, b)) * _lengths(a, b, t)),
        ),
    ),
    reference=_walk(lambda a, b, t: _around(_unit(a), _unit(b), t) * _lengths(a, b, t)),
)


def _arc_of_angle(a: Tensor, b: Tensor, alphas: Tensor, cosine: Tensor) -> Tensor:
    angle, t = torch.arccos(cosine)[:, None, None], alphas.to(a)[:, None]
    return (torch.sin(t * angle) * a[:, None] + torch.sin((1 - t) * angle) * b[:, None]) / torch.sin(angle)


def _arc_of_codes(a: Tensor, b: Tensor, alphas: Tensor) -> Tensor:
    """White 2016, equation 2."""
    return _arc_of_angle(a, b, alphas, (_unit(a) * _unit(b)).sum(dim=1).clamp(-1, 1))


def _cosine_of_all(a: Tensor, b: Tensor) -> Tensor:
    return ((a * b).sum() / (a.norm() * b.norm())).expand(len(a))


# --- scores of images ---------------------------------------------------------------------------------------


def _precise(
    neighbour: Callable = lambda distances, k: distances.sort(dim=1).values[:, k],
    covered: Callable = lambda distances, radius: (distances <= radius).any(dim=1),
    total: Callable = lambda hit: hit.double().mean(),
) -> Functions:
    def precision_of(real_to_real: Tensor, fake_to_real: Tensor, k: int) -> Tensor:
        return total(covered(fake_to_real, neighbour(real_to_real, k)))

    return {"precision_of": precision_of}


def _clouds(shift: float, k: int, width: float = 1.0) -> Callable[[torch.Generator], Inputs]:
    def draw(g: torch.Generator) -> Inputs:
        real, fake = normal(g, 40, 2), width * normal(g, 60, 2) + shift
        return {"real_to_real": torch.cdist(real, real), "fake_to_real": torch.cdist(fake, real), "k": k}

    return draw


def _ask_precision(functions: Functions, inputs: Inputs) -> Any:
    return functions["precision_of"](inputs["real_to_real"], inputs["fake_to_real"], inputs["k"])


def _precision_truth(inputs: Inputs) -> Tensor:
    """Point by point; a real point is its own nearest, at distance 0, and does not count."""
    radii = []
    for j, row in enumerate(inputs["real_to_real"].tolist()):
        radii.append(sorted(row[:j] + row[j + 1 :])[inputs["k"] - 1])
    rows = inputs["fake_to_real"].tolist()
    hits = [any(d <= radius for d, radius in zip(row, radii, strict=True)) for row in rows]
    return torch.tensor(sum(hits) / len(hits), dtype=torch.float64)


PRECISION = Exercise(
    name="precision",
    problem=3,
    points=4,
    functions=("precision_of",),
    parts=(
        Part("two clouds, k = 3", _clouds(1.0, 3, 1.3), _ask_precision, _precision_truth),
        Part("two clouds, k = 1", _clouds(0.7, 1, 1.5), _ask_precision, _precision_truth),
        Part(
            "fakes that lie on real points: all covered",
            lambda g: {"real": normal(g, 20, 3)},
            lambda functions, inputs: functions["precision_of"](*[torch.cdist(inputs["real"], inputs["real"])] * 2, 2),
            lambda inputs: torch.ones(()),
        ),
        Part("fakes far from every real point: none", _clouds(60.0, 2), _ask_precision, _precision_truth),
        Part("a wide cloud, k = 5", _clouds(0.0, 5, 3.0), _ask_precision, _precision_truth),
    ),
    mistakes=(
        Mistake(
            "a point counted as its own neighbour",
            "Each real point is at distance 0 from itself. Its k-th neighbour is the (k + 1)-th smallest entry of its "
            "row.",
            _precise(lambda distances, k: distances.sort(dim=1).values[:, k - 1]),
        ),
        Mistake(
            "one neighbour too far",
            "Sorted from 0, entry 0 of a row is the point itself and entry k its k-th neighbour.",
            _precise(lambda distances, k: distances.sort(dim=1).values[:, k + 1]),
        ),
        Mistake(
            "the farthest neighbours",
            "The k-th *smallest* distance is the radius: sort upwards.",
            _precise(lambda distances, k: distances.sort(dim=1, descending=True).values[:, k]),
        ),
        Mistake(
            "one radius for all",
            "Each real point has a radius of its own, small where real points are dense.",
            _precise(lambda distances, k: distances.sort(dim=1).values[:, k].mean()),
        ),
        Mistake(
            "within all radii",
            "A fake is covered when it lies within the radius of *any* real point.",
            _precise(covered=lambda distances, radius: (distances <= radius).all(dim=1)),
        ),
        Mistake(
            "the nearest real point only",
            "A fake may be outside the ball of its nearest real point and inside a larger one, that of another.",
            _precise(
                covered=lambda distances, radius: (
                    distances.amin(dim=1) <= radius[distances.argmin(dim=1)]
                    if radius.ndim
                    else distances.amin(dim=1) <= radius
                )
            ),
        ),
        Mistake(
            "coverage in place of precision",
            "This is the share of real points whose ball holds a fake. Precision is the share of fakes that lie in "
            "some ball: any over the real points, dimension 1.",
            _precise(covered=lambda distances, radius: (distances <= radius).any(dim=0)),
        ),
        Mistake(
            "density in place of precision",
            "This counts every ball that a fake lies in. Precision asks whether there is one.",
            _precise(covered=lambda distances, radius: (distances <= radius).double().sum(dim=1)),
        ),
        Mistake(
            "every pair counted",
            "This is the share of pairs that are near. A fake counts once, when any real point's ball holds it.",
            _precise(covered=lambda distances, radius: distances <= radius),
        ),
        Mistake(
            "a number in place of a share",
            "Divide by the number of fakes.",
            _precise(total=lambda hit: hit.double().sum()),
        ),
        Mistake(
            "the share that is not covered",
            "Precision is the share of fakes that lie within a radius.",
            _precise(total=lambda hit: 1 - hit.double().mean()),
        ),
    ),
    reference=_precise(),
)


def _statistics(
    features: Iterable, unbiased: bool = True, matrix: Callable = torch.atleast_2d
) -> tuple[Tensor, Tensor]:
    items = [torch.as_tensor(item) for item in features]
    rows = torch.cat([item.reshape(-1, item.shape[-1]) for item in items]).double()
    return rows.mean(dim=0), matrix(torch.cov(rows.T, correction=int(unbiased)))


def _root(matrix: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(matrix)
    return vectors * values.clamp(min=0).sqrt() @ vectors.T


def _trace_of_root(p: Tensor, q: Tensor) -> Tensor:
    root = _root(q)
    return torch.linalg.eigvalsh(root @ p @ root).clamp(min=0).sqrt().sum()


def _frechet(
    statistics: Callable = _statistics,
    cross: Callable = _trace_of_root,
    means: Callable = lambda d: (d**2).sum(),
    join: Callable = lambda means, p, q, cross: means + p.trace() + q.trace() - 2 * cross,
) -> Functions:
    def calculate_fid_score(sample_feature_iterator: Iterable, testset_feature_iterator: Iterable) -> Tensor:
        mean_p, p = statistics(sample_feature_iterator)
        mean_q, q = statistics(testset_feature_iterator)
        return join(means(mean_p - mean_q), p, q, cross(p, q))

    return {"mean_and_covariance": statistics, "calculate_fid_score": calculate_fid_score}


def _features(n: int, m: int, dim: int) -> Callable[[torch.Generator], Inputs]:
    return lambda g: {
        "p": normal(g, n, dim) @ normal(g, dim, dim) + 1,
        "q": normal(g, m, dim) @ normal(g, dim, dim),
    }


def _fid_truth(inputs: Inputs) -> Tensor:
    """By the eigenvalues of the product of covariances, which is not symmetric."""
    (mean_p, p), (mean_q, q) = (_moments(inputs[name]) for name in "pq")
    cross = torch.linalg.eigvals(p @ q).real.clamp(min=0).sqrt().sum()
    return (mean_p - mean_q).square().sum() + p.trace() + q.trace() - 2 * cross


def _moments(rows: Tensor) -> tuple[Tensor, Tensor]:
    centred = rows - rows.mean(dim=0)
    return rows.mean(dim=0), centred.T @ centred / (len(rows) - 1)


FID = Exercise(
    name="fid",
    problem=3,
    points=6,
    functions=("mean_and_covariance", "calculate_fid_score"),
    parts=(
        Part(
            "mean and covariance of batches",
            _features(30, 30, 4),
            lambda functions, inputs: torch.cat(
                [torch.as_tensor(v).flatten() for v in functions["mean_and_covariance"](iter(inputs["p"].split(8)))]
            ),
            lambda inputs: torch.cat([v.flatten() for v in _moments(inputs["p"])]),
        ),
        Part(
            "mean and covariance of single vectors",
            _features(12, 12, 3),
            lambda functions, inputs: torch.cat(
                [torch.as_tensor(v).flatten() for v in functions["mean_and_covariance"](iter(inputs["p"]))]
            ),
            lambda inputs: torch.cat([v.flatten() for v in _moments(inputs["p"])]),
        ),
        Part(
            "a set against three times itself plus a shift: ‖2μ + b‖² + 4 Tr Σ",
            lambda g: {"p": normal(g, 60, 5) @ normal(g, 5, 5), "b": normal(g, 5)},
            lambda functions, inputs: functions["calculate_fid_score"](
                iter(inputs["p"].split(16)), iter(3 * inputs["p"] + inputs["b"])
            ),
            lambda i: (2 * i["p"].mean(dim=0) + i["b"]).square().sum() + 4 * _moments(i["p"])[1].trace(),
        ),
        Part(
            "two sets in general position",
            _features(50, 70, 5),
            lambda functions, inputs: functions["calculate_fid_score"](iter(inputs["p"].split(20)), iter(inputs["q"])),
            _fid_truth,
            1e-3,
        ),
        Part(
            "one feature: (μ_p − μ_q)² + (σ_p − σ_q)²",
            _features(20, 30, 1),
            lambda functions, inputs: functions["calculate_fid_score"](iter(inputs["p"]), iter(inputs["q"])),
            lambda i: (i["p"].mean() - i["q"].mean()).square() + (i["p"].std() - i["q"].std()).square(),
        ),
        Part(
            "fewer samples than features",
            _features(6, 40, 10),
            lambda functions, inputs: functions["calculate_fid_score"](iter(inputs["p"]), iter(inputs["q"].split(20))),
            _fid_truth,
            1e-3,
        ),
    ),
    mistakes=(
        Mistake(
            "the covariance returned first",
            "The mean comes back first and the covariance second, as the docstring has them.",
            _frechet() | {"mean_and_covariance": lambda features: _statistics(features)[::-1]},
        ),
        Mistake(
            "the root of each entry",
            "(Σ_p Σ_q)^½ is a matrix root: the matrix whose square is Σ_p Σ_q. The root of each entry has other "
            "eigenvalues.",
            _frechet(cross=lambda p, q: (p @ q).clamp(min=0).sqrt().trace()),
        ),
        Mistake(
            "the entries multiplied",
            "Σ_p Σ_q is a product of matrices, @, not of their entries, *.",
            _frechet(cross=lambda p, q: (p * q).clamp(min=0).sqrt().trace()),
        ),
        Mistake(
            "the roots of the eigenvalues multiplied in order",
            "Sorted eigenvalues may only be paired when the two covariances have the same eigenvectors.",
            _frechet(
                cross=lambda p, q: (torch.linalg.eigvalsh(p) * torch.linalg.eigvalsh(q)).clamp(min=0).sqrt().sum()
            ),
        ),
        Mistake(
            "the root left out",
            "The trace of Σ_p Σ_q itself; the root of the product is missing.",
            _frechet(cross=lambda p, q: (p @ q).trace()),
        ),
        Mistake(
            "the root of the trace",
            "The trace of a root is the sum of the roots of the eigenvalues, not the root of their sum.",
            _frechet(cross=lambda p, q: (p @ q).trace().clamp(min=0).sqrt()),
        ),
        Mistake(
            "2 left out",
            "The root is subtracted twice: a set against itself has distance 0.",
            _frechet(join=lambda means, p, q, cross: means + p.trace() + q.trace() - cross),
        ),
        Mistake(
            "the root added",
            "The root is subtracted: Tr(Σ_p + Σ_q − 2 (Σ_p Σ_q)^½).",
            _frechet(join=lambda means, p, q, cross: means + p.trace() + q.trace() + 2 * cross),
        ),
        Mistake(
            "the root of the whole",
            "FID is the *squared* Wasserstein-2 distance.",
            _frechet(join=lambda means, p, q, cross: (means + p.trace() + q.trace() - 2 * cross).clamp(min=0).sqrt()),
        ),
        Mistake(
            "the distance of the means not squared",
            "‖μ_p − μ_q‖² is the sum of squared differences, without a root.",
            _frechet(means=lambda d: d.norm()),
        ),
        Mistake(
            "the means' term divided by the number of features",
            "‖μ_p − μ_q‖² is a sum over the features, not their mean.",
            _frechet(means=lambda d: (d**2).mean()),
        ),
        Mistake(
            "the means' term left out",
            "Two sets of one shape at different places are not the same law.",
            _frechet(means=lambda d: 0.0),
        ),
        Mistake(
            "no matrix for one feature",
            "torch.cov of one feature is a plain number; the formula wants a 1 × 1 matrix: torch.atleast_2d.",
            _frechet(statistics=lambda features: _statistics(features, matrix=lambda cov: cov)),
        ),
        Mistake(
            "covariances divided by n",
            "The covariance of a sample is divided by n − 1, as torch.cov and numpy.cov do.",
            _frechet(statistics=lambda features: _statistics(features, unbiased=False)),
        ),
    ),
    reference=_frechet(),
)


EXERCISES = (WGAN, PIXEL_NORMAL, SPHERICAL, FID, PRECISION)
