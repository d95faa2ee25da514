"""A cluster of separate processes that tests do harm to, and workers whose every push is accounted
for: gradients are whole numbers and SGD has rate 1, so that each row is exactly minus the pushes it
had.

A process that died is started again as it was (Cluster.revive()); nobody else is told. Where hosts
are asked for, each process lives in a network namespace of its own, all on one bridge in another
namespace, whose rules drop what a test says (Network).
"""

from __future__ import annotations

import contextlib

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
from conftest import PYTHON_DIR, START_SECONDS, Daemon, of_programs, wait_for, yaml

SHARED, OWN, WIDE = 1, 2, 3  # slots: keys of all workers, keys of one worker, searched
DIM = 8
SLOTS = [
    {"id": SHARED, "name": "shared", "dim": 2, "search": False},
    {"id": OWN, "name": "own", "dim": 2, "search": False},
    {"id": WIDE, "name": "wide", "dim": DIM},
]
DEFAULTS = {"optimizer": "sgd", "lr": 1, "init": "zero"}
KEYS = np.arange(1, 301, dtype=np.uint64)
HALF = {"kappa": 0.5, "strategy": "uniform", "basis": "axis"}
PUSHER = Path(__file__).with_name("pusher.py")


def own_keys(worker: int) -> np.ndarray:
    return KEYS + np.uint64(1000 * (worker + 1))


class Worker:
    """A process that pushes ones until it is told to stop (pusher.py)."""

    def __init__(self, folder: Path, number: int, endpoint: str, prefix=()) -> None:
        self.number = number
        self.told = folder / f"worker-{number}.told"
        self.err = folder / f"worker-{number}.err"
        with self.told.open("w") as out, self.err.open("w") as err:
            self.process = subprocess.Popen(
                [*prefix, sys.executable, PUSHER, endpoint, str(number)],
                stdin=subprocess.PIPE,
                stdout=out,
                stderr=err,
                env=os.environ,
            )

    def acknowledged(self) -> list[float]:
        """When each push was acknowledged, in seconds."""
        whole = self.told.read_text().rpartition("\n")[0]
        return [float(line) for line in whole.split()]

    def finish(self, seconds: float = 90) -> int:
        """Stop it after the push it is at: how many were acknowledged."""
        self.process.stdin.close()
        status = self.process.wait(seconds)
        assert status == 0, f"worker {self.number}: {self.err.read_text()}"
        return len(self.acknowledged())

    def longest_silence(self) -> float:
        times = self.acknowledged()
        return max((b - a for a, b in zip(times, times[1:])), default=0.0)

    def kill(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(START_SECONDS)


class Process:
    """One daemon's command line, and the daemon that runs by it now."""

    def __init__(self, folder: Path, prefix, role: str, *options: object) -> None:
        self.folder, self.prefix, self.role, self.options = folder, prefix, role, options
        self.daemons: list[Daemon] = []

    def start(self, env=()) -> Daemon:
        self.daemons.append(
            Daemon(self.folder, self.role, *self.options, env=dict(env), prefix=self.prefix)
        )
        return self.daemons[-1]

    @property
    def daemon(self) -> Daemon:
        return self.daemons[-1]

    def died(self) -> bool:
        return bool(self.daemons) and self.daemon.process.poll() is not None


class Cluster:
    """A coordinator and shards, each a process with a folder of its own."""

    def __init__(self, folder: Path, shards: int = 2, network=None, options=(), slots=SLOTS) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.network = folder, network
        config = folder / "dimfit.yaml"
        config.write_text(yaml({"defaults": DEFAULTS, "slots": slots}))
        common = ["--config", config, *options]
        self.coordinator = Process(
            folder, self.inside("coordinator"), "coordinator", *common, "--shards", shards,
            "--bind", self.bind("coordinator"), "--data-dir", folder / "coordinator",
            "--audit-log", folder / "audit",
        )  # fmt: skip
        self.coordinator.start().wait_ready()
        self.endpoint = self.coordinator.daemon.endpoint
        self.coordinator.options = [
            self.endpoint if option == self.bind("coordinator") else option
            for option in self.coordinator.options
        ]
        self.shards = []
        for i in range(shards):
            self.shards.append(
                Process(
                    folder, self.inside(f"shard{i}"), "shard", *common,
                    "--coordinator", self.endpoint, "--shard-bind", self.bind(f"shard{i}"),
                    "--data-dir", folder / f"shard{i}",
                )  # fmt: skip
            )
        self.workers: list[Worker] = []
        self.lock, self.ending = threading.Lock(), threading.Event()
        self.keeper = threading.Thread(target=self._keep)
        self.deaths = 0

    def inside(self, host: str) -> list[str]:
        return self.network.inside(host) if self.network else []

    def bind(self, host: str) -> str:
        return f"tcp://{self.network.address(host) if self.network else '127.0.0.1'}:*"

    def start(self, kill_point: dict[str, dict] | None = None) -> Cluster:
        """Start the shards, and what kill_point names ("coordinator", "shard0") with its variables."""
        kill_point = kill_point or {}
        if "coordinator" in kill_point:
            self.coordinator.daemon.kill()
            self.coordinator.start(kill_point["coordinator"])
        for i, shard in enumerate(self.shards):
            shard.start(kill_point.get(f"shard{i}", ()))
        self.keeper.start()
        return self

    def processes(self) -> list[Process]:
        return [self.coordinator, *self.shards]

    def revive(self) -> None:
        """Start again what died."""
        with self.lock:
            if self.ending.is_set():
                return
            for process in self.processes():
                if process.died():
                    self.deaths += 1
                    process.start()

    def _keep(self) -> None:
        while not self.ending.wait(0.05):
            self.revive()

    def work(self, workers: int = 2) -> list[Worker]:
        for i in range(workers):
            number = len(self.workers)
            prefix = self.inside(f"worker{i}")
            self.workers.append(Worker(self.folder, number, self.endpoint, prefix))
        return self.workers

    def pushed_more(self, by: int = 3, seconds: float = 60) -> None:
        """Until each worker that lives has pushed a few times since."""
        goals = [len(w.acknowledged()) + by for w in self.workers]

        def reached() -> bool:
            return all(
                w.process.poll() is not None or len(w.acknowledged()) >= goal
                for w, goal in zip(self.workers, goals)
            )

        wait_for(reached, "workers to push on", seconds)

    def close(self) -> None:
        with self.lock:
            self.ending.set()
        if self.keeper.is_alive():
            self.keeper.join()
        for worker in self.workers:
            worker.kill()
        for process in self.processes():
            for daemon in process.daemons:
                if daemon.process.poll() is None:
                    daemon.process.send_signal(signal.SIGCONT)
                    daemon.kill()

    def logs(self) -> str:
        return "\n".join(d.log() for p in self.processes() for d in p.daemons)


@contextlib.contextmanager
def a_cluster(folder: Path, **options):
    cluster = Cluster(folder, **options)
    try:
        yield cluster
    except BaseException:
        print(cluster.logs()[-20000:])
        raise
    finally:
        cluster.close()


def at_last(call, seconds: float = 60, done=()):
    """What the call returns once it succeeds. An error whose text has one of `done` is one too: an
    earlier attempt got through and its answer was lost."""
    import dimfit

    end = time.monotonic() + seconds
    while True:
        try:
            return call()
        except dimfit.Error as error:
            if any(text in str(error) for text in done):
                return None
            if time.monotonic() > end:
                raise
        time.sleep(0.1)


def check_nothing_lost(cluster: Cluster, client, killed: tuple[int, ...] = ()) -> int:
    """Stop the workers and compare every row with what was acknowledged: the pushes. The last push
    of a worker that was killed may count or not."""
    least, most = 0, 0
    for worker in cluster.workers:
        if worker.number in killed:
            pushes = len(worker.acknowledged())
            own = at_last(lambda: client.pull({OWN: own_keys(worker.number)}))[OWN]
            assert np.all(own == own[0, 0]) and -own[0, 0] in (pushes, pushes + 1)
            least, most = least + pushes, most + pushes + 1
        else:
            pushes = worker.finish()
            own = at_last(lambda: client.pull({OWN: own_keys(worker.number)}))[OWN]
            assert np.array_equal(own, np.full((len(KEYS), 2), -pushes, np.float32)), (
                f"worker {worker.number} had {pushes} pushes acknowledged: rows have "
                f"{np.unique(own)}"
            )
            least, most = least + pushes, most + pushes
    rows = at_last(lambda: client.pull({SHARED: KEYS, WIDE: KEYS}))
    shared = rows[SHARED]
    assert np.all(shared == shared[0, 0]) and least <= -shared[0, 0] <= most
    assert np.all(rows[WIDE][:, 0] == shared[0, 0]), "the dimension that is always kept"
    shards = at_last(client.stats)["shards"]
    assert len({s["epoch"] for s in shards}) == 1, "one epoch everywhere"
    return least


class Network:
    """Hosts on one bridge, each a network namespace; what passes the bridge can be dropped. The test
    itself is on it too, at .254, and is never cut off."""

    def __init__(self, name: str, hosts: list[str]) -> None:
        self.name, self.hosts, self.bridge = name, hosts, f"{name}-br"
        self._ip("netns", "add", self.bridge)
        self._in(self.bridge, "ip", "link", "add", "br0", "type", "bridge")
        self._in(self.bridge, "ip", "link", "set", "br0", "up")
        for i, host in enumerate(hosts):
            inner = f"{name}-{host}"
            self._ip("netns", "add", inner)
            self._ip("link", "add", "eth0", "netns", inner, "type", "veth",
                     "peer", "name", f"p{i}", "netns", self.bridge)  # fmt: skip
            self._in(self.bridge, "ip", "link", "set", f"p{i}", "master", "br0", "up")
            self._in(inner, "ip", "addr", "add", f"{self.address(host)}/24", "dev", "eth0")
            self._in(inner, "ip", "link", "set", "eth0", "up")
            self._in(inner, "ip", "link", "set", "lo", "up")
        self._ip("link", "add", name, "type", "veth", "peer", "name", "test", "netns", self.bridge)
        self._in(self.bridge, "ip", "link", "set", "test", "master", "br0", "up")
        self._ip("addr", "add", "10.77.0.254/24", "dev", name)
        self._ip("link", "set", name, "up")
        self._nft("add table bridge faults")
        self._nft("add chain bridge faults hole { type filter hook forward priority 0; }")

    def _run(self, *command: str) -> None:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30)
        assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}"

    def _ip(self, *arguments: str) -> None:
        self._run("ip", *arguments)

    def _in(self, namespace: str, *command: str) -> None:
        self._run("ip", "netns", "exec", namespace, *command)

    def _nft(self, rule: str) -> None:
        self._in(self.bridge, "nft", rule)

    def address(self, host: str) -> str:
        return f"10.77.0.{self.hosts.index(host) + 1}"

    def inside(self, host: str) -> list[str]:
        return ["ip", "netns", "exec", f"{self.name}-{host}"]

    def drop(self, source: str, to: str) -> None:
        """Everything from one host to another, that way alone."""
        self._nft(
            f"add rule bridge faults hole ip saddr {self.address(source)} "
            f"ip daddr {self.address(to)} drop"
        )

    def cut(self, a: str, b: str) -> None:
        self.drop(a, b)
        self.drop(b, a)

    def lose(self, percent: int) -> None:
        """So many of all packets between hosts."""
        self._nft(
            "add rule bridge faults hole ip saddr != 10.77.0.254 ip daddr != 10.77.0.254 "
            f"numgen random mod 100 < {percent} drop"
        )

    def heal(self) -> None:
        self._nft("flush chain bridge faults hole")

    def close(self) -> None:
        gone = [["netns", "del", f"{self.name}-{host}"] for host in self.hosts]
        for thing in [["link", "del", self.name], *gone, ["netns", "del", self.bridge]]:
            subprocess.run(["ip", *thing], capture_output=True, check=False)


def can_make_networks() -> bool:
    """Namespaces and rules need root and nft."""
    if os.geteuid() != 0:
        return False
    network = Network.__new__(Network)
    try:
        network.__init__(f"dfp{os.getpid()}", ["probe"])
        return True
    except (AssertionError, OSError):
        return False
    finally:
        network.close()
