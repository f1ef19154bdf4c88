"""n counts independent samples: copies are refused, repetitions by chance are not."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import poisson
from torch import Tensor, nn
from torch.utils.data import ConcatDataset, DataLoader, IterableDataset, TensorDataset

import covergraph as cg
from covergraph.errors import ParameterError, RepetitionError
from covergraph.measure.loader import Batch, digests
from covergraph.measure.repetition import Repetition

GENERATOR = torch.Generator().manual_seed(0)
X, Y = torch.randn(40, 4, generator=GENERATOR), torch.randint(0, 3, (40,), generator=GENERATOR)
NET = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3))
EVERY = TensorDataset(X, Y)


class Stream(IterableDataset[Any]):
    def __iter__(self) -> Iterator[Any]:
        yield from zip(X, Y, strict=True)


def seen(x: Tensor, y: Tensor, size: int = 64) -> Repetition:
    found = Repetition()
    for start in range(0, len(y), size):
        batch = Batch((x[start : start + size],), y[start : start + size], start)
        found.add(batch, digests(batch))
    return found


COPIES = {
    "workers": DataLoader(Stream(), 8, num_workers=2),
    "concatenated": DataLoader(ConcatDataset([EVERY] * 100), 64),
    "one sample twice": [(torch.cat([X, X[:1]]), torch.cat([Y, Y[:1]]))],
    "one entry a sample, twice": [(X[:, :1].repeat(2, 4), Y.repeat(2))],
}


@pytest.mark.parametrize("form", COPIES)
def test_copies_are_refused_unless_they_are_said_to_be_independent(form: str) -> None:
    with pytest.raises(RepetitionError, match=r"exact copies of earlier ones .samples \d+ and \d+.*duplicates='iid'"):
        cg.analyze(NET, COPIES[form], fill=True)
    accepted = cg.analyze(NET, COPIES[form], fill=True, duplicates="iid")
    assert accepted.measurements.repeated == accepted.measurements.n - 40
    assert f"{accepted.measurements.repeated} of the samples are exact copies" in accepted.explain()


def test_a_sample_without_copies_says_nothing_of_them() -> None:
    once = cg.analyze(NET, DataLoader(Stream(), 8), fill=True)
    assert once.measurements.repeated == 0 and "copies" not in once.explain()


def test_another_label_is_another_sample() -> None:
    seen(torch.cat([X, X]), torch.cat([Y, (Y + 1) % 3])).require_chance()


@pytest.mark.parametrize(
    ("values", "columns", "rows"), [(2, 3, 50), (2, 3, 5000), (2, 20, 400), (10, 4, 300), (6, 1, 100)]
)
def test_discrete_data_that_repeat_by_chance_are_accepted(values: int, columns: int, rows: int) -> None:
    """Independent draws, uniform and skewed, whole and standardized."""
    rng = np.random.default_rng(0)
    for power in (1, 3):
        whole = torch.as_tensor((values * rng.random((rows, columns)) ** power).astype(int))
        labels = torch.as_tensor(rng.integers(0, 2, rows))
        for x in (whole, (whole - 0.3) / 0.7):
            seen(x.double(), labels).require_chance()


def test_values_that_depend_on_each_other_are_accepted_where_few_are_possible() -> None:
    bit = torch.randint(0, 2, (500, 1), generator=GENERATOR)
    seen(bit.repeat(1, 6), bit[:, 0]).require_chance()


@pytest.mark.parametrize("copies", [2, 10])
@pytest.mark.parametrize("columns", [12, 784])
def test_copies_of_discrete_data_with_many_possible_values_are_refused(columns: int, copies: int) -> None:
    x = torch.randint(0, 17, (200, columns), generator=torch.Generator().manual_seed(3)).double() / 16
    x[:, : columns // 2] = 0  # black borders
    y = torch.randint(0, 10, (200,), generator=torch.Generator().manual_seed(4))
    seen(x, y).require_chance()
    with pytest.raises(RepetitionError, match=f"{200 * (copies - 1)} of the {200 * copies} samples"):
        seen(x.repeat(copies, 1), y.repeat(copies)).require_chance()


@pytest.mark.parametrize("copies", [2, 3, 8])
def test_a_sample_of_few_bits_that_is_repeated_is_refused(copies: int) -> None:
    """Here chance explains the pairs, but not that all multiplicities have a common factor."""
    x = torch.randint(0, 2, (60, 12), generator=torch.Generator().manual_seed(5))
    more = torch.randint(0, 2, (4, 12), generator=torch.Generator().manual_seed(6))
    whole = torch.cat([x.repeat(copies, 1), more]).double()
    with pytest.raises(RepetitionError, match="exact copies"):
        seen(whole, torch.zeros(len(whole), dtype=torch.long)).require_chance()


@pytest.mark.parametrize("mean", [0.01, 0.5, 1.0, 2.0, 5.0, 30.0])
@pytest.mark.parametrize("factor", [2, 3, 5, 7])
def test_a_positive_count_is_a_multiple_with_probability_one_half_at_most(factor: int, mean: float) -> None:
    """The inequality behind it, for Poisson counts, summed term by term."""
    counts = np.arange(1, 200)
    chances = poisson.pmf(counts, mean)
    assert chances[counts % factor == 0].sum() <= chances.sum() / 2


def test_the_choice_has_two_words() -> None:
    with pytest.raises(ParameterError, match="duplicates is 'allow', expected one of 'refuse', 'iid'"):
        cg.analyze(NET, [(X, Y)], fill=True, duplicates="allow")  # type: ignore[arg-type]


EQUAL = torch.cat([torch.zeros(513).long(), torch.arange(1, 11).repeat(100)])
THRICE = torch.arange(4).repeat_interleave(3)
HIDDEN = {
    "all of one sample": (X[:1].repeat(40, 1), Y[:1].repeat(40)),
    "in a row": (X[:20].repeat_interleave(600, 0), Y[:20].repeat_interleave(600)),
    "behind equal rows": (X[EQUAL], Y[EQUAL]),
    "of large samples": (torch.randn(4, 3 * 2**20, generator=GENERATOR)[THRICE], Y[THRICE]),
}


@pytest.mark.parametrize("form", HIDDEN)
def test_copies_are_found_wherever_they_lie(form: str) -> None:
    with pytest.raises(RepetitionError):
        seen(*HIDDEN[form]).require_chance()


def test_a_zero_has_no_sign() -> None:
    negative = X.clone()
    negative[:, 0] = -0.0
    with pytest.raises(RepetitionError, match="40 of the 80"):
        cg.analyze(NET, [(negative, Y), (negative + 0.0, Y)], fill=True)


def test_what_comes_most_often_is_said() -> None:
    """One in twenty pictures is black: with one label, as of a population that repeats."""
    x, y = torch.randn(200, 4, generator=GENERATOR), torch.zeros(200, dtype=torch.long)
    x[7::20] = 0.0
    pattern = r"9 of the 200 samples .*samples 7 and 27 .*; sample 7 comes 10 times.*black pictures.*duplicates='iid'"
    with pytest.raises(RepetitionError, match=pattern):
        seen(x, y).require_chance()
