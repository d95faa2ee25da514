"""Clicks, days, admission and eviction: what a client pushes, what is left, what is logged."""

from __future__ import annotations

import csv
import stat

import numpy as np
import pytest

SLOTS = [
    {"id": 1, "name": "user", "dim": 4, "clicks": True, "expire_days": 10, "decay": 0.5},
    {"id": 2, "name": "item", "dim": 3, "admit": 3},
]


def ones(n, dim):
    return np.ones((n, dim), np.float32)


def total(client, what):
    return sum(slot["rows"] for slot in client.slots()["slots"] if slot["id"] == what)


def test_evicted_rows_are_logged_with_what_was_counted(standalone, connect, ctl, tmp_path):
    log = tmp_path / "evicted.csv"
    daemon = standalone(2, slots=SLOTS, options=("--eviction-log", log))
    client = connect(daemon)
    keys = np.arange(2000, dtype=np.uint64)
    client.push({1: (keys, ones(2000, 4))}, clicks={1: keys % 3}, day=20000)
    client.push({1: (keys[:500], ones(500, 4))}, clicks={1: [1] * 500}, day=20002)
    client.push({1: (keys[1000:], ones(1000, 4))}, day=20100)
    before = client.pull({1: keys})[1]
    assert total(client, 1) == 2000
    assert ctl(daemon, "shrink", "--day", 20105, data=True)["state"] == "done"
    assert total(client, 1) == 1000
    after = client.pull({1: keys})[1]
    assert (after[1000:] == before[1000:]).all()
    assert (after[:1000] != before[:1000]).any(axis=1).all()  # initial values again
    assert daemon.stop() == 0
    assert stat.S_IMODE(log.stat().st_mode) == 0o600
    with log.open() as lines:
        rows = {int(row["feasign"]): row for row in csv.DictReader(lines)}
    assert sorted(rows) == list(range(1000))
    for key, row in rows.items():
        decayed = 0.25 if key < 500 else 1.0  # two days of a half
        seen = key < 500
        assert row["slot"] == "1"
        assert float(row["shows"]) == decayed + seen
        assert float(row["clicks"]) == (key % 3) * decayed + seen
        assert row["day"] == ("20002" if seen else "20000")


def test_a_feasign_trains_from_its_nth_show_on(standalone, connect):
    client = connect(standalone(2, slots=SLOTS))
    keys = np.arange(100, dtype=np.uint64)
    initial = client.pull({2: keys})[2]
    client.push({2: (keys, ones(100, 3))})
    client.push({2: (keys[:50], ones(50, 3))})
    assert (client.pull({2: keys})[2] == initial).all()
    assert total(client, 2) == 0
    client.push({2: (keys, ones(100, 3))})
    now = client.pull({2: keys})[2]
    assert (now[:50] < initial[:50]).all()
    assert (now[50:] == initial[50:]).all()
    assert total(client, 2) == 50


def test_clicks_and_days_that_make_no_sense_are_refused(standalone, connect):
    import dimfit

    client = connect(standalone(1, slots=SLOTS))
    keys = np.arange(3, dtype=np.uint64)
    pair = (keys, ones(3, 4))
    for given in (
        {"clicks": {1: [1, 2]}},
        {"clicks": {1: [1, 2, -1]}},
        {"clicks": {1: [1.5, 2, 3]}},
        {"clicks": {2: [1, 2, 3]}},
        {"day": 0},
        {"day": 2**32},
        {"day": 2**19},
    ):
        with pytest.raises(dimfit.Error) as error:
            client.push({1: pair}, **given)
        assert error.value.code == "INVALID"
    with pytest.raises(dimfit.Error, match="slot 2 counts no clicks"):
        client.push({2: (keys, ones(3, 3))}, clicks={2: [0, 0, 1]})
    assert total(client, 1) == total(client, 2) == 0
