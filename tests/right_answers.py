"""Right answers that look otherwise than the notebooks': loops, NumPy, SciPy, torch.distributions, single precision,
other shapes, the package's own. By exercise: (what is different, the functions that differ from the reference)."""

from __future__ import annotations

import itertools
import math

import numpy as np
import scipy.linalg
import scipy.spatial.distance
import scipy.special
import scipy.stats
import torch
from torch.distributions import Bernoulli, Independent, MultivariateNormal, Normal, kl_divergence
from torch.nn import functional as F

from labutils import divergences, fid, latent, vae


def jsd_by_softplus(logits_p, logits_q):
    return math.log(2) - (F.softplus(-logits_p).mean(dim=-1) + F.softplus(logits_q).mean(dim=-1)) / 2


def jsd_by_cross_entropy(logits_p, logits_q):
    ones, zeros = torch.ones_like(logits_p), torch.zeros_like(logits_q)
    loss = F.binary_cross_entropy_with_logits(logits_p, ones, reduction="none").mean(-1)
    loss = loss + F.binary_cross_entropy_with_logits(logits_q, zeros, reduction="none").mean(-1)
    return math.log(2) - 0.5 * loss


def jsd_single(logits_p, logits_q):
    return jsd_by_softplus(logits_p.float(), logits_q.float())


def optimum_by_loop(log_p, log_q, x):
    return torch.stack([log_p(v) - log_q(v) for v in x])


def _slopes(critic, z):
    z = z.clone().detach().requires_grad_(True)
    value = critic(z)
    return torch.autograd.grad(value, z, torch.ones_like(value), create_graph=True)[0]


def gap_by_lerp(critic, x, y, a, lam):
    norms = torch.sqrt((_slopes(critic, torch.lerp(y, x, a.expand_as(x))) ** 2).sum(-1))
    gap = torch.mean(critic(x), -1) - torch.mean(critic(y), -1)
    penalty = lam * torch.mean((norms - 1.0) ** 2, -1)
    return gap - penalty, gap, penalty


def gap_sample_by_sample(critic, x, y, a, lam):
    """With a loop over members, where there are any."""
    if x.ndim == 3:
        rows = []
        for i in range(len(x)):
            rows.append(torch.stack(gap_sample_by_sample(critic, x[i], y[i], a[i], lam)))
        return tuple(torch.stack(rows, dim=1))
    penalties = []
    for i in range(len(x)):
        slope = _slopes(critic, (a[i] * x[i] + (1 - a[i]) * y[i])[None])[0]
        penalties.append((slope.norm() - 1) ** 2)
    penalty = lam * sum(penalties) / len(penalties)
    gap = sum(critic(x)) / len(x) - sum(critic(y)) / len(y)
    return [gap - penalty, gap, penalty]


def gap_single(critic, x, y, a, lam):
    return gap_by_lerp(critic, x.float(), y.float(), a.float(), lam)


def one_sided_by_relu(critic, x, y, a, lam):
    return lam * F.relu(_slopes(critic, y + a * (x - y)).norm(p=2, dim=-1) - 1).pow(2).mean(-1)


def one_sided_by_where(critic, x, y, a, lam):
    norm = torch.linalg.vector_norm(_slopes(critic, a * x + (1 - a) * y), dim=-1)
    return torch.where(norm > 1, lam * (norm - 1) ** 2, 0 * norm).mean(dim=-1)


def wasserstein_by_scipy(x, y):
    return scipy.stats.wasserstein_distance(x.numpy(), y.numpy())


def wasserstein_by_copies(x, y):
    n = math.lcm(len(x), len(y))
    x, y = (np.sort(np.repeat(v.numpy(), n // len(v))) for v in (x, y))
    return np.abs(x - y).mean()


def wasserstein_by_loop(x, y):
    points = sorted(x.tolist() + y.tolist())
    total = 0.0
    for low, high in itertools.pairwise(points):
        total += abs((x <= low).double().mean() - (y <= low).double().mean()) * (high - low)
    return total


def density_single(logits, log_f0):
    return torch.exp(logits.float() + log_f0.float())


def density_by_numpy(logits, log_f0):
    return np.exp(np.asarray(logits) + np.asarray(log_f0))


# --- problem 2 ----------------------------------------------------------------------------------------------


def pixels_by_cross_entropy(logits, x):
    return -F.binary_cross_entropy_with_logits(logits, x, reduction="none").flatten(-3).sum(-1)


def pixels_by_distribution(logits, x):
    return Independent(Bernoulli(logits=logits), 3).log_prob(x)


def kl_by_distribution(mean, logvar):
    return kl_divergence(Normal(mean, (0.5 * logvar).exp()), Normal(torch.zeros_like(mean), 1.0)).sum(-1)


def elbo_by_sample(model, x, noise):
    mean, logvar = model.encode(x)
    rows = []
    for i in range(len(x)):
        z = mean[i] + logvar[i].exp().sqrt() * noise[i]
        rows.append(
            pixels_by_distribution(model.decode(z[None]), x[i][None])[0] - kl_by_distribution(mean[i], logvar[i])
        )
    return torch.stack(rows)[:, None]  # (batch, 1) is accepted


def elbo_single(model, x, noise):
    mean, logvar = (v.float() for v in model.encode(x.float()))
    z = mean + torch.exp(0.5 * logvar) * noise.float()
    return pixels_by_cross_entropy(model.decode(z).float(), x.float()) - kl_by_distribution(mean, logvar)


def kl_of_gaussians_by_distribution(mean_p, logvar_p, mean_q, logvar_q):
    return kl_divergence(Normal(mean_p, (logvar_p / 2).exp()), Normal(mean_q, (logvar_q / 2).exp())).sum(-1)


def kl_of_gaussians_by_deviations(mean_p, logvar_p, mean_q, logvar_q):
    s, t = torch.exp(logvar_p / 2), torch.exp(logvar_q / 2)
    return (torch.log(t / s) + (s**2 + (mean_p - mean_q) ** 2) / (2 * t**2) - 0.5).sum(dim=-1)


def beta_from_elbo(model, x, noise, beta):
    return elbo_by_sample(model, x, noise)[:, 0] + (1 - beta) * kl_by_distribution(*model.encode(x))


def two_by_statistics(model, x, noise):
    mean, logvar = model.encode(x)
    draws = torch.stack([
        pixels_by_distribution(model.decode(mean + (0.5 * logvar).exp() * noise[:, k]), x) for k in range(2)
    ])  # fmt: skip
    return draws.mean(dim=0) - kl_by_distribution(mean, logvar), draws.std(dim=0) / math.sqrt(2)


def two_by_elbos(model, x, noise):
    first, second = (elbo_by_sample(model, x, noise[:, k]) for k in (0, 1))
    return (first + second) / 2, abs(first - second) / 2


def log_normal_by_distribution(z, mean, logvar):
    return Normal(mean, torch.exp(logvar / 2)).log_prob(z).sum(-1)


def log_p_by_loop(model, x, z, log_px_given, shape=(1, 28, 28)):
    found = []
    for row, codes in zip(x, z, strict=True):
        image = row.view(1, *shape)
        mean, logvar = model.encode(image)
        log_w = []
        for code in codes:
            prior = MultivariateNormal(torch.zeros_like(code), torch.eye(len(code), dtype=code.dtype)).log_prob(code)
            log_w.append(log_px_given(model.decode(code[None]), image)[0] + prior
                         - log_normal_by_distribution(code, mean[0], logvar[0]))  # fmt: skip
        found.append(torch.stack(log_w).logsumexp(0) - math.log(len(log_w)))
    return torch.stack(found)


def log_p_by_scipy(model, x, z, log_px_given, shape=(1, 28, 28)):
    m, k, _ = z.shape
    mean, logvar = model.encode(x.reshape(m, *shape))
    images = x.reshape(m, 1, *shape).expand(m, k, *shape)
    w = log_px_given(model.decode(z.flatten(0, 1)).view(images.shape), images)
    w = w + log_normal_by_distribution(z, torch.zeros(1), torch.zeros(1))
    w = w - log_normal_by_distribution(z, mean[:, None], logvar[:, None])
    return scipy.special.logsumexp(w.numpy(), axis=1) - np.log(k)


def iwae_by_loop(log_w, k):
    rows = []
    for row in log_w:
        some = [row[i : i + k] for i in range(0, len(row), k)]
        rows.append(np.mean([scipy.special.logsumexp(s.numpy()) - np.log(k) for s in some if len(s) == k]))
    return np.array(rows)


def effective_by_softmax(log_w):
    return 1 / torch.softmax(log_w, dim=1).pow(2).sum(dim=1)


def effective_after_maximum(log_w):
    w = torch.exp(log_w - log_w.max(dim=1, keepdim=True).values)
    return w.sum(1) ** 2 / (w**2).sum(1)


# --- problem 3 ----------------------------------------------------------------------------------------------


def image_penalty(critic, real, fake, epsilon):
    x = (fake + epsilon * (real - fake)).detach().requires_grad_(True)
    score = critic(x)
    (slope,) = torch.autograd.grad(score, x, torch.ones_like(score), create_graph=True, retain_graph=True)
    return (slope.pow(2).sum(dim=(1, 2, 3)).sqrt() - 1).pow(2).mean()


def image_penalty_by_loop(critic, real, fake, epsilon):
    found = []
    for r, f, e in zip(real, fake, epsilon, strict=True):
        slope = _slopes(critic, (e * r + (1 - e) * f)[None])
        found.append((torch.linalg.vector_norm(slope) - 1) ** 2)
    return torch.stack(found).mean()


def generator_loss_by_loop(critic, fake):
    return -sum(critic(image[None])[0] for image in fake) / len(fake)


def image_loss(critic, real, fake, epsilon, weight=10.0):
    return critic(fake.detach()).mean() - critic(real).mean() + weight * image_penalty(critic, real, fake, epsilon)


def pixel_by_distribution(x, mean, variance):
    return Normal(mean, math.sqrt(variance)).log_prob(x).flatten(1).sum(1)


def pixel_by_loss(x, mean, variance):
    loss = F.gaussian_nll_loss(mean, x, torch.full_like(x, variance), full=True, reduction="none")
    return -loss.sum(dim=(1, 2, 3))


def walk_by_loop(start, end, alphas):
    found = np.zeros((len(start), len(alphas), start.shape[1]))
    for i, (s, e) in enumerate(zip(start.numpy(), end.numpy(), strict=True)):
        a, b = np.linalg.norm(s), np.linalg.norm(e)
        omega = np.arccos(np.clip(s @ e / (a * b), -1, 1))
        for j, t in enumerate(alphas.numpy()):
            if omega < 1e-4:
                found[i, j] = t * s + (1 - t) * e
            else:
                u = (np.sin(t * omega) * s / a + np.sin((1 - t) * omega) * e / b) / np.sin(omega)
                found[i, j] = u * (t * a + (1 - t) * b)
    return found


def precision_by_topk(real_to_real, fake_to_real, k):
    radius = real_to_real.topk(k + 1, dim=1, largest=False).values[:, -1]
    return torch.any(fake_to_real <= radius[None], dim=1).float().mean()


def precision_by_numpy(real_to_real, fake_to_real, k):
    d = real_to_real.numpy() + np.diag(np.full(len(real_to_real), np.inf))
    radius = np.partition(d, k - 1, axis=1)[:, k - 1]
    return (fake_to_real.numpy() <= radius).any(axis=1).mean()


def statistics_by_numpy(features):
    rows = np.concatenate([np.atleast_2d(np.asarray(f)) for f in features])
    return rows.mean(axis=0), np.atleast_2d(np.cov(rows, rowvar=False))


def fid_by_sqrtm(p, q):
    (mean_p, cov_p), (mean_q, cov_q) = statistics_by_numpy(p), statistics_by_numpy(q)
    root = scipy.linalg.sqrtm(cov_p @ cov_q)
    return np.sum((mean_p - mean_q) ** 2) + np.trace(cov_p + cov_q - 2 * np.real(root))


def fid_by_singular_values(p, q):
    (p, cov_p), (q, cov_q) = ((rows, torch.atleast_2d(rows.T.cov())) for rows in (
        torch.cat([f.reshape(-1, f.shape[-1]) for f in features]) for features in (p, q)))  # fmt: skip
    a, b = ((rows - rows.mean(0)) / (len(rows) - 1) ** 0.5 for rows in (p, q))
    cross = torch.linalg.matrix_norm(a @ b.T, "nuc")
    return ((p.mean(0) - q.mean(0)) ** 2).sum() + cov_p.trace() + cov_q.trace() - 2 * cross


RIGHT = {
    "jsd": [
        ("softplus", {"jsd_of_logits": jsd_by_softplus}),
        ("cross-entropy", {"jsd_of_logits": jsd_by_cross_entropy}),
        ("single precision", {"jsd_of_logits": jsd_single}),
        ("a loop", {"logit_of_optimum": optimum_by_loop}),
        ("the package's", {"jsd_of_logits": divergences.jsd_objective}),
    ],
    "penalised_gap": [
        ("lerp", {"penalised_gap": gap_by_lerp}),
        ("a loop over samples, a list", {"penalised_gap": gap_sample_by_sample}),
        ("single precision", {"penalised_gap": gap_single}),
    ],
    "one_sided_penalty": [
        ("relu", {"one_sided_penalty": one_sided_by_relu}),
        ("where", {"one_sided_penalty": one_sided_by_where}),
    ],
    "wasserstein_1d": [
        ("SciPy", {"wasserstein_1d": wasserstein_by_scipy}),
        ("copies of one size", {"wasserstein_1d": wasserstein_by_copies}),
        ("a loop over gaps", {"wasserstein_1d": wasserstein_by_loop}),
    ],
    "density": [
        ("single precision", {"density_of": density_single}),
        ("NumPy", {"density_of": density_by_numpy}),
        ("the package's", {"density_of": divergences.density_from_discriminator}),
    ],
    "elbo": [
        ("cross-entropy", {"log_likelihood_of_pixels": pixels_by_cross_entropy}),
        (
            "torch.distributions",
            {"log_likelihood_of_pixels": pixels_by_distribution, "kl_to_prior": kl_by_distribution},
        ),
        ("image by image, (batch, 1)", {"elbo_of": elbo_by_sample}),
        ("single precision", {"elbo_of": elbo_single}),
    ],
    "kl_of_gaussians": [
        ("torch.distributions", {"kl_of_gaussians": kl_of_gaussians_by_distribution}),
        ("deviations", {"kl_of_gaussians": kl_of_gaussians_by_deviations}),
    ],
    "beta_elbo": [("from the ELBO", {"beta_elbo": beta_from_elbo})],
    "two_sample_elbo": [
        ("mean and std of a stack", {"two_sample_elbo": two_by_statistics}),
        ("two ELBOs", {"two_sample_elbo": two_by_elbos}),
    ],
    "importance": [
        ("torch.distributions", {"log_normal": log_normal_by_distribution}),
        ("a loop over images and codes", {"estimate_log_p": log_p_by_loop}),
        ("SciPy's logsumexp", {"estimate_log_p": log_p_by_scipy}),
        ("the package's density", {"log_normal": vae.log_normal}),
    ],
    "iwae_bound": [("a loop, SciPy", {"iwae_bound": iwae_by_loop})],
    "effective_sample_size": [
        ("softmax", {"effective_sample_size": effective_by_softmax}),
        ("after the maximum", {"effective_sample_size": effective_after_maximum}),
    ],
    "wgan": [
        ("other names for the same", {"gradient_penalty": image_penalty, "critic_loss": image_loss}),
        ("a loop over images", {"gradient_penalty": image_penalty_by_loop, "generator_loss": generator_loss_by_loop}),
    ],
    "pixel_normal": [
        ("torch.distributions", {"log_normal_pixels": pixel_by_distribution}),
        ("PyTorch's loss", {"log_normal_pixels": pixel_by_loss}),
    ],
    "spherical": [
        ("a loop, NumPy", {"spherical": walk_by_loop}),
        ("the package's", {"spherical": latent.spherical}),
    ],
    "fid": [
        ("NumPy's moments", {"mean_and_covariance": statistics_by_numpy}),
        ("SciPy's root", {"calculate_fid_score": fid_by_sqrtm}),
        ("singular values", {"calculate_fid_score": fid_by_singular_values}),
        ("the package's", {"calculate_fid_score": fid.calculate_fid_score}),
    ],
    "precision": [
        ("topk, single precision", {"precision_of": precision_by_topk}),
        ("NumPy, itself set aside", {"precision_of": precision_by_numpy}),
    ],
}
