"""Shared fixtures. Tests never write into the repository."""

from __future__ import annotations

from pathlib import Path

import nbformat
import pytest
import torch
from nbformat.v4 import new_code_cell, new_notebook

from labutils import data

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="session")
def mnist() -> data.DataSet:
    return data.binarized_mnist()


@pytest.fixture(autouse=True)
def global_rng_untouched():
    """No function of the package may move the caller's random state."""
    before = torch.get_rng_state()
    yield
    assert torch.equal(before, torch.get_rng_state()), "torch's global generator was used"


@pytest.fixture
def no_home(monkeypatch):
    """An account as containers have them: a number without a name and without a folder."""
    pwd = pytest.importorskip("pwd")

    def nobody(_):
        raise KeyError("uid not found")

    monkeypatch.setattr(pwd, "getpwuid", nobody)
    for name in ("HOME", "XDG_CACHE_HOME", "LABUTILS_DATA"):
        monkeypatch.delenv(name, raising=False)


COMMON = """profile: str = "cpu"  # which bands judge the numbers [smoke, cpu, gpu]
seed: int = 0  # every draw derives from it [0 to 1000000]
device: str = "cpu"  # where to compute [auto, cpu, cuda]
data_dir: str = ""  # folder of data files
out_dir: str = ""  # folder of results
"""


@pytest.fixture
def toy_notebook(tmp_path):
    """A function that writes a small notebook with the common parameters and returns its path."""

    def make(*cells: str, parameters: str = "", name: str = "problem2_toy") -> Path:
        folder = tmp_path / "notebooks"
        folder.mkdir(exist_ok=True)
        first = new_code_cell(COMMON + parameters, metadata={"tags": ["parameters"]})
        notebook = new_notebook(cells=[first, *map(new_code_cell, cells)])
        notebook.metadata["kernelspec"] = {"display_name": "Python 3", "language": "python", "name": "python3"}
        nbformat.write(notebook, folder / f"{name}.ipynb")
        return folder / f"{name}.ipynb"

    return make
