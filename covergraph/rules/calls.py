"""What the rules of calls say in terms of slots, and `register`, which adds one (Lemma 20)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import sympy

from covergraph.errors import UnsupportedOperationError
from covergraph.graph import call_rules as call_rules  # fills CALLS
from covergraph.graph.calls import CALLS, CallRule, Rule, call_rule, tensors
from covergraph.graph.node import Node
from covergraph.graph.operations import Call
from covergraph.graph.weights import operator
from covergraph.rules.placeholders import RHO, radius


def register(target: Any, rule: Rule) -> None:
    """Give a torch operation, an OpOverload or its full name, the rule that its calls have in every graph.

    Raises `UnsupportedOperationError` for an unknown operation, one that has a rule, or a rule that cannot be one.
    """
    name = str(target)
    try:
        operator(name)._schema  # noqa: B018
    except (AttributeError, RuntimeError):
        raise UnsupportedOperationError(
            f"register: {name!r} is no torch operation; expected an overload such as torch.ops.aten.hypot.default, "
            "or its name 'aten.hypot.default', as a trace prints it"
        ) from None
    if name in CALLS:
        raise UnsupportedOperationError(
            f"register: {name} has a rule, from {getattr(CALLS[name], 'source', '') or 'covergraph itself'}; a rule is "
            "not replaced, as bounds that were derived by it would change"
        )
    if isinstance(rule, CallRule):
        _check(name, rule)
    CALLS[name] = rule


def _check(name: str, rule: CallRule) -> None:
    """Raise `UnsupportedOperationError` unless the rule is consistent."""
    read = {*rule.slopes, *rule.lipschitz, *(i for pair in rule.taubar for i in pair)}
    problems = [
        *_signs(rule),
        *(f"tensor {i} is not among the varying {rule.varying}" for i in sorted(read - set(rule.varying))),
        *(["no tensor is varying"] if not rule.varying or min(rule.varying) < 0 else []),
        *(["a quantity needs slopes, and slopes a quantity"] if bool(rule.slopes) != bool(rule.quantity) else []),
        *(["slopes need a text"] if rule.slopes and not rule.text else []),
        *(["the source of its proof is missing"] if not rule.source else []),
        *(["lipschitz lacks a varying tensor"] if rule.lipschitz and {*rule.varying} - {*rule.lipschitz} else []),
    ]
    if problems:
        raise UnsupportedOperationError(
            f"register: the rule of {name} does not hold together: {'; '.join(problems)}; see docs/adding_an_op.md"
        )


def _signs(rule: CallRule) -> list[str]:
    """What is wrong with the constants: they are positive and finite, and taubar alone has placeholders."""
    wrong = []
    for key, value in [*rule.taubar.items(), *rule.slopes.items(), *rule.lipschitz.items()]:
        number = sympy.sympify(value)
        if number.is_positive is not True or number.is_finite is False:
            wrong.append(f"{key}: {value} is not positive and finite; leave out what is 0")
        allowed = {radius(i) for i in rule.varying} | ({RHO} if rule.slopes else set())
        unknown = number.free_symbols - (allowed if isinstance(key, tuple) else set())
        if unknown:
            wrong.append(f"{key}: {value} has the symbols {sorted(map(str, unknown))}")
    return wrong


def check_fixed(node: Node, fixed: frozenset[str]) -> None:
    """Raise `UnsupportedOperationError` if a slot of a call that its rule holds fixed is not in `fixed`."""
    if not isinstance(node.operation, Call):
        return
    rule = call_rule(node.operation)
    for i, slot in enumerate(tensors(node.operation)):
        if i not in rule.varying and node.inputs[slot] not in fixed:
            raise UnsupportedOperationError(
                f"rules: the rule for the call of {node.operation.target} holds for fixed values in slot {slot}, but "
                f"{node.inputs[slot]!r} there depends on learned values; compute it from the inputs alone, or write "
                "the operation in terms of others"
            )


def call_smoothness(operation: Call) -> Mapping[tuple[int, int], sympy.Expr]:
    """taubar by slots: the sum over the tensors that each slot fills (Lemma 8)."""
    at = tensors(operation)
    names = {radius(i): radius(slot) for i, slot in enumerate(at)}
    pairs = call_rule(operation).taubar.items()
    return _summed(((at[i], at[j]), sympy.sympify(v).subs(names, simultaneous=True)) for (i, j), v in pairs)


def call_slopes(operation: Call) -> Mapping[int, sympy.Expr]:
    """The Lipschitz constants of the call's condition by slots."""
    at = tensors(operation)
    return _summed((at[i], value) for i, value in call_rule(operation).slopes.items())


def call_lipschitz(operation: Call) -> Mapping[int, sympy.Expr]:
    """Worst-case Lipschitz constants by slots; empty if the rule has none."""
    at = tensors(operation)
    return _summed((at[i], value) for i, value in call_rule(operation).lipschitz.items())


def _summed(terms: Iterable[tuple[Any, sympy.Expr]]) -> dict[Any, sympy.Expr]:
    total: dict[Any, sympy.Expr] = {}
    for key, value in terms:
        total[key] = total.get(key, sympy.Integer(0)) + value
    return total
