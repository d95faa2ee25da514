"""scripts/study on tiny data: cells are run once, and what they say is put together right."""

from __future__ import annotations

import csv
import json
import os
import subprocess
from pathlib import Path
from xml.etree import ElementTree

import pytest
from conftest import BUILD, SOURCE, of_programs

COLUMNS = ["default", "uniform", "uniform-axis", "power", "random", "magnitude", "step", "guarded"]
SECONDS = 300


def study(out: Path, *options: str, check: bool = True) -> subprocess.CompletedProcess:
    command = [SOURCE / "scripts" / "study", "--out", out, "--planted", "4000", "--models", "fm",
               "--seeds", "2", "--kappas", "0.25", "--jobs", "2"]
    return subprocess.run(
        [*map(str, command), *options, "--", "--epochs", "1", "--retrain-epochs", "1"],
        env={**of_programs(os.environ), "DIMFIT_BUILD": str(BUILD)},
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=SECONDS, check=check)


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    out = tmp_path_factory.mktemp("study")
    result = study(out, "--estimators", "step,guarded")
    assert "16 of 16 cells" in result.stderr
    return out


def test_every_cell_is_in_the_table_with_its_mean(done):
    with (done / "table.csv").open() as file:
        rows = {row["allocation"]: row for row in csv.DictReader(file)}
    assert list(rows) == COLUMNS
    for column, row in rows.items():
        runs = [json.loads((done / "runs" / f"planted-fm-0.25-{column}-{seed}.json").read_text())
                for seed in (1, 2)]
        assert row["seeds"] == "2"
        for key, name in (("auc_applied", "auc_applied"), ("auc_searched", "auc_retrained")):
            first, second = (run[key] for run in runs)
            assert float(row[name]) == pytest.approx((first + second) / 2)
            assert float(row[name + "_error"]) == pytest.approx(abs(first - second) / 2)
        assert all(run["params_kept"] <= 0.25 * run["params_full"] for run in runs)
        assert all(run["auc_full"] > 0.5 for run in runs)
    strategies = {json.loads((done / "runs" / f"planted-fm-0.25-{c}-1.json").read_text())["strategy"]
                  for c in COLUMNS}
    assert strategies == {"auto", "uniform", "frequency", "random", "magnitude", "sseds"}


def test_the_report_says_where_the_default_is_not_above(done):
    with (done / "table.csv").open() as file:
        rows = {row["allocation"]: row for row in csv.DictReader(file)}
    text = (done / "study.md").read_text()
    for key, when in (("auc_applied", "right after apply"), ("auc_retrained", "after retraining")):
        for column in COLUMNS[1:6]:
            above = float(rows["default"][key]) > float(rows[column][key])
            told = any(when in line and line.endswith(f" to {column}") for line in text.splitlines())
            assert told != above
    ElementTree.parse(done / "auc-memory.svg")


def test_a_cell_that_is_done_is_not_run_again(done):
    runs = sorted((done / "runs").iterdir())
    stamps = [run.stat().st_mtime_ns for run in runs[1:]]
    runs[0].unlink()
    listed = study(done, "--estimators", "step,guarded", "--dry-run").stdout.splitlines()
    assert [line for line in listed if line.startswith("to do")][0].split()[2] == runs[0].stem
    assert listed[-1].startswith("16 cells, 1 to do; estimate: 0:")
    study(done, "--estimators", "step,guarded")
    assert runs[0].exists()
    assert [run.stat().st_mtime_ns for run in runs[1:]] == stamps


def test_another_studys_folder_is_refused(done):
    result = study(done, "--label", "other", check=False)
    assert result.returncode == 1 and "name another --out" in result.stderr
