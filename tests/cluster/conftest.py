"""Real processes for the tests: clusters, the command line tool, the trainer.

Nothing outlives its test: every process is ended by its id, every file lies in the test's folder,
and every port is one the system picked. Waiting is for a condition, with a limit that is an error.

DIMFIT_BUILD names the build folder (default: the source tree).
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

SOURCE = Path(__file__).resolve().parents[2]
BUILD = Path(os.environ.get("DIMFIT_BUILD", SOURCE)).resolve()
PYTHON_DIR = SOURCE / "worker" / "python"
START_SECONDS = 30
RUN_SECONDS = 120
CALL_SECONDS = 60  # a client's patience, unless a test is about that

os.environ.setdefault("DIMFIT_LIB", str(BUILD / ".libs" / "libdimfit.so.0"))
os.environ["PYTHONPATH"] = str(PYTHON_DIR)
os.environ.pop("DIMFIT_COORDINATOR", None)
sys.path.insert(0, str(PYTHON_DIR))

SANITIZER = re.compile(r"runtime error:|ERROR: \w+Sanitizer|(?:WARNING|FATAL): ThreadSanitizer")
READY = re.compile(r"^dimfitd: (?:coordinator at (\S+), (\d+) shards|(\d+) shards for )")


def sanitized() -> bool:
    """Is libdimfit linked with a sanitizer that wants to be in the process first?
    DIMFIT_SANITIZED=0 says that LD_PRELOAD sees to that."""
    if "DIMFIT_SANITIZED" in os.environ:
        return os.environ["DIMFIT_SANITIZED"] != "0"
    linked = subprocess.run(["ldd", os.environ["DIMFIT_LIB"]], capture_output=True, text=True)
    return any(name in linked.stdout for name in ("libasan", "libtsan", "libubsan"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if not sanitized():
        return
    skip = pytest.mark.skip(
        reason="libdimfit is built with a sanitizer, which an interpreter that is not cannot load"
    )
    for item in items:
        if "connect" in getattr(item, "fixturenames", ()):
            item.add_marker(skip)


class Daemon:
    """A running dimfitd, its endpoint, and what it has written."""

    def __init__(self, folder: Path, role: str, *options: object, env=(), prefix=()) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        name = f"{role}-{time.monotonic_ns()}"
        self.out, self.err = folder / f"{name}.out", folder / f"{name}.err"
        self.endpoint: str | None = None
        with self.out.open("w") as out, self.err.open("w") as err:
            self.process = subprocess.Popen(
                [*prefix, BUILD / "dimfitd", role, *map(str, options)],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                cwd=folder,
                env={**of_programs(os.environ), **dict(env)},
            )

    @property
    def pid(self) -> int:
        return self.process.pid

    def log(self) -> str:
        return self.err.read_text(errors="replace")

    def wait_ready(self) -> Daemon:
        """Until it has said that it is ready."""

        def ready() -> re.Match | None:
            if self.process.poll() is not None:
                raise AssertionError(f"dimfitd ended with {self.process.returncode}: {self.log()}")
            return READY.match(self.out.read_text())

        self.endpoint = wait_for(ready, f"dimfitd to be ready ({self.err})", START_SECONDS)[1]
        return self

    def wait(self, seconds: float = START_SECONDS) -> int:
        """The exit status, once it has ended by itself."""
        return self.process.wait(seconds)

    def kill(self) -> None:
        """As a crash: no chance to clean up."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(START_SECONDS)

    def stop(self) -> int:
        """In order; the exit status."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(START_SECONDS)
            except subprocess.TimeoutExpired:
                self.kill()
                raise AssertionError(f"dimfitd did not stop within {START_SECONDS} s: {self.log()}")
        return self.process.returncode


def wait_for(condition, what: str, seconds: float = START_SECONDS):
    """What the condition returns once that is true."""
    end = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < end, f"waited {seconds} s for {what}"
        time.sleep(0.01)
    return value


def yaml(settings: object) -> str:
    return json.dumps(settings, indent=1)  # YAML holds JSON


def of_programs(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment for programs of the build: what is preloaded is for interpreters, and the shell
    of a libtool script may not bear it."""
    return {name: value for name, value in environment.items() if name != "LD_PRELOAD"}


def run(program: str, *arguments: object, seconds: float = RUN_SECONDS, env=os.environ, **options):
    """A program of the build to its end, its output as text."""
    done = subprocess.run(
        [BUILD / program, *map(str, arguments)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=seconds,
        env=of_programs(env),
        **options,
    )
    assert not SANITIZER.search(done.stderr), done.stderr
    return done


@pytest.fixture
def start(tmp_path):
    """start(role, *options) -> Daemon; all are ended with the test."""
    daemons: list[Daemon] = []

    def start(role: str, *options: object) -> Daemon:
        daemons.append(Daemon(tmp_path / "daemons", role, *options))
        return daemons[-1]

    yield start
    for daemon in reversed(daemons):
        with contextlib.suppress(Exception):
            daemon.stop()
        if daemon.process.poll() is None:
            daemon.kill()
    broken = [daemon for daemon in daemons if SANITIZER.search(daemon.log())]
    assert not broken, "\n".join(d.log() for d in broken)


@pytest.fixture
def config(tmp_path):
    """config(**settings) -> path of a configuration file."""
    count = 0

    def config(**settings: object) -> Path:
        nonlocal count
        count += 1
        path = tmp_path / f"dimfit-{count}.yaml"
        path.write_text(yaml(settings))
        return path

    return config


@pytest.fixture
def standalone(start, config):
    """standalone(shards=1, options=(), **settings) -> Daemon that is ready."""

    def standalone(shards: int = 1, options=(), **settings: object) -> Daemon:
        named = ["--config", config(**settings)] if settings else []
        daemon = start(
            "standalone", "--bind", "tcp://127.0.0.1:*", "--shards", shards, *named, *options
        )
        return daemon.wait_ready()

    return standalone


@pytest.fixture
def connect(capfd):
    """connect(daemon or endpoint, **options) -> client, closed with the test."""
    import dimfit

    clients = []

    def connect(to, **options):
        options = {"timeout": CALL_SECONDS, **options}
        clients.append(dimfit.connect(getattr(to, "endpoint", to), **options))
        return clients[-1]

    yield connect
    for client in clients:
        client.close()
    written = capfd.readouterr().err  # of the library in this process
    assert not SANITIZER.search(written), written


@pytest.fixture
def ctl():
    """ctl(daemon, *arguments) -> dimfitctl's result; with data=True its JSON, exit 0 required."""

    def ctl(daemon, *arguments: object, data: bool = False):
        endpoint = getattr(daemon, "endpoint", daemon)
        form = ["--json"] if data else []
        done = run("dimfitctl", "--coordinator", endpoint, *arguments, *form)
        if not data:
            return done
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return ctl


@pytest.fixture
def rng(request):
    """numpy's generator, seeded by the test's name."""
    return np.random.default_rng(list(request.node.name.encode()))
