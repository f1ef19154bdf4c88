"""Symbols that stand in a rule for numbers that depend on the graph or on the data."""

from __future__ import annotations

import sympy

RHO = sympy.Symbol("rho", positive=True)
"""rho_c, the level of the node's own condition: where nothing has collapsed, q_c > rho_c / 2."""


def radius(slot: int) -> sympy.Symbol:
    """A bound of the norm of the value in a slot where nothing has collapsed: 2 s_u, or an a-priori bound."""
    return sympy.Symbol(f"r_{slot}", positive=True)


def slot_of(symbol: sympy.Basic) -> int | None:
    """The slot whose `radius` the symbol is, else None."""
    name = getattr(symbol, "name", "")
    return int(name[2:]) if name.startswith("r_") and symbol == radius(int(name[2:])) else None
