"""The one converter: a torch.fx.Graph, however it was traced, becomes nodes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import fx
from torch.fx.node import map_aggregate
from torch.utils._pytree import tree_leaves

from covergraph.errors import BatchMixingError, TracingError, UnsupportedOperationError
from covergraph.graph.functions import ScalarFunction
from covergraph.graph.node import Node
from covergraph.graph.operations import Input
from covergraph.tracers.arithmetic import elementwise
from covergraph.tracers.call import SUPPORTED, Call, Data, State, Step, Unknown
from covergraph.tracers.forms import bind, canonical_name, torch_name
from covergraph.tracers.targets import REMEDIES, RULES, STATE_RULES
from covergraph.tracers.traced import Traced, holds_tensor, module_path, static
from covergraph.tracers.user_functions import UserFunctions

Value = Data | State


def convert(traced: Traced, output: fx.Node, functions: UserFunctions) -> tuple[list[Node], str]:
    """Nodes in topological order (inputs first, then what reaches `output`), and the name of the output.

    Names are those of the fx nodes, to be replaced. Raises `UnsupportedOperationError` and `BatchMixingError`
    with module path, operation and remedy.
    """
    converter = Converter(traced, functions)
    wanted = _reaching(output)
    for node in traced.graph.nodes:
        if node.name in traced.inputs or node in wanted:
            converter.visit(node)
    value = converter.values[output]
    if not isinstance(value, Data) or not value.dtype.is_floating_point:
        found = value.description if isinstance(value, State) else f"type {value.dtype}"
        raise TracingError(f"output {output.name!r} is {found}, expected floats that depend on the inputs")
    return converter.nodes, value.node


def _reaching(output: fx.Node) -> set[fx.Node]:
    """The nodes whose tensors reach `output`; what only gives sizes does not count."""
    found, stack = {output}, [output]
    while stack:
        for node in stack.pop().all_input_nodes:
            if node not in found and holds_tensor(node):
                found.add(node)
                stack.append(node)
    return found


class Converter:
    """Nodes so far, and the value of every fx node that was visited."""

    def __init__(self, traced: Traced, functions: UserFunctions) -> None:
        self.traced = traced
        self.functions = functions
        self.nodes: list[Node] = []
        self.values: dict[fx.Node, Value] = {}
        self.parameters = {name for name, _ in traced.module.named_parameters(remove_duplicate=False)}
        self.buffers = {name for name, _ in traced.module.named_buffers(remove_duplicate=False)}

    def visit(self, node: fx.Node) -> None:
        """Give `node` a value; append a record if it computes something."""
        if node.op in ("placeholder", "get_attr"):
            self.values[node] = self._source(node)
            return
        arguments: dict[str, Any] = map_aggregate(_arguments(node, self.traced), self._value)
        if any(isinstance(leaf, Data) for leaf in tree_leaves(dict(arguments))):
            self.values[node] = self._data(node, arguments)
        else:
            self.values[node] = _state(node, canonical_name(_target(node, self.traced)), arguments)

    def _source(self, node: fx.Node) -> Value:
        result = node.meta.get("val")
        shape = (
            tuple(result.shape) if isinstance(result, torch.Tensor) else ()
        )  # a graph as an argument has none
        if result is not None and node.name in self.traced.inputs:
            self.nodes.append(Node(node.name, Input(), (), sample := shape[1:]))
            return Data(node.name, sample, result.dtype)
        name = self.traced.state.get(node.name, node.name)
        other = "buffer" if name in self.buffers else "constant"
        return State("parameter" if name in self.parameters else other, name, shape)

    def _value(self, argument: Any) -> Any:
        """An argument as rules see it: tensors as values, known numbers as numbers, sizes as `Unknown`."""
        if not isinstance(argument, fx.Node):
            return argument
        if argument in self.values:
            return self.values[argument]
        result = argument.meta.get("val")
        if isinstance(result, torch.SymInt):
            known = static(result)
            return Unknown(argument.name) if known is None else known
        return result if isinstance(result, (int, float, bool, tuple)) else Unknown(argument.name)

    def _data(self, node: fx.Node, arguments: Mapping[str, Any]) -> Value:
        """Apply the user's row or the table's rule to a call that depends on the inputs."""
        target = _target(node, self.traced)
        name = canonical_name(target)
        call = self._call(node, name, torch_name(target), arguments)
        row, rule = self.functions.find(target, name), RULES.get(name)
        if row is None and rule is None:
            raise refusal(call)
        result = self._row(call, row) if row is not None or rule is None else rule(call)
        if not isinstance(result, Step):
            return result
        inputs = tuple(value.node for value in result.inputs)
        self.nodes.append(Node(node.name, result.operation, inputs, call.shape, result.parameters, call.path))
        return Data(node.name, call.shape, call.dtype)

    @staticmethod
    def _row(call: Call, row: ScalarFunction | None) -> Step:
        """The user's row, for a call that takes one tensor."""
        tensors = [leaf for leaf in tree_leaves(dict(call.arguments)) if isinstance(leaf, (Data, State))]
        if len(tensors) != 1:
            raise call.refuse(
                f"takes {len(tensors)} tensors", "a ScalarFunction is a fixed function of one number"
            )
        return elementwise(call, row)

    def _call(self, node: fx.Node, name: str, target: str, arguments: Mapping[str, Any]) -> Call:
        """The call with its result per sample; raises `BatchMixingError` if that has no batch in dim 0."""
        results = [leaf for leaf in tree_leaves(node.meta.get("val")) if isinstance(leaf, torch.Tensor)]
        if name not in RULES:
            results = results[:1]  # what else it yields may have other layouts; it is refused by name
        shapes = [self.traced.per_sample(result.shape) for result in results]
        if not results:
            return Call(name, target, module_path(node), arguments, (), torch.float32)
        call = Call(name, target, module_path(node), arguments, shapes[0] or (), results[0].dtype)
        if None in shapes:
            shown = self.traced.shown(results[shapes.index(None)].shape)
            raise call.mixes(f"yields the shape {shown}", "the batch must stay in dim 0, and in no other dim")
        return call


def _target(node: fx.Node, traced: Traced) -> Any:
    """A call's target; the class of a module that was not opened, the name of an attribute."""
    if node.op == "call_module":
        return type(traced.module.get_submodule(str(node.target)))
    return node.args[1] if node.target is getattr else node.target


def _arguments(node: fx.Node, traced: Traced) -> dict[str, Any]:
    """A call's arguments by name; for a module that was not opened also what its rule asks for."""
    if node.target is getattr:
        return {"input": node.args[0]}
    if node.op != "call_module":
        return bind(node)
    module = traced.module.get_submodule(str(node.target))
    return bind(node) | {key: getattr(module, key, None) for key in ("training", "running_mean")}


def _state(node: fx.Node, name: str, arguments: Mapping[str, Any]) -> State:
    """A call that no input reaches: the transpose of a parameter, or a computed constant."""
    source = arguments.get("input")
    if (
        name in STATE_RULES
        and isinstance(source, State)
        and source.kind == "parameter"
        and len(source.shape) == 2
    ):
        return STATE_RULES[name](source)
    if isinstance(source, State) and source.kind == "constant":
        return source
    where = module_path(node)
    return State("computed", f"{name!r} in module {where!r}" if where else f"{name!r}", ())


def refusal(call: Call) -> UnsupportedOperationError | BatchMixingError:
    """The error for an operation without rule; along dim 0 it would mix the samples, too."""
    value = next((v for v in call.arguments.values() if isinstance(v, Data)), None)
    rank = len(value.shape) + 1 if value else 0
    dims = call.arguments.get("dim", call.arguments.get("dims"))
    if any(d in (0, -rank) for d in (dims if isinstance(dims, (list, tuple)) else [dims]) if d is not None):
        return call.mixes("works along dim 0, which is the batch", "work along another dim")
    remedy = f"{REMEDIES[call.name]}; " if call.name in REMEDIES else ""
    remedy += f"supported are {SUPPORTED}"
    if value is not None and value.shape == call.shape:
        remedy += "; for a smooth element-wise function pass functions={target: ScalarFunction(...)} to trace"
    return call.refuse("is not supported yet", remedy)
