"""What a cluster tells over HTTP: /metrics as Prometheus wants it, /healthz and /readyz, the alert
rules, and a dashboard whose every query a real Prometheus answers."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import urllib.error
import urllib.parse
import urllib.request

import numpy as np
import pytest
from conftest import SOURCE, Daemon, of_programs, run, wait_for

DEPLOY = SOURCE / "scripts" / "deploy"
SLOTS = [{"id": 1, "name": "user", "dim": 8}, {"id": 2, "name": "wide", "dim": 1, "search": False}]
KEYS = np.arange(500, dtype=np.uint64)

promtool = pytest.mark.skipif(shutil.which("promtool") is None, reason="prometheus is not installed")


def page(port: int, path: str, method: str = "GET") -> tuple[int, str]:
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", method=method)
    try:
        with urllib.request.urlopen(request, timeout=20) as reply:
            return reply.status, reply.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def port_of(daemon: Daemon) -> int:
    found = wait_for(lambda: re.search(r"HTTP at \S+, port (\d+)", daemon.log()), "the HTTP port")
    return int(found[1])


def values(text: str) -> dict[str, float]:
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines}


@pytest.fixture
def cluster(standalone):
    return standalone(2, ["--http-bind", "tcp://127.0.0.1:*"], slots=SLOTS)


def train(client, steps=3):
    for step in range(steps):
        grads = {1: np.ones((len(KEYS), 8), np.float32), 2: np.ones((len(KEYS), 1), np.float32)}
        client.push({s: (KEYS, grads[s]) for s in grads}, mode="train+score", step=step + 1)
        client.pull({1: KEYS})


@promtool
def test_metrics_are_prometheus_text_and_agree_with_dimfitctl(cluster, connect, ctl):
    train(connect(cluster))
    status, text = page(port_of(cluster), "/metrics")
    assert status == 200
    checked = subprocess.run(
        ["promtool", "check", "metrics"],
        input=text,
        text=True,
        capture_output=True,
        env=of_programs(os.environ),
    )
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, "", "")
    got, stats = values(text), ctl(cluster, "stats", data=True)
    for shard in stats["shards"]:
        label = f'shard="{shard["id"]}"'
        assert got[f"dimfit_shard_rows{{{label}}}"] == shard["rows"]
        assert got[f'dimfit_keys_total{{{label},kind="pushed"}}'] == shard["keys_pushed"] == 3 * (
            shard["rows"]
        )
        assert got[f'dimfit_request_seconds_count{{{label},kind="push"}}'] == 3
        assert got[f'dimfit_request_seconds_bucket{{{label},kind="pull",le="+Inf"}}'] == 3
        assert 0 < got[f'dimfit_request_seconds_sum{{{label},kind="push"}}'] < 60
    assert got['dimfit_slot_width{slot="1",name="user"}'] == 8
    assert got['dimfit_slot_rows{slot="2",name="wide"}'] == len(KEYS)
    assert got['dimfit_parameters{kind="searched"}'] == 8 * len(KEYS)


def test_only_its_pages_are_there_and_only_to_be_read(cluster):
    port = port_of(cluster)
    assert page(port, "/healthz") == (200, "ok\n")
    assert page(port, "/readyz") == (200, "ok\n")
    assert page(port, "/")[0] == 404
    assert page(port, "/../etc/passwd")[0] == 404
    assert page(port, "/metrics", method="POST")[0] == 405
    assert page(port, "/metrics", method="DELETE")[0] == 405


def test_a_shard_that_is_gone_makes_the_cluster_unready_and_is_told_of(start, config):
    named = ["--config", config(slots=SLOTS), "--shards", 2, "--http-bind", "tcp://127.0.0.1:*"]
    coordinator = start("coordinator", "--bind", "tcp://127.0.0.1:*", *named).wait_ready()
    port = port_of(coordinator)
    assert page(port, "/readyz") == (503, "shard 0 is missing\n")
    shards = [
        start("shard", "--coordinator", coordinator.endpoint).wait_ready() for _ in range(2)
    ]
    wait_for(lambda: page(port, "/readyz")[0] == 200, "both shards")
    shards[1].kill()
    wait_for(lambda: page(port, "/readyz")[0] == 503, "the dead one to be missed")
    assert page(port, "/healthz")[0] == 200
    told = values(page(port, "/metrics")[1])
    assert sorted(told[f'dimfit_shard_up{{shard="{i}"}}'] for i in (0, 1)) == [0, 1]


def test_an_address_that_is_none_or_taken_is_refused_by_name(cluster):
    bad = run("dimfitd", "standalone", "--bind", "tcp://127.0.0.1:*", "--http-bind", "tcp://nowhere")
    assert bad.returncode == 1 and "--http-bind tcp://nowhere" in bad.stderr
    taken = f"tcp://127.0.0.1:{port_of(cluster)}"
    bad = run("dimfitd", "standalone", "--bind", "tcp://127.0.0.1:*", "--http-bind", taken)
    assert bad.returncode == 1 and taken in bad.stderr and "in use" in bad.stderr


@promtool
def test_alert_rules_do_as_they_say():
    folder = DEPLOY / "prometheus"
    for command in (["check", "rules", "dimfit.rules.yaml"], ["test", "rules", "dimfit.rules.test.yaml"]):
        done = subprocess.run(
            ["promtool", *command],
            cwd=folder,
            capture_output=True,
            text=True,
            env=of_programs(os.environ),
        )
        assert done.returncode == 0, done.stdout + done.stderr


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


@pytest.fixture
def prometheus(cluster, tmp_path):
    """A Prometheus that scrapes the cluster once a second: query(expression) -> its result."""
    port, file = free_port(), tmp_path / "prometheus.yaml"
    scrape = {
        "job_name": "dimfit",
        "scrape_interval": "1s",
        "static_configs": [{"targets": [f"127.0.0.1:{port_of(cluster)}"]}],
    }
    rules = [str(DEPLOY / "prometheus" / "dimfit.rules.yaml")]
    file.write_text(json.dumps({"rule_files": rules, "scrape_configs": [scrape]}))
    with (tmp_path / "prometheus.log").open("w") as log:
        process = subprocess.Popen(
            ["prometheus", f"--config.file={file}", f"--web.listen-address=127.0.0.1:{port}",
             f"--storage.tsdb.path={tmp_path / 'tsdb'}"],
            stdout=log, stderr=log, env=of_programs(os.environ),
        )  # fmt: skip

    def query(expression: str) -> list:
        asked = urllib.parse.urlencode({"query": expression})
        status, text = page(port, f"/api/v1/query?{asked}")
        assert status == 200, f"{expression}: {text}"
        return json.loads(text)["data"]["result"]

    def is_up() -> bool:
        try:
            return page(port, "/-/ready")[0] == 200 and bool(query("up == 1"))
        except OSError:
            return False  # it does not listen yet

    try:
        wait_for(is_up, "Prometheus to have scraped the cluster", 60)
        yield query
    finally:
        process.terminate()
        process.wait(30)


@promtool
def test_prometheus_answers_every_query_of_the_dashboard_and_the_rules(cluster, connect, prometheus):
    client = connect(cluster)
    train(client)
    client.search(kappa=0.5, strategy="uniform", basis="axis", wait=True)
    dashboard = json.loads((DEPLOY / "grafana" / "dimfit.json").read_text())
    queries = [t["expr"].replace("$job", "dimfit") for p in dashboard["panels"] for t in p["targets"]]
    assert len(queries) > 15
    for query in queries:
        train(client)
        wait_for(lambda: prometheus(query), f"an answer to {query}", 60)
    widths = {r["metric"]["name"]: r["value"][1] for r in prometheus("dimfit_slot_width")}
    assert widths == {"user": "4", "wide": "1"}
    assert prometheus("ALERTS") == []
