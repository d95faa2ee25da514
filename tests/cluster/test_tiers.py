"""Tiers on a real cluster: rows go up by their shows, are pulled by who knows nothing of tiers, are
scored and searched a tier, and train on."""

from __future__ import annotations

import numpy as np
import pytest

USER = 1
DIM = 6
SHOWS = [3, 6]  # where the second and third tier begin
KEYS = np.arange(1, 91, dtype=np.uint64)
SLOTS = [{"id": USER, "name": "user", "dim": DIM, "tiers": SHOWS}]
DEFAULTS = {"optimizer": "sgd", "lr": 0.125}


@pytest.fixture
def daemon(standalone):
    return standalone(2, defaults=DEFAULTS, slots=SLOTS)


def groups():
    """Keys that are to be pushed 1, 4 and 8 times: one of each tier."""
    return [(KEYS[:60], 1, 0), (KEYS[60:80], 4, 1), (KEYS[80:], 8, 2)]


def train(client, rng):
    """Each group as often as it says."""
    for keys, times, _ in groups():
        for _ in range(times):
            grads = rng.integers(-8, 8, (len(keys), DIM)).astype(np.float32) / 8
            client.push({USER: (keys, grads)})


def expected_tiers():
    return np.concatenate([np.full(len(keys), tier) for keys, _, tier in groups()])


def pulled(client, view="full"):
    return client.pull({USER: KEYS}, view=view)[USER]


def test_rows_change_their_tier_by_a_shrink_and_nothing_else_changes(daemon, connect, ctl, rng):
    client = connect(daemon)
    train(client, rng)
    rows, tiers = client.pull({USER: KEYS}, tiers=True)
    assert not tiers[USER].any(), "pushes move no row"
    dry = client.shrink(retier=True, dry_run=True, wait=True)
    assert (dry["promoted"], dry["demoted"], dry["evicted"]) == (30, 0, 0)
    text = ctl(daemon, "shrink", "--retier").stdout
    assert "30 rows to a higher tier, 0 to a lower one" in text
    again, tiers = client.pull({USER: KEYS}, tiers=True)
    assert np.array_equal(tiers[USER], expected_tiers())
    assert np.array_equal(again[USER], rows[USER])
    assert client.shrink(retier=True, wait=True)["promoted"] == 0


def test_scores_are_a_tiers(daemon, connect, rng):
    client = connect(daemon)
    train(client, rng)
    client.shrink(retier=True, wait=True)
    rows = pulled(client).astype(np.float64)
    want = np.zeros((3, DIM))
    tiers = expected_tiers()
    for step in range(1, 6):
        grads = rng.normal(size=(len(KEYS), DIM)).astype(np.float32)
        client.push({USER: (KEYS, grads)}, mode="score", step=step)
        for tier in range(3):
            want[tier] += np.abs((rows * grads)[tiers == tier].sum(0))
    got = {s["tier"]: s for s in client.admin("scores", {"estimator": "step"})["slots"]}
    assert [got[t]["rows"] for t in range(3)] == [60, 20, 10]
    for tier in range(3):
        np.testing.assert_allclose(got[tier]["g"], want[tier], rtol=1e-9)
        np.testing.assert_allclose(got[tier]["s"], want[tier] / want.sum(), rtol=1e-9)


@pytest.mark.parametrize("basis", ["axis", "rotated"])
def test_a_search_gives_each_tier_a_width_and_training_goes_on(basis, daemon, connect, rng):
    client = connect(daemon)
    train(client, rng)
    client.shrink(retier=True, wait=True)
    before = pulled(client)
    client.search(kappa=0.3, strategy="sseds", basis=basis, min_dim=0, samples=8)
    for step in range(1, 9):
        # The tail's gradients are small: so are its scores.
        grads = rng.normal(size=(len(KEYS), DIM)) * np.where(expected_tiers() == 0, 1e-3, 1)[:, None]
        client.push({USER: (KEYS, grads)}, mode="score", step=step)
    client.search_wait()
    slot = client.layout()[USER]
    widths = np.array(slot.tier_widths)
    assert widths[0] == 0 < widths[2] <= DIM and np.all(np.diff(widths) >= 0)
    assert 60 * widths[0] + 20 * widths[1] + 10 * widths[2] <= 0.3 * DIM * len(KEYS)

    M, mean, tiers = slot.basis, slot.mean, expected_tiers()
    rows = (before - mean) @ M
    for row, tier in zip(rows, tiers):
        row[widths[tier] :] = 0
    np.testing.assert_allclose(pulled(client, "compact"), rows, atol=2e-6)
    np.testing.assert_allclose(pulled(client), mean + rows @ M.T, atol=2e-6)

    client.push({USER: (KEYS, np.ones((len(KEYS), DIM), np.float32))})
    step = np.full(DIM, 0.125) @ M
    for row, tier in zip(rows, tiers):
        row[: widths[tier]] -= step[: widths[tier]]
    np.testing.assert_allclose(pulled(client, "compact"), rows, atol=2e-6)


def test_a_rollback_gives_each_tier_its_width_back(standalone, connect, rng, tmp_path):
    options = ["--data-dir", tmp_path / "data"]
    daemon = standalone(2, options, defaults=DEFAULTS, slots=SLOTS)
    client = connect(daemon)
    train(client, rng)
    client.shrink(retier=True, wait=True)
    before = pulled(client)
    client.search(kappa=0.3, basis="axis", min_dim=0, samples=1)
    client.push({USER: (KEYS, rng.normal(size=(len(KEYS), DIM)))}, mode="score", step=1)
    client.search_wait()
    client.push({USER: (KEYS, np.zeros((len(KEYS), DIM), np.float32))})
    assert client.shrink(retier=True, wait=True)["promoted"] == 0, "they can be rolled back yet"
    client.search_rollback()
    client.search_wait()
    assert client.layout()[USER].tier_widths == (DIM, DIM, DIM)
    assert np.array_equal(pulled(client), before)
    daemon.kill()
    again = connect(standalone(2, [*options, "--bind", daemon.endpoint]))
    rows, tiers = again.pull({USER: KEYS}, tiers=True)
    assert np.array_equal(rows[USER], before) and np.array_equal(tiers[USER], expected_tiers())
