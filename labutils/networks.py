"""Every neural network of the lab, as plain `nn.Module`s."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributions import MultivariateNormal
from torch.nn import functional as F

from .training import generator


class _FastELU(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        y = torch.clamp_max(x, 0).exp_().sub_(1)
        torch.maximum(x, y, out=y)  # e^x − 1 ≥ x everywhere, so the larger of both is x where x > 0
        ctx.save_for_backward(y)
        return y

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        return torch.ops.aten.elu_backward(gradient, 1.0, 1.0, 1.0, True, ctx.saved_tensors[0])


class ELU(nn.Module):
    """max(x, e^{min(x, 0)} − 1): PyTorch's ELU, computed on the CPU with exp in place of its slow expm1.

    Equal to rounding: the absolute error near 0 is that of float32 at 1, 6e-8.
    """

    def forward(self, x: Tensor) -> Tensor:
        return _FastELU.apply(x) if x.device.type == "cpu" else F.elu(x)


class ConvFromPoint(nn.Conv2d):
    """A convolution whose input is one pixel and whose padding is kernel − 1, computed as a linear map.

    On a 1×1 input each output pixel sees the input through one kernel tap: y[o, i, j] = w[o, c, k−1−i, k−1−j]
    x[c]. PyTorch would multiply the other k²−1 taps with zeros of the padding. Same parameters, same values.
    """

    def forward(self, x: Float[Tensor, "batch channels h w"]) -> Float[Tensor, "batch out h2 w2"]:
        out, channels, k, _ = self.weight.shape
        if x.shape[-2:] != (1, 1) or self.padding != (k - 1, k - 1):
            return super().forward(x)
        # Rows ordered (i, j, o): the result is channels-last without a copy.
        weight = self.weight.flip(2, 3).permute(2, 3, 0, 1).reshape(k * k * out, channels)
        y = F.linear(x.flatten(1), weight, self.bias.repeat(k * k))
        return y.view(-1, k, k, out).permute(0, 3, 1, 2)


class ConvToPoint(nn.Conv2d):
    """A convolution whose kernel covers its whole input, computed as a linear map. Same parameters."""

    def forward(self, x: Float[Tensor, "batch channels h w"]) -> Float[Tensor, "batch out h2 w2"]:
        if x.shape[-2:] != self.kernel_size:
            return super().forward(x)
        y = F.linear(x.permute(0, 2, 3, 1).flatten(1), self.weight.permute(0, 2, 3, 1).flatten(1), self.bias)
        return y[:, :, None, None]


def _upsample() -> nn.Module:
    return nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True)


class MnistVAE(nn.Module):
    """The given VAE of problem 2: q(z|x) = N(mean, diag exp(logvar)), p(x|z) = Bernoulli(sigmoid(logits)).

    latent: number of latent dimensions L (100 in the assignment). The layers and their parameters are exactly
    the assignment's; the two convolutions on one pixel are computed as linear maps, activations are kept
    channels-last, both only for speed.
    """

    def __init__(self, latent: int = 100):
        super().__init__()
        self.latent = latent
        self.encoder = nn.Sequential(
            nn.Conv2d(1, 32, 3), ELU(), nn.AvgPool2d(2),  # 28 → 26 → 13
            nn.Conv2d(32, 64, 3), ELU(), nn.AvgPool2d(2),  # → 11 → 5
            ConvToPoint(64, 256, 5), ELU(), nn.Flatten(),  # → 1
            nn.Linear(256, 2 * latent),
        )  # fmt: skip
        self.decoder = nn.Sequential(
            nn.Linear(latent, 256), ELU(), nn.Unflatten(1, (256, 1, 1)),
            ConvFromPoint(256, 64, 5, padding=4), ELU(), _upsample(),  # 1 → 5 → 10
            nn.Conv2d(64, 32, 3, padding=2), ELU(), _upsample(),  # → 12 → 24
            nn.Conv2d(32, 16, 3, padding=2), ELU(),  # → 26
            nn.Conv2d(16, 1, 3, padding=2),  # → 28
        )  # fmt: skip
        self.to(memory_format=torch.channels_last)

    def encode(
        self, x: Float[Tensor, "batch 1 28 28"]
    ) -> tuple[Float[Tensor, "batch latent"], Float[Tensor, "batch latent"]]:
        """Mean and log-variance of q(z|x)."""
        mean, logvar = self.encoder(x.contiguous(memory_format=torch.channels_last)).chunk(2, dim=1)
        return mean, logvar

    def decode(self, z: Float[Tensor, "batch latent"]) -> Float[Tensor, "batch 1 28 28"]:
        """Logits of p(x=1|z), pixel by pixel."""
        return self.decoder(z)


class LinearGaussianVAE(nn.Module):
    """A VAE whose log p(x) is known: x = Wz + ε, ε ~ N(0, I), so p(x) = N(0, WWᵀ + I). An oracle, not a model.

    The columns of W are orthogonal, so the exact posterior is N(mean(x), diag) and q can equal it. spread and
    shift move q away: its standard deviation is `spread` times the exact one, its mean is off by `shift`.
    Images have shape (1, 2, 3), and the likelihood is `vae.gaussian_log_likelihood`. Everything is float64.
    """

    shape = (1, 2, 3)
    latent = 3

    def __init__(self, spread: float = 1.0, shift: float = 0.0):
        super().__init__()
        angles = torch.arange(18, dtype=torch.float64).view(6, 3).cos()
        scales = torch.tensor([2.0, 1.0, 0.5], dtype=torch.float64)
        self.register_parameter("w", nn.Parameter(torch.linalg.qr(angles).Q * scales, requires_grad=False))
        self.spread, self.shift = spread, shift

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        precision = 1 + self.w.square().sum(dim=0)
        mean = (x.flatten(1).double() @ self.w) / precision + self.shift
        return mean, (2 * math.log(self.spread) - precision.log()).expand_as(mean)

    def decode(self, z: Tensor) -> Tensor:
        return (z.double() @ self.w.T).view(-1, *self.shape)

    def log_p(self, x: Float[Tensor, "batch 1 2 3"]) -> Float[Tensor, " batch"]:
        """The exact log p(x) in nats."""
        covariance = self.w @ self.w.T + torch.eye(6, dtype=torch.float64)
        return MultivariateNormal(torch.zeros(6, dtype=torch.float64), covariance).log_prob(x.flatten(1).double())


def critic_mlp(
    dim: int, hidden: tuple[int, int] = (32, 32), activation: Callable[[], nn.Module] = nn.ReLU
) -> nn.Sequential:
    """The discriminator or critic of problem 1, three linear layers: (batch, dim) → (batch, 1), no output sigmoid."""
    return nn.Sequential(
        nn.Linear(dim, hidden[0]), activation(),
        nn.Linear(hidden[0], hidden[1]), activation(),
        nn.Linear(hidden[1], 1),
    )  # fmt: skip


class DigitClassifier(nn.Module):
    """The course's digit classifier, whose convolution stack gives the 512 features of the Fréchet distance.

    Input in [−1, 1]. The stack ends in a 512×3×3 map, of which the course takes the top-left position. Plain
    modules in the course's order, so that its state dict fits.
    """

    def __init__(self):
        super().__init__()

        def block(channels: int, out: int) -> list[nn.Module]:
            return [nn.Conv2d(channels, out, 3, padding=1), nn.ELU(), nn.Dropout2d(0.1)]

        self.conv_stack = nn.Sequential(
            *block(3, 8), *block(8, 16), nn.MaxPool2d(2),  # 32 → 16
            *block(16, 16), *block(16, 32), nn.MaxPool2d(2),  # → 8
            *block(32, 64), *block(64, 128), nn.MaxPool2d(2),  # → 4
            nn.Conv2d(128, 512, 2),  # → 3
        )  # fmt: skip
        self.mlp = nn.Sequential(nn.ELU(), nn.Dropout(0.5), nn.Linear(512, 10))

    def features(self, x: Float[Tensor, "batch 3 32 32"]) -> Float[Tensor, "batch 512"]:
        return self.conv_stack(x)[:, :, 0, 0]

    def forward(self, x: Float[Tensor, "batch 3 32 32"]) -> Float[Tensor, "batch 10"]:
        """Logits of the ten digits."""
        return self.mlp(self.features(x))


class CriticEnsemble(nn.Module):
    """`members` independent `critic_mlp`s evaluated at once: (members, batch, dim) → (members, batch).

    Small networks cost more in calls than in arithmetic: 21 of them side by side are three batched matrix
    products. Member i sees only x[i] and its own weights, so the sum of the members' losses trains each as if
    it were alone. Initial weights are `nn.Linear`'s, U[−1/√in, 1/√in], drawn from `seed`.

    Inputs pass through (x − shift)/scale first; `standardise` sets both from a sample.

    Raises ValueError for members or dim < 1.
    """

    shift: Tensor
    scale: Tensor

    def __init__(
        self,
        members: int,
        dim: int,
        hidden: tuple[int, int] = (32, 32),
        activation: Callable[[], nn.Module] = nn.ReLU,
        *,
        seed: int = 0,
    ):
        super().__init__()
        for name, value in (("members", members), ("dim", dim)):
            if value < 1:
                raise ValueError(f"{name} is {value}; expected at least 1")
        self.activation = activation()
        draw = generator(seed, "critics")
        self.weights, self.biases = nn.ParameterList(), nn.ParameterList()
        for inside, outside in pairwise((dim, *hidden, 1)):
            for values, rows in ((self.weights, inside), (self.biases, 1)):
                uniform = torch.rand(members, rows, outside, generator=draw) * 2 - 1
                values.append(nn.Parameter(uniform / inside**0.5))
        self.register_buffer("shift", torch.zeros(members, 1, dim))
        self.register_buffer("scale", torch.ones(members, 1, dim))

    def standardise(self, x: Float[Tensor, "members n dim"]) -> None:
        """From now on map each member's inputs to mean 0 and sd 1, as measured on `x`; constant ones to 0."""
        self.shift.copy_(x.mean(dim=1, keepdim=True))
        sd = x.std(dim=1, keepdim=True)
        # A constant coordinate has an sd of rounding size, not 0: dividing by it would make noise of it.
        constant = sd < 1e-6 * x.abs().amax(dim=1, keepdim=True).clamp(min=1e-6)
        self.scale.copy_(torch.where(constant, 1.0, sd))

    def forward(self, x: Float[Tensor, "members batch dim"]) -> Float[Tensor, "members batch"]:
        h = (x - self.shift) / self.scale
        for k, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            h = torch.baddbmm(bias, self.activation(h) if k else h, weight)
        return h.squeeze(-1)

    def member(self, i: int) -> nn.Sequential:
        """Member i as the plain network it is, with `shift` and `scale` folded into its first layer."""
        sizes = [weight.shape[1] for weight in self.weights]
        with torch.random.fork_rng():  # the initialisation is overwritten
            plain = critic_mlp(sizes[0], (sizes[1], sizes[2]), lambda: self.activation)
        linears = [layer for layer in plain if isinstance(layer, nn.Linear)]
        with torch.no_grad():
            for linear, weight, bias in zip(linears, self.weights, self.biases, strict=True):
                linear.weight.copy_(weight[i].T)
                linear.bias.copy_(bias[i, 0])
            linears[0].weight.div_(self.scale[i])
            linears[0].bias.sub_(linears[0].weight @ self.shift[i, 0])
        return plain
