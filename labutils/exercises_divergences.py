"""The exercises of problem 1: divergences and their estimates."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from .marking import Exercise, Functions, Inputs, Mistake, Part


def normal(draw: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=draw, dtype=torch.float64)


def uniform(draw: torch.Generator, *shape: int) -> Tensor:
    return torch.rand(*shape, generator=draw, dtype=torch.float64)


# --- the Jensen–Shannon divergence --------------------------------------------------------------------------


def _softplus(x: Tensor) -> Tensor:
    return torch.logaddexp(x, torch.zeros_like(x))


def _jsd_truth(inputs: Inputs) -> Tensor:
    on_p, on_q = _softplus(-inputs["logits_p"]).mean(-1), _softplus(inputs["logits_q"]).mean(-1)
    return math.log(2) - (on_p + on_q) / 2


def _ask_jsd(functions: Functions, inputs: Inputs) -> Any:
    return functions["jsd_of_logits"](inputs["logits_p"], inputs["logits_q"])


def _log_normal(x: Tensor, mean: Tensor, sd: Tensor) -> Tensor:
    return -0.5 * ((x - mean) / sd) ** 2 - torch.log(sd) - 0.5 * math.log(2 * math.pi)


def _ask_optimum(functions: Functions, inputs: Inputs) -> Any:
    laws = [lambda x, m=m, s=s: _log_normal(x, m, s) for m, s in zip(inputs["means"], inputs["sds"], strict=True)]
    return functions["logit_of_optimum"](*laws, inputs["x"])


def _optimum_truth(inputs: Inputs) -> Tensor:
    (m, k), (s, t), x = inputs["means"], inputs["sds"], inputs["x"]
    return ((x - k) / t) ** 2 / 2 - ((x - m) / s) ** 2 / 2 + torch.log(t / s)


def _jsd(
    on_p: Callable = F.logsigmoid,
    on_q: Callable = lambda logit: F.logsigmoid(-logit),
    mean: Callable = lambda v: v.mean(-1),
    constant: float = math.log(2),
    weight: float = 0.5,
) -> Functions:
    def jsd_of_logits(logits_p: Tensor, logits_q: Tensor) -> Tensor:
        return constant + weight * mean(on_p(logits_p)) + weight * mean(on_q(logits_q))

    return {"jsd_of_logits": jsd_of_logits}


JSD = Exercise(
    name="jsd",
    problem=1,
    points=4,
    functions=("jsd_of_logits", "logit_of_optimum"),
    parts=(
        Part(
            "J of any logits",
            lambda g: {"logits_p": 3 * normal(g, 40) + 1, "logits_q": 3 * normal(g, 40) - 1},
            _ask_jsd,
            _jsd_truth,
        ),
        Part(
            "several discriminators at once: means over the last dimension",
            lambda g: {"logits_p": 2 * normal(g, 3, 30), "logits_q": 2 * normal(g, 3, 50)},
            _ask_jsd,
            _jsd_truth,
        ),
        Part(
            "a sure discriminator with a few sure mistakes: still a finite number",
            lambda g: {"logits_p": 800 + 100 * normal(g, 20).sign(), "logits_q": 800 * normal(g, 20).sign()},
            _ask_jsd,
            _jsd_truth,
        ),
        Part(
            "the logit of the best discriminator between two normal laws",
            lambda g: {"means": normal(g, 2), "sds": 0.5 + uniform(g, 2), "x": 2 * normal(g, 12)},
            _ask_optimum,
            _optimum_truth,
        ),
    ),
    mistakes=(
        Mistake(
            "log of a sigmoid",
            "1 − σ(l) rounds to 0 for a large logit, and its logarithm is −∞. 1 − σ(l) = σ(−l): use logsigmoid for "
            "both terms.",
            _jsd(lambda v: torch.sigmoid(v).log(), lambda v: (1 - torch.sigmoid(v)).log()),
        ),
        Mistake(
            "log 2 left out",
            "This is the discriminator's objective, which is −log 2 for a constant one; the divergence needs log 2 "
            "more, so that laws nobody can tell apart have 0.",
            _jsd(constant=0.0),
        ),
        Mistake(
            "½ left out",
            "Each expectation has the weight ½: the divergence is a mean of two KL divergences, at most log 2.",
            _jsd(weight=1.0),
        ),
        Mistake(
            "log D in place of log(1 − D)",
            "On samples of q the discriminator should say no: the second term is log(1 − D) = logsigmoid(−l), with "
            "the logit's sign turned.",
            _jsd(on_q=F.logsigmoid),
        ),
        Mistake(
            "the sign turned",
            "This is a loss, to be minimised; J is to be maximised, and at its maximum it is the divergence.",
            _jsd(constant=-math.log(2), weight=-0.5),
        ),
        Mistake(
            "averaged over all dimensions",
            "The leading dimensions number discriminators. Only the last one numbers samples: mean(-1).",
            _jsd(mean=torch.mean),
        ),
        Mistake(
            "D* in place of its logit",
            "p/(p + q) is the best discriminator's probability. Its logit is log D*/(1 − D*), which is shorter: "
            "log p − log q.",
            {"logit_of_optimum": lambda log_p, log_q, x: torch.sigmoid(log_p(x) - log_q(x))},
        ),
        Mistake(
            "the ratio in place of its logarithm",
            "p/q is the odds D*/(1 − D*). The logit is the logarithm of the odds.",
            {"logit_of_optimum": lambda log_p, log_q, x: torch.exp(log_p(x) - log_q(x))},
        ),
        Mistake(
            "p and q exchanged",
            "D is the probability that a sample is from p, so where p is the greater the logit is positive.",
            {"logit_of_optimum": lambda log_p, log_q, x: log_q(x) - log_p(x)},
        ),
    ),
    reference=_jsd() | {"logit_of_optimum": lambda log_p, log_q, x: log_p(x) - log_q(x)},
)


# --- the Wasserstein distance -------------------------------------------------------------------------------


def linear(weights: Tensor) -> Callable[[Tensor], Tensor]:
    """The critic T(z) = ⟨z, w⟩, (n, dim) → (n, 1), whose gradient is w everywhere."""
    return lambda z: z.to(weights) @ weights[:, None]


def bowl(matrix: Tensor) -> Callable[[Tensor], Tensor]:
    """The critic T(z) = ½⟨z, Az⟩, (n, dim) → (n, 1), whose gradient at z is Az, A symmetric."""
    return lambda z: 0.5 * (z.to(matrix) * (z.to(matrix) @ matrix)).sum(dim=1, keepdim=True)


def samples(draw: torch.Generator, n: int = 16, dim: int = 3) -> Inputs:
    """x, y: (n, dim), a: (n, 1), weights of a linear and a bowl-shaped critic, λ."""
    root = normal(draw, dim, dim)
    return {
        "x": normal(draw, n, dim) + 1,
        "y": normal(draw, n, dim),
        "a": uniform(draw, n, 1),
        "w": 0.5 * normal(draw, dim) + torch.tensor([1.5] + [0.0] * (dim - 1), dtype=torch.float64),
        "A": root + root.T,
        "lam": 1 + 9 * uniform(draw, 1).item(),
    }


def _ask_gap(which: int, critic: Callable[[Inputs], Callable]) -> Callable[[Functions, Inputs], Any]:
    def ask(functions: Functions, inputs: Inputs) -> Any:
        x, y, a, lam = (inputs[name] for name in ("x", "y", "a", "lam"))
        return functions["penalised_gap"](critic(inputs), x, y, a, lam)[which]

    return ask


def _bowl_gap(inputs: Inputs) -> Tensor:
    at_x, at_y = (0.5 * torch.einsum("ni,ij,nj->n", v, inputs["A"], v) for v in (inputs["x"], inputs["y"]))
    return at_x.mean() - at_y.mean()


def _bowl_penalty(inputs: Inputs) -> Tensor:
    z = inputs["y"] + inputs["a"] * (inputs["x"] - inputs["y"])
    return inputs["lam"] * ((z @ inputs["A"]).norm(dim=1) - 1).square().mean()


def _ask_trained(functions: Functions, inputs: Inputs) -> Any:
    w = inputs["w"].clone().requires_grad_(True)
    x, y, a, lam = (inputs[name] for name in ("x", "y", "a", "lam"))
    penalty = functions["penalised_gap"](linear(w), x, y, a, lam)[2]
    return torch.autograd.grad(penalty, w)[0]


def _trained_truth(inputs: Inputs) -> Tensor:
    length = inputs["w"].norm()
    return 2 * inputs["lam"] * (length - 1) * inputs["w"] / length


def _penalised(
    between: Callable = lambda a, x, y: a * x + (1 - a) * y,
    size: Callable = lambda gradient: gradient.norm(dim=1),
    penalise: Callable = lambda norm: (norm - 1).square().mean(),
    weigh: Callable = lambda lam: lam,
    gap: Callable = lambda at_x, at_y: at_x - at_y,
    objective: Callable = lambda gap, penalty: gap - penalty,
    create_graph: bool = True,
) -> Functions:
    def penalised_gap(critic: Callable, x: Tensor, y: Tensor, a: Tensor, lam: float) -> tuple[Tensor, ...]:
        z = between(a, x, y).detach().requires_grad_(True)
        (gradient,) = torch.autograd.grad(critic(z).sum(), z, create_graph=create_graph)
        difference = gap(critic(x).mean(), critic(y).mean())
        penalty = weigh(lam) * penalise(size(gradient))
        return objective(difference, penalty), difference, penalty

    return {"penalised_gap": penalised_gap}


PENALISED_GAP = Exercise(
    name="penalised_gap",
    problem=1,
    points=5,
    functions=("penalised_gap",),
    parts=(
        Part("the gap of a curved critic", samples, _ask_gap(1, lambda i: bowl(i["A"])), _bowl_gap),
        Part(
            "a linear critic: its penalty is λ(‖w‖ − 1)²",
            samples,
            _ask_gap(2, lambda i: linear(i["w"])),
            lambda i: i["lam"] * (i["w"].norm() - 1) ** 2,
        ),
        Part("the penalty of a curved critic", samples, _ask_gap(2, lambda i: bowl(i["A"])), _bowl_penalty),
        Part(
            "the objective is gap − penalty",
            samples,
            _ask_gap(0, lambda i: bowl(i["A"])),
            lambda i: _bowl_gap(i) - _bowl_penalty(i),
        ),
        Part("the penalty has a gradient in the critic's weights", samples, _ask_trained, _trained_truth),
    ),
    mistakes=(
        Mistake(
            "one norm for the whole batch",
            "‖∇T(z)‖ is the norm of one sample's gradient. norm() without a dimension takes the batch for one long "
            "vector, and its norm grows with the batch.",
            _penalised(size=lambda gradient: gradient.norm()),
        ),
        Mistake(
            "the mean taken before the square",
            "(E‖∇T‖ − 1)² is zero as soon as slopes are 1 on average. The penalty is the mean of (‖∇T‖ − 1)².",
            _penalised(penalise=lambda norm: (norm.mean() - 1).square()),
        ),
        Mistake(
            "the squared norm in place of the norm",
            "The square root is missing: this is (‖∇T‖² − 1)².",
            _penalised(size=lambda gradient: gradient.square().sum(dim=1)),
        ),
        Mistake(
            "the sum of absolute values in place of the Euclidean norm",
            "W₁ is about Euclidean distances, so the slope is measured by the Euclidean norm, norm(dim=1).",
            _penalised(size=lambda gradient: gradient.abs().sum(dim=1)),
        ),
        Mistake(
            "the square left out",
            "The penalty is (‖∇T‖ − 1)²; without the square a slope below 1 is rewarded.",
            _penalised(penalise=lambda norm: (norm - 1).mean()),
        ),
        Mistake(
            "a and 1 − a exchanged",
            "z = a x + (1 − a) y: at a = 1 it is x.",
            _penalised(between=lambda a, x, y: a * y + (1 - a) * x),
        ),
        Mistake(
            "the penalty at samples of p",
            "The slope is held at points between the laws, z = a x + (1 − a) y, not at the samples themselves.",
            _penalised(between=lambda a, x, y: x),
        ),
        Mistake(
            "λ left out",
            "The penalty that is returned includes its weight λ.",
            _penalised(weigh=lambda lam: 1.0),
        ),
        Mistake(
            "the penalty added",
            "The objective is maximised, so the penalty is subtracted from the gap.",
            _penalised(objective=lambda gap, penalty: gap + penalty),
        ),
        Mistake(
            "a loss in place of the objective",
            "This is what an optimiser would minimise. The objective is gap − penalty.",
            _penalised(objective=lambda gap, penalty: penalty - gap),
        ),
        Mistake(
            "the gap turned round",
            "The gap is E_p[T] − E_q[T]: samples x of p first.",
            _penalised(gap=lambda at_x, at_y: at_y - at_x),
        ),
        Mistake(
            "create_graph left out",
            "Without create_graph=True the gradient is a number that nothing can be differentiated through, and the "
            "penalty trains no weight.",
            _penalised(create_graph=False),
        ),
    ),
    reference=_penalised(),
)


EXERCISES = (JSD, PENALISED_GAP)
