"""A handmade network with everything that is measured on it."""

from __future__ import annotations

from typing import Any

from handmade import Network

from covergraph.bound.choose import choose
from covergraph.bound.derive import Bound
from covergraph.measure.measure import measure
from covergraph.values import Measurements, Parameters

N = 12


def measured(net: Network, **options: Any) -> tuple[Bound, Measurements, Parameters]:
    bound = net.bound(**options)
    found = measure(bound, net.module, net.loader(N, 5))
    return bound, found, choose(bound, found)
