"""The one converter: a functional torch.fx.Graph, however it was traced, becomes nodes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, _ops, fx
from torch.fx.node import map_aggregate
from torch.utils import _pytree as pytree

from covergraph.errors import BatchMixingError, CovergraphError, ParameterError, TracingError
from covergraph.graph import operations as op
from covergraph.graph.functions import ScalarFunction
from covergraph.graph.held import own_numbers
from covergraph.graph.interpreter import state_of
from covergraph.graph.node import Node
from covergraph.graph.precision import wide
from covergraph.graph.weights import Source, Weights
from covergraph.tracers import elementwise
from covergraph.tracers.builder import Builder
from covergraph.tracers.call import Call
from covergraph.tracers.constants import SELECTS, HeldConstants, looks_up, makes_floats
from covergraph.tracers.folding import fold, present, real, widened
from covergraph.tracers.forms import bind, canonical_name, full_name
from covergraph.tracers.quiet import first_line
from covergraph.tracers.recurrent import Lazy
from covergraph.tracers.sizes import steering
from covergraph.tracers.targets import CONSTANT_SHAPE, OF_INTEGERS, RULES
from covergraph.tracers.traced import Traced, module_path, place
from covergraph.tracers.user_functions import UserFunctions
from covergraph.tracers.values import Data, State, kind_of


def convert(traced: Traced, output: fx.Node, functions: UserFunctions) -> tuple[list[Node], str, Weights]:
    """Nodes in topological order (inputs first, then what reaches `output`), the output's name, the weights.

    Names are provisional. Raises `UnsupportedOperationError` and `BatchMixingError` with module path, operation
    and remedy.
    """
    converter = Converter(traced, functions)
    wanted = _reaching(output)
    for node in traced.graph.nodes:
        if node.name in traced.inputs or node in wanted:
            _visit(converter, node)
    value = converter.values[output]
    if not isinstance(value, Data) or kind_of(value.dtype) != "float":
        found = f"type {value.dtype}" if isinstance(value, Data) else "made of parameters and constants alone"
        raise TracingError(
            f"output {output.name!r} is {found}, expected floats that depend on the inputs; "
            "choose another output, and compute with torch alone"
        )
    return converter.builder.nodes, value.node, converter.constants.named(converter.builder.weights)


def _visit(converter: Converter, node: fx.Node) -> None:
    """Convert one call; what goes wrong inside names the call."""
    try:
        converter.visit(node)
    except ParameterError as error:  # of a function's numbers, which does not know the place
        raise TracingError(f"{place(node)}: operation {canonical_name(node.target)!r}: {error}") from error
    except CovergraphError:
        raise
    except Exception as error:  # torch raises many types here
        raise TracingError(
            f"{place(node)}: operation {canonical_name(node.target)!r} could not be read ({first_line(error)}); "
            "write it in another way, or register a ScalarFunction for its module"
        ) from error


def _reaching(output: fx.Node) -> set[fx.Node]:
    """The nodes that `output` is computed from, itself included."""
    found, stack = {output}, [output]
    while stack:
        for node in stack.pop().all_input_nodes:
            if node not in found:
                found.add(node)
                stack.append(node)
    return found


class Converter:
    """The builder, and the value of every fx node that was visited."""

    def __init__(self, traced: Traced, functions: UserFunctions) -> None:
        self.traced = traced
        self.functions = functions
        self.builder = Builder(state_of(traced.module))
        self.values: dict[fx.Node, Any] = {}
        self.buffers = {name: value for name, value in traced.module.named_buffers() if value.dtype == torch.float64}
        self.constants = HeldConstants(traced.held, own_numbers(traced.module))

    def visit(self, node: fx.Node) -> None:
        """Give `node` a value; append nodes if it computes something of the inputs."""
        if node.op in ("placeholder", "get_attr"):
            self.values[node] = self._source(node)
            return
        arguments = {
            name: map_aggregate(a, self._reader(node, name, data=True)) for name, a in bind(node).items()
        }
        if canonical_name(node.target) == "getitem":
            item = arguments["input"][arguments["index"]]
            self.values[node] = item.read() if isinstance(item, Lazy) else item
        elif any(isinstance(leaf, Data) for leaf in pytree.tree_leaves(dict(arguments))):
            self.constants.read(node, self.values)
            self.values[node] = self._data(node, arguments)
        else:
            self.constants.passed(node)
            self.values[node] = self._folded(node)

    def _reader(self, node: fx.Node, name: str, data: bool = False) -> Callable[[Any], Any]:
        """What a call reads as its argument `name`: of integers of the state their present value where they select."""
        selects = name in SELECTS or not (makes_floats(node) or looks_up(node, name))

        def value(argument: Any) -> Any:
            if not isinstance(argument, fx.Node):
                return argument
            found = self.values[argument]
            if data:
                return present(found) if selects else real(found)
            return present(found, compared=False) if name in SELECTS else found

        return value

    def _source(self, node: fx.Node) -> Any:
        result: Any = node.meta.get("val")
        if node.name in self.traced.inputs:
            return self.builder.add(op.Input(), [], tuple(result.shape), result.dtype, "")
        if node.name in self.traced.state:
            name = self.traced.state[node.name]
            if name in self.buffers:
                self.constants.buffer(node, name)
            return State(Source(name), tuple(result.shape), result.dtype, known=self.buffers.get(name))
        if node.name in self.traced.constants:
            self.constants.found(node, self.traced.constants[node.name])
            return self._constant(node.name)
        return getattr(self.traced.graph.owning_module, str(node.target), None)  # a graph as an argument

    def _constant(self, name: str) -> Any:
        """A tensor that is fixed; integers in the state are learned where they become floats."""
        value, held = self.traced.constants[name], self.traced.held.get(name)
        numbers = kind_of(value.dtype) == "integer" and value.dtype != torch.bool
        if numbers and held is not None and held in self.builder.reserved:
            return State(Source(held), tuple(value.shape), value.dtype, known=value)
        return widened(value)

    def _folded(self, node: fx.Node) -> Any:
        """A call that no input reaches."""
        names = {id(a): name for name, a in bind(node).items()}

        def value(argument: Any) -> Any:
            return map_aggregate(argument, self._reader(node, names.get(id(argument), "")))

        arguments = tuple(value(a) for a in node.args)
        keywords = {k: value(a) for k, a in node.kwargs.items()}
        if any(isinstance(leaf, State) for leaf in pytree.tree_leaves((arguments, dict(keywords)))):
            _refuse_steering(node, [v for v in pytree.tree_leaves(node.meta.get("val")) if isinstance(v, Tensor)])
        if _is_random(node.target):
            raise BatchMixingError(
                f"{place(node)}: operation {canonical_name(node.target)!r} draws random numbers; "
                "remove it, or draw once and register the result as a buffer"
            )
        if not isinstance(node.target, _ops.OpOverload):  # arithmetic of numbers
            return node.target(*arguments, **keywords)  # type: ignore[operator]
        return fold(full_name(node.target), arguments, keywords)

    def _data(self, node: fx.Node, arguments: Mapping[str, Any]) -> Any:
        """Apply the user's row or the table's rule to a call that depends on the inputs."""
        name = canonical_name(node.target)
        leaves = [leaf for leaf in pytree.tree_leaves(node.meta.get("val")) if isinstance(leaf, Tensor)]
        learned = any(looks_up(node, key) and isinstance(value, State) for key, value in arguments.items())
        results = [(tuple(leaf.shape), torch.float64 if learned else wide(leaf.dtype)) for leaf in leaves]
        if isinstance(node.meta.get("val"), (int, float, bool)) and not leaves:
            return node.meta["val"]  # a size
        _refuse_steering(node, leaves)
        call = Call(name, full_name(node.target), module_path(node), arguments, results, self.builder)
        if any(isinstance(v, Data) and v.floating for key in ("index", "indices") for v in _leaves(arguments, key)):
            raise call.refuse("selects by integers of a learned table", "keep indices in a plain tensor")
        row = self.functions.find(node.target, name)
        if row is not None:
            return self._row(call, row)
        if _is_random(node.target) and name not in RULES:
            raise call.mixes("draws random numbers", "remove it, or draw once and register the result as a buffer")
        if name in CONSTANT_SHAPE:
            return self._of_shape(node)
        real = any(kind_of(dtype) == "float" for _, dtype in results) or name in OF_INTEGERS
        return RULES.get(name, elementwise.opaque)(call) if real else elementwise.opaque(call)

    def _of_shape(self, node: fx.Node) -> Any:
        """zeros_like and the like: known from the shape alone."""

        def zeros(argument: Any) -> Any:
            value = self.values[argument] if isinstance(argument, fx.Node) else argument
            return torch.zeros(value.shape, dtype=value.dtype) if isinstance(value, Data) else value

        if "empty" in str(node.target):
            return torch.zeros(node.meta["val"].shape, dtype=wide(node.meta["val"].dtype))
        return fold(full_name(node.target), map_aggregate(node.args, zeros), map_aggregate(node.kwargs, zeros))

    @staticmethod
    def _row(call: Call, row: ScalarFunction) -> Data:
        """The user's row, for a call that takes one tensor."""
        tensors = [v for v in pytree.tree_leaves(dict(call.arguments)) if isinstance(v, (Data, State, Tensor))]
        if len(tensors) != 1:
            raise call.refuse(f"takes {len(tensors)} tensors", "a ScalarFunction is a fixed function of one number")
        return call.row(row, call.as_data(tensors[0]))


def _leaves(arguments: Mapping[str, Any], key: str) -> list[Any]:
    return pytree.tree_leaves(arguments.get(key))


def _refuse_steering(node: fx.Node, results: Sequence[Tensor]) -> None:
    """Raise `TracingError` if the call yields a Python number, or a shape that is not known before it runs."""
    if not results or any(not isinstance(side, int) for result in results for side in result.shape):
        raise steering(node)


def _is_random(target: Any) -> bool:
    return torch.Tag.nondeterministic_seeded in getattr(target, "tags", ())
