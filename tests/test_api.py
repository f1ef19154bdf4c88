"""analyze() measures as it is told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from certificates import random_starts
from torch.utils.data import DataLoader, TensorDataset

import covergraph as cg
from covergraph.measure.measure import measure


def network() -> torch.nn.Module:
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(5, 8), torch.nn.Tanh(), torch.nn.Linear(8, 8), torch.nn.Linear(8, 3))


def loader() -> DataLoader[tuple[torch.Tensor, ...]]:
    x = torch.randn(30, 5, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return DataLoader(TensorDataset(x, network()(x).argmax(1)), 8)


def test_how_to_measure_is_passed_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    seen: dict[str, Any] = {}

    def spy(*arguments: Any, **options: Any) -> cg.Measurements:
        seen.update(options)
        return measure(*arguments, **options)

    monkeypatch.setattr("covergraph.api.measure", spy)
    how = {"exact": True, "width": 1.2, "failure": 1e-4, "memory": 2**25, "checkpoint": tmp_path / "work"}
    cg.analyze(network(), loader(), **how)  # type: ignore[arg-type]
    assert {name: seen[name] for name in how} == how and seen["fill"] is False


def test_the_certificate_counts_random_starts() -> None:
    with random_starts():
        analysis = cg.analyze(network(), loader(), failure=1e-4, width=1.1)
        exact = cg.analyze(network(), loader(), exact=True)
    assert analysis.certificate.delta_numeric == analysis.measurements.failure == 1e-4
    assert exact.certificate.delta_numeric == exact.measurements.failure == 0
    for pair, true in exact.measurements.pairs.items():
        found = analysis.measurements.pairs[pair]
        assert found.lower <= true.upper and true.lower <= found.upper <= 1.1 * true.upper * (1 + 1e-9)


def test_a_second_run_goes_on_from_its_checkpoint(tmp_path: Path) -> None:
    first = cg.analyze(network(), loader(), checkpoint=tmp_path)
    second = cg.analyze(network(), loader(), checkpoint=tmp_path)
    assert first.certificate.value == second.certificate.value
    with pytest.raises(cg.errors.CovergraphError, match="another run"):
        cg.analyze(network(), loader(), checkpoint=tmp_path, exact=True, width=1.3)
