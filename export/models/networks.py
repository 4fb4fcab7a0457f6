"""The plain networks of the zoo: fully connected and 2-D convolutional, without normalisation."""

from collections.abc import Sequence

from export.models.graph import GraphBuilder


def mlp(b: GraphBuilder, class_count: int, hidden: Sequence[int] = (128, 64)) -> str:
    """Fully connected layers with ReLU over the flattened input."""
    x = b.flatten(b.input)
    for i, features in enumerate(hidden, start=1):
        x = b.relu(b.linear(x, f"fc{i}", features), f"relu{i}")
    return b.logits(x, f"fc{len(hidden) + 1}", class_count)


def lenet5(b: GraphBuilder, class_count: int) -> str:
    """LeNet-5 (LeCun et al., 1998) with ReLU and max pooling.

    The original pads 28x28 digits to 32x32; here the first convolution does so, for 28x28 only.
    """
    padding = 2 if b.shape(b.input)[1:] == (28, 28) else 0
    x = b.relu(b.conv(b.input, "conv1", 6, 5, padding=padding), "relu1")
    x = b.max_pool(x, "pool1", 2, stride=2)
    x = b.relu(b.conv(x, "conv2", 16, 5), "relu2")
    x = b.flatten(b.max_pool(x, "pool2", 2, stride=2))
    x = b.relu(b.linear(x, "fc1", 120), "relu3")
    x = b.relu(b.linear(x, "fc2", 84), "relu4")
    return b.logits(x, "fc3", class_count)


def mnistnet(b: GraphBuilder, class_count: int, double_softmax: bool = False) -> str:
    """FedDST's network for MNIST: 5x5 convolutions to 10 and 20 channels, overlapping pooling, 50 hidden units.

    double_softmax: end in a softmax that the loss then takes for logits, as the published code does.
    """
    return _feddst(b, class_count, (10, 20), (50,), double_softmax)


def cifar10net(b: GraphBuilder, class_count: int, double_softmax: bool = False) -> str:
    """FedDST's network for CIFAR-10: 5x5 convolutions to 6 and 16 channels, overlapping pooling, 120 and 84 units.

    double_softmax: end in a softmax that the loss then takes for logits, as the published code does.
    """
    return _feddst(b, class_count, (6, 16), (120, 84), double_softmax)


def _feddst(
    b: GraphBuilder, class_count: int, channels: Sequence[int], hidden: Sequence[int], double_softmax: bool
) -> str:
    x = b.input
    for i, count in enumerate(channels, start=1):
        x = b.max_pool(b.conv(x, f"conv{i}", count, 5), f"pool{i}", 3, stride=1)
        x = b.relu(x, f"relu{i}")
    x = b.flatten(x)
    for i, features in enumerate(hidden, start=1):
        x = b.relu(b.linear(x, f"fc{i}", features), f"relu{len(channels) + i}")
    x = b.logits(x, f"fc{len(hidden) + 1}", class_count)
    return b.softmax(x, "softmax") if double_softmax else x


def cnn(b: GraphBuilder, class_count: int) -> str:
    """Four 3x3 convolutions (32, 32, 64, 64) in two pooled pairs, 370 hidden units: 1.6 M parameters on 3x32x32."""
    x = b.input
    for i, count in enumerate((32, 32, 64, 64), start=1):
        x = b.relu(b.conv(x, f"conv{i}", count, 3, padding=1), f"relu{i}")
        if i % 2 == 0:
            x = b.max_pool(x, f"pool{i // 2}", 2, stride=2)
    x = b.relu(b.linear(b.flatten(x), "fc1", 370), "relu5")
    return b.logits(x, "fc2", class_count)
