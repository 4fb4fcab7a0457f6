"""torch models that are not of the zoo, as users bring them: each a factory without arguments."""

from typing import Any

import torch
from torch import nn


def depthwise() -> nn.Module:
    """MobileNet's parts: depthwise-separable convolutions, Relu6, HardSwish, squeeze by HardSigmoid."""
    torch.manual_seed(0)

    class Squeeze(nn.Module):
        def __init__(self, channels: int) -> None:
            super().__init__()
            self.down, self.up = nn.Conv2d(channels, 4, 1), nn.Conv2d(4, channels, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            scale = torch.relu(self.down(x.mean((2, 3), keepdim=True)))
            return x * nn.functional.hardsigmoid(self.up(scale))

    def separable(before: int, after: int, stride: int, act: nn.Module) -> list[nn.Module]:
        depth = nn.Conv2d(before, before, 3, stride, 1, groups=before, bias=False)
        point = nn.Conv2d(before, after, 1, bias=False)
        return [depth, nn.BatchNorm2d(before), act, point, nn.BatchNorm2d(after), act]

    return nn.Sequential(
        nn.Conv2d(3, 8, 3, 2, 1, bias=False),
        nn.BatchNorm2d(8),
        nn.Hardswish(),
        *separable(8, 16, 1, nn.ReLU6()),
        Squeeze(16),
        *separable(16, 24, 2, nn.Hardswish()),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(24, 5),
    )


def group_norm_residual() -> nn.Module:
    """A residual network with group normalisation, average pooling and a strided shortcut."""
    torch.manual_seed(1)

    class Block(nn.Module):
        def __init__(self, before: int, after: int) -> None:
            super().__init__()
            self.one, self.two = nn.Conv2d(before, after, 3, 2, 1), nn.Conv2d(after, after, 3, 1, 1)
            self.norm1, self.norm2 = nn.GroupNorm(4, after), nn.GroupNorm(2, after)
            self.short = nn.Sequential(nn.AvgPool2d(2), nn.Conv2d(before, after, 1))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = nn.functional.leaky_relu(self.norm1(self.one(x)), 0.1)
            return nn.functional.elu(self.norm2(self.two(y)) + self.short(x))

    return nn.Sequential(
        nn.Conv2d(3, 8, 3, 1, 1),
        nn.GroupNorm(2, 8),
        nn.SiLU(),
        Block(8, 16),
        nn.MaxPool2d(3, 2, 1),
        Block(16, 16),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(16, 5),
    )


class Attention(nn.Module):
    """Multi-head self-attention."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, length, width = x.shape
        q, k, v = self.qkv(x).reshape(batch, length, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        weights = torch.softmax(q @ k.transpose(-2, -1) / (width // self.heads) ** 0.5, dim=-1)
        return self.out((weights @ v).transpose(1, 2).reshape(batch, length, width))


class Encoder(nn.Module):
    """A transformer encoder block with learned positions, before a linear classifier of the mean token."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(6, 16)
        self.position = nn.Parameter(torch.randn(1, 10, 16) * 0.1)
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(16) for _ in range(3))
        self.attention = Attention(16, 4)
        self.mlp = nn.Sequential(nn.Linear(16, 32), nn.GELU(), nn.Linear(32, 16))
        self.head = nn.Linear(16, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.embed(x) + self.position
        x = x + self.attention(self.norm1(x))
        x = x + self.mlp(self.norm2(x))
        return self.head(self.norm3(x).mean(dim=1))


def encoder() -> nn.Module:
    """LayerNorm, Gelu, Softmax, products of activations."""
    torch.manual_seed(2)
    return Encoder()


class Embedding(nn.Module):
    """Token numbers, as floats because an input is float32, looked up and averaged."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(30, 12)
        self.mix, self.head = nn.Linear(12, 16), nn.Linear(16, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(torch.tanh(self.mix(self.table(x.long()))).mean(dim=1))


def embedding() -> nn.Module:
    """An embedding classifier."""
    torch.manual_seed(3)
    return Embedding()


def autoencoder() -> nn.Module:
    """Strided convolutions down, transposed convolutions up."""
    torch.manual_seed(4)
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, 2, 1),
        nn.ReLU(),
        nn.Conv2d(8, 16, 3, 2, 1),
        nn.Softplus(),
        nn.ConvTranspose2d(16, 8, 3, 2, 1, output_padding=1),
        nn.ReLU(),
        nn.ConvTranspose2d(8, 1, 4, 2, 1),
        nn.Sigmoid(),
    )


SHAPES: dict[str, tuple[int, ...]] = {
    "depthwise": (3, 16, 16),
    "group_norm_residual": (3, 16, 16),
    "encoder": (10, 6),
    "embedding": (7,),
    "autoencoder": (1, 12, 12),
}
FACTORIES: dict[str, Any] = {name: globals()[name] for name in SHAPES}
