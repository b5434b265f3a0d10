"""The requests: their mix, their splits, and that held out means held out."""

from __future__ import annotations

from collections import Counter

import pytest

from kilter.data.records import Prompt
from kilter.errors import DataError
from kilter.sandbox.answers import demonstrations
from kilter.sandbox.conversations import AGAIN, key_of
from kilter.sandbox.grammar import read, sentences
from kilter.sandbox.rubric import KIND_RUBRICS
from kilter.sandbox.tasks import CATEGORIES, EVAL_SPLITS, SPLITS, USE_CASES, prompts
from kilter.sandbox.wordings import WORDINGS
from kilter.sandbox.world import RELATIONS, default_world

TRAINING = [split for split in SPLITS if split not in EVAL_SPLITS]


def body(prompt: Prompt) -> str:
    return "\n".join(m["content"] for m in prompt.messages if m["role"] != "system")


def test_the_same_seed_gives_the_same_prompts_and_a_longer_draw_begins_alike():
    assert list(prompts("rl", 1, 300)) == list(prompts("rl", 1, 400))[:300]
    assert list(prompts("rl", 1, 300)) != list(prompts("rl", 2, 300))


def test_the_mix_is_instructgpts_after_unsafe_and_lookalikes():
    n = 20_000
    shares = Counter(p.category for p in prompts("sft", 0, n))
    assert shares["unsafe"] / n == pytest.approx(0.08, abs=0.008)
    assert shares["lookalike"] / n == pytest.approx(0.05, abs=0.007)
    for category, percent in USE_CASES.items():
        assert shares[category] / n == pytest.approx(0.87 * percent / 99.9, abs=0.012), category


def test_there_are_more_than_a_hundred_thousand_distinct_prompts():
    assert len({p.id for p in prompts("rl", 0, 100_500)}) > 100_000


def test_no_evaluation_text_occurs_in_training():
    trained = {body(p) for split in TRAINING for p in prompts(split, 5, 8000)}
    held = {body(p) for split in EVAL_SPLITS for p in prompts(split, 5, 1500)}
    assert len(held) > 3000
    assert not trained & held


def test_every_category_has_plenty_of_unseen_evaluation_prompts():
    for category in CATEGORIES:
        found = {body(p) for p in prompts("eval", 0, 250, only=category)}
        assert len(found) >= 200, category


def test_evaluation_uses_wordings_that_training_never_does():
    def wordings(split: str) -> str:
        return "\n".join(body(p) for p in prompts(split, 0, 6000))

    trained, held = wordings("sft"), wordings("eval")
    for phrase in ("Could you ", "My question: ", "in which town does", "what sort of animal"):
        assert phrase in held or phrase.capitalize() in held
        assert phrase not in trained
        assert phrase.capitalize() not in trained


def test_held_out_facts_are_asked_only_in_evaluation_and_told_by_no_demonstration():
    held_out = default_world().held_out

    def asked(split: str) -> set[tuple[str, str]]:
        specs = (p.extra["sandbox"] for p in prompts(split, 0, 4000, only="open_qa"))
        return {(s["rel"], s[RELATIONS[s["rel"]][0]]) for s in specs if s["kind"] in ("fact", "why")}

    assert not asked("sft") & held_out
    assert not asked("rank") & held_out
    assert not asked("rl") & held_out
    assert len(asked("eval") & held_out) == len(held_out)
    told = 0
    for demonstration in demonstrations(0, 6000):
        for sentence in sentences(demonstration.answer):
            reading = read(sentence)
            if reading and reading.frame in RELATIONS:
                subject, value = (reading.slots[slot] for slot in RELATIONS[reading.frame])
                told += (reading.frame, subject) in held_out and default_world().true(reading.frame, subject, value)
    assert told <= 3  # a mistaken hand can hit a truth by chance


def test_users_of_the_evaluation_are_unseen_elsewhere():
    trained = {p.author_hash for split in TRAINING for p in prompts(split, 0, 2000)}
    held = {p.author_hash for split in EVAL_SPLITS for p in prompts(split, 0, 500)}
    assert len(trained) > 200
    assert len(held) > 50
    assert not trained & held


def test_some_prompts_have_earlier_turns_and_some_a_system_message():
    found = list(prompts("eval", 0, 3000))
    roles = [tuple(m["role"] for m in p.messages) for p in found]
    assert all(r[-1] == "user" for r in roles)
    assert 0.05 < sum("assistant" in r for r in roles) / len(roles) < 0.25
    assert 0.08 < sum("system" in r for r in roles) / len(roles) < 0.16


def test_the_separate_safety_splits_hold_one_category_each():
    assert {p.category for p in prompts("test-unsafe", 0, 200)} == {"unsafe"}
    assert {p.category for p in prompts("test-lookalike", 0, 200)} == {"lookalike"}
    assert len({p.id for p in prompts("test-lookalike", 0, 200)}) == 200


def test_every_prompt_carries_a_spec_that_survives_json():
    for prompt in prompts("rank", 0, 500):
        again = Prompt.from_json(prompt.to_json())
        assert again == prompt
        assert prompt.extra["sandbox"]["kind"] in KIND_RUBRICS
        assert key_of(prompt.extra["sandbox"]) in WORDINGS
        assert prompt.source == "sandbox"
        assert prompt.split_group
        assert prompt.author_hash
    assert set(AGAIN) <= set(WORDINGS)


def test_an_unknown_split_or_category_is_refused_with_the_nearest_name():
    with pytest.raises(DataError, match="did you mean 'eval'"):
        next(prompts("evl", 0, 1))
    with pytest.raises(DataError, match="did you mean 'open_qa'"):
        next(prompts("eval", 0, 1, only="openqa"))
