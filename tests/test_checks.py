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


# --- whole answers ------------------------------------------------------------------------------------------

JSD = checks.exercises.EXERCISES["jsd"]
RIGHT = JSD.reference["jsd_of_logits"], JSD.reference["logit_of_optimum"]


def own(function):
    """The same function as another object: an answer, not the package's stand-in."""
    return lambda *arguments: function(*arguments)


def stub(*arguments):
    """As a student edition has it."""
    raise NotImplementedError("to be written")


def test_a_right_answer_is_one_line_and_comes_back(capsys):
    given = tuple(own(f) for f in RIGHT)
    assert checks.exercise("jsd", *given) == given
    assert checks.exercise("jsd", dict(zip(JSD.functions, given, strict=True))) == given
    assert capsys.readouterr().out == "PASS jsd\nPASS jsd\n"
    density = own(checks.exercises.EXERCISES["density"].reference["density_of"])
    assert checks.exercise("density", density) is density, "one function comes alone"


def test_a_wrong_answer_stops_with_every_part_and_the_hint(capsys):
    doubled = lambda p, q: math.log(2) + 2 * (RIGHT[0](p, q) - math.log(2))  # noqa: E731
    with pytest.raises(AssertionError) as stopped:
        checks.exercise("jsd", doubled, lambda log_p, log_q, x: log_q(x) - log_p(x), seed=5)
    assert max(map(len, str(stopped.value).splitlines())) <= 96
    text = " ".join(str(stopped.value).split())
    assert text.startswith("jsd: 6 of 6 parts are wrong")
    assert all(part.title in text for part in JSD.parts)
    assert "½ left out. Each expectation" in text and "p and q exchanged. D is the probability" in text
    assert text.count("This looks like") == 2, "a hint is given once"
    assert (
        "expected" in text
        and "got" in text
        and 'checks.exercise("jsd", jsd_of_logits, logit_of_optimum, seed=5)' in text
    )
    assert capsys.readouterr().out == ""


def test_the_first_failure_does_not_hide_the_rest():
    with pytest.raises(AssertionError) as stopped:
        checks.exercise("jsd", lambda p, q: (p.mean(-1), 1 / 0), own(RIGHT[1]))
    text = " ".join(str(stopped.value).split())
    assert text.count("it raised ZeroDivisionError") == 1 and "right the logit of the best" in text
    assert isinstance(stopped.value.__cause__, ZeroDivisionError), "where it happened can be read"


def test_a_notebook_shows_the_text_and_the_answer_s_own_line():
    with pytest.raises(checks.WrongAnswer) as stopped:
        checks.exercise("jsd", lambda p, q: p + [1, 2][3], own(RIGHT[1]))
    shown = "\n".join(stopped.value._render_traceback_())
    assert shown.startswith("jsd: 4 of 6 parts are wrong") and "[1, 2][3]" in shown
    assert "marking.py" not in shown and "checks.py" not in shown.replace("test_checks.py", "")


def test_where_no_line_of_the_answer_raised_nothing_is_announced():
    """The penalty's gradient is asked for by the check: no frame is the reader's."""
    with pytest.raises(checks.WrongAnswer) as stopped:
        checks.exercise("jsd", lambda p, q: RIGHT[0](p, q).detach(), own(RIGHT[1]))
    shown = "\n".join(stopped.value._render_traceback_())
    assert "jsd: 1 of 6 parts is wrong" in shown and "The answer raised here" not in shown
    assert "This looks like: the gradient cut." in shown
    assert checks._cell("/tmp/ipykernel_1234/99.py") == "your cell" and checks._cell("mine.py") == "mine.py"


def test_an_answer_that_returns_nothing_hears_so():
    with pytest.raises(AssertionError, match=r"None came back: is `return` missing\?"):
        checks.exercise("jsd", lambda p, q: None, own(RIGHT[1]))
    with pytest.raises(AssertionError) as stopped:
        checks.exercise("penalised_gap", lambda *given: None)
    assert str(stopped.value).count("All the same way: it raised TypeError: None came back") == 1
    assert str(stopped.value).count("None came back") == 1, "said once for all parts"
    with pytest.raises(AssertionError, match=r"3 values must come back, objective, gap, penalty; got 2\s+values"):
        checks.exercise("penalised_gap", lambda *given: (1.0, 2.0))


def test_the_inputs_are_others_each_time_and_leave_the_reader_s_random_state_alone():
    seen = []
    watch = lambda p, q: seen.append(p) or RIGHT[0](p, q)  # noqa: E731
    for _ in range(2):
        checks.exercise("jsd", watch, own(RIGHT[1]))
    checks.exercise("jsd", watch, own(RIGHT[1]), seed=7)
    checks.exercise("jsd", watch, own(RIGHT[1]), seed=7)
    first, second, third, fourth = (seen[4 * k] for k in range(4))
    assert first.dtype == torch.float64 and not torch.equal(first, second) and torch.equal(third, fourth)


def test_what_is_not_answered_is_stood_in_for_and_said(capsys):
    for given in ((stub, stub), RIGHT, ({},)):
        assert checks.exercise("jsd", *given) == RIGHT
    line = "not answered yet: jsd_of_logits, logit_of_optimum (jsd); until then the package's own functions stand in\n"
    assert capsys.readouterr().out == 3 * line, "the stand-in of an earlier call is no answer"


def test_a_half_answer_is_judged_and_the_rest_stood_in_for(capsys):
    mine = own(RIGHT[1])
    assert checks.exercise("jsd", stub, mine) == (RIGHT[0], mine)
    said = capsys.readouterr().out.splitlines()
    assert said[0] == "jsd: 2 of 6 parts right" and said[1].startswith("not answered yet: jsd_of_logits (jsd)")
    with pytest.raises(AssertionError, match="2 of 6 parts are wrong"):
        checks.exercise("jsd", stub, lambda log_p, log_q, x: 0 * x)


def test_bad_calls_say_what_to_do():
    with pytest.raises(ValueError, match="there is no exercise 'jds'; choose one of jsd, penalised_gap"):
        checks.exercise("jds", stub)
    with pytest.raises(ValueError, match="jsd has 2 functions, jsd_of_logits, logit_of_optimum; got 1"):
        checks.exercise("jsd", stub)
