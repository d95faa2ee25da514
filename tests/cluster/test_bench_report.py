"""scripts/bench-report: lines of measurements become figures and verdicts.

No benchmark runs here: the lines are made up, so that the figures are known.
"""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from conftest import SOURCE

KEYS = {"name", "value", "unit", "reference", "ratio", "target", "holds"}


def report(form: str, *lines: dict) -> str:
    return subprocess.run(
        [sys.executable, SOURCE / "scripts" / "bench-report", form],
        input="".join(json.dumps(line) + "\n" for line in lines),
        capture_output=True,
        text=True,
        check=True,
    ).stdout


def figures(*lines: dict) -> list[dict]:
    return json.loads(report("json", *lines))


def figure(line: dict) -> dict:
    return figures(line)[0]


def line(name: str, unit: str, values: list, references: list | None = None) -> dict:
    made = {"name": name, "unit": unit, "values": values}
    if references is not None:
        made |= {"against": "something", "references": references}
    return made


def test_every_figure_has_every_documented_key() -> None:
    made = figures(line("pull", "keys/s", [1.0], [1.0]), line("train", "samples/s", [2.0]))
    assert [f["name"] for f in made] == ["pull", "train"]
    assert all(KEYS <= f.keys() for f in made)


def test_value_and_reference_are_medians_and_the_spread_is_beside_them() -> None:
    f = figure(line("pull", "keys/s", [5.0, 1.0, 3.0], [2.0, 1.0, 9.0]))
    assert (f["value"], f["low"], f["high"], f["rounds"]) == (3.0, 1.0, 5.0, 3)
    assert (f["reference"], f["reference_low"], f["reference_high"]) == (2.0, 1.0, 9.0)


def test_ratio_is_the_median_of_the_rounds_ratios_not_the_ratio_of_medians() -> None:
    f = figure(line("gather", "rows/s", [8.0, 4.0, 6.0], [2.0, 4.0, 12.0]))
    assert f["value"] / f["reference"] == 1.5
    assert f["ratio"] == 1.0  # of 4, 1, 0.5


def test_lines_of_one_name_are_rounds_of_one_figure() -> None:
    made = figures(
        line("pull_p99_change", "us", [10.0], [10.0]),
        line("change_live", "ms", [7.0]),
        line("pull_p99_change", "us", [40.0], [20.0]),
        line("pull_p99_change", "us", [60.0], [20.0]),
        line("change_live", "ms", [9.0]),
    )
    assert [f["name"] for f in made] == ["pull_p99_change", "change_live"]
    assert (made[0]["value"], made[0]["ratio"], made[0]["rounds"]) == (40.0, 2.0, 3)
    assert made[1]["value"] == 8.0


def test_without_a_target_there_is_nothing_to_miss() -> None:
    f = figure(line("train", "samples/s", [1.0]))
    assert f["target"] is None
    assert f["holds"] is True
    assert f["reference"] is None and f["ratio"] is None


@pytest.mark.parametrize(
    ("name", "unit", "value", "reference", "held"),
    [
        ("pull_4", "keys/s", 25e6, None, True),
        ("pull_4", "keys/s", 24.9e6, None, False),
        ("push_4", "keys/s", 18e6, None, True),
        ("memory", "bytes/row", 96.0, None, True),
        ("memory", "bytes/row", 96.1, None, False),
        ("decision", "ms", 101.0, None, False),
        ("server_cpu_push", "ns/key", 65.0, None, True),
        ("scoring", "ns/key", 105.0, 100.0, True),
        ("scoring", "ns/key", 106.0, 100.0, False),
        ("gather", "rows/s", 70.0, 100.0, True),
        ("change_axis", "bytes/s", 49.0, 100.0, False),
        ("pull_p99_change", "us", 200.0, 100.0, True),
        ("pull_p99_change", "us", 201.0, 100.0, False),
    ],
)
def test_a_target_holds_from_the_side_that_is_better(
    name: str, unit: str, value: float, reference: float | None, held: bool
) -> None:
    f = figure(line(name, unit, [value], None if reference is None else [reference]))
    assert f["target"] is not None
    assert f["holds"] is held


def test_of_several_targets_all_must_hold() -> None:
    fast = line("pull", "keys/s", [20e6], [0.5e6])
    slow = line("pull", "keys/s", [17e6], [0.5e6])
    close = line("pull", "keys/s", [20e6], [1e6])
    assert [figure(l)["holds"] for l in (fast, slow, close)] == [True, False, False]
    f = figure(fast)
    assert f["target"] == 22 and f["targets"] == {"value": 18e6, "ratio": 22}
    assert f["target_text"] == ">= 18 M keys/s, ratio >= 22"


def test_the_table_says_the_same_in_a_row_a_figure() -> None:
    head, _, row = report("table", line("scoring", "ns/key", [106.0], [100.0])).splitlines()
    assert [cell.strip() for cell in head.strip("|").split("|")] == [
        "what", "median", "low .. high", "reference", "ratio", "target", "holds",
    ]  # fmt: skip
    assert [cell.strip() for cell in row.strip("|").split("|")] == [
        "scoring", "106 ns/key", "106 .. 106", "100 something", "1.06", "ratio <= 1.05", "no",
    ]  # fmt: skip


def test_a_word_that_is_no_form_is_refused_with_the_usage() -> None:
    done = subprocess.run(
        [sys.executable, SOURCE / "scripts" / "bench-report", "csv"],
        input="",
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert done.stderr == "usage: bench-report table|json\n"
