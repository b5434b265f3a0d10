"""Elements of HTML and SVG that escape whatever they are given, and numbers as people read them.

Model text, prompts, settings and names are hostile until escaped. So plain text is never joined to markup by hand:
`el` escapes every child and attribute that is not `Html` already, and only `el` and `join` make `Html`.
"""

from __future__ import annotations

import html
import unicodedata
from collections.abc import Iterable
from typing import Any

VOID = {"meta", "br", "hr", "input"}
"""HTML elements without an end tag."""
LEAVES = {"line", "rect", "circle", "path", "polyline", "polygon"}
"""SVG elements that may stand alone, closed in place when they hold nothing."""
KEEP = {"\n", "\t", "\u200c", "\u200d"}
"""Control and format characters left as they are: layout, and the joiners that scripts and emoji need."""
DASH = "\u2013"
MINUS = "\u2212"
THIN = "\u202f"
"""A narrow space that doesn't break, between a number and its unit."""


class Html(str):
    """Text that is markup already."""

    __slots__ = ()


def visible(text: str) -> str:
    """Control, format and half characters made visible, so that no text can hide or turn around its neighbours."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(_shown(c) for c in text)


def _shown(char: str) -> str:
    if char in KEEP or unicodedata.category(char) not in ("Cc", "Cf", "Cs", "Zl", "Zp"):
        return char
    code = ord(char)
    if code < 0x20:
        return chr(0x2400 + code)  # the control pictures: ␛ for escape
    return "\u2421" if code == 0x7F else f"\u27e8U+{code:04X}\u27e9"


def esc(value: Any) -> Html:
    """Any value as harmless markup."""
    return value if isinstance(value, Html) else Html(html.escape(visible(str(value)), quote=True))


def join(parts: Iterable[Any]) -> Html:
    """Several pieces in a row; nothing and False leave no trace."""
    return Html("".join(esc(p) for p in parts if p is not None and p is not False and p != ""))


def el(name: str, /, *children: Any, **attributes: Any) -> Html:
    """An element. `class_` is class, `stroke_width` is stroke-width; None and False leave an attribute out."""
    given = "".join(_attribute(k, v) for k, v in attributes.items() if v is not None and v is not False)
    inner = join(children)
    if name in VOID:
        return Html(f"<{name}{given}>")
    if name in LEAVES and not inner:
        return Html(f"<{name}{given}/>")
    return Html(f"<{name}{given}>{inner}</{name}>")


def _attribute(name: str, value: Any) -> str:
    key = name.rstrip("_").replace("_", "-")
    if value is True:
        return f" {key}"
    if isinstance(value, float):
        value = f"{value:.1f}".removesuffix(".0")
    return f' {key}="{esc(value)}"'


def number(value: Any, digits: int = 3) -> str:
    """A number to so many significant digits, without exponents where a person would write none."""
    if value is None:
        return DASH
    size = abs(value)
    if size == 0:
        return "0"
    if size >= 1000:
        text = f"{value:,.0f}".replace(",", THIN)
    elif size >= 0.001:
        whole = len(str(int(size))) if size >= 1 else 0
        text = f"{value:.{max(0, digits - whole)}f}"
    else:
        mantissa, exponent = f"{value:.{digits - 1}e}".split("e")
        text = f"{mantissa}\u00b710" + "".join(
            "\u207b\u2070\u00b9\u00b2\u00b3\u2074\u2075\u2076\u2077\u2078\u2079"["-0123456789".index(c)]
            for c in str(int(exponent))
        )
    return text.replace("-", MINUS)


def count(value: float | None) -> str:
    """How many of something."""
    return DASH if value is None else f"{round(value):,}".replace(",", THIN).replace("-", MINUS)


def short(value: float) -> str:
    """A number for an axis: no more digits than it needs."""
    text = f"{value:,.10g}" if abs(value) >= 0.001 or value == 0 else f"{value:.0e}".replace("e-0", "e-")
    return text.replace(",", THIN).replace("-", MINUS)


def percent(share: float | None, digits: int = 0) -> str:
    """A share as per cent."""
    return DASH if share is None else f"{100 * share:.{digits}f}".replace("-", MINUS) + THIN + "%"


def signed(value: float | None, digits: int = 2) -> str:
    """A difference, always with its sign."""
    return DASH if value is None else f"{value:+.{digits}f}".replace("-", MINUS)


def duration(seconds: float | None) -> str:
    """Seconds as a person says them."""
    if seconds is None:
        return DASH
    if seconds < 60:
        return f"{seconds:.1f}{THIN}s" if seconds < 10 else f"{seconds:.0f}{THIN}s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}{THIN}h {minutes:02d}{THIN}min" if hours else f"{minutes}{THIN}min {rest:02d}{THIN}s"


def memory(megabytes: float | None) -> str:
    """Megabytes, in gigabytes from a thousand on."""
    if megabytes is None:
        return DASH
    return f"{megabytes / 1000:.1f}{THIN}GB" if megabytes >= 1000 else f"{megabytes:.0f}{THIN}MB"


def words(items: Iterable[str], last: str = "and") -> str:
    """Names in a row: a, b and c."""
    items = list(items)
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} {last} {items[-1]}" if items else ""
