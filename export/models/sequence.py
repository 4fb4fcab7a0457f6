"""The 1-D network of the zoo, for sensor windows [channels, length] and spectrograms [bands, frames]."""

from export.models.graph import GraphBuilder


def cnn1d(b: GraphBuilder, class_count: int) -> str:
    """Three convolutions along time (32, 64, 64; kernel 5), pooled twice, averaged over time, 64 hidden units."""
    x = b.input
    for i, channels in enumerate((32, 64, 64), start=1):
        x = b.relu(b.conv(x, f"conv{i}", channels, 5, padding=2), f"relu{i}")
        if i < 3:
            x = b.max_pool(x, f"pool{i}", 2, stride=2)
    x = b.global_average_pool(x, "average")
    x = b.relu(b.linear(x, "fc1", 64), "relu4")
    return b.logits(x, "fc2", class_count)
