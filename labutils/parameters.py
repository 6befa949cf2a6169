"""The typed parameters of a notebook, as a contract.

A notebook's cell tagged `parameters` is the one place where names, types, defaults, help and allowed values
stand:

    epochs: int = 8  # passes over the training set [1 to 500]
    device: str = "auto"  # where to compute [auto, cpu, cuda]

The bracket that ends a comment gives a range or the choices; where it has no room it may follow in a comment line
of its own. The command line reads the cell before a kernel starts; a notebook checks its own values with the same
rules.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

COMMON = ("profile", "seed", "device", "data_dir", "out_dir")
PROFILES = ("smoke", "cpu", "gpu")
TYPES = {"int": int, "float": float, "str": str, "bool": bool}


class ParameterError(ValueError):
    """A parameter has a wrong name, type or value; the message names it, the value and what is allowed."""


@dataclass(frozen=True)
class Parameter:
    name: str
    type: str
    default: Any
    help: str
    low: float | None = None
    high: float | None = None
    choices: tuple[str, ...] = ()

    @property
    def allowed(self) -> str:
        if self.choices:
            return "one of " + ", ".join(self.choices)
        article = "an" if self.type == "int" else "a"
        number = f" from {self.low:g} to {self.high:g}" if self.low is not None else ""
        return f"{article} {self.type}{number}"

    def check(self, value: Any) -> Any:
        """`value` with its type (an int is taken where a float is asked); ParameterError otherwise."""
        expected = TYPES[self.type]
        if expected is float and type(value) is int:
            value = float(value)
        # bool is an int to Python, and the text 'false' is true: neither passes here.
        good = type(value) is expected and (not self.choices or value in self.choices)
        if good and self.low is not None:
            good = self.low <= value <= self.high
        if not good:
            raise ParameterError(
                f"parameter {self.name} is {value!r} ({type(value).__name__}); expected {self.allowed}: {self.help}"
            )
        return value

    def parse(self, text: str) -> Any:
        """The value that `-p name=text` means."""
        try:
            if self.type == "bool":
                return {"true": True, "false": False}[text.lower()]
            return self.check(TYPES[self.type](text))
        except ParameterError:
            raise
        except (ValueError, KeyError):
            allowed = "true or false" if self.type == "bool" else self.allowed
            raise ParameterError(f"parameter {self.name} is {text!r}; expected {allowed}: {self.help}") from None


def notebooks_folder() -> Path:
    """Where the notebooks are: beside the package in a clone, inside it after `pip install`."""
    package = Path(__file__).parent
    for folder in (package.parent / "notebooks", package / "notebooks"):
        if any(folder.glob("problem*_*.ipynb")):
            return folder
    raise ParameterError(f"no notebooks beside {package} or in it; work in a clone, or reinstall the package")


def notebooks(folder: Path | None = None) -> dict[int, Path]:
    """Problem number → its notebook, for the notebooks that are there.

    Beside a copy, Jupyter's or one's own, the notebook is the one that the profiles name. ParameterError naming
    all of a problem's when they name none of them, or several.
    """
    chosen = {}
    for number, found in _by_problem(folder or notebooks_folder()).items():
        known = [path for path in found if path.stem in written_profile("cpu")] if len(found) > 1 else found
        if len(known) != 1:
            names = " and ".join(path.name for path in found)
            raise ParameterError(
                f"{found[0].parent} holds {names}, and problem {number} is one notebook; move the others away, or "
                f"rename them: a name that does not begin with problem{number}_ is no problem's"
            )
        chosen[number] = known[0]
    return chosen


def copies(folder: Path | None = None) -> list[tuple[Path, Path]]:
    """(copy, notebook) for each notebook that is left out beside its problem's."""
    folder = folder or notebooks_folder()
    chosen = notebooks(folder)
    return [(path, chosen[n]) for n, found in _by_problem(folder).items() for path in found if path != chosen[n]]


def _by_problem(folder: Path) -> dict[int, list[Path]]:
    found: dict[int, list[Path]] = {}
    for path in sorted(folder.glob("problem[0-9]_*.ipynb")):
        found.setdefault(int(path.name[len("problem")]), []).append(path)
    return found


def written_profile(name: str) -> dict[str, dict[str, Any]]:
    """Notebook → the parameters that the profile gives it."""
    return yaml.safe_load(Path(__file__).with_name("profiles").joinpath(f"{name}.yaml").read_text(encoding="utf-8"))


def parameters_cell(notebook: Path) -> str:
    """Source of the one code cell tagged `parameters`."""
    cells = json.loads(Path(notebook).read_text(encoding="utf-8"))["cells"]
    tagged = [c for c in cells if c["cell_type"] == "code" and "parameters" in c["metadata"].get("tags", [])]
    if len(tagged) != 1:
        raise ParameterError(f"{notebook} has {len(tagged)} cells tagged 'parameters'; expected one")
    return "".join(tagged[0]["source"])


def contract(notebook: Path) -> dict[str, Parameter]:
    """Name → Parameter, in the cell's order. ParameterError when a line is no annotated, commented constant."""
    source = parameters_cell(notebook)
    lines = source.splitlines()
    found = {}
    for node in ast.parse(source).body:
        line, below = lines[node.lineno - 1], (*lines, "")[node.lineno]
        if below.startswith("# ["):
            line += below[1:]
        comment = re.search(r"\s#\s*(?P<help>[^#]*?)\s*(?:\[(?P<allowed>[^\]]*)\])?$", line)
        if not (isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and comment):
            raise ParameterError(f"{notebook}, parameters cell: {line!r} is not `name: type = value  # help`")
        if line.count("=") > 1:  # papermill would skip the line, and call the parameter unknown in every run
            raise ParameterError(f"{notebook}, parameters cell: {line!r} has a second '='; papermill cannot read it")
        name, kind = node.target.id, ast.unparse(node.annotation)
        if kind not in TYPES:
            raise ParameterError(f"{notebook}: type of {name} is {kind}; expected one of {', '.join(TYPES)}")
        parameter = Parameter(
            name,
            kind,
            ast.literal_eval(node.value),
            comment["help"],
            **_allowed(comment["allowed"] or "", kind),
        )
        parameter.check(parameter.default)
        found[name] = parameter
    missing = [name for name in COMMON if name not in found]
    if missing:
        raise ParameterError(f"{notebook}: parameters cell lacks {', '.join(missing)}")
    return found


def _allowed(text: str, kind: str) -> dict[str, Any]:
    if not text:
        return {}
    if kind in ("int", "float"):
        low, high = (float(part) for part in text.split(" to "))
        return {"low": low, "high": high}
    return {"choices": tuple(part.strip() for part in text.split(","))}


def profile_values(profile: str, notebook: Path) -> dict[str, Any]:
    """What `profile` sets in this notebook, checked against its contract; the rest keeps its default."""
    if profile not in PROFILES:
        raise ParameterError(f"profile is {profile!r}; expected one of {', '.join(PROFILES)}")
    values = written_profile(profile).get(Path(notebook).stem, {})
    return check_all(contract(notebook), {**values, "profile": profile}, where=f"{profile}.yaml, {notebook.stem}")


def check_all(known: Mapping[str, Parameter], values: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Every value checked; ParameterError for a name the notebook does not have, suggesting the nearest."""
    unknown = [name for name in values if name not in known]
    if unknown:
        raise ParameterError(f"{where}: {unknown_name(unknown[0], known)}")
    return {name: known[name].check(value) for name, value in values.items()}


def unknown_name(name: str, known: Mapping[str, Parameter]) -> str:
    import difflib

    near = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(known)}"
    return f"no parameter is called {name!r}; {hint}"
