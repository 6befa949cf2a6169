"""The copy of `labutils` that answers import while they are graded: the functions asked for raise in place of their
work, and the exercises with their truths are not in it."""

from __future__ import annotations

import ast
import shutil
from pathlib import Path

from .. import training

# By module, what an exercise asks for, and what gives it away with one call.
WITHHELD = {
    "divergences": (
        "jsd_objective", "wasserstein_gap", "interpolate", "gradient_norm", "gradient_penalty",
        "wasserstein_objective", "density_ratio", "density_from_discriminator",
    ),
    "distributions": ("optimal_logit", "optimal_discriminator", "wasserstein", "kl_divergence", "jensen_shannon"),
    "vae": (
        "bernoulli_log_likelihood", "gaussian_log_likelihood", "gaussian_kl", "reparametrise", "elbo", "path_elbo",
        "log_normal", "log_weights", "log_likelihood", "weight_blocks", "active_units", "calibrated_log_likelihood",
    ),
    "gan": ("interpolates", "gradient_penalty", "critic_loss", "generator_loss"),
    "fid": (
        "moments", "calculate_fid_score", "frechet_distance", "covariance_root", "manifold_scores", "kid",
        "_covariance_distance", "_root_distance", "_moments_distance", "_manifold_scores", "_inside", "_kid",
    ),
    "latent": ("spherical", "effects", "entropy"),
}  # fmt: skip


def build(folder: Path) -> Path:
    """Write the copy into `folder`/labutils, a new folder; returns `folder`, which goes on the path of answers."""
    source, target = Path(training.__file__).parent, folder / "labutils"
    target.mkdir(parents=True)
    for path in sorted(source.glob("*.py")):
        text = path.read_text(encoding="utf-8")
        if path.stem == "exercises":
            text = '"""Not here while answers are graded."""\n\nEXERCISES = {}\n'
        elif path.stem.startswith("exercises"):
            continue
        elif path.stem in WITHHELD:
            text = without_bodies(text, WITHHELD[path.stem])
        (target / path.name).write_text(text, encoding="utf-8")
    for path in source.glob("*.yaml"):
        shutil.copy(path, target)
    return folder


def without_bodies(text: str, names: tuple[str, ...]) -> str:
    """A module's text in which these functions keep signature and docstring only. Raises ValueError for one that is
    not there: the list is then older than the module."""
    tree = ast.parse(text)
    found = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}
    if absent := sorted(set(names) - found.keys()):
        raise ValueError(f"{absent[0]} is to be withheld from answers, but the module has no such function")
    for name in names:
        body = found[name].body
        docstring = body[:1] if isinstance(body[0], ast.Expr) and isinstance(body[0].value, ast.Constant) else []
        raised = ast.parse(f"raise NotImplementedError('{name} is withheld while answers are graded')").body
        found[name].body = docstring + raised
    return ast.unparse(tree) + "\n"
