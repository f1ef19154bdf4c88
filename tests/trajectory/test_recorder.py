"""Every column of the recorder against a slow loop, what it leaves alone, and what it refuses."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from strategies import examples
from torch import Tensor, nn
from trajectory.recorded import (
    GRAPHS,
    Case,
    MeanPositions,
    ScaleShift,
    Shift,
    Unshared,
    batches,
    convolutional,
    mlp,
    recorded,
    slow,
    train,
)

import covergraph as cg
from covergraph.errors import TrajectoryError
from covergraph.trajectory.trajectory import COLUMNS

STEPS = 24
PLAIN = ("loss", "alpha", "samples", "epsilon", "pull", "pulls", "gradient", "move", "distance", "bias", "input")


@pytest.fixture(autouse=True)
def doubles() -> Iterator[None]:
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def cross_entropy(output: Tensor, target: Tensor) -> Tensor:
    return nn.functional.cross_entropy(output, target.argmax(1))


def adam(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.Adam(model.parameters(), 0.01)


def momentum(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), 0.05, momentum=0.9, weight_decay=0.01)


CASES: dict[str, Callable[[], Case]] = {
    "mlp": lambda: Case(mlp(5, 4, 6, 1), batches(STEPS, 1, (5,), 1)),
    "wide mlp": lambda: Case(mlp(3, 8, 1), batches(STEPS, 1, (3,), 1)),
    "unshared convolution": lambda: Case(
        convolutional(Unshared((1, 4, 4), 2, 1, 3), 16), batches(STEPS, 1, (2, 6, 6), 1)
    ),
    "shared convolution": lambda: Case(
        convolutional(nn.Conv2d(2, 3, 3, stride=2, padding=1), 27), batches(STEPS, 1, (2, 6, 6), 1)
    ),
    "identity": lambda: Case(convolutional(Shift(1, 3, 3), 9), batches(STEPS, 1, (1, 3, 3), 1)),
    "scale": lambda: Case(nn.Sequential(ScaleShift(4), nn.ReLU(), nn.Linear(4, 1)), batches(STEPS, 1, (4,), 1)),
    "batch, vector output": lambda: Case(mlp(5, 4, 3), batches(STEPS, 6, (5,), 3), cross_entropy),
    "adam": lambda: Case(mlp(5, 4, 3), batches(STEPS, 2, (5,), 3), optimizer=adam),
    "momentum": lambda: Case(mlp(5, 4, 1), batches(STEPS, 1, (5,), 1), optimizer=momentum),
    "accumulation": lambda: Case(mlp(5, 4, 2), batches(STEPS, 1, (5,), 2, passes=3)),
    "accumulated batches": lambda: Case(
        convolutional(Unshared((1, 4, 4), 2, 1, 3), 16), batches(9, 2, (2, 6, 6), 1, 2)
    ),
    "batch norm": lambda: Case(
        nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 2)), batches(STEPS, 5, (5,), 2)
    ),
    "positions": lambda: Case(
        nn.Sequential(nn.Linear(5, 4), nn.ReLU(), MeanPositions(), nn.Linear(4, 1)), batches(STEPS, 1, (3, 5), 1)
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_columns_agree_with_a_slow_loop(name: str) -> None:
    case = CASES[name]()
    trajectory, expected = recorded(case), slow(case)
    assert len(trajectory) == len(case.steps)
    np.testing.assert_array_equal(trajectory["step"], np.arange(len(case.steps)))
    for column in (*PLAIN, "frobenius"):
        np.testing.assert_allclose(trajectory[column], expected[column], rtol=1e-10, atol=1e-14, err_msg=column)
    np.testing.assert_allclose(trajectory["residual"], expected["residual"], rtol=1e-8, atol=1e-14)
    for end in ("top", "bottom"):
        low, high = trajectory[f"{end}_lower"], trajectory[f"{end}_upper"]
        assert np.all(low <= expected[end]) and np.all(expected[end] <= high), end
        for exact in (low[::7], high[::7]):  # where blocks start
            np.testing.assert_allclose(exact, expected[end][::7], rtol=1e-9, atol=1e-12)
    assert np.isnan(trajectory["log_product"]).all()


@pytest.mark.parametrize("name", CASES)
def test_the_run_is_not_changed(name: str) -> None:
    """Outputs, gradients and weights keep every bit."""
    case = CASES[name]()
    seen: list[list[Tensor]] = []
    for watched in (False, True):
        torch.manual_seed(1)
        model = copy.deepcopy(case.model)
        optimizer = case.optimizer(model)
        outputs: list[Tensor] = []
        known = None if name in ("mlp", "batch norm") else GRAPHS.get(repr(model))  # to trace changes nothing, either
        recorder = cg.TrajectoryRecorder(model, optimizer, flush=3, graph=known)
        if watched:
            recorder.__enter__()
        for passes in case.steps:
            optimizer.zero_grad()
            for x, y in passes:
                outputs.append(model(x))
                case.loss(outputs[-1], y).backward()
            outputs += [p.grad.clone() for p in model.parameters() if p.grad is not None]
            optimizer.step()
            outputs.append(torch.rand(1))  # the generator's state, too
        if watched:
            recorder.__exit__(None, None, None)
        seen.append([*outputs, *model.parameters(), *model.buffers()])
    assert len(seen[0]) == len(seen[1])
    assert all(torch.equal(a, b) for a, b in zip(*seen, strict=True))


FACTS = {
    "mlp": {"kind": "linear", "shared": 1, "inputs": 5, "outputs": 4},
    "unshared convolution": {"kind": "convolution", "shared": 1, "inputs": 72, "outputs": 16},
    "shared convolution": {"kind": "convolution", "shared": 9, "inputs": 72, "outputs": 27},
    "identity": {"kind": "identity", "shared": 1, "weight": None, "inputs": 9},
    "scale": {"kind": "scale", "shared": 1},
    "positions": {"kind": "linear", "shared": 3, "inputs": 15, "outputs": 12},
}


@pytest.mark.parametrize("name", FACTS)
def test_the_layer_is_described(name: str) -> None:
    layer = recorded(CASES[name]()).layer
    assert {key: getattr(layer, key) for key in FACTS[name]} == FACTS[name]


def test_the_setting_says_what_the_run_was() -> None:
    plain = recorded(CASES["mlp"]()).setting
    assert plain.plain and plain.once and plain.isometric and plain.piecewise and plain.mixing is False
    assert (plain.outputs, plain.last, plain.dtype, plain.reason) == (1, "linear", "float64", "")
    assert plain.identity is not None and plain.identity < 1e-12
    heavy = recorded(CASES["momentum"]()).setting
    assert not heavy.plain and heavy.reason == "momentum = 0.9, weight_decay = 0.01"
    assert "Adam" in recorded(CASES["adam"]()).setting.reason
    mixed = recorded(CASES["batch norm"]()).setting
    assert mixed.mixing is True and mixed.piecewise is False
    assert recorded(CASES["shared convolution"]()).setting.identity is None
    assert recorded(CASES["batch, vector output"]()).setting.outputs == 3


def test_a_last_sigmoid_is_named_and_a_tanh_bends() -> None:
    steps = batches(3, 1, (5,), 1)
    last = nn.Sequential(*mlp(5, 4, 1), nn.Sigmoid(), nn.Flatten(0))
    setting = recorded(Case(last, steps, lambda f, y: (f - y[0]).square().sum())).setting
    assert setting.last == "sigmoid" and setting.piecewise
    assert recorded(Case(nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 1)), steps)).setting.piecewise is False


def test_moments_are_those_of_the_iterates() -> None:
    case = CASES["mlp"]()
    model = copy.deepcopy(case.model)
    optimizer, iterates = case.optimizer(model), []
    with cg.TrajectoryRecorder(model, optimizer, flush=5) as recorder:
        for t, passes in enumerate(case.steps):
            train(model, optimizer, [passes], case.loss)
            iterates.append(model[0].bias.detach().clone())
            if t == 11:
                recorder.flush()
                recorder.flush()
                assert len(recorder.trajectory) == 12
    trajectory, path = recorder.trajectory, torch.stack(iterates)
    assert list(trajectory.moments.stops) == [5, 10, 12, 17, 22, 24]
    for start, stop in ((0, 24), (0, 12), (12, 24), (10, 12)):
        expected = (path[start:stop] - path[start:stop].mean(0)).square().sum(1).mean()
        assert trajectory.variance(start, stop) == pytest.approx(float(expected), rel=1e-9)


def test_a_large_bias_far_from_0_does_not_cancel() -> None:
    case = CASES["mlp"]()
    with torch.no_grad():
        case.model[0].bias += 1e6
        case.model[2].weight *= 1e-6
    path = recorded(case)
    assert path.variance() == pytest.approx(slow_variance(case), rel=1e-6)


def slow_variance(case: Case) -> float:
    model = copy.deepcopy(case.model)
    optimizer, iterates = case.optimizer(model), []
    start = model[0].bias.detach().clone()
    for passes in case.steps:
        train(model, optimizer, [passes], case.loss)
        iterates.append(model[0].bias.detach() - start)
    path = torch.stack(iterates)
    return float((path - path.mean(0)).square().sum(1).mean())


def test_gradients_and_spectrum_are_taken_at_every_kth_step() -> None:
    case = CASES["mlp"]()
    trajectory, all_steps = recorded(case, every=5), recorded(case, every=1)
    taken = np.arange(STEPS) % 5 == 0
    for column in ("pull", "pulls", "frobenius", "top_lower", "bottom_upper"):
        assert np.array_equal(~np.isnan(trajectory[column]), taken), column
    np.testing.assert_allclose(trajectory["pull"][taken], all_steps["pull"][taken], rtol=1e-12)
    for column in ("epsilon", "move", "input", "gradient"):
        np.testing.assert_array_equal(trajectory[column], all_steps[column])


def test_large_weights_are_looked_at_less_often() -> None:
    case = Case(mlp(300, 125, 1), batches(7, 1, (300,), 1))
    assert list(np.flatnonzero(~np.isnan(recorded(case)["pull"]))) == [0, 5]  # 37,500 / 2^13
    many = Case(convolutional(nn.Conv2d(2, 3, 3), 48), batches(3, 1000, (2, 6, 6), 1))
    assert list(np.flatnonzero(~np.isnan(recorded(many)["pull"]))) == [0, 1, 2]  # 864,000 / 2^20
    more = Case(convolutional(nn.Conv2d(2, 3, 3), 48), batches(3, 1500, (2, 6, 6), 1))
    assert list(np.flatnonzero(~np.isnan(recorded(more)["pull"]))) == [0, 2]


@given(st.integers(0, 2**31), st.sampled_from([0.01, 0.3]), st.integers(1, 9), st.booleans())
@examples(15)
def test_weyls_ends_enclose_the_singular_values_at_every_step(seed: int, rate: float, flush: int, single: bool) -> None:
    torch.manual_seed(seed)
    torch.set_default_dtype(torch.float32 if single else torch.float64)
    case = Case(mlp(4, 4, 1), batches(12, 1, (4,), 1), optimizer=lambda m: torch.optim.SGD(m.parameters(), rate))
    trajectory, model = recorded(case, flush), copy.deepcopy(case.model)
    optimizer = case.optimizer(model)
    for t, passes in enumerate(case.steps):
        sigma = torch.linalg.svdvals(model[0].weight.detach().double()).numpy()
        if not np.isfinite(sigma[0]) or sigma[0] > 1e100:
            return  # it diverged
        for end, value in (("top", sigma[0]), ("bottom", sigma[-1])):
            assert trajectory[f"{end}_lower"][t] <= value <= trajectory[f"{end}_upper"][t]
        train(model, optimizer, [passes], case.loss)


def test_validation_and_dropped_passes_leave_no_trace() -> None:
    case = CASES["mlp"]()
    expected = recorded(case)
    model = copy.deepcopy(case.model)
    optimizer = case.optimizer(model)
    with cg.TrajectoryRecorder(model, optimizer, flush=7) as recorder:
        for t, passes in enumerate(case.steps):
            with torch.no_grad():
                model(torch.randn(9, 5))
            model(torch.randn(2, 5))  # never differentiated
            if t % 3 == 0:  # a step that is skipped, as by a gradient scaler
                optimizer.zero_grad(set_to_none=t % 2 == 0)
                case.loss(model(torch.randn(1, 5)), torch.randn(1, 1)).backward()
            optimizer.zero_grad(set_to_none=t % 2 == 0)
            x = torch.randn(1, 5, requires_grad=True)
            torch.autograd.grad(model(x).sum(), x)  # no pass that trains
            train(model, optimizer, [passes], case.loss)
    for column in COLUMNS:
        np.testing.assert_array_equal(recorder.trajectory[column], expected[column], err_msg=column)


def test_a_step_without_a_backward_pass_has_no_samples() -> None:
    case = CASES["mlp"]()
    model = copy.deepcopy(case.model)
    optimizer = case.optimizer(model)
    with cg.TrajectoryRecorder(model, optimizer) as recorder:
        train(model, optimizer, case.steps[:2], case.loss)
        optimizer.zero_grad()
        optimizer.step()
    row = {name: recorder.trajectory[name][2] for name in COLUMNS}
    assert [row[n] for n in ("samples", "epsilon", "pull", "pulls", "gradient", "move")] == [0] * 6
    assert np.isnan(row["loss"]) and np.isnan(row["input"]) and row["top_lower"] > 0


def test_a_closure_is_one_batch() -> None:
    case = CASES["mlp"]()
    model = copy.deepcopy(case.model)
    optimizer = case.optimizer(model)
    with cg.TrajectoryRecorder(model, optimizer, flush=7) as recorder:
        for ((x, y),) in case.steps:

            def closure(x: Tensor = x, y: Tensor = y) -> float:
                optimizer.zero_grad()
                loss = case.loss(model(x), y)
                loss.backward()
                return float(loss.detach())

            model(x)  # finds the layer
            optimizer.step(closure)
    expected = recorded(case)
    for column in COLUMNS:
        np.testing.assert_array_equal(recorder.trajectory[column], expected[column], err_msg=column)


def test_gradients_of_another_w_are_said() -> None:
    """Of users who change W after backward()."""
    case = CASES["mlp"]()
    ((x, y),) = case.steps[0]
    optimizer = case.optimizer(case.model)
    with cg.TrajectoryRecorder(case.model, optimizer) as recorder:
        case.loss(case.model(x), y).backward()
        with torch.no_grad():
            case.model[0].weight.mul_(0.5)
        optimizer.step()
    assert recorder.trajectory.setting.once is False


def test_a_rate_on_the_device_and_a_schedule_are_read_at_each_step() -> None:
    case = CASES["mlp"]()
    model = copy.deepcopy(case.model)
    optimizer = torch.optim.SGD(model.parameters(), lr=torch.tensor(0.2))
    with cg.TrajectoryRecorder(model, optimizer, flush=2) as recorder:
        for t, passes in enumerate(case.steps[:5]):
            optimizer.param_groups[0]["lr"].fill_(1 / (t + 1))
            train(model, optimizer, [passes], case.loss)
    np.testing.assert_allclose(recorder.trajectory["alpha"], 1 / np.arange(1, 6))
    assert np.all(recorder.trajectory["residual"] < 1e-14)


def test_a_run_that_diverges_is_recorded_to_its_end() -> None:
    case = CASES["mlp"]()
    for options in ({}, {"active_rows": True}, {"subspace": torch.eye(4)[:, :2]}):
        case.optimizer = lambda model: torch.optim.SGD(model.parameters(), 1e6)
        trajectory = recorded(case, **options)
        assert len(trajectory) == STEPS and np.isnan(trajectory["bias"][-1]) and np.isnan(trajectory["top_upper"][-1])


def test_a_flush_between_backward_and_step_loses_nothing() -> None:
    case = CASES["mlp"]()
    model = copy.deepcopy(case.model)
    optimizer = case.optimizer(model)
    with cg.TrajectoryRecorder(model, optimizer, flush=7) as recorder:
        for ((x, y),) in case.steps:
            optimizer.zero_grad()
            case.loss(model(x), y).backward()
            recorder.flush()
            optimizer.step()
    expected = recorded(case)
    for column in PLAIN:
        np.testing.assert_array_equal(recorder.trajectory[column], expected[column], err_msg=column)


def test_several_recorders_watch_several_layers() -> None:
    case = Case(mlp(5, 4, 6, 1), batches(STEPS, 1, (5,), 1))
    model = copy.deepcopy(case.model)
    optimizer, original = case.optimizer(model), torch.autograd.backward
    first = cg.TrajectoryRecorder(model, optimizer, flush=7)
    with first, cg.TrajectoryRecorder(model, optimizer, layer="2", flush=7) as second:
        train(model, optimizer, case.steps, case.loss)
    alone = recorded(case)
    for column in COLUMNS:
        np.testing.assert_array_equal(first.trajectory[column], alone[column], err_msg=column)
    np.testing.assert_array_equal(second.trajectory["loss"], alone["loss"])
    assert second.trajectory.layer.bias == "2.bias" and second.trajectory.setting.isometric is False
    assert torch.autograd.backward is original


def test_all_hooks_and_replacements_are_gone_afterwards() -> None:
    case = CASES["mlp"]()
    model = copy.deepcopy(case.model)
    optimizer, original = case.optimizer(model), torch.autograd.backward
    with pytest.raises(KeyboardInterrupt), cg.TrajectoryRecorder(model, optimizer, flush=100) as recorder:
        train(model, optimizer, case.steps[:5], case.loss)
        raise KeyboardInterrupt
    assert len(recorder.trajectory) == 5
    for module in model.modules():
        assert not module._forward_hooks and not module._forward_pre_hooks
    assert not optimizer._optimizer_step_pre_hooks and not optimizer._optimizer_step_post_hooks
    assert not model[0].bias._backward_hooks and not model[0].bias._post_accumulate_grad_hooks
    assert torch.autograd.backward is original
    before = len(recorder.trajectory)
    train(model, optimizer, case.steps[:5], case.loss)
    assert len(recorder.trajectory) == before


def test_an_error_in_the_loop_keeps_the_rows_and_is_raised() -> None:
    case = CASES["mlp"]()
    optimizer = case.optimizer(case.model)
    recorder = cg.TrajectoryRecorder(case.model, optimizer)
    with pytest.raises(ZeroDivisionError), recorder:
        train(case.model, optimizer, case.steps[:3], case.loss)
        case.loss(case.model(torch.randn(1, 5)), torch.randn(1, 1)).backward()
        raise ZeroDivisionError
    assert len(recorder.trajectory) == 3


def test_copies_of_a_watched_model_are_not_watched() -> None:
    case = CASES["mlp"]()
    model = copy.deepcopy(case.model)
    optimizer = case.optimizer(model)
    with cg.TrajectoryRecorder(model, optimizer) as recorder:
        train(model, optimizer, case.steps[:2], case.loss)
        other = copy.deepcopy(model)
        train(other, case.optimizer(other), case.steps, case.loss)
        train(model, optimizer, case.steps[2:4], case.loss)
    np.testing.assert_array_equal(recorder.trajectory["loss"], recorded(case)["loss"][:4])


def test_memory_does_not_grow_with_steps(tmp_path: object) -> None:
    """All tensors that live after 40 steps and after 400 steps take the same memory."""
    import gc

    def taken() -> int:
        gc.collect()
        tensors = [o for o in gc.get_objects() if isinstance(o, Tensor)]
        return sum(t.numel() * t.element_size() for t in tensors)

    case = CASES["mlp"]()
    optimizer, sizes = case.optimizer(case.model), []
    with cg.TrajectoryRecorder(case.model, optimizer, f"{tmp_path}/run", flush=20):
        for _ in range(3):
            train(case.model, optimizer, case.steps * 5, case.loss)
            optimizer.zero_grad()
            sizes.append(taken())
    assert sizes[1] == sizes[2]


def test_a_large_bias_gets_shorter_blocks() -> None:
    model = nn.Sequential(Shift(2**18), nn.Linear(2**18, 1))
    optimizer = torch.optim.SGD(model.parameters(), 1e-6)
    with cg.TrajectoryRecorder(model, optimizer) as recorder:
        train(model, optimizer, batches(9, 1, (2**18,), 1), nn.functional.mse_loss)
        assert len(recorder.trajectory) == 8  # 16 MiB of double precision


def test_the_trajectory_of_any_parameter() -> None:
    case = CASES["mlp"]()
    trajectory = recorded(case, layer="2.weight")
    assert trajectory.layer.kind == "parameter" and trajectory.layer.outputs == 24
    model = copy.deepcopy(case.model)
    before = model[2].weight.detach().clone()
    optimizer = case.optimizer(model)
    train(model, optimizer, case.steps[:1], case.loss)
    assert trajectory["move"][0] == pytest.approx(float((model[2].weight.detach() - before).norm()))
    assert np.all(trajectory["residual"] < 1e-13) and np.isnan(trajectory["pull"]).all()
    assert np.isnan(trajectory["top_upper"]).all()
    np.testing.assert_array_equal(trajectory["epsilon"], recorded(case)["epsilon"])


def test_the_product_of_norms_bounds_lambda() -> None:
    case = CASES["mlp"]()
    trajectory = recorded(case, product=2)
    taken = ~np.isnan(trajectory["log_product"])
    assert list(np.flatnonzero(taken)) == [0, 14]
    assert np.all(trajectory["log_product"][taken] >= np.log(trajectory.lam[taken]))
    weights = [layer.weight.detach() for layer in case.model if isinstance(layer, nn.Linear)]  # before training
    expected = sum(float(torch.linalg.matrix_norm(w, 2).log()) for w in weights)
    assert trajectory["log_product"][0] == pytest.approx(expected, abs=1e-9)


def test_the_product_sums_over_paths() -> None:
    class Skip(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two, self.three = nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 1)

        def forward(self, x: Tensor) -> Tensor:
            h = self.one(x)
            return self.three(h + torch.relu(self.two(h)))

    model = Skip()
    before, optimizer = copy.deepcopy(model), torch.optim.SGD(model.parameters(), 0.1)
    with cg.TrajectoryRecorder(model, optimizer, product=1) as recorder:
        train(model, optimizer, batches(1, 1, (3,), 1), nn.functional.mse_loss)
    one, two, three = (float(torch.linalg.matrix_norm(m.weight.detach(), 2)) for m in before.children())
    assert recorder.trajectory["log_product"][0] == pytest.approx(np.log(one * (1 + two) * three), abs=1e-9)
    assert recorder.trajectory["log_product"][0] >= np.log(recorder.trajectory.lam[0])


def test_a_product_without_a_constant_is_refused_by_name() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Dropout(), nn.Linear(3, 1))
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    recorder = cg.TrajectoryRecorder(model, optimizer, product=1, strict=True)
    with pytest.raises(TrajectoryError, match="'1' is in train mode"), recorder:
        train(model, optimizer, batches(1, 1, (3,), 1), nn.functional.mse_loss)


def refused(model: nn.Module, inputs: tuple[int, ...], message: str, **options: object) -> None:
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with pytest.raises(TrajectoryError, match=message), cg.TrajectoryRecorder(
        model, optimizer, strict=True, **options  # type: ignore[arg-type]
    ):
        model(torch.randn(1, *inputs)).sum().backward()
        optimizer.step()
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def strictly(model: nn.Module, optimizer: torch.optim.Optimizer) -> cg.TrajectoryRecorder:
    return cg.TrajectoryRecorder(model, optimizer, strict=True)


def test_a_frozen_bias_is_refused() -> None:
    model = mlp(3, 2, 1)
    model[0].bias.requires_grad_(False)
    refused(model, (3,), r"'0\.bias' is frozen")


def test_a_bias_that_is_not_trained_is_refused() -> None:
    model = mlp(3, 2, 1)
    optimizer = torch.optim.SGD(model[2].parameters(), 0.1)
    with pytest.raises(TrajectoryError, match="in no parameter group"), strictly(model, optimizer):
        model(torch.randn(1, 3))


def test_a_loop_that_the_hooks_do_not_see_is_refused() -> None:
    model = mlp(3, 2, 1)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with pytest.raises(TrajectoryError, match=r"not model\.forward"), strictly(model, optimizer):
        model.forward(torch.randn(1, 3)).sum().backward()
        optimizer.step()
    unseen = torch.autograd.backward
    with pytest.raises(TrajectoryError, match="came neither by"), strictly(model, optimizer):
        unseen(model(torch.randn(1, 3)).sum())
        optimizer.step()


def test_options_that_make_no_sense_are_refused() -> None:
    refused(mlp(3, 2, 1), (3,), "every = 0", every=0)
    refused(mlp(3, 2, 1), (3,), "at most one", active_rows=True, subspace=torch.eye(2))
    refused(mlp(3, 2, 1), (3,), r"shape \(3, 3\)", subspace=torch.eye(3))
    refused(mlp(3, 2, 1), (3,), "depend on each other", subspace=torch.ones(2, 2))
    refused(mlp(3, 2, 1), (3,), "watched as a parameter", layer="0.weight", active_rows=True)
    refused(convolutional(nn.Conv2d(1, 2, 3), 8), (1, 4, 4), "shared by 4", active_rows=True)
    refused(mlp(3, 2, 1), (3,), "output='logits' names 0", output="logits")


def test_a_recorder_is_for_one_run() -> None:
    case = CASES["mlp"]()
    optimizer = case.optimizer(case.model)
    recorder = cg.TrajectoryRecorder(case.model, optimizer)
    with pytest.raises(TrajectoryError, match="nothing is recorded yet"), recorder:
        recorder.flush()
        assert recorder.trajectory
    with pytest.raises(TrajectoryError, match="has been used"), recorder:
        pass


def test_outputs_that_are_not_tensors_are_picked() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(3, 2)

        def forward(self, x: Tensor) -> dict[str, Tensor]:
            return {"logits": self.layer(x), "input": x}

    model = Two()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with cg.TrajectoryRecorder(model, optimizer, output="logits") as recorder:
        model(torch.randn(1, 3))["logits"].sum().backward()
        optimizer.step()
    assert recorder.trajectory["epsilon"][0] == pytest.approx(np.sqrt(2))


def test_a_layer_that_runs_twice_is_said() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.last = nn.Linear(3, 3), nn.Linear(3, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(self.layer(torch.relu(self.layer(x))))

    model = Twice()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with cg.TrajectoryRecorder(model, optimizer) as recorder:
        train(model, optimizer, batches(3, 1, (3,), 1), nn.functional.mse_loss)
    assert recorder.trajectory.setting.once is False
