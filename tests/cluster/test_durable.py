"""Processes killed in the middle of everything: nothing that was acknowledged is lost, nothing doubled.

Gradients are integers and the optimizer is SGD with rate 1 from 0, so that a row is the number of
pushes it took: an oracle that is exact.
"""

from __future__ import annotations

import os
import subprocess
import threading
import time

import dimfit
import numpy as np
import pytest
from conftest import sanitized, wait_for, yaml

DIM = 4
SLOTS = [{"id": 1, "name": "a"}, {"id": 2, "name": "b"}]
SETTINGS = {
    "defaults": {"dim": DIM, "optimizer": "sgd", "lr": 1.0, "init": "zero"},
    "slots": SLOTS,
}
KEYS = np.arange(400, dtype=np.uint64)
SEEDS = range(1, 1 + int(os.environ.get("DIMFIT_SEEDS", "3")))
PATIENCE = 60


class Load(threading.Thread):
    """A worker that pushes ones to some of the keys, again and again, and counts what was taken."""

    def __init__(self, endpoint: str, seed: int) -> None:
        super().__init__()
        self.endpoint, self.rng = endpoint, np.random.default_rng(seed)
        self.counts = {slot["id"]: np.zeros(len(KEYS), np.int64) for slot in SLOTS}
        self.dense, self.pushes, self.failure = 0, 0, None
        self.over = threading.Event()
        self.start()

    def run(self) -> None:
        try:
            with dimfit.connect(self.endpoint, timeout=PATIENCE) as client:
                while not self.over.is_set():
                    self.push(client)
        except Exception as failure:  # noqa: BLE001
            self.failure = failure

    def push(self, client) -> None:
        keys = {s: np.flatnonzero(self.rng.random(len(KEYS)) < 0.3) for s in self.counts}
        client.push({s: (KEYS[k], -np.ones((len(k), DIM), np.float32)) for s, k in keys.items()})
        for slot, chosen in keys.items():
            self.counts[slot][chosen] += 1
        self.pushes += 1

    def end(self) -> None:
        self.over.set()
        self.join(2 * PATIENCE)
        assert not self.is_alive(), "a worker hangs"
        if self.failure is not None:
            raise self.failure


def assert_exact(client, loads: list[Load]) -> None:
    for slot in (s["id"] for s in SLOTS):
        want = sum(load.counts[slot] for load in loads).astype(np.float32)
        got = client.pull({slot: KEYS})[slot]
        np.testing.assert_array_equal(got, np.repeat(want[:, None], DIM, axis=1))


def goes_on(loads: list[Load]) -> None:
    """Each worker has pushed since."""
    before = [load.pushes for load in loads]

    def further() -> bool:
        for load in loads:
            if load.failure is not None:
                raise load.failure
        return all(load.pushes > n + 1 for load, n in zip(loads, before))

    wait_for(further, "pushes to flow again", PATIENCE)


@pytest.fixture
def loads():
    started: list[Load] = []

    def begin(endpoint: str, seed: int, n: int = 2) -> list[Load]:
        new = [Load(endpoint, 100 * seed + i) for i in range(n)]
        started.extend(new)
        return new

    yield begin
    for load in started:
        load.over.set()
    for load in started:
        load.join(2 * PATIENCE)


@pytest.fixture
def whole(start, config, tmp_path):
    """whole(*options) -> start and restart of one standalone daemon at one address."""
    path = config(**SETTINGS)

    def whole(*options, at="tcp://127.0.0.1:*", folder="data"):
        return start(
            "standalone", "--bind", at, "--shards", 2, "--config", path,
            "--data-dir", tmp_path / folder, *options,
        ).wait_ready()

    return whole


class Parts:
    """A coordinator and two shards in processes of their own, each of which can be started again."""

    def __init__(self, start, config, tmp_path, *options) -> None:
        self.start, self.path, self.tmp = start, config(**SETTINGS), tmp_path
        self.options = options
        self.at = "tcp://127.0.0.1:*"
        self.coordinator = self.begin_coordinator()
        self.at = self.coordinator.endpoint
        self.shards = [self.begin_shard(i) for i in range(2)]

    def begin_coordinator(self):
        return self.start(
            "coordinator", "--bind", self.at, "--shards", 2, "--config", self.path,
            "--data-dir", self.tmp / "coordinator",
        ).wait_ready()

    def begin_shard(self, i: int):
        return self.start(
            "shard", "--coordinator", self.at, "--shards", 1,
            "--data-dir", self.tmp / f"machine-{i}", *self.options,
        )


@pytest.fixture
def parts(start, config, tmp_path):
    return lambda *options: Parts(start, config, tmp_path, *options)


KINDS = {
    "process": ["--durability", "process"],
    "disk": ["--durability", "disk"],
    "snapshots": ["--durability", "process", "--snapshot-every", "100K"],
    "snapshots on disk": ["--durability", "disk", "--snapshot-every", "100K"],
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", SEEDS)
def test_killed_whole_it_comes_back_as_it_was(whole, connect, loads, seed, kind):
    rng = np.random.default_rng(seed)
    options = KINDS[kind]
    daemon = whole(*options)
    workers = loads(daemon.endpoint, seed)
    snapshots = 0
    for _ in range(3):
        goes_on(workers)
        time.sleep(rng.random() * 0.3)
        daemon.kill()
        snapshots += daemon.log().count(": a snapshot of ")
        daemon = whole(*options, at=daemon.endpoint)
    assert (snapshots > 0) == kind.startswith("snapshots")
    goes_on(workers)
    for worker in workers:
        worker.end()
    assert_exact(connect(daemon), workers)
    assert daemon.stop() == 0
    daemon = whole(*options, at=daemon.endpoint)  # in order, too
    assert_exact(connect(daemon), workers)


@pytest.mark.parametrize("seed", SEEDS)
def test_killed_one_by_one_they_come_back_as_they_were(parts, connect, loads, seed):
    rng = np.random.default_rng(seed)
    cluster = parts()
    workers = loads(cluster.at, seed)
    goes_on(workers)
    for victim in rng.permutation([0, 1, 2, 0, 1, 2]):
        time.sleep(rng.random() * 0.3)
        if victim == 2:
            cluster.coordinator.kill()
            cluster.coordinator = cluster.begin_coordinator()
        else:
            cluster.shards[victim].kill()
            cluster.shards[victim] = cluster.begin_shard(victim)
        goes_on(workers)
    for worker in workers:
        worker.end()
    assert_exact(connect(cluster.at), workers)


def test_a_layout_change_and_its_rollback_survive_with_what_was_trained(whole, connect, ctl):
    daemon = whole()
    rng = np.random.default_rng(7)
    client = connect(daemon)
    want = {}
    for step in range(4):
        if step == 1:
            client.search(kappa=0.5, strategy="magnitude", basis="rotated", wait=True)
        elif step == 3:
            done = ctl(daemon, "search", "rollback", "--wait")
            assert done.returncode == 0, done.stderr
        grads = rng.integers(-8, 8, (len(KEYS), DIM)).astype(np.float32)
        client.push({1: (KEYS, grads), 2: (KEYS, grads)})
        layout, want = client.layout(), client.pull({1: KEYS, 2: KEYS})
        daemon.kill()
        daemon = whole(at=daemon.endpoint)
        again = connect(daemon)
        assert again.layout().epoch == layout.epoch
        for slot, rows in again.pull({1: KEYS, 2: KEYS}).items():
            np.testing.assert_array_equal(rows, want[slot])
        client = again


def test_a_shard_that_lost_its_folder_is_refused(parts, connect, start, tmp_path):
    cluster = parts()
    connect(cluster.at).push({1: (KEYS, np.ones((len(KEYS), DIM), np.float32))})
    cluster.shards[1].kill()
    stranger = start(
        "shard", "--coordinator", cluster.at, "--data-dir", tmp_path / "elsewhere"
    )
    assert stranger.wait() == 1
    assert "its --data-dir" in stranger.log()
    cluster.coordinator.kill()
    cluster.coordinator = cluster.begin_coordinator()
    stranger = start(
        "shard", "--coordinator", cluster.at, "--data-dir", tmp_path / "elsewhere"
    )
    assert stranger.wait() == 1
    assert "start the cluster anew, with another --data-dir" in stranger.log(), stranger.log()


def test_rows_of_another_cluster_are_refused(parts, whole, connect, start, tmp_path):
    other = whole(folder="machine-0")
    connect(other).push({1: (KEYS, np.ones((len(KEYS), DIM), np.float32))})
    assert other.stop() == 0
    (tmp_path / "machine-0" / "coordinator.state").unlink()
    coordinator = start(
        "coordinator", "--bind", "tcp://127.0.0.1:*", "--shards", 2,
        "--data-dir", tmp_path / "coordinator",
    ).wait_ready()
    shard = start(
        "shard", "--coordinator", coordinator.endpoint, "--data-dir", tmp_path / "machine-0"
    )
    assert shard.wait() == 1
    assert "are of cluster" in shard.log(), shard.log()


def test_a_damaged_log_is_not_replayed(whole, connect, start, tmp_path):
    daemon = whole()
    client = connect(daemon)
    for _ in range(20):
        client.push({1: (KEYS, np.ones((len(KEYS), DIM), np.float32))})
    daemon.kill()
    log = tmp_path / "data" / "shard-0" / "wal-1"
    with log.open("r+b") as file:
        file.seek(10000)
        file.write(b"\xff" * 8)
    path = tmp_path / "again.yaml"
    path.write_text(yaml(SETTINGS))
    again = start(
        "standalone", "--bind", daemon.endpoint, "--shards", 2, "--config", path,
        "--data-dir", tmp_path / "data",
    )
    assert again.wait() == 1
    assert "wal-1 is damaged at byte" in again.log(), again.log()


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 40 MiB."""
    folder = tmp_path / "small"
    folder.mkdir()
    if os.geteuid() != 0:
        pytest.skip("only root can mount a small file system")
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=40m", "none", folder])
    if mounted.returncode != 0:
        pytest.skip("this place lets nobody mount a file system")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def test_a_full_disk_refuses_pushes_serves_pulls_and_goes_on(small_disk, start, config, connect):
    options = ("--config", config(**SETTINGS), "--data-dir", small_disk)
    daemon = start("standalone", "--bind", "tcp://127.0.0.1:*", *options).wait_ready()
    client, patient = connect(daemon, timeout=1), connect(daemon)
    keys = np.arange(20000, dtype=np.uint64)
    ones = -np.ones((len(keys), DIM), np.float32)
    taken = 0
    with pytest.raises(dimfit.Error) as refused:
        for taken in range(1000):
            client.push({1: (keys, ones)})
    assert refused.value.code in ("LOG", "MAYBE"), refused.value
    assert taken > 10
    rows = client.pull({1: keys})[1]
    np.testing.assert_array_equal(rows, np.full((len(keys), DIM), taken, np.float32))
    waiting = threading.Thread(target=lambda: patient.push({1: (keys, ones)}))
    waiting.start()
    time.sleep(0.5)
    subprocess.run(["mount", "-o", "remount,size=200m", small_disk], check=True)
    waiting.join(PATIENCE)
    client.push({1: (keys, ones)})
    daemon.kill()
    daemon = start("standalone", "--bind", daemon.endpoint, *options).wait_ready()
    rows = connect(daemon).pull({1: keys})[1]
    np.testing.assert_array_equal(rows, np.full((len(keys), DIM), taken + 2, np.float32))


def test_training_goes_on_through_a_kill(whole, start, tmp_path):
    """dimfit-train and a daemon killed twice under it: it ends well."""
    from conftest import BUILD, of_programs, run

    data = tmp_path / "data.csv"
    run("dimfit-datagen", "--rows", 4000, "--out", data)
    daemon = whole("--auto-slots")
    train = subprocess.Popen(
        [BUILD / "dimfit-train", "--coordinator", daemon.endpoint, "--data", data,
         "--format", "csv", "--model", "fm", "--dim", str(DIM), "--epochs", "6", "--batch", "64"],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        env=of_programs(os.environ),
    )
    for _ in range(2):
        time.sleep(1)
        daemon.kill()
        daemon = whole("--auto-slots", at=daemon.endpoint)
    out, _ = train.communicate(timeout=240)
    assert train.returncode == 0, out
    assert not sanitized() or out
