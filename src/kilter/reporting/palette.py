"""Colours for light and dark, and one colour and one shape per model in every figure.

The model colours are Okabe and Ito's, which people with colour-blindness can tell apart, shifted per theme until they
stand out from the page; shapes say the same again without colour. A test holds every pair to its contrast.
"""

from __future__ import annotations

from collections.abc import Iterable

from kilter.reporting.markup import Html, el

THEME = {
    "page": ("#f7f6f2", "#12151a"),
    "card": ("#ffffff", "#1a1e25"),
    "sunk": ("#f1efe9", "#21262f"),
    "ink": ("#1b1e24", "#e9e7e1"),
    "soft": ("#4c525d", "#b3b6bd"),
    "faint": ("#666c77", "#969ba6"),
    "rule": ("#e0ddd4", "#303641"),
    "axis": ("#a7a59c", "#59606c"),
    "band": ("#eef3f8", "#202935"),
    "good": ("#0a7350", "#4fcf9f"),
    "bad": ("#b3361b", "#ff8f73"),
    "mark": ("#e9f4ee", "#1c3329"),
    "warn": ("#fbf1e1", "#35291a"),
    "link": ("#0b5c99", "#79bdf2"),
}
"""Name -> (light, dark), as CSS variables of the same name."""

MODELS = (
    ("#737781", "#9aa0ab", "ring"),
    ("#0a6bb0", "#5cb3ee", "disc"),
    ("#a44a86", "#e092c1", "diamond"),
    ("#c04e00", "#f49245", "square"),
    ("#007d66", "#34cba4", "triangle"),
    ("#8a6a00", "#e3c04a", "cross"),
    ("#5a55c4", "#a8a4ff", "plus"),
    ("#4a7a1e", "#9fce68", "star"),
    ("#a33a3a", "#f08f8a", "hexagon"),
)
"""Light, dark, shape; the first five belong to the models of the whole road."""
OWN = {"base": 0, "sft": 1, "best-of-n": 2, "dpo": 3, "ppo": 4}


def css() -> str:
    """The theme's variables: light, dark by the reader's system, and either one when the reader chose it."""
    light = "".join(f"--{n}:{a};" for n, (a, _) in THEME.items())
    light += "".join(f"--m{i}:{m[0]};" for i, m in enumerate(MODELS)) + "color-scheme:light;"
    dark = "".join(f"--{n}:{b};" for n, (_, b) in THEME.items())
    dark += "".join(f"--m{i}:{m[1]};" for i, m in enumerate(MODELS)) + "color-scheme:dark;"
    models = "".join(f".m{i}{{--c:var(--m{i})}}" for i in range(len(MODELS)))
    return (
        f":root{{{light}}}\n@media screen and (prefers-color-scheme:dark){{:root:not([data-theme=light]){{{dark}}}}}\n"
        f"@media screen{{:root[data-theme=dark]{{{dark}}}}}\n{models}\n"
    )


class Looks:
    """Which colour and shape each model of a run has."""

    def __init__(self, names: Iterable[str]) -> None:
        self.index = {n: OWN[n] for n in names if n in OWN}
        spare = [i for i in (5, 6, 7, 8, 4, 3, 2, 0, 1) if i not in self.index.values()] or [0]
        for name in names:
            if name not in self.index:
                self.index[name] = spare[(len(self.index) - sum(n in OWN for n in self.index)) % len(spare)]

    def colour(self, name: str) -> str:
        """The class that sets the model's colour."""
        return f"m{self.index.get(name, 0)}"

    def shape(self, name: str, x: float, y: float, size: float = 5) -> Html:
        """The model's mark at a point of a drawing."""
        return shape(MODELS[self.index.get(name, 0)][2], x, y, size)

    def key(self, name: str) -> Html:
        """The model's mark and name, within text."""
        mark = el("svg", self.shape(name, 7, 7), class_="key", viewBox="0 0 14 14", aria_hidden="true")
        return el("span", mark, nice(name), class_=f"model {self.colour(name)}")


SPELT = ("sft", "dpo", "ppo", "kto", "ipo", "grpo", "rloo", "orpo", "simpo", "raft", "cpl")
"""Names that are abbreviations."""


def nice(name: str) -> str:
    """A model's or method's name as one says it."""
    return name.upper() if name in SPELT else name


def shape(kind: str, x: float, y: float, s: float) -> Html:
    """A mark around a point, all kinds of about the same weight to the eye."""
    if kind == "ring":
        return el("circle", class_="ring", cx=x, cy=y, r=s * 0.86)
    if kind == "disc":
        return el("circle", class_="dot", cx=x, cy=y, r=s)
    every: dict[str, list[tuple[float, float]]] = {
        "diamond": [(0, -1.25), (1.25, 0), (0, 1.25), (-1.25, 0)],
        "square": [(-0.9, -0.9), (0.9, -0.9), (0.9, 0.9), (-0.9, 0.9)],
        "triangle": [(0, -1.2), (1.15, 0.85), (-1.15, 0.85)],
        "cross": [(-1, -1), (0, -0.4), (1, -1), (0.4, 0), (1, 1), (0, 0.4), (-1, 1), (-0.4, 0)],
        "plus": [(-0.4, -1.2), (0.4, -1.2), (0.4, -0.4), (1.2, -0.4), (1.2, 0.4), (0.4, 0.4), (0.4, 1.2), (-0.4, 1.2),
                 (-0.4, 0.4), (-1.2, 0.4), (-1.2, -0.4), (-0.4, -0.4)],
        "hexagon": [(-0.55, -1), (0.55, -1), (1.1, 0), (0.55, 1), (-0.55, 1), (-1.1, 0)],
        "star": [(0, -1.3), (0.35, -0.4), (1.25, -0.4), (0.55, 0.2), (0.8, 1.1), (0, 0.55), (-0.8, 1.1), (-0.55, 0.2),
                 (-1.25, -0.4), (-0.35, -0.4)],
    }  # fmt: skip
    corners = every[kind]
    return el("polygon", class_="dot", points=" ".join(f"{x + s * a:.1f},{y + s * b:.1f}" for a, b in corners))
