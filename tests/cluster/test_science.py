"""Scores, plans and layout changes of real clusters against numpy, float64."""

from __future__ import annotations

import re
import sys
import threading

import numpy as np
import pytest

from conftest import PYTHON_DIR

sys.path.insert(0, str(PYTHON_DIR))
import dimfit  # noqa: E402

SECOND_ORDER = ("curvature", "taylor", "guarded")  # estimators whose scores have a sign
DIMS = {1: 4, 2: 6, 3: 3}  # slot -> dim
ROWS = {1: 40, 2: 25, 3: 60}
WHOLE = sum(DIMS[i] * ROWS[i] for i in DIMS)
ENDLESS = 2**40  # samples: score until told to plan


def slots(optimizer="sgd", lr=1.0, init="zero", **more):
    settings = {"optimizer": optimizer, "lr": lr, "init": init, **more}
    wide = {"id": 9, "name": "linear", "dim": 1, "search": False, "init": "zero"}
    return [{"id": i, "dim": d, **settings} for i, d in DIMS.items()] + [wide]


class World:
    """What a cluster is fed with: keys, embeddings with a mean and a spectrum, lookups, steps."""

    def __init__(self, rng, n_steps=5, batch=64):
        self.keys = {i: rng.integers(0, 2**62, n, dtype=np.uint64) for i, n in ROWS.items()}
        self.rows = {}
        for i, d in DIMS.items():
            turn = np.linalg.qr(rng.normal(size=(d, d)))[0]
            spectrum = 0.5 ** np.arange(d)
            values = (rng.normal(size=(ROWS[i], d)) * spectrum + 0.3 * rng.normal(size=d)) @ turn
            self.rows[i] = values.astype(np.float32)
        self.lookups = {i: rng.integers(1, 6, n) for i, n in ROWS.items()}
        self.endpoint = None  # of the cluster filled last
        self.steps = []  # (samples, {slot: (row of each lookup, gradients)})
        for _ in range(n_steps):
            picks = {i: rng.integers(0, n, batch) for i, n in ROWS.items()}
            grads = {i: rng.normal(size=(batch, d)) / batch for i, d in DIMS.items()}
            grads = {i: g.astype(np.float32) for i, g in grads.items()}
            self.steps.append((batch, {i: (picks[i], grads[i]) for i in DIMS}))

    def fill(self, c):
        """Store the rows (needs sgd 1, init zero) with their lookups: each is looked up once for
        its value, then with a gradient of nothing."""
        first = {i: (self.keys[i], -self.rows[i]) for i in DIMS}
        c.push(first | {9: (self.keys[1], np.ones((40, 1)))})
        again = {i: np.repeat(self.keys[i], self.lookups[i] - 1) for i in DIMS}
        c.push({i: (k, np.zeros((k.size, DIMS[i]), np.float32)) for i, k in again.items()})

    def score(self, c, first=1, **options):
        for number, (samples, parts) in enumerate(self.steps, first):
            updates = {i: (self.keys[i][pick], grads) for i, (pick, grads) in parts.items()}
            c.push(updates, mode="score", step=number, samples=samples, **options)

    def parts(self, turn=None):
        """Per step and slot, every looked-up row's share of g: (lookups, width)."""
        for samples, parts in self.steps:
            out = {}
            for i, (pick, grads) in parts.items():
                r, g = self.rows[i].astype(float)[pick], grads.astype(float)
                if turn is not None:
                    mean, basis = turn[i]
                    r, g = (r - mean) @ basis, g @ basis
                out[i] = samples * r * g, pick
            yield out

    def sums(self, estimator, turn=None):
        """The estimator's value for each unit."""
        if estimator in SECOND_ORDER:
            return self.loss_changes(estimator, turn)
        total = {i: np.zeros(d) for i, d in DIMS.items()}
        for step in self.parts(turn):
            for i, (part, pick) in step.items():
                g = part.sum(0)
                if estimator == "single":
                    total[i] += g
                elif estimator == "step":
                    total[i] += np.abs(g)
                elif estimator == "fisher":
                    total[i] += g * g
                else:
                    by_row = np.zeros((ROWS[i], DIMS[i]))
                    np.add.at(by_row, pick, part)
                    total[i] += np.abs(by_row).sum(0)
        if estimator == "fisher":
            return {i: np.sqrt(g) for i, g in total.items()}
        return {i: np.abs(g) for i, g in total.items()}

    def loss_changes(self, estimator, turn):
        steps = [{i: part.sum(0) for i, (part, _) in step.items()} for step in self.parts(turn)]
        out = {}
        for i, d in DIMS.items():
            g = np.array([step.get(i, np.zeros(d)) for step in steps])
            slope, fisher = g.sum(0), len(g) * g.var(0, ddof=1)
            beyond = np.sign(slope) * np.maximum(np.abs(slope) - np.sqrt(fisher), 0)
            out[i] = fisher / 2 - {"curvature": 0, "taylor": slope, "guarded": beyond}[estimator]
        return out

    def scores(self, estimator, turn=None):
        return shares(self.sums(estimator, turn))

    def principal(self):
        """slot -> (mean, eigenvectors by descending eigenvalue, eigenvalues) over lookups."""
        out = {}
        for i in DIMS:
            r, n = self.rows[i].astype(float), self.lookups[i]
            mean = n @ r / n.sum()
            values, vectors = np.linalg.eigh((r - mean).T @ ((r - mean) * n[:, None]) / n.sum())
            out[i] = mean, vectors[:, ::-1], values[::-1]
        return out


def shares(sums):
    """What is below zero harms, and is worth nothing."""
    total = sum(np.maximum(g, 0).sum() for g in sums.values())
    return {i: np.maximum(g, 0) / total for i, g in sums.items()}


def flat(by_slot):
    return np.concatenate([np.ravel(by_slot[i]) for i in DIMS])


def plan_scores(plan):
    return {s["id"]: np.array(s["s"]) for s in plan["slots"]}


def plan_keep(plan):
    return {s["id"]: np.array(s["keep"], bool) for s in plan["slots"]}


def scored_plan(c, world, **request):
    """Search with the world's steps as scores, up to the plan."""
    c.search(plan_only=True, samples=ENDLESS, **request)
    world.score(c)
    return c.search_plan()


def scored_change(c, world, **request):
    plan = scored_plan(c, world, **request)
    c.search_apply()
    c.search_wait()
    return plan


@pytest.fixture
def world(rng):
    return World(rng)


@pytest.fixture
def filled(standalone, connect, world):
    """filled(shards=2) -> client of a cluster that holds the world's rows."""

    def filled(shards=2, options=()):
        daemon = standalone(shards, options, slots=slots())
        c = connect(daemon)
        world.endpoint = daemon.endpoint
        world.fill(c)
        return c

    return filled


# ---- scores --------------------------------------------------------------------------------------


@pytest.mark.parametrize("estimator", ["single", "step", "fisher", "row", *SECOND_ORDER])
def test_scores_are_numpys_on_any_shard_count(filled, world, estimator):
    want = flat(world.scores(estimator))
    results = []
    for shards in (1, 2, 5):
        c = filled(shards)
        world.score(c)
        got = c.scores(estimator)
        assert {i: s.dtype for i, s in got.items()} == {i: np.float64 for i in DIMS}
        results.append(flat(got))
        np.testing.assert_allclose(results[-1], want, rtol=0, atol=1e-6 * want.max())
        assert results[-1].min() >= 0 and abs(results[-1].sum() - 1) < 1e-12
    for result in results[1:]:
        np.testing.assert_allclose(result, results[0], rtol=0, atol=1e-9 * want.max())


@pytest.mark.parametrize("estimator", ["single", "step", "fisher", *SECOND_ORDER])
def test_scores_are_the_same_when_workers_share_the_steps(filled, world, connect, estimator):
    c = filled(3)
    world.score(c)
    whole = flat(c.scores(estimator))
    c.search(kappa=0.5, plan_only=True, samples=ENDLESS)  # restarts the sums
    workers = [connect(world.endpoint) for _ in range(3)]
    for number, (samples, parts) in enumerate(world.steps, 1):
        for worker, part in zip(workers, np.array_split(np.arange(samples), 3)):
            share = samples / part.size
            updates = {
                i: (world.keys[i][pick[part]], grads[part] * np.float32(share))
                for i, (pick, grads) in parts.items()
            }
            worker.push(updates, mode="score", step=number, samples=part.size)
    np.testing.assert_allclose(flat(c.scores(estimator)), whole, rtol=0, atol=1e-5 * whole.max())
    assert c.admin("scores")["samples"] == sum(samples for samples, _ in world.steps)


def test_every_push_without_a_step_is_its_own(filled, world):
    c = filled()
    for samples, parts in world.steps:
        updates = {i: (world.keys[i][pick], grads) for i, (pick, grads) in parts.items()}
        c.push(updates, mode="score", samples=samples)
    want = flat(world.scores("step"))
    np.testing.assert_allclose(flat(c.scores("step")), want, rtol=0, atol=1e-6 * want.max())


def test_training_pushes_score_with_the_values_before_the_step(filled, world):
    c = filled()
    samples, parts = world.steps[0]
    world.steps = world.steps[:1]
    updates = {i: (world.keys[i][pick], grads) for i, (pick, grads) in parts.items()}
    c.push(updates, mode="train+score", samples=samples)
    want = flat(world.scores("single"))
    np.testing.assert_allclose(flat(c.scores("single")), want, rtol=0, atol=1e-6 * want.max())


def test_rows_never_trained_are_scored_by_their_initial_values(standalone, connect, world):
    c = connect(standalone(3, slots=slots(init="normal", init_scale=0.5)))
    world.rows = c.pull(world.keys)
    world.score(c)
    want = flat(world.scores("step"))
    np.testing.assert_allclose(flat(c.scores("step")), want, rtol=0, atol=1e-6 * want.max())
    assert c.stats()["totals"]["rows"] == 0


def test_samples_are_counted_once_a_worker_and_step(filled, world, connect):
    c = filled()
    other = connect(world.endpoint)
    keys, grads = world.keys[1], np.ones((40, 4), np.float32)
    c.push({1: (keys, grads)}, mode="score", step=7, samples=10)
    c.push({1: (keys, grads)}, mode="score", step=7, samples=20)
    other.push({1: (keys, grads)}, mode="score", step=7, samples=5)
    other.push({1: (keys, grads)}, mode="score", step=8, samples=5)
    other.push({1: (keys, grads)}, mode="train", samples=100)
    assert c.admin("scores")["samples"] == 30


def test_nothing_scored_scores_nothing(filled):
    assert all((s == 0).all() for s in filled().scores().values())


def test_sums_restart_with_a_search_and_with_an_epoch(filled, world):
    c = filled()
    world.score(c)
    c.search(kappa=0.5, basis="axis", plan_only=True, samples=ENDLESS)
    assert (flat(c.scores()) == 0).all()
    world.score(c)
    c.search_plan()
    assert flat(c.scores()).sum() > 0
    c.search_apply()
    c.search_wait()
    assert all((s == 0).all() for s in c.scores().values())


# ---- scores are derivatives ----------------------------------------------------------------------


class Machine:
    """A factorization machine without first order over three fields, log loss, float64."""

    def __init__(self, world, rng, batch=200):
        self.slots = sorted(DIMS)
        self.dim = min(DIMS.values())
        self.picks = {i: rng.integers(0, ROWS[i], batch) for i in self.slots}
        self.labels = rng.integers(0, 2, batch)

    def logits(self, rows):
        """rows: slot -> (n_i, d) with equal d."""
        x = np.stack([rows[i][self.picks[i]] for i in self.slots])
        return 0.5 * ((x.sum(0) ** 2).sum(1) - (x**2).sum((0, 2))), x

    def loss(self, rows):
        logits, _ = self.logits(rows)
        return np.mean(np.logaddexp(0, logits) - self.labels * logits)

    def grads(self, rows):
        """slot -> (batch, d): dLoss/drow of each lookup."""
        logits, x = self.logits(rows)
        slope = (1 / (1 + np.exp(-logits)) - self.labels) / self.labels.size
        return {i: slope[:, None] * (x.sum(0) - x[n]) for n, i in enumerate(self.slots)}


@pytest.fixture
def even(monkeypatch):
    """All slots of one width, as a factorization machine wants them."""
    for i in DIMS:
        monkeypatch.setitem(DIMS, i, 5)


def test_scores_are_the_derivatives_by_the_masks(even, standalone, connect, rng):
    world = World(rng)
    c = connect(standalone(3, slots=slots()))
    world.fill(c)
    rows = {i: r.astype(float) for i, r in c.pull(world.keys).items()}
    machine = Machine(world, rng)
    grads = machine.grads(rows)
    n = machine.labels.size
    updates = {i: (world.keys[i][machine.picks[i]], grads[i]) for i in DIMS}
    c.push(updates, mode="score", step=1, samples=n)
    reply = c.admin("scores", {"estimator": "single"})
    got = {slot["id"]: np.array(slot["g"]) for slot in reply["slots"]}
    h = 1e-4
    want = {i: np.zeros(5) for i in DIMS}
    for i in DIMS:
        for k in range(5):
            change = []
            for sign in (1, -1):
                masked = {j: r.copy() for j, r in rows.items()}
                masked[i][:, k] *= 1 + sign * h
                change.append(machine.loss(masked))
            want[i][k] = n * (change[0] - change[1]) / (2 * h)
    np.testing.assert_allclose(np.abs(flat(got)), np.abs(flat(want)), rtol=1e-3)
    want = shares({i: np.abs(g) for i, g in want.items()})
    np.testing.assert_allclose(flat(c.scores("single")), flat(want), rtol=1e-3)


# ---- plans ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("estimator", ["single", "step", "fisher", *SECOND_ORDER])
def test_rotated_scores_are_numpys_in_rotated_coordinates(filled, world, estimator):
    plan = scored_plan(filled(3), world, kappa=0.5, basis="rotated", estimator=estimator)
    principal = world.principal()
    want = world.scores(estimator, {i: p[:2] for i, p in principal.items()})
    for slot in plan["slots"]:
        i = slot["id"]
        assert slot["rows"] == ROWS[i] and slot["before"] == DIMS[i]
        np.testing.assert_allclose(slot["eigenvalues"], principal[i][2], rtol=1e-5)
        np.testing.assert_allclose(slot["s"], want[i], rtol=1e-5, atol=1e-7)
    assert plan["samples"] == sum(samples for samples, _ in world.steps)


def test_frozen_search_scores_each_step_once(filled, world, connect):
    c = filled()
    workers = [connect(world.endpoint, timeout=1) for _ in range(2)]
    c.search(kappa=0.5, basis="rotated", mode="freeze", plan_only=True)
    workers[0].refresh()
    state = workers[0].state()
    assert (state.phase, state.scoring, state.frozen) == ("scoring", True, True)
    with pytest.raises(dimfit.Error) as info:
        workers[0].push({1: (world.keys[1], np.ones((40, 4)))})
    assert info.value.code == "FROZEN"
    seen = []
    done, samples = [0, 0], [0, 0]
    over = [False, False]
    turn = 0
    while not all(over):
        turn = 1 - turn
        if over[turn]:
            continue
        step = workers[turn].score_next(done[turn], samples[turn])
        if step > len(world.steps):
            step = workers[turn].score_next(0, 0, exhausted=True)
            assert step == 0
        if step == 0:
            over[turn] = True
            continue
        seen.append(step)
        samples[turn], parts = world.steps[step - 1]
        updates = {i: (world.keys[i][pick], g) for i, (pick, g) in parts.items()}
        workers[turn].push(updates, mode="score", step=step, samples=samples[turn])
        done[turn] = step
    assert sorted(seen) == list(range(1, len(world.steps) + 1))
    status = c.search_wait()
    assert status["phase"] == "planned" and status["steps"] == len(world.steps)
    want = world.scores("step", {i: p[:2] for i, p in world.principal().items()})
    got = plan_scores(c.search_plan())
    np.testing.assert_allclose(flat(got), flat(want), rtol=1e-5, atol=1e-7)


def test_training_held_by_a_freeze_goes_on_after_it(filled, world, connect):
    c = filled()
    worker = connect(world.endpoint, timeout=30)
    before = c.pull({1: world.keys[1]})[1]
    c.search(kappa=1, basis="axis", mode="freeze")
    held = threading.Thread(
        target=worker.push, args=({1: (world.keys[1], np.ones((40, 4), np.float32))},)
    )
    held.start()
    samples, parts = world.steps[0]
    step = c.score_next()
    updates = {i: (world.keys[i][pick], g) for i, (pick, g) in parts.items()}
    c.push(updates, mode="score", step=step, samples=samples)
    np.testing.assert_array_equal(c.pull({1: world.keys[1]})[1], before)
    c.score_next(step, samples)
    c.score_next(0, 0, exhausted=True)
    held.join(30)
    assert not held.is_alive()
    assert c.search_wait()["phase"] == "committed"
    np.testing.assert_allclose(c.pull({1: world.keys[1]})[1], before - 1, rtol=1e-6)


def test_live_search_commits_by_itself(filled, world):
    c = filled()
    status = c.search(kappa=0.5, samples=1000, estimator="step")
    assert status["phase"] == "scoring" and status["samples_wanted"] == 1000
    for first in range(1, 10000, len(world.steps)):
        world.score(c, first)
        if c.search_status()["phase"] != "scoring":
            break
    status = c.search_wait()
    assert status["phase"] == "committed" and status["samples"] >= 1000
    assert status["epoch"] == c.layout().epoch == 1
    assert c.stats()["params"] <= 0.5 * WHOLE


def greedy(s, kappa, min_dim=1, count="params", rank="score"):
    """Design 2.3 in the plainest way: slot -> what to keep."""
    cost = {i: ROWS[i] if count == "params" else 1 for i in DIMS}
    keep = {i: np.zeros(DIMS[i], bool) for i in DIMS}
    left = kappa * sum(cost[i] * DIMS[i] for i in DIMS)
    for i in DIMS:
        best = np.argsort(-s[i], kind="stable")[:min_dim]
        keep[i][best] = True
        left -= cost[i] * best.size
    value = {i: s[i] / cost[i] if rank == "density" else s[i] for i in DIMS}
    units = sorted((-value[i][k], i, k) for i in DIMS for k in range(DIMS[i]) if not keep[i][k])
    for _, i, k in units:
        if cost[i] <= left + 1e-9:
            keep[i][k] = True
            left -= cost[i]
    return keep


@pytest.mark.parametrize(
    "request_",
    [
        dict(kappa=0.5),
        dict(kappa=0.26),
        dict(kappa=0.7, min_dim=2),
        dict(kappa=0.1, min_dim=0),
        dict(kappa=0.4, count="dims"),
        dict(kappa=0.4, rank="density"),
        dict(kappa=1),
        dict(kappa=3),
    ],
    ids=str,
)
@pytest.mark.parametrize("basis", ["axis", "rotated"])
def test_plan_keeps_the_best_units_that_fit(filled, world, basis, request_):
    plan = scored_plan(filled(), world, basis=basis, **request_)
    keep = plan_keep(plan)
    want = greedy(plan_scores(plan), **{**request_, "kappa": min(request_["kappa"], 1)})
    for i in DIMS:
        np.testing.assert_array_equal(keep[i], want[i])
        assert keep[i].sum() >= min(request_.get("min_dim", 1), DIMS[i])
    params = sum(int(keep[i].sum()) * ROWS[i] for i in DIMS)
    assert plan["params_before"] == WHOLE and plan["params_after"] == params
    assert plan["cost_after"] <= request_["kappa"] * plan["cost_before"]
    kept = sum(s[keep[i]].sum() for i, s in plan_scores(plan).items())
    assert abs(plan["kept_score"] - kept) < 1e-12


def test_infeasible_floor_is_refused_with_the_smallest_kappa(filled, world):
    c = filled()
    with pytest.raises(dimfit.Error) as info:
        scored_plan(c, world, kappa=0.2, basis="axis", min_dim=2)
    assert info.value.code == "BUDGET" and "--min-dim 0" in info.value.message
    smallest = float(re.search(r"--kappa is ([0-9.]+)", info.value.message)[1])
    floors = 2 * sum(ROWS.values())
    assert floors / WHOLE <= smallest <= floors / WHOLE + 2e-6
    assert c.search_status()["phase"] == "aborted" and c.layout().epoch == 0
    with pytest.raises(dimfit.Error) as info:
        c.search_wait()
    assert info.value.code == "STATE" and "--min-dim 0" in info.value.message
    plan = scored_plan(c, world, kappa=smallest, basis="axis", min_dim=2)
    assert [s["after"] for s in plan["slots"]] == [2, 2, 2]


@pytest.mark.parametrize("basis", ["axis", "rotated"])
@pytest.mark.parametrize("estimator", ["step", "fisher"])
def test_same_statistics_give_the_same_plan_on_any_shard_count(filled, world, basis, estimator):
    plans = []
    for shards in (1, 2, 5):
        plan = scored_plan(filled(shards), world, kappa=0.5, basis=basis, estimator=estimator)
        plans.append(plan)
    for plan in plans[1:]:
        assert plan["samples"] == plans[0]["samples"]
        want, got = flat(plan_scores(plans[0])), flat(plan_scores(plan))
        np.testing.assert_allclose(got, want, rtol=0, atol=1e-9 * want.max())
        np.testing.assert_array_equal(flat(plan_keep(plan)), flat(plan_keep(plans[0])))


@pytest.mark.parametrize("basis", ["axis", "rotated"])
@pytest.mark.parametrize("strategy", ["uniform", "random", "frequency", "magnitude"])
def test_baselines_need_no_scores_and_keep_the_budget(filled, world, strategy, basis):
    c = filled()
    status = c.search(kappa=0.4, strategy=strategy, basis=basis, wait=True)
    assert status["phase"] == "committed"
    stats = c.stats()
    assert 0 < stats["params"] <= 0.4 * WHOLE
    assert stats["params_linear"] == 40
    widths = [slot.width for i, slot in c.layout().items() if i in DIMS]
    assert all(w >= 1 for w in widths)
    assert c.layout()[9].width == 1


def test_magnitude_takes_the_largest_norms(filled, world):
    c = filled()
    c.search(kappa=0.5, strategy="magnitude", basis="axis", plan_only=True, wait=True)
    norms = {i: np.sqrt((world.rows[i].astype(float) ** 2).sum(0)) for i in DIMS}
    want = greedy(norms, 0.5)
    keep = plan_keep(c.search_plan())
    for i in DIMS:
        np.testing.assert_array_equal(keep[i], want[i])


def test_random_strategy_is_told_apart_by_its_seed(filled, world):
    c = filled()
    draws = []
    for seed in (1, 1, 2, 3):
        c.search(kappa=0.5, strategy="random", basis="axis", plan_only=True, seed=seed, wait=True)
        draws.append(flat(plan_keep(c.search_plan())))
    np.testing.assert_array_equal(draws[0], draws[1])
    assert any((draws[0] != draw).any() for draw in draws[2:])


def test_aborted_search_changes_nothing(filled, world, connect):
    c = filled()
    before = c.pull(world.keys)
    c.search(kappa=0.5, samples=ENDLESS)
    with pytest.raises(dimfit.Error) as info:
        c.search(kappa=0.5)
    assert info.value.code == "BUSY"
    world.score(c)
    c.search_abort()
    with pytest.raises(dimfit.Error) as info:
        c.search_wait()
    assert info.value.code == "STATE" and "abort" in info.value.message
    after = c.pull(world.keys)
    for i in DIMS:
        np.testing.assert_array_equal(after[i], before[i])
    assert c.layout().epoch == 0


def test_plan_without_scores_says_what_is_missing(filled):
    c = filled()
    c.search(kappa=0.5, plan_only=True, samples=ENDLESS)
    with pytest.raises(dimfit.Error) as info:
        c.search_plan()
    assert info.value.code == "STATE" and "score" in info.value.message


# ---- layout changes ------------------------------------------------------------------------------


def test_kept_dimensions_survive_an_axis_change_bit_for_bit(filled, world):
    c = filled(3)
    before = c.pull(world.keys, view="compact")
    keep = plan_keep(scored_change(c, world, kappa=0.5, basis="axis"))
    after = c.pull(world.keys, view="compact")
    full = c.pull(world.keys)
    for i in DIMS:
        np.testing.assert_array_equal(after[i], before[i][:, keep[i]])
        np.testing.assert_array_equal(full[i], np.where(keep[i], before[i], 0))
        np.testing.assert_array_equal(c.layout()[i].basis, np.eye(DIMS[i])[:, keep[i]])
    assert c.stats()["params"] == sum(keep[i].sum() * ROWS[i] for i in DIMS)


@pytest.mark.parametrize("optimizer", ["sgd", "adagrad", "rowwise_adagrad", "adam", "ftrl"])
def test_optimizer_state_of_kept_dimensions_survives_an_axis_change(
    standalone, connect, world, rng, optimizer
):
    changed, plain = (
        connect(standalone(2, slots=slots(optimizer, 0.1, "normal"))) for _ in range(2)
    )
    grads = [
        {i: rng.normal(size=(ROWS[i], d)).astype(np.float32) for i, d in DIMS.items()}
        for _ in range(4)
    ]
    for c in (changed, plain):
        for step in grads[:2]:
            c.push({i: (world.keys[i], step[i]) for i in DIMS})
    keep = plan_keep(scored_change(changed, world, kappa=0.5, basis="axis"))
    for c in (changed, plain):
        for step in grads[2:]:
            # Nothing arrives of dropped dimensions; neither may it where they are still there:
            # a row-wise sum is of them all.
            kept = {i: np.where(keep[i], step[i], np.float32(0)) for i in DIMS}
            c.push({i: (world.keys[i], kept[i]) for i in DIMS})
    want, got = plain.pull(world.keys), changed.pull(world.keys, view="compact")
    for i in DIMS:
        np.testing.assert_allclose(got[i], want[i][:, keep[i]], rtol=1e-6, atol=1e-8)


def test_basis_change_at_full_width_leaves_every_embedding(filled, world):
    c = filled(3)
    before = c.pull(world.keys)
    scored_change(c, world, kappa=1, basis="rotated")
    assert c.layout().epoch == 1
    after = c.pull(world.keys)
    for i in DIMS:
        slot = c.layout()[i]
        assert slot.width == DIMS[i]
        error = np.linalg.norm(after[i].astype(float) - before[i], axis=1)
        assert (error <= 1e-6 * np.linalg.norm(before[i], axis=1)).all()
        np.testing.assert_allclose(slot.basis.T @ slot.basis, np.eye(DIMS[i]), atol=1e-6)
        turned = np.abs(slot.basis - np.eye(DIMS[i])).max()
        assert turned > 0.1  # it was a rotation


def training_losses(c, world, machine, n):
    losses = []
    for _ in range(n):
        rows = {i: r.astype(float) for i, r in c.pull(world.keys).items()}
        losses.append(machine.loss(rows))
        grads = machine.grads(rows)
        c.push({i: (world.keys[i][machine.picks[i]], grads[i]) for i in DIMS}, samples=200)
    return losses


@pytest.mark.parametrize("optimizer, lr", [("sgd", 5.0), ("rowwise_adagrad", 0.1)])
def test_training_goes_on_alike_through_a_basis_change(
    even, standalone, connect, rng, optimizer, lr
):
    world = World(rng)
    machine = Machine(world, rng)
    losses = []
    for change in (False, True):
        c = connect(standalone(2, slots=slots(optimizer, lr, "normal", init_scale=0.3)))
        first = training_losses(c, world, machine, 10)
        if change:
            scored_change(c, world, kappa=1, basis="rotated")
            assert c.layout().epoch == 1
        losses.append(first + training_losses(c, world, machine, 20))
    assert losses[0][-1] < 0.95 * losses[0][0]
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-5)


def projected(v, slot):
    basis, mean = slot.basis.astype(float), slot.mean.astype(float)
    return mean + (v - mean) @ basis @ basis.T


def test_rotated_change_projects_every_embedding(filled, world):
    c = filled(3)
    before = c.pull(world.keys)
    plan = scored_change(c, world, kappa=0.5, basis="rotated")
    keep, principal = plan_keep(plan), world.principal()
    after = c.pull(world.keys)
    for i in DIMS:
        slot = c.layout()[i]
        mean, vectors, _ = principal[i]
        assert slot.width == keep[i].sum()
        if slot.width < DIMS[i]:
            np.testing.assert_allclose(slot.mean, mean, atol=1e-6)
        alike = np.abs(np.sum(slot.basis * vectors[:, keep[i]], axis=0))
        np.testing.assert_allclose(alike, 1, rtol=1e-6)
        np.testing.assert_allclose(after[i], projected(before[i], slot), atol=1e-5)
        compact = c.pull({i: world.keys[i]}, view="compact")[i]
        np.testing.assert_allclose(compact @ slot.basis.T + slot.mean, after[i], atol=1e-6)
    for _ in range(3):  # rows are moved meanwhile
        again = c.pull(world.keys)
        for i in DIMS:
            np.testing.assert_array_equal(again[i], after[i])


def test_full_view_gradients_are_projected_after_a_rotated_change(filled, world, rng):
    c = filled(2)
    scored_change(c, world, kappa=0.5, basis="rotated")
    before = c.pull(world.keys)
    grads = {i: rng.normal(size=(ROWS[i], DIMS[i])).astype(np.float32) for i in DIMS}
    c.push({i: (world.keys[i], grads[i]) for i in DIMS})
    after = c.pull(world.keys)
    for i in DIMS:
        basis = c.layout()[i].basis.astype(float)
        np.testing.assert_allclose(after[i], before[i] - grads[i] @ basis @ basis.T, atol=1e-5)


def test_feasigns_never_seen_read_their_initial_values_through_every_change(
    standalone, connect, world, rng
):
    c = connect(standalone(3, slots=slots(init="normal", init_scale=0.5)))
    world.fill(c)
    world.rows = {i: c.pull({i: world.keys[i]})[i] for i in DIMS}
    unseen = {i: rng.integers(2**63, 2**64, 50, dtype=np.uint64) for i in DIMS}
    want = {i: v.astype(float) for i, v in c.pull(unseen).items()}
    for kappa in (0.7, 0.6):
        c.search(kappa=kappa, strategy="magnitude", basis="rotated", wait=True)
        got = c.pull(unseen)
        for i in DIMS:
            want[i] = projected(want[i], c.layout()[i])
            np.testing.assert_allclose(got[i], want[i], atol=1e-5)
    assert c.layout().epoch == 2
    assert any(slot.width < slot.dim for slot in c.layout().values())
    # The first push stores that value.
    c.push({i: (unseen[i], np.zeros((50, DIMS[i]), np.float32)) for i in DIMS})
    for i, rows in c.pull(unseen).items():
        np.testing.assert_allclose(rows, want[i], atol=1e-5)


def test_axis_change_zeroes_the_dropped_part_of_feasigns_never_seen(
    standalone, connect, world, rng
):
    c = connect(standalone(2, slots=slots(init="uniform", init_scale=0.5)))
    world.fill(c)
    unseen = {i: rng.integers(2**63, 2**64, 50, dtype=np.uint64) for i in DIMS}
    before = c.pull(unseen)
    c.search(kappa=0.5, strategy="uniform", basis="axis", plan_only=True, wait=True)
    keep = plan_keep(c.search_plan())
    c.search_apply()
    c.search_wait()
    after = c.pull(unseen)
    for i in DIMS:
        np.testing.assert_array_equal(after[i], np.where(keep[i], before[i], 0))


def test_slot_may_go_entirely(filled, world):
    c = filled()
    c.search(kappa=0.1, basis="axis", min_dim=0, plan_only=True, samples=ENDLESS)
    world.score(c)
    keep = plan_keep(c.search_plan())
    c.search_apply()
    c.search_wait()
    gone = [i for i in DIMS if not keep[i].any()]
    assert gone
    compact, full = c.pull(world.keys, view="compact"), c.pull(world.keys)
    for i in gone:
        assert compact[i].shape == (ROWS[i], 0)
        np.testing.assert_array_equal(full[i], 0)
        c.push({i: (world.keys[i], np.ones((ROWS[i], DIMS[i]), np.float32))})
        np.testing.assert_array_equal(c.pull({i: world.keys[i]})[i], 0)


def test_slots_that_are_not_searched_stay_as_they_are(filled, world):
    c = filled()
    before = c.pull({9: world.keys[1]})[9]
    plan = scored_change(c, world, kappa=0.3)
    assert [slot["id"] for slot in plan["slots"]] == list(DIMS)
    np.testing.assert_array_equal(c.pull({9: world.keys[1]})[9], before)
    assert c.stats()["params_linear"] == 40


def test_changes_of_any_basis_follow_each_other(filled, world):
    c = filled(3)
    want = c.pull(world.keys)
    for kappa, basis in ((0.9, "rotated"), (0.8, "axis"), (1, "rotated"), (0.7, "rotated")):
        c.search(kappa=kappa, strategy="magnitude", basis=basis, wait=True)
        got, layout = c.pull(world.keys), c.layout()
        for i in DIMS:
            want[i] = projected(want[i], layout[i])
            np.testing.assert_allclose(got[i], want[i], atol=1e-5)
    assert c.layout().epoch == 4
    assert c.stats()["params"] <= 0.9 * 0.8 * 0.7 * WHOLE


def test_scores_in_a_changed_layout_are_of_its_coordinates(filled, world):
    c = filled(2)
    scored_change(c, world, kappa=0.6, basis="rotated")
    layout, world.rows = c.layout(), c.pull(world.keys, view="compact")
    world.score(c)  # full view
    total = {i: np.zeros(layout[i].width) for i in DIMS}
    for samples, parts in world.steps:
        for i, (pick, grads) in parts.items():
            g = grads.astype(float) @ layout[i].basis
            total[i] += np.abs(samples * (world.rows[i].astype(float)[pick] * g).sum(0))
    want = flat(shares(total))
    np.testing.assert_allclose(flat(c.scores("step")), want, rtol=0, atol=1e-5 * want.max())


# ---- while others work ---------------------------------------------------------------------------


@pytest.mark.parametrize("basis", ["axis", "rotated"])
def test_no_push_is_lost_or_doubled_while_layouts_change(filled, world, connect, basis):
    """Workers that know nothing of layouts push steps to and fro; at full width each must count."""
    c = filled(3)
    before = c.pull(world.keys)
    pushes, failures, over = [0, 0, 0], [], threading.Event()

    def work(n):
        try:
            client = connect(world.endpoint)
            while not over.is_set():
                step = -0.5 if pushes[n] % 2 else 0.5
                grads = {i: (world.keys[i], np.full((ROWS[i], d), step)) for i, d in DIMS.items()}
                client.push(grads, mode="train+score")
                pushes[n] += 1
                client.pull(world.keys)
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(3)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(6):
            c.search(kappa=1, basis=basis, samples=50, wait=True)
    finally:
        over.set()
        for thread in threads:
            thread.join()
    assert failures == []
    assert c.layout().epoch == 6 and min(pushes) > 0
    after = c.pull(world.keys)
    for i in DIMS:
        want = before[i] - 0.5 * sum(n % 2 for n in pushes)
        np.testing.assert_allclose(after[i], want, atol=0.01)  # thousands of roundings


def test_compact_pulls_are_of_one_layout_while_layouts_change(filled, world, connect):
    c = filled(3)
    failures, pulls, over = [], [0], threading.Event()

    def work():
        try:
            client = connect(world.endpoint)
            while not over.is_set():
                rows, layout = client.pull(world.keys, view="compact"), client.layout()
                for i in DIMS:
                    assert rows[i].shape == (ROWS[i], layout[i].width)
                    v = rows[i] @ layout[i].basis.T + layout[i].mean
                    np.testing.assert_allclose(v, world.rows[i], atol=1e-5)
                pulls[0] += 1
        except Exception as error:
            failures.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        for _ in range(10):
            c.search(kappa=1, strategy="magnitude", basis="rotated", wait=True)
    finally:
        over.set()
        thread.join()
    assert failures == [] and pulls[0] > 0


# ---- limits --------------------------------------------------------------------------------------


def test_scores_over_the_memory_limit_are_refused_in_a_search(filled, world):
    c = filled(1, ["--score-memory", "1M"])
    c.search(kappa=0.5, basis="rotated", plan_only=True, samples=ENDLESS)
    with pytest.raises(dimfit.Error) as info:
        for n in range(2000):
            world.score(c, first=1 + n * len(world.steps))
    assert info.value.code == "LIMIT" and "score" in info.value.message
    assert c.search_plan()["kept_score"] > 0  # what was scored before counts


def test_oldest_steps_go_when_scores_outside_a_search_are_over_the_limit(filled, world):
    c = filled(2, ["--score-memory", "1M"])
    for n in range(1500):
        world.score(c, first=1 + n * len(world.steps))
    reply = c.admin("scores")
    assert 0 < reply["samples"] < 1500 * 64 * len(world.steps)
    assert abs(flat(c.scores()).sum() - 1) < 1e-9


def test_change_over_the_memory_limit_is_refused_everywhere(filled, world):
    c = filled(2, ["--max-memory", "1M"])
    before = c.pull(world.keys)
    c.search(kappa=0.5, strategy="uniform")
    with pytest.raises(dimfit.Error) as info:
        c.search_wait()
    assert info.value.code == "STATE" and "max-memory" in info.value.message, info.value
    assert c.layout().epoch == 0
    after = c.pull(world.keys)
    for i in DIMS:
        np.testing.assert_array_equal(after[i], before[i])
