"""Reference models: small trained weights that travel with the package, and where they come from.

`assets/manifest.json` has for each file its SHA-256 and how it was made (recipe, seed, data, hardware, time).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from .training import write_whole

ASSETS = Path(__file__).with_name("assets")


class ReferenceModelError(RuntimeError):
    """A reference file is missing, damaged or does not fit; the message says which."""


def manifest(folder: Path = ASSETS) -> dict[str, Any]:
    """What is said of each file, by name; empty without a manifest. ReferenceModelError when it is damaged."""
    file = folder / "manifest.json"
    return _read_json(file) if file.exists() else {}


def _read_json(file: Path) -> Any:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ReferenceModelError(f"{file} is damaged ({error}); reinstall the package") from error


def load(name: str, module: nn.Module, folder: Path = ASSETS) -> dict[str, Any]:
    """Put the weights called `name` into `module`, in evaluation mode; returns what the manifest says of them."""
    module.load_state_dict(load_tensors(name, folder))
    module.eval()
    return manifest(folder)[name]


def load_tensors(name: str, folder: Path = ASSETS) -> dict[str, Tensor]:
    """The tensors called `name`. Raises ReferenceModelError when their file is missing or damaged."""
    about = manifest(folder).get(name)
    file = folder / f"{name}.safetensors"
    if about is None or not file.exists():
        raise ReferenceModelError(f"there is no reference model {name!r} in {folder}; reinstall the package")
    found = hashlib.sha256(file.read_bytes()).hexdigest()
    if found != about["sha256"]:
        raise ReferenceModelError(
            f"{file} is damaged: sha256 {found[:12]}…, expected {about['sha256'][:12]}…; reinstall the package"
        )
    return load_file(file)


def save(name: str, what: nn.Module | Mapping[str, Tensor], about: Mapping[str, Any], folder: Path = ASSETS) -> None:
    """Write the weights of a module, or tensors by name, and their entry in the manifest."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{name}.safetensors"
    tensors = what.state_dict() if isinstance(what, nn.Module) else what
    save_file({key: value.contiguous().cpu() for key, value in tensors.items()}, file)
    entry = dict(about) | {"sha256": hashlib.sha256(file.read_bytes()).hexdigest()}
    entries = dict(sorted((manifest(folder) | {name: entry}).items()))
    write_whole(folder / "manifest.json", json.dumps(entries, indent=1) + "\n")


def table(name: str, folder: Path = ASSETS) -> list[dict[str, Any]]:
    """The rows of a shipped table, `name.json`; ReferenceModelError when it is missing or damaged."""
    file = folder / f"{name}.json"
    if not file.exists():
        raise ReferenceModelError(f"there is no table {name!r} in {folder}; reinstall the package")
    return _read_json(file)
