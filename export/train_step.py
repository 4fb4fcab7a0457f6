"""One training step as one ONNX graph of standard operators, made from a forward model.

    model = import_onnx(Path("model.onnx"))
    step = train_step(model, loss="cross_entropy", optimizer=choose_optimizer("sgd", momentum=0.9))
    session = onnxruntime.InferenceSession(step.train.SerializeToString())

    values = model.initial | {s.name: np.zeros(s.shape, s.dtype) for s in step.states}
    masks = {mask_name(p.name): np.ones(p.shape, bool) for p in step.parameters if p.prunable}
    for x, y in batches:
        feed = {"input": x, "labels": y, "learning_rate": np.array(0.1, np.float32)}
        loss, correct, *following = session.run(None, feed | values | masks)
        values = dict(zip(values, following))

Any onnxruntime from 1.19.2 on runs it, without training operators.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

import onnx_ir as ir
from onnx import ModelProto, TensorProto

from device_runtime.wire.errors import UsageError
from device_runtime.wire.manifest import Loss, Optimizer, Parameter, State, mask_name
from export.forward.batch_moments import BatchMoments
from export.forward.form import BATCH
from export.forward.model import ForwardModel
from export.forward.modes import evaluation_form
from export.gradients.reverse import gradients
from export.sparse.lowering import lower
from export.steps.losses import LossValues, add_loss, check_output
from export.steps.step_graph import StepGraph
from export.steps.update_rules import STEP, Trained, clipped, state_names, update

LABELS = "labels"
LEARNING_RATE = "learning_rate"
LOSS = "loss"
CORRECT = "correct"
GATHERED = "optimizer.gathered"
_FLOAT, _INT64, _BOOL = TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL


@dataclass(frozen=True, slots=True)
class TrainStep:
    """The graphs of one training step, and what they work on.

    train: inputs `input` float32 [batch, ...]; `labels` (int64 [batch] for cross_entropy, else float32 of the output's
    shape); `learning_rate` float32 scalar; every parameter by its name; `<name>.mask` bool for every prunable one;
    every state by its name; with a proximal term `<name>.anchor` for every trained one. Outputs: `loss` float32 scalar;
    `correct` int64 scalar (cross_entropy only); `<name>.next` for every parameter, then for every state.
    evaluate: inputs `input`, `labels`, the parameters; outputs `loss`, `correct` (cross_entropy only), `output`.
    States are zero before the first step. A pruned weight (mask False) counts as 0, and its next value is +0.
    """

    train: ModelProto
    evaluate: ModelProto
    parameters: tuple[Parameter, ...]
    states: tuple[State, ...]


def train_step(
    model: ForwardModel | ModelProto,
    *,
    loss: Loss,
    optimizer: Optimizer,
    trainable: Collection[str] | None = None,
    accumulation: int = 1,
    sparse: bool = False,
) -> TrainStep:
    """The training step of what `import_onnx` and `import_torch` give, or of onnx's model in the same form.

    trainable: names of the parameters to train; the others keep their values. None trains all. Running statistics of
    batch normalisations are updated by the forward pass in either case. The loss is the batch's mean, without the
    proximal term and taken before the update.
    accumulation: over how many batches gradients are averaged before the optimizer moves once, by more states; the
    batches in between leave parameters as they are.

    Raises GradientError (a UsageError) for a node that cannot be differentiated, naming it and what would help;
    UsageError for an opset out of range, an axis other than the batch that is open, an unknown parameter or loss.
    """
    if accumulation < 1:
        raise UsageError(f"gradients cannot be accumulated over {accumulation} batches: give 1 or more")
    forward = ForwardModel.of(model)
    table = forward.parameters
    chosen = _chosen(table, trainable)
    plain = evaluation_form(forward.proto)
    moments = BatchMoments(plain, table)
    train = StepGraph(moments.model, table)
    if sparse:
        lower(train, table)
    states = _Training(train, table, loss, optimizer, chosen, moments, accumulation, sparse).build()
    evaluate = StepGraph(plain, table)
    values = add_batch_loss(evaluate, loss)
    _add_loss_outputs(evaluate, values)
    evaluate.add_output(evaluate.output.name or "", evaluate.output, _FLOAT, evaluate.output_shape)
    return TrainStep(train.finished(), evaluate.finished(), table, states)


def _chosen(table: Sequence[Parameter], trainable: Collection[str] | None) -> tuple[Parameter, ...]:
    known = {p.name: p for p in table if p.role != "statistic"}
    for name in trainable or ():
        if name not in known:
            raise UsageError(f"the model has no parameter {name!r} to train: choose from {', '.join(known)[:200]}")
    return tuple(p for name, p in known.items() if trainable is None or name in trainable)


def add_batch_loss(step: StepGraph, loss: Loss) -> LossValues:
    """Append the loss of a batch, whose labels become an input. Raises UsageError as `check_output`."""
    check_output(loss, step.output_shape)
    if loss == "cross_entropy":
        labels = step.add_input(LABELS, _INT64, (BATCH,), behind="input")
    else:
        labels = step.add_input(LABELS, _FLOAT, step.output_shape, behind="input")
    return add_loss(step.tape, loss, step.output, labels)


def _add_loss_outputs(step: StepGraph, values: LossValues) -> None:
    step.add_output(LOSS, values.loss, _FLOAT, ())
    if values.correct is not None:
        step.add_output(CORRECT, values.correct, _INT64, ())


@dataclass(frozen=True, slots=True)
class _Training:
    """What the training graph is built from, and the order it is built in."""

    step: StepGraph
    table: tuple[Parameter, ...]
    loss: Loss
    optimizer: Optimizer
    chosen: tuple[Parameter, ...]
    moments: BatchMoments
    accumulation: int
    sparse: bool

    def build(self) -> tuple[State, ...]:
        """Add masks, loss, gradients, update and statistics; gives the states."""
        step, tape = self.step, self.step.tape
        values = add_batch_loss(step, self.loss)
        rate = step.add_input(LEARNING_RATE, _FLOAT, (), behind=LABELS)
        masked = [] if self.sparse else [p for p in self.table if p.prunable]
        masks = {p.name: step.add_input(mask_name(p.name), _BOOL, p.shape) for p in masked}
        held = {p.name: step.inputs[p.name] for p in self.table} | self._gate(masks)
        gates = [held[name].producer() for name in masks]
        nodes = [node for node in gates if node is not None] + step.forward
        found = gradients(tape, nodes, {step.output: values.gradient}, [step.inputs[p.name] for p in self.chosen])
        trained = []
        for p in self.chosen:
            gradient = found[step.inputs[p.name]]
            if gradient is not None:
                trained.append(Trained(p.name, held[p.name], gradient, masks.get(p.name)))
        tape.scope = "optimizer"
        if self.accumulation > 1:
            states, following = self._now_and_then(trained, rate)
        else:
            states, following = self._updates(self._with_penalties(trained), rate)
        tape.scope = "statistics"
        for name, (moment, share) in self.moments.sources.items():
            batch = next(v for node in step.forward for v in node.outputs if v.name == moment)
            old = tape.op("Mul", step.inputs[name], share)
            following[name] = tape.op("Add", old, tape.op("Mul", batch, 1.0 - share))
        _add_loss_outputs(step, values)
        for p in self.table:
            next_value = following.get(p.name, held[p.name])
            step.add_output(f"{p.name}.next", next_value, _FLOAT, tape.shape(step.inputs[p.name]))
        for state in states:
            step.add_output(f"{state.name}.next", following[state.name], _FLOAT, tape.shape(step.inputs[state.name]))
        return states

    def _now_and_then(
        self, trained: Sequence[Trained], rate: ir.Value
    ) -> tuple[tuple[State, ...], dict[str, ir.Value]]:
        """As `_updates`, of the mean gradient of every `accumulation` batches; in between, all stays as it is."""
        tape, step, shapes = self.step.tape, self.step, {p.name: p.shape for p in self.table}
        count = tape.op("Add", step.add_input(GATHERED, _FLOAT, ()), 1.0)
        due = tape.op("GreaterOrEqual", count, float(self.accumulation))
        waiting = tape.cast_like(tape.op("Not", due), count)
        gathered = {GATHERED: tape.op("Mul", count, waiting)}
        states = [State(name=GATHERED, shape=())]
        means = []
        for p in trained:
            name = f"{p.name}.gathered"
            states.append(State(name=name, shape=shapes[p.name]))
            before = step.add_input(name, _FLOAT, tape.shape(step.inputs[p.name]))
            total = tape.op("Add", before, tape.op("Mul", p.gradient, 1.0 / self.accumulation))
            if p.mask is not None:
                total = tape.op("Mul", total, tape.cast_like(p.mask, total))
            gathered[name] = tape.op("Mul", total, waiting)
            means.append(replace(p, gradient=total))
        own, moved = self._updates(self._with_penalties(means), rate)
        held = {p.name: p.value for p in trained} | {state.name: step.inputs[state.name] for state in own}
        following = {name: tape.op("Where", due, value, held[name]) for name, value in moved.items()}
        return (*states, *own), following | gathered

    def _gate(self, masks: dict[str, ir.Value]) -> dict[str, ir.Value]:
        """Where(mask, w, 0) in front of every use of a prunable weight."""
        tape = self.step.tape
        tape.scope = "mask"
        gated = {}
        for name, mask in masks.items():
            weight = self.step.inputs[name]
            uses = list(weight.uses())
            gated[name] = tape.op("Where", mask, weight, 0.0)
            tape.declare(gated[name], tape.shape(weight))
            for use in uses:
                use.node.replace_input_with(use.idx, gated[name])
        return gated

    def _with_penalties(self, trained: list[Trained]) -> list[Trained]:
        """The gradients with FedProx's term mu (w - anchor), then scaled down to the global norm allowed."""
        tape, mu = self.step.tape, self.optimizer.proximal_mu
        if mu:
            pulled = []
            for p in trained:
                anchor = self.step.add_input(f"{p.name}.anchor", _FLOAT, tape.shape(self.step.inputs[p.name]))
                pull = tape.op("Mul", tape.op("Sub", p.value, anchor), mu)
                if p.mask is not None:
                    pull = tape.op("Mul", pull, tape.cast_like(p.mask, pull))
                pulled.append(replace(p, gradient=tape.op("Add", p.gradient, pull)))
            trained = pulled
        if self.optimizer.clip_norm and trained:
            scaled = clipped(tape, [p.gradient for p in trained], self.optimizer.clip_norm)
            trained = [replace(p, gradient=g) for p, g in zip(trained, scaled, strict=True)]
        return trained

    def _updates(self, trained: Sequence[Trained], rate: ir.Value) -> tuple[tuple[State, ...], dict[str, ir.Value]]:
        """The states, and the next value of every trained parameter and state by name."""
        tape, step, shapes = self.step.tape, self.step, {p.name: p.shape for p in self.table}
        following: dict[str, ir.Value] = {}
        states: list[State] = []
        count = None
        if self.optimizer.name == "adamw":
            states.append(State(name=STEP, shape=()))
            count = following[STEP] = tape.op("Add", step.add_input(STEP, _FLOAT, ()), 1.0)
        for p in trained:
            own = [State(name=name, shape=shapes[p.name]) for name in state_names(self.optimizer, p.name)]
            length = tape.shape(step.inputs[p.name])
            inputs = [step.add_input(state.name, _FLOAT, length) for state in own]
            updated = update(tape, self.optimizer, p, inputs, rate, count)
            following[p.name] = updated.value
            following.update(updated.states)
            states.extend(own)
        return tuple(states), following
