"""Text from models and users, made safe for a terminal."""

from __future__ import annotations

import re

_SEQUENCES = re.compile(
    r"(?:\x1b\[|\x9b)[0-?]*[ -/]*(?:[@-~]|$)"  # CSI: colours, cursor movement, clearing
    r"|(?:\x1b[\]PX^_]|[\x90\x98\x9d-\x9f])[^\x07\x1b\x9c\n]*(?:\x07|\x1b\\|\x9c|$)"  # OSC, DCS...: titles, clipboard
    r"|\x1b[ -/]*(?:[0-~]|$)"  # two-character escapes
)
_CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
"""C0 but for tab and newline, DEL, C1, and the marks that reorder what is read (bidirectional overrides)."""


def printable(text: str) -> str:
    """The text without escape sequences, control codes and bidirectional overrides; lone surrogates become U+FFFD.

    A sequence that is cut off at the end is dropped too, so a growing text can be shown piece by piece.
    """
    text = text.replace("\r\n", "\n").replace("\u2028", "\n").replace("\u2029", "\n")
    text = _CONTROLS.sub("", _SEQUENCES.sub("", text))
    return re.sub("[\ud800-\udfff]", "\ufffd", text)
