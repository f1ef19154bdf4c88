"""The script that counts instances counts them."""

from __future__ import annotations

from trajectory import instances


def test_random_runs_state_much_and_violate_nothing() -> None:
    found = instances.count(runs=12, seed=5)
    assert len(found) == 7 and sum(row["violated"] for row in found.values()) == 0
    for name, row in found.items():
        assert row["instances"] >= row["telling"] > (5 if "L2" in name else 20), name
