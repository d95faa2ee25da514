"""The Python package against real clusters: rows, optimizers, views, errors, working together."""

from __future__ import annotations

import subprocess
import sys
import threading

import numpy as np
import pytest

from conftest import PYTHON_DIR, START_SECONDS

sys.path.insert(0, str(PYTHON_DIR))
import dimfit  # noqa: E402
from dimfit import _native, errors  # noqa: E402

EDGES = np.array([0, 1, 2**32, 2**63 - 1, 2**63, 2**64 - 1], np.uint64)
SLOTS = [
    {"id": 1, "name": "user", "dim": 8, "init": "normal", "init_scale": 0.1},
    {"id": 7, "name": "item", "dim": 5, "init": "uniform", "init_scale": 0.5},
    {"id": 4_000_000_000, "name": "wide", "dim": 1, "init": "zero", "search": False},
]


def random_keys(rng, n):
    return rng.integers(0, 2**64, n, dtype=np.uint64)


def fails(code):
    class Raises:
        def __enter__(self):
            self.context = pytest.raises(dimfit.Error)
            self.info = self.context.__enter__()
            return self.info

        def __exit__(self, *exception):
            done = self.context.__exit__(*exception)
            assert self.info.value.code == code, self.info.value
            assert self.info.value.number == errors.NAMES.index(code)
            return done

    return Raises()


# ---- initial values ------------------------------------------------------------------------------


def initial(connect, daemon, keys):
    return connect(daemon).pull({1: keys, 7: keys})


def test_unknown_keys_read_the_same_over_connections_shard_counts_and_restarts(
    standalone, connect, rng
):
    keys = np.concatenate([EDGES, random_keys(rng, 1000)])
    first = standalone(1, slots=SLOTS)
    want = initial(connect, first, keys)
    assert want[1].shape == (1006, 8) and want[1].dtype == np.float32
    for daemon in (first, standalone(2, slots=SLOTS), standalone(5, slots=SLOTS)):
        got = initial(connect, daemon, keys)
        for slot in want:
            np.testing.assert_array_equal(got[slot], want[slot])
    first.kill()
    again = initial(connect, standalone(1, slots=SLOTS), keys)
    np.testing.assert_array_equal(again[1], want[1])


def test_initial_values_have_the_distribution_asked_for(standalone, connect, rng):
    rows = initial(connect, standalone(2, slots=SLOTS), random_keys(rng, 20000))
    assert abs(rows[1].mean()) < 0.002 and abs(rows[1].std() - 0.1) < 0.002
    assert rows[7].min() >= -0.5 and rows[7].max() < 0.5
    assert abs(rows[7].std() - 0.5 / np.sqrt(3)) < 0.005
    correlation = np.corrcoef(np.hstack([rows[1], rows[7]]).T)
    assert np.abs(correlation - np.eye(13)).max() < 0.05


def test_another_seed_gives_other_initial_values(standalone, connect):
    one = initial(connect, standalone(1, slots=SLOTS), EDGES)
    other = initial(connect, standalone(1, ["--seed", 2], slots=SLOTS), EDGES)
    assert not np.isin(one[1], other[1]).any()


def test_pulls_store_no_row(standalone, connect, rng):
    c = connect(standalone(2, slots=SLOTS))
    c.pull({1: random_keys(rng, 100)})
    c.push({1: (EDGES, np.ones((6, 8), np.float32))}, mode="score")
    assert c.stats()["totals"]["rows"] == 0
    c.push({1: (EDGES, np.ones((6, 8), np.float32))})
    assert c.stats()["totals"]["rows"] == 6


def test_keys_may_repeat_and_come_in_any_order(standalone, connect, rng):
    c = connect(standalone(3, slots=SLOTS))
    keys = random_keys(rng, 50)
    rows = c.pull({1: keys})[1]
    order = rng.integers(0, 50, 500)
    np.testing.assert_array_equal(c.pull({1: keys[order]})[1], rows[order])


# ---- optimizers against numpy --------------------------------------------------------------------


class Model:
    """Rows of one slot and their optimizer in float64."""

    def __init__(self, kind, lr, rows):
        self.kind, self.lr, self.r = kind, lr, rows.astype(np.float64)
        n, d = rows.shape
        self.s = np.zeros((n, 1 if kind == "rowwise_adagrad" else d))
        self.m, self.v, self.t = np.zeros((n, d)), np.zeros((n, d)), np.zeros((n, 1))

    def step(self, i, g):
        """Gradients g of the distinct rows i."""
        g = g.astype(np.float64)
        if self.kind == "sgd":
            self.r[i] -= self.lr * g
        elif self.kind == "adagrad":
            self.s[i] += g * g
            self.r[i] -= self.lr * g / (np.sqrt(self.s[i]) + 1e-8)
        elif self.kind == "rowwise_adagrad":
            self.s[i] += (g * g).sum(1, keepdims=True)
            self.r[i] -= self.lr * g / (np.sqrt(self.s[i]) + 1e-8)
        elif self.kind == "ftrl":  # beta 1, no penalties; m is z, v is n
            self.m[i] = np.where(self.v[i] == 0, -self.r[i] / self.lr, self.m[i])
            grown = np.sqrt(self.v[i] + g * g) - np.sqrt(self.v[i])
            self.m[i] += g - grown / self.lr * self.r[i]
            self.v[i] += g * g
            self.r[i] = -self.m[i] * self.lr / (1 + np.sqrt(self.v[i]))
        else:
            self.t[i] += 1
            self.m[i] = 0.9 * self.m[i] + 0.1 * g
            self.v[i] = 0.999 * self.v[i] + 0.001 * g * g
            m, v = self.m[i] / (1 - 0.9 ** self.t[i]), self.v[i] / (1 - 0.999 ** self.t[i])
            self.r[i] -= self.lr * m / (np.sqrt(v) + 1e-8)


@pytest.mark.parametrize("kind", ["sgd", "adagrad", "rowwise_adagrad", "adam", "ftrl"])
def test_pushes_follow_the_optimizer(standalone, connect, rng, kind):
    slot = {"id": 3, "dim": 12, "optimizer": kind, "lr": 0.1, "init": "normal", "init_scale": 1}
    c = connect(standalone(3, slots=[slot]))
    keys = random_keys(rng, 200)
    model = Model(kind, 0.1, c.pull({3: keys})[3])
    for _ in range(8):
        some = rng.integers(0, 200, 150)  # with repeats
        grads = rng.normal(size=(150, 12)).astype(np.float32)
        c.push({3: (keys[some], grads)})
        distinct, where = np.unique(some, return_inverse=True)
        summed = np.zeros((distinct.size, 12))
        np.add.at(summed, where, grads)
        model.step(distinct, summed)
    np.testing.assert_allclose(c.pull({3: keys})[3], model.r, rtol=2e-5, atol=2e-6)


def test_ftrl_is_searched_in_the_axis_basis_only(standalone, connect):
    slots = [
        {"id": 1, "dim": 4},
        {"id": 2, "dim": 4, "name": "user", "optimizer": "ftrl", "l1": 0.5, "l2": 0.1},
    ]
    c = connect(standalone(2, slots=slots))
    with pytest.raises(dimfit.Error, match=r"slot 2 \(user\): ftrl takes the axis basis only") as e:
        c.search(kappa=0.5, basis="rotated")
    assert e.value.code == "INVALID"
    assert c.stats()["phase"] == "idle"
    c.search(kappa=0.5, basis="axis", plan_only=True)


def test_gradients_of_equal_keys_are_summed_and_applied_once(standalone, connect):
    slots = [
        {"id": 1, "dim": 2, "optimizer": "sgd", "lr": 1, "init": "zero"},
        {"id": 2, "dim": 2, "optimizer": "rowwise_adagrad", "lr": 1, "init": "zero"},
    ]
    c = connect(standalone(2, slots=slots))
    keys = np.array([5, 9, 5, 5], np.uint64)
    grads = np.array([[1, 3], [16, 16], [2, 0], [0, 1]], np.float32)
    c.push({1: (keys, grads), 2: (keys, grads)})
    rows = c.pull({1: keys[:2], 2: keys[:2]})
    np.testing.assert_array_equal(rows[1], [[-3, -4], [-16, -16]])
    np.testing.assert_allclose(rows[2][0], [-0.6, -0.8], rtol=1e-6)


def test_a_first_gradient_of_zero_leaves_the_row(standalone, connect):
    slots = [
        {"id": i, "dim": 3, "optimizer": kind}
        for i, kind in enumerate(["sgd", "adagrad", "rowwise_adagrad", "adam", "ftrl"])
    ]
    c = connect(standalone(1, slots=slots))
    before = c.pull({i: EDGES for i in range(5)})
    c.push({i: (EDGES, np.zeros((6, 3), np.float32)) for i in range(5)})
    after = c.pull({i: EDGES for i in range(5)})
    for i in range(5):
        np.testing.assert_array_equal(after[i], before[i])


def test_results_are_the_same_bits_for_any_shard_count(standalone, connect, rng):
    keys = random_keys(rng, 300)
    pushes = [
        (rng.integers(0, 300, 100), rng.normal(size=(100, 8)).astype(np.float32)) for _ in range(5)
    ]
    results = []
    for shards in (1, 2, 5):
        c = connect(standalone(shards, slots=SLOTS))
        for some, grads in pushes:
            c.push({1: (keys[some], grads)})
        results.append(c.pull({1: keys})[1])
    np.testing.assert_array_equal(results[1], results[0])
    np.testing.assert_array_equal(results[2], results[0])


# ---- views ---------------------------------------------------------------------------------------


def halve(c, keys, dims=8, slot=1):
    """An axis search that keeps the dimensions with the larger scores; the kept ones, ascending."""
    grads = np.ones((keys.size, dims), np.float32)
    c.push({slot: (keys, grads)})
    c.search(kappa=0.5, basis="axis", plan_only=True, samples=2**40)
    c.push({slot: (keys, grads)}, mode="score")
    plan = c.search_plan()
    c.search_apply()
    c.search_wait()
    entry = next(s for s in plan["slots"] if s["id"] == slot)
    return np.flatnonzero(entry["keep"])


def test_both_views_are_the_same_before_any_search(standalone, connect):
    c = connect(standalone(2, slots=SLOTS))
    full, compact = c.pull({1: EDGES}), c.pull({1: EDGES}, view="compact")
    np.testing.assert_array_equal(full[1], compact[1])
    slot = c.layout()[1]
    np.testing.assert_array_equal(slot.basis, np.eye(8))
    np.testing.assert_array_equal(slot.mean, np.zeros(8))


def test_full_view_keeps_its_width_and_compact_follows_the_layout(standalone, connect, rng):
    daemon = standalone(2, slots=SLOTS[:1])
    c, unaware = connect(daemon), connect(daemon)
    keys = random_keys(rng, 50)
    unaware.pull({1: keys})
    kept = halve(c, keys)
    before = c.layout().epoch - 1
    assert unaware.layout().epoch == before
    compact = unaware.pull({1: keys}, view="compact")[1]
    assert compact.shape == (50, kept.size)
    assert unaware.layout().epoch == before + 1
    slot = unaware.layout()[1]
    assert (slot.dim, slot.width) == (8, kept.size)
    full = unaware.pull({1: keys})[1]
    np.testing.assert_array_equal(full[:, kept], compact)
    np.testing.assert_array_equal(np.delete(full, kept, axis=1), 0)
    np.testing.assert_allclose(compact @ slot.basis.T + slot.mean, full, rtol=1e-6)


def test_full_view_pushes_go_on_through_a_layout_change(standalone, connect, rng):
    slot = {"id": 1, "dim": 8, "optimizer": "sgd", "lr": 1}
    daemon = standalone(2, slots=[slot])
    c, unaware = connect(daemon), connect(daemon)
    keys = random_keys(rng, 50)
    unaware.pull({1: keys})
    kept = halve(c, keys)
    before = c.pull({1: keys}, view="compact")[1]
    grads = rng.normal(size=(50, 8)).astype(np.float32)
    unaware.push({1: (keys, grads)})
    after = c.pull({1: keys}, view="compact")[1]
    np.testing.assert_allclose(after, before - grads[:, kept], rtol=1e-6, atol=1e-7)


def test_compact_gradient_of_the_epoch_before_is_mapped(standalone, connect, rng):
    slot = {"id": 1, "dim": 8, "optimizer": "sgd", "lr": 1}
    daemon = standalone(2, slots=[slot])
    c, slow = connect(daemon), connect(daemon)
    keys = random_keys(rng, 50)
    slow.pull({1: keys}, view="compact")
    kept = halve(c, keys)
    slow.refresh()
    before = c.pull({1: keys}, view="compact")[1]
    grads = rng.normal(size=(50, 8)).astype(np.float32)
    slow.push({1: (keys, grads)}, view="compact")
    after = c.pull({1: keys}, view="compact")[1]
    np.testing.assert_allclose(after, before - grads[:, kept], rtol=1e-6, atol=1e-7)


# ---- slots ---------------------------------------------------------------------------------------


def test_unknown_slot_is_refused_where_workers_add_none(standalone, connect):
    c = connect(standalone(1, slots=SLOTS))
    for call in (
        lambda: c.pull({1: EDGES, 99: EDGES}),
        lambda: c.push({1: (EDGES, np.ones((6, 8))), 99: (EDGES, np.ones((6, 16)))}),
        lambda: c.declare({99: {"dim": 4}}),
    ):
        with fails("UNKNOWN_SLOT") as info:
            call()
        assert "99" in info.value.message
    assert c.stats()["totals"]["rows"] == 0


def test_unknown_slot_gets_the_defaults_where_workers_may_add(standalone, connect):
    defaults = {"dim": 6, "optimizer": "sgd", "lr": 1, "init": "zero"}
    daemon = standalone(2, auto_slots=True, defaults=defaults)
    c, other = connect(daemon), connect(daemon)
    assert len(c.layout()) == 0
    assert c.pull({5: EDGES})[5].shape == (6, 6)
    other.push({5: (EDGES, np.full((6, 6), 2.0)), 6: (EDGES, np.ones((6, 6)))})
    np.testing.assert_array_equal(c.pull({6: EDGES, 5: EDGES})[5], np.full((6, 6), -2))
    assert list(c.layout()) == [5, 6]
    assert c.layout()[5].search and c.layout()[5].name == "slot5"
    known = {slot["id"]: slot for slot in c.slots()["slots"]}
    assert known[5]["optimizer"] == "sgd" and known[5]["dim"] == 6


def test_declared_slot_is_as_it_was_asked_for(standalone, connect):
    daemon = standalone(2, ["--auto-slots"])
    c, other = connect(daemon), connect(daemon)
    asked = dict(dim=3, name="hour", search=False, optimizer="adagrad", lr=0.5, init="zero")
    c.declare({8: asked, 9: {"tiers": [10, 100]}})
    other.refresh()
    slot = other.layout()[8]
    assert (slot.dim, slot.width, slot.name, slot.search) == (3, 3, "hour", False)
    assert other.layout()[9].dim == 16
    np.testing.assert_array_equal(other.pull({8: EDGES})[8], 0)
    known = {s["id"]: s for s in c.slots()["slots"]}
    assert known[8]["optimizer"] == "adagrad" and known[8]["lr"] == 0.5 and not known[8]["search"]
    assert known[8]["tiers"] == [{"shows": 0, "width": 3}]
    assert [tier["shows"] for tier in known[9]["tiers"]] == [0, 10, 100]
    c.declare({8: asked})
    with fails("WIDTH") as info:
        other.declare({8: {"dim": 4}})
    assert "8" in info.value.message


def test_large_calls_are_the_sum_of_small_ones(standalone, connect, rng):
    slot = {"id": 1, "dim": 16, "optimizer": "sgd", "lr": 1}
    c = connect(standalone(3, slots=[slot]))
    keys = random_keys(rng, 300_000)
    rows = c.pull({1: keys})[1]
    for part in np.split(np.arange(300_000), 6):
        np.testing.assert_array_equal(c.pull({1: keys[part]})[1], rows[part])
    grads = rng.normal(size=rows.shape).astype(np.float32)
    c.push({1: (keys, grads)})
    np.testing.assert_allclose(c.pull({1: keys})[1], rows - grads, rtol=1e-6, atol=1e-7)
    assert c.stats()["totals"]["rows"] == np.unique(keys).size


# ---- refused arguments ---------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("mode", ["train", "score", "train+score"])
def test_gradient_that_is_not_finite_changes_nothing(standalone, connect, rng, bad, mode):
    c = connect(standalone(3, slots=SLOTS))
    keys = random_keys(rng, 60)
    c.push({1: (keys, np.ones((60, 8))), 7: (keys, np.ones((60, 5)))})
    before, shows = c.pull({1: keys, 7: keys}), c.stats()["totals"]["rows"]
    grads = np.ones((60, 5), np.float32)
    grads[41, 3] = bad
    with fails("NOT_FINITE") as info:
        c.push({1: (keys, np.ones((60, 8))), 7: (keys, grads)}, mode=mode)
    assert "7" in info.value.message and str(keys[41]) in info.value.message
    after = c.pull({1: keys, 7: keys})
    for slot in (1, 7):
        np.testing.assert_array_equal(after[slot], before[slot])
    assert c.stats()["totals"]["rows"] == shows
    assert all((s == 0).all() for s in c.scores().values())


@pytest.mark.parametrize(
    "keys, said",
    [
        (np.array([3, -1]), "-1"),
        (np.array([1.0]), "float64"),
        (np.array([True]), "bool"),
        (np.array([[1, 2]]), "(1, 2)"),
        (np.uint64(5), "()"),
        (["a"], "<U1"),
        ([1, 2**64], "object"),
    ],
    ids=["negative", "float", "bool", "table", "scalar", "text", "too large"],
)
def test_keys_that_are_none_are_refused_with_their_slot(standalone, connect, keys, said):
    c = connect(standalone(1, slots=SLOTS))
    with fails("INVALID") as info:
        c.pull({7: keys})
    assert "slot 7" in info.value.message and said in info.value.message
    with fails("INVALID"):
        c.push({7: (keys, np.ones((1, 5)))})


@pytest.mark.parametrize(
    "grads, said",
    [
        (np.ones((6, 4)), "(6, 5)"),
        (np.ones((5, 5)), "(6, 5)"),
        (np.ones(30), "(30,)"),
        (np.ones((6, 5), int), "int64"),
        (np.ones((6, 5), complex), "complex128"),
    ],
    ids=["width", "rows", "flat", "integers", "complex"],
)
def test_gradients_of_a_wrong_kind_are_refused_with_their_slot(standalone, connect, grads, said):
    c = connect(standalone(1, slots=SLOTS))
    with fails("INVALID") as info:
        c.push({7: (EDGES, grads)})
    assert "slot 7" in info.value.message and said in info.value.message
    assert c.stats()["totals"]["rows"] == 0


def test_compact_gradients_of_a_wrong_width_are_refused_with_their_slot(standalone, connect):
    c = connect(standalone(1, slots=SLOTS))
    c.pull({7: EDGES}, view="compact")
    with fails("WIDTH") as info:
        c.push({7: (EDGES, np.ones((6, 4)))}, view="compact")
    assert "slot 7" in info.value.message
    with fails("INVALID") as info:
        c.push({7: (EDGES, np.ones((5, 5)))}, view="compact")
    assert "slot 7" in info.value.message


@pytest.mark.parametrize("dtype", ["u8", ">u8", "i4", "u1", "i8", ">i2"])
def test_keys_of_any_integer_kind_are_understood(standalone, connect, dtype):
    c = connect(standalone(2, slots=SLOTS))
    want = c.pull({1: np.array([7, 100, 3], np.uint64)})[1]
    np.testing.assert_array_equal(c.pull({1: np.array([7, 100, 3], dtype)})[1], want)
    spaced = np.array([7, 0, 100, 0, 3, 0], dtype)[::2]
    np.testing.assert_array_equal(c.pull({1: spaced})[1], want)
    np.testing.assert_array_equal(c.pull({1: [7, 100, 3]})[1], want)


def test_gradients_of_any_float_kind_and_order_are_understood(standalone, connect, rng):
    slot = {"id": 1, "dim": 4, "optimizer": "sgd", "lr": 1, "init": "zero"}
    c = connect(standalone(1, slots=[slot]))
    grads = rng.normal(size=(6, 4)).astype(np.float16)
    for form in (
        grads,
        grads.astype(np.float64),
        grads.astype(">f4"),
        np.asfortranarray(grads, np.float32),
        np.repeat(grads.astype(np.float32), 2, axis=1)[:, ::2],
        grads.tolist(),
    ):
        c.push({1: (EDGES, form)})
    np.testing.assert_allclose(c.pull({1: EDGES})[1], -6 * grads.astype(float), rtol=1e-6)


def test_arguments_are_not_changed(standalone, connect, rng):
    c = connect(standalone(3, slots=SLOTS))
    keys = rng.integers(0, 10, 100).astype(np.uint64)
    grads = rng.normal(size=(100, 8)).astype(np.float32)
    kept = keys.copy(), grads.copy()
    for view in ("full", "compact"):
        c.pull({1: keys}, view=view)
        c.push({1: (keys, grads)}, view=view)
    np.testing.assert_array_equal(keys, kept[0])
    np.testing.assert_array_equal(grads, kept[1])


def test_empty_calls_are_fine(standalone, connect):
    c = connect(standalone(2, slots=SLOTS))
    assert c.pull({}) == {}
    assert c.pull({1: [], 7: EDGES})[1].shape == (0, 8)
    c.push({})
    c.push({1: (np.array([], np.uint64), np.empty((0, 8), np.float32))})
    assert c.stats()["totals"]["rows"] == 0


@pytest.mark.parametrize(
    "call, said",
    [
        (lambda c: c.pull({1: EDGES}, view="wide"), "wide"),
        (lambda c: c.push({1: (EDGES, np.ones((6, 8)))}, mode="eval"), "eval"),
        (lambda c: c.push({1: (EDGES, np.ones((6, 8)))}, samples=0), "samples"),
        (lambda c: c.push({1: (EDGES, np.ones((6, 8)))}, step=0), "step"),
        (lambda c: c.push({1: EDGES}), "slot 1"),
        (lambda c: c.pull({-1: EDGES}), "-1"),
        (lambda c: c.pull({"user": EDGES}), "user"),
        (lambda c: c.declare({1: {"dims": 4}}), "dims"),
        (lambda c: c.search(kappa="half"), "half"),
        (lambda c: c.search(kappa=0), "kappa"),
        (lambda c: c.search(kappa=-1), "kappa"),
        (lambda c: c.search(kappa=0.5, basis="round"), "round"),
        (lambda c: c.search(kappa=0.5, estimator="row", basis="rotated"), "row"),
        (lambda c: c.search(kappa=0.5, budget=3), "budget"),
        (lambda c: c.scores("best"), "estimator"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_argument_out_of_range_is_named(standalone, connect, call, said):
    c = connect(standalone(1, slots=SLOTS))
    with fails("INVALID") as info:
        call(c)
    assert said in info.value.message
    assert c.search_status()["phase"] == "idle"


# ---- dense tables --------------------------------------------------------------------------------


def test_first_dense_reset_wins(standalone, connect):
    daemon = standalone(2, slots=SLOTS)
    one, two = connect(daemon), connect(daemon)
    values = np.arange(1000, dtype=np.float32)
    assert one.dense_reset("w1", values) is True
    assert two.dense_reset("w1", -values) is False
    np.testing.assert_array_equal(two.dense_pull("w1", 1000), values)
    assert two.dense_reset("w1", -values, tag=1) is True
    np.testing.assert_array_equal(one.dense_pull("w1", 1000, tag=1), -values)
    with fails("WIDTH"):
        two.dense_reset("w1", values[:10])
    with fails("WIDTH"):
        two.dense_pull("w1", 10)
    with fails("NOT_FOUND") as info:
        two.dense_pull("w2", 1000)
    assert "w2" in info.value.message


@pytest.mark.parametrize("kind", ["sgd", "adagrad", "adam", "ftrl"])
def test_dense_pushes_follow_the_optimizer(standalone, connect, rng, kind):
    daemon = standalone(2, slots=SLOTS)
    clients = connect(daemon), connect(daemon)
    values = rng.normal(size=37).astype(np.float32)
    clients[0].dense_reset("w", values, optimizer=kind, lr=0.1)
    model = Model(kind, 0.1, values[None])
    for i in range(6):
        grads = rng.normal(size=37).astype(np.float32)
        clients[i % 2].dense_push("w", grads)
        model.step([0], grads[None])
    got = clients[0].dense_pull("w", 37)
    np.testing.assert_allclose(got, model.r[0], rtol=2e-5, atol=2e-6)
    with fails("NOT_FINITE"):
        clients[0].dense_push("w", np.full(37, np.nan))
    np.testing.assert_array_equal(clients[1].dense_pull("w", 37), got)


# ---- working together ----------------------------------------------------------------------------

BARRIER = """
import sys, dimfit
with dimfit.connect(sys.argv[1], timeout=20) as c:
    c.barrier("start", 2, timeout=20)
    c.barrier("start", 2, timeout=20)
print("met twice")
"""


def test_barrier_lets_two_processes_meet(standalone, connect):
    daemon = standalone(1, slots=SLOTS)
    other = subprocess.Popen(
        [sys.executable, "-c", BARRIER, daemon.endpoint], stdout=subprocess.PIPE, text=True
    )
    try:
        c = connect(daemon, timeout=20)
        c.barrier("start", 2, timeout=20)
        assert other.poll() is None  # it waits for the second meeting
        c.barrier("start", 2, timeout=20)
        assert other.communicate(timeout=START_SECONDS)[0] == "met twice\n"
        assert other.returncode == 0
    finally:
        other.kill()
        other.wait()


def test_barrier_that_nobody_else_reaches_times_out(standalone, connect):
    c = connect(standalone(1, slots=SLOTS), timeout=0.5)
    with fails("TIMEOUT") as info:
        c.barrier("alone", 2)
    assert "alone" in info.value.message
    c.barrier("alone", 1)


def test_threads_may_share_a_client(standalone, connect):
    slot = {"id": 1, "dim": 4, "optimizer": "sgd", "lr": 1, "init": "zero"}
    c = connect(standalone(2, slots=[slot]))
    failures = []

    def work():
        try:
            for _ in range(50):
                c.push({1: (EDGES, np.ones((6, 4), np.float32))})
                c.pull({1: EDGES})
        except Exception as error:  # noqa: BLE001
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    np.testing.assert_array_equal(c.pull({1: EDGES})[1], -200)


# ---- life ----------------------------------------------------------------------------------------


def test_error_names_are_those_of_the_library(connect):
    library = _native.library()
    for number, name in enumerate(errors.NAMES):
        assert library.dimfit_errname(number).decode() == name


def test_nobody_at_the_endpoint_is_unreachable(connect):
    with fails("UNREACHABLE") as info:
        connect("tcp://127.0.0.1:1", timeout=0.5)
    assert "tcp://127.0.0.1:1" in info.value.message


@pytest.mark.parametrize("endpoint", ["", "nonsense", "tcp://", "tcp://127.0.0.1:99999", "\0"])
def test_endpoint_that_is_none_is_refused(connect, endpoint):
    with pytest.raises(dimfit.Error) as info:
        connect(endpoint, timeout=1)
    assert info.value.code in ("INVALID", "UNREACHABLE")


@pytest.mark.parametrize("timeout", [0, -1, float("nan"), "soon"])
def test_timeout_that_is_none_is_refused(connect, timeout):
    with fails("INVALID") as info:
        connect("tcp://127.0.0.1:1", timeout=timeout)
    assert "timeout" in info.value.message


def test_keys_are_not_supported_yet(connect):
    with fails("UNSUPPORTED"):
        connect("tcp://127.0.0.1:1", keys="worker.key")


def test_checkpoint_says_that_the_server_has_none(standalone, connect):
    c = connect(standalone(1, slots=SLOTS))
    with fails("UNSUPPORTED") as info:
        c.checkpoint()
    assert "checkpoint save" in info.value.message


def test_closed_client_refuses_calls(standalone, connect):
    daemon = standalone(1, slots=SLOTS)
    with dimfit.connect(daemon.endpoint) as c:
        c.pull({1: EDGES})
    c.close()
    for call in (lambda: c.pull({1: EDGES}), c.layout, c.state, c.stats, c.refresh):
        with fails("STATE"):
            call()
    connect(daemon)


def test_clusters_may_listen_at_a_path(start, connect, config, tmp_path):
    path = f"ipc://{tmp_path}/dimfit.sock"
    start("standalone", "--bind", path, "--config", config(slots=SLOTS)).wait_ready()
    assert connect(path).pull({1: EDGES})[1].shape == (6, 8)


def test_connect_waits_for_shards_that_are_late(start, connect, config):
    bind = ["--bind", "tcp://127.0.0.1:*", "--shards", 2]
    coordinator = start("coordinator", *bind, "--config", config(slots=SLOTS)).wait_ready()
    with pytest.raises(dimfit.Error) as info:
        connect(coordinator, timeout=2)
    assert info.value.code in ("UNREACHABLE", "TIMEOUT", "BUSY") and "shard" in info.value.message
    clients = []
    waiting = threading.Thread(target=lambda: clients.append(connect(coordinator, timeout=20)))
    waiting.start()
    shards = [start("shard", "--coordinator", coordinator.endpoint) for _ in range(2)]
    waiting.join()
    assert clients[0].pull({1: EDGES})[1].shape == (6, 8)
    assert {s["pid"] for s in clients[0].status()["shards"]} == {shard.pid for shard in shards}


def test_client_that_never_connected_can_be_collected():
    import gc

    dimfit.Client.__new__(dimfit.Client)
    gc.collect()


NO_LIBRARY = """
import dimfit
try:
    dimfit.connect("tcp://127.0.0.1:1")
except dimfit.Error as error:
    print(error)
"""


def test_library_that_is_not_there_is_named(tmp_path):
    path = str(tmp_path / "nothing.so")
    done = subprocess.run(
        [sys.executable, "-c", NO_LIBRARY],
        env={"PYTHONPATH": str(PYTHON_DIR), "DIMFIT_LIB": path},
        capture_output=True,
        text=True,
        timeout=START_SECONDS,
    )
    assert done.stdout.startswith("NOT_FOUND") and path in done.stdout, done.stderr


def test_status_and_strategies_tell_of_the_cluster(standalone, connect):
    daemon = standalone(3, slots=SLOTS)
    c = connect(daemon)
    status = c.status()
    assert [s["pid"] for s in status["shards"]] == [daemon.pid] * 3
    assert status["slots"] == 3 and status["phase"] == "idle"
    names = {s["name"] for s in c.strategies()["strategies"]}
    assert {"sseds", "uniform", "random", "frequency", "magnitude"} <= names
    assert c.strategies()["refused"] == []
    state = c.state()
    assert (state.phase, state.scoring, state.frozen) == ("idle", False, False)
    assert state.epoch == c.layout().epoch


def test_shutdown_ends_the_cluster(standalone, connect):
    daemon = standalone(2, slots=SLOTS)
    connect(daemon).shutdown()
    assert daemon.wait() == 0


def test_score_only_push_passes_over_slots_outside_the_search(standalone, connect, rng):
    c = connect(standalone(2, slots=SLOTS))
    keys = random_keys(rng, 50)
    wide = 4_000_000_000
    grads = {1: (keys, np.ones((50, 8), np.float32)), wide: (keys, np.ones((50, 1), np.float32))}
    c.push(grads)
    before = c.pull({wide: keys})[wide]
    c.push(grads, mode="score", samples=50)
    np.testing.assert_array_equal(c.pull({wide: keys})[wide], before)
    assert wide not in c.scores() and abs(sum(s.sum() for s in c.scores().values()) - 1) < 1e-12
