"""The C interface (dimfit.h) as ctypes sees it: structs, signatures, and where the library is."""

from __future__ import annotations

import ctypes
import ctypes.util
import functools
import os
from ctypes import POINTER, c_char_p, c_double, c_float, c_int, c_size_t, c_void_p
from ctypes import c_uint32, c_uint64
from pathlib import Path

from .errors import Error

SONAME = "libdimfit.so.0"

FULL, COMPACT = 0, 1
TRAIN, SCORE, TRAIN_SCORE = 1, 2, 3


class Options(ctypes.Structure):
    _fields_ = [
        ("size", c_size_t),
        ("timeout", c_double),
        ("client", c_uint64),
        ("incarnation", c_uint64),
        ("half", c_int),
        ("pack", c_int),
    ]


class Slot(ctypes.Structure):
    _fields_ = [
        ("id", c_uint32),
        ("dim", c_uint32),
        ("width", c_uint32),
        ("search", c_int),
        ("name", c_char_p),
        ("basis", POINTER(c_float)),
        ("mean", POINTER(c_float)),
        ("n_tiers", c_uint32),
        ("tier_widths", POINTER(c_uint32)),
    ]


class Layout(ctypes.Structure):
    _fields_ = [("epoch", c_uint64), ("n_slots", c_size_t), ("slots", POINTER(Slot))]


class Declare(ctypes.Structure):
    _fields_ = [
        ("slot", c_uint32),
        ("dim", c_uint32),
        ("name", c_char_p),
        ("search", c_int),
        ("optimizer", c_char_p),
        ("lr", c_double),
        ("init", c_char_p),
        ("init_scale", c_double),
        ("tiers", POINTER(c_uint32)),
        ("n_tiers", c_uint32),
    ]


class Rows(ctypes.Structure):
    # Plain addresses: a typed pointer costs more to make than a small pull.
    _fields_ = [
        ("slot", c_uint32),
        ("n", c_size_t),
        ("keys", c_void_p),
        ("values", c_void_p),
        ("width", c_uint32),
        ("clicks", c_void_p),
        ("tiers", c_void_p),
    ]


class Push(ctypes.Structure):
    _fields_ = [
        ("mode", c_int),
        ("step", c_uint64),
        ("samples", c_uint64),
        ("epoch", c_uint64),
        ("of_epoch_0", c_int),
        ("no_hold", c_int),
        ("day", c_uint32),
    ]


class Dense(ctypes.Structure):
    _fields_ = [
        ("name", c_char_p),
        ("tag", c_uint64),
        ("optimizer", c_char_p),
        ("lr", c_double),
        ("n", c_size_t),
        ("values", c_void_p),
    ]


class State(ctypes.Structure):
    _fields_ = [("phase", c_char_p), ("scoring", c_int), ("frozen", c_int), ("epoch", c_uint64)]


class Trial(ctypes.Structure):
    _fields_ = [
        ("over", c_int),
        ("search", c_uint64),
        ("number", c_uint64),
        ("samples", c_uint64),
        ("n_slots", c_size_t),
        ("slots", POINTER(c_uint32)),
    ]


class Figures(ctypes.Structure):
    _fields_ = [
        ("loss", c_double),
        ("auc", c_double),
        ("whole_loss", c_double),
        ("whole_auc", c_double),
        ("error", c_double),
        ("samples", c_uint64),
    ]


class Sums(ctypes.Structure):
    _fields_ = [("slot", c_uint32), ("width", c_uint32), ("rows", c_uint64), ("g", c_void_p)]


#: Result and arguments of every function used.
SIGNATURES = {
    "dimfit_connect": (c_int, [c_char_p, POINTER(Options), POINTER(c_void_p)]),
    "dimfit_close": (None, [POINTER(c_void_p)]),
    "dimfit_errmsg": (c_char_p, [c_void_p]),
    "dimfit_strerror": (c_char_p, [c_int]),
    "dimfit_errname": (c_char_p, [c_int]),
    "dimfit_version": (c_char_p, []),
    "dimfit_layout": (POINTER(Layout), [c_void_p]),
    "dimfit_slot": (POINTER(Slot), [c_void_p, c_uint32]),
    "dimfit_refresh": (c_int, [c_void_p]),
    "dimfit_declare": (c_int, [c_void_p, POINTER(Declare), c_size_t]),
    "dimfit_pull": (c_int, [c_void_p, c_int, POINTER(Rows), c_size_t]),
    "dimfit_push": (c_int, [c_void_p, c_int, POINTER(Rows), c_size_t, POINTER(Push)]),
    "dimfit_flush": (c_int, [c_void_p]),
    "dimfit_dense_reset": (c_int, [c_void_p, POINTER(Dense), POINTER(c_int)]),
    "dimfit_dense_pull": (c_int, [c_void_p, POINTER(Dense)]),
    "dimfit_dense_push": (c_int, [c_void_p, POINTER(Dense)]),
    "dimfit_barrier": (c_int, [c_void_p, c_char_p, c_uint32, c_double]),
    "dimfit_state": (State, [c_void_p]),
    "dimfit_score_next": (c_int, [c_void_p, c_uint64, c_uint64, c_int, POINTER(c_uint64)]),
    "dimfit_trial_next": (c_int, [c_void_p, POINTER(Figures), c_int, POINTER(POINTER(Trial))]),
    "dimfit_trial_rows": (
        c_int,
        [c_void_p, c_int, c_uint32, c_void_p, c_void_p, c_size_t, c_void_p],
    ),
    "dimfit_pull_async": (c_int, [c_void_p, c_int, POINTER(Rows), c_size_t, POINTER(c_void_p)]),
    "dimfit_push_async": (
        c_int,
        [c_void_p, c_int, POINTER(Rows), c_size_t, POINTER(Push), POINTER(c_void_p)],
    ),
    "dimfit_wait": (c_int, [c_void_p, POINTER(c_void_p)]),
    "dimfit_score_sums": (c_int, [c_void_p, POINTER(Sums), c_size_t, c_uint64, c_uint64]),
    "dimfit_admin": (c_int, [c_void_p, c_char_p, c_char_p, POINTER(c_void_p)]),
    "dimfit_free": (None, [c_void_p]),
}


def _candidates() -> list[str]:
    named = os.environ.get("DIMFIT_LIB")
    if named:
        return [named]
    built = Path(__file__).resolve().parents[3] / ".libs"
    found = [str(p) for p in (built / SONAME, built / "libdimfit.so") if p.exists()]
    installed = ctypes.util.find_library("dimfit")
    return found + [SONAME] + ([installed] if installed else [])


@functools.lru_cache(maxsize=None)
def library() -> ctypes.CDLL:
    """libdimfit, loaded once: $DIMFIT_LIB, else the build tree around this file, else the system's.

    Its functions release the interpreter lock while they run.
    """
    problems = []
    for path in _candidates():
        try:
            lib = ctypes.CDLL(path)
            for name, (result, arguments) in SIGNATURES.items():
                function = getattr(lib, name)
                function.restype, function.argtypes = result, arguments
        except (OSError, AttributeError) as error:
            problems.append(f"{path}: {error}")
            continue
        return lib
    raise Error(
        "NOT_FOUND",
        "the library libdimfit could not be loaded; install it or set DIMFIT_LIB to its path ("
        + "; ".join(problems)
        + ")",
    )
