"""Checks of what a reward model likes: an answer that says nothing must not be worth more than one that does."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from kilter.doctor.finding import Finding

Score = Callable[[list[list[int]]], list[float]]
"""Sequences -> their scores."""
REPEATS = 24
"""How often the repeated token stands in an answer."""


def degenerate(answer: Sequence[int], room: int, eos: int) -> dict[str, list[int]]:
    """Answers that nobody wants, made of a real one: nothing, one token again and again, the answer over and over."""
    body = [i for i in answer if i != eos] or [eos]
    middle = body[len(body) // 2]
    copies = max(2, room // max(len(body), 1))
    return {
        "empty": [eos],
        "repeated": [*([middle] * REPEATS)[: max(room - 1, 1)], eos],
        "over-long": [*(body * copies)[: max(room - 1, 1)], eos],
    }


def sanity(
    score: Score, prompts: Sequence[Sequence[int]], answers: Sequence[Sequence[int]], room: int, eos: int
) -> list[Finding]:
    """Whether empty, repeated and over-long answers score above the answers that they are made of."""
    real = score([[*p, *a] for p, a in zip(prompts, answers, strict=True)])
    made = [degenerate(a, room, eos) for a in answers]
    found = [_spread(real)]
    for kind in ("empty", "repeated", "over-long"):
        got = score([[*p, *m[kind]] for p, m in zip(prompts, made, strict=True)])
        wins = sum(bad > good for bad, good in zip(got, real, strict=True))
        saw = (
            f"{wins} of {len(real)} {kind} answers score above the answer that they stand for "
            f"(mean {np.mean(got):.3g} against {np.mean(real):.3g})"
        )
        many = wins > len(real) / 2
        do = "a policy will find that: let rankings hold such answers as losers, and read samples"
        found.append(Finding(f"reward: {kind} answers", "warn" if many else "ok", saw, do if many else ""))
    return found


def _spread(real: Sequence[float]) -> Finding:
    low, high = min(real), max(real)
    saw = f"{len(real)} answers score from {low:.3g} to {high:.3g}"
    if not np.isfinite(real).all():
        return Finding("reward: spread", "fail", saw, "the reward model's scores are not finite: train it anew")
    if low == high and len(real) > 1:
        do = "there is nothing to learn from it: is it a trained reward model?"
        return Finding("reward: spread", "fail", f"{saw}: every answer gets the same score", do)
    return Finding("reward: spread", "ok", saw)


def likes_length(score: Score, prompts: Sequence[Sequence[int]], answers: Sequence[Sequence[int]]) -> Finding:
    """How far scores follow the mere length of answers."""
    got = score([[*p, *a] for p, a in zip(prompts, answers, strict=True)])
    sizes = [len(a) for a in answers]
    if len(got) < 8 or np.std(got) == 0 or np.std(sizes) == 0:
        return Finding("reward: length", "note", f"{len(got)} answers are too few, or too alike, to judge")
    corr = float(np.corrcoef(got, sizes)[0, 1])
    saw = f"scores and lengths of {len(got)} answers correlate by {corr:+.2f}"
    if abs(corr) > 0.7:
        return Finding("reward: length", "warn", saw, "length alone is rewarded: balance lengths in the rankings")
    return Finding("reward: length", "ok", saw)
