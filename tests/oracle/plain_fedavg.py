"""Plain federated averaging in torch, written from the paper (McMahan et al., 2017), for a test to compare with.

Run by the interpreter of the torch environment: plain_fedavg.py IN.npz OUT.npz. Of Espalier it uses the draws alone,
so that batches are the same.
"""

import json
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))

import torch
from torch import nn

from device_runtime.wire.draws import Draws


class Mlp(nn.Module):
    """64 -> 128 -> 64 -> classes."""

    def __init__(self, size: int, classes: int) -> None:
        super().__init__()
        self.fc1, self.fc2, self.fc3 = nn.Linear(size, 128), nn.Linear(128, 64), nn.Linear(64, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc3(torch.relu(self.fc2(torch.relu(self.fc1(x.flatten(1))))))


class LeNet5(nn.Module):
    """Two convolutions of 5x5 with max pooling, three fully connected layers."""

    def __init__(self, side: int, classes: int) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 6, 5), nn.Conv2d(6, 16, 5)
        left = ((side - 4) // 2 - 4) // 2
        self.fc1, self.fc2, self.fc3 = nn.Linear(16 * left * left, 120), nn.Linear(120, 84), nn.Linear(84, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.max_pool2d(torch.relu(self.conv1(x)), 2)
        x = torch.max_pool2d(torch.relu(self.conv2(x)), 2)
        return self.fc3(torch.relu(self.fc2(torch.relu(self.fc1(x.flatten(1))))))


def main(source: str, target: str) -> None:
    """Train and write the final global parameters."""
    with np.load(source) as archive:
        given = {name: archive[name] for name in archive.files}
    plan = json.loads(str(given.pop("plan")))
    torch.set_num_threads(1)
    side = given[f"x/{plan['devices'][0]}"].shape[-1]
    net = Mlp(side * side, plan["classes"]) if plan["model"] == "mlp" else LeNet5(side, plan["classes"])
    start = {n.removeprefix("param/"): torch.tensor(v) for n, v in given.items() if n.startswith("param/")}
    theta = {name: start[name] for name in net.state_dict()}
    assert theta.keys() == start.keys()
    for round_index in range(1, plan["rounds"] + 1):
        total = sum(len(given[f"y/{d}"]) for d in plan["devices"])
        mean = {name: torch.zeros_like(value) for name, value in theta.items()}
        for device in plan["devices"]:
            x = (torch.tensor(given[f"x/{device}"])[:, None].float() / 255 - 0.5) / 0.25
            y = torch.tensor(given[f"y/{device}"])
            net.load_state_dict(theta)
            optimizer = torch.optim.SGD(net.parameters(), lr=plan["lr"])
            for epoch in range(plan["epochs"]):
                order = Draws(plan["seed"], "batches", round_index, device, epoch).permutation(len(y))
                for first in range(0, len(y), plan["batch"]):
                    chosen = torch.tensor(order[first : first + plan["batch"]])
                    optimizer.zero_grad()
                    nn.functional.cross_entropy(net(x[chosen]), y[chosen]).backward()
                    optimizer.step()
            for name, value in net.state_dict().items():
                mean[name] += value * (len(y) / total)
        theta = mean
    np.savez(target, **{name: value.numpy() for name, value in theta.items()})


if __name__ == "__main__":
    main(*sys.argv[1:])
