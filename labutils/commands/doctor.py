"""`labutils doctor`: what is installed, which device and data there are, what is missing and how to get it.

Every check imports what it needs itself: a library that is missing or broken is a finding, not the end.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import platform
import re
import shutil
from importlib.metadata import PackageNotFoundError, distributions, requires, version
from pathlib import Path

from .. import __version__

LIBRARIES = ("torch", "torchvision", "numpy", "scipy", "matplotlib", "papermill")
EXTRAS = {"jupyterlab": ("jupyter", "make jupyter"), "nbval": ("test", "make test")}


class Finding(Exception):
    """What is not good, and what to do."""


def lines() -> list[tuple[bool, str, str]]:
    """(good, subject, finding) for each check; a finding that is not good says what to do. Raises nothing."""
    checks = {"python": lambda: f"{platform.python_version()} on {platform.system()}"}
    checks |= {name: lambda name=name: _library(name) for name in LIBRARIES}
    checks |= {name: lambda name=name: _version(name) for name in _missing_requirements()}
    checks |= {name: lambda name=name: _extra(name) for name in EXTRAS if importlib.util.find_spec(name) is None}
    checks |= {
        "CUDA device": _cuda, "threads": _threads, "labutils": lambda: f"{__version__} in {Path(__file__).parents[1]}",
        "notebooks": _notebooks, "reference models": _reference, "binarized-mnist": _embedded,
        "data folder": _data_folder, "larochelle": _larochelle, "svhn": _svhn, "free disk": _disk,
    }  # fmt: skip
    found = []
    for subject, check in checks.items():
        try:
            found.append((True, subject, check()))
        except Exception as error:  # whatever is broken, the next check is made
            found.append((False, subject, _told(error)))
    return found


def _told(error: Exception) -> str:
    """The lab's own errors say what to do; another's kind is part of what it says."""
    own = type(error).__module__.startswith("labutils")
    return " ".join((str(error) if own else f"{type(error).__name__}: {error}").split())


# --- what is installed ------------------------------------------------------------------------------------


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        raise Finding(f"not installed: pip install {name}") from None


def _missing_requirements() -> list[str]:
    """What the installed package asks for and is not there; empty in a clone that is not installed."""
    try:
        asked = [re.match(r"[\w.-]+", line)[0] for line in requires("deep-generative-lab") or () if ";" not in line]
    except PackageNotFoundError:
        return []
    there = {re.sub(r"[-_.]+", "-", d.name or "").lower() for d in distributions()}
    return [name for name in asked if name not in there and name not in LIBRARIES]


def _library(name: str) -> str:
    number = _version(name)
    try:
        importlib.import_module(name)
    except Exception as error:
        raise Finding(f"{number} cannot be imported ({_told(error)}): pip install --force-reinstall {name}") from error
    return number


def _extra(name: str) -> str:
    extra, command = EXTRAS[name]
    raise Finding(f'not installed, needed for {command}: pip install -e ".[{extra}]"')


# --- the machine ------------------------------------------------------------------------------------------


def _cuda() -> str:
    import torch

    return torch.cuda.get_device_name() if torch.cuda.is_available() else "none, everything runs on the CPU"


def _threads() -> str:
    import torch

    cores, threads = os.cpu_count() or 1, torch.get_num_threads()
    if threads > cores:
        raise Finding(f"{threads} threads on {cores} cores; more threads than cores is far slower: set OMP_NUM_THREADS")
    return f"{threads} threads on {cores} cores"


def _disk() -> str:
    free = shutil.disk_usage(".").free / 1e9
    if free < 0.1:
        raise Finding(f"{free:.1f} GB; a run of the lab takes 20 MB")
    return f"{free:.1f} GB"


# --- what the package carries -----------------------------------------------------------------------------


def _notebooks() -> str:
    from .. import parameters

    found = parameters.notebooks().values()
    for path in found:
        try:
            for profile in parameters.PROFILES:
                parameters.profile_values(profile, path)
        except parameters.ParameterError:
            raise
        except Exception as error:
            raise Finding(f"{path} or its profiles cannot be read ({_told(error)}); get the bundle anew") from error
    return ", ".join(path.name for path in found)


def _reference() -> str:
    from .. import reference

    try:
        names = sorted(reference.manifest(reference.ASSETS))
    except ValueError as error:
        raise Finding(f"{reference.ASSETS / 'manifest.json'} is damaged ({error}); reinstall the package") from error
    if not names:
        raise Finding(f"{reference.ASSETS / 'manifest.json'} is missing; reinstall the package")
    for name in names:
        reference.load_tensors(name, reference.ASSETS)
    return ", ".join(names)


def _embedded() -> str:
    from .. import data

    return str(data.binarized_mnist(data.EMBEDDED))


# --- data files -------------------------------------------------------------------------------------------


def _data_folder() -> str:
    from .. import data

    folder = data.data_folder()
    if not os.path.exists(folder):
        return f"{folder} (not made yet, none needed)"
    if not os.path.isdir(folder) or not os.access(folder, os.R_OK | os.X_OK):
        raise Finding(f"{folder} is no folder that can be read; set LABUTILS_DATA to one")
    return f"{folder} (exists)"


def _optional(name: str, files: tuple[str, ...], size: str) -> str:
    """Where all files are there they are read, so that a damaged one is found; nothing is fetched."""
    from .. import data

    try:
        folder = data.data_folder()
    except data.DataError:
        return f"{name}, optional: there is no data folder"
    if missing := [file for file in files if not os.path.exists(folder / file)]:
        return f"{name}, optional: not there ({', '.join(missing)}): fetched when a notebook asks for it, {size}"
    return str(data.load(name, folder))


def _larochelle() -> str:
    from .. import data

    return _optional("binarized-mnist-larochelle", tuple(data.LAROCHELLE_SHA256), "110 MB")


def _svhn() -> str:
    return _optional("svhn", ("train_32x32.mat", "test_32x32.mat"), "246 MB")
