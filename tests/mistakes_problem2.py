"""Commit the mistakes that problem 2's bands are there to catch, and print by how much each moves the numbers.

    python tests/mistakes_problem2.py evaluation [--checkpoint FILE] [--images 400]
    python tests/mistakes_problem2.py subset [--seeds 5]
    python tests/mistakes_problem2.py training [--images 10000] [--epochs 8] [--only NAME …]

An experiment of some minutes; the reasons in bands.yaml quote it. A mistake is one edit of the source of
labutils.vae, or another data set for the training. Mistakes of evaluation are made on the shipped model (or on a
run's checkpoint), each beside the right value on the same images and codes; models trained with a mistake are read
by the right formulas. test_likelihood.py commits those of evaluation again.
"""

from __future__ import annotations

import argparse
import inspect
import types

import torch

from labutils import data, estimates, networks, reference, training, vae

K = 200


def mutant(*edits: tuple[str, str]) -> types.ModuleType:
    """labutils.vae with each `old` in its source replaced by `new`."""
    source = inspect.getsource(vae)
    for old, new in edits:
        assert source.count(old) == 1, f"{old!r} is in the source {source.count(old)} times"
        source = source.replace(old, new)
    made = types.ModuleType("labutils.vae")
    made.__package__ = "labutils"
    exec(compile(source, "mutant", "exec"), made.__dict__)
    return made


BOUND = "noise)), x)\n    return Elbo(reconstruction - kl, reconstruction, kl)"
PATH = "model.decode(z), x)\n    return Elbo(reconstruction - kl, reconstruction, kl)"
WEIGHT = "return log_px_z + log_normal(z, 0.0, 0.0) - log_normal(z, mean[:, None], logvar[:, None])"
DRAW = "return mean + torch.exp(0.5 * logvar) * noise"
KL = "return 0.5 * (mean.square() + logvar.exp() - 1 - logvar)"
NORMAL = "torch.exp(-logvar) + logvar"
PIXELS = 'x, reduction="none").sum(dim=(-3, -2, -1))'
LOGITS = "with_logits(logits, x,"
LOG_SUM = "return w.logsumexp(dim=1), "


def bound(new: str) -> tuple[str, str]:
    return BOUND, BOUND.replace("Elbo(reconstruction - kl", f"Elbo({new}")


def kl_of(logvar: str) -> tuple[str, str]:
    return KL, f"logvar = {logvar}\n    {KL}"


def weight(new: str) -> tuple[str, str]:
    return WEIGHT, WEIGHT.replace("log_px_z + log_normal(z, 0.0, 0.0) -", new)


# What each does to the ELBO of images, and to their log p(x) at K = 200.
ELBO = {
    "the negative ELBO": [bound("kl - reconstruction")],
    "KL left out": [bound("reconstruction")],
    "KL twice (its ½ forgotten)": [bound("reconstruction - 2 * kl")],
    "sign of the KL": [bound("reconstruction + kl")],
    "mean over pixels": [(PIXELS, PIXELS.replace("sum", "mean"))],
    "log-variance for the log of the deviation, in the draw": [(DRAW, DRAW.replace("0.5 * logvar", "logvar"))],
    "log-variance for the log of the deviation, in the KL": [kl_of("2 * logvar")],
    "log-variance for the log of the deviation, in both": [
        (DRAW, DRAW.replace("0.5 * logvar", "logvar")),
        kl_of("2 * logvar"),
    ],
    "deviation for the variance, in the KL": [kl_of("0.5 * logvar")],
    "no noise: the mean decoded": [(DRAW, "return mean + 0 * noise")],
    "codes of the prior": [(DRAW, "return 0 * mean + noise")],
    "the sigmoid twice": [(LOGITS, LOGITS.replace("logits, x", "logits.sigmoid(), x"))],
    "bits for nats": [bound("(reconstruction - kl) / math.log(2)")],
}
LIKELIHOOD = {
    "the sign of log p(x|z)": [weight("-log_px_z + log_normal(z, 0.0, 0.0) -")],
    "the logarithm of −log p(x|z)": [weight("torch.log(-log_px_z) + log_normal(z, 0.0, 0.0) -")],
    "log-sum-exp over the pixels": [(PIXELS, 'x, reduction="none").mul(-1).flatten(-3).logsumexp(dim=-1).mul(-1)')],
    "mean over pixels": [(PIXELS, PIXELS.replace("sum", "mean"))],
    "prior left out": [weight("log_px_z -")],
    "q left out": [weight("log_px_z + log_normal(z, 0.0, 0.0) - 0 *")],
    "prior and q left out": [weight("log_px_z - 0 *")],
    "q multiplied": [weight("log_px_z + log_normal(z, 0.0, 0.0) +")],
    "no division by K": [("torch.stack([first - math.log(k), logs / k", "torch.stack([first, logs / k")],
    "the mean of log w, the ELBO": [("torch.stack([first - math.log(k), logs / k", "torch.stack([logs / k, logs / k")],
    "the negative of it": [("torch.stack([first - math.log(k), logs / k", "torch.stack([-logs / k, logs / k")],
    "mean(exp(w)) over the batch too": [
        (LOG_SUM, "return (w.flatten().logsumexp(0) - math.log(len(w))).expand(len(w)), ")
    ],
    "exp(w) in float32": [(LOG_SUM, "return w.float().exp().sum(dim=1).log().double(), ")],
    "deviation for the variance, in q": [(NORMAL, "torch.exp(-0.5 * logvar) + 0.5 * logvar")],
    "log-variance for the log of the deviation, in q": [(NORMAL, "torch.exp(-2 * logvar) + 2 * logvar")],
    "log-variance for the log of the deviation, in the draw": ELBO[
        "log-variance for the log of the deviation, in the draw"
    ],
    "the determinant without its ½": [(NORMAL, "torch.exp(-logvar) + 2 * logvar")],
}
# Of models that were trained so.
TRAINING = {
    "nothing": [],
    "KL left out": [(PATH, PATH.replace("Elbo(reconstruction - kl", "Elbo(reconstruction"))],
    "KL twice": [(PATH, PATH.replace("Elbo(reconstruction - kl", "Elbo(reconstruction - 2 * kl"))],
    "mean over pixels": [(PIXELS, PIXELS.replace("sum", "mean"))],
    "log-variance for the log of the deviation, in the draw": ELBO[
        "log-variance for the log of the deviation, in the draw"
    ],
    "no noise: the mean decoded": [(DRAW, "return mean + 0 * noise")],
    "noise of one draw for the whole batch": [
        (
            'torch.randn(len(x), model.latent, generator=generator(seed, "z"',
            'torch.randn(1, model.latent, generator=generator(seed, "z"',
        )
    ],
    "the sigmoid twice": [(LOGITS, LOGITS.replace("logits, x", "logits.sigmoid(), x"))],
    "half the epochs": [("total = epochs * batches.per_epoch", "total = epochs * batches.per_epoch // 2")],
    "validation images in the training set": [],
    "the validation images alone": [],
}


def shipped(checkpoint: str = "") -> torch.nn.Module:
    """The reference model, or the one a run left in a checkpoint."""
    model = networks.MnistVAE()
    reference.load("vae_mnist", model)
    if checkpoint:
        model.load_state_dict(training.load_checkpoint(checkpoint)["parts"]["model"])
    return model


def elbo_shift(name: str, model: torch.nn.Module, images: torch.Tensor) -> estimates.Estimate:
    """By how much the mistake moves the ELBO, on the same images and noise."""
    wrong = mutant(*ELBO[name]).evaluate_elbo(model, images).per_image
    return estimates.mean(wrong - vae.evaluate_elbo(model, images).per_image)


def likelihood_shift(name: str, model: torch.nn.Module, images: torch.Tensor, right: torch.Tensor) -> float:
    """By how much the mistake moves the mean log p(x), right: of each image. May be inf or nan."""
    # The mean of a set without `estimates.mean`, which refuses what is not finite.
    wrong = mutant(
        *LIKELIHOOD[name],
        ("LikelihoodEstimate(estimates.mean(log_p), log_p, bound", "LikelihoodEstimate(None, log_p, bound"),
    )
    return (wrong.evaluate_log_likelihood(model, images, K).per_image - right).mean().item()


def evaluation(checkpoint: str, images: int) -> None:
    model, some = shipped(checkpoint), data.random_subset(data.binarized_mnist().test, images).images
    for name in ELBO:
        print(f"ELBO    {name:60} {elbo_shift(name, model, some)}", flush=True)
    few = some[:60]
    right = vae.evaluate_log_likelihood(model, few, K).per_image
    for name in LIKELIHOOD:
        print(f"log p   {name:60} {likelihood_shift(name, model, few, right):.2f}", flush=True)
    for k in (20, 50, 100):
        found = vae.likelihood_curve(model, few, [k, K])
        print(f"log p   K = {k}: {estimates.mean(found[0].per_image - found[1].per_image)}", flush=True)


def subset(seeds: int) -> None:
    """The corrected log p of the shipped model, as the notebook draws it; and by other ways of taking a subset."""
    model, mnist = shipped(), data.binarized_mnist()
    for split in ("valid", "test"):
        images, labels = getattr(mnist, split).images, getattr(mnist, split).labels
        for seed in range(seeds):
            bound = vae.evaluate_elbo(model, images, seed=seed).per_image
            rows = torch.randperm(len(images), generator=training.generator(seed, "likelihood", split))[:100]
            found = vae.evaluate_log_likelihood(model, images[rows], K, rows=rows, seed=seed)
            right = vae.correct_to_all(bound, found)
            plain = bound.mean() + (found.per_image - found.elbo).mean()
            print(f"{split} seed {seed}: ELBO {bound.mean():.3f}; log p {right}; by the mean difference {plain:.2f}; "
                  f"not corrected {found.estimate}", flush=True)  # fmt: skip
        for name, rows in (("first rows", range(100)), ("sorted, first rows", labels.argsort(stable=True)[:100])):
            rows = torch.as_tensor(rows)
            found = vae.evaluate_log_likelihood(model, images[rows], K, rows=rows, seed=seed)
            print(f"{split} {name}: corrected {vae.correct_to_all(bound, found)}, not {found.estimate}", flush=True)


def trained(name: str, images: int, epochs: int, seed: int) -> None:
    mnist = data.binarized_mnist()
    train = mnist.train.images[:images]
    if "validation" in name:
        train = torch.cat([train, mnist.valid.images]) if "in the" in name else mnist.valid.images
    model, recipe = vae.initialise(networks.MnistVAE, seed), vae.RECIPES["tuned"]
    try:
        mutant(*TRAINING[name]).train(model, train, recipe, epochs=epochs, watch={}, seed=seed)
    except training.TrainingDiverged as error:
        print(f"trained with {name:58} {error}", flush=True)
        return
    found = {s: vae.evaluate_elbo(model, getattr(mnist, s).images, seed=seed) for s in ("valid", "test")}
    valid, test = (found[s].elbo.value for s in ("valid", "test"))
    kl = found["test"].kl.value
    print(
        f"trained with {name:58} valid {valid:8.2f}  test {test:8.2f}  minus {test - valid:5.2f}  KL {kl:.1f}",
        flush=True,
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=("evaluation", "subset", "training"))
    parser.add_argument("--checkpoint", default="")
    parser.add_argument("--images", type=int, help="default: 400, for the training 10000")
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--only", nargs="*", default=list(TRAINING))
    chosen = parser.parse_args()
    if chosen.part == "evaluation":
        evaluation(chosen.checkpoint, chosen.images or 400)
    elif chosen.part == "subset":
        subset(chosen.seeds)
    else:
        for name in chosen.only:
            trained(name, chosen.images or 10_000, chosen.epochs, seed=0)
