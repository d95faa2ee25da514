"""Searches during a training, and slots that grow, against real clusters."""

from __future__ import annotations

import json

import numpy as np
import pytest

from conftest import run

DIM, WIDTH, LINES = 8, 2, 20000
FIELDS = {"user": 60, "item": 80, "noise": 300}
GROW = ["--search-every", "1", "--search-kappa", "1", "--grow", "--score-batch", "256"]


@pytest.fixture(scope="module")
def lines():
    """user x item of rank 4, noise of none."""
    rng = np.random.default_rng(11)
    picks = {name: rng.zipf(1.2, LINES) % n for name, n in FIELDS.items()}
    user, item = (rng.normal(size=(FIELDS[name], 4)) for name in ("user", "item"))
    logits = (user[picks["user"]] * item[picks["item"]]).sum(1)
    labels = rng.random(LINES) < 1 / (1 + np.exp(-2 * logits))
    rows = ["label," + ",".join(FIELDS)]
    for i in range(LINES):
        cells = ",".join(f"{name[0]}{picks[name][i]}" for name in FIELDS)
        rows.append(f"{int(labels[i])},{cells}")
    return rows


@pytest.fixture
def train(standalone, tmp_path, lines):
    """train(*options) -> report, on a fresh cluster that stores rows at WIDTH of DIM."""
    data, report = tmp_path / "clicks.csv", tmp_path / "report.json"
    data.write_text("\n".join(lines) + "\n")

    def train(*options):
        daemon = standalone(2, auto_slots=True, defaults={"dim": DIM, "width": WIDTH})
        done = run(
            "dimfit-train", "--coordinator", daemon.endpoint, "--data", data, "--dim", DIM,
            "--epochs", 6, "--batch", 256, "--lr", 0.1, "--patience", 0, "--report", report,
            *options,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return json.loads(report.read_text())

    return train


def widths(report):
    return {slot["name"]: slot["width_after"] for slot in report["slots"]}


def check_steps(report, kappa=1):
    """Every search keeps its budget, begins where the last one ended, and says what it did."""
    steps = report["searches"]
    assert steps
    rows = {slot["id"]: slot["rows"] for slot in report["slots"]}
    before = dict.fromkeys(rows, WIDTH)
    for i, step in enumerate(steps):
        assert step["params_after"] <= (kappa if i == 0 else 1) * step["params_before"]
        assert {slot["id"]: slot["before"] for slot in step["slots"]} == before
        before = {slot["id"]: slot["after"] for slot in step["slots"]}
        assert max(before.values()) <= DIM and min(before.values()) >= 1
        assert all(slot["added"] <= slot["after"] for slot in step["slots"])
        for key in ("auc_before", "auc_after", "logloss_before", "logloss_after"):
            assert 0 < step[key] < 1
    epochs = [step["epoch"] for step in steps]
    assert epochs == sorted(set(epochs)) and epochs[-1] < 6
    assert [step["layout_epoch"] for step in steps] == list(range(1, len(steps) + 1))
    assert before == {slot["id"]: slot["width_after"] for slot in report["slots"]}
    assert report["epoch"] == len(steps)


def test_width_goes_from_noise_to_what_earns_within_the_same_memory(train):
    report = train(*GROW)
    check_steps(report)
    after = widths(report)
    assert after["noise"] < WIDTH < min(after["user"], after["item"]), after
    assert report["params_kept"] <= report["params_full"]
    assert report["auc_full"] is None and report["auc_searched"] > train()["auc_full"]


@pytest.mark.parametrize("init", ["zero", "drawn", "linear"])
def test_new_directions_hardly_move_the_model(train, init):
    report = train("--search-every", "2", "--search-kappa", "4", "--grow", "--grow-init", init)
    step = report["searches"][0]
    assert any(slot["added"] > 0 for slot in step["slots"])
    assert step["params_after"] > step["params_before"]
    limit = 1e-5 if init == "zero" else 1e-2
    assert abs(step["logloss_after"] - step["logloss_before"]) < limit


@pytest.mark.parametrize("basis", ["axis", "rotated"])
def test_linear_directions_are_normalised_over_lookups(standalone, connect, rng, basis):
    scale, n = 0.05, 200
    slot = {"id": 1, "name": "user", "dim": 8, "width": 4, "optimizer": "sgd", "lr": 1.0}
    daemon = standalone(3, slots=[slot | {"init": "zero", "init_scale": scale}])
    client = connect(daemon)
    keys = rng.integers(0, 2**62, n + 1, dtype=np.uint64)  # the last one is never pushed
    values = (0.3 + rng.normal(size=(n, 8)) * 2.0 ** -np.arange(8)).astype(np.float32)
    shows = rng.integers(1, 9, n)
    client.push({1: (keys[:-1], -values)})
    client.push({1: (np.repeat(keys[:-1], shows - 1), np.zeros((shows.sum() - n, 8), np.float32))})
    before = client.pull({1: keys}, view="compact")[1]
    client.search(
        kappa=2, strategy="uniform", basis=basis, grow=True, grow_init="linear", wait=True
    )
    after = client.pull({1: keys}, view="compact")[1]
    assert before.shape == (n + 1, 4) and after.shape == (n + 1, 8)
    new = after[:, 4:].astype(float)
    mean = np.average(new[:-1], axis=0, weights=shows)
    deviation = np.sqrt(np.average((new[:-1] - mean) ** 2, axis=0, weights=shows))
    assert np.abs(mean).max() < 1e-7 and np.abs(deviation / scale - 1).max() < 1e-6
    affine = np.hstack([before.astype(float), np.ones((n + 1, 1))])
    weights = np.linalg.lstsq(affine[:-1], new[:-1], rcond=None)[0]
    assert np.abs(affine @ weights - new).max() < 1e-7  # of unseen rows, too
    assert np.linalg.matrix_rank(weights[:-1], tol=1e-4) == 4
    kept = np.linalg.norm(before, axis=1) - np.linalg.norm(after[:, :4], axis=1)
    assert np.array_equal(after[:, :4], before) if basis == "axis" else np.abs(kept).max() < 1e-6


def test_compact_models_grow_with_the_layout(train):
    report = train(
        *GROW, "--search-kappa", 3, "--grow-init", "zero", "--model", "deepfm", "--view", "compact"
    )
    check_steps(report, kappa=3)
    first = report["searches"][0]
    assert sum(slot["added"] for slot in first["slots"]) > 0
    assert abs(first["logloss_after"] - first["logloss_before"]) < 1e-5
    assert report["auc_searched"] > 0.6


def test_two_workers_search_together(train):
    report = train(*GROW, "--workers", 2, "--search-every", "0.5", "--search-kappa", 3)
    check_steps(report, kappa=3)
    assert report["searches"][0]["epoch"] == 0.5
    assert max(widths(report).values()) > WIDTH


def test_without_growth_one_search_is_all(train):
    report = train("--search-every", "1", "--search-kappa", "0.5")
    assert len(report["searches"]) == 1 and report["epoch"] == 1
    assert report["params_kept"] <= 0.5 * report["params_full"]


@pytest.mark.parametrize("options", [[], ["--search-kappa", "1", "--retrain"]], ids=str)
def test_options_that_do_not_go_together_are_usage_errors(options):
    done = run("dimfit-train", "--data", "x.csv", "--search-every", "1", *options)
    assert done.returncode == 2 and "--search-every" in done.stderr
