"""The Python package: several calls under way, shrinks, score sums of rows that live elsewhere."""

from __future__ import annotations

import numpy as np
import pytest

import dimfit

SLOTS = [
    {"id": 1, "name": "user", "dim": 8, "optimizer": "sgd", "lr": 0.5},
    {"id": 2, "name": "item", "dim": 4, "optimizer": "sgd", "lr": 0.5},
]


def random_keys(rng, n):
    return rng.integers(0, 2**64, n, dtype=np.uint64)


def test_calls_under_way_see_the_pushes_before_them(standalone, connect, rng):
    c = connect(standalone(2, slots=SLOTS))
    keys = random_keys(rng, 1000)
    before = c.pull({1: keys})[1]
    grads = rng.standard_normal((1000, 8)).astype(np.float32)
    first = c.pull_async({1: keys})
    pushed = c.push_async({1: (keys, grads)})
    second = c.pull_async({1: keys, 2: keys[:3]})
    rows = second.wait()
    assert pushed.wait() is None
    np.testing.assert_array_equal(first.wait()[1], before)
    np.testing.assert_array_equal(rows[1], before - np.float32(0.5) * grads)
    assert rows[2].shape == (3, 4)
    with pytest.raises(dimfit.Error) as failed:
        first.wait()
    assert failed.value.code == "STATE"


def test_calls_nobody_waits_for_are_limited_and_go_with_the_client(standalone, connect, rng):
    c = connect(standalone(1, slots=SLOTS))
    with pytest.raises(dimfit.Error) as failed:
        for _ in range(65):
            c.push_async({2: (random_keys(rng, 10), np.ones((10, 4), np.float32))})
    assert failed.value.code == "LIMIT"
    c.close()
    with pytest.raises(dimfit.Error) as failed:
        c.pull_async({2: random_keys(rng, 1)})
    assert failed.value.code == "STATE"


def test_push_that_is_not_to_be_held_says_frozen_and_is_flushed(standalone, connect):
    c = connect(standalone(1, slots=SLOTS))
    keys = np.arange(5, dtype=np.uint64)
    grads = np.ones((5, 8), np.float32)
    c.push({1: (keys, grads)})
    before = c.pull({1: keys})[1]
    c.search(kappa=0.5, basis="axis", mode="freeze", samples=100, plan_only=True)
    with pytest.raises(dimfit.Error) as failed:
        c.push({1: (keys, grads)}, hold=False)
    assert failed.value.code == "FROZEN" and c.state().frozen
    np.testing.assert_array_equal(c.pull({1: keys})[1], before)
    c.search_abort()
    c.flush()
    np.testing.assert_array_equal(c.pull({1: keys})[1], before - np.float32(0.5))


def test_shrink_evicts_and_its_dry_run_counts(standalone, connect):
    c = connect(standalone(2, slots=SLOTS))
    assert c.shrink_status()["state"] == "none" and c.shrink_status()["shrink"] == 0
    often, once = np.arange(100, dtype=np.uint64), np.arange(1000, 1300, dtype=np.uint64)
    for _ in range(3):
        c.push({1: (often, np.ones((100, 8), np.float32))})
    c.push({1: (once, np.ones((300, 8), np.float32))})
    counted = c.shrink(["user"], shows=2, dry_run=True, wait=True)
    assert counted["state"] == "done" and counted["evicted"] == 300
    assert c.slots()["slots"][0]["rows"] == 400
    done = c.shrink([1], shows=2, wait=True)
    assert done["rows_after"] == 100 and c.slots()["slots"][0]["rows"] == 100
    assert c.shrink_status() == done
    with pytest.raises(dimfit.Error) as failed:
        c.shrink(["nobody"], shows=2)
    assert failed.value.code == "UNKNOWN_SLOT"


def reported(c, rng, steps, rows):
    """Reports random sums of both slots; returns those by step and slot, times their samples."""
    sums = []
    for step in range(1, steps + 1):
        given = {1: rng.standard_normal(8), 2: rng.standard_normal(4)}
        c.score_sums(given, rows, step=step, samples=16)
        sums.append({slot: 16 * g for slot, g in given.items()})
    return sums


def test_reported_sums_are_scored_and_planned_as_ones_of_rows(standalone, connect, rng):
    c = connect(standalone(2, slots=SLOTS))
    rows = {1: 1000, 2: 10}
    c.search(kappa=0.5, basis="axis", estimator="step", mode="live", samples=64, plan_only=True)
    sums = reported(c, rng, 4, rows)
    assert c.search_wait()["phase"] == "planned"
    expected = {slot: sum(np.abs(g[slot]) for g in sums) for slot in rows}
    total = sum(g.sum() for g in expected.values())
    for slot, share in c.scores().items():
        np.testing.assert_allclose(share, expected[slot] / total, rtol=1e-12)
    plan = c.search_plan()
    assert plan["params_before"] == 1000 * 8 + 10 * 4
    assert plan["params_after"] <= plan["params_before"] / 2
    user = plan["slots"][0]
    assert user["rows"] == 1000
    kept = np.flatnonzero(user["keep"])
    best = np.sort(np.argsort(-expected[1])[: len(kept)])
    np.testing.assert_array_equal(kept, best)


@pytest.mark.parametrize(
    "sums, rows, code",
    [
        ({1: np.ones(7)}, {1: 5}, "WIDTH"),
        ({1: np.array([1, np.inf] * 4)}, {1: 5}, "NOT_FINITE"),
        ({9: np.ones(8)}, {9: 5}, "UNKNOWN_SLOT"),
        ({1: np.ones(8)}, {}, "INVALID"),
        ({1: np.ones((8, 1))}, {1: 5}, "INVALID"),
        ({1: np.ones(8, int)}, {1: 5}, "INVALID"),
        ({1: np.ones(8)}, {1: -1}, "INVALID"),
    ],
)
def test_sums_that_are_none_are_refused(standalone, connect, sums, rows, code):
    c = connect(standalone(1, slots=SLOTS))
    with pytest.raises(dimfit.Error) as failed:
        c.score_sums(sums, rows)
    assert failed.value.code == code
    assert not any(share.any() for share in c.scores().values())


def test_search_that_fits_bases_refuses_sums_alone(standalone, connect):
    c = connect(standalone(1, slots=SLOTS))
    c.search(kappa=0.5, basis="rotated", mode="live", samples=64, plan_only=True)
    with pytest.raises(dimfit.Error) as failed:
        c.score_sums({1: np.ones(8)}, {1: 10})
    assert failed.value.code == "STATE" and "axis" in failed.value.message
