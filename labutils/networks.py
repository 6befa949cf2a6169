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
        (y,) = ctx.saved_tensors
        return torch.clamp_max(y, 0).add_(1).mul_(gradient)  # the slope: 1 where x > 0, else e^x = y + 1


class ELU(nn.Module):
    """max(x, e^{min(x, 0)} − 1): PyTorch's ELU, computed on the CPU with exp in place of its slow expm1.

    Equal to rounding: the absolute error near 0 is that of float32 at 1, 6e-8.
    """

    def forward(self, x: Tensor) -> Tensor:
        return _FastELU.apply(x) if x.device.type == "cpu" else F.elu(x)


def _plain(layer: nn.Conv2d) -> bool:
    """Stride 1, nothing dilated, one group: the only convolutions the classes below compute in their own way."""
    return layer.stride == layer.dilation == (1, 1) and layer.groups == 1


class ConvFromPoint(nn.Conv2d):
    """A convolution whose input is one pixel and whose padding is kernel − 1, computed as a linear map.

    On a 1×1 input each output pixel sees the input through one kernel tap: y[o, i, j] = w[o, c, k−1−i, k−1−j]
    x[c]. PyTorch would multiply the other k²−1 taps with zeros of the padding. Same parameters, same values.
    """

    def forward(self, x: Float[Tensor, "batch channels h w"]) -> Float[Tensor, "batch out h2 w2"]:
        out, channels, k, _ = self.weight.shape
        if x.shape[-2:] != (1, 1) or self.padding != (k - 1, k - 1) or not _plain(self):
            return super().forward(x)
        # Rows ordered (i, j, o): the result is channels-last without a copy.
        weight = self.weight.flip(2, 3).permute(2, 3, 0, 1).reshape(k * k * out, channels)
        y = F.linear(x.flatten(1), weight, self.bias.repeat(k * k))
        return y.view(-1, k, k, out).permute(0, 3, 1, 2)


class ConvToPoint(nn.Conv2d):
    """A convolution whose kernel covers its whole input, computed as a linear map. Same parameters."""

    def forward(self, x: Float[Tensor, "batch channels h w"]) -> Float[Tensor, "batch out h2 w2"]:
        if x.shape[-2:] != self.kernel_size or self.padding != (0, 0) or not _plain(self):
            return super().forward(x)
        y = F.linear(x.permute(0, 2, 3, 1).flatten(1), self.weight.permute(0, 2, 3, 1).flatten(1), self.bias)
        return y[:, :, None, None]


class _OneMapOut(torch.autograd.Function):
    """x (n, c, h, w), weight (1, c, k, k), bias (1,) → (n, 1, h + k − 1, w + k − 1): every overlap of the kernel."""

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        (n, c, h, w), k = x.shape, weight.shape[-1]
        pixels = x.permute(0, 2, 3, 1).reshape(-1, c)
        taps = (weight.view(c, k * k).T @ pixels.T).view(k, k, n, h, w)
        y = bias.expand(n, h + k - 1, w + k - 1).contiguous()
        for i in range(k):
            for j in range(k):
                y[:, i : i + h, j : j + w].add_(taps[k - 1 - i, k - 1 - j])
        ctx.save_for_backward(pixels, weight)
        ctx.shape = x.shape
        return y[:, None]

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        pixels, weight = ctx.saved_tensors
        (_, c, k, _), (n, _, h, w) = weight.shape, ctx.shape
        windows = [gradient[:, 0, i : i + h, j : j + w] for i in reversed(range(k)) for j in reversed(range(k))]
        taps = torch.stack(windows).view(k * k, -1)
        to_x = (taps.T @ weight.view(c, k * k).T).view(n, h, w, c).permute(0, 3, 1, 2)
        return to_x, (taps @ pixels).T.reshape(weight.shape), gradient.sum().view(1)


class ConvToOneMap(nn.Conv2d):
    """A convolution to one output map with padding kernel − 1: channels are mixed first, then k² maps are added.

    y[i, j] = Σ_ab (Σ_c w[c, a, b] x[c])[i+a−k+1, j+b−k+1]. PyTorch's kernels compute 16 output maps at a time on the
    CPU and throw away 15. Same parameters, same values.
    """

    def forward(self, x: Float[Tensor, "batch channels h w"]) -> Float[Tensor, "batch out h2 w2"]:
        k = self.weight.shape[-1]
        fits = self.out_channels == 1 and self.padding == (k - 1, k - 1) and _plain(self)
        if x.device.type != "cpu" or not fits:
            return super().forward(x)
        return _OneMapOut.apply(x, self.weight, self.bias)


def _upsample() -> nn.Module:
    return nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True)


class MnistVAE(nn.Module):
    """The given VAE of problem 2: q(z|x) = N(mean, diag exp(logvar)), p(x|z) = Bernoulli(sigmoid(logits)).

    latent: number of latent dimensions L (100 in the assignment). The layers and their parameters are exactly
    the assignment's; the convolutions to and from one pixel and the last one are computed as matrix products,
    activations are kept channels-last, all only for speed.
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
            ConvToOneMap(16, 1, 3, padding=2),  # → 28
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
        """Images (batch, 1, 2, 3), or rows (batch, 6) → mean and log-variance of q, each (batch, 3)."""
        precision = 1 + self.w.square().sum(dim=0)
        mean = (x.flatten(1).double() @ self.w) / precision + self.shift
        return mean, (2 * math.log(self.spread) - precision.log()).expand_as(mean)

    def decode(self, z: Tensor) -> Tensor:
        """Codes (batch, 3) → Wz, the mean of p(x|z), (batch, 1, 2, 3)."""
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
    modules in the course's order, so that its state dict fits. dropout: of whole maps, in training; the course's 0.1.
    """

    def __init__(self, dropout: float = 0.1):
        super().__init__()

        def block(channels: int, out: int) -> list[nn.Module]:
            return [nn.Conv2d(channels, out, 3, padding=1), nn.ELU(), nn.Dropout2d(dropout)]

        self.conv_stack = nn.Sequential(
            *block(3, 8), *block(8, 16), nn.MaxPool2d(2),  # 32 → 16
            *block(16, 16), *block(16, 32), nn.MaxPool2d(2),  # → 8
            *block(32, 64), *block(64, 128), nn.MaxPool2d(2),  # → 4
            nn.Conv2d(128, 512, 2),  # → 3
        ).to(memory_format=torch.channels_last)  # fmt: skip
        self.mlp = nn.Sequential(nn.ELU(), nn.Dropout(0.5), nn.Linear(512, 10))
        self.seen = []  # rows and columns of each layer's input that position [0, 0] of the last map depends on
        size = 1
        for layer in reversed(self.conv_stack):
            if isinstance(layer, nn.Conv2d):
                size += layer.kernel_size[0] - 1 - layer.padding[0]
            elif isinstance(layer, nn.MaxPool2d):
                size *= layer.kernel_size
            self.seen.insert(0, size)

    def features(self, x: Float[Tensor, "batch 3 32 32"]) -> Float[Tensor, "batch 512"]:
        """Position [0, 0] of the last map. Each layer gets the corner of its input that this position sees, which
        changes nothing and is two to three times as fast."""
        x = x.contiguous(memory_format=torch.channels_last)
        for layer, size in zip(self.conv_stack, self.seen, strict=True):
            x = layer(x[:, :, :size, :size])
        return x[:, :, 0, 0]

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


# --- problem 3: 3×32×32 images ----------------------------------------------------------------------------

# Maps or units from the code outwards. A step costs the square of the width: `narrow` is for a run of two minutes.
WIDTHS = {"conv": (256, 128, 64), "narrow": (128, 64, 32), "mlp": (128, 256, 512, 1024, 2048)}


def _check_architecture(architecture: str) -> None:
    if architecture not in WIDTHS:
        raise ValueError(f"architecture is {architecture!r}; choose one of {', '.join(map(repr, WIDTHS))}")


class LeakyReLU(nn.Module):
    """x where x > 0, else 0.2 x, as a product with a mask that takes part in no derivative.

    Differentiating PyTorch's own twice, as the gradient penalty does, sends a tensor of zeros back through the
    whole critic: a tenth of a critic step.
    """

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            mask = torch.full_like(x, 0.2).masked_fill_(x > 0, 1.0)
        return x * mask


def _he_initialise(layers: nn.Sequential) -> None:
    """Weights N(0, 2/fan-in), biases 0 (He et al. 2015): what lets networks without normalisation start.

    A value of a transposed convolution is a sum over in·(kernel/stride)² inputs, not the in·kernel² or
    out·kernel² that `nn.init` takes. Its taps are not drawn apart: each pair of maps has one random number times the
    kernel of bilinear upsampling (Long, Shelhamer and Darrell 2015, section 3.3), of the same mean square. Untrained,
    such a generator makes smooth blots, with independent taps a grain that a short training does not get rid of.
    """
    bilinear = torch.tensor([1.0, 3.0, 3.0, 1.0]) / 5**0.5  # of mean square 1
    for layer in layers:
        if isinstance(layer, nn.ConvTranspose2d):
            nn.init.normal_(layer.weight, std=math.sqrt(2 / (4 * layer.in_channels)))
            with torch.no_grad():
                layer.weight.copy_(layer.weight[:, :, :1, :1] * torch.outer(bilinear, bilinear))
        elif isinstance(layer, nn.Linear | nn.Conv2d):
            nn.init.normal_(layer.weight, std=math.sqrt(2 / layer.weight[0].numel()))
        else:
            continue
        nn.init.zeros_(layer.bias)


class Generator(nn.Module):
    """z → an image in [−1, 1]: the generator of problem 3's GAN and the decoder of its VAE, one class for both.

    latent: number of latent dimensions L. architecture: `conv`, a linear map to 256 maps of 4×4 and transposed
    convolutions 256–128–64–3 (Radford et al. 2016); `narrow`, the same of half the maps, a quarter of the work; `mlp`,
    the report's 100–128–256–512–1024–2048–3072. All with ReLU and a tanh at the end, and none with batch
    normalisation: it is not needed, an image does not depend on the others of its batch, and an average of weights
    needs no statistics of its own.
    """

    def __init__(self, latent: int = 100, architecture: str = "conv"):
        super().__init__()
        _check_architecture(architecture)
        self.latent, self.architecture = latent, architecture
        if architecture == "mlp":
            sizes = (latent, *WIDTHS["mlp"])
            layers = [layer for a, b in pairwise(sizes) for layer in (nn.Linear(a, b), nn.ReLU())]
            layers += [nn.Linear(sizes[-1], 3072), nn.Unflatten(1, (3, 32, 32)), nn.Tanh()]
        else:
            a, b, c = WIDTHS[architecture]
            layers = [
                nn.Linear(latent, a * 16), nn.Unflatten(1, (a, 4, 4)), nn.ReLU(),
                nn.ConvTranspose2d(a, b, 4, 2, 1), nn.ReLU(),  # 4 → 8
                nn.ConvTranspose2d(b, c, 4, 2, 1), nn.ReLU(),  # → 16
                nn.ConvTranspose2d(c, 3, 4, 2, 1), nn.Tanh(),  # → 32
            ]  # fmt: skip
        self.layers = nn.Sequential(*layers).to(memory_format=torch.channels_last)
        _he_initialise(self.layers)
        with torch.no_grad():  # or the first images are all black and white
            next(m for m in reversed(self.layers) if hasattr(m, "weight")).weight.mul_(0.15)

    def forward(self, z: Float[Tensor, "batch latent"]) -> Float[Tensor, "batch 3 32 32"]:
        return self.layers(z)


def _from_image(architecture: str, outputs: int) -> nn.Sequential:
    """The generator's mirror, without normalisation: (batch, 3, 32, 32) → (batch, outputs)."""
    _check_architecture(architecture)
    if architecture == "mlp":
        sizes = (3072, *reversed(WIDTHS["mlp"]))
        layers = [layer for a, b in pairwise(sizes) for layer in (nn.Linear(a, b), LeakyReLU())]
        layers = [nn.Flatten(), *layers, nn.Linear(sizes[-1], outputs)]
    else:
        c, b, a = WIDTHS[architecture]
        layers = [
            nn.Conv2d(3, a, 4, 2, 1), LeakyReLU(),  # 32 → 16
            nn.Conv2d(a, b, 4, 2, 1), LeakyReLU(),  # → 8
            nn.Conv2d(b, c, 4, 2, 1), LeakyReLU(),  # → 4
            nn.Flatten(), nn.Linear(c * 16, outputs),
        ]  # fmt: skip
    net = nn.Sequential(*layers).to(memory_format=torch.channels_last)
    _he_initialise(net)
    return net


class Critic(nn.Module):
    """Image → a real number, any real number. No batch normalisation: the penalty is on each image's own gradient."""

    def __init__(self, architecture: str = "conv"):
        super().__init__()
        self.layers = _from_image(architecture, 1)

    def forward(self, x: Float[Tensor, "batch 3 32 32"]) -> Float[Tensor, " batch"]:
        return self.layers(x.contiguous(memory_format=torch.channels_last)).squeeze(1)


class ImageVAE(nn.Module):
    """q(z|x) = N(mean, diag exp(logvar)), whose standard deviation cannot but be positive; decoder: `Generator`."""

    def __init__(self, latent: int = 100, architecture: str = "conv"):
        super().__init__()
        self.latent = latent
        self.encoder = _from_image(architecture, 2 * latent)
        self.decoder = Generator(latent, architecture)

    def encode(
        self, x: Float[Tensor, "batch 3 32 32"]
    ) -> tuple[Float[Tensor, "batch latent"], Float[Tensor, "batch latent"]]:
        """Mean and log-variance of q(z|x)."""
        mean, logvar = self.encoder(x.contiguous(memory_format=torch.channels_last)).chunk(2, dim=1)
        return mean, logvar

    def decode(self, z: Float[Tensor, "batch latent"]) -> Float[Tensor, "batch 3 32 32"]:
        """g(z), the mean of p(x|z)."""
        return self.decoder(z)
