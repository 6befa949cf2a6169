"""The parameters cell as a contract, and errors that name name, value and what is allowed."""

from __future__ import annotations

import papermill
import pytest

from labutils import parameters
from labutils.parameters import ParameterError

EXTRA = """epochs: int = 8  # passes over the training set [1 to 500]
rate: float = 3e-4  # learning rate [1e-6 to 0.1]
fast: bool = False  # skip the slow part
"""


@pytest.fixture
def known(toy_notebook):
    return parameters.contract(toy_notebook(parameters=EXTRA))


def test_the_contract_is_read_from_the_cell(known):
    assert list(known) == ["profile", "seed", "device", "data_dir", "out_dir", "epochs", "rate", "fast"]
    epochs = known["epochs"]
    assert (epochs.type, epochs.default, epochs.low, epochs.high) == ("int", 8, 1, 500)
    assert epochs.help == "passes over the training set"
    assert known["device"].choices == ("auto", "cpu", "cuda")


def test_it_agrees_with_papermills_own_reading(toy_notebook, known):
    theirs = papermill.inspect_notebook(str(toy_notebook(parameters=EXTRA)))
    assert list(theirs) == list(known)
    for name, parameter in known.items():
        assert theirs[name]["inferred_type_name"] == parameter.type
        assert theirs[name]["help"].startswith(parameter.help)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("epochs", "8", r"parameter epochs is '8' \(str\); expected an int from 1 to 500: passes over"),
        ("epochs", True, r"parameter epochs is True \(bool\)"),
        ("epochs", 0, r"parameter epochs is 0 \(int\); expected an int from 1 to 500"),
        ("epochs", 2.5, r"parameter epochs is 2.5 \(float\)"),
        ("rate", float("nan"), r"parameter rate is nan"),
        ("rate", "1e-4", r"parameter rate is '1e-4' \(str\); expected a float from 1e-06 to 0.1"),
        ("fast", "false", r"parameter fast is 'false' \(str\); expected a bool"),
        ("device", "gpu", r"parameter device is 'gpu' \(str\); expected one of auto, cpu, cuda"),
        ("seed", -1, r"parameter seed is -1"),
    ],
)
def test_wrong_values_are_named(known, name, value, message):
    with pytest.raises(ParameterError, match=message):
        known[name].check(value)


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("epochs", "12", 12),
        ("rate", "1e-4", 1e-4),
        ("rate", "0.1", 0.1),
        ("fast", "TRUE", True),
        ("fast", "false", False),
    ],
)
def test_texts_of_the_command_line(known, name, text, value):
    assert known[name].parse(text) == value and type(known[name].parse(text)) is type(value)


@pytest.mark.parametrize(("name", "text"), [("epochs", "ten"), ("epochs", "1.5"), ("fast", "yes"), ("rate", "high")])
def test_wrong_texts_are_named(known, name, text):
    with pytest.raises(ParameterError, match=f"parameter {name} is '{text}'; expected"):
        known[name].parse(text)


def test_an_unknown_name_suggests_the_nearest(known):
    with pytest.raises(ParameterError, match=r"no parameter is called 'epoch'; did you mean epochs\?"):
        parameters.check_all(known, {"epoch": 3}, where="here")
    with pytest.raises(ParameterError, match="known: profile, seed"):
        parameters.check_all(known, {"zzz": 3}, where="here")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("epochs = 8  # no type\n", "is not `name: type = value  # help`"),
        ("epochs: int = 8\n", "is not `name: type = value  # help`"),
        ("epochs: list = [8]  # a list\n", "type of epochs is list"),
        ("epochs: int = 8  # passes, K = 200 [1 to 20]\n", "has a second '='; papermill cannot read it"),
        ("epochs: int = 8  # outside its own range [10 to 20]\n", "parameter epochs is 8"),
    ],
)
def test_a_sloppy_cell_is_no_contract(toy_notebook, line, message):
    with pytest.raises(ParameterError, match=message):
        parameters.contract(toy_notebook(parameters=line))


def test_unknown_profile(toy_notebook):
    with pytest.raises(ParameterError, match="profile is 'fast'; expected one of smoke, cpu, gpu"):
        parameters.profile_values("fast", toy_notebook())


def test_copies_are_never_taken_for_the_notebook(tmp_path):
    def there(*names):
        for path in tmp_path.iterdir():
            path.unlink()
        for name in names:
            (tmp_path / name).touch()
        return {n: path.name for n, path in parameters.notebooks(tmp_path).items()}

    copies = ["problem1_divergences-Copy1.ipynb", "problem1_divergences_backup.ipynb", "problem1_a.ipynb"]
    assert there("problem1_divergences.ipynb", *copies, "problem4_new.ipynb", ".~problem4_new.ipynb") == {
        1: "problem1_divergences.ipynb", 4: "problem4_new.ipynb",
    }  # fmt: skip
    assert sorted(copy.name for copy, notebook in parameters.copies(tmp_path)) == sorted(copies)
    assert {notebook.name for _, notebook in parameters.copies(tmp_path)} == {"problem1_divergences.ipynb"}
    assert there("problem1_mine.ipynb") == {1: "problem1_mine.ipynb"}, "one notebook is no riddle"
    with pytest.raises(ParameterError, match=r"problem4_a\.ipynb and problem4_b\.ipynb, and problem 4 is one notebook"):
        there("problem4_a.ipynb", "problem4_b.ipynb", "problem1_divergences.ipynb")
