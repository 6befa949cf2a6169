"""An oracle prints PASS or stops the notebook: nothing fails and goes on."""

import math

import pytest
import torch

from labutils import checks


def test_a_value_that_agrees_passes(capsys):
    checks.agree("sum", torch.tensor([1.0, 2000.0]), torch.tensor([1.00005, 2000.1]))
    checks.agree("tight", 1.0, 1.0, 0.0)
    assert capsys.readouterr().out == "PASS sum\nPASS tight\n"


@pytest.mark.parametrize(
    ("got", "expected", "message"),
    [
        (torch.tensor([1.0, 2.1]), torch.tensor([1.0, 2.0]), r"your value 2\.1, true value 2 \(entry 1 of 2"),
        (math.nan, 0.0, "your value nan"),
        (torch.zeros(3), torch.zeros(2), r"shape is \(3,\), expected \(2,\)"),
    ],
)
def test_a_value_that_does_not_agree_stops(got, expected, message, capsys):
    with pytest.raises(AssertionError, match=f"sum: .*{message}"):
        checks.agree("sum", got, expected)
    assert capsys.readouterr().out == ""


def test_a_condition_passes_or_stops(capsys):
    checks.holds("order", 1 < 2, "not a maximum")
    checks.holds("all", (torch.tensor([1.0, 2.0]) > 0).all(), "not positive")
    assert capsys.readouterr().out == "PASS order\nPASS all\n"
    for bad in (False, torch.tensor(math.nan) > 0, torch.tensor([0.0, 1.0]).all()):
        with pytest.raises(AssertionError, match=r"^order: not a maximum$"):
            checks.holds("order", bad, "not a maximum")
    assert capsys.readouterr().out == ""
