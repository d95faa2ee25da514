"""Trials of layout changes: rows, masks and plans of real clusters against numpy."""

from __future__ import annotations

import threading

import numpy as np
import pytest

import dimfit
from conftest import run, wait_for
from test_science import DIMS, ROWS, World, slots

SAMPLES = 400


class Model:
    """A click model over the world's rows: logit = sum over slots of w . v, and its own clicks."""

    def __init__(self, world, rng):
        self.world = world
        self.picks = {i: rng.integers(0, n, SAMPLES) for i, n in ROWS.items()}
        self.weights = {i: 3 * rng.normal(size=d) for i, d in DIMS.items()}
        self.labels = np.zeros(SAMPLES)
        self.labels = (rng.random(SAMPLES) < self.clicks(world.rows)).astype(float)

    def clicks(self, rows):
        logit = sum(rows[i].astype(float)[self.picks[i]] @ self.weights[i] for i in DIMS)
        return 1 / (1 + np.exp(-logit))

    def losses(self, rows):
        p = self.clicks(rows)
        return -(self.labels * np.log(p) + (1 - self.labels) * np.log1p(-p))

    def pull(self, c):
        return c.pull({i: self.world.keys[i] for i in DIMS})

    def figures(self, c, rows, samples=SAMPLES):
        """Of the trial in hand, on the first samples."""
        under = {i: c.trial_rows(i, rows[i]) for i in DIMS}
        n = min(samples, SAMPLES)
        loss, whole = self.losses(under)[:n], self.losses(rows)[:n]
        error = (loss - whole).std() / np.sqrt(n)
        return {"loss": loss.mean(), "whole_loss": whole.mean(), "error": error, "samples": n}

    def answer(self, c, most=10**9):
        """Evaluate trials until there are no more, or so many are done; how many were."""
        rows, figures, done = self.pull(c), None, 0
        while (trial := c.trial_next(figures, wait=True)) is not None:
            figures = self.figures(c, rows, trial.samples)
            done += 1
            if done == most:
                c.trial_next(figures)
                break
        return done


@pytest.fixture
def world(rng):
    return World(rng)


@pytest.fixture
def model(world, rng):
    return Model(world, rng)


def filled(daemon, connect, world):
    c = connect(daemon)
    world.fill(c)
    return c


def score(c, world):
    """All of a freeze's scoring, which the kfac basis needs whatever the strategy."""
    step = c.score_next()
    world.score(c, first=step)
    assert c.score_next(step, 64, exhausted=True) == 0


def embeddings(c, rows):
    """Compact rows at model width."""
    return {i: c.layout()[i].mean + rows[i] @ c.layout()[i].basis.T for i in DIMS}


def assert_close(got, want):
    for i in DIMS:
        norm = np.abs(want[i]).max()
        np.testing.assert_allclose(got[i], want[i], rtol=0, atol=1e-6 * max(norm, 1))


# ---- rows --------------------------------------------------------------------------------------


@pytest.mark.parametrize("bases", [("axis",), ("rotated",), ("rotated", "axis"), ("rotated",) * 2, ("kfac",)])
def test_a_trials_rows_are_those_after_the_change(standalone, connect, world, rng, bases):
    c = filled(standalone(2, slots=slots()), connect, world)
    keys = {i: np.append(world.keys[i], rng.integers(2**62, 2**63, 3, dtype=np.uint64)) for i in DIMS}
    for number, basis in enumerate(bases):
        full, compact = c.pull(keys), c.pull(keys, view="compact")
        # One candidate: what it tries is what is applied.
        kappa = 0.6 if number == 0 else 0.7
        c.search(
            kappa=kappa, strategy="hpo", basis=basis, options="candidates=1", mode="freeze"
        )
        if basis == "kfac":
            score(c, world)
        trial = c.trial_next(wait=True)
        assert trial.number == 1 and trial.slots
        tried = {i: c.trial_rows(i, full[i]) for i in DIMS}
        stored = embeddings(c, {i: c.trial_rows(i, compact[i], view="compact") for i in DIMS})
        for i in set(DIMS) - set(trial.slots):
            np.testing.assert_array_equal(tried[i], full[i])
        assert c.trial_next({"loss": 0.5, "whole_loss": 0.4, "samples": 9}, wait=True) is None
        c.search_wait()
        after = c.pull(keys)
        assert c.layout().epoch == number + 1
        assert any(np.abs(after[i] - full[i]).max() > 1e-3 for i in DIMS)
        assert_close(tried, after)
        assert_close(stored, after)
        if bases == ("axis",):
            assert all((tried[i] == after[i]).all() for i in DIMS)


# ---- strategies --------------------------------------------------------------------------------


def without(world, model, i, k, basis):
    """The loss without unit k of slot i, by numpy alone."""
    rows = dict(world.rows)
    r = rows[i].astype(float)
    if basis == "axis":
        r[:, k] = 0
    else:
        mean, vectors, _ = world.principal()[i]
        u = vectors[:, k : k + 1]
        r = r - (r - mean) @ u @ u.T
    rows[i] = r
    return model.losses(rows).mean()


@pytest.mark.parametrize("basis", ["axis", "rotated"])
def test_mask_ranks_by_what_the_loss_gains_without_each_unit(
    standalone, connect, world, model, basis
):
    c = filled(standalone(2, slots=slots()), connect, world)
    c.search(kappa=0.5, strategy="mask", basis=basis, plan_only=True)
    assert model.answer(c) == sum(DIMS.values())
    c.search_wait()
    plan = c.search_plan()
    whole = model.losses(world.rows).mean()
    drops = {}
    for slot in plan["slots"]:
        i = slot["id"]
        want = [without(world, model, i, k, basis) - whole for k in range(DIMS[i])]
        np.testing.assert_allclose(slot["priority"], want, rtol=1e-3, atol=1e-6)
        drops |= {(i, k): drop for k, drop in enumerate(want)}
    kept = {(s["id"], k) for s in plan["slots"] for k in range(DIMS[s["id"]]) if s["keep"][k]}
    budget, best = 0.5 * plan["params_before"], set()
    for unit in [max((u for u in drops if u[0] == i), key=drops.get) for i in DIMS]:
        best.add(unit)
        budget -= ROWS[unit[0]]
    for unit in sorted(drops, key=drops.get, reverse=True):
        if unit not in best and ROWS[unit[0]] <= budget:
            best.add(unit)
            budget -= ROWS[unit[0]]
    assert kept == best


def test_whole_slots_are_masked_where_asked_for(standalone, connect, world, model):
    c = filled(standalone(1, slots=slots()), connect, world)
    c.search(kappa=0.5, strategy="mask", options="unit=slot", basis="axis", plan_only=True)
    assert model.answer(c) == len(DIMS)
    whole = model.losses(world.rows).mean()
    for slot in c.search_plan()["slots"]:
        rows = world.rows | {slot["id"]: np.zeros_like(world.rows[slot["id"]])}
        drop = model.losses(rows).mean() - whole
        np.testing.assert_allclose(slot["priority"], drop, rtol=1e-3, atol=1e-6)


def test_measured_saves_most_loss_per_parameter(standalone, connect, world, model):
    c = filled(standalone(2, slots=slots()), connect, world)
    c.search(kappa=0.5, strategy="measured", plan_only=True)
    assert model.answer(c) == sum(1 + int(np.ceil(np.log2(d))) for d in DIMS.values())
    plan = c.search_plan()
    whole, principal = model.losses(world.rows).mean(), world.principal()

    def loss(i, width):
        mean, vectors, _ = principal[i]
        u = vectors[:, :width]
        r = world.rows[i].astype(float)
        return model.losses(world.rows | {i: mean + (r - mean) @ u @ u.T}).mean() - whole

    for slot in plan["slots"]:
        i, d = slot["id"], DIMS[slot["id"]]
        widths = [0] + [2**j for j in range(10) if 2**j < d] + [d]
        points = [(w, loss(i, w) if w < d else 0) for w in widths]
        # On the lower hull: no line between two points lies below a third one.
        saved = -np.diff([
            min(
                a[1] + (b[1] - a[1]) * (w - a[0]) / (b[0] - a[0])
                for a in points for b in points if a[0] <= w <= b[0] and a[0] < b[0]
            )
            for w in range(d + 1)
        ])  # fmt: skip
        np.testing.assert_allclose(slot["priority"], saved / ROWS[i], rtol=2e-3, atol=1e-8)
    assert plan["params_after"] <= 0.5 * plan["params_before"]


def test_auto_takes_the_least_loss(standalone, connect, world, model):
    c = filled(standalone(2, slots=slots()), connect, world)
    c.search(kappa=0.5, strategy="auto", plan_only=True, mode="freeze")
    score(c, world)
    assert model.answer(c) > 10
    c.search_wait()
    plan = c.search_plan()
    tried = [one for one in plan["candidates"] if one["loss"] is not None]
    assert len(tried) >= 8 and all(one["why"] for one in plan["candidates"] if one not in tried)
    best = min(tried, key=lambda one: one["loss_added"])
    assert [one for one in plan["candidates"] if one["chosen"]] == [best]
    assert plan["strategy"] == "auto" and plan["basis"] == best["basis"]
    # The plan is the winner's own, and so what was tried is what is applied.
    before = model.losses(model.pull(c)).mean()
    c.search_apply()
    c.search_wait()
    after = model.losses(model.pull(c)).mean()
    assert abs(after - before - best["loss_added"]) < 1e-5
    assert plan["params_after"] <= 0.5 * plan["params_before"]


# ---- workers and coordinators that go away -----------------------------------------------------


def test_a_trial_lost_with_its_worker_is_done_by_another(standalone, connect, world, model):
    daemon = standalone(2, slots=slots())
    c, lost = filled(daemon, connect, world), connect(daemon)
    c.search(kappa=0.5, strategy="mask", basis="axis", plan_only=True, scoring_timeout=4)
    first = lost.trial_next(wait=True)
    assert first.number == 1
    lost.close()
    assert model.answer(c) == sum(DIMS.values())
    status = c.search_wait()
    assert status["trials"]["done"] == status["trials"]["asked"] == sum(DIMS.values())
    plan = c.search_plan()
    whole = model.losses(world.rows).mean()
    want = without(world, model, 1, 0, "axis") - whole
    assert abs(plan["slots"][0]["priority"][0] - want) < 1e-6


def test_a_search_whose_trials_nobody_does_ends_in_an_error(standalone, connect, world):
    c = filled(standalone(1, slots=slots()), connect, world)
    c.search(kappa=0.5, strategy="mask", scoring_timeout=1)
    with pytest.raises(dimfit.Error, match="no worker evaluated a trial within 1 s"):
        c.search_wait()
    assert c.trial_next(wait=True) is None


@pytest.mark.parametrize("timeout", [1, 3])
def test_waiting_for_a_trial_ends_with_the_handles_limit(standalone, connect, world, timeout):
    daemon = standalone(1, slots=slots())
    c, idle = filled(daemon, connect, world), connect(daemon, timeout=timeout)
    c.search(kappa=0.5, strategy="hpo", options="candidates=1", scoring_timeout=60)
    assert c.trial_next(wait=True).number == 1
    assert idle.trial_next(wait=True) is None  # the other one has the only trial
    assert c.trial_next({"loss": 0.5, "whole_loss": 0.4, "samples": 9}, wait=True) is None
    assert c.search_wait()["phase"] == "committed"


def test_an_interrupted_search_goes_on_by_its_trials(start, config, connect, tmp_path, world, model):
    def coordinator(at="tcp://127.0.0.1:*"):
        return start(
            "coordinator", "--bind", at, "--shards", 1, "--data-dir", tmp_path / "data",
            "--config", config(slots=slots()),
        ).wait_ready()  # fmt: skip

    first = coordinator()
    shard = start("shard", "--coordinator", first.endpoint, "--bind", "tcp://127.0.0.1:*")
    shard.wait_ready()
    c = filled(first, connect, world)
    question = {"kappa": 0.5, "strategy": "hpo", "options": "candidates=27", "plan_only": True}
    c.search(**question)
    assert model.answer(c, most=5) == 5
    asked = c.search_status()["trials"]["asked"]  # plans drawn twice are one trial
    assert asked > 5
    kept = tmp_path / "data" / "coordinator.trials"
    wait_for(lambda: kept.exists() and kept.stat().st_size >= 5 * 72, "the trials to be kept")
    first.kill()
    coordinator(first.endpoint)
    fresh = connect(first.endpoint)
    fresh.search(**question)
    wait_for(lambda: fresh.search_status()["trials"] is not None, "its trials")
    assert fresh.search_status()["trials"]["kept"] == 5
    second = model.answer(fresh) - (asked - 5)  # the rest of the first round is done
    assert 0 < second <= 9 + 3
    assert fresh.search_wait()["phase"] == "planned"
    assert not kept.exists()
    plan = fresh.search_plan()
    # As if nothing had happened: the same plan as a search that was not interrupted.
    fresh.search(**question)
    assert model.answer(fresh) == asked + second
    fresh.search_wait()
    again = fresh.search_plan()
    assert [s["keep"] for s in again["slots"]] == [s["keep"] for s in plan["slots"]]


def test_figures_that_are_none_are_refused(standalone, connect, world, model):
    c = filled(standalone(1, slots=slots()), connect, world)
    sound = {"loss": 0.5, "whole_loss": 0.4, "samples": 9}
    with pytest.raises(dimfit.Error, match="STATE"):
        c.trial_next(sound)
    c.search(kappa=0.5, strategy="mask", basis="axis", plan_only=True)
    trial = c.trial_next(wait=True)
    for wrong in ({"loss": np.nan}, {"whole_loss": np.inf}, {"error": -1.0}, {"auc": 1.5}):
        with pytest.raises(dimfit.Error, match="NOT_FINITE"):
            c.trial_next(sound | wrong)
    with pytest.raises(dimfit.Error, match="INVALID"):
        c.trial_next(sound | {"samples": 0})
    assert c.search_status()["trials"]["done"] == 0
    with pytest.raises(dimfit.Error, match="WIDTH"):
        c.trial_rows(1, np.zeros((2, 5), np.float32))
    with pytest.raises(dimfit.Error, match="UNKNOWN_SLOT"):
        c.trial_rows(77, np.zeros((2, 5), np.float32))
    assert c.trial_next(sound).number == trial.number + 1
    assert c.search_status()["trials"]["done"] == 1


# ---- the trainer and the command line ----------------------------------------------------------


@pytest.fixture
def clicks(tmp_path):
    rng = np.random.default_rng(3)
    n, fields = 4000, {"user": 40, "item": 30, "noise": 50}
    picks = {name: rng.integers(0, size, n) for name, size in fields.items()}
    vectors = {name: rng.normal(size=(fields[name], 2)) for name in ("user", "item")}
    logit = 2 * (vectors["user"][picks["user"]] * vectors["item"][picks["item"]]).sum(1)
    labels = rng.random(n) < 1 / (1 + np.exp(-logit))
    path = tmp_path / "clicks.csv"
    lines = [",".join(["label", *fields])]
    for i in range(n):
        lines.append(",".join([str(int(labels[i])), *(f"{f[0]}{picks[f][i]}" for f in fields)]))
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.mark.parametrize("view", ["full", "compact"])
@pytest.mark.parametrize("strategy", ["mask", "measured", "hpo", "auto"])
def test_the_trainer_evaluates_trials(standalone, ctl, clicks, strategy, view):
    daemon = standalone(2, ["--auto-slots"])
    done = run(
        "dimfit-train", "--coordinator", daemon.endpoint, "--data", clicks, "--dim", 4, "--epochs", 2,
        "--batch", 256, "--search-kappa", 0.5, "--strategy", strategy, "--view", view, "--model",
        "deepfm", "--trial-samples", 300, "--workers", 2,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    status = ctl(daemon, "search", "status", data=True)
    assert status["phase"] == "committed"
    assert status["trials"]["done"] == status["trials"]["asked"] > 0
    plan = ctl(daemon, "search", "plan", data=True)
    assert 0 < plan["params_after"] <= 0.5 * plan["params_before"]
    assert (strategy == "auto") == (len(plan["candidates"]) > 0)


def test_strategies_are_compared_while_training_goes_on(standalone, ctl, clicks):
    daemon = standalone(1, ["--auto-slots"])
    results = []

    def train():
        results.append(run(
            "dimfit-train", "--coordinator", daemon.endpoint, "--data", clicks, "--dim", 4,
            "--epochs", 400, "--patience", 0, "--batch", 64, "--trial-samples", 200, "--timeout", 3,
        ))  # fmt: skip

    trainer = threading.Thread(target=train)
    trainer.start()
    wait_for(lambda: ctl(daemon, "status", data=True)["slots"] == 4, "the trainer to begin")
    compared = ctl(
        daemon, "search", "compare", "mask", "measured", "--kappa", "0.5", "--basis", "axis",
        "--trial-samples", 200, data=True,
    )  # fmt: skip
    assert compared["units"] == 12 and -1 <= compared["spearman"] <= 1
    assert [one["strategy"] for one in compared["strategies"]] == ["mask", "measured"]
    assert compared["strategies"][0]["trials"]["done"] == 12
    same = ctl(
        daemon, "search", "compare", "uniform", "uniform", "--kappa", "0.5", data=True
    )
    assert same["spearman"] == pytest.approx(1) and same["kendall"] == pytest.approx(1)
    assert ctl(daemon, "search", "plans", data=True)["plans"] == []
    status = ctl(daemon, "search", "status", data=True)
    assert status["phase"] == "compared" and status["error"] is None
    assert ctl(daemon, "status", data=True)["epoch"] == 0
    assert trainer.is_alive()
    daemon.stop()
    trainer.join()


def test_comparing_takes_two_strategies(standalone, ctl):
    daemon = standalone(1, slots=slots())
    for words in (["sseds"], ["sseds", "mask", "hpo"], ["sseds", "mask", "--strategy", "auto"]):
        assert ctl(daemon, "search", "compare", "--kappa", "0.5", *words).returncode == 2
    failed = ctl(daemon, "search", "compare", "--kappa", "0.5", "uniform", "none_such")
    assert failed.returncode == 1 and "none_such" in failed.stderr
