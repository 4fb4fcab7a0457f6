"""Train an ONNX file from anywhere with nothing but standard operators: no torch, no training wheel.

python examples/train_any_onnx.py                 makes a file with torch-like random weights, then trains it
python examples/train_any_onnx.py my_model.onnx   trains yours on the bundled digits, if it takes [batch, 1, 8, 8]
"""

import sys
import tempfile
from pathlib import Path

import numpy as np
import onnxruntime

from aggregator.demo.dataset import load_dataset
from device_runtime.wire.manifest import mask_name
from export.models.onnx_import import import_onnx
from export.models.zoo import build_model
from export.steps.optimizers import choose_optimizer
from export.train_step import train_step


def main() -> None:
    """Differentiate the file, train ten epochs, print the test accuracy."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(folder) / "model.onnx"
        if len(sys.argv) == 1:
            path.write_bytes(build_model("resnet8", (1, 8, 8), 10, seed=3).to_bytes())
        model = import_onnx(path)
    step = train_step(model, loss="cross_entropy", optimizer=choose_optimizer("sgd", momentum=0.9))
    train = onnxruntime.InferenceSession(step.train.SerializeToString(), providers=["CPUExecutionProvider"])
    evaluate = onnxruntime.InferenceSession(step.evaluate.SerializeToString(), providers=["CPUExecutionProvider"])

    values = model.initial | {s.name: np.zeros(s.shape, s.dtype) for s in step.states}
    masks = {mask_name(p.name): np.ones(p.shape, bool) for p in step.parameters if p.prunable}
    data = load_dataset("digits", "auto", "resnet8")
    x, y = data.input.apply(data.x_train), data.y_train.astype(np.int64)
    order = np.random.default_rng(0)
    for epoch in range(1, 11):
        losses = []
        for chosen in np.array_split(order.permutation(len(x)), len(x) // 32):
            feed = {"input": x[chosen], "labels": y[chosen], "learning_rate": np.array(0.02, np.float32)}
            loss, _, *following = train.run(None, feed | values | masks)
            values = dict(zip(values, following, strict=True))
            losses.append(float(loss))
        print(f"epoch {epoch}: mean loss {np.mean(losses):.4f}")
    parameters = {p.name: values[p.name] for p in step.parameters}
    test = {"input": data.input.apply(data.x_test), "labels": data.y_test.astype(np.int64)}
    (correct,) = evaluate.run(["correct"], test | parameters)
    print(f"test accuracy {correct / len(data.y_test):.4f}")


if __name__ == "__main__":
    main()
