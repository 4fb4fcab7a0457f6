"""A user's torch model as a forward ONNX graph, parameters under their torch names.

The only file of Espalier that imports torch, and only when it is called. It uses torch's TorchScript-based exporter,
which keeps names, in evaluation mode without constant folding (folding renames parameters). That exporter merges
tensors that hold equal values, so that two fresh batch normalisations would come out tied; every tensor is therefore
filled with a value of its own while the model is traced, and gets its real values in the graph afterwards.
"""

import importlib
import importlib.util
import io
import os
import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import onnx
from onnx import ModelProto, helper, numpy_helper

from device_runtime.wire.errors import UsageError
from export.forward.form import BATCH, INPUT, OPSET, OUTPUT
from export.forward.model import ForwardModel
from export.forward.parameters import parameter_table
from export.models.onnx_import import as_forward


def import_torch(spec: str, input_shape: tuple[int, ...]) -> ForwardModel:
    """The forward model that `spec`, "package.module:factory", makes, for samples of `input_shape`.

    The module is looked for in the current directory too. The factory is called without arguments; a Module that is
    there already is taken as it is. What torch does not train (buffers, parameters that need no gradient) becomes a
    constant of the graph, running statistics apart. Dropout does not act during local training; a warning says so.

    Raises UsageError when torch, the module or the factory is missing, when either fails, when the result is no
    nn.Module, and for a model that cannot be exported or trains a tensor Espalier does not know how to train.
    """
    module = make_module(spec)
    torch = importlib.import_module("torch")
    if any(isinstance(m, torch.nn.modules.dropout._DropoutNd) and m.p > 0 for m in module.modules()):
        warnings.warn(f"dropout in {spec} does not act during local training", stacklevel=2)
    tensors = _named_tensors(module)
    with _told_apart(torch, tensors):
        model = _trace(torch, module, spec, input_shape)
    _fill(model, {name: tensor.detach().cpu().numpy() for name, tensor in tensors.items()})
    trained = {name for name, tensor in tensors.items() if tensor.requires_grad}
    forward = ForwardModel(_with_others_frozen(as_forward(model, spec).proto, trained))
    _check_all_trained(forward, trained, spec)
    return forward


def make_module(spec: str) -> Any:
    """The torch.nn.Module that `spec`, "package.module:factory", makes, in evaluation mode.

    Raises UsageError when torch, the module or the factory is missing, when either fails, or when the result is no
    nn.Module.
    """
    if importlib.util.find_spec("torch") is None:
        raise UsageError("torch is not installed here: install it with pip install 'espalier-fl[torch]'")
    return _make(importlib.import_module("torch"), spec).eval()


def set_tensors(module: Any, values: Mapping[str, np.ndarray], spec: str) -> None:
    """Copy values into the parameters and buffers of their names; tensors without a value stay as they are.

    Raises UsageError for a name that the module of `spec` does not have, and for another shape.
    """
    torch = importlib.import_module("torch")
    tensors = _named_tensors(module)
    for name, value in values.items():
        if name not in tensors or tuple(tensors[name].shape) != value.shape:
            raise UsageError(
                f"{spec} has no tensor {name!r} of shape {value.shape}: is it still the model that was trained?"
            )
        with torch.no_grad():
            tensors[name].copy_(torch.from_numpy(value.copy()))


def _make(torch: Any, spec: str) -> Any:
    module_name, _, factory_name = spec.partition(":")
    if not module_name or not factory_name:
        raise UsageError(f"{spec!r} does not name a torch model: write it as package.module:factory")
    factory = getattr(_import_module(module_name), factory_name, None)
    if factory is None:
        raise UsageError(f"module {module_name!r} has no {factory_name!r}: name a function or class that it defines")
    try:
        made = factory if isinstance(factory, torch.nn.Module) else factory()
    except Exception as error:
        raise UsageError(f"{spec} failed ({type(error).__name__}: {error}): it must work without arguments") from error
    if not isinstance(made, torch.nn.Module):
        raise UsageError(f"{spec} made a {type(made).__name__}: it must return a torch.nn.Module")
    return made


def _import_module(name: str) -> Any:
    here = os.getcwd()
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name and (name == error.name or name.startswith(f"{error.name}.")):
            raise UsageError(
                f"there is no module {error.name!r}: run in its folder, install it, or correct the name"
            ) from error
        raise UsageError(f"module {name!r} needs {error.name!r}, which is missing: install it") from error
    except Exception as error:
        raise UsageError(f"module {name!r} cannot be imported ({type(error).__name__}: {error}): correct it") from error


def _named_tensors(module: Any) -> dict[str, Any]:
    return dict([*module.named_parameters(), *module.named_buffers()])


@contextmanager
def _told_apart(torch: Any, tensors: dict[str, Any]) -> Iterator[None]:
    """Fill every floating tensor with a number of its own for the length of the block."""
    floats = [t for t in tensors.values() if t.is_floating_point()]
    saved = [t.detach().clone() for t in floats]
    with torch.no_grad():
        for i, tensor in enumerate(floats):
            tensor.fill_(1.0 + i / 1024)
    try:
        yield
    finally:
        with torch.no_grad():
            for tensor, values in zip(floats, saved, strict=True):
                tensor.copy_(values)


def _trace(torch: Any, module: Any, spec: str, input_shape: tuple[int, ...]) -> ModelProto:
    graph = io.BytesIO()
    first = next(module.parameters(), torch.zeros(()))
    sample = torch.zeros((2, *input_shape), dtype=torch.float32, device=first.device)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            torch.onnx.export(
                module,
                (sample,),
                graph,
                dynamo=False,
                opset_version=OPSET,
                do_constant_folding=False,
                # With "evaluation" it would fold batch normalisation into the convolution before it.
                training=torch.onnx.TrainingMode.PRESERVE,
                input_names=[INPUT],
                output_names=[OUTPUT],
                dynamic_axes={INPUT: {0: BATCH}, OUTPUT: {0: BATCH}},
            )
    except Exception as error:
        reason = str(error).strip().partition("\n")[0]
        shape = "x".join(map(str, input_shape))
        raise UsageError(
            f"{spec} cannot be exported for an input of {shape} ({type(error).__name__}: {reason}): "
            "check the input shape, and that the model is traceable"
        ) from error
    return onnx.load_from_string(graph.getvalue())


def _fill(model: ModelProto, values: dict[str, np.ndarray]) -> None:
    for tensor in model.graph.initializer:
        if tensor.name in values:
            tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(values[tensor.name]), tensor.name))


def _with_others_frozen(model: ModelProto, trained: set[str]) -> ModelProto:
    """`model` with initializers that torch does not train as Constant nodes, but for running statistics; in place."""
    statistics = {p.name for p in parameter_table(model) if p.role == "statistic"}
    kept, constants = [], []
    for tensor in model.graph.initializer:
        if tensor.name in trained or tensor.name in statistics:
            kept.append(tensor)
        else:
            constants.append(helper.make_node("Constant", [], [tensor.name], name=tensor.name, value=tensor))
    body = list(model.graph.node)
    del model.graph.initializer[:]
    del model.graph.node[:]
    model.graph.initializer.extend(kept)
    model.graph.node.extend([*constants, *body])
    return model


def _check_all_trained(model: ForwardModel, trained: set[str], spec: str) -> None:
    known = {p.name for p in model.parameters}
    for tensor in model.graph.initializer:
        if tensor.name in trained and tensor.name not in known:
            raise UsageError(
                f"{spec} trains {tensor.name!r} in a way Espalier does not know: use it in a layer of torch.nn, "
                "or set requires_grad to False"
            )
