"""The exercises of problem 1: divergences and their estimates."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from .marking import Exercise, Functions, Inputs, Mistake, Part, gradient, member, normal, uniform

# --- the Jensen–Shannon divergence --------------------------------------------------------------------------


def _softplus(x: Tensor) -> Tensor:
    return torch.logaddexp(x, torch.zeros_like(x))


def _jsd_truth(inputs: Inputs) -> Tensor:
    on_p, on_q = _softplus(-inputs["logits_p"]).mean(-1), _softplus(inputs["logits_q"]).mean(-1)
    return math.log(2) - (on_p + on_q) / 2


def _ask_jsd(functions: Functions, inputs: Inputs) -> Any:
    return functions["jsd_of_logits"](inputs["logits_p"], inputs["logits_q"])


def _ask_logits(functions: Functions, inputs: Inputs) -> Tensor:
    """The gradient of J in the logits."""
    logits = [inputs[name].clone().requires_grad_(True) for name in ("logits_p", "logits_q")]
    return gradient(functions["jsd_of_logits"](*logits), logits)


def _logits_truth(inputs: Inputs) -> Tensor:
    p, q = inputs["logits_p"], inputs["logits_q"]
    return torch.cat([torch.sigmoid(-p) / len(p), -torch.sigmoid(q) / len(q)]) / 2


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
            lambda g: {"means": normal(g, 2), "sds": 1 + uniform(g, 2), "x": normal(g, 12)},
            _ask_optimum,
            _optimum_truth,
        ),
        Part(
            "the same far out, where both densities round to zero",
            lambda g: {"means": normal(g, 2), "sds": 1 + uniform(g, 2), "x": 90 + 10 * normal(g, 6)},
            _ask_optimum,
            _optimum_truth,
        ),
        Part(
            "J has a gradient in the logits, by which a discriminator is trained",
            lambda g: {"logits_p": normal(g, 10), "logits_q": normal(g, 14)},
            _ask_logits,
            _logits_truth,
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
            "the gradient cut",
            "The discriminator is trained by the gradient of this number. detach(), numpy() and no_grad() cut it: the "
            "training would run and change nothing.",
            {"jsd_of_logits": lambda logits_p, logits_q: _jsd()["jsd_of_logits"](logits_p, logits_q).detach()},
        ),
        Mistake(
            "through the densities",
            "Far out p and q round to 0, and nearer by D* rounds to 1 or 0, whose logit is infinite. Subtract the "
            "logarithms: log p − log q.",
            {
                "logit_of_optimum": lambda log_p, log_q, x: torch.logit(
                    log_p(x).exp() / (log_p(x).exp() + log_q(x).exp())
                )
            },
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
    """The critic T(z) = ⟨z, w⟩, (…, n, dim) → (…, n), whose gradient is w everywhere."""
    return lambda z: (z * weights.to(z)).sum(dim=-1)


def bowl(matrix: Tensor) -> Callable[[Tensor], Tensor]:
    """The critic T(z) = ½⟨z, Az⟩, (…, n, dim) → (…, n), whose gradient at z is Az, A symmetric."""
    return lambda z: 0.5 * (z * (z @ matrix.to(z))).sum(dim=-1)


def pairs(*members: int) -> Callable[[torch.Generator], Inputs]:
    """x, y (…, n, dim) and a (…, n, 1); w and A, of a linear critic of slope above one and of a bowl; λ."""

    def draw(g: torch.Generator) -> Inputs:
        root = normal(g, 3, 3)
        w = normal(g, 3)
        return {
            "x": normal(g, *members, 16, 3) + 1,
            "y": normal(g, *members, 16, 3),
            "a": uniform(g, *members, 16, 1),
            "w": w / w.norm() * (1.5 + uniform(g, 1)),
            "A": root + root.T,
            "lam": 2 + 8 * uniform(g, 1).item(),
        }

    return draw


def slopes_of_bowl(inputs: Inputs) -> Tensor:
    """‖∇T‖ of the bowl at the points between x and y."""
    z = inputs["y"] + inputs["a"] * (inputs["x"] - inputs["y"])
    return (z @ inputs["A"]).square().sum(dim=-1).sqrt()


def _gap_of_bowl(inputs: Inputs) -> Tensor:
    at_x, at_y = (0.5 * torch.einsum("...i,ij,...j", v, inputs["A"], v) for v in (inputs["x"], inputs["y"]))
    return at_x.mean(-1) - at_y.mean(-1)


def _penalty_of_bowl(inputs: Inputs) -> Tensor:
    return inputs["lam"] * (slopes_of_bowl(inputs) - 1).square().mean(-1)


def _five(critic: Callable, inputs: Inputs) -> tuple[Any, ...]:
    return critic, *(inputs[name] for name in ("x", "y", "a", "lam"))


def _ask_gap(which: int) -> Callable[[Functions, Inputs], Any]:
    return lambda functions, inputs: _three(functions, _five(bowl(inputs["A"]), inputs), which)


def _three(functions: Functions, given: tuple[Any, ...], which: int) -> Any:
    return member(functions["penalised_gap"](*given), which, "objective, gap, penalty")


def _ask_trained(penalty: Callable) -> Callable[[Functions, Inputs], Tensor]:
    """The derivative of a penalty in the weights of a linear critic."""

    def ask(functions: Functions, inputs: Inputs) -> Tensor:
        w = inputs["w"].clone().requires_grad_(True)
        return gradient(penalty(functions, _five(linear(w), inputs)), w)

    return ask


def _trained(inputs: Inputs) -> Tensor:
    length = inputs["w"].norm()
    return 2 * inputs["lam"] * (length - 1) * inputs["w"] / length


def slopes(
    critic: Callable, z: Tensor, create_graph: bool = True, size: Callable | None = None, tracked: bool = True
) -> Tensor:
    z = z.detach().requires_grad_(tracked)
    (gradient,) = torch.autograd.grad(critic(z).sum(), z, create_graph=create_graph)
    return gradient.norm(dim=-1) if size is None else size(gradient)


def _penalised(
    between: Callable = lambda a, x, y: a * x + (1 - a) * y,
    penalise: Callable = lambda norm: (norm - 1).square().mean(-1),
    weigh: Callable = lambda lam: lam,
    gap: Callable = lambda on_p, on_q: on_p.mean(-1) - on_q.mean(-1),
    objective: Callable = lambda gap, penalty: gap - penalty,
    order: tuple[int, ...] = (0, 1, 2),
    **how: Any,
) -> Functions:
    def penalised_gap(critic: Callable, x: Tensor, y: Tensor, a: Tensor, lam: float) -> tuple[Tensor, ...]:
        penalty = weigh(lam) * penalise(slopes(critic, between(a, x, y), **how))
        found = gap(critic(x), critic(y))
        values = objective(found, penalty), found, penalty
        return tuple(values[k] for k in order)

    return {"penalised_gap": penalised_gap}


UNTRACKED = (
    "autograd.grad asks for the gradient at z, so z must be told to keep track of it before the critic sees it: "
    "z.requires_grad_(True)."
)

PENALISED_GAP = Exercise(
    name="penalised_gap",
    problem=1,
    points=6,
    functions=("penalised_gap",),
    parts=(
        Part("the gap of a curved critic", pairs(), _ask_gap(1), _gap_of_bowl),
        Part(
            "a linear critic: its penalty is λ(‖w‖ − 1)²",
            pairs(),
            lambda functions, inputs: _three(functions, _five(linear(inputs["w"]), inputs), 2),
            lambda inputs: inputs["lam"] * (inputs["w"].norm() - 1) ** 2,
        ),
        Part("the penalty of a curved critic", pairs(), _ask_gap(2), _penalty_of_bowl),
        Part(
            "the objective is gap − penalty",
            pairs(),
            _ask_gap(0),
            lambda inputs: _gap_of_bowl(inputs) - _penalty_of_bowl(inputs),
        ),
        Part(
            "the penalty has a gradient in the critic's weights",
            pairs(),
            _ask_trained(lambda functions, given: _three(functions, given, 2)),
            _trained,
        ),
        Part(
            "the objective has a gradient in the critic's weights",
            pairs(),
            _ask_trained(lambda functions, given: _three(functions, given, 0)),
            lambda inputs: inputs["x"].mean(dim=0) - inputs["y"].mean(dim=0) - _trained(inputs),
        ),
        Part(
            "two critics side by side, samples (2, n, dim): two gaps",
            pairs(2),
            _ask_gap(1),
            _gap_of_bowl,
        ),
        Part(
            "two critics side by side: two penalties",
            pairs(2),
            _ask_gap(2),
            _penalty_of_bowl,
        ),
    ),
    mistakes=(
        Mistake(
            "one norm for the whole batch",
            "‖∇T(z)‖ is the norm of one sample's gradient. norm() without a dimension takes the batch for one long "
            "vector, and its norm grows with the batch.",
            _penalised(size=lambda gradient: gradient.norm()),
        ),
        Mistake(
            "the dimensions counted from the front",
            "Samples may have a leading dimension of members, one for each critic. Count from the end: the norm over "
            "the last dimension, the mean over the last dimension of what is left.",
            _penalised(
                size=lambda gradient: gradient.norm(dim=1),
                penalise=lambda norm: (norm - 1).square().mean(),
                gap=lambda on_p, on_q: on_p.mean() - on_q.mean(),
            ),
        ),
        Mistake(
            "the mean over members, too",
            "Every critic of an ensemble has its own gap and penalty: mean(-1), over its samples alone.",
            _penalised(
                penalise=lambda norm: (norm - 1).square().mean(),
                gap=lambda on_p, on_q: on_p.mean() - on_q.mean(),
            ),
        ),
        Mistake(
            "the mean taken before the square",
            "(E‖∇T‖ − 1)² is zero as soon as slopes are 1 on average. The penalty is the mean of (‖∇T‖ − 1)².",
            _penalised(penalise=lambda norm: (norm.mean(-1) - 1).square()),
        ),
        Mistake(
            "the squared norm in place of the norm",
            "The square root is missing: this is (‖∇T‖² − 1)².",
            _penalised(size=lambda gradient: gradient.square().sum(dim=-1)),
        ),
        Mistake(
            "the sum of absolute values in place of the Euclidean norm",
            "W₁ is about Euclidean distances, so the slope is measured by the Euclidean norm.",
            _penalised(size=lambda gradient: gradient.abs().sum(dim=-1)),
        ),
        Mistake(
            "the square left out",
            "The penalty is (‖∇T‖ − 1)²; without the square a slope below 1 is rewarded.",
            _penalised(penalise=lambda norm: (norm - 1).mean(-1)),
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
        Mistake("λ left out", "The penalty that is returned includes its weight λ.", _penalised(weigh=lambda lam: 1.0)),
        Mistake("λ fixed at ten", "The weight is an argument: lam.", _penalised(weigh=lambda lam: 10.0)),
        Mistake("points that track no gradient", UNTRACKED, _penalised(tracked=False)),
        Mistake(
            "the gap's gradient cut",
            "The critic is trained to raise the gap. Without its gradient only the penalty is trained.",
            _penalised(gap=lambda on_p, on_q: (on_p.mean(-1) - on_q.mean(-1)).detach()),
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
            "The gap is E_p[T] − E_q[T]: the samples x of p first.",
            _penalised(gap=lambda on_p, on_q: on_q.mean(-1) - on_p.mean(-1)),
        ),
        Mistake(
            "create_graph left out",
            "Without create_graph=True the gradient is a number that nothing can be differentiated through, and the "
            "penalty trains no weight.",
            _penalised(create_graph=False),
        ),
        *(
            Mistake(
                f"the values in another order, {', '.join(('objective', 'gap', 'penalty')[k] for k in order)}",
                "They come back as the docstring has them: objective, gap, penalty.",
                _penalised(order=order),
            )
            for order in ((1, 2, 0), (0, 2, 1), (1, 0, 2))
        ),
    ),
    reference=_penalised(),
)


def _one_sided(
    penalise: Callable = lambda norm: (norm - 1).clamp(min=0).square().mean(-1),
    weigh: Callable = lambda lam: lam,
    **how: Any,
) -> Functions:
    def one_sided_penalty(critic: Callable, x: Tensor, y: Tensor, a: Tensor, lam: float) -> Tensor:
        return weigh(lam) * penalise(slopes(critic, a * x + (1 - a) * y, **how))

    return {"one_sided_penalty": one_sided_penalty}


def _ask_one_sided(critic: Callable[[Inputs], Callable]) -> Callable[[Functions, Inputs], Any]:
    return lambda functions, inputs: functions["one_sided_penalty"](*_five(critic(inputs), inputs))


def _one_sided_of_bowl(inputs: Inputs) -> Tensor:
    excess = slopes_of_bowl(inputs) - 1
    return inputs["lam"] * torch.where(excess > 0, excess * excess, 0.0).mean(-1)


def gentle(*members: int) -> Callable[[torch.Generator], Inputs]:
    """`pairs` whose bowl has slopes on both sides of one, some of each among the samples."""

    def draw(g: torch.Generator) -> Inputs:
        found = pairs(*members)(g)
        return found | {"A": found["A"] / slopes_of_bowl(found).median()}

    return draw


ONE_SIDED_PENALTY = Exercise(
    name="one_sided_penalty",
    problem=1,
    points=4,
    functions=("one_sided_penalty",),
    parts=(
        Part(
            "a steep linear critic: λ(‖w‖ − 1)²",
            pairs(),
            _ask_one_sided(lambda inputs: linear(inputs["w"])),
            lambda inputs: inputs["lam"] * (inputs["w"].norm() - 1) ** 2,
        ),
        Part(
            "a gentle linear critic has no penalty",
            pairs(),
            _ask_one_sided(lambda inputs: linear(0.2 * inputs["w"])),
            lambda inputs: torch.zeros(()),
        ),
        Part(
            "a curved critic, steep at some points and gentle at others",
            gentle(),
            _ask_one_sided(lambda inputs: bowl(inputs["A"])),
            _one_sided_of_bowl,
        ),
        Part(
            "the penalty has a gradient in the critic's weights",
            pairs(),
            _ask_trained(lambda functions, given: functions["one_sided_penalty"](*given)),
            _trained,
        ),
        Part(
            "two critics side by side, samples (2, n, dim): two penalties",
            gentle(2),
            _ask_one_sided(lambda inputs: bowl(inputs["A"])),
            _one_sided_of_bowl,
        ),
    ),
    mistakes=(
        Mistake(
            "two-sided",
            "This is the penalty (‖∇T‖ − 1)², which dislikes slopes below 1 as well. Cut at zero before the square, "
            "for a square is never negative.",
            _one_sided(penalise=lambda norm: (norm - 1).square().mean(-1)),
        ),
        Mistake(
            "the other side",
            "1-Lipschitz means slopes of at most 1: those above are penalised, those below are allowed.",
            _one_sided(penalise=lambda norm: (norm - 1).clamp(max=0).square().mean(-1)),
        ),
        Mistake(
            "the mean cut in place of each slope",
            "Each point's excess is cut at zero and squared; a steep point is not made good by a gentle one.",
            _one_sided(penalise=lambda norm: (norm.mean(-1) - 1).clamp(min=0).square()),
        ),
        Mistake(
            "the square left out",
            "The penalty is max(0, ‖∇T‖ − 1)², with a square.",
            _one_sided(penalise=lambda norm: (norm - 1).clamp(min=0).mean(-1)),
        ),
        Mistake(
            "the squared norm in place of the norm",
            "The square root is missing: this is max(0, ‖∇T‖² − 1)².",
            _one_sided(size=lambda gradient: gradient.square().sum(dim=-1)),
        ),
        Mistake(
            "one norm for the whole batch",
            "‖∇T(z)‖ is the norm of one sample's gradient, over the last dimension.",
            _one_sided(size=lambda gradient: gradient.norm()),
        ),
        Mistake(
            "the mean over members, too",
            "Every critic of an ensemble has its own penalty: mean(-1), over its samples alone.",
            _one_sided(penalise=lambda norm: (norm - 1).clamp(min=0).square().mean()),
        ),
        Mistake("λ left out", "The penalty that is returned includes its weight λ.", _one_sided(weigh=lambda lam: 1.0)),
        Mistake("points that track no gradient", UNTRACKED, _one_sided(tracked=False)),
        Mistake(
            "create_graph left out",
            "Without create_graph=True the penalty trains no weight.",
            _one_sided(create_graph=False),
        ),
    ),
    reference=_one_sided(),
)


# --- the Wasserstein distance on the line -------------------------------------------------------------------


def _line(x_size: int, y_size: int) -> Callable[[torch.Generator], Inputs]:
    return lambda g: {"x": 2 * normal(g, x_size) + 1, "y": 0.5 * normal(g, y_size) + 1 + 0.3 * normal(g, 1)}


def _by_copies(inputs: Inputs) -> Tensor:
    """Both samples copied to one size, then sorted and paired."""
    x, y = inputs["x"], inputs["y"]
    size = math.lcm(len(x), len(y))
    x, y = (v.repeat_interleave(size // len(v)).sort().values for v in (x, y))
    return (x - y).abs().mean()


def wasserstein_1d(
    x: Tensor,
    y: Tensor,
    norm: Callable = lambda difference, width: (difference.abs() * width).sum(),
    right: bool = True,
) -> Tensor:
    points = torch.cat([x, y]).sort().values
    below = [
        torch.searchsorted(v.sort().values, points[:-1].contiguous(), right=right).double() / len(v) for v in (x, y)
    ]
    return norm(below[0] - below[1], points.diff())


def _sorted(v: Tensor) -> Tensor:
    return v.sort().values


def _instead(function: Callable) -> Functions:
    return {"wasserstein_1d": function}


WASSERSTEIN_1D = Exercise(
    name="wasserstein_1d",
    problem=1,
    points=4,
    functions=("wasserstein_1d",),
    parts=(
        Part(
            "two samples of one size",
            _line(20, 20),
            lambda functions, inputs: functions["wasserstein_1d"](inputs["x"], inputs["y"]),
            _by_copies,
        ),
        Part(
            "a sample and the same moved by c, in another order: |c|",
            lambda g: {"x": normal(g, 15), "c": -1 - uniform(g, 1), "order": torch.randperm(15, generator=g).double()},
            lambda functions, inputs: functions["wasserstein_1d"](
                inputs["x"], (inputs["x"] + inputs["c"])[inputs["order"].long()]
            ),
            lambda inputs: inputs["c"].abs(),
        ),
        Part(
            "two samples of different sizes",
            _line(12, 18),
            lambda functions, inputs: functions["wasserstein_1d"](inputs["x"], inputs["y"]),
            _by_copies,
        ),
        Part(
            "values that occur more than once",
            lambda g: {"x": (3 * normal(g, 14)).round(), "y": (2 * normal(g, 21)).round() + 1},
            lambda functions, inputs: functions["wasserstein_1d"](inputs["x"], inputs["y"]),
            _by_copies,
        ),
    ),
    mistakes=(
        Mistake(
            "pairs in the order drawn",
            "On the line the cheapest plan moves the smallest to the smallest, the next to the next: sort both first.",
            _instead(lambda x, y: (x - y).abs().mean()),
        ),
        Mistake(
            "samples of one size only",
            "Pairing sorted values needs equally many. For other sizes integrate |F_x − F_y|, the difference of the "
            "distribution functions, over the gaps between all values.",
            _instead(lambda x, y: (_sorted(x) - _sorted(y)).abs().mean()),
        ),
        Mistake(
            "the surplus thrown away",
            "Cut to the size of the smaller, the larger sample loses its greatest values: integrate |F_x − F_y|.",
            _instead(lambda x, y: (_sorted(x)[: len(y)] - _sorted(y)[: len(x)]).abs().mean()),
        ),
        Mistake(
            "the first of the larger sample only",
            "Cutting the larger sample throws information away. Integrate |F_x − F_y| over all values.",
            _instead(lambda x, y: (_sorted(x[: len(y)]) - _sorted(y[: len(x)])).abs().mean()),
        ),
        Mistake(
            "the difference of the means",
            "That is a lower bound, reached by the critic T(x) = ±x. Laws with one mean may be far apart: the absolute "
            "value is inside.",
            _instead(lambda x, y: (x.mean() - y.mean()).abs()),
        ),
        Mistake(
            "W₂ in place of W₁",
            "Root mean square: the cost here is the distance, not its square.",
            _instead(lambda x, y: (_sorted(x) - _sorted(y)).square().mean().sqrt()),
        ),
        Mistake(
            "the staircases a step too low",
            "Where values occur more than once, F(t) counts those equal to t: searchsorted with right=True.",
            _instead(lambda x, y: wasserstein_1d(x, y, right=False)),
        ),
        Mistake(
            "a sum in place of a mean",
            "Each of the n points carries the mass 1/n.",
            _instead(lambda x, y: (_sorted(x) - _sorted(y)).abs().sum()),
        ),
        Mistake(
            "the greatest difference of the distribution functions",
            "That is the Kolmogorov–Smirnov distance: a share of the mass, not mass times distance.",
            _instead(lambda x, y: wasserstein_1d(x, y, lambda difference, width: difference.abs().max())),
        ),
        Mistake(
            "the square of the difference of the distribution functions",
            "∫(F_x − F_y)² is the Cramér distance. W₁ is ∫|F_x − F_y|.",
            _instead(lambda x, y: wasserstein_1d(x, y, lambda difference, width: (difference**2 * width).sum())),
        ),
        Mistake(
            "the absolute value left out",
            "∫(F_x − F_y) is the difference of the means. Cost is paid in both directions: ∫|F_x − F_y|.",
            _instead(lambda x, y: wasserstein_1d(x, y, lambda difference, width: (difference * width).sum())),
        ),
    ),
    reference=_instead(wasserstein_1d),
)


# --- a density from a discriminator -------------------------------------------------------------------------


def _density(function: Callable) -> Functions:
    return {"density_of": function}


def _ask_density(functions: Functions, inputs: Inputs) -> Any:
    return functions["density_of"](inputs["logits"], inputs["log_f0"])


def _density_truth(inputs: Inputs) -> Tensor:
    return torch.exp(inputs["log_f0"] + inputs["logits"])


DENSITY = Exercise(
    name="density",
    problem=1,
    points=3,
    functions=("density_of",),
    parts=(
        Part(
            "f₁ of known laws: two normal densities",
            lambda g: {"x": 1.5 * normal(g, 25), "mean": normal(g, 1)},
            lambda functions, inputs: functions["density_of"](
                inputs["mean"] * inputs["x"] - inputs["mean"] ** 2 / 2,
                _log_normal(inputs["x"], torch.zeros(1), torch.ones(1)),
            ),
            lambda inputs: torch.exp(-0.5 * (inputs["x"] - inputs["mean"]) ** 2) / math.sqrt(2 * math.pi),
        ),
        Part(
            "a discriminator that is not the best: f₀ D/(1 − D) all the same",
            lambda g: {"logits": 2 * normal(g, 25), "log_f0": normal(g, 25) - 1},
            _ask_density,
            lambda inputs: inputs["log_f0"].exp() * torch.sigmoid(inputs["logits"]) / torch.sigmoid(-inputs["logits"]),
        ),
        Part(
            "where D rounds to one",
            lambda g: {"logits": 45 + 5 * uniform(g, 9), "log_f0": -45 - 5 * uniform(g, 9)},
            _ask_density,
            _density_truth,
        ),
        Part(
            "where f₀ rounds to zero",
            lambda g: {"logits": 800 + 5 * uniform(g, 9), "log_f0": -800 - 5 * uniform(g, 9)},
            _ask_density,
            _density_truth,
        ),
    ),
    mistakes=(
        Mistake(
            "D/(1 − D) from D",
            "1 − D rounds to 0 where the logit is large, and the density becomes infinite. D/(1 − D) = e^logit.",
            _density(lambda logit, log_f0: log_f0.exp() * torch.sigmoid(logit) / (1 - torch.sigmoid(logit))),
        ),
        Mistake(
            "two exponentials multiplied",
            "0 · ∞ is not a number. Add the logarithms first, exponentiate once: exp(log f₀ + logit).",
            _density(lambda logit, log_f0: log_f0.exp() * logit.exp()),
        ),
        Mistake(
            "D f₀",
            "f₁ = f₀ D/(1 − D), with the odds of D, not D itself.",
            _density(lambda logit, log_f0: log_f0.exp() * torch.sigmoid(logit)),
        ),
        Mistake(
            "the odds turned round",
            "(1 − D)/D is f₀/f₁. Where f₁ is the greater, D is above ½ and the density is to grow.",
            _density(lambda logit, log_f0: torch.exp(log_f0 - logit)),
        ),
        Mistake(
            "the logarithm of the density",
            "This is log f₁; the density is its exponential.",
            _density(lambda logit, log_f0: log_f0 + logit),
        ),
        Mistake(
            "log f₀ taken for f₀",
            "The second argument is a logarithm: exp(log f₀ + logit).",
            _density(lambda logit, log_f0: log_f0 * logit.exp()),
        ),
        Mistake(
            "made to sum to one",
            "The estimate is not to be normalised: that it nearly integrates to one is the check you would lose.",
            _density(lambda logit, log_f0: torch.softmax(log_f0 + logit, dim=-1)),
        ),
    ),
    reference=_density(lambda logits, log_f0_at_x: torch.exp(log_f0_at_x.double() + logits.double())),
)


EXERCISES = (JSD, PENALISED_GAP, ONE_SIDED_PENALTY, WASSERSTEIN_1D, DENSITY)
