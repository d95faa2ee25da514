"""What goes wrong in dimfit, as one exception class."""

from __future__ import annotations

#: Names by number, as in dimfit_err.h. The numbers are pinned: new ones come at the end.
NAMES = (
    "OK",
    "NOMEM",
    "INVALID",
    "PROTOCOL",
    "UNKNOWN_SLOT",
    "WIDTH",
    "NOT_FINITE",
    "STALE_EPOCH",
    "EPOCH_AHEAD",
    "FROZEN",
    "SEQ_GAP",
    "FENCED",
    "TIMEOUT",
    "UNREACHABLE",
    "MAYBE",
    "NOT_FOUND",
    "EXISTS",
    "BUSY",
    "STATE",
    "BUDGET",
    "LIMIT",
    "IO",
    "CONFIG",
    "DATA",
    "DENIED",
    "PLUGIN",
    "UNSUPPORTED",
    "VERSION",
)


class Error(Exception):
    """A failed call.

    code: the kind of failure as a word, such as "STALE_EPOCH".
    number: the same as in the C interface.
    message: the place and the next step; also what str() gives, after the code.

    A call that raises has changed nothing, but for code MAYBE: the cluster did not answer in time,
    and what was asked may or may not have happened.
    """

    def __init__(self, code: str, message: str, number: int | None = None) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.number = NAMES.index(code) if number is None else number
        self.message = message

    def __reduce__(self) -> tuple:
        return (type(self), (self.code, self.message, self.number))
