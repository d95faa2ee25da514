"""A client of one cluster."""

from __future__ import annotations

import ctypes
import json
import math
import numbers
import threading
import time
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from . import _native
from .errors import NAMES, Error
from .layout import Layout, Slot, State, Trial

_VIEWS = {"full": _native.FULL, "compact": _native.COMPACT}
_MODES = {"train": _native.TRAIN, "score": _native.SCORE, "train+score": _native.TRAIN_SCORE}
_DECLARATION = ("dim", "name", "search", "optimizer", "lr", "init", "init_scale", "tiers")

#: Layouts that a compact pull follows before it gives up: they take seconds to make, a pull none.
_LAYOUT_CHASES = 8

#: Seconds between two looks at a search, at first and at most.
_POLL_FIRST, _POLL_MOST = 0.002, 0.1


def connect(
    endpoint: str, keys: Any = None, timeout: float = 10, half: bool = False, pack: bool = False
) -> Client:
    """Connect to the coordinator at `endpoint` (tcp://host:port, ipc://path).

    Waits until coordinator and shards are all there, at most `timeout` seconds; every later call
    has the same limit. `keys` is for clusters that encrypt, which this version cannot.
    half: pulled rows travel as float16, half the bytes with a relative error of at most 2^-11.
    pack: requests are compressed with LZ4 where a sample says that it pays, as for gradients that
    are mostly zero.

    Raises Error: UNREACHABLE when nobody answers, UNSUPPORTED when keys are given, INVALID for an
    endpoint or timeout that is none.
    """
    if keys is not None:
        raise Error("UNSUPPORTED", "keys: this version does not encrypt; leave them out")
    return Client(endpoint, timeout, half, pack)


class Call:
    """A pull or push under way, of Client.pull_async() or push_async(). Wait for it, once."""

    def __init__(self, client: Client, handle: ctypes.c_void_p, borrowed: Any, result: Any) -> None:
        self._client = client
        self._handle = handle
        self._borrowed = borrowed  # what the library still reads or writes
        self._result = result
        client._calls.add(self)  # the arrays stay, whoever drops this

    def wait(self) -> Any:
        """Until it is done, at most the client's timeout: the arrays of a pull, None of a push.

        Raises Error: as pull() and push() do; STALE_EPOCH of a compact pull when the cluster has a
        new layout, which layout() has by then: pull again. STATE when it was waited for already.
        """
        if self._handle is None:
            raise Error("STATE", "this call was waited for already")
        handle, self._handle = self._handle, None
        client = self._client
        with client._lock:
            client._calls.discard(self)
            client._call("wait", ctypes.byref(handle))
        return self._result


class Client:
    """A connection, made by connect() and ended by close() or by leaving a `with` block.

    Slots are named by 32-bit ids, feasigns by unsigned 64-bit keys, which any integer array may
    hold. Keys may repeat within a call: they are pulled once, and their gradients are summed.

    Threads may share a client; they take turns. A thread that is not to wait has its own.
    """

    def __init__(
        self, endpoint: str, timeout: float = 10, half: bool = False, pack: bool = False
    ) -> None:
        self._handle: int | None = None
        self._lock = threading.RLock()
        self._calls: set[Call] = set()
        self._lib = _native.library()
        seconds = _real("timeout", timeout)
        if not seconds > 0:
            raise Error("INVALID", f"timeout {timeout} is not a positive number of seconds")
        options = _native.Options(
            size=ctypes.sizeof(_native.Options), timeout=seconds, half=bool(half), pack=bool(pack)
        )
        handle = ctypes.c_void_p()
        number = self._lib.dimfit_connect(
            _text("endpoint", endpoint), ctypes.byref(options), ctypes.byref(handle)
        )
        if number != 0:
            raise self._error(number)
        self._handle = handle.value

    # ---- rows ------------------------------------------------------------------------------------

    def pull(self, keys: Mapping[int, Any], view: str = "full", tiers: bool = False) -> Any:
        """Rows of several slots at once.

        keys: slot -> integers (n,). A feasign never trained reads as its initial value. A slot that
        the cluster does not know is added with its defaults where it allows that (auto_slots).
        view: "full" gives the model's embeddings, float32 (n, dim), whatever the cluster stores;
        "compact" the rows as stored, float32 (n, width), all of the epoch of layout() then.
        tiers: whether each row's popularity tier is wanted, too.

        Returns slot -> rows or, with tiers, that and slot -> uint8 (n,).

        Raises Error: UNKNOWN_SLOT, INVALID for arguments of a wrong kind, TIMEOUT, UNREACHABLE.
        """
        number = _choice("view", view, _VIEWS)
        wanted = {_slot_id(slot): _keys(slot, array) for slot, array in keys.items()}
        with self._lock:
            self._make_known(wanted)
            for _ in range(_LAYOUT_CHASES):
                out, rows = self._room(wanted, number)
                of = {slot: np.zeros(wanted[slot].size if tiers else 0, np.uint8) for slot in wanted}
                for row, array in zip(rows if tiers else (), of.values()):
                    row.tiers = array.ctypes.data
                err = self._lib.dimfit_pull(self._open(), number, rows, len(rows))
                if err == 0:
                    return (out, of) if tiers else out
                error = self._error(err)
                if error.code != "STALE_EPOCH":
                    break
        raise error

    def pull_async(self, keys: Mapping[int, Any], view: str = "full") -> Call:
        """As pull(), but return once the request is sent: its Call gives the rows. Shards take this
        client's requests in the order they were sent: the rows have the pushes made before, and not
        those after. Key arrays of kind uint64 stay as they are until then.

        Raises Error: LIMIT when 64 calls are under way.
        """
        number = _choice("view", view, _VIEWS)
        wanted = {_slot_id(slot): _keys(slot, array) for slot, array in keys.items()}
        handle = ctypes.c_void_p()
        with self._lock:
            self._make_known(wanted)
            out, rows = self._room(wanted, number)
            self._call("pull_async", number, rows, len(rows), ctypes.byref(handle))
            return Call(self, handle, (wanted, out), out)

    def push_async(
        self,
        updates: Mapping[int, tuple[Any, Any]],
        mode: str = "train",
        step: int | None = None,
        samples: int = 1,
        view: str = "full",
        clicks: Mapping[int, Any] | None = None,
        day: int | None = None,
        epoch: int | None = None,
    ) -> Call:
        """As push(), but return once the request is sent; its arrays stay as they are until the Call
        is waited for.

        Raises Error: as push() for what can be known to be wrong; LIMIT when 64 calls are under way.
        """
        options = _push_options(mode, step, samples, day, epoch)
        handle = ctypes.c_void_p()
        with self._lock:
            which, rows, borrowed = self._updates(updates, view, clicks)
            self._call(
                "push_async", which, rows, len(rows), ctypes.byref(options), ctypes.byref(handle)
            )
            return Call(self, handle, borrowed, None)

    def push(
        self,
        updates: Mapping[int, tuple[Any, Any]],
        mode: str = "train",
        step: int | None = None,
        samples: int = 1,
        view: str = "full",
        clicks: Mapping[int, Any] | None = None,
        day: int | None = None,
        epoch: int | None = None,
        hold: bool = True,
    ) -> None:
        """Push gradients of several slots at once.

        updates: slot -> (keys (n,), gradients (n, dim) or, compact, (n, width)): dL/drow of the
        mean loss over `samples`.
        mode: "train" applies the optimizer, "score" adds to the scores of a search, "train+score"
        does both, scoring with the values before the step.
        step: for scoring; workers that share a batch give the same number (from 1). None: a step of
        its own.
        view: compact gradients are of the layout of `epoch` or, None, this client's last compact
        pull; if the cluster has moved on since, they are mapped to the next one.
        clicks: slot -> integers (n,), one a key, for slots that count them; summed over equal keys.
        day: when the samples were shown, in days since 1970-01-01; None: today (UTC).

        While a search has frozen training, a training push waits until it is over or the time is.
        hold=False: it raises FROZEN at once, what some shards have not taken stays with the client,
        which may pull and score meanwhile, and flush() delivers it.

        Raises Error: NOT_FINITE, UNKNOWN_SLOT, INVALID, WIDTH (refused, nothing changed anywhere),
        FROZEN, MAYBE (no answer in time: the push may or may not have been applied; it is not sent
        again), UNREACHABLE.
        """
        options = _push_options(mode, step, samples, day, epoch)
        options.no_hold = not hold
        with self._lock:
            which, rows, _borrowed = self._updates(updates, view, clicks)
            self._call("push", which, rows, len(rows), ctypes.byref(options))

    def flush(self) -> None:
        """Deliver what earlier pushes have left with the client."""
        self._call("flush")

    # ---- layout ----------------------------------------------------------------------------------

    def layout(self) -> Layout:
        """The layout this client works with: slot -> Slot, and `.epoch`. Asks nobody, refresh()
        does."""
        with self._lock:
            native = self._lib.dimfit_layout(self._open()).contents
            slots = (native.slots[i] for i in range(native.n_slots))
            return Layout(native.epoch, {slot.id: _slot(slot) for slot in slots})

    @property
    def epoch(self) -> int:
        """The number of layout(). Asks nobody."""
        with self._lock:
            return self._lib.dimfit_layout(self._open()).contents.epoch

    def state(self) -> State:
        """What the newest reply said about a search. Asks nobody, refresh() does."""
        with self._lock:
            state = self._lib.dimfit_state(self._open())
            return State(state.phase.decode(), bool(state.scoring), bool(state.frozen), state.epoch)

    def refresh(self) -> None:
        """Ask the coordinator for cluster map, layout and phase again."""
        self._call("refresh")

    def declare(self, slots: Mapping[int, Mapping[str, Any]]) -> None:
        """Make slots known to the cluster.

        slots: slot -> any of dim, name, search (True), optimizer ("sgd", "adagrad",
        "rowwise_adagrad", "adam", "ftrl"), lr, init ("zero", "uniform", "normal"), init_scale, tiers (show
        counts at which popularity tiers above the first begin, ascending). What is left out is the cluster's default. Slots that the cluster has must agree in dim.

        Raises Error: WIDTH for another dim, UNKNOWN_SLOT where the cluster takes no new slots.
        """
        native = (_native.Declare * len(slots))()
        for out, (slot, settings) in zip(native, slots.items()):
            _declaration(out, _slot_id(slot), settings)
        self._call("declare", native, len(native))

    def score_sums(
        self,
        sums: Mapping[int, Any],
        rows: Mapping[int, int],
        step: int | None = None,
        samples: int = 1,
    ) -> None:
        """Report score sums of slots whose rows live outside the cluster: a search scores and plans
        them as its own (see dimfit.torch.watch()).

        sums: slot -> (width,), the sum over a step's lookups of v * dL/dv, dL/dv of the mean loss
        over `samples`, v before the step.
        rows: slot -> how many rows it has in all.
        step: as for push().

        Raises Error: WIDTH when a slot has another width, NOT_FINITE, INVALID, UNKNOWN_SLOT, STATE
        while a search fits bases (basis other than "axis"), which takes the rows themselves.
        """
        native = (_native.Sums * len(sums))()
        arrays = []
        for out, (slot, values) in zip(native, sums.items()):
            array = _array(f"slot {slot}: sums", values)
            if array.ndim != 1 or array.dtype.kind != "f":
                raise Error("INVALID", f"slot {slot}: sums are no floating-point numbers (width,)")
            if slot not in rows:
                raise Error("INVALID", f"slot {slot}: nothing says how many rows it has")
            arrays.append(np.require(array, np.float64, ["C", "A"]))
            out.slot, out.width = _slot_id(slot), array.size
            out.rows, out.g = _count(f"slot {slot}: rows", rows[slot], 0), arrays[-1].ctypes.data
        number = 0 if step is None else _count("step", step, 1)
        self._call("score_sums", native, len(native), number, _count("samples", samples, 1))

    # ---- searches and other administration -------------------------------------------------------

    def scores(self, estimator: str | None = None, tiers: bool = False) -> dict[Any, np.ndarray]:
        """slot -> share of all score that each stored dimension has, float64 (width,), as pushed so
        far. estimator: "single", "step", "fisher", "row", "curvature",
        "taylor" or "guarded"; None: the last search's.
        tiers: (slot, tier) -> what of it each popularity tier has, float64 (the tier's width,)."""
        reply = self.admin("scores", {"estimator": estimator})
        of = {(s["id"], s["tier"]): np.array(s["s"], np.float64) for s in reply["slots"]}
        if tiers:
            return of
        out: dict[int, np.ndarray] = {}
        for (slot, _), array in reversed(of.items()):
            out.setdefault(slot, np.zeros(array.size))[: array.size] += array
        return dict(reversed(out.items()))

    def search(
        self, kappa: float, wait: bool = False, timeout: float = 60, **options: Any
    ) -> dict[str, Any]:
        """Score the dimensions of all slots, plan which stay, put the plan into force.

        kappa: parameters to keep, as a share of those before; more than 0.
        options: strategy, estimator, basis ("axis", "rotated", "kfac"), count ("params", "dims"), rank
        ("score", "density"), min_dim, mode ("live", "freeze"), samples, plan_only, seed, options
        ("key=value,..."), trial_samples, scoring_timeout (seconds that scoring and trials wait for more).
        wait: return when that is done, as search_wait(timeout) does, and not at once.

        Returns the status, as search_status(). Raises Error: INVALID naming the option, BUSY while
        another search runs.
        """
        arguments = {"kappa": _real("kappa", kappa), **options}
        if "scoring_timeout" in arguments:
            arguments["timeout"] = arguments.pop("scoring_timeout")
        status = self.admin("search start", arguments)
        return self.search_wait(timeout) if wait else status

    def search_status(self) -> dict[str, Any]:
        """Where the search stands: "phase", "samples", "samples_wanted", "error", "seconds", ..."""
        return self.admin("search status")

    def search_plan(self, plan: int | None = None) -> dict[str, Any]:
        """What the search changes, by slot, or what a plan that is kept would. A search that is
        scoring ends that and plans from what is there. Raises Error: STATE when nothing was scored
        or there is no search, BUDGET, NOT_FOUND for a plan that is not kept."""
        return self.admin("search plan", _given(plan=plan))

    def search_plans(self) -> list[dict[str, Any]]:
        """The plans that are kept: "plan" (its number), "state" ("ready", "applied", "rolled back",
        "stale"), "strategy", "basis", "kappa", "epoch", "params_before", "params_after", ..."""
        return self.admin("search plans")["plans"]

    def search_apply(self, plan: int | None = None, dry_run: bool = False) -> dict[str, Any]:
        """Put the plan, or one that is kept, into force on all shards; returns the status at once,
        see search_wait(). dry_run: ask every shard whether it could, and change nothing.

        Raises Error: STATE, STALE_EPOCH for a plan of an older layout, NOT_FOUND, BUSY.
        """
        return self.admin("search apply", _given(plan=plan, dry_run=dry_run))

    def search_rollback(self, dry_run: bool = False) -> dict[str, Any]:
        """Take the last commit back: the layout before it, as a new epoch, with all that was trained
        since, and what was dropped as it was. Returns the status at once, see search_wait(); a dry
        run as that of search_apply(). Raises Error: STATE when there is nothing to take back."""
        return self.admin("search rollback", _given(dry_run=dry_run))

    def search_discard(self, plan: int | None = None, saved: bool = False) -> dict[str, Any]:
        """Let a plan go, or what the shards saved to roll the last commit back."""
        return self.admin("search discard", _given(plan=plan, saved=saved))

    def search_abort(self) -> dict[str, Any]:
        """End the search; nothing changes."""
        return self.admin("search abort")

    def search_wait(self, timeout: float = 60) -> dict[str, Any]:
        """Wait until the search is committed, rolled back or, plan_only, planned; returns its
        status.

        Raises Error: STATE with the reason when it is aborted or there is none, TIMEOUT when it is
        not done within `timeout` seconds (it goes on).
        """
        end = time.monotonic() + _real("timeout", timeout)
        pause = _POLL_FIRST
        while True:
            status = self.search_status()
            phase = status["phase"]
            if phase == "aborted":
                raise Error("STATE", f"the search was aborted: {status['error']}")
            if phase == "idle":
                raise Error("STATE", "there is no search to wait for; search() starts one")
            if phase in ("committed", "rolled back", "compared"):
                self.refresh()
                return status
            if phase == "planned" and status.get("plan_only", True):
                return status
            if time.monotonic() > end:
                raise Error("TIMEOUT", f"the search is still {phase} after {timeout:g} s")
            time.sleep(pause)
            pause = min(2 * pause, _POLL_MOST)

    def shrink(
        self,
        slots: Iterable[int | str] | None = None,
        unseen_days: int | None = None,
        shows: float | None = None,
        day: int | None = None,
        dry_run: bool = False,
        retier: bool = False,
        wait: bool = False,
        timeout: float = 60,
    ) -> dict[str, Any]:
        """Evict rows that were not seen for more than `unseen_days`, or have fewer than `shows` after
        decay; with neither, each slot goes by its own settings. In slots with tiers each row goes to
        the tier that its shows say.

        slots: ids or names; None: all of them.
        day: that age and decay count to, in days since 1970-01-01; None: today (UTC).
        dry_run: count what would go, evict nothing.
        retier: evict nothing, take rows to their tiers.
        wait: return when it is done, and not at once; at most `timeout` seconds.

        Returns the status, as shrink_status(). Raises Error: BUSY while another one runs, INVALID,
        UNKNOWN_SLOT, STATE when it failed, TIMEOUT when it is not done in time (it goes on).
        """
        named = None if slots is None else [s if isinstance(s, str) else str(_slot_id(s)) for s in slots]
        status = self.admin(
            "shrink",
            _given(
                slots=named,
                unseen_days=unseen_days,
                shows=shows,
                day=day,
                dry_run=dry_run,
                retier=retier,
            ),
        )
        end = time.monotonic() + _real("timeout", timeout)
        pause = _POLL_FIRST
        while wait and status["state"] not in ("done", "failed"):
            if time.monotonic() > end:
                raise Error("TIMEOUT", f"the shrink is still {status['state']} after {timeout:g} s")
            time.sleep(pause)
            pause = min(2 * pause, _POLL_MOST)
            status = self.shrink_status()
        if wait and status["state"] == "failed":
            raise Error("STATE", f"the shrink failed: {status['error']}")
        return status

    def shrink_status(self) -> dict[str, Any]:
        """The shrink that runs, or the last one: "state" ("none", "starting", "running", "done",
        "failed"), "rows_before", "evicted", "rows_after", "slots", ..."""
        return self.admin("shrink status")

    def stats(self) -> dict[str, Any]:
        """Rows, memory and traffic of the cluster, in all and by shard."""
        return self.admin("stats")

    def slots(self) -> dict[str, Any]:
        """Every slot with its dim, width, rows, bytes and optimizer."""
        return self.admin("slots")

    def status(self) -> dict[str, Any]:
        """The coordinator, its epoch and phase, and its shards."""
        return self.admin("status")

    def strategies(self) -> dict[str, Any]:
        """The strategies that a search can use, and the plugins that were refused and why."""
        return self.admin("strategies")

    def checkpoint(self, action: str = "save", **arguments: Any) -> dict[str, Any]:
        """Have the cluster do `checkpoint ACTION`: save, list, verify or load.

        Raises Error: UNSUPPORTED when the server has no such command.
        """
        return self.admin(f"checkpoint {action}", arguments)

    def shutdown(self) -> None:
        """Stop the coordinator and all its shards, in order."""
        self.admin("shutdown")

    def admin(self, command: str, arguments: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """An admin command as dimfitctl sends it. Arguments that are None are left out."""
        given = {name: value for name, value in (arguments or {}).items() if value is not None}
        try:
            text = json.dumps(given, default=_plain).encode()
        except (TypeError, ValueError) as error:
            raise Error("INVALID", f"{command}: {error}") from None
        reply = ctypes.c_void_p()
        self._call("admin", _text("command", command), text, ctypes.byref(reply))
        try:
            return json.loads(ctypes.string_at(reply.value))
        finally:
            self._lib.dimfit_free(reply)

    # ---- dense tables ----------------------------------------------------------------------------

    def dense_reset(
        self, name: str, values: Any, tag: int = 0, optimizer: str = "adam", lr: float = 0.001
    ) -> bool:
        """Create the vector `name` under `tag` with these values, float32 (n,), unless it is there:
        of several workers the first one wins. True for the one that created it.

        Raises Error: WIDTH when it exists with another n.
        """
        created = ctypes.c_int()
        array = _vector(name, values)
        table = _dense(name, tag, array)
        table.optimizer = _text("optimizer", optimizer)
        table.lr = _real("lr", lr)
        self._call("dense_reset", ctypes.byref(table), ctypes.byref(created))
        return bool(created.value)

    def dense_pull(self, name: str, n: int, tag: int = 0) -> np.ndarray:
        """The vector's values, float32 (n,). Raises Error: NOT_FOUND, WIDTH for another n."""
        values = np.empty(_count("n", n, 1), np.float32)
        self._call("dense_pull", ctypes.byref(_dense(name, tag, values)))
        return values

    def dense_push(self, name: str, grads: Any, tag: int = 0) -> None:
        """Apply the vector's optimizer to the gradient, float32 (n,). Raises as push()."""
        array = _vector(name, grads)
        self._call("dense_push", ctypes.byref(_dense(name, tag, array)))

    # ---- working together ------------------------------------------------------------------------

    def barrier(self, name: str, n: int, timeout: float = 0) -> None:
        """Wait until n workers have come to the barrier of this name.

        Raises Error: TIMEOUT when they don't within the client's time limit or, if larger,
        `timeout` seconds.
        """
        if _count("n", n, 1) >= 2**32:
            raise Error("INVALID", f"n {n} is not below 2**32")
        self._call("barrier", _text("name", name), n, _real("timeout", timeout))

    def score_next(self, done: int = 0, samples: int = 0, exhausted: bool = False) -> int:
        """While a search scores in freeze mode: report the step just scored whole (0 at first) with
        its samples, get the next one. exhausted: this worker has no further batches. 0: over."""
        step = ctypes.c_uint64()
        self._call(
            "score_next",
            _count("done", done, 0),
            _count("samples", samples, 0),
            bool(exhausted),
            ctypes.byref(step),
        )
        return step.value

    def trial_next(
        self, figures: Mapping[str, float] | None = None, wait: bool = False
    ) -> Trial | None:
        """Report the trial handed out last and get the next.

        figures: of that trial, evaluated: loss, whole_loss (of the same samples with nothing
        changed), samples and, if known, auc, whole_auc and error, the standard error of loss -
        whole_loss. None: it was not evaluated.
        wait: up to the client's timeout, until there is one or no search could have any.

        Returns None when there is none now. The Trial is good until the next call. Raises Error:
        NOT_FINITE, INVALID for figures that are none.
        """
        native = None
        if figures is not None:
            given = {"auc": math.nan, "whole_auc": math.nan, **figures}
            native = ctypes.byref(_native.Figures(**given))
        out = ctypes.POINTER(_native.Trial)()
        with self._lock:
            self._call("trial_next", native, bool(wait), ctypes.byref(out))
            trial = out.contents
            if trial.number == 0:
                return None
            return Trial(
                trial.search, trial.number, trial.samples, tuple(trial.slots[: trial.n_slots])
            )

    def trial_rows(
        self, slot: int, rows: Any, view: str = "full", tiers: Any = None
    ) -> np.ndarray:
        """A slot's pulled rows, float32 (n, dim) or, compact, (n, width), as they are under the
        trial handed out last; tiers (n,): those pulled with them, of a slot that has tiers. Raises
        Error: STATE without a trial, STALE_EPOCH when the layout has changed since, INVALID for
        tiers that are not the slot's."""
        number = _choice("view", view, _VIEWS)
        array = _array(f"slot {slot}: rows", rows)
        of = None if tiers is None else np.ascontiguousarray(tiers, np.uint8)
        with self._lock:
            width = self._width(_slot_id(slot), number)
            if array.ndim != 2 or array.shape[1] != width:
                raise Error("WIDTH", f"slot {slot}: rows have shape {array.shape}, not (n, {width})")
            array = _floats(f"slot {slot}: rows", array)
            if of is not None and of.shape != (len(array),):
                raise Error("WIDTH", f"slot {slot}: tiers have shape {of.shape}, not ({len(array)},)")
            out = np.empty_like(array)
            self._call(
                "trial_rows",
                number,
                _slot_id(slot),
                None if of is None else of.ctypes.data,
                array.ctypes.data,
                len(array),
                out.ctypes.data,
            )
        return out

    # ---- life ------------------------------------------------------------------------------------

    def close(self) -> None:
        """Disconnect. Closing twice is fine; every other call fails from then on."""
        with self._lock:
            if self._handle is not None:
                handle = ctypes.c_void_p(self._handle)
                self._handle = None
                self._lib.dimfit_close(ctypes.byref(handle))
                self._calls.clear()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __del__(self) -> None:
        # Attributes are missing when __init__ failed early.
        if getattr(self, "_handle", None) is not None:
            self.close()

    # ---- the C side ------------------------------------------------------------------------------

    def _open(self) -> int:
        if self._handle is None:
            raise Error("STATE", "the client is closed; connect() makes a new one")
        return self._handle

    def _error(self, number: int) -> Error:
        detail = self._lib.dimfit_errmsg(self._handle)
        text = detail.decode(errors="replace") if detail else ""
        if not text:
            text = self._lib.dimfit_strerror(number).decode()
        name = NAMES[number] if number < len(NAMES) else self._lib.dimfit_errname(number).decode()
        return Error(name, text, number)

    def _call(self, function: str, *arguments: Any) -> None:
        with self._lock:
            number = getattr(self._lib, "dimfit_" + function)(self._open(), *arguments)
            if number != 0:
                raise self._error(number)

    def _find(self, slot: int) -> _native.Slot | None:
        found = self._lib.dimfit_slot(self._open(), slot)
        return found.contents if found else None

    def _room(
        self, wanted: Mapping[int, np.ndarray], view: int
    ) -> tuple[dict[int, np.ndarray], ctypes.Array]:
        """Arrays for the rows of a pull, as wide as the layout says, and the structs on them."""
        out = {
            slot: np.empty((array.size, self._width(slot, view)), np.float32)
            for slot, array in wanted.items()
        }
        return out, _rows((slot, wanted[slot], out[slot]) for slot in wanted)

    def _updates(
        self,
        updates: Mapping[int, tuple[Any, Any]],
        view: str,
        clicks: Mapping[int, Any] | None,
    ) -> tuple[int, ctypes.Array, Any]:
        """View and structs of a push, and the arrays that these borrow."""
        which = _choice("view", view, _VIEWS)
        pairs = {_slot_id(slot): _pair(slot, pair) for slot, pair in updates.items()}
        self._make_known(pairs)
        arrays = []
        for slot, (keys, given) in pairs.items():
            # The library knows which layout compact gradients are of.
            of_pull = which == _native.COMPACT and given.ndim == 2
            width = given.shape[1] if of_pull else self._width(slot, which)
            arrays.append((slot, keys, _gradients(slot, given, keys.size, width)))
        rows = _rows(arrays)
        counts = _clicks(clicks or {}, pairs)
        for row in rows:
            if row.slot in counts:
                row.clicks = counts[row.slot].ctypes.data
        return which, rows, (arrays, counts)

    def _make_known(self, slots: Mapping[int, Any]) -> None:
        unknown = {slot: {} for slot in slots if self._find(slot) is None}
        if unknown:
            self.declare(unknown)

    def _width(self, slot: int, view: int) -> int:
        found = self._find(slot)
        if found is None:
            raise Error("UNKNOWN_SLOT", f"slot {slot} is not in the cluster's layout")
        return found.dim if view == _native.FULL else found.width


# ---- arguments -----------------------------------------------------------------------------------


def _choice(name: str, value: str, choices: Mapping[str, int]) -> int:
    if isinstance(value, str) and value in choices:
        return choices[value]
    raise Error("INVALID", f"{name} {value!r} is none of {', '.join(map(repr, choices))}")


def _given(**arguments: Any) -> dict[str, Any]:
    """Without those that say nothing."""
    return {name: v for name, v in arguments.items() if v is not None and v is not False}


def _real(name: str, value: Any) -> float:
    if isinstance(value, numbers.Real) and not isinstance(value, bool):
        return float(value)
    raise Error("INVALID", f"{name} {value!r} is not a number")


def _count(name: str, value: Any, least: int) -> int:
    whole = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    if whole and least <= value < 2**64:
        return int(value)
    raise Error("INVALID", f"{name} {value!r} is not a whole number from {least}")


def _text(name: str, value: Any) -> bytes:
    if isinstance(value, str) and "\0" not in value:
        return value.encode()
    raise Error("INVALID", f"{name} {value!r} is not a text")


def _slot_id(slot: Any) -> int:
    whole = isinstance(slot, numbers.Integral) and not isinstance(slot, bool)
    if whole and 0 <= slot < 2**32:
        return int(slot)
    raise Error("INVALID", f"slot {slot!r} is not a whole number of 0 to 2**32 - 1")


def _array(what: str, values: Any) -> np.ndarray:
    try:
        return np.asarray(values)
    except (ValueError, TypeError, OverflowError) as error:
        raise Error("INVALID", f"{what} are no array: {error}") from None


def _keys(slot: Any, keys: Any) -> np.ndarray:
    """As uint64 (n,), without a copy where they are that already."""
    array = _array(f"slot {slot}: keys", keys)
    if array.ndim != 1:
        raise Error("INVALID", f"slot {slot}: keys have shape {array.shape}, not (n,)")
    if array.size == 0 and not isinstance(keys, np.ndarray):
        array = array.astype(np.uint64)
    if array.dtype.kind not in "iu":
        raise Error("INVALID", f"slot {slot}: keys are {array.dtype}, not integers below 2**64")
    if array.dtype.kind == "i" and array.size > 0 and array.min() < 0:
        raise Error("INVALID", f"slot {slot}: key {array.min()} is negative")
    return np.require(array, np.uint64, ["C", "A"])


def _pair(slot: Any, pair: Any) -> tuple[np.ndarray, np.ndarray]:
    if not isinstance(pair, (tuple, list)) or len(pair) != 2:
        raise Error("INVALID", f"slot {slot}: an update is a pair (keys, gradients)")
    return _keys(slot, pair[0]), _array(f"slot {slot}: gradients", pair[1])


def _push_options(
    mode: str, step: int | None, samples: int, day: int | None, epoch: int | None
) -> _native.Push:
    return _native.Push(
        mode=_choice("mode", mode, _MODES),
        step=0 if step is None else _count("step", step, 1),
        samples=_count("samples", samples, 1),
        epoch=0 if epoch is None else _count("epoch", epoch, 0),
        of_epoch_0=epoch == 0,
        day=0 if day is None else _day(day),
    )


def _day(day: Any) -> int:
    number = _count("day", day, 1)
    if number >= 2**32:
        raise Error("INVALID", f"day {day} is not below 2**32")
    return number


def _clicks(clicks: Mapping[int, Any], pairs: Mapping[int, Any]) -> dict[int, np.ndarray]:
    """slot -> uint32 (n,), as many as the slot's push has keys."""
    out = {}
    for slot, given in clicks.items():
        number = _slot_id(slot)
        if number not in pairs:
            raise Error("INVALID", f"slot {slot}: clicks without keys and gradients")
        array = _array(f"slot {slot}: clicks", given)
        n = pairs[number][0].size
        if array.shape != (n,):
            raise Error("INVALID", f"slot {slot}: clicks have shape {array.shape}, not ({n},)")
        if n > 0 and (
            array.dtype.kind not in "iu" or array.min() < 0 or array.max() >= 2**32
        ):
            raise Error("INVALID", f"slot {slot}: clicks are not integers below 2**32")
        out[number] = np.require(array, np.uint32, ["C", "A"])
    return out


def _floats(what: str, array: np.ndarray) -> np.ndarray:
    """As float32 in C order, without a copy where it is that already. What is too large for a
    float32 becomes infinite, which the library refuses with its place."""
    if array.dtype.kind != "f":
        raise Error("INVALID", f"{what} are {array.dtype}, not floating-point numbers")
    with np.errstate(over="ignore"):
        return np.require(array, np.float32, ["C", "A"])


def _gradients(slot: int, array: np.ndarray, n: int, width: int) -> np.ndarray:
    if array.shape != (n, width):
        raise Error(
            "INVALID", f"slot {slot}: gradients have shape {array.shape}, not ({n}, {width})"
        )
    return _floats(f"slot {slot}: gradients", array)


def _vector(name: str, values: Any) -> np.ndarray:
    array = _array(f"table {name}: values", values)
    if array.ndim != 1 or array.size == 0:
        raise Error("INVALID", f"table {name}: values have shape {array.shape}, not (n,)")
    return _floats(f"table {name}: values", array)


def _plain(value: Any) -> Any:
    """numpy's numbers as JSON knows them."""
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"{value!r} is not a number, a text or a truth value")


# ---- structs -------------------------------------------------------------------------------------


def _rows(arrays: Any) -> ctypes.Array:
    """Borrows the arrays: they must outlive it."""
    arrays = list(arrays)
    rows = (_native.Rows * len(arrays))()
    for out, (slot, keys, values) in zip(rows, arrays):
        out.slot, out.n, out.width = slot, keys.size, values.shape[1]
        out.keys, out.values = keys.ctypes.data, values.ctypes.data
    return rows


def _slot(native: _native.Slot) -> Slot:
    def copy(pointer: Any, *shape: int) -> np.ndarray:
        count = math.prod(shape)
        array = np.array(pointer[:count], np.float32).reshape(shape)
        array.flags.writeable = False
        return array

    return Slot(
        id=native.id,
        dim=native.dim,
        width=native.width,
        basis=copy(native.basis, native.dim, native.width),
        mean=copy(native.mean, native.dim),
        name=native.name.decode(),
        search=bool(native.search),
        tier_widths=tuple(native.tier_widths[: native.n_tiers]),
    )


def _declaration(out: _native.Declare, slot: int, settings: Mapping[str, Any]) -> None:
    for name in settings:
        if name not in _DECLARATION:
            raise Error("INVALID", f"slot {slot}: {name!r} is none of {', '.join(_DECLARATION)}")
    given = {name: value for name, value in settings.items() if value is not None}
    out.slot = slot
    out.dim = _count(f"slot {slot}: dim", given.get("dim", 0), 0)
    out.search = bool(given.get("search", True))
    for name in ("name", "optimizer", "init"):
        if name in given:
            setattr(out, name, _text(f"slot {slot}: {name}", given[name]))
    for name in ("lr", "init_scale"):
        setattr(out, name, _real(f"slot {slot}: {name}", given.get(name, 0)))
    if "tiers" in given:
        shows = [_count(f"slot {slot}: tiers", v, 1) for v in given["tiers"]]
        out.tiers, out.n_tiers = (ctypes.c_uint32 * max(len(shows), 1))(*shows), len(shows)


def _dense(name: str, tag: int, values: np.ndarray) -> _native.Dense:
    """Borrows the values: they must outlive it."""
    return _native.Dense(
        name=_text("name", name),
        tag=_count("tag", tag, 0),
        n=values.size,
        values=values.ctypes.data,
    )
