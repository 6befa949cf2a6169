"""The bands of problem 1 hold the right numbers in and the mistakes out.

Each formula is read off the exact optimum in place of a trained network, right and with one mistake at a time; a
few mistakes of training are made at small size. mistakes_problem1.py makes them all at the cpu profile's size.
"""

import mistakes_problem1 as mistakes
import pytest
import torch
from test_divergences import optimal_penalised_critic

from labutils import distributions as d
from labutils import divergences as dv
from labutils import keynumbers

IDS = [id for id, band in keynumbers.bands().items() if id.startswith("p1.") and "cpu" in band]


def perfect_discriminators(x):
    """±200 by the nearer line, and 0 where the lines coincide."""
    phi = mistakes.PHI[:, None]
    return 200 * ((x[..., 0] - phi).abs() - x[..., 0].abs()).sign()


def optimal_critics(x):
    slope = dv.line_penalty_optimum(mistakes.PHI, mistakes.LAM).slope[:, None]
    return -slope * x[..., 0]


@pytest.fixture(scope="module")
def read():
    """id → a function of the module that gives its number at the optimum."""
    table = optimal_penalised_critic(mistakes.LAM)
    fine = d.optimal_logit(
        d.distribution4_log_density, d.normal_log_density, torch.linspace(-9, 9, 36_001, dtype=torch.float64)
    )
    logit = d.optimal_logit(d.distribution4_log_density, d.normal_log_density, mistakes.X)

    def at_the_optimum(x):  # the nearest of a fine table: inverting f for millions of samples takes long
        return fine[((x[..., 0].double() + 9) * 2000).round().long().clamp(0, 36_000)]

    return {
        "p1.jsd.max_abs_error": lambda m: mistakes.read_jsd(m, perfect_discriminators, 0, n=1000),
        "p1.wasserstein.max_abs_error": lambda m: mistakes.read_w1(m, optimal_critics, 0, n=200_000),
        "p1.density.l1": lambda m: mistakes.read_density(m, logit),
        "p1.density.mass": lambda m: mistakes.read_density(m, logit),
        "p1.jsd.f1_f0": lambda m: mistakes.read_f1_f0_jsd(m, at_the_optimum, 0, n=2_000_000),
        "p1.wasserstein.f1_f0": lambda m: mistakes.read_f1_f0_w1(m, table, 0, n=1_000_000),
    }


def test_every_judged_number_has_its_mistakes(read):
    assert sorted(read) == sorted(mistakes.FORMULAS) == sorted(IDS)


@pytest.mark.parametrize("id", IDS)
def test_the_optimum_lies_inside(id, read):
    value = read[id](dv)[id]
    assert mistakes.inside(id, value), value


@pytest.mark.filterwarnings("ignore:.*No distance can be read")
@pytest.mark.parametrize(("id", "name"), [(id, name) for id, found in mistakes.FORMULAS.items() for name in found])
def test_a_mistake_of_a_formula_lies_outside(id, name, read):
    value = read[id](mistakes.mutant(mistakes.FORMULAS[id][name]))[id]
    assert not mistakes.inside(id, value), value


def short_density():
    net = mistakes.train_density(0, steps=100, batch_size=512)
    return mistakes.read_density(dv, dv.logits_on_line(net, mistakes.X))


TRAININGS = {
    "discriminators, 20 steps": lambda: mistakes.read_jsd(dv, mistakes.train_jsd(0, steps=20), 0),
    "critics, 50 steps": lambda: mistakes.read_w1(dv, mistakes.train_w1(0, steps=50), 0, n=20_000),
    "critics, one norm for the whole batch": lambda: mistakes.read_w1(
        dv, mistakes.train_w1(0, mistakes.NORM_OF_THE_BATCH, steps=100), 0, n=20_000
    ),
    "density, 100 steps": lambda: {"p1.density.l1": short_density()["p1.density.l1"]},  # its mass may pass
    "f1 against f0, the penalty at full weight from the start": lambda: mistakes.read_f1_f0_w1(
        dv, mistakes.train_f1_f0(0, steps=200, ramp=0.0), 0, n=100_000
    ),
}


@pytest.mark.filterwarnings("ignore:.*No distance can be read")
@pytest.mark.parametrize("name", TRAININGS)
def test_a_mistake_of_training_lies_outside(name):
    found = TRAININGS[name]()
    assert not any(mistakes.inside(id, value) for id, value in found.items()), found
