"""Errors of what is computed from estimates."""

from __future__ import annotations

import numpy as np
import pytest

from labutils.estimates import Estimate, ratio


@pytest.mark.parametrize(("a", "b"), [((6.0, 0.2), (2.0, 0.05)), ((-3.0, 0.1), (4.0, 0.3)), ((0.0, 0.1), (5.0, 0.2))])
def test_the_error_of_a_ratio_is_that_of_repeated_draws(a, b):
    draws = np.random.default_rng(0)
    many = draws.normal(*a, 400_000) / draws.normal(*b, 400_000)
    found = ratio(Estimate(*a, 70), Estimate(*b, 9))
    assert found.value == pytest.approx(a[0] / b[0]) and found.n == 70
    assert found.stderr == pytest.approx(many.std(), rel=0.02), "first order, so the denominator's error is small"


def test_a_ratio_to_zero_is_refused():
    with pytest.raises(ValueError, match=r"ratio to 0\.00 ± 0\.10 \(n = 3\)"):
        ratio(Estimate(1.0, 0.1, 3), Estimate(0.0, 0.1, 3))
