"""The residual networks of the zoo: ResNets for small images with batch normalisation.

Source: He et al., "Deep Residual Learning", arXiv 1512.03385, section 4.2, with projection shortcuts (option B).
"""

from collections.abc import Sequence

from export.models.graph import GraphBuilder

STAGE_CHANNELS = (16, 32, 64)
WIDE_CHANNELS = (64, 128, 256, 512)


def resnet8(b: GraphBuilder, class_count: int) -> str:
    """One residual block per stage: 7 convolutions and one fully connected layer."""
    return _resnet(b, class_count, blocks=1)


def resnet20(b: GraphBuilder, class_count: int) -> str:
    """Three residual blocks per stage: 19 convolutions and one fully connected layer."""
    return _resnet(b, class_count, blocks=3)


def resnet18(b: GraphBuilder, class_count: int) -> str:
    """The ImageNet network's four stages of two blocks, begun for small images: a 3x3 convolution, no pooling."""
    return _resnet(b, class_count, blocks=2, widths=WIDE_CHANNELS)


def _resnet(b: GraphBuilder, class_count: int, blocks: int, widths: Sequence[int] = STAGE_CHANNELS) -> str:
    x = b.conv(b.input, "conv1", widths[0], 3, padding=1, bias=False)
    x = b.relu(b.batch_norm(x, "bn1"), "relu1")
    for stage, channels in enumerate(widths, start=1):
        for block in range(blocks):
            stride = 2 if stage > 1 and block == 0 else 1
            x = _block(b, x, f"layer{stage}.{block}", channels, stride)
    return b.logits(b.global_average_pool(x, "pool"), "fc", class_count)


def _block(b: GraphBuilder, x: str, name: str, channels: int, stride: int) -> str:
    """Two 3x3 convolutions beside a shortcut: the identity, or a 1x1 convolution where the shape changes."""
    y = b.conv(x, f"{name}.conv1", channels, 3, stride=stride, padding=1, bias=False)
    y = b.relu(b.batch_norm(y, f"{name}.bn1"), f"{name}.relu1")
    y = b.batch_norm(b.conv(y, f"{name}.conv2", channels, 3, padding=1, bias=False), f"{name}.bn2")
    if b.shape(x) != b.shape(y):
        x = b.conv(x, f"{name}.shortcut.conv", channels, 1, stride=stride, bias=False)
        x = b.batch_norm(x, f"{name}.shortcut.bn")
    return b.relu(b.add(y, x, f"{name}.add"), f"{name}.relu2")
