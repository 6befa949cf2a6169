"""The experiment on the bands of problem 3, in small: it runs the right cells, and a mistake changes a number."""

from __future__ import annotations

from functools import partial
from unittest.mock import patch

import mistakes_problem3 as experiment
import pytest

from labutils import data


def test_only_the_cells_that_the_last_one_rests_on_are_kept():
    cells = ["import math\nimport os", "a = 1", "b = {}", "rows = 2", "b['x'] = a", "def f(rows):\n    return rows + c"]
    last = "y = b['x'] + math.pi"
    assert experiment.needed([*cells, last]) == ["import math\nimport os", "a = 1", "b = {}", "b['x'] = a", last]
    assert experiment.needed(["c = 1", "rows = 0", cells[-1], "f(3)"]) == ["c = 1", cells[-1], "f(3)"]


@pytest.mark.slow
def test_mistakes_change_numbers(tmp_path):
    """At sizes at which the numbers mean nothing; the bands are tried by the script, at full size."""
    small = partial(data.street_digits, 600, 50, 200)
    with patch("labutils.data.street_digits", small):
        right = experiment.under("", "smoke", 0, tmp_path)
        assert "p3.ratio.gan" in right
        for mistake in ("uniform pixel noise", "root entry by entry", "generator's sign flipped"):
            found = experiment.under(mistake, "smoke", 0, tmp_path)
            assert isinstance(found, str) or (found.keys() == right.keys() and found != right), mistake
