"""What each number of problem 3 becomes under each known mistake, beside its band.

    python tests/mistakes_problem3.py [--profile cpu] [--seed 0] [--out FOLDER] [MISTAKE …]

The notebook's own cells, those that its key numbers rest on, are executed once as they are and once under each mistake,
a function of the package replaced. The trained models are kept in FOLDER: only a mistake in a training trains again,
and a second call not even that. Exit status 1 where a mistake leaves every judged number inside its band, or where the
right way leaves one outside. Half an hour on two cores.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import math
import os
import shutil
import symtable
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

os.environ.setdefault("MPLBACKEND", "agg")

import nbformat
import numpy as np
import torch

from labutils import data, distortions, features, fid, gan, keynumbers, latent, networks, parameters, training, vae

NOTEBOOK = parameters.notebooks_folder() / "problem3_gan_vs_vae.ipynb"

# --- the mistakes -----------------------------------------------------------------------------------------


def not_trained(step, total, **rest):
    with patch("torch.optim.Adam.step", lambda self, closure=None: None):
        return training.fit(step, 1, **rest)


def not_loaded(name):
    return vae.initialise(networks.Generator, 0).eval()


def pixel_noise(decode, z, batch_size=250):
    draws = training.generator(0, "pixel noise", int(1e6 * z.double().square().sum()))
    return torch.randint(0, 256, (len(z), 3, 32, 32), generator=draws, dtype=torch.uint8)


def logvar_as_deviation(mean, logvar, noise):
    return mean + logvar * noise


def sign_flipped(critic, fake):
    return critic(fake).float().mean()


def train_with(train, losses):
    """A training of the GAN that takes other losses than the notebook's own; None takes the package's."""
    return lambda *arguments, **more: train(*arguments, **more | {"losses": losses})


def norm_of_each_pixel(critic, x):
    x = x.detach().requires_grad_(True)
    (gradient,) = torch.autograd.grad(critic(x).sum(), x, create_graph=True)
    return (gradient.square().sum(dim=1) + 1e-12).sqrt()


def stretched(decode, z, batch_size=250, images=latent.images):
    return distortions.min_max(images(decode, z, batch_size))


def root_of_entries(p, q):
    return np.trace(p) + np.trace(q) - 2 * np.sqrt((p @ q).diagonal().clip(min=0)).sum()


@torch.no_grad()
def with_dropout(network, images, batch_size=500):
    network.train()
    with training.forked_rng(0, "dropout"):
        rows = [network.features(data.from_bytes(x)).cpu() for x in images.split(batch_size)]
    network.eval()
    return torch.cat(rows)


class Quarter(fid.RealSet):
    def __init__(self, rows, *arguments, **more):
        super().__init__(rows[: len(rows) // 4], *arguments, **more)


def mean_over_features(p, q):
    return ((p.mean - q.mean) ** 2).mean() + fid._covariance_distance(p.cov, q.cov)


def training_features(split, real=features.real):
    rows, labels = real(split)
    return tuple(part[: len(rows)] for part in real("train")) if split == "test" else (rows, labels)


def training_images(name, folder="", load=data.load):
    found = load(name, folder)
    n = len(found.test)
    return replace(found, test=data.Split(found.train.images[:n], found.train.labels[:n]))


# Mistake → (what is replaced by what, the models it trains anew).
MISTAKES = {
    "networks never trained": (
        {"gan.fit": not_trained, "vae.fit": not_trained, "latent.reference_generator": not_loaded},
        ("gan", "vae"),
    ),
    "uniform pixel noise": ({"latent.images": pixel_noise}, ()),
    "log-variance as deviation": ({"vae.reparametrise": logvar_as_deviation}, ("vae",)),
    "generator's sign flipped": (
        {"gan.generator_loss": sign_flipped, "gan.train": train_with(gan.train, None)},
        ("gan",),
    ),
    "penalty not flattened": (
        {"gan.gradient_norm": norm_of_each_pixel, "gan.train": train_with(gan.train, None)},
        ("gan",),
    ),
    "samples stretched": ({"latent.images": stretched}, ()),
    "root entry by entry": ({"fid._covariance_distance": root_of_entries, "fid._not_negative": float}, ()),
    "classifier in train mode": ({"features.extract": with_dropout}, ()),
    "a quarter of the test images": ({"fid.RealSet": Quarter}, ()),
    "mean term over 512": ({"fid._moments_distance": mean_over_features}, ()),
    "training images as test set": ({"features.real": training_features, "data.load": training_images}, ()),
}

# --- the notebook's cells ---------------------------------------------------------------------------------


def names(source: str) -> tuple[set[str], set[str], set[str]]:
    """(what a cell needs from before, what it sets, the containers it fills), by name."""
    needs: set[str] = set()
    sets: set[str] = set()
    for statement in ast.parse(source).body:
        table = symtable.symtable(ast.unparse(statement), "cell", "exec")
        uses = {s.get_name() for s in table.get_symbols() if s.is_referenced()}
        here = {s.get_name() for s in table.get_symbols() if s.is_assigned() or s.is_imported() or s.is_namespace()}
        inner = list(table.get_children())
        while inner:
            scope = inner.pop()
            inner += scope.get_children()
            uses |= {s.get_name() for s in scope.get_symbols() if s.is_global()}
        # `f = checked(f)` needs the f from before; a loop does not need the variable that it sets
        needs |= uses - sets - (set() if isinstance(statement, (ast.Assign, ast.AugAssign)) else here)
        sets |= here
    filled = {
        node.value.id
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Store) and isinstance(node.value, ast.Name)
    }
    return needs, sets, filled


def needed(sources: list[str]) -> list[str]:
    """The cells that the last of `sources` rests on, and it."""
    wanted, kept = names(sources[-1])[0], [sources[-1]]
    for source in sources[-2::-1]:
        uses, sets, filled = names(source)
        if (sets | filled) & wanted:
            wanted = (wanted - sets) | uses
            kept.insert(0, source)
    return kept


def key_numbers(profile: str, seed: int, out: Path) -> dict[str, float]:
    """id → value, from the notebook's own cells with the values of a profile."""
    cells = [c for c in nbformat.read(NOTEBOOK, as_version=4).cells if c.cell_type == "code"]
    last = max(i for i, cell in enumerate(cells) if "run.record(" in cell.source)
    scope = {}
    for source in needed([cell.source for cell in cells[: last + 1]]):
        exec(compile(source, "notebook", "exec"), scope)
        if source == next(c.source for c in cells if "parameters" in c.metadata.get("tags", [])):
            scope |= parameters.profile_values(profile, NOTEBOOK) | {"seed": seed, "out_dir": str(out)}
    return {id: number.value for id, number in scope["run"].numbers.items()}


def under(mistake: str, profile: str, seed: int, out: Path) -> dict[str, float] | str:
    """The key numbers under a mistake, "" for none; or the error that it ends in, which nobody overlooks."""
    replaced, trained = MISTAKES.get(mistake, ({}, ()))
    folder = out / (mistake.replace(" ", "-") or "right")
    for file in (out / "right" / "checkpoints").glob("*.pt"):
        target = folder / "checkpoints" / file.name
        if not target.exists() and not any(f"-{model}" in file.stem for model in trained):
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, target)
    with contextlib.ExitStack() as stack:
        stack.enter_context(patch("labutils.keynumbers.Run.show", lambda *arguments: None))
        stack.enter_context(contextlib.redirect_stdout(None))
        for name, function in replaced.items():
            stack.enter_context(patch(f"labutils.{name}", function))
        try:
            return key_numbers(profile, seed, folder)
        except Exception as error:
            if not mistake:
                raise
            return f"{type(error).__name__}: {error}"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("mistakes", nargs="*", metavar="MISTAKE", help=f"all, or of: {', '.join(MISTAKES)}")
    parser.add_argument("--profile", default="cpu", choices=parameters.PROFILES)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="where trained models are kept; a temporary folder when not given")
    given = parser.parse_args(arguments)
    if unknown := [name for name in given.mistakes if name not in MISTAKES]:
        parser.error(f"{unknown[0]!r} is none of: {', '.join(MISTAKES)}")
    out = given.out or Path(tempfile.mkdtemp(prefix="mistakes-"))
    bands, failed = keynumbers.bands(), False
    right = under("", given.profile, given.seed, out)
    for mistake in ["", *(given.mistakes or MISTAKES)]:
        values = under(mistake, given.profile, given.seed, out) if mistake else right
        print(f"\n{mistake or 'as it is'}", flush=True)
        if isinstance(values, str):
            print(f"  stops: {values}")
            continue
        outside = 0
        for id, value in values.items():
            band = bands[id].get(given.profile, {})
            low, high = band.get("low", -math.inf), band.get("high", math.inf)
            out_of_it = not low <= value <= high
            outside += out_of_it
            print(f"  {id:30} {value:12.4g} {'OUTSIDE' if out_of_it else '':8} {low:g} to {high:g}")
        print(f"  {outside} of {len(values)} outside", flush=True)
        failed |= bool(outside) != bool(mistake)
    if not given.out:
        shutil.rmtree(out)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
