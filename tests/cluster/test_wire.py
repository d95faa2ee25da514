"""What travels: float16 rows and packed requests, against the same without."""

from __future__ import annotations

import numpy as np

SLOTS = [
    {"id": 1, "name": "user", "dim": 8, "init": "normal", "init_scale": 0.1},
    {"id": 7, "name": "item", "dim": 5, "init": "uniform", "init_scale": 0.5},
]


def train(client, rng, batches=5):
    for _ in range(batches):
        keys = rng.integers(0, 500, 300, dtype=np.uint64)
        client.push({s: (keys, rng.normal(size=(300, d))) for s, d in ((1, 8), (7, 5))})


def assert_halves(whole, half):
    for slot, rows in whole.items():
        assert half[slot].dtype == np.float32
        want = rows.astype(np.float16).astype(np.float32)
        assert (half[slot] == want).all()
        assert not (half[slot] == rows).all()


def test_half_rows_are_the_rows_rounded_to_float16(standalone, connect, rng):
    daemon = standalone(3, slots=SLOTS)
    whole, half = connect(daemon), connect(daemon, half=True)
    train(whole, rng)
    keys = {s: np.arange(1000, dtype=np.uint64) for s in (1, 7)}  # stored ones, and unknown ones
    assert_halves(whole.pull(keys), half.pull(keys))


def test_half_rows_of_a_fitted_basis_are_close_to_the_whole_ones(standalone, connect, rng):
    daemon = standalone(2, slots=SLOTS)
    whole, half = connect(daemon), connect(daemon, half=True)
    train(whole, rng)
    whole.search(kappa=0.5, strategy="magnitude", wait=True)
    keys = {1: np.arange(500, dtype=np.uint64)}
    a, b = whole.pull(keys)[1], half.pull(keys)[1]
    assert whole.layout()[1].width < 8
    assert np.abs(a - b).max() <= 8 * 2**-11 * np.abs(a).max()


def test_a_packed_push_does_what_a_plain_one_does(standalone, connect, rng):
    daemons = standalone(2, slots=SLOTS), standalone(2, slots=SLOTS)
    keys = rng.integers(0, 2**63, 4000, dtype=np.uint64)
    grads = np.zeros((4000, 8), np.float32)
    grads[::50] = rng.normal(size=(80, 8))  # packs to a fraction
    rows = []
    for daemon, pack in zip(daemons, (False, True)):
        client = connect(daemon, pack=pack)
        client.push({1: (keys, grads)}, mode="train+score", samples=100)
        rows.append((client.pull({1: keys})[1], client.scores()[1]))
    assert (rows[0][0] == rows[1][0]).all()
    assert (rows[0][1] == rows[1][1]).all()


def test_gradients_that_do_not_pack_go_as_they_are(standalone, connect, rng):
    daemon = standalone(1, slots=SLOTS)
    client, plain = connect(daemon, pack=True), connect(daemon)
    keys = rng.integers(0, 2**63, 4000, dtype=np.uint64)
    before = plain.pull({1: keys})[1]
    client.push({1: (keys, rng.normal(size=(4000, 8)))})
    assert (client.pull({1: keys})[1] == plain.pull({1: keys})[1]).all()
    assert (plain.pull({1: keys})[1] != before).any(axis=1).all()
