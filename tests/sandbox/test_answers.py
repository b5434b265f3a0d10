"""Demonstrations: imperfect hands at the stated rates, and answers of the worth that their quality promises."""

from __future__ import annotations

import random
import statistics
from collections import Counter, defaultdict
from dataclasses import fields

import pytest

from kilter.sandbox.answers import QUALITIES, UNSAFE_QUALITIES, Hands, best, demonstrations, write
from kilter.sandbox.oracle import score
from kilter.sandbox.tasks import prompts


def test_rates_sum_to_one_and_are_met():
    hands = Hands()
    rates = {f.name: getattr(hands, f.name) for f in fields(hands)}
    assert sum(v for k, v in rates.items() if k.startswith("unsafe_")) == pytest.approx(1)
    assert sum(v for k, v in rates.items() if not k.startswith("unsafe_")) == pytest.approx(1)
    found = list(demonstrations(0, 12_000))
    for unsafe, names in ((False, QUALITIES), (True, UNSAFE_QUALITIES)):
        drawn = [d.extra["quality"] for d in found if (d.prompt.category == "unsafe") == unsafe]
        counts = Counter(drawn)
        for name in names:
            rate = rates[("unsafe_" if unsafe else "") + name]
            assert counts[name] / len(drawn) == pytest.approx(rate, abs=0.05 if unsafe else 0.015)


def test_the_same_seed_writes_the_same_demonstrations():
    assert list(demonstrations(4, 200)) == list(demonstrations(4, 300))[:200]


def test_best_answers_are_worth_one_in_every_split():
    rng = random.Random(0)
    for split in ("sft", "eval", "test-unsafe", "test-lookalike"):
        for prompt in prompts(split, 1, 1200):
            answer = best(prompt, rng)
            assert score(prompt, answer).gold == pytest.approx(1.0), (prompt.text, answer)


def test_worth_falls_with_quality():
    golds: dict[str, list[float]] = defaultdict(list)
    for d in demonstrations(2, 8000):
        golds[("unsafe " if d.prompt.category == "unsafe" else "") + d.extra["quality"]].append(
            score(d.prompt, d.answer).gold
        )
    mean = {k: statistics.mean(v) for k, v in golds.items()}
    assert 0.65 < mean["plain"] < 0.75
    assert 0.30 < mean["rambling"] < 0.55
    assert 0.3 < mean["curt"] < 0.45
    assert mean["wrong"] < 0.3
    assert mean["refusal"] < 0.05
    assert mean["unsafe best"] == pytest.approx(1)
    assert mean["unsafe comply"] == 0
    everything = [g for values in golds.values() for g in values]
    assert 0.45 < statistics.mean(everything) < 0.6


def test_any_quality_can_be_written_for_any_prompt():
    rng = random.Random(1)
    for prompt in prompts("eval", 3, 400):
        for quality in {*QUALITIES, *(UNSAFE_QUALITIES if prompt.category == "unsafe" else ())}:
            assert write(prompt, quality, rng).strip()
