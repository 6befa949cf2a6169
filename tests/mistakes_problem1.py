"""Commit the mistakes that problem 1's bands are there to catch, and print the number that each gives.

    python tests/mistakes_problem1.py [--parts formulas jsd w1 density f1_f0] [--seed 0]

An experiment of some minutes, which the reasons in bands.yaml quote. A mistake is one edit of the source of
labutils.divergences, or other settings or samples for its training; training has the cpu profile's size. Mistakes
of a formula are read off networks that were trained as they should be; mistakes of training are read by the right
formulas. Between the lines three φ stand for the 21: the largest error over all is no smaller than over these.

test_bands.py commits the mistakes of a formula again, at the exact optimum in place of a trained network.
"""

from __future__ import annotations

import argparse
import inspect
import math
import types

import torch
from torch import nn

from labutils import distributions as d
from labutils import divergences as dv
from labutils import keynumbers, parameters
from labutils.training import TrainingDiverged, generator

PROBLEM = parameters.notebooks()[1]
SIZE = {name: parameter.default for name, parameter in parameters.contract(PROBLEM).items()}
PHI = torch.tensor([0.0, 0.1, 1.0])
LAM = 10.0
X = torch.linspace(-5, 5, 2001, dtype=torch.float64)


def mutant(*edits: tuple[str, str]) -> types.ModuleType:
    """labutils.divergences with each `old` in its source replaced by `new`."""
    source = inspect.getsource(dv)
    for old, new in edits:
        assert source.count(old) == 1, f"{old!r} is in the source {source.count(old)} times"
        source = source.replace(old, new)
    made = types.ModuleType("labutils.mutant")
    made.__package__ = "labutils"
    exec(compile(source, "mutant", "exec"), made.__dict__)
    return made


def f1_f0(members: int):
    return (
        lambda n, draw: d.sample_distribution4(n, draw, members),
        lambda n, draw: d.sample_normal(n, draw, members),
    )


# --- the key numbers, as the notebook reads them off networks ----------------------------------------


def read_jsd(m, net, seed, n=20_000):
    found = m.estimate_jsd(net, *dv.line_samplers(PHI), n=n, seed=seed)
    return largest_error("p1.jsd.max_abs_error", torch.tensor([e.value for e in found]), d.line_jsd(PHI))


def read_w1(m, net, seed, n=200_000, lam=LAM):
    found = m.estimate_wasserstein(net, *dv.line_samplers(PHI), n=n, seed=seed, lam=lam)
    return largest_error("p1.wasserstein.max_abs_error", torch.tensor([e.corrected.value for e in found]), PHI.abs())


def largest_error(id, found, exact):
    return {id: (found - exact).abs().max().item()}


def read_density(m, logits):
    estimate = m.density_from_discriminator(logits, d.normal_log_density(X))
    return {
        "p1.density.l1": m.l1_error(X, estimate, d.distribution4_density(X)).item(),
        "p1.density.mass": torch.trapezoid(estimate, X).item(),
    }


def read_f1_f0_jsd(m, net, seed, n=1_000_000):
    return {"p1.jsd.f1_f0": m.estimate_jsd(net, *f1_f0(1), n=n, seed=seed)[0].value}


def read_f1_f0_w1(m, net, seed, n=1_000_000, lam=LAM):
    return {"p1.wasserstein.f1_f0": m.estimate_wasserstein(net, *f1_f0(1), n=n, seed=seed, lam=lam)[0].corrected.value}


# --- mistakes of a formula: number → name → edits ----------------------------------------------------

JSD_FORMULAS = {
    "no log 2": ("columns.append(math.log(2) + 0.5", "columns.append(0.5"),
    "no factor ½": ("math.log(2) + 0.5 * (F.log", "math.log(2) + (F.log"),
    "the sign of one logit": ("+ F.logsigmoid(-logits_q)))", "+ F.logsigmoid(logits_q)))"),
    "p and q exchanged": (
        "0.5 * (F.logsigmoid(logits_p) + F.logsigmoid(-logits_q))",
        "0.5 * (F.logsigmoid(-logits_p) + F.logsigmoid(logits_q))",
    ),
    "in bits": (
        "columns.append(math.log(2) + 0.5 * (F.logsigmoid(logits_p) + F.logsigmoid(-logits_q)))",
        "columns.append(1 + 0.5 / math.log(2) * (F.logsigmoid(logits_p) + F.logsigmoid(-logits_q)))",
    ),
}
W1_FORMULAS = {
    "the gap, no penalty subtracted": ("(gap - 2 * penalty, gap", "(gap, gap"),
    "gap − P, the penalty once": ("(gap - 2 * penalty, gap", "(gap - penalty, gap"),
    "gap + 2P": ("(gap - 2 * penalty, gap", "(gap + 2 * penalty, gap"),
    "λ forgotten in P": ("penalty = lam * (slope - 1)", "penalty = (slope - 1)"),
    "P of a norm not squared": ("penalty = lam * (slope - 1).square()", "penalty = lam * (slope - 1).abs()"),
    "the sign of the gap": ("critic(x).double() - critic(y)", "critic(y).double() - critic(x)"),
}
DENSITY_FORMULAS = {
    "the sign of the logit": ("log_f0.double() + logit", "log_f0.double() - logit"),
    "a factor ½": ("(log_f0.double() + logit", "0.5 * (log_f0.double() + logit"),
    "D in place of D/(1 − D)": ("+ logit.double()).exp()", "+ F.logsigmoid(logit.double())).exp()"),
    "2D in place of D/(1 − D)": ("+ logit.double()).exp()", "+ F.logsigmoid(logit.double())).exp() * 2"),
    "the ratio without f₀": ("(log_f0.double() + logit", "(0 * log_f0.double() + logit"),
}
FORMULAS = {
    "p1.jsd.max_abs_error": JSD_FORMULAS,
    "p1.wasserstein.max_abs_error": W1_FORMULAS,
    "p1.density.l1": DENSITY_FORMULAS,
    "p1.density.mass": DENSITY_FORMULAS,
    "p1.jsd.f1_f0": JSD_FORMULAS,
    "p1.wasserstein.f1_f0": W1_FORMULAS,
}


# --- training, as the notebook does it, with one thing changed ---------------------------------------


def train_jsd(seed, m=dv, samplers=None, **changes):
    settings = {"steps": SIZE["jsd_steps"], "batch_size": SIZE["batch_size"]} | changes
    return m.train_discriminator(*(samplers or dv.line_samplers(PHI)), seed=seed, **settings)


def train_w1(seed, m=dv, **changes):
    settings = {"steps": SIZE["critic_steps"], "batch_size": SIZE["batch_size"]} | changes
    return m.train_critic(*dv.line_samplers(PHI), seed=seed, **settings)


def train_density(seed, m=dv, samplers=None, **changes):
    settings = {"steps": SIZE["density_steps"], "batch_size": SIZE["density_batch"], "learning_rate": 1e-2} | changes
    return m.train_discriminator(*(samplers or f1_f0(1)), activation=nn.Tanh, seed=seed, **settings)


def train_f1_f0(seed, m=dv, choose=dv.best_critic, samplers=None, **changes):
    """The chosen of the restarts, as an ensemble of one."""
    settings = {"steps": SIZE["critic_steps"] * 8 // 5, "batch_size": SIZE["batch_size"]} | changes
    members = SIZE["restarts"]
    critics = m.train_critic(*(samplers or f1_f0(members)), seed=seed, **settings)
    found = dv.estimate_wasserstein(critics, *f1_f0(members), n=SIZE["held_out"] // 4, seed=seed + 1000)
    return chosen_critic(critics, choose(found))


def chosen_critic(critics, i):
    plain = critics.member(i)
    return lambda z: plain(z)[..., 0]


def again(samplers, size, seed):
    """Samplers that draw with repetition from one sample of `size`: a training set that is used again and again."""

    def fixed(sample, name):
        kept = sample(size, generator(seed, "kept", name))

        def draw_again(n, draw):
            rows = torch.randint(size, (n,), generator=draw)
            return kept[:, rows]

        return draw_again, kept

    (p, kept_p), (q, kept_q) = fixed(samplers[0], "p"), fixed(samplers[1], "q")
    return (p, q), (kept_p, kept_q)


@torch.no_grad()
def jsd_on(net, kept):
    return dv.jsd_objective(*(net(x).double() for x in kept))


SGD = mutant(
    (
        "optimiser = torch.optim.Adam(net.parameters(), learning_rate, betas=(0.9, 0.99), fused=True)",
        "optimiser = torch.optim.SGD(net.parameters(), learning_rate)",
    )
)
RAW_INPUTS = mutant(("    net.standardise(torch.cat", "    (lambda x: None)(torch.cat"))
NORM_OF_THE_BATCH = mutant(
    (
        "return torch.linalg.vector_norm(gradient.flatten(sample_dims), dim=-1)",
        "return torch.linalg.vector_norm(gradient.flatten(1), dim=-1)[:, None].expand(z.shape[:sample_dims])",
    )
)
NO_PENALTY = mutant(("WassersteinTerms(gap - penalty", "WassersteinTerms(gap"))
PENALTY_ADDED = mutant(("WassersteinTerms(gap - penalty", "WassersteinTerms(gap + penalty"))
LOG_OF_SIGMOID = mutant(
    ("0.5 * F.logsigmoid(logits_p)", "0.5 * torch.sigmoid(logits_p).log()"),
    ("0.5 * F.logsigmoid(-logits_q)", "0.5 * (1 - torch.sigmoid(logits_q)).log()"),
)


def of_jsd(seed):
    """Mistake → the number it gives."""
    lines = dv.line_samplers(PHI)

    def right(net):
        return read_jsd(dv, net, seed)

    yield "none", lambda: right(train_jsd(seed))
    for steps in (20, 50, 100):
        yield f"{steps} steps in place of {SIZE['jsd_steps']}", lambda s=steps: right(train_jsd(seed, steps=s))
    yield "a rate of 2e-3 in place of 2e-2", lambda: right(train_jsd(seed, learning_rate=2e-3))
    for rate in (0.01, 0.1):
        text = f"SGD at {rate}, {SIZE['sgd_steps'] // 2} steps"
        yield text, lambda r=rate: right(train_jsd(seed, SGD, steps=SIZE["sgd_steps"] // 2, learning_rate=r))
    yield "inputs not standardised", lambda: right(train_jsd(seed, RAW_INPUTS))
    yield "log of sigmoid", lambda: right(train_jsd(seed, LOG_OF_SIGMOID))

    def reuse(size, fresh):
        samplers, kept = again(lines, size, seed)
        net = train_jsd(seed, samplers=samplers, steps=5 * SIZE["jsd_steps"])
        if fresh:
            return right(net)
        return largest_error("p1.jsd.max_abs_error", jsd_on(net, kept), d.line_jsd(PHI))

    yield "one training set of 512 again and again, judged on it", lambda: reuse(512, False)
    yield "the same, judged on fresh samples", lambda: reuse(512, True)

    def one_batch():
        net = train_jsd(seed)
        draw = generator(seed, "training", SIZE["jsd_steps"] - 1)
        values = jsd_on(net, [sample(SIZE["batch_size"], draw) for sample in lines])
        return largest_error("p1.jsd.max_abs_error", values, d.line_jsd(PHI))

    yield "judged on the last training batch of 512", one_batch


def of_w1(seed):
    def right(net, **changes):
        return read_w1(dv, net, seed, **changes)

    yield "none", lambda: right(train_w1(seed))
    for steps in (50, 100, 250):
        yield f"{steps} steps in place of {SIZE['critic_steps']}", lambda s=steps: right(train_w1(seed, steps=s))
    yield "trained with λ = 1, read with 10", lambda: right(train_w1(seed, lam=1.0))
    yield "trained with λ = 10, read with 1", lambda: right(train_w1(seed), lam=1.0)
    yield "trained with λ = 100, read with 10", lambda: right(train_w1(seed, lam=100.0))
    yield "one norm for the whole batch", lambda: right(train_w1(seed, NORM_OF_THE_BATCH))
    yield "no penalty in training", lambda: right(train_w1(seed, NO_PENALTY))
    yield "the penalty added", lambda: right(train_w1(seed, PENALTY_ADDED))
    yield "SGD at 0.01", lambda: right(train_w1(seed, SGD, learning_rate=0.01))
    yield "one batch of 512 as the evaluation", lambda: right(train_w1(seed), n=512)


def of_density(seed):
    def right(net):
        return read_density(dv, dv.logits_on_line(net, X)) | read_f1_f0_jsd(dv, net, seed)

    yield "none", lambda: right(train_density(seed))
    for steps in (50, 100, 200, 500):
        yield f"{steps} steps in place of {SIZE['density_steps']}", lambda s=steps: right(train_density(seed, steps=s))
    for rate in (0.01, 0.1):
        yield f"SGD at {rate}", lambda r=rate: right(train_density(seed, SGD, learning_rate=r))
    yield "batches of 64 in place of 4,096", lambda: right(train_density(seed, batch_size=64))

    for size in (1_000, 10_000):

        def reuse(fresh, size=size):
            samplers, kept = again(f1_f0(1), size, seed)
            net = train_density(seed, samplers=samplers)
            judged = right(net)
            if not fresh:
                judged["p1.jsd.f1_f0"] = jsd_on(net, kept)[0].item()
            return judged

        text = f"one training set of {size:,} again and again"
        yield f"{text}, the divergence judged on it", lambda r=reuse: r(False)
        yield f"{text}, judged on fresh samples", lambda r=reuse: r(True)

    def wrong_labels():
        p, q = f1_f0(1)

        def mixed(n, draw):
            x = p(n, draw)
            wrong = torch.rand(x.shape, generator=draw) < 0.02
            return torch.where(wrong, q(n, draw), x)

        return right(train_density(seed, samplers=(mixed, q)))

    yield "two in a hundred samples of f₁ are f₀'s", wrong_labels
    yield "f₁ and f₀ exchanged in training", lambda: right(train_density(seed, samplers=f1_f0(1)[::-1]))


def of_f1_f0(seed):
    def right(net, **changes):
        return read_f1_f0_w1(dv, net, seed, **changes)

    yield "none", lambda: right(train_f1_f0(seed))
    for steps in (50, 100, 200, 400):
        text = f"{steps} steps in place of {SIZE['critic_steps'] * 8 // 5}"
        yield text, lambda s=steps: right(train_f1_f0(seed, steps=s))
    yield "the penalty at full weight from the start", lambda: right(train_f1_f0(seed, ramp=0.0))
    yield "trained with λ = 1, read with 10", lambda: right(train_f1_f0(seed, lam=1.0))
    yield "trained with λ = 10, read with 1", lambda: right(train_f1_f0(seed), lam=1.0)
    yield "trained with λ = 100, read with 10", lambda: right(train_f1_f0(seed, lam=100.0))
    yield "one norm for the whole batch", lambda: right(train_f1_f0(seed, NORM_OF_THE_BATCH))
    yield "no penalty in training", lambda: right(train_f1_f0(seed, NO_PENALTY))
    yield "SGD at 0.01", lambda: right(train_f1_f0(seed, SGD, learning_rate=0.01))

    def worst(found):
        return min(range(len(found)), key=lambda i: found[i].objective.value)

    yield "the restart with the lowest objective", lambda: right(train_f1_f0(seed, choose=worst))

    def reuse():
        samplers, _ = again(f1_f0(SIZE["restarts"]), 512, seed)
        return right(train_f1_f0(seed, samplers=samplers))

    yield "one training set of 512 again and again, judged on fresh samples", reuse
    for k in range(3):
        yield f"one batch of 512 as the evaluation ({k})", lambda k=k: right(train_f1_f0(seed), n=512)


TRAINING = {"jsd": of_jsd, "w1": of_w1, "density": of_density, "f1_f0": of_f1_f0}


# --- the report ---------------------------------------------------------------------------------------


def inside(id: str, value: float) -> bool:
    band = keynumbers.bands()[id]["cpu"]
    return math.isfinite(value) and band["low"] <= value <= band["high"]


def tell(name: str, found: dict[str, float]) -> None:
    for id, value in found.items():
        print(f"{id:30} {name:64} {value:12.6g}  {'inside' if inside(id, value) else 'outside'}", flush=True)


def formulas(seed: int) -> None:
    nets = {"jsd": train_jsd(seed), "w1": train_w1(seed), "density": train_density(seed), "f1_f0": train_f1_f0(seed)}
    read = {
        "p1.jsd.max_abs_error": lambda m: read_jsd(m, nets["jsd"], seed),
        "p1.wasserstein.max_abs_error": lambda m: read_w1(m, nets["w1"], seed),
        "p1.density.l1": lambda m: read_density(m, dv.logits_on_line(nets["density"], X)),
        "p1.density.mass": lambda m: read_density(m, dv.logits_on_line(nets["density"], X)),
        "p1.jsd.f1_f0": lambda m: read_f1_f0_jsd(m, nets["density"], seed),
        "p1.wasserstein.f1_f0": lambda m: read_f1_f0_w1(m, nets["f1_f0"], seed),
    }
    for id, mistakes in FORMULAS.items():
        tell("none", {id: read[id](dv)[id]})
        for name, edit in mistakes.items():
            tell(name, {id: read[id](mutant(edit))[id]})


if __name__ == "__main__":
    asked = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    asked.add_argument("--seed", type=int, default=0)
    asked.add_argument("--parts", nargs="+", default=["formulas", *TRAINING], choices=["formulas", *TRAINING])
    options = asked.parse_args()
    for part in options.parts:
        if part == "formulas":
            formulas(options.seed)
            continue
        for name, make in TRAINING[part](options.seed):
            try:
                tell(name, make())
            except (TrainingDiverged, ValueError) as stopped:  # refused: no number at all
                print(f"{part:30} {name:64} stops: {str(stopped)[:60]}", flush=True)
