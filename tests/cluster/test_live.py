"""Searches on a cluster that trains: layouts change, and are taken back, under workers that never
stop; plans outlive a coordinator; every step is on record."""

from __future__ import annotations

import json
import sys
import threading
import time

import numpy as np
import pytest
from conftest import PYTHON_DIR

sys.path.insert(0, str(PYTHON_DIR))
import dimfit  # noqa: E402

USER, ITEM = 1, 2
DIM = 8
KEYS = np.arange(1, 401, dtype=np.uint64)
SLOTS = [
    {"id": USER, "name": "user", "dim": DIM},
    {"id": ITEM, "name": "item", "dim": 2, "search": False},
]
DEFAULTS = {"optimizer": "sgd", "lr": 1, "init": "zero"}
HALF = {"kappa": 0.5, "strategy": "uniform", "basis": "axis"}


@pytest.fixture
def daemon(standalone, tmp_path):
    options = ["--data-dir", tmp_path / "data", "--audit-log", tmp_path / "audit"]
    return standalone(3, options, defaults=DEFAULTS, slots=SLOTS)


class Trainer(threading.Thread):
    """Pushes ones and pulls, over and over; SGD of rate 1 makes each row minus the pushes it had."""

    def __init__(self, client) -> None:
        super().__init__()
        self.client, self.pushes, self.error = client, 0, None
        self.stopping = threading.Event()

    def run(self) -> None:
        ones = {s["id"]: np.ones((len(KEYS), s["dim"]), np.float32) for s in SLOTS}
        try:
            while not self.stopping.is_set():
                self.client.push({slot: (KEYS, ones[slot]) for slot in ones})
                self.pushes += 1
                assert self.client.pull({USER: KEYS[::7]})[USER].shape[1] == DIM
        except Exception as error:  # told by the test's own thread
            self.error = error


def stored(client, slot=USER):
    return client.layout()[slot].width


def trained_more(trainers, by=3):
    """Until each has pushed a few times since."""
    goals = [t.pushes + by for t in trainers]
    while any(t.pushes < goal for t, goal in zip(trainers, goals)) and not any(
        t.error for t in trainers
    ):
        trainers[0].stopping.wait(0.01)


def test_training_loses_nothing_through_three_searches_and_a_rollback(daemon, connect, tmp_path):
    admin = connect(daemon)
    trainers = [Trainer(connect(daemon)) for _ in range(2)]
    for trainer in trainers:
        trainer.start()
    try:
        widths = []
        for step in ("search", "search", "rollback", "search"):
            trained_more(trainers)
            if step == "search":
                admin.search(**HALF)
            else:
                admin.search_rollback()
            admin.search_wait(60)
            widths.append(stored(admin))
        trained_more(trainers)
    finally:
        for trainer in trainers:
            trainer.stopping.set()
        for trainer in trainers:
            trainer.join()
    assert [t.error for t in trainers] == [None, None]
    assert widths == [4, 2, 4, 2]
    assert admin.status()["epoch"] == 4

    pushes = sum(t.pushes for t in trainers)
    rows = admin.pull({USER: KEYS, ITEM: KEYS})
    assert np.array_equal(rows[ITEM], np.full((len(KEYS), 2), -pushes, np.float32))
    assert np.array_equal(rows[USER][:, :2], np.full((len(KEYS), 2), -pushes, np.float32))
    shards = admin.stats()["shards"]
    assert sum(s["keys_pushed"] for s in shards) == pushes * 2 * len(KEYS)
    assert sum(s["refused"] for s in shards) == 0

    steps = [json.loads(line) for line in (tmp_path / "audit").read_text().splitlines()]
    assert [s["step"] for s in steps if s["step"] in ("committed", "rolled back")] == [
        "committed",
        "committed",
        "rolled back",
        "committed",
    ]
    assert all(s["result"] == "ok" and s["time"] and s["who"] for s in steps)


def at_rest(call, seconds=30):
    """What it answers once rows have moved and are saved: a dry run says BUSY until then."""
    end = time.monotonic() + seconds
    while True:
        try:
            return call()
        except dimfit.Error as error:
            if error.code != "BUSY" or time.monotonic() > end:
                raise
        time.sleep(0.05)


def test_what_was_dropped_comes_back_as_it_was_and_what_was_trained_stays(daemon, connect):
    client = connect(daemon)
    push = {USER: (KEYS, np.ones((len(KEYS), DIM), np.float32))}
    client.push(push)
    client.search(**HALF, wait=True)
    client.push(push)
    assert at_rest(lambda: client.search_rollback(dry_run=True))["to_epoch"] == 2
    client.search_rollback()
    assert client.search_wait()["phase"] == "rolled back"
    rows = client.pull({USER: KEYS})[USER]
    assert np.array_equal(rows[:, :4], np.full((len(KEYS), 4), -2, np.float32))
    assert np.array_equal(rows[:, 4:], np.full((len(KEYS), 4), -1, np.float32))
    with pytest.raises(Exception, match="rolled back"):
        client.search_rollback()


def test_a_commit_whose_rows_were_discarded_is_not_rolled_back(daemon, connect):
    client = connect(daemon)
    client.push({USER: (KEYS, np.ones((len(KEYS), DIM), np.float32))})
    client.search(**HALF, wait=True)
    assert client.search_status()["saved"] == {"search": 1, "epoch": 0}
    assert client.search_discard(saved=True)["saved"] is None
    with pytest.raises(Exception, match="discarded"):
        client.search_rollback()
    assert client.status()["epoch"] == 1


def test_plans_are_listed_applied_later_and_stale_after_another(daemon, connect, ctl):
    client = connect(daemon)
    client.push({USER: (KEYS, np.ones((len(KEYS), DIM), np.float32))})
    for kappa in (0.5, 0.25):
        client.search(**{**HALF, "kappa": kappa}, plan_only=True, wait=True)
    before = [(p["plan"], p["state"], p["params_after"]) for p in client.search_plans()]
    assert before == [(1, "ready", 4 * len(KEYS)), (2, "ready", 2 * len(KEYS))]
    dry = client.search_apply(plan=1, dry_run=True)
    assert dry["slots"] == [{"id": USER, "name": "user", "before": 8, "after": 4}]
    assert (stored(client), client.status()["epoch"]) == (8, 0)
    client.search_apply(plan=1)
    client.search_wait()
    assert stored(client) == 4
    assert [p["state"] for p in client.search_plans()] == ["applied", "stale"]
    refused = ctl(daemon, "search", "apply", "--plan", 2)
    assert refused.returncode == 1 and "stale" in refused.stderr
    assert [s["after"] for s in client.search_plan(plan=2)["slots"]] == [2]
    assert "rolled back" in ctl(daemon, "search", "rollback", "--wait").stdout
    assert [p["plan"] for p in client.search_discard(plan=2)["plans"]] == [1]
    assert ctl(daemon, "search", "discard").returncode == 2


def test_plans_and_the_way_back_outlive_the_coordinator(start, config, connect, tmp_path):
    named = ["--config", config(defaults=DEFAULTS, slots=SLOTS)]
    state = ["--data-dir", tmp_path / "state"]
    first = start("coordinator", "--bind", "tcp://127.0.0.1:*", *named, *state).wait_ready()
    start("shard", "--coordinator", first.endpoint, "--rollback-dir", "memory").wait_ready()
    client = connect(first)
    client.push({USER: (KEYS, np.ones((len(KEYS), DIM), np.float32))})
    client.search(**HALF, wait=True)
    client.search(**HALF, plan_only=True, wait=True)
    first.kill()
    (tmp_path / "state" / "plan-7").write_bytes(b"no plan at all")
    again = start("coordinator", "--bind", first.endpoint, *named, *state).wait_ready()
    client = connect(again)
    assert [(p["plan"], p["state"]) for p in client.search_plans()] == [(1, "applied"), (2, "ready")]
    assert "plan-7 is left out" in again.log()
    client.search_rollback()
    client.search_wait()
    assert stored(client) == 8
    assert np.array_equal(client.pull({USER: KEYS})[USER], np.full((len(KEYS), DIM), -1, np.float32))
    assert [p["state"] for p in client.search_plans()] == ["rolled back", "stale"]
    assert client.search(**HALF, plan_only=True)["search"] == 3
