"""A bound on memory: rows find no more room, those stored are trained and read on."""

from __future__ import annotations

import numpy as np
import pytest

import dimfit

SLOTS = [{"id": 1, "dim": 16, "optimizer": "sgd", "lr": 1.0, "init": "zero"}]
BATCH = 2000


def ones(n: int) -> np.ndarray:
    return np.ones((n, 16), dtype=np.float32)


def push_until(client, stop, most: int = 200) -> np.ndarray:
    """All keys pushed before stop() was true of the last batch."""
    for i in range(most):
        keys = np.arange(i * BATCH, (i + 1) * BATCH, dtype=np.uint64)
        try:
            client.push({1: (keys, ones(BATCH))})
            error = None
        except dimfit.Error as e:
            error = e
        if stop(keys, error):
            return np.arange(i * BATCH, dtype=np.uint64)
    raise AssertionError(f"{most * BATCH} rows were taken")


def test_new_rows_beyond_max_memory_are_refused_and_stored_ones_go_on(standalone, connect, ctl):
    daemon = standalone(2, ["--max-memory", "8M"], slots=SLOTS)
    c = connect(daemon)
    errors = []

    def refused(keys, error):
        errors.append(error)
        return error is not None

    keys = push_until(c, refused)
    assert errors[-1].code == "LIMIT", errors[-1]
    assert "4 MiB" in errors[-1].message and "--max-memory" in errors[-1].message
    assert 20_000 < len(keys) < 8 * 2**20 / 64
    c.push({1: (keys, ones(len(keys)))})
    np.testing.assert_array_equal(c.pull({1: keys})[1], -2 * ones(len(keys)))
    fresh = np.arange(10**9, 10**9 + 10, dtype=np.uint64)
    assert not c.pull({1: fresh})[1].any()
    rows = ctl(daemon, "slots", data=True)["slots"][0]["rows"]
    assert len(keys) <= rows < len(keys) + BATCH
    assert ctl(daemon, "status").returncode == 0


def test_new_rows_beyond_max_memory_are_skipped_when_asked(standalone, connect):
    daemon = standalone(1, ["--max-memory", "4M", "--over-memory", "skip"], slots=SLOTS)
    c = connect(daemon)

    def skipped(keys, error):
        assert error is None, error
        return not c.pull({1: keys})[1].any()

    keys = push_until(c, skipped)
    stored = keys[c.pull({1: keys})[1][:, 0] == -1]
    assert len(stored) > 20_000
    mixed = np.concatenate([stored[:100], np.arange(10**9, 10**9 + BATCH, dtype=np.uint64)])
    c.push({1: (mixed, ones(len(mixed)))})
    values = c.pull({1: mixed})[1]
    np.testing.assert_array_equal(values[:100], -2 * ones(100))
    assert not values[100:].any()
    assert sum(s["keys_skipped"] for s in c.stats()["shards"]) >= 2 * BATCH


def test_a_word_that_is_no_way_over_memory_is_refused(start):
    daemon = start("standalone", "--over-memory", "drop")
    assert daemon.wait() == 2
    assert "refuse or skip" in daemon.log(), daemon.log()
