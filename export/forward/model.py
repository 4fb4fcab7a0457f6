"""A forward model as one value: its graph, and all that is known of it, each found out once, when first asked for."""

from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType

from onnx import GraphProto, ModelProto, ValueInfoProto

from device_runtime.wire.cost import NodeCost
from device_runtime.wire.manifest import Parameter
from device_runtime.wire.support import FloatArray
from export.forward.costs import cost_table
from export.forward.parameters import initial_params, parameter_table
from export.forward.reading import free_inputs, opset


@dataclass(frozen=True)
class ForwardModel:
    """What `export.models` gives and the rest of `export` takes: a graph in the form of `export.forward.form`.

    proto: onnx's model, which is read and never changed.
    """

    proto: ModelProto

    @classmethod
    def of(cls, model: "ForwardModel | ModelProto") -> "ForwardModel":
        """A forward model, or onnx's model in the same form, as a forward model."""
        return model if isinstance(model, ForwardModel) else cls(model)

    @property
    def graph(self) -> GraphProto:
        """onnx's graph."""
        return self.proto.graph

    @property
    def opset(self) -> int:
        """The version of the standard operators, 0 where the model does not say."""
        return opset(self.proto)

    @property
    def ir_version(self) -> int:
        """The version of the file format."""
        return int(self.proto.ir_version)

    @cached_property
    def parameters(self) -> tuple[Parameter, ...]:
        """The parameter table, in the order of the initializers. Raises UsageError as `parameter_table` does."""
        return parameter_table(self.proto)

    @cached_property
    def initial(self) -> MappingProxyType[str, FloatArray]:
        """The values of the parameters, read-only. Raises UsageError as `parameter_table` does."""
        values = initial_params(self.proto)
        for value in values.values():
            value.flags.writeable = False
        return MappingProxyType(values)

    @cached_property
    def costs(self) -> tuple[NodeCost, ...]:
        """The dense FLOPs of every contraction, for one sample. Raises UsageError as `cost_table` does."""
        return cost_table(self.proto)

    @property
    def has_statistics(self) -> bool:
        """Whether it has running statistics, which belong to the values it was trained with."""
        return any(p.role == "statistic" for p in self.parameters)

    @property
    def inputs(self) -> dict[str, tuple[int, ...]]:
        """By the name of an input, the shape of one sample, 0 for an open axis."""
        return {info.name: _sample_shape(info) for info in free_inputs(self.graph)}

    @property
    def outputs(self) -> dict[str, tuple[int, ...]]:
        """By the name of an output, the shape of one sample's, 0 for an open axis."""
        return {info.name: _sample_shape(info) for info in self.graph.output}

    def to_bytes(self) -> bytes:
        """The model as an ONNX file; the same model gives the same bytes."""
        data: bytes = self.proto.SerializeToString(deterministic=True)
        return data


def _sample_shape(info: ValueInfoProto) -> tuple[int, ...]:
    return tuple(int(d.dim_value) for d in info.type.tensor_type.shape.dim[1:])
