"""dimfitd and dimfitctl as processes: messages, exit codes, signals, crashes, hostile peers."""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import signal
import socket
import struct
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from conftest import START_SECONDS, run, wait_for

SLOTS = [{"id": 1, "dim": 8}, {"id": 2, "dim": 4, "search": False}]
KEYS = np.arange(1, 201, dtype=np.uint64)


def alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.fixture
def cluster(start, config, ctl):
    """cluster(n) -> coordinator and n shard processes of one shard each, all joined."""

    def cluster(n=2, *options, settings=None, bind="tcp://127.0.0.1:*"):
        path = config(**(settings or {"slots": SLOTS}))
        coordinator = start(
            "coordinator", "--bind", bind, "--shards", n, "--config", path, *options
        ).wait_ready()
        shards = [
            start("shard", "--coordinator", coordinator.endpoint, "--shards", 1).wait_ready()
            for _ in range(n)
        ]
        until_up(ctl, coordinator, n)
        return coordinator, shards

    return cluster


def until_up(ctl, daemon, n):
    """The status once n shards are up."""

    def up():
        status = ctl(daemon, "status", data=True)
        return status if sum(s["state"] == "up" for s in status["shards"]) == n else None

    return wait_for(up, f"{n} shards to be up")


# ---- start and stop ------------------------------------------------------------------------------


def test_port_that_is_taken_is_named_with_the_next_step(start, standalone):
    endpoint = standalone().endpoint
    second = start("standalone", "--bind", endpoint)
    assert second.wait() == 1
    assert re.fullmatch(
        rf"dimfitd: cannot listen at {endpoint}: Address already in use; another process has the "
        r"port: stop it, or give --bind another one\n",
        second.log(),
    ), second.log()


def test_address_of_another_machine_is_refused_with_the_next_step(start):
    daemon = start("standalone", "--bind", "tcp://192.0.2.1:7700")
    assert daemon.wait() == 1
    assert "tcp://192.0.2.1:7700" in daemon.log() and "--bind" in daemon.log()


def test_shard_without_a_coordinator_gives_up_and_says_what_to_do(start):
    daemon = start("shard", "--coordinator", "tcp://127.0.0.1:1")
    assert daemon.wait(2 * START_SECONDS) == 1
    assert "no coordinator answers at tcp://127.0.0.1:1; start one there" in daemon.log()


@pytest.mark.parametrize(
    "text, line, said",
    [
        ("seed: 1\nshardz: 2\n", 2, "shardz"),
        ("slots:\n  - id: 1\n    dims: 4\n", 3, "dims"),
        ("slots:\n  - id: 1\n    dim: many\n", 3, "dim"),
        ("slots:\n  - id: 1\n  - id: 1\n", 3, "1"),
        ("defaults:\n  optimizer: lion\n", 2, "lion"),
        ("seed: 1\nseed: 2\n", 2, "seed"),
        ("slots: [\n", 2, ""),
        ("defaults:\n  lr: -1\n", 2, "lr"),
    ],
    ids=["key", "slot key", "type", "id twice", "word", "key twice", "syntax", "range"],
)
def test_bad_configuration_is_refused_with_its_line(start, tmp_path, text, line, said):
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    daemon = start("standalone", "--config", path, "--bind", "tcp://127.0.0.1:*")
    assert daemon.wait() == 1
    assert f"{path}:{line}:" in daemon.log() and said in daemon.log()


def test_configuration_file_that_is_missing_is_named(start, tmp_path):
    daemon = start("standalone", "--config", tmp_path / "none.yaml")
    assert daemon.wait() == 1
    assert f"{tmp_path / 'none.yaml'}: No such file" in daemon.log()


@pytest.mark.parametrize(
    "arguments", [[], ["server"], ["standalone", "--shards", "0"], ["standalone", "--no-such"]]
)
def test_usage_errors_are_status_2(arguments):
    done = run("dimfitd", *arguments)
    assert done.returncode == 2 and done.stdout == "" and done.stderr


def test_printed_configuration_is_a_configuration(start, config, tmp_path):
    first = run("dimfitd", "standalone", "--print-config", "--config", config(slots=SLOTS, seed=9))
    assert first.returncode == 0, first.stderr
    again = tmp_path / "again.yaml"
    again.write_text(first.stdout)
    second = run("dimfitd", "standalone", "--print-config", "--config", again)
    assert second.returncode == 0, second.stderr

    def values(text):
        return [line.split("#")[0].rstrip() for line in text.splitlines()]

    assert values(second.stdout) == values(first.stdout)


@pytest.mark.parametrize("signal_name", ["SIGTERM", "SIGINT"])
def test_signal_ends_a_daemon_in_order(standalone, signal_name):
    daemon = standalone(3, slots=SLOTS)
    daemon.process.send_signal(getattr(signal, signal_name))
    assert daemon.wait() == 0
    assert "stop" in daemon.log()


def test_signal_to_the_coordinator_ends_the_cluster(cluster):
    coordinator, shards = cluster(2)
    assert coordinator.stop() == 0
    assert [shard.wait() for shard in shards] == [0, 0]


def test_shutdown_ends_every_process(cluster, ctl):
    coordinator, shards = cluster(3)
    done = ctl(coordinator, "shutdown")
    assert done.returncode == 0, done.stderr
    assert coordinator.wait() == 0
    assert [shard.wait() for shard in shards] == [0, 0, 0]
    assert not any(alive(daemon.pid) for daemon in (coordinator, *shards))


# ---- dimfitctl -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "command", ["status", "stats", "slots", "scores", "strategies", "search status"]
)
def test_every_reading_command_has_text_and_json(standalone, ctl, command):
    daemon = standalone(2, slots=SLOTS)
    text = ctl(daemon, *command.split())
    assert text.returncode == 0 and text.stdout and text.stderr == ""
    data = ctl(daemon, *command.split(), data=True)
    assert isinstance(data, dict) and data


def test_coordinator_is_found_in_the_environment(standalone):
    daemon = standalone()
    done = run("dimfitctl", "status", env={**os.environ, "DIMFIT_COORDINATOR": daemon.endpoint})
    assert done.returncode == 0 and str(daemon.pid) in done.stdout


@pytest.mark.parametrize(
    "arguments",
    [
        ["search", "start", "--kappa", "0"],
        ["search", "start", "--kappa", "-1"],
        ["search", "start", "--kappa", "nan"],
        ["search", "start", "--kappa", "half"],
        ["search", "start"],
        ["search", "start", "--kappa", "0.5", "--basis", "round"],
        ["search", "start", "--kappa", "0.5", "--estimator", "row", "--basis", "rotated"],
        ["search", "start", "--kappa", "0.5", "--min-dim", "-1"],
        ["search", "begin"],
        ["scores", "--estimator", "best"],
        ["nonsense"],
        ["status", "--no-such"],
        [],
    ],
    ids=" ".join,
)
def test_usage_of_ctl_is_status_2_and_changes_nothing(standalone, ctl, arguments):
    daemon = standalone(1, slots=SLOTS)
    done = ctl(daemon, *arguments)
    assert done.returncode == 2 and done.stdout == "" and done.stderr, done
    assert ctl(daemon, "search", "status", data=True)["phase"] == "idle"


@pytest.mark.parametrize(
    "arguments, said",
    [
        (["search", "apply"], "no plan"),
        (["search", "plan"], "no search"),
        (["search", "abort"], "no search"),
        (["search", "start", "--kappa", "0.5", "--strategy", "magic"], "dimfitctl strategies"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_cannot_be_done_is_status_1(standalone, ctl, arguments, said):
    done = ctl(standalone(1, slots=SLOTS), *arguments)
    assert done.returncode == 1 and said in done.stderr, done.stderr


def test_search_that_aborts_is_status_1_with_the_reason(standalone, ctl):
    daemon = standalone(1, slots=SLOTS)
    request = ["--kappa", "0.5", "--mode", "freeze", "--timeout", "1", "--wait"]
    done = ctl(daemon, "search", "start", *request)
    assert done.returncode == 1
    assert "no worker scored within 1 s" in done.stderr, done.stderr


def test_waiting_for_a_live_search_that_nobody_feeds_ends(standalone, ctl):
    daemon = standalone(1, slots=SLOTS)
    done = ctl(daemon, "search", "start", "--kappa", "0.5", "--timeout", "1", "--wait")
    assert done.returncode == 1
    assert "no training push was scored within 1 s" in done.stderr, done.stderr


def test_coordinator_that_is_not_there_is_status_3(ctl):
    done = ctl("tcp://127.0.0.1:1", "--timeout", "0.5", "status")
    assert done.returncode == 3 and "tcp://127.0.0.1:1" in done.stderr


def test_search_from_the_command_line(standalone, connect, ctl, tmp_path):
    daemon = standalone(2, slots=SLOTS)
    c = connect(daemon)
    c.push({1: (KEYS, np.ones((200, 8), np.float32))})
    request = ["--kappa", "0.5", "--strategy", "magnitude", "--plan-only", "--wait"]
    done = ctl(daemon, "search", "start", *request)
    assert done.returncode == 0, done.stderr
    plan = ctl(daemon, "search", "plan", data=True)
    assert plan["params_before"] == 1600 and plan["params_after"] <= 800
    svg = tmp_path / "plan.svg"
    assert ctl(daemon, "scores", "--svg", svg, "--plan").returncode == 0
    assert svg.read_text().startswith(("<svg", "<?xml"))
    done = ctl(daemon, "search", "apply", "--wait")
    assert done.returncode == 0, done.stderr
    slots = ctl(daemon, "slots", data=True)["slots"]
    assert [slot["width"] for slot in slots] == [4, 4]
    csv = ctl(daemon, "scores", "--csv")
    assert csv.stdout.splitlines()[0] == "slot,name,tier,rows,dim,g,s"
    assert len(csv.stdout.splitlines()) == 1 + 4


# ---- crashes -------------------------------------------------------------------------------------


def test_killed_shard_is_named_within_the_time_limit(cluster, connect, ctl):
    coordinator, shards = cluster(2)
    c = connect(coordinator, timeout=2)
    c.push({1: (KEYS, np.ones((200, 8), np.float32))})
    victim = next(s for s in c.status()["shards"] if s["pid"] == shards[0].pid)
    shards[0].kill()
    codes = {
        "pull": ("TIMEOUT", "UNREACHABLE"),
        "push": ("TIMEOUT", "UNREACHABLE", "MAYBE"),
    }
    calls = {
        "pull": lambda: c.pull({1: KEYS}),
        "push": lambda: c.push({1: (KEYS, np.ones((200, 8), np.float32))}),
    }
    for name, call in calls.items():
        began = time.monotonic()
        with pytest.raises(Exception) as info:
            call()
        assert time.monotonic() - began < START_SECONDS  # that it ends at all
        assert info.value.code in codes[name], info.value
        assert victim["endpoint"] in info.value.message

    wait_silent(ctl, coordinator, victim["id"])
    done = ctl(coordinator, "stats")
    assert done.returncode == 1 and victim["endpoint"] in done.stderr, done.stderr


def wait_silent(ctl, coordinator, shard):
    def silent():
        shards = ctl(coordinator, "status", data=True)["shards"]
        return any(s["id"] == shard and s["state"] == "silent" for s in shards)

    wait_for(silent, f"shard {shard} to count as silent")


def test_search_on_a_cluster_with_a_killed_shard_ends_and_changes_nothing(cluster, connect, ctl):
    coordinator, shards = cluster(2, "--prepare-timeout", 2)
    c = connect(coordinator, timeout=2)
    c.push({1: (KEYS, np.ones((200, 8), np.float32))})
    victim = next(s for s in c.status()["shards"] if s["pid"] == shards[1].pid)
    shards[1].kill()
    done = ctl(coordinator, "search", "start", "--kappa", "0.5", "--strategy", "uniform", "--wait")
    assert done.returncode == 1 and victim["endpoint"] in done.stderr, done.stderr
    assert ctl(coordinator, "status", data=True)["epoch"] == 0
    assert ctl(coordinator, "shutdown").returncode == 0
    assert coordinator.wait() == 0 and shards[0].wait() == 0


def test_layout_survives_a_restart(standalone, connect, ctl, tmp_path):
    options = ["--data-dir", tmp_path / "state", "--auto-slots"]
    first = standalone(2, options, slots=SLOTS)
    c = connect(first)
    c.declare({30: {"dim": 3, "name": "late", "init": "zero"}})
    c.push({1: (KEYS, np.ones((200, 8), np.float32))})
    c.search(kappa=0.5, strategy="magnitude", basis="rotated", wait=True)
    layout = c.layout()
    unseen = np.arange(1000, 1100, dtype=np.uint64)
    rows = c.pull({1: unseen, 30: unseen})
    assert layout.epoch == 1 and layout[1].width == 4
    first.kill()
    again = connect(standalone(2, options, slots=SLOTS))
    assert again.layout().epoch == 1
    assert list(again.layout()) == [1, 2, 30] and again.layout()[30].name == "late"
    np.testing.assert_array_equal(again.layout()[1].basis, layout[1].basis)
    np.testing.assert_array_equal(again.layout()[1].mean, layout[1].mean)
    for slot, want in rows.items():
        np.testing.assert_array_equal(again.pull({slot: unseen})[slot], want)
    again.push({1: (KEYS, np.ones((200, 8), np.float32))})
    again.search(kappa=0.5, strategy="magnitude", wait=True)
    assert again.layout().epoch == 2 and again.layout()[1].width == 2


def test_epoch_is_kept_where_the_state_is_and_not_without(standalone, connect, ctl, tmp_path):
    for options, want in ((["--data-dir", tmp_path / "state"], 1), ([], 0)):
        first = standalone(1, options, slots=SLOTS)
        c = connect(first)
        c.push({1: (KEYS, np.ones((200, 8), np.float32))})
        c.search(kappa=0.5, strategy="uniform", wait=True)
        assert first.stop() == 0
        assert ctl(standalone(1, options, slots=SLOTS), "status", data=True)["epoch"] == want


def test_torn_state_file_is_refused(start, standalone, connect, config, tmp_path):
    folder = tmp_path / "state"
    first = standalone(1, ["--data-dir", folder], slots=SLOTS)
    c = connect(first)
    c.push({1: (KEYS, np.ones((200, 8), np.float32))})
    c.search(kappa=0.5, strategy="uniform", wait=True)
    assert first.stop() == 0
    files = [path for path in folder.rglob("*") if path.is_file() and path.stat().st_size > 0]
    assert files
    for path in files:
        data = path.read_bytes()
        path.write_bytes(data[: len(data) // 2])
    daemon = start("standalone", "--bind", "tcp://127.0.0.1:*", "--data-dir", folder,
                   "--config", config(slots=SLOTS))
    assert daemon.wait() == 1
    assert any(str(path) in daemon.log() for path in files), daemon.log()


def test_restarted_coordinator_finds_its_shards_again(cluster, connect, ctl, start, tmp_path):
    options = ["--data-dir", tmp_path / "state"]
    coordinator, shards = cluster(2, *options)
    c = connect(coordinator)
    c.push({1: (KEYS, np.ones((200, 8), np.float32))})
    want = c.pull({1: KEYS})[1]
    coordinator.kill()
    np.testing.assert_array_equal(c.pull({1: KEYS})[1], want)  # rows need no coordinator
    config_path = coordinator.process.args[coordinator.process.args.index("--config") + 1]
    again = start("coordinator", "--bind", coordinator.endpoint, "--shards", 2, "--config",
                  config_path, *options).wait_ready()
    until_up(ctl, again, 2)
    fresh = connect(again)
    np.testing.assert_array_equal(fresh.pull({1: KEYS})[1], want)
    fresh.search(kappa=0.5, strategy="uniform", wait=True)
    assert c.pull({1: KEYS}, view="compact")[1].shape == (200, 4)


def test_freeze_ends_with_the_coordinator_that_ordered_it(cluster, connect, ctl, start):
    coordinator, _ = cluster(2)
    c = connect(coordinator, timeout=20)
    c.search(kappa=0.5, mode="freeze")
    coordinator.kill()
    config_path = coordinator.process.args[coordinator.process.args.index("--config") + 1]
    again = start("coordinator", "--bind", coordinator.endpoint, "--shards", 2, "--config",
                  config_path).wait_ready()
    until_up(ctl, again, 2)
    c.push({1: (KEYS, np.ones((200, 8), np.float32))})  # waits until it is let through
    c.flush()


# ---- pauses --------------------------------------------------------------------------------------

ONE = {"slots": [{"id": 1, "dim": 4, "optimizer": "sgd", "lr": 1, "init": "zero"}]}
ONES = np.ones((200, 4), np.float32)


def thread_states(pid):
    """A letter a thread, as ps shows it."""
    for path in Path(f"/proc/{pid}/task").glob("*/stat"):
        yield path.read_text().rsplit(")", 1)[1].split()[0]


@pytest.fixture
def pause():
    """A context in which a daemon is stopped, as by a debugger or a machine that swaps."""

    @contextlib.contextmanager
    def pause(daemon):
        daemon.process.send_signal(signal.SIGSTOP)
        try:
            wait_for(lambda: set(thread_states(daemon.pid)) == {"T"}, "the process to stop")
            yield
        finally:
            daemon.process.send_signal(signal.SIGCONT)

    return pause


def test_push_to_a_paused_shard_is_applied_once(cluster, connect, pause):
    coordinator, shards = cluster(2, settings=ONE)
    c = connect(coordinator, timeout=30)
    failures = []

    def work():
        try:
            c.push({1: (KEYS, ONES)})
        except Exception as error:
            failures.append(error)

    pushing = threading.Thread(target=work)
    with pause(shards[0]):
        pushing.start()
        pushing.join(4)  # retries pile up meanwhile
        assert pushing.is_alive()
    pushing.join()
    assert failures == []
    c.push({1: (KEYS, ONES)})
    np.testing.assert_array_equal(c.pull({1: KEYS})[1], -2)


def test_push_that_timed_out_happens_at_most_once_and_the_client_goes_on(cluster, connect, pause):
    coordinator, shards = cluster(2, settings=ONE)
    c, other = connect(coordinator, timeout=1), connect(coordinator)
    with pause(shards[0]), pytest.raises(Exception) as info:
        c.push({1: (KEYS, ONES)})
    assert info.value.code == "MAYBE", info.value
    # At the other shard it has happened; at the paused one it may have.
    c.push({1: (KEYS, 4 * ONES)})
    rows = other.pull({1: KEYS})[1]
    assert set(np.unique(rows)) <= {-4.0, -5.0} and (rows == -5).any()
    c.push({1: (KEYS, 4 * ONES)})
    np.testing.assert_array_equal(other.pull({1: KEYS})[1], rows - 4)


def test_training_goes_on_while_the_coordinator_is_paused(cluster, connect, ctl, pause):
    coordinator, shards = cluster(2, settings=ONE)
    c = connect(coordinator, timeout=2)
    with pause(coordinator):
        for _ in range(5):
            c.push({1: (KEYS, ONES)})
        np.testing.assert_array_equal(c.pull({1: KEYS})[1], -5)
        with pytest.raises(Exception) as info:
            c.status()
        assert info.value.code in ("TIMEOUT", "UNREACHABLE", "MAYBE")
        assert coordinator.endpoint in info.value.message
        done = ctl(coordinator, "--timeout", "1", "status")
        assert done.returncode == 3 and coordinator.endpoint in done.stderr
        # Not even shaken hands: nothing can have been asked.
        done = ctl(coordinator, "--timeout", "1", "search", "start", "--kappa", "0.5")
        assert done.returncode == 3, done
    c.search(kappa=0.5, strategy="uniform", wait=True)
    assert c.layout()[1].width == 2


# ---- hostile peers -------------------------------------------------------------------------------


def address(endpoint):
    host, port = endpoint.removeprefix("tcp://").rsplit(":", 1)
    return host, int(port)


def zmtp_frame(body, more=False, command=False):
    flags = (1 if more else 0) | (4 if command else 0)
    if len(body) > 255:
        return struct.pack(">BQ", flags | 2, len(body)) + body
    return struct.pack(">BB", flags, len(body)) + body


def zmtp_open(endpoint):
    """A raw socket that has shaken hands as a ZeroMQ DEALER."""
    peer = socket.create_connection(address(endpoint), timeout=10)
    peer.sendall(b"\xff" + b"\0" * 8 + b"\x7f\x03\x00" + b"NULL".ljust(20, b"\0") + b"\0" * 32)
    peer.sendall(zmtp_frame(b"\x05READY\x0bSocket-Type\0\0\0\x06DEALER", command=True))
    got = b""
    while len(got) < 64 + 2:
        got += peer.recv(4096)
    return peer


def varint(value):
    out = b""
    while value > 127:
        out += bytes([value & 127 | 128])
        value >>= 7
    return out + bytes([value])


def header(kind, request=1, client=7, seq=1, epoch=0, mode=1, name=b"", plain=0):
    """A well-formed header frame, as message.proto says."""
    out = b"\x08\x01\x10" + varint(kind) + b"\x20" + varint(request)
    out += b"\x29" + struct.pack("<Q", client) + b"\x30\x01\x38" + varint(seq)
    out += b"\x40" + varint(epoch) + b"\x68" + varint(mode)
    out += b"\x82\x01" + varint(len(name)) + name if name else b""
    return out + (b"\xa0\x01" + varint(plain) if plain else b"")


def hostile_messages(rng):
    """Lists of frames. Every kind that any process knows, with bodies that no one would send."""
    kinds = [1, 2, 3, 4, 5, 16, 17, 18, 19, 20, 32, 33, 48, 49, 50, 51, 52, 53, 54, 55, 56, 99, 2**31]
    section = struct.pack("<IIQ", 1, 8, 3) + struct.pack("<3Q", 1, 2, 3)
    for kind in kinds:
        yield [header(kind)]
        for size in (1, 7, 64, 4000):
            yield [header(kind, seq=rng.randint(0, 2**62)), rng.randbytes(size)]
        yield [header(kind), section[:-5]]
        yield [header(kind), b"\xff" * 256]
        yield [header(kind), struct.pack("<IIQ", 1, 8, 2**63), b""]
        yield [header(kind, name=b"search start"), b'{"kappa": 1e400']
        yield [header(kind, name=b"w"), b"[" * 100000]
        for plain in (1, 100, 2**14, 2**30, 2**31, 2**64 - 1):  # bodies that say they are packed
            yield [header(kind, seq=rng.randint(0, 2**62), plain=plain), rng.randbytes(70)]
            yield [header(kind, plain=plain), b"\x1f\x00\x01\x00" + b"\xff" * 200]
    for size in (0, 1, 20, 1024, 1025, 70000):
        yield [rng.randbytes(size)]
        yield [rng.randbytes(size), rng.randbytes(size)]
    whole = header(2)
    for cut in range(len(whole)):
        yield [whole[:cut]]
    yield [b"\x0a\xff\xff\xff\xff\x0f"]  # a length past the end
    yield [b"\x3b" * 1000]  # groups in groups
    yield [whole] * 50  # too many frames
    yield [b""] * 50


def raw_bytes(rng):
    """What may come down a TCP connection that never speaks ZeroMQ."""
    yield b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
    yield b"\xff" * 64
    yield b"\0" * 10000
    greeting = b"\xff" + b"\0" * 8 + b"\x7f\x03\x00" + b"NULL".ljust(20, b"\0") + b"\0" * 32
    for cut in (1, 9, 10, 12, 40, 64):
        yield greeting[:cut]
    yield greeting + rng.randbytes(200)
    yield greeting + struct.pack(">BQ", 2, 2**62)  # a frame of four exabytes
    for size in (1, 100, 5000):
        yield rng.randbytes(size)


def test_hostile_messages_change_nothing(cluster, connect, ctl):
    """No shutdown by a stranger's STOP, no crash, no row, no layout, and work goes on."""
    rng = random.Random(20260)
    coordinator, shards = cluster(2)
    c = connect(coordinator)
    c.push({1: (KEYS, np.ones((200, 8), np.float32))})
    want, layout = c.pull({1: KEYS})[1], ctl(coordinator, "slots", data=True)
    endpoints = [s["endpoint"] for s in ctl(coordinator, "status", data=True)["shards"]]
    for endpoint in (*endpoints, coordinator.endpoint):
        for frames in hostile_messages(rng):
            if endpoint == coordinator.endpoint and b"\x10\x37" in frames[0][:4]:
                continue  # coordinators are stopped by an admin command, see below
            with contextlib.suppress(OSError), zmtp_open(endpoint) as peer:
                for i, frame in enumerate(frames):
                    peer.sendall(zmtp_frame(frame, more=i + 1 < len(frames)))
        for data in raw_bytes(rng):
            with contextlib.suppress(OSError):
                with socket.create_connection(address(endpoint), timeout=10) as peer:
                    peer.sendall(data)
    for daemon in (coordinator, *shards):
        assert daemon.process.poll() is None, daemon.log()
    status = ctl(coordinator, "status", data=True)
    assert status["epoch"] == 0 and [s["endpoint"] for s in status["shards"]] == endpoints
    assert ctl(coordinator, "slots", data=True) == layout
    np.testing.assert_array_equal(c.pull({1: KEYS})[1], want)
    c.push({1: (KEYS, np.ones((200, 8), np.float32))})
    assert not np.isin(c.pull({1: KEYS})[1], want).any()
    assert c.stats()["totals"]["rows"] == 200


def test_json_arguments_that_are_none_are_refused(standalone, connect, ctl):
    daemon = standalone(1, slots=SLOTS)
    c = connect(daemon)
    for command, arguments, code in [
        ("search start", {"kappa": 0.5, "colour": "red"}, "INVALID"),
        ("search start", {"kappa": "0.5"}, "INVALID"),
        ("search start", {}, "INVALID"),
        ("scores", {"estimator": 5}, "INVALID"),
        ("dance", {}, "UNSUPPORTED"),
    ]:
        with pytest.raises(Exception) as info:
            c.admin(command, arguments)
        assert info.value.code == code, info.value
    assert json.loads(ctl(daemon, "search", "status", "--json").stdout)["phase"] == "idle"
