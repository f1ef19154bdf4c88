"""The contenders of the benchmark find the norms that they are timed for."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

SMALL = torch.linspace(-1, 1, 24).reshape(2, 3, 2, 2)


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    monkeypatch.syspath_prepend(str(Path(__file__).parent / "benchmarks"))
    import contenders
    import methods
    import networks
    import sharpened

    return SimpleNamespace(contenders=contenders, methods=methods, networks=networks, sharpened=sharpened)


def dense_norms(f: nn.Module, x: Tensor) -> Tensor:
    """By one sample at a time, in reverse mode on the plain network."""
    rows = [torch.autograd.functional.jacobian(lambda y: f(y[None])[0], one) for one in x]
    return torch.stack([torch.linalg.svdvals(row.reshape(-1, x[0].numel()))[0] for row in rows])


@pytest.mark.parametrize("name", ["jacrev", "jacfwd", "power", "gkl"])
def test_contenders_agree_with_dense_jacobians(bench: SimpleNamespace, name: str) -> None:
    case = bench.networks.cnn(True)
    f, x = case.part((5, 3)), case.boundaries[3]
    ways = {
        "jacrev": lambda: bench.contenders.dense(f, x)[0],
        "jacfwd": lambda: bench.contenders.dense(f, x, True)[0],
        "power": lambda: bench.contenders.power_iteration(f, x, 300),
        "gkl": lambda: bench.contenders.golub_kahan_lanczos(f, x, 40),
    }
    torch.testing.assert_close(ways[name](), dense_norms(f, x), rtol=2e-3, atol=0)


def test_sharpened_networks_have_the_same_products(bench: SimpleNamespace) -> None:
    case = bench.networks.cnn(True)
    f, x = case.part((5, 3)), case.boundaries[3]
    plain, sharp = (bench.contenders.Products(g, x) for g in (f, bench.sharpened.sharpened(f)))
    torch.testing.assert_close(sharp.push(x), plain.push(x), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(sharp.pull(plain.y), plain.pull(plain.y), rtol=1e-4, atol=1e-4)


def test_low_rank_ends_the_recurrence(bench: SimpleNamespace) -> None:
    f = nn.Sequential(nn.Flatten(), nn.Linear(12, 1), nn.Linear(1, 12)).requires_grad_(False)
    found = bench.contenders.golub_kahan_lanczos(f, SMALL, 12)
    torch.testing.assert_close(found, dense_norms(f, SMALL), rtol=1e-5, atol=0)


def test_dense_jacobians_of_all_pairs_lie_between_our_ends(bench: SimpleNamespace) -> None:
    case = bench.networks.mlp(True)
    ours = bench.methods.ours(case, case.traced(), 1.01, 24)
    for (w, a), upper in ours.upper.items():
        norm = float(dense_norms(case.part((w, a)), case.boundaries[a]).max())
        assert norm * (1 - 1e-5) <= upper <= 1.0101 * norm
        assert ours.lower[w, a] <= norm * (1 + 1e-5)


def test_extrapolation_from_a_part_is_the_whole_if_all_pairs_cost_the_same(bench: SimpleNamespace) -> None:
    share = bench.methods._share([(1, 0), (2, 1), (2, 0)], [(1, 0)], lambda pair: 2.0)
    assert share == 3.0
