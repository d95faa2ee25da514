"""A network that fails and processes that stop, under workers that never do: nothing is lost, nothing
hangs, and nobody has to help.

DIMFIT_FAULT_ROUNDS=N does each harm N times, at other moments (scripts/torture).
"""

from __future__ import annotations

import os
import random
import signal
import time

import pytest
from faults import HALF, Network, a_cluster, at_last, can_make_networks, check_nothing_lost

ROUNDS = int(os.environ.get("DIMFIT_FAULT_ROUNDS", "1"))
HOSTS = ["coordinator", "shard0", "shard1", "worker0", "worker1"]

each_round = pytest.mark.parametrize("seed", range(ROUNDS))
needs_network = pytest.mark.skipif(
    not can_make_networks(), reason="network namespaces need root, iproute2 and nftables"
)


@pytest.fixture
def network():
    made = Network(f"df{os.getpid()}", HOSTS)
    yield made
    made.close()


def moment(seed: int) -> None:
    time.sleep(random.Random(seed).uniform(0, 0.3))


def all_is_well(cluster, connect, killed=()):
    """Workers push on, a search still changes the layout, and every row is what it must be."""
    cluster.pushed_more()
    client = connect(cluster.endpoint)
    at_last(lambda: client.search(**HALF, wait=True))
    cluster.pushed_more()
    assert check_nothing_lost(cluster, client, killed) > 0


HARMS = {
    "a worker is cut off from a shard": lambda net: net.cut("worker0", "shard0"),
    "a worker does not reach a shard": lambda net: net.drop("worker0", "shard1"),
    "a worker does not hear a shard": lambda net: net.drop("shard1", "worker0"),
    "a shard is cut off from the coordinator": lambda net: net.cut("shard0", "coordinator"),
    "the coordinator hears nobody": lambda net: [net.drop(h, "coordinator") for h in HOSTS[1:]],
    "three packets in ten are lost": lambda net: net.lose(30),
}


@needs_network
@each_round
@pytest.mark.parametrize("name", HARMS)
def test_nothing_is_lost_when(name, seed, network, connect, tmp_path):
    with a_cluster(tmp_path / "cluster", network=network) as cluster:
        cluster.start().work()
        cluster.pushed_more()
        moment(seed)
        HARMS[name](network)
        time.sleep(2)
        network.heal()
        all_is_well(cluster, connect)


@each_round
@pytest.mark.parametrize("who", ["shard", "coordinator"])
def test_a_process_that_stands_still_for_a_while_costs_nothing_but_time(who, seed, connect, tmp_path):
    with a_cluster(tmp_path / "cluster") as cluster:
        cluster.start().work()
        cluster.pushed_more()
        moment(seed)
        process = cluster.coordinator if who == "coordinator" else cluster.shards[seed % 2]
        process.daemon.process.send_signal(signal.SIGSTOP)
        time.sleep(2)
        process.daemon.process.send_signal(signal.SIGCONT)
        all_is_well(cluster, connect)


@each_round
def test_a_worker_that_is_killed_leaves_whole_pushes(seed, connect, tmp_path):
    with a_cluster(tmp_path / "cluster") as cluster:
        first, _ = cluster.start().work()
        cluster.pushed_more()
        moment(seed)
        first.kill()
        cluster.work(1)
        all_is_well(cluster, connect, killed=(first.number,))


@each_round
def test_training_does_not_notice_that_the_coordinator_died(seed, connect, tmp_path):
    with a_cluster(tmp_path / "cluster") as cluster:
        cluster.start().work()
        cluster.pushed_more()
        moment(seed)
        with cluster.lock:  # it stays dead for a while
            cluster.coordinator.daemon.kill()
            cluster.pushed_more(10)
        all_is_well(cluster, connect)
        assert cluster.deaths == 1
