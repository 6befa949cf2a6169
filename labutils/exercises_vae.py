"""The exercises of problem 2: the ELBO and its relatives, the likelihood by importance sampling."""

from __future__ import annotations

import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Bernoulli, Normal, kl_divergence
from torch.nn import functional as F

from .marking import Exercise, Functions, Inputs, Mistake, Part, gradient, member, normal, uniform

SHAPE = (1, 4, 5)  # of the small images that answers are asked about
LATENT = 3


def small_model(inputs: Inputs) -> SimpleNamespace:
    """Encoder and decoder made of the inputs `to_mean`, `to_logvar`, `to_logits`: what answers ask of a model."""
    to_mean, to_logvar, to_logits = (inputs[name] for name in ("to_mean", "to_logvar", "to_logits"))

    def encode(x: Tensor) -> tuple[Tensor, Tensor]:
        flat = x.flatten(1).to(to_mean)
        return flat @ to_mean, torch.tanh(flat @ to_logvar) - 1

    def decode(z: Tensor) -> Tensor:
        return (z.to(to_logits) @ to_logits).unflatten(-1, SHAPE)

    return SimpleNamespace(encode=encode, decode=decode, latent=LATENT)


def small_vae(draw: torch.Generator, images: int = 6, scale: float = 1.0) -> Inputs:
    """Weights of a `small_model` and binary images; scale: of the logits."""
    size = math.prod(SHAPE)
    return {
        "x": (uniform(draw, images, *SHAPE) < 0.4).double(),
        "to_mean": 0.5 * normal(draw, size, LATENT),
        "to_logvar": 0.5 * normal(draw, size, LATENT),
        "to_logits": scale * normal(draw, LATENT, size),
    }


def bits(logits: Tensor, x: Tensor) -> Tensor:
    return (x * logits - F.softplus(logits)).sum(dim=(-3, -2, -1))


def prior_kl(mean: Tensor, logvar: Tensor) -> Tensor:
    return 0.5 * (mean.square() + logvar.exp() - 1 - logvar).sum(dim=-1)


def _terms(inputs: Inputs, noise: Tensor) -> tuple[Tensor, Tensor]:
    """Reconstruction and KL of each image by torch.distributions."""
    model = small_model(inputs)
    mean, logvar = model.encode(inputs["x"])
    q = Normal(mean, torch.exp(logvar / 2))
    reconstruction = Bernoulli(logits=model.decode(mean + q.scale * noise)).log_prob(inputs["x"])
    return reconstruction.flatten(1).sum(dim=1), kl_divergence(q, Normal(0.0, 1.0)).sum(dim=1)


# --- the bound ----------------------------------------------------------------------------------------------


def _elbo(
    likelihood: Callable = bits,
    kl: Callable = prior_kl,
    draw: Callable = lambda mean, logvar, noise: mean + torch.exp(0.5 * logvar) * noise,
    join: Callable = lambda reconstruction, kl: reconstruction - kl,
) -> Functions:
    def elbo_of(model: Any, x: Tensor, noise: Tensor) -> Tensor:
        mean, logvar = model.encode(x)
        return join(likelihood(model.decode(draw(mean, logvar, noise)), x), kl(mean, logvar))

    return {"log_likelihood_of_pixels": likelihood, "kl_to_prior": kl, "elbo_of": elbo_of}


def _with_noise(g: torch.Generator) -> Inputs:
    return small_vae(g) | {"noise": normal(g, 6, LATENT)}


def _ask_pixels(functions: Functions, inputs: Inputs) -> Any:
    return functions["log_likelihood_of_pixels"](inputs["logits"], inputs["x"])


def _ask_kl(functions: Functions, inputs: Inputs) -> Any:
    return functions["kl_to_prior"](inputs["mean"], inputs["logvar"])


def _trainable(
    inputs: Inputs, value: Callable[[Inputs], Any], names: tuple[str, ...] = ("to_mean", "to_logvar", "to_logits")
) -> Tensor:
    """The gradient of a value in encoder and decoder."""
    weights = {name: inputs[name].clone().requires_grad_(True) for name in names}
    return gradient(value(inputs | weights), list(weights.values()))


def _ask_elbo(functions: Functions, inputs: Inputs) -> Any:
    return functions["elbo_of"](small_model(inputs), inputs["x"], inputs["noise"])


def _elbo_truth(inputs: Inputs) -> Tensor:
    return torch.sub(*_terms(inputs, inputs["noise"]))


CUT = (
    "The model is trained by the gradient of this number. detach(), numpy() and no_grad() cut it: the training would "
    "run and change nothing."
)

ELBO = Exercise(
    name="elbo",
    problem=2,
    points=6,
    functions=("log_likelihood_of_pixels", "kl_to_prior", "elbo_of"),
    parts=(
        Part(
            "log p(x|z) of any logits",
            lambda g: {"logits": 2 * normal(g, 7, *SHAPE), "x": (uniform(g, 7, *SHAPE) < 0.4).double()},
            _ask_pixels,
            lambda inputs: Bernoulli(logits=inputs["logits"]).log_prob(inputs["x"]).flatten(1).sum(dim=1),
        ),
        Part(
            "log p(x|z) of a decoder that is sure, and wrong about some pixels",
            lambda g: {"logits": 900 * normal(g, 4, *SHAPE).sign(), "x": (uniform(g, 4, *SHAPE) < 0.5).double()},
            _ask_pixels,
            lambda inputs: -900.0 * ((inputs["logits"] > 0) != (inputs["x"] > 0)).double().flatten(1).sum(dim=1),
        ),
        Part(
            "log p(x|z) with a dimension of codes before the pixels",
            lambda g: {"logits": 2 * normal(g, 3, 4, *SHAPE), "x": (uniform(g, 3, 4, *SHAPE) < 0.4).double()},
            _ask_pixels,
            lambda inputs: Bernoulli(logits=inputs["logits"]).log_prob(inputs["x"]).flatten(2).sum(dim=2),
        ),
        Part(
            "the KL of a code from the prior",
            lambda g: {"mean": normal(g, 8, 5), "logvar": normal(g, 8, 5)},
            _ask_kl,
            lambda i: kl_divergence(Normal(i["mean"], torch.exp(i["logvar"] / 2)), Normal(0.0, 1.0)).sum(dim=1),
        ),
        Part(
            "the KL with a dimension before the images",
            lambda g: {"mean": normal(g, 3, 8, 5), "logvar": normal(g, 3, 8, 5)},
            _ask_kl,
            lambda i: kl_divergence(Normal(i["mean"], torch.exp(i["logvar"] / 2)), Normal(0.0, 1.0)).sum(dim=2),
        ),
        Part("the ELBO of each image", _with_noise, _ask_elbo, _elbo_truth),
        Part(
            "log p(x|z) has a gradient in the logits",
            lambda g: {"logits": normal(g, 5, *SHAPE), "x": (uniform(g, 5, *SHAPE) < 0.4).double()},
            lambda functions, i: _trainable(i, lambda inputs: _ask_pixels(functions, inputs), ("logits",)),
            lambda inputs: inputs["x"] - torch.sigmoid(inputs["logits"]),
        ),
        Part(
            "the ELBO has a gradient in encoder and decoder",
            _with_noise,
            lambda functions, i: _trainable(i, lambda inputs: _ask_elbo(functions, inputs)),
            lambda i: _trainable(i, _elbo_truth),
        ),
    ),
    mistakes=(
        Mistake(
            "the logarithm of a sigmoid",
            "σ(l) rounds to 0 or 1 when the decoder is sure, and log 0 = −∞. Stay with logits: x l − softplus(l).",
            _elbo(
                lambda logits, x: (
                    x * torch.sigmoid(logits).log() + (1 - x) * torch.log(1 - torch.sigmoid(logits))
                ).sum((-3, -2, -1))
            ),
        ),
        Mistake(
            "averaged over the pixels",
            "The pixels are independent given z: log p(x|z) is the sum of their logarithms. A mean makes the "
            "reconstruction hundreds of times too light beside the KL.",
            _elbo(lambda logits, x: bits(logits, x) / math.prod(SHAPE)),
        ),
        Mistake(
            "the cross-entropy in place of the log-likelihood",
            "The sign is turned: binary cross-entropy is −log p(x|z).",
            _elbo(lambda logits, x: -bits(logits, x)),
        ),
        Mistake(
            "summed over the batch as well",
            "One number an image is wanted: sum over the last three dimensions only.",
            _elbo(lambda logits, x: bits(logits, x).sum()),
        ),
        Mistake(
            "logits taken for probabilities",
            "The decoder returns logits l, the probability is σ(l): log p is x l − log(1 + e^l) for each pixel.",
            _elbo(lambda logits, x: (x * logits + (1 - x) * (1 - logits)).sum(dim=(-3, -2, -1))),
        ),
        Mistake(
            "the dimensions counted from the front",
            "Pixels are the last three dimensions, whatever stands before them: sum over (-3, -2, -1). A dimension "
            "of codes comes in section 5.",
            _elbo(lambda logits, x: (x * logits - F.softplus(logits)).sum(dim=(1, 2, 3))),
        ),
        Mistake(
            "flattened from the front",
            "flatten(1) takes a dimension of codes for pixels. Sum over the last three: (-3, -2, -1).",
            _elbo(lambda logits, x: (x * logits - F.softplus(logits)).flatten(1).sum(dim=1)),
        ),
        Mistake(
            "the KL's dimension counted from the front",
            "The units are the last dimension, whatever stands before: sum(dim=-1).",
            _elbo(kl=lambda mean, logvar: 0.5 * (mean.square() + logvar.exp() - 1 - logvar).sum(dim=1)),
        ),
        Mistake("the gradient cut in log p(x|z)", CUT, _elbo(lambda logits, x: bits(logits, x).detach())),
        Mistake(
            "the gradient cut in the ELBO", CUT, _elbo(join=lambda reconstruction, kl: (reconstruction - kl).detach())
        ),
        Mistake(
            "log-variance taken for the log of the deviation",
            "v is a log-*variance*: e^v is the variance, e^{v/2} the standard deviation.",
            _elbo(
                kl=lambda mean, logvar: prior_kl(mean, 2 * logvar),
                draw=lambda mean, logvar, noise: mean + torch.exp(logvar) * noise,
            ),
        ),
        Mistake(
            "the deviation in place of the variance in the KL",
            "KL = ½ Σ (μ² + σ² − 1 − log σ²): the second term is the variance e^v, not e^{v/2}.",
            _elbo(kl=lambda mean, logvar: 0.5 * (mean**2 + torch.exp(logvar / 2) - 1 - logvar).sum(dim=-1)),
        ),
        Mistake(
            "½ left out of the KL",
            "The factor ½ stands before the whole sum.",
            _elbo(kl=lambda mean, logvar: 2 * prior_kl(mean, logvar)),
        ),
        Mistake(
            "−1 left out of the KL",
            "For μ = 0 and v = 0 the code says nothing and the KL must be 0: μ² + e^v − 1 − v.",
            _elbo(kl=lambda mean, logvar: 0.5 * (mean**2 + logvar.exp() - logvar).sum(dim=-1)),
        ),
        Mistake(
            "the KL averaged over the units",
            "The units are independent under q and under p: the KL is a sum over them.",
            _elbo(kl=lambda mean, logvar: prior_kl(mean, logvar) / mean.shape[-1]),
        ),
        Mistake(
            "the sign of the KL turned",
            "Many write −KL = ½ Σ (1 + v − μ² − e^v). The function returns +KL, which is never negative.",
            _elbo(kl=lambda mean, logvar: -prior_kl(mean, logvar)),
        ),
        Mistake(
            "the code drawn with the variance",
            "z = μ + σ ε with the standard deviation σ = e^{v/2}.",
            _elbo(draw=lambda mean, logvar, noise: mean + torch.exp(logvar) * noise),
        ),
        Mistake(
            "the mean decoded in place of a draw",
            "The expectation over q needs a draw z = μ + e^{v/2} ε; the mean alone pretends the code were exact.",
            _elbo(draw=lambda mean, logvar, noise: mean),
        ),
        Mistake(
            "the negative ELBO",
            "This is the loss. The ELBO is reconstruction − KL, a negative number of nats.",
            _elbo(join=lambda reconstruction, kl: kl - reconstruction),
        ),
        Mistake(
            "the KL added",
            "The code has a price: ELBO = reconstruction − KL.",
            _elbo(join=lambda reconstruction, kl: reconstruction + kl),
        ),
        Mistake(
            "averaged over the batch",
            "One ELBO an image is wanted; its spread over images is the error bar.",
            _elbo(join=lambda reconstruction, kl: (reconstruction - kl).mean()),
        ),
    ),
    reference=_elbo(),
)


# --- the KL divergence of two Gaussians ---------------------------------------------------------------------


def _gaussians(
    each: Callable = lambda m, v, n, w: (v - w).exp() + (m - n) ** 2 / w.exp() - 1 + w - v,
    total: Callable = lambda kl: 0.5 * kl.sum(dim=-1),
) -> Functions:
    return {"kl_of_gaussians": lambda m, v, n, w: total(each(m, v, n, w))}


_right = _gaussians()["kl_of_gaussians"]


def _ask_gaussians(functions: Functions, inputs: Inputs) -> Any:
    return functions["kl_of_gaussians"](*(inputs[name] for name in ("mean_p", "logvar_p", "mean_q", "logvar_q")))


def _by_torch(inputs: Inputs) -> Tensor:
    p, q = (Normal(inputs[f"mean_{law}"], torch.exp(inputs[f"logvar_{law}"] / 2)) for law in "pq")
    return kl_divergence(p, q).sum(dim=-1)


def _two_laws(*shape: int) -> Callable[[torch.Generator], Inputs]:
    names = ("mean_p", "logvar_p", "mean_q", "logvar_q")
    return lambda g: {name: normal(g, *shape) for name in names}


KL_OF_GAUSSIANS = Exercise(
    name="kl_of_gaussians",
    problem=2,
    points=3,
    functions=("kl_of_gaussians",),
    parts=(
        Part("any two laws", _two_laws(6, 4), _ask_gaussians, _by_torch),
        Part(
            "of a law from itself: zero",
            lambda g: (
                {name: v for law in "pq" for name, v in {f"mean_{law}": normal(g, 5, 3)}.items()}
                | {"logvar_p": normal(g, 5, 3)}
            ),
            lambda functions, i: functions["kl_of_gaussians"](i["mean_p"], i["logvar_p"], i["mean_p"], i["logvar_p"]),
            lambda inputs: torch.zeros(5),
        ),
        Part(
            "from the prior: the KL of the ELBO",
            lambda g: {"mean_p": normal(g, 5, 3), "logvar_p": normal(g, 5, 3)},
            lambda functions, i: functions["kl_of_gaussians"](
                i["mean_p"], i["logvar_p"], torch.zeros_like(i["mean_p"]), torch.zeros_like(i["mean_p"])
            ),
            lambda inputs: prior_kl(inputs["mean_p"], inputs["logvar_p"]),
        ),
        Part("every pair of laws, by broadcasting", lambda g: _pairs_of_laws(g), _ask_gaussians, _by_torch),
    ),
    mistakes=(
        Mistake(
            "the laws exchanged",
            "KL(p ‖ q) is not symmetric: the expectation is under p, so the variance of q divides.",
            _gaussians(lambda m, v, n, w: (w - v).exp() + (m - n) ** 2 / v.exp() - 1 + v - w),
        ),
        Mistake(
            "the means' difference divided by the wrong variance",
            "How far apart the means are is measured in deviations of q, the law in the denominator.",
            _gaussians(lambda m, v, n, w: (v - w).exp() + (m - n) ** 2 / v.exp() - 1 + w - v),
        ),
        Mistake(
            "log-variance taken for the log of the deviation",
            "v is a log-variance: e^v is σ², not σ.",
            _gaussians(lambda m, v, n, w: (2 * v - 2 * w).exp() + (m - n) ** 2 / (2 * w).exp() - 1 + 2 * w - 2 * v),
        ),
        Mistake(
            "the deviation in place of the variance",
            "Ratio and distance are in variances: e^{v_p − v_q} and (μ_p − μ_q)² / e^{v_q}, without a half in the "
            "exponent.",
            _gaussians(lambda m, v, n, w: ((v - w) / 2).exp() + (m - n) ** 2 / (w / 2).exp() - 1 + w - v),
        ),
        Mistake(
            "−1 left out",
            "A law from itself has KL 0: the ratio of variances is 1 there, and −1 cancels it.",
            _gaussians(lambda m, v, n, w: (v - w).exp() + (m - n) ** 2 / w.exp() + w - v),
        ),
        Mistake(
            "½ left out",
            "The factor ½ stands before the whole sum.",
            _gaussians(total=lambda kl: kl.sum(dim=-1)),
        ),
        Mistake(
            "the logarithms' difference turned round",
            "log σ_q² − log σ_p² = v_q − v_p: a p that is narrower than q pays for it.",
            _gaussians(lambda m, v, n, w: (v - w).exp() + (m - n) ** 2 / w.exp() - 1 + v - w),
        ),
        Mistake(
            "the square of the difference left out",
            "The means enter by the square of their difference.",
            _gaussians(lambda m, v, n, w: (v - w).exp() + (m - n) / w.exp() - 1 + w - v),
        ),
        Mistake(
            "averaged over the units",
            "The coordinates are independent under both laws: the KL is a sum over them.",
            _gaussians(total=lambda kl: 0.5 * kl.mean(dim=-1)),
        ),
        Mistake(
            "q taken for the prior",
            "This is the KL from N(0, I) whatever q is.",
            _gaussians(lambda m, v, n, w: m**2 + v.exp() - 1 - v),
        ),
    ),
    reference=_gaussians(),
)


def _pairs_of_laws(g: torch.Generator) -> Inputs:
    p, q = _two_laws(4, 1, 3)(g), _two_laws(1, 5, 3)(g)
    return {name: (p if name.endswith("p") else q)[name] for name in p}


# --- relatives of the ELBO ----------------------------------------------------------------------------------


def _beta(join: Callable = lambda reconstruction, kl, beta: reconstruction - beta * kl, **parts: Any) -> Functions:
    def beta_elbo(model: Any, x: Tensor, noise: Tensor, beta: float) -> Tensor:
        mean, logvar = model.encode(x)
        z = mean + torch.exp(0.5 * logvar) * noise
        return join(bits(model.decode(z), x), prior_kl(mean, logvar), beta)

    return {"beta_elbo": beta_elbo}


def _ask_beta(functions: Functions, inputs: Inputs) -> Any:
    return functions["beta_elbo"](small_model(inputs), inputs["x"], inputs["noise"], inputs["beta"])


def _beta_truth(inputs: Inputs) -> Tensor:
    reconstruction, kl = _terms(inputs, inputs["noise"])
    return reconstruction - inputs["beta"] * kl


BETA_ELBO = Exercise(
    name="beta_elbo",
    problem=2,
    points=3,
    functions=("beta_elbo",),
    parts=(
        Part(
            "β above one",
            lambda g: _with_noise(g) | {"beta": 2 + 3 * uniform(g, 1).item()},
            _ask_beta,
            _beta_truth,
        ),
        Part(
            "β below one",
            lambda g: _with_noise(g) | {"beta": 0.1 + 0.5 * uniform(g, 1).item()},
            _ask_beta,
            _beta_truth,
        ),
        Part("β = 1: the ELBO", lambda g: _with_noise(g) | {"beta": 1.0}, _ask_beta, _beta_truth),
        Part("β = 0: the reconstruction alone", lambda g: _with_noise(g) | {"beta": 0.0}, _ask_beta, _beta_truth),
        Part(
            "it has a gradient in encoder and decoder",
            lambda g: _with_noise(g) | {"beta": 2 + 3 * uniform(g, 1).item()},
            lambda functions, i: _trainable(i, lambda inputs: _ask_beta(functions, inputs)),
            lambda i: _trainable(i, _beta_truth),
        ),
    ),
    mistakes=(
        Mistake(
            "β on the reconstruction",
            "β is the price of a nat of the code: it multiplies the KL.",
            _beta(lambda reconstruction, kl, beta: beta * reconstruction - kl),
        ),
        Mistake(
            "β on both terms",
            "A factor before everything changes the step size, not the bargain. β multiplies the KL alone.",
            _beta(lambda reconstruction, kl, beta: beta * (reconstruction - kl)),
        ),
        Mistake(
            "the KL added",
            "The code has a price: reconstruction − β KL.",
            _beta(lambda reconstruction, kl, beta: reconstruction + beta * kl),
        ),
        Mistake(
            "a loss in place of the bound",
            "This is what an optimiser would minimise; the β-ELBO is reconstruction − β KL.",
            _beta(lambda reconstruction, kl, beta: beta * kl - reconstruction),
        ),
        Mistake("the gradient cut", CUT, _beta(lambda r, kl, beta: (r - beta * kl).detach())),
        Mistake("β left out", "This is the ELBO whatever β is.", _beta(lambda r, kl, beta: r - kl)),
        Mistake(
            "divided by β",
            "β multiplies the KL; a large β makes the code dear.",
            _beta(lambda r, kl, beta: r - kl / beta if beta else r - kl),
        ),
        Mistake(
            "the two weights made to sum to one",
            "The reconstruction keeps the weight one: reconstruction − β KL, not (1 − β) reconstruction − β KL.",
            _beta(lambda r, kl, beta: (1 - beta) * r - beta * kl),
        ),
        Mistake(
            "averaged over the batch",
            "One number an image is wanted.",
            _beta(lambda r, kl, beta: (r - beta * kl).mean()),
        ),
    ),
    reference=_beta(),
)


def _two_samples(
    codes: Callable = lambda mean, sd, noise: [mean + sd * noise[:, k] for k in (0, 1)],
    centre: Callable = lambda a, b: (a + b) / 2,
    error: Callable = lambda a, b: (a - b).abs() / 2,
    price: float = 1.0,
) -> Functions:
    def two_sample_elbo(model: Any, x: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        mean, logvar = model.encode(x)
        a, b = (bits(model.decode(z), x) for z in codes(mean, torch.exp(0.5 * logvar), noise))
        return centre(a, b) - price * prior_kl(mean, logvar), error(a, b)

    return {"two_sample_elbo": two_sample_elbo}


def _with_two(g: torch.Generator) -> Inputs:
    return small_vae(g, images=24) | {"noise": normal(g, 24, 2, LATENT)}


def _ask_two(which: int) -> Callable[[Functions, Inputs], Any]:
    def ask(functions: Functions, inputs: Inputs) -> Any:
        found = functions["two_sample_elbo"](small_model(inputs), inputs["x"], inputs["noise"])
        return member(found, which, "the mean, its standard error")

    return ask


def _two(inputs: Inputs) -> tuple[Tensor, Tensor]:
    (a, kl), (b, _) = (_terms(inputs, inputs["noise"][:, k]) for k in (0, 1))
    draws = torch.stack([a, b])
    return draws.mean(dim=0) - kl, draws.std(dim=0) / 2**0.5


TWO_SAMPLE_ELBO = Exercise(
    name="two_sample_elbo",
    problem=2,
    points=4,
    functions=("two_sample_elbo",),
    parts=(
        Part("the mean of two draws", _with_two, _ask_two(0), lambda inputs: _two(inputs)[0]),
        Part("its standard error", _with_two, _ask_two(1), lambda inputs: _two(inputs)[1]),
        Part(
            "the same draw twice: no error",
            lambda g: small_vae(g) | {"noise": normal(g, 6, 1, LATENT).expand(6, 2, LATENT).clone()},
            _ask_two(1),
            lambda inputs: torch.zeros(6),
        ),
    ),
    mistakes=(
        Mistake(
            "the first draw only",
            "Each image has two rows of noise, each gives a draw of z: average the reconstructions of both.",
            _two_samples(lambda mean, sd, noise: [mean + sd * noise[:, 0]] * 2),
        ),
        Mistake(
            "the two codes averaged",
            "The mean of two codes is one code, nearer to μ than a draw is. Decode both, then average.",
            _two_samples(lambda mean, sd, noise: [mean + sd * noise.mean(dim=1)] * 2),
        ),
        Mistake(
            "the sum in place of the mean",
            "The expectation is estimated by the mean of two draws.",
            _two_samples(centre=lambda a, b: a + b),
        ),
        Mistake(
            "the KL twice",
            "The KL has no noise in it: it is subtracted once, from the mean of the two reconstructions.",
            _two_samples(price=2.0),
        ),
        Mistake(
            "half of the KL",
            "The KL has no noise in it and is not divided by the number of draws.",
            _two_samples(price=0.5),
        ),
        Mistake(
            "the logarithm of the mean likelihood",
            "log ½(e^a + e^b) mixes likelihoods, as importance sampling does with weights. The ELBO averages "
            "logarithms.",
            _two_samples(centre=lambda a, b: torch.logaddexp(a, b) - math.log(2)),
        ),
        Mistake(
            "the better of the two draws",
            "The greater one is too large on average. The expectation is estimated by the mean.",
            _two_samples(centre=torch.maximum),
        ),
        Mistake(
            "the deviation of a draw in place of the error of the mean",
            "|a − b|/√2 is the standard deviation of one draw; the mean of two has an error smaller by √2.",
            _two_samples(error=lambda a, b: (a - b).abs() / 2**0.5),
        ),
        Mistake(
            "the deviation divided by n in place of n − 1",
            "With two draws the standard deviation is |a − b|/√2: one degree of freedom is spent on the mean.",
            _two_samples(error=lambda a, b: (a - b).abs() / 8**0.5),
        ),
        Mistake(
            "the variance in place of the error",
            "The error has the unit of the ELBO, nats: take the root.",
            _two_samples(error=lambda a, b: (a - b) ** 2 / 4),
        ),
        Mistake(
            "an error with a sign",
            "An error is not negative: the absolute value of the difference.",
            _two_samples(error=lambda a, b: (a - b) / 2),
        ),
        Mistake(
            "the error returned first",
            "The ELBO comes back first and its standard error second, as the docstring has them.",
            {"two_sample_elbo": lambda *given: _two_samples()["two_sample_elbo"](*given)[::-1]},
        ),
    ),
    reference=_two_samples(),
)


# --- the likelihood -----------------------------------------------------------------------------------------


def log_normal(z: Tensor, mean: Tensor, logvar: Tensor) -> Tensor:
    return -0.5 * ((z - mean) ** 2 / logvar.exp() + logvar + math.log(2 * math.pi)).sum(dim=-1)


def _log_mean_exp(w: Tensor) -> Tensor:
    return torch.logsumexp(w, dim=1) - math.log(w.shape[1])


def _importance(
    normal: Callable = log_normal,
    join: Callable = lambda px, pz, q: px + pz - q,
    average: Callable = _log_mean_exp,
    repeat: Callable = lambda images, k: images.repeat_interleave(k, dim=0),
) -> Functions:
    def estimate_log_p(
        model: Any, x: Tensor, z: Tensor, log_px_given: Callable, shape: tuple[int, ...] = (1, 28, 28)
    ) -> Tensor:
        m, k, latent = z.shape
        images = x.view(m, *shape)
        mean, logvar = model.encode(images)
        px = log_px_given(model.decode(z.reshape(m * k, latent)), repeat(images, k)).view(m, k)
        prior = normal(z, torch.zeros_like(z), torch.zeros_like(z))
        return average(join(px, prior, normal(z, mean[:, None], logvar[:, None])))

    return {"log_normal": normal, "estimate_log_p": estimate_log_p}


def _with_codes(scale: float = 1.0) -> Callable[[torch.Generator], Inputs]:
    return lambda g: small_vae(g, images=5, scale=scale) | {"z": 0.7 * normal(g, 5, 7, LATENT)}


def _ask_log_p(functions: Functions, inputs: Inputs) -> Any:
    x = inputs["x"].flatten(1)
    return functions["estimate_log_p"](small_model(inputs), x, inputs["z"], bits, SHAPE)


def _log_p_truth(inputs: Inputs) -> Tensor:
    """Image by image and code by code, with torch.distributions."""
    model = small_model(inputs)
    mean, logvar = model.encode(inputs["x"])
    found = []
    for x, z, m, v in zip(inputs["x"], inputs["z"], mean, logvar, strict=True):
        px = Bernoulli(logits=model.decode(z)).log_prob(x).flatten(1).sum(dim=1)
        pz, q = (law.log_prob(z).sum(dim=1) for law in (Normal(0.0, 1.0), Normal(m, torch.exp(v / 2))))
        w = px + pz - q
        found.append(w.max() + (w - w.max()).exp().mean().log())
    return torch.stack(found)


def exact_model(inputs: Inputs) -> SimpleNamespace:
    """x = Qs z + ε, the columns of Q orthonormal: the posterior has a diagonal covariance, as `encode` says."""
    q, s = inputs["q"], inputs["s"]

    def encode(x: Tensor) -> tuple[Tensor, Tensor]:
        mean = (x.flatten(1).to(q) @ q) * s / (1 + s**2)
        return mean, -torch.log1p(s**2).expand_as(mean)

    def decode(z: Tensor) -> Tensor:
        return ((z.to(q) * s) @ q.T).unflatten(-1, SHAPE)

    return SimpleNamespace(encode=encode, decode=decode, latent=LATENT)


def _exact_truth(inputs: Inputs) -> Tensor:
    """log N(x; 0, Q s² Qᵀ + I)."""
    flat, s = inputs["x"].flatten(1), inputs["s"]
    along = (flat @ inputs["q"]).square()
    square = flat.square().sum(dim=1) - (along * s**2 / (1 + s**2)).sum(dim=1)
    return -0.5 * (square + torch.log1p(s**2).sum() + flat.shape[1] * math.log(2 * math.pi))


def _exact(g: torch.Generator) -> Inputs:
    size = math.prod(SHAPE)
    q = torch.linalg.qr(normal(g, size, LATENT)).Q
    x = 1.5 * normal(g, 4, *SHAPE)
    return {"q": q, "s": 0.5 + uniform(g, LATENT), "x": x, "z": normal(g, 4, 3, LATENT)}


def _unit_normal(mean: Tensor, x: Tensor) -> Tensor:
    return -0.5 * ((x - mean) ** 2 + math.log(2 * math.pi)).sum(dim=(-3, -2, -1))


def _ask_exact(functions: Functions, inputs: Inputs) -> Any:
    x = inputs["x"].flatten(1)
    return functions["estimate_log_p"](exact_model(inputs), x, inputs["z"], _unit_normal, SHAPE)


IMPORTANCE = Exercise(
    name="importance",
    problem=2,
    points=6,
    functions=("log_normal", "estimate_log_p"),
    parts=(
        Part(
            "log N(z; μ, diag e^v)",
            lambda g: {"z": normal(g, 6, 4), "mean": normal(g, 6, 4), "logvar": normal(g, 6, 4)},
            lambda functions, inputs: functions["log_normal"](inputs["z"], inputs["mean"], inputs["logvar"]),
            lambda i: Normal(i["mean"], torch.exp(i["logvar"] / 2)).log_prob(i["z"]).sum(dim=-1),
        ),
        Part(
            "one law for many codes, by broadcasting",
            lambda g: {"z": normal(g, 3, 5, 4), "mean": normal(g, 3, 1, 4), "logvar": normal(g, 3, 1, 4)},
            lambda functions, inputs: functions["log_normal"](inputs["z"], inputs["mean"], inputs["logvar"]),
            lambda i: Normal(i["mean"], torch.exp(i["logvar"] / 2)).log_prob(i["z"]).sum(dim=-1),
        ),
        Part("log p(x) from given codes", _with_codes(), _ask_log_p, _log_p_truth),
        Part("likelihoods that round to zero", _with_codes(scale=400.0), _ask_log_p, _log_p_truth),
        Part(
            "a posterior that is exact: every code gives log p(x)",
            _exact,
            _ask_exact,
            _exact_truth,
        ),
    ),
    mistakes=(
        Mistake(
            "the mean of log w",
            "Averaging the logarithms gives the ELBO. Average the ratios w, then take the logarithm: log-sum-exp.",
            _importance(average=lambda w: w.mean(dim=1)),
        ),
        Mistake(
            "log K left out",
            "The weights are averaged, not summed: log-sum-exp − log K.",
            _importance(average=lambda w: torch.logsumexp(w, dim=1)),
        ),
        Mistake(
            "exponentials formed",
            "e^{log w} rounds to 0 for an image of many pixels, and log 0 = −∞. Use log-sum-exp.",
            _importance(average=lambda w: w.exp().mean(dim=1).log()),
        ),
        Mistake(
            "averaged over the images before the logarithm",
            "Every image has a likelihood of its own: average over the K codes, dimension 1.",
            _importance(average=lambda w: torch.logsumexp(w.flatten(), 0) - math.log(w.numel())),
        ),
        Mistake(
            "averaged over the wrong dimension",
            "Codes are the second dimension, images the first.",
            _importance(average=lambda w: torch.logsumexp(w, dim=0) - math.log(w.shape[0])),
        ),
        Mistake(
            "p(z) left out",
            "The weight is p(x|z) p(z) / q(z|x).",
            _importance(join=lambda px, pz, q: px - q),
        ),
        Mistake(
            "q(z|x) left out",
            "The codes come from q(z|x), not from the prior: each weight is divided by q(z|x).",
            _importance(join=lambda px, pz, q: px + pz),
        ),
        Mistake(
            "q(z|x) multiplied",
            "Importance weights divide by the density the codes were drawn from.",
            _importance(join=lambda px, pz, q: px + pz + q),
        ),
        Mistake(
            "the likelihood alone",
            "The mean of p(x|z) over codes of q is not p(x): codes of q are the good ones. Weigh by p(z)/q(z|x).",
            _importance(join=lambda px, pz, q: px),
        ),
        Mistake(
            "the sign of log p(x|z) inverted",
            "A loss is −log p(x|z). With the sign turned, codes that explain the image least count most.",
            _importance(join=lambda px, pz, q: -px + pz - q),
        ),
        Mistake(
            "the logarithm of a logarithm",
            "log(−log p(x|z)) stands where log p(x|z) should, so that the likelihood hardly counts.",
            _importance(join=lambda px, pz, q: torch.log(-px) + pz - q),
        ),
        Mistake(
            "images and codes in different orders",
            "After z.reshape(M·K, L) the K codes of the first image come first: repeat_interleave(K), not repeat(K).",
            _importance(repeat=lambda images, k: images.repeat(k, 1, 1, 1)),
        ),
        Mistake(
            "the deviation taken for the variance",
            "logvar is the logarithm of the variance: divide by e^logvar.",
            _importance(
                lambda z, mean, logvar: (
                    -0.5 * ((z - mean) ** 2 / torch.exp(logvar / 2) + logvar / 2 + math.log(2 * math.pi)).sum(dim=-1)
                )
            ),
        ),
        Mistake(
            "log-variance taken for the log of the deviation",
            "e^logvar is the variance, not the standard deviation: do not square it.",
            _importance(lambda z, mean, logvar: log_normal(z, mean, 2 * logvar)),
        ),
        Mistake(
            "log 2π left out",
            "The density of each coordinate has the factor 1/√(2π). In the ratio p(z)/q(z|x) it cancels; as a density "
            "it must be there.",
            _importance(
                lambda z, mean, logvar: log_normal(z, mean, logvar) + 0.5 * math.log(2 * math.pi) * z.shape[-1]
            ),
        ),
        Mistake(
            "the log-determinant left out",
            "A narrow law is high: −½ logvar for each coordinate belongs to the density.",
            _importance(
                lambda z, mean, logvar: -0.5 * ((z - mean) ** 2 / logvar.exp() + math.log(2 * math.pi)).sum(-1)
            ),
        ),
        Mistake(
            "averaged over the coordinates",
            "The coordinates are independent: log-densities are summed over the last dimension.",
            _importance(lambda z, mean, logvar: log_normal(z, mean, logvar) / z.shape[-1]),
        ),
    ),
    reference=_importance(),
)


def _iwae(function: Callable) -> Functions:
    return {"iwae_bound": function}


def groups(log_w: Tensor, k: int) -> Tensor:
    """(m, n) → (m, n // k, k): codes 1 to k, the next k, and so on; what is left over is dropped."""
    return log_w[:, : log_w.shape[1] // k * k].unflatten(1, (-1, k))


def _iwae_truth(inputs: Inputs) -> Tensor:
    rows, k = inputs["log_w"].tolist(), inputs["k"]
    found = []
    for row in rows:
        some = [row[start : start + k] for start in range(0, len(row) - k + 1, k)]
        each = [max(w) + math.log(sum(math.exp(v - max(w)) for v in w) / k) for w in some]
        found.append(sum(each) / len(each))
    return torch.tensor(found, dtype=torch.float64)


def _weights(codes: int, k: int, level: float = -5.0) -> Callable[[torch.Generator], Inputs]:
    return lambda g: {"log_w": level + 2 * normal(g, 4, codes), "k": k}


def _ask_iwae(functions: Functions, inputs: Inputs) -> Any:
    return functions["iwae_bound"](inputs["log_w"], inputs["k"])


IWAE_BOUND = Exercise(
    name="iwae_bound",
    problem=2,
    points=4,
    functions=("iwae_bound",),
    parts=(
        Part("groups of five codes", _weights(20, 5), _ask_iwae, _iwae_truth),
        Part("k = 1: the ELBO", _weights(12, 1), _ask_iwae, _iwae_truth),
        Part("k = all of them: one group", _weights(12, 12), _ask_iwae, _iwae_truth),
        Part("a number of codes that k does not divide: the rest is dropped", _weights(23, 6), _ask_iwae, _iwae_truth),
        Part("weights that round to zero", _weights(20, 4, level=-2000.0), _ask_iwae, _iwae_truth),
    ),
    mistakes=(
        Mistake(
            "all codes in one group",
            "This is the bound at the largest K, whatever k is. Cut the codes into groups of k, and average the "
            "groups' logarithms.",
            _iwae(lambda log_w, k: torch.logsumexp(log_w, 1) - math.log(log_w.shape[1])),
        ),
        Mistake(
            "the first group only",
            "The other groups hold draws that cost as much: average over all groups.",
            _iwae(lambda log_w, k: torch.logsumexp(log_w[:, :k], 1) - math.log(k)),
        ),
        Mistake(
            "the mean of log w",
            "That is the ELBO, the bound at k = 1, whatever k is.",
            _iwae(lambda log_w, k: groups(log_w, k).flatten(1).mean(dim=1)),
        ),
        Mistake(
            "log k left out",
            "Within a group the weights are averaged: log-sum-exp − log k.",
            _iwae(lambda log_w, k: torch.logsumexp(groups(log_w, k), 2).mean(1)),
        ),
        Mistake(
            "k exchanged with the number of groups",
            "unflatten(1, (−1, k)) makes groups of k; with (k, −1) there are k groups.",
            _iwae(
                lambda log_w, k: (
                    torch.logsumexp(groups(log_w, k).flatten(1).unflatten(1, (k, -1)), 2)
                    - math.log(log_w.shape[1] // k)
                ).mean(1)
            ),
        ),
        Mistake(
            "every k-th code in a group",
            "The codes of a group are neighbours: 1 to k, the next k, and so on. (Any grouping has the same "
            "expectation; this one is asked for.)",
            _iwae(
                lambda log_w, k: (
                    torch.logsumexp(groups(log_w, k).flatten(1).unflatten(1, (k, -1)), 1) - math.log(k)
                ).mean(1)
            ),
        ),
        Mistake(
            "exponentials formed",
            "e^{log w} rounds to 0. Use log-sum-exp.",
            _iwae(lambda log_w, k: groups(log_w, k).exp().mean(2).log().mean(1)),
        ),
        Mistake(
            "averaged over the images as well",
            "One bound an image is wanted.",
            _iwae(lambda log_w, k: (torch.logsumexp(groups(log_w, k), 2) - math.log(k)).mean()),
        ),
        Mistake(
            "the groups not averaged",
            "One bound an image is wanted: the mean over its groups.",
            _iwae(lambda log_w, k: torch.logsumexp(groups(log_w, k), 2) - math.log(k)),
        ),
        Mistake(
            "the best group",
            "The greatest of several estimates is too large on average. Take their mean.",
            _iwae(lambda log_w, k: (torch.logsumexp(groups(log_w, k), 2) - math.log(k)).amax(1)),
        ),
    ),
    reference=_iwae(lambda log_w, k: (torch.logsumexp(groups(log_w, k), 2) - math.log(k)).mean(1)),
)


def _effective(function: Callable) -> Functions:
    return {"effective_sample_size": function}


def _ask_effective(functions: Functions, inputs: Inputs) -> Any:
    return functions["effective_sample_size"](inputs["log_w"])


def _effective_truth(inputs: Inputs) -> Tensor:
    w = torch.softmax(inputs["log_w"], dim=1)
    return 1 / w.square().sum(dim=1)


EFFECTIVE_SAMPLE_SIZE = Exercise(
    name="effective_sample_size",
    problem=2,
    points=3,
    functions=("effective_sample_size",),
    parts=(
        Part("any weights", lambda g: {"log_w": 1.5 * normal(g, 5, 12) - 3}, _ask_effective, _effective_truth),
        Part(
            "equal weights: all codes count",
            lambda g: {"log_w": normal(g, 4, 1).expand(4, 9).clone()},
            _ask_effective,
            lambda inputs: torch.full((4,), 9.0),
        ),
        Part(
            "weights that round to zero",
            lambda g: {"log_w": 2 * normal(g, 4, 10) - 1500},
            _ask_effective,
            _effective_truth,
        ),
        Part(
            "one code carries all",
            lambda g: {"log_w": normal(g, 3, 8) + 900 * (torch.arange(8) == 2).double()},
            _ask_effective,
            lambda inputs: torch.ones(3),
        ),
    ),
    mistakes=(
        Mistake(
            "exponentials formed",
            "e^{log w} rounds to 0 and 0/0 is not a number. Stay with logarithms, or subtract the greatest log w "
            "first: a common factor cancels.",
            _effective(lambda w: w.exp().sum(1) ** 2 / w.exp().square().sum(1)),
        ),
        Mistake(
            "the fraction turned round",
            "(Σw)²/Σw² lies between 1 and K.",
            _effective(lambda w: torch.exp(torch.logsumexp(2 * w, 1) - 2 * torch.logsumexp(w, 1))),
        ),
        Mistake(
            "the square of the sum left out",
            "It is (Σw)²/Σw²: without the first square the value changes with a factor common to all weights.",
            _effective(lambda w: torch.exp(torch.logsumexp(w, 1) - torch.logsumexp(2 * w, 1))),
        ),
        Mistake(
            "the logarithm of it",
            "2 log Σw − log Σw² is its logarithm: exponentiate.",
            _effective(lambda w: 2 * torch.logsumexp(w, 1) - torch.logsumexp(2 * w, 1)),
        ),
        Mistake(
            "as a share of K",
            "The number of codes that carry the estimate is wanted, from 1 to K, not a share.",
            _effective(lambda w: torch.exp(2 * torch.logsumexp(w, 1) - torch.logsumexp(2 * w, 1)) / w.shape[1]),
        ),
        Mistake(
            "the weights' sum over the greatest",
            "Σw / max w counts codes as well, but is another count: (Σw)²/Σw².",
            _effective(lambda w: torch.exp(torch.logsumexp(w, 1) - w.amax(1))),
        ),
        Mistake(
            "log w taken for w",
            "The weights are e^{log w}; (Σ log w)² / Σ (log w)² says nothing about them.",
            _effective(lambda w: w.sum(1) ** 2 / w.square().sum(1)),
        ),
        Mistake(
            "all images together",
            "Every image has an effective sample size of its own: sum over dimension 1.",
            _effective(lambda w: torch.exp(2 * torch.logsumexp(w.flatten(), 0) - torch.logsumexp(2 * w.flatten(), 0))),
        ),
    ),
    reference=_effective(lambda w: torch.exp(2 * torch.logsumexp(w, 1) - torch.logsumexp(2 * w, 1))),
)


EXERCISES = (ELBO, KL_OF_GAUSSIANS, BETA_ELBO, TWO_SAMPLE_ELBO, IMPORTANCE, IWAE_BOUND, EFFECTIVE_SAMPLE_SIZE)
