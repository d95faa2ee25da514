"""dimfit-train from a CSV file to its report, against real clusters."""

from __future__ import annotations

import gzip
import json

import numpy as np
import pytest

from conftest import run

DIM = 8
FIELDS = {"user": 60, "item": 80, "hour": 24, "noise": 300}
LINES = 6000

PINNED = {
    "dataset", "rows_train", "rows_test", "model", "dim", "kappa", "strategy", "estimator", "basis",
    "count", "auc_full", "logloss_full", "auc_applied", "auc_searched", "logloss_searched",
    "params_full", "params_kept", "params_linear", "layout_bytes", "row_bytes_full",
    "row_bytes_kept", "rss_before", "rss_after", "slots", "seconds", "epoch",
}  # fmt: skip
CHANGING = {"seconds", "rss_before", "rss_after", "samples_per_second", "dataset"}


@pytest.fixture(scope="module")
def lines():
    """A click log with planted factors: user x item of rank 3, hour of rank 1, noise of none."""
    rng = np.random.default_rng(7)
    picks = {name: rng.zipf(1.3, LINES) % n for name, n in FIELDS.items()}
    rank = {"user": 3, "item": 3, "hour": 1}
    factors = {name: rng.normal(size=(FIELDS[name], 3)) for name in rank}
    factors["hour"][:, 1:] = 0
    x = {name: factors[name][picks[name]] for name in rank}
    logits = (x["user"] * x["item"]).sum(1) + (x["user"] * x["hour"]).sum(1)
    labels = rng.random(LINES) < 1 / (1 + np.exp(-2 * logits))
    rows = ["label,user,item,hour,noise"]
    for i in range(LINES):
        cells = ",".join(f"{name[0]}{picks[name][i]}" for name in FIELDS)
        rows.append(f"{int(labels[i])},{cells}")
    return rows


@pytest.fixture
def data(tmp_path, lines):
    path = tmp_path / "clicks.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture
def train(standalone, tmp_path):
    """train(data, *options) -> (result, report or None), each on a fresh cluster."""
    count = 0

    def train(data, *options, shards=2):
        nonlocal count
        count += 1
        report = tmp_path / f"report-{count}.json"
        daemon = standalone(shards, ["--auto-slots"])
        done = run(
            "dimfit-train", "--coordinator", daemon.endpoint, "--data", data, "--dim", DIM,
            "--epochs", 2, "--batch", 256, "--report", report, *options,
        )  # fmt: skip
        return done, json.loads(report.read_text()) if report.exists() else None

    return train


SEARCH = ["--search-kappa", "0.25", "--retrain"]


def test_slots_with_tiers_are_searched_a_tier(train, data):
    done, report = train(
        data, "--tiers", "4,32", "--min-dim", 0, "--strategy", "sseds", "--search-kappa", 0.3, "--retrain"
    )
    assert done.returncode == 0, done.stderr
    assert 0 < report["params_kept"] <= 0.3 * report["params_full"]
    kept = 0
    for slot in report["slots"]:
        tiers = slot["tiers"]
        assert [t["shows"] for t in tiers] == [0, 4, 32]
        widths = [t["width"] for t in tiers]
        assert widths == sorted(widths) and widths[-1] == slot["width_after"] <= DIM
        kept += len(set(widths)) > 1
    assert kept > 0, "some slot has tiers of different widths"


@pytest.mark.parametrize("tiers", ["", "0,4", "4,4", "2.5", "1,2,3,4,5,6,7,8"])
def test_tiers_that_are_none_are_a_usage_error(tiers, data):
    done = run("dimfit-train", "--data", data, "--tiers", tiers)
    assert done.returncode == 2 and "show counts such as 10,100" in done.stderr


def test_search_and_retraining_end_to_end(train, data):
    done, report = train(data, "--epochs", 6, *SEARCH)
    assert done.returncode == 0, done.stderr
    assert PINNED <= report.keys()
    assert 0 < report["params_kept"] <= 0.25 * report["params_full"]
    assert report["row_bytes_kept"] < 0.5 * report["row_bytes_full"]
    rows = {slot["name"]: slot["rows"] for slot in report["slots"]}
    assert rows.keys() == FIELDS.keys()
    assert report["params_full"] == DIM * sum(rows.values())
    assert report["params_linear"] == sum(rows.values())
    after = {slot["name"]: slot["width_after"] for slot in report["slots"]}
    assert report["params_kept"] == sum(after[name] * rows[name] for name in rows)
    assert all(slot["width_before"] == DIM for slot in report["slots"])
    assert abs(sum(slot["score"] for slot in report["slots"]) - 1) < 1e-6
    assert after["noise"] == 1 and after["user"] >= 3 and after["item"] >= 3, after
    assert report["epoch"] == 1
    assert report["kappa"] == 0.25 and report["strategy"] == "auto"
    assert report["rows_train"] + report["rows_valid"] + report["rows_test"] == LINES
    assert abs(report["rows_train"] - 0.8 * LINES) < 200
    assert report["auc_full"] > 0.6 and report["auc_searched"] > report["auc_full"] - 0.03
    assert report["auc_applied"] > report["auc_full"] - 0.05
    for key in ("auc_full", "auc_applied", "auc_searched", "logloss_full", "logloss_searched"):
        assert 0 < report[key] < 1


def test_training_without_a_search_reports_nothing_of_one(train, data):
    done, report = train(data)
    assert done.returncode == 0, done.stderr
    assert PINNED <= report.keys()
    assert report["auc_full"] > 0.6
    for key in ("kappa", "auc_applied", "auc_searched", "params_kept", "logloss_searched"):
        assert report[key] is None
    assert report["seconds"]["search"] is None and report["epoch"] == 0


@pytest.mark.parametrize("model", ["fm", "wdl", "deepfm"])
def test_two_runs_of_one_worker_are_the_same(train, data, model):
    reports = []
    for shards in (2, 2):
        done, report = train(data, "--model", model, "--seed", 5, *SEARCH, shards=shards)
        assert done.returncode == 0, done.stderr
        reports.append({key: value for key, value in report.items() if key not in CHANGING})
    assert reports[0] == reports[1]
    assert reports[0]["model"] == model


def test_another_seed_is_another_run(train, data):
    figures = [train(data, "--seed", seed)[1]["logloss_full"] for seed in (1, 2)]
    assert figures[0] != figures[1]


def test_shard_count_does_not_change_the_figures(train, data):
    one, five = (train(data, *SEARCH, shards=shards)[1] for shards in (1, 5))
    widths = [[slot["width_after"] for slot in report["slots"]] for report in (one, five)]
    assert widths[0] == widths[1]
    assert abs(one["auc_full"] - five["auc_full"]) < 1e-4
    assert abs(one["auc_searched"] - five["auc_searched"]) < 1e-3


@pytest.mark.parametrize("model", ["fm", "deepfm"])
def test_three_workers_train_together(train, data, model):
    done, report = train(data, "--workers", 3, "--model", model, *SEARCH)
    assert done.returncode == 0, done.stderr
    assert report["workers"] == 3 and report["epoch"] == 1
    assert 0 < report["params_kept"] <= 0.25 * report["params_full"]
    assert report["auc_full"] > 0.6 and report["auc_searched"] > 0.6


@pytest.mark.parametrize("basis", ["axis", "rotated"])
@pytest.mark.parametrize("view", ["full", "compact"])
def test_every_basis_and_view_trains(train, data, basis, view):
    done, report = train(data, "--model", "deepfm", "--basis", basis, "--view", view, *SEARCH)
    assert done.returncode == 0, done.stderr
    assert report["basis"] == basis and report["view"] == view and report["strategy"] == "auto"
    assert report["auc_full"] > 0.6 and report["auc_searched"] > 0.6


@pytest.mark.parametrize("strategy", ["uniform", "random", "frequency", "magnitude"])
def test_baselines_run_through_the_trainer(train, data, strategy):
    done, report = train(data, "--strategy", strategy, "--basis", "rotated", *SEARCH)
    assert done.returncode == 0, done.stderr
    assert report["strategy"] == strategy
    assert 0 < report["params_kept"] <= 0.25 * report["params_full"]


# ---- data ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "bad, said",
    [
        ("1,u1,i1", "3 fields where the header has 5"),
        ("yes,u1,i1,h1,n1", "label is 'yes'"),
        ('1,"u1,i1,h1,n1', "quoted field"),
    ],
    ids=["short", "label", "quote"],
)
def test_malformed_line_is_refused_with_file_and_line(train, tmp_path, lines, bad, said):
    path = tmp_path / "bad.csv"
    path.write_text("\n".join(lines[:500] + [bad] + lines[500:1000]) + "\n")
    done, report = train(path)
    assert done.returncode == 1 and report is None
    assert f"{path}:501: " in done.stderr and said in done.stderr, done.stderr


def test_malformed_lines_are_skipped_and_counted_when_asked(train, tmp_path, lines):
    path = tmp_path / "bad.csv"
    path.write_text("\n".join(lines[:500] + ["1,u1"] + lines[500:1000] + ["x,,,,", "0"]) + "\n")
    done, report = train(path, "--skip-bad")
    assert done.returncode == 0, done.stderr
    assert report["lines_skipped"] == 3
    assert report["rows_train"] + report["rows_valid"] + report["rows_test"] == 999
    assert f"3 malformed lines skipped, the first: {path}:501: " in done.stderr


def test_compressed_data_is_the_same_data(train, tmp_path, data, lines):
    packed = tmp_path / "clicks.csv.gz"
    packed.write_bytes(gzip.compress(data.read_bytes()))
    reports = []
    for path in (data, packed):
        report = train(path)[1]
        reports.append({key: value for key, value in report.items() if key not in CHANGING})
    assert reports[0] == reports[1]


@pytest.mark.parametrize("skip", [[], ["--skip-bad"]], ids=["strict", "skip-bad"])
def test_truncated_gzip_is_refused(train, tmp_path, data, skip):
    packed = gzip.compress(data.read_bytes())
    path = tmp_path / "torn.csv.gz"
    path.write_bytes(packed[: len(packed) // 2])
    done, report = train(path, *skip)
    assert done.returncode == 1 and report is None
    assert str(path) in done.stderr, done.stderr


@pytest.mark.parametrize(
    "content, said",
    [("", "empty"), ("label,user\n", "no samples"), ("click,user\n1,u1\n", "--label")],
    ids=["empty", "header only", "no label"],
)
def test_file_with_nothing_to_train_on_is_refused(train, tmp_path, content, said):
    path = tmp_path / "small.csv"
    path.write_text(content)
    done, report = train(path)
    assert done.returncode == 1 and report is None
    assert str(path) in done.stderr and said in done.stderr, done.stderr


def test_file_that_is_missing_is_named(train, tmp_path):
    done, _ = train(tmp_path / "none.csv")
    assert done.returncode == 1
    assert f"{tmp_path / 'none.csv'}: cannot be opened" in done.stderr


@pytest.mark.parametrize(
    "options",
    [["--model", "svm"], ["--batch", "0"], ["--search-kappa", "-1"], ["--no-such"]],
    ids=" ".join,
)
def test_usage_errors_are_status_2(options):
    done = run("dimfit-train", "--data", "x.csv", *options)
    assert done.returncode == 2 and done.stderr


def test_cluster_that_is_not_there_is_status_3(data):
    done = run(
        "dimfit-train", "--coordinator", "tcp://127.0.0.1:1", "--timeout", "1", "--data", data
    )
    assert done.returncode == 3 and "tcp://127.0.0.1:1" in done.stderr, done.stderr


def test_infeasible_search_is_an_error_with_the_smallest_kappa(train, data):
    done, report = train(data, "--search-kappa", "0.01")
    assert done.returncode == 1 and report is None
    assert "smallest feasible --kappa is 0.125" in done.stderr, done.stderr


# ---- made data -----------------------------------------------------------------------------------


def test_made_data_is_the_same_for_a_seed(tmp_path):
    files = []
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        path = tmp_path / f"{name}.csv"
        done = run("dimfit-datagen", "--out", path, "--rows", 2000, "--seed", seed)
        assert done.returncode == 0, done.stderr
        files.append(path.read_bytes())
    assert files[0] == files[1] != files[2]
    assert files[0].count(b"\n") == 2001 and b"label" in files[0].splitlines()[0]


def test_made_data_trains(train, tmp_path):
    path, truth = tmp_path / "made.csv.gz", tmp_path / "truth.json"
    done = run("dimfit-datagen", "--out", path, "--rows", 5000, "--truth", truth)
    assert done.returncode == 0, done.stderr
    slots = json.loads(truth.read_text())["slots"]
    done, report = train(path, *SEARCH)
    assert done.returncode == 0, done.stderr
    assert len(report["slots"]) == len(slots)
