"""`labutils doctor`: what is installed, which device and data there are, what is missing and how to get it."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil

import torch

from .. import __version__, data, keynumbers, parameters


def lines() -> list[tuple[bool, str, str]]:
    """(good, subject, finding) for each check; a finding that is not good says what to do."""
    found = [(True, "python", f"{platform.python_version()} on {platform.system()}")]
    for name, number in keynumbers.versions().items():
        if name not in ("python", "labutils"):
            found.append((number != "missing", name, number if number != "missing" else f"pip install {name}"))
    for name, why in (("jupyterlab", "for make jupyter"), ("nbval", "for make test")):
        if importlib.util.find_spec(name) is None:
            extra = "jupyter" if name == "jupyterlab" else "test"
            found.append((False, name, f'not installed, needed {why}: pip install -e ".[{extra}]"'))
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "none, everything runs on the CPU"
    found.append((True, "CUDA device", gpu))
    cores, threads = os.cpu_count() or 1, torch.get_num_threads()
    advice = f"{threads} threads on {cores} cores"
    if threads > cores:
        advice += "; more threads than cores is far slower: set OMP_NUM_THREADS"
    found.append((threads <= cores, "threads", advice))
    found.append((True, "labutils", f"{__version__} in {data.ASSETS.parent}"))
    found.append(_notebooks())
    found.append(_embedded())
    folder = data.data_folder()
    found.append((True, "data folder", f"{folder} ({'exists' if folder.is_dir() else 'not made yet, none needed'})"))
    missing = [name for name in data.LAROCHELLE_SHA256 if not (folder / name).exists()]
    state = f"not there ({', '.join(missing)}): fetched when a notebook asks for it, 110 MB" if missing else "there"
    found.append((True, "larochelle", f"binarized-mnist-larochelle, optional: {state}"))
    free = shutil.disk_usage(".").free / 1e9
    found.append((free > 0.1, "free disk", f"{free:.1f} GB" + ("" if free > 0.1 else "; a run of the lab takes 20 MB")))
    return found


def _notebooks() -> tuple[bool, str, str]:
    try:
        return True, "notebooks", ", ".join(p.name for p in parameters.notebooks().values())
    except parameters.ParameterError as error:
        return False, "notebooks", str(error)


def _embedded() -> tuple[bool, str, str]:
    try:
        return True, "binarized-mnist", str(data.binarized_mnist())
    except data.DataError as error:
        return False, "binarized-mnist", str(error)
