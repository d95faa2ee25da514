"""Shrinks from the command line: which rows go, what stays, what is said, and who is told no."""

from __future__ import annotations

import re
import threading
import time

import numpy as np
import pytest

from conftest import wait_for

USER, AD, PLAIN = 1, 2, 3
SLOTS = [
    {"id": USER, "name": "user", "expire_days": 30, "expire_shows": 2, "clicks": True},
    {"id": AD, "name": "ad", "admit": 3},
    {"id": PLAIN, "name": "plain"},
]
DEFAULTS = {"dim": 4, "optimizer": "sgd", "lr": 1, "init_scale": 0.1}
KEYS = np.arange(1, 1001, dtype=np.uint64)


def push(client, slot, keys, times=1, **options):
    for _ in range(times):
        client.push({slot: (keys, np.ones((len(keys), 4), np.float32))}, **options)


def pull(client, slot, keys=KEYS):
    return client.pull({slot: keys})[slot]


def trained(initial, times):
    """The rows after so many pushes, rounded as often as the shard rounds."""
    row = initial.copy()
    for _ in range(times):
        row -= np.float32(1)
    return row


def rows(ctl, daemon):
    return {s["id"]: s["rows"] for s in ctl(daemon, "slots", data=True)["slots"]}


def by_slot(shrink):
    return {s["id"]: (s["rows_before"], s["evicted"], s["rows_after"]) for s in shrink["slots"]}


@pytest.fixture
def daemon(standalone):
    return standalone(2, defaults=DEFAULTS, slots=SLOTS)


def test_rows_shown_too_seldom_go_and_come_back_on_a_push(daemon, connect, ctl):
    client = connect(daemon)
    initial = {slot: pull(client, slot) for slot in (USER, PLAIN)}
    for slot in (USER, PLAIN):
        push(client, slot, KEYS, 2)
        push(client, slot, KEYS[:300])
    done = ctl(daemon, "shrink", "--slot", "user", "--shows", 3, data=True)
    assert done["state"] == "done" and done["shrink"] == 1 and not done["dry_run"]
    assert abs(done["day"] - time.time() // 86400) <= 1
    assert by_slot(done) == {USER: (1000, 700, 300)}
    assert (done["rows_before"], done["evicted"], done["rows_after"]) == (1000, 700, 300)
    assert rows(ctl, daemon) == {USER: 300, AD: 0, PLAIN: 1000}
    now = pull(client, USER)
    assert (now[:300] == trained(initial[USER][:300], 3)).all()
    assert (now[300:] == initial[USER][300:]).all()
    assert (pull(client, PLAIN)[300:] == trained(initial[PLAIN][300:], 2)).all()

    push(client, USER, KEYS[500:510])
    assert (pull(client, USER)[500:510] == trained(initial[USER][500:510], 1)).all()
    assert rows(ctl, daemon)[USER] == 310
    slots = {s["id"]: s for s in ctl(daemon, "slots", data=True)["slots"]}
    assert slots[USER]["evicted"] == 700 and slots[PLAIN]["evicted"] == 0
    assert ctl(daemon, "stats", data=True)["totals"]["evicted"] == 700
    assert (
        "shrink 1, asked for by an admin: rows with fewer than 3 shows, as of day" in daemon.log()
    )
    assert "700 of 1000 rows in 1 slots evicted" in daemon.log()


def test_rows_unseen_for_long_go_by_the_day_given(daemon, connect, ctl):
    client = connect(daemon)
    for age in range(50):  # ten rows a day
        push(client, USER, KEYS[age * 10 : age * 10 + 10], 2, day=20000 - age)
    before = pull(client, USER)
    done = ctl(daemon, "shrink", "--unseen-days", 19, "--day", 20000, data=True)
    assert done["day"] == 20000
    assert by_slot(done) == {USER: (500, 300, 200)}
    assert [s["name"] for s in done["not_by_age"]] == ["ad", "plain"]
    now = pull(client, USER)
    assert (now[:200] == before[:200]).all() and (now[200:500] != before[200:500]).any(1).all()
    # 2024-10-14 is ten days later: the days 19991 to 20000 are 19 to 10 days old.
    done = ctl(daemon, "shrink", "--unseen-days", 18, "--day", "2024-10-14", data=True)
    assert by_slot(done) == {USER: (200, 110, 90)}


def test_without_thresholds_each_slot_goes_by_its_own(daemon, connect, ctl):
    client = connect(daemon)
    push(client, USER, KEYS[:100], 1, day=20000)  # too seldom
    push(client, USER, KEYS[100:300], 2, day=19969)  # too long ago
    push(client, USER, KEYS[300:600], 2, day=19970)
    push(client, PLAIN, KEYS)
    done = ctl(daemon, "shrink", "--day", 20000, data=True)
    assert by_slot(done) == {USER: (600, 300, 300)}
    assert done["slots"][0]["expire_days"] == 30 and done["slots"][0]["expire_shows"] == 2
    assert rows(ctl, daemon) == {USER: 300, AD: 0, PLAIN: 1000}


def test_a_dry_run_counts_and_changes_nothing(daemon, connect, ctl):
    client = connect(daemon)
    for slot in (USER, AD, PLAIN):
        push(client, slot, KEYS)
        push(client, slot, KEYS[:10], 3)
    before = {slot: pull(client, slot) for slot in (USER, AD, PLAIN)}
    slots = ctl(daemon, "slots", data=True)
    dry = ctl(daemon, "shrink", "--shows", 4, "--dry-run", data=True)
    assert dry["dry_run"]
    assert by_slot(dry) == {USER: (1000, 990, 1000), AD: (10, 0, 10), PLAIN: (1000, 990, 1000)}
    assert ctl(daemon, "slots", data=True) == slots
    for slot, values in before.items():
        assert (pull(client, slot) == values).all()
    text = ctl(daemon, "shrink", "--shows", 4, "--dry-run").stdout
    assert "WOULD GO" in text and "1,980 rows would go; a dry run" in text
    wet = ctl(daemon, "shrink", "--shows", 4, data=True)
    assert (wet["shrink"], wet["evicted"], wet["pending_evicted"]) == (3, 1980, 990)


def test_feasigns_that_wait_for_a_row_are_shown_until_their_nth_show(daemon, connect, ctl):
    client = connect(daemon)
    push(client, AD, KEYS, 2)

    def figures():
        slot = ctl(daemon, "slots", data=True)["slots"][1]
        return slot["admit"], slot["rows"], slot["pending"]

    assert figures() == (3, 0, 1000)
    assert "PENDING" in ctl(daemon, "slots").stdout
    assert re.search(r"feasigns waiting for a row +1,000\n", ctl(daemon, "stats").stdout)
    push(client, AD, KEYS[:400])
    assert figures() == (3, 400, 600)


def test_what_cannot_be_shrunk_is_refused_with_what_to_give(daemon, standalone, ctl):
    def refused(to, code, why, *options):
        done = ctl(to, "shrink", *options)
        assert (done.returncode, done.stdout) == (code, "")
        assert why in done.stderr

    refused(daemon, 2, "slot 2 ('ad') keeps no last-seen day", "--slot=ad", "--unseen-days=3")
    refused(daemon, 2, "slot 3 ('plain') is configured without expire_days", "--slot", PLAIN)
    refused(daemon, 1, "there is no slot 'nobody'", "--slot", "nobody")
    refused(daemon, 2, "--unseen-days: 0 is not from 1 to 36500", "--unseen-days=0")
    plain = standalone(1, slots=[{"id": 1}])
    refused(plain, 2, "no slot is configured with expire_days or expire_shows; give --unseen-days")
    refused(plain, 2, "no slot keeps a last-seen day, so age says nothing", "--unseen-days=3")
    assert ctl(plain, "shrink", "--status", data=True)["state"] == "none"
    assert ctl(daemon, "shrink", "--status", data=True)["state"] == "none"


def test_a_shrink_that_is_not_waited_for_shows_in_the_status(daemon, connect, ctl):
    push(connect(daemon), USER, KEYS)
    begun = ctl(daemon, "shrink", "--no-wait", data=True)
    assert begun["shrink"] == 1 and begun["state"] == "running"

    def done():
        status = ctl(daemon, "shrink", "--status", data=True)
        return status if status["state"] == "done" else None

    assert by_slot(wait_for(done, "the shrink to end")) == {USER: (1000, 1000, 0)}
    assert ctl(daemon, "shrink", "--status").stdout.startswith("shrink 1: done")


def test_training_goes_on_beside_shrinks(daemon, connect, ctl):
    """Rows that are shown often enough lose nothing; pushes and shrinks don't see each other."""
    client = connect(daemon)
    initial = pull(client, USER)
    often, seldom = KEYS[:200], KEYS[200:]
    push(client, USER, often, 5)
    pushed = [0]
    stop = threading.Event()

    def train():
        own = connect(daemon)
        while not stop.is_set():
            push(own, USER, often)
            push(own, PLAIN, seldom)
            pushed[0] += 1

    thread = threading.Thread(target=train)
    thread.start()
    try:
        for _ in range(5):
            push(client, USER, seldom)
            done = ctl(daemon, "shrink", "--slot", USER, "--shows", 2, data=True)
            assert by_slot(done)[USER][1] == len(seldom)
    finally:
        stop.set()
        thread.join()
    now = pull(client, USER)
    assert (now[:200] == trained(initial[:200], 5 + pushed[0])).all()
    assert (now[200:] == initial[200:]).all()
    assert rows(ctl, daemon)[PLAIN] == len(seldom)


def test_a_dead_shard_is_named(start, config, connect, ctl):
    path = config(defaults=DEFAULTS, slots=SLOTS)
    options = ("--shards", 2, "--config", path, "--prepare-timeout", 1)
    coordinator = start("coordinator", "--bind", "tcp://127.0.0.1:*", *options).wait_ready()
    shards = [start("shard", "--coordinator", coordinator.endpoint) for _ in range(2)]
    push(connect(coordinator), USER, KEYS)
    status = ctl(coordinator, "status", data=True)
    shards[0].kill()
    dead = next(s for s in status["shards"] if s["pid"] == shards[0].pid)
    failed = ctl(coordinator, "shrink", "--shows", 2)
    assert failed.returncode == 1
    assert f"shard {dead['id']} at {dead['endpoint']} did not answer GATHER" in failed.stderr
    assert ctl(coordinator, "shrink", "--status", data=True)["state"] == "failed"


def test_slots_of_workers_get_the_defaults(standalone, connect, ctl):
    defaults = DEFAULTS | {"admit": 2, "expire_days": 7}
    daemon = standalone(2, defaults=defaults, auto_slots=True)
    client = connect(daemon)
    client.declare({9: {"dim": 4}})
    push(client, 9, KEYS, day=20000)
    slot = ctl(daemon, "slots", data=True)["slots"][0]
    assert (slot["admit"], slot["expire_days"], slot["last_seen"]) == (2, 7, True)
    assert (slot["rows"], slot["pending"]) == (0, 1000)
    push(client, 9, KEYS[:10], day=20000)
    assert by_slot(ctl(daemon, "shrink", "--day", 20008, data=True)) == {9: (10, 10, 0)}


def test_retention_is_kept_for_life(start, config, standalone, tmp_path):
    folder = ("--data-dir", tmp_path / "data")
    standalone(1, options=folder, defaults=DEFAULTS, slots=SLOTS).stop()
    standalone(1, options=folder, defaults=DEFAULTS, slots=SLOTS).stop()
    other = [SLOTS[0] | {"expire_days": 31}, *SLOTS[1:]]
    path = config(defaults=DEFAULTS, slots=other)
    daemon = start("standalone", "--bind", "tcp://127.0.0.1:*", "--config", path, *folder)
    assert daemon.wait() == 1
    assert "slot 1: expire_days in the configuration differs" in daemon.log()
