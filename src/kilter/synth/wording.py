"""The words in which a recipe asks: shipped beside the recipe, replaced by name, hashed into what they made."""

from __future__ import annotations

import re
from collections.abc import Mapping

from kilter.data.records import content_id
from kilter.errors import RecipeError, nearest

SLOT = re.compile(r"\{([a-z_]+)\}")


def worded(shipped: Mapping[str, str], own: Mapping[str, str] | None, where: str = "words") -> dict[str, str]:
    """The shipped words with the user's own in their place; every slot of a shipped text must stand in the new one."""
    words = dict(shipped)
    for name, text in (own or {}).items():
        if name not in shipped:
            raise RecipeError(f"{where}: there is no prompt {name!r}{nearest(name, shipped)}")
        given, wanted = set(SLOT.findall(text)), set(SLOT.findall(shipped[name]))
        if given != wanted:
            slots = ", ".join(f"{{{s}}}" for s in sorted(wanted)) or "no slots"
            raise RecipeError(f"{where}.{name} must hold {slots}, got {sorted(given) or 'none'}")
        words[name] = text
    return words


def filled(text: str, **values: object) -> str:
    """A text with its slots filled; braces in what is filled in stay as they are."""
    return SLOT.sub(lambda m: str(values[m[1]]), text)


def hash_of(words: Mapping[str, str]) -> str:
    """What stands in a row for the words that it was asked with."""
    return content_id(dict(words))
