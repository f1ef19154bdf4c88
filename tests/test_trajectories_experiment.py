"""The experiments on trajectories in small: the stack against torch's own loop, resuming, the page."""

from __future__ import annotations

import re
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

sys.path.append(str(Path(__file__).parents[1] / "docs" / "experiments" / "trajectories"))

import epochs
import maps
import measures
import page
import run
import stacked
from tasks import Data, Plan, Shift, Task, cnn, images, mlp, sinusoid

LOSSES = {"sinusoid": nn.MSELoss(), "images": nn.BCELoss()}


def small(name: str, **changes: object) -> Task:
    """Two complexities, eight samples, on random images where it is images."""

    def pictures(share: float, seed: int) -> Data:
        torch.manual_seed(seed)
        labels = torch.rand(8, 1).round()
        return Data(torch.randn(16, 1, 9, 9), torch.arange(8), torch.arange(8, 16), labels, labels)

    made = {
        "sinusoid": Task(
            "sinusoid", "frequency", (0.25, 1.0), lambda c, s: sinusoid(c, s, 8, 6),
            lambda seed, **o: mlp(seed, 12, **o), nn.functional.mse_loss, 0.05, 1e-3, True, 2,
        ),
        "images": Task(
            "images", "share", (0.0, 0.5), pictures, lambda seed, **o: cnn(seed, (1, 9, 9), (2, 3), **o),
            nn.functional.binary_cross_entropy, 0.1, 0.1, False, 1,
        ),
    }[name]
    return replace(made, **changes)


@pytest.mark.parametrize("name", ["sinusoid", "images"])
@pytest.mark.parametrize(("rule", "batch"), [("sgd", 1), ("sgd", 4), ("momentum", 1), ("adam", 2)])
def test_a_stack_trains_as_torch_does(name: str, rule: str, batch: int) -> None:
    """Two epochs in double precision: parameters, ε, a, λ of each run, by torch.optim and autograd alone."""
    task, plan = small(name), Plan(name, "test", (3, 4), 2, batch, rule)
    stack = stacked.Stack(task, plan, torch.float64)
    records = [record for _ in range(2) for record in stack.train_epoch()]
    for place, (complexity, seed) in enumerate(stack.runs):
        data, model = task.data(complexity, seed), task.network(seed).double()
        free = [p for p in model.parameters() if p.requires_grad]
        made = {"sgd": torch.optim.SGD, "momentum": torch.optim.SGD, "adam": torch.optim.Adam}[rule]
        optimizer = made(free, lr=task.rate, **({"momentum": 0.9} if rule == "momentum" else {}))
        for epoch, record in enumerate(records):
            steps = epochs.columns(record, task.rate, rule == "sgd")
            for t, chosen in enumerate(stacked.batches(plan, 8, seed, epoch)):
                x = data.inputs[data.train[chosen]].double().requires_grad_(True)
                output, y = model(x), data.train_targets[chosen].double()
                output.retain_grad()
                before = model.get_parameter(stacked.BIAS).detach().clone()
                optimizer.zero_grad()
                LOSSES[name](output, y).backward()
                optimizer.step()
                move = (model.get_parameter(stacked.BIAS).detach() - before).norm().item()
                epsilon = output.grad.abs().sum().item()
                assert steps["epsilon"][t, place] == pytest.approx(epsilon, rel=1e-7)
                assert steps["a"][t, place] == pytest.approx(move / (task.rate * epsilon), rel=1e-6)
                assert steps["lambda"][t, place] == pytest.approx(x.grad.flatten(1).norm(dim=1).sum().item() / epsilon)
        for key, value in stack.parameters.items():
            torch.testing.assert_close(value[place], model.get_parameter(key).detach(), rtol=1e-6, atol=1e-9)


def test_a_run_does_not_notice_its_neighbours() -> None:
    """Runs that end early leave the stack; what remains is what they would have been alone."""
    task, plan = small("sinusoid", fitted=0.2), Plan("sinusoid", "test", (0, 1, 2), 12)
    both = stacked.train(task, plan)
    lengths = np.isfinite(both["loss"]).sum(0)
    assert len(set(lengths)) > 1 and np.all((both["loss"][-1] >= 0.2) | np.isnan(both["loss"][-1]))
    alone = stacked.train(task, replace(plan, seeds=(1,)))
    for name in ("loss", "length", "distance", "mean", "scatter"):
        np.testing.assert_allclose(both[name][:, 1::3], alone[name], rtol=1e-3)


def test_theorem_1_is_seen_to_hold_and_to_fail() -> None:
    """No violation with the true learning rate; with half of it in the formula, one wherever λ > 0."""
    stack = stacked.Stack(small("images"), Plan("images", "test", (0,), 1))
    (record,) = stack.train_epoch()
    for rate, wrong in ((0.1, 0), (0.05, 1)):
        steps = epochs.columns(record, rate, True)
        found = epochs.sums(steps)
        assert list(found["instances"]) == [16, 16]
        assert list(found["violations"]) == list(wrong * np.sum(steps["lambda"] > 0, 0))
    assert np.all(found["violations"] > 3)


def test_the_moments_of_parts_are_those_of_the_whole() -> None:
    """An epoch in two records: mean, scatter and distance of all its iterates."""
    stack = stacked.Stack(small("images"), Plan("images", "test", (0,), 2))
    records = [record for _ in range(2) for record in stack.train_epoch()]
    found = epochs.summary(records, 0.1, True, stack.initial)
    b = torch.stack([b for record in records for b in record.biases]).double().numpy()
    np.testing.assert_allclose(found["mean"], b.mean(0), rtol=1e-10)
    np.testing.assert_allclose(found["scatter"], 16 * b.var(0).sum(1), rtol=1e-6)
    np.testing.assert_allclose(found["distance"], np.linalg.norm(b[-1] - stack.initial.numpy(), axis=1))
    moves = np.diff(np.concatenate([stack.initial.numpy()[None], b]), axis=0)
    np.testing.assert_allclose(found["move"], np.linalg.norm(moves, axis=2).sum(0))


def test_images_are_split_and_their_labels_corrupted() -> None:
    """Half of the redrawn labels are wrong, held-out ones never; what is wrong at one share stays so at the next."""
    classes = torch.arange(2000) % 2
    made = [images(share, 5, lambda: (torch.zeros(2000, 1), classes), 500) for share in (0.0, 0.2, 0.6)]
    wrong = [data.train_targets[:, 0] != classes[data.train] for data in made]
    assert all(abs(float(w.float().mean()) - share / 2) < 0.04 for w, share in zip(wrong, (0, 0.2, 0.6), strict=True))
    assert int(wrong[0].sum()) == 0 and bool((wrong[2] | ~wrong[1]).all())
    for data in made:
        assert not set(data.train.tolist()) & set(data.held.tolist())
        assert torch.equal(data.held_targets[:, 0], classes[data.held].float())
        assert torch.bincount(classes[data.train]).tolist() == torch.bincount(classes[data.held]).tolist() == [500, 500]


def test_the_first_layer_is_the_identity() -> None:
    layer, x = mlp(0)[0], torch.randn(3, 10)
    assert isinstance(layer, nn.Linear) and not layer.weight.requires_grad
    torch.testing.assert_close(layer(x), x + layer.bias)
    assert isinstance(cnn(0, (1, 14, 14))[0], Shift)


def test_plans_run_resume_and_become_a_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Groups in files; what is there is not trained again, and another plan's file is not taken for it."""
    made = {name: small(name) for name in LOSSES}
    monkeypatch.setattr(run, "tasks", lambda *_: made)
    monkeypatch.setattr(run, "shares", [0.0] * 20)
    groups = [Plan(name, "main", (0, 1, 2), 6) for name in made]
    groups += [Plan("sinusoid", "batch 4", (0, 1), 4, batch=4, rate=4.0)]
    groups += [Plan(name, "parameters", (0, 1), 4, watch_all=True) for name in made]
    groups += [Plan("images", "momentum", (0, 1), 4, optimizer="momentum")]
    groups += [Plan("sinusoid", "agreement", (0,), 2), Plan("sinusoid", "map", (0,), 2)]
    monkeypatch.setattr(maps, "RESOLUTION", 9)
    for i, plan in enumerate(groups):
        assert run.load(tmp_path, plan) is None
        run.train(i, plan, tmp_path, False, None)
        assert run.load(tmp_path, replace(plan, epochs=99)) is None
    files = {file: file.stat().st_mtime_ns for file in tmp_path.glob("*.npz")}
    run.run(groups, tmp_path, 1)
    assert len(files) == len(groups) and files == {file: file.stat().st_mtime_ns for file in tmp_path.glob("*.npz")}
    results = {plan: run.load(tmp_path, plan) for plan in groups}
    for plan, found in results.items():
        if plan.variant == "agreement":
            assert found is not None and max(found[name][1] for name in ("a", "lambda", "b")) < 1e-9
    text = page.write(results, made, tmp_path, "Random images").read_text()
    pictures = re.findall(r"!\[.*\]\((.*)\)", text)
    assert len(pictures) == 6 and all((tmp_path / picture).stat().st_size > 10_000 for picture in pictures)
    assert not re.search(r"\bnan\b|\binf\b|{[a-z]+}", text)


def test_maps_are_of_the_trained_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Slopes and costs by autograd at the parameters after training; Theorem 2 holds and reaches beyond the points."""
    monkeypatch.setattr(maps, "RESOLUTION", 7)
    task, plan = small("sinusoid", network=lambda seed: mlp(seed, 10, 0)), Plan("sinusoid", "map", (3,), 2)
    found = maps.compute(task, plan)
    stack = stacked.Stack(task, plan)
    for _ in range(2):
        list(stack.train_epoch())
    for place, (complexity, seed) in enumerate(stack.runs):
        data, model = task.data(complexity, seed), task.network(seed)
        model.load_state_dict({name: p[place] for name, p in stack.parameters.items()}, strict=False)

        def slope(x: torch.Tensor, model: nn.Sequential = model) -> float:
            return torch.autograd.functional.jacobian(model, x[None]).norm().item()

        Q = data.plane
        z = [torch.tensor([s, t]) for s in np.linspace(-1, 1, 7) for t in np.linspace(-1, 1, 7)]
        expected = [slope(Q @ point.float()) for point in z]
        np.testing.assert_allclose(found["lam"][place].ravel(), expected, rtol=1e-4)
        np.testing.assert_allclose(found["lam_points"][place], [slope(x) for x in data.inputs[:8]], rtol=1e-4)
        np.testing.assert_allclose(found["points"][place] @ Q.numpy().T, data.inputs[:8], atol=1e-6)
    assert found["holds"].all() and found["gamma"].max() < 1e-4 and not found["violations"].any()
    assert np.all(found["share"] >= found["visited"]) and np.all(found["visited"] > 0)
    assert (found["share"] > found["visited"]).any()


def test_orders_of_runs() -> None:
    """Four means and seeds by hand: a tie does not grow; among runs that never fit the larger loss is the slower."""
    found = measures.order(np.array([[1.0, 2, 1], [2, 3, 1], [3, 2, 5], [4, 6, 6]]))
    assert found.grows and (found.seeds, found.of) == (1, 3)
    assert not measures.order(np.array([[1.0], [1.0]])).grows
    nan = np.nan
    loss = np.array([[0.5, 0.9, 0.8, 0.9], [0.01, 0.9, 0.7, 0.9], [nan, 0.01, 0.6, 0.65]])
    runs = {"complexity": np.arange(4), "loss": loss, "scatter": 0 * loss + 2, "mean": np.stack([0 * loss, loss], 2)}
    runs |= {name: loss for name in ("length", "move", "held", "distance")}
    orders = measures.claims(runs, small("sinusoid", fitted=0.1), steps=4)
    slow = next(iter(orders.values()))
    assert slow.grows and list(slow.means) == [2, 3, 3, 3]
    last = next(o for name, o in orders.items() if name.startswith("variance"))
    assert last.means[2] == pytest.approx(2 / 4 + np.var([0.8, 0.7, 0.6]))
