"""What can go wrong, as one small tree.

KilterError            anything kilter says in one line, without a traceback
├── UserError          the user's mistake, exit code 2: says what was given, what is allowed, what to do
│   ├── RecipeError    a recipe, a stage, a field
│   └── DataError      a row of data, with its file and line
└── RunError           the run's or the machine's failure, exit code 1: lock, disk, NaN, a changed checkpoint
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class KilterError(Exception):
    """Base of everything kilter raises on purpose; `exit_code` is what the command line returns."""

    exit_code = 1


class UserError(KilterError, ValueError):
    """The input was wrong and the message says how to mend it."""

    exit_code = 2


class RecipeError(UserError):
    """A recipe, stage, method or field that can't be used."""


class DataError(UserError):
    """A row of data that can't be used; says the file and the line where there are any."""


class RunError(KilterError, RuntimeError):
    """The run can't go on: nothing the user typed, and nothing is lost."""


def nearest(given: str, allowed: Iterable[str]) -> str:
    """`; did you mean 'x'?` when one of the allowed names is close, else the names themselves.

    Every message about an unknown name ends with this, so that the remedy always stands beside the complaint.
    """
    names = sorted(set(allowed))
    close = difflib.get_close_matches(given, names, n=1, cutoff=0.6)
    if close:
        return f"; did you mean {close[0]!r}?"
    return f"; allowed: {', '.join(names)}" if names else ""
