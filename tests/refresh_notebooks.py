"""Execute notebooks in place, so that their stored outputs belong to their code (`make notebooks`).

    python tests/refresh_notebooks.py [FILE …]

Each is run with the values in its parameters cell, the cpu profile. What would differ from machine to machine
without meaning anything (timings, the patch version of Python) is removed; execution counts stay, because
nbval passes a checked cell without a count in silence.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient

from labutils import parameters
from labutils.commands.run import code_hash, this_python

NOTEBOOKS = Path(__file__).parent.parent / "notebooks"


def refresh(path: Path) -> None:
    started = time.monotonic()
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(
        notebook, timeout=None, kernel_name="python3", kernel_manager_class=this_python(),
        resources={"metadata": {"path": path.parent}},
    ).execute()  # fmt: skip
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
        "labutils": {"outputs_of": code_hash(notebook)},
    }
    nbformat.validate(notebook)
    nbformat.write(notebook, path)
    print(f"{path.name}: executed in {time.monotonic() - started:.0f} s")


if __name__ == "__main__":
    os.environ["LABUTILS_LIVE"] = "0"  # whoever calls may like to watch; stored outputs do not
    for name in sys.argv[1:] or parameters.notebooks(NOTEBOOKS).values():
        refresh(Path(name))
