"""Five torch models from outside the zoo, trained a little and kept as ONNX files, as torch writes them.

    python -m tests.unit.export.deploy.outside_models OUT [WATCH_HAR.npz FSDD_LOGMEL.npz]

Needs torch. The files beside this one (outside/*.onnx) were made with it, so that no test does.
"""

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import torch
from torch import nn

from export.models.torch_import import import_torch

ROOT = Path(__file__).parents[4]


def conv(before: int, after: int, kernel: int, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    """A convolution, normalised, with ReLU6."""
    layer = nn.Conv2d(before, after, kernel, stride, kernel // 2, groups=groups, bias=False)
    return [layer, nn.BatchNorm2d(after), nn.ReLU6()]


class Inverted(nn.Module):
    """MobileNetV2's block: widen, depthwise, narrow, and the input added where shapes agree."""

    def __init__(self, before: int, after: int, stride: int, widen: int) -> None:
        super().__init__()
        inside = before * widen
        narrow = [nn.Conv2d(inside, after, 1, bias=False), nn.BatchNorm2d(after)]
        self.body = nn.Sequential(*conv(before, inside, 1), *conv(inside, inside, 3, stride, inside), *narrow)
        self.adds = stride == 1 and before == after

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.body(x) if self.adds else self.body(x)


class MobileNet(nn.Module):
    """A small MobileNetV2: the mean over positions is x.mean, as torchvision writes it."""

    def __init__(self) -> None:
        super().__init__()
        blocks = [Inverted(8, 8, 1, 2), Inverted(8, 16, 2, 3), Inverted(16, 16, 1, 3)]
        self.features = nn.Sequential(*conv(1, 8, 3), *blocks, *conv(16, 32, 1))
        self.classifier = nn.Sequential(nn.Dropout(0.0), nn.Linear(32, 10))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.classifier(self.features(x).mean([2, 3]))


class GroupBlock(nn.Module):
    """A residual block with GroupNorm."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, after, 3, stride, 1, bias=False)
        self.norm1 = nn.GroupNorm(4, after)
        self.conv2 = nn.Conv2d(after, after, 3, 1, 1, bias=False)
        self.norm2 = nn.GroupNorm(4, after)
        self.short = nn.Identity() if before == after else nn.Conv2d(before, after, 1, stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.relu(self.norm1(self.conv1(x)))
        return torch.relu(self.norm2(self.conv2(y)) + self.short(x))


def resnet_group_norm() -> nn.Module:
    """A small residual network with GroupNorm, as federated learning likes it."""
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10)]
    return nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), GroupBlock(8, 8, 1), GroupBlock(8, 16, 2), *head)


def conv_1d() -> nn.Module:
    """A 1-D network with strides, dilation, BatchNorm1d behind a fully connected layer, and LeakyReLU."""
    return nn.Sequential(
        nn.Conv1d(6, 16, 7, stride=2, padding=3),
        nn.BatchNorm1d(16),
        nn.LeakyReLU(0.1),
        nn.Conv1d(16, 24, 5, padding=4, dilation=2),
        nn.ReLU(),
        nn.MaxPool1d(3, stride=2, padding=1),
        nn.AvgPool1d(2),
        nn.Flatten(),
        nn.Linear(24 * 16, 32),
        nn.BatchNorm1d(32),
        nn.Hardswish(),
        nn.Linear(32, 7),
    )


class Autoencoder(nn.Module):
    """Strided convolutions down to 8 numbers, transposed convolutions up to the image."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Sequential(
            nn.Conv2d(1, 8, 3, stride=2, padding=1), nn.ReLU(), nn.Conv2d(8, 12, 3, stride=2, padding=1), nn.ReLU()
        )
        self.code = nn.Linear(48, 8)
        self.back = nn.Linear(8, 48)
        self.up = nn.Sequential(
            nn.ConvTranspose2d(12, 8, 3, stride=2, padding=1, output_padding=1),
            nn.ReLU(),
            nn.ConvTranspose2d(8, 1, 2, stride=2),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        code = torch.tanh(self.code(self.down(x).flatten(1)))
        return self.up(torch.relu(self.back(code)).view(-1, 12, 2, 2))


def ds_cnn() -> nn.Module:
    """The keyword-spotting DS-CNN of "Hello Edge" (arXiv 1711.07128), small: a 10x4 convolution, depthwise pairs."""
    layers: list[nn.Module] = [nn.Conv2d(1, 16, (10, 4), (2, 2), (5, 1), bias=False), nn.BatchNorm2d(16), nn.ReLU()]
    for _ in range(3):
        layers += [nn.Conv2d(16, 16, 3, padding=1, groups=16, bias=False), nn.BatchNorm2d(16), nn.ReLU()]
        layers += [nn.Conv2d(16, 16, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU()]
    return nn.Sequential(*layers, nn.AvgPool2d((25, 19)), nn.Flatten(), nn.Linear(16, 10))


class Attention(nn.Module):
    """One attention head over a sensor window with an exact GELU: what only litert-torch can write as TFLite."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.query, self.key = nn.Linear(6, 32), nn.Linear(32, 32), nn.Linear(32, 32)
        self.value, self.head = nn.Linear(32, 32), nn.Linear(32, 7)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = nn.functional.gelu(self.embed(x.transpose(1, 2)))
        seen = torch.softmax(self.query(x) @ self.key(x).transpose(1, 2) / 32**0.5, -1) @ self.value(x)
        return self.head(seen.mean(1))


def trained(make: Callable[[], nn.Module], x: np.ndarray, y: np.ndarray | None, epochs: int) -> nn.Module:
    """A model after a few epochs of Adam: cross entropy, or reconstruction where there are no labels."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    model = make().train()
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    inputs = torch.from_numpy(x)
    for _ in range(epochs):
        for batch in torch.randperm(len(inputs)).split(32):
            out = model(inputs[batch])
            target = inputs[batch] if y is None else torch.from_numpy(y)[batch]
            loss = nn.functional.mse_loss(out, target) if y is None else nn.functional.cross_entropy(out, target)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return model.eval()


# What import_torch finds by name: module:ready_<name>.
READY: dict[str, nn.Module] = {}


def __getattr__(name: str) -> nn.Module:
    return READY[name.removeprefix("ready_")]


def load(path: Path, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Samples [N, C, ...], mean 0 and deviation 1 over the training set, and classes."""
    with np.load(path) as data:
        reference, x = (data[f"x_{s}"].astype(np.float32) for s in ("train", split))
        y = data[f"y_{split}"].astype(np.int64)
    x = (
        (x - reference.mean(axis=(0, 1))) / reference.std(axis=(0, 1))
        if x.ndim == 3 and x.shape[2] == 6
        else ((x - reference.mean()) / reference.std())
    )
    return (np.ascontiguousarray(np.moveaxis(x, 2, 1)) if x.shape[2] == 6 else x[:, None]).astype(np.float32), y


def main() -> None:
    """Train the models and write their files."""
    out = Path(sys.argv[1])
    digits = load(ROOT / "aggregator" / "demo" / "digits.npz", "train")
    har, fsdd = (load(Path(p), "train") for p in sys.argv[2:4])
    plans = {
        "mobilenet": (MobileNet, *digits, 12),
        "resnet_group_norm": (resnet_group_norm, *digits, 8),
        "conv_1d": (conv_1d, *har, 12),
        "autoencoder": (Autoencoder, digits[0], None, 30),
        "ds_cnn": (ds_cnn, *fsdd, 15),
    }
    this = sys.modules["tests.unit.export.deploy.outside_models"] = sys.modules[__name__]
    for name, (make, x, y, epochs) in plans.items():
        this.READY[name] = trained(make, x, y, epochs)
        model = import_torch(f"tests.unit.export.deploy.outside_models:ready_{name}", x.shape[1:])
        onnx.save(model.proto, out / f"{name}.onnx")


if __name__ == "__main__":
    main()
