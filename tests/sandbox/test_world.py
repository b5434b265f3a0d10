"""The knowledge base and the corpus that states it."""

from __future__ import annotations

import re

from kilter.sandbox.corpus import documents, qa_form
from kilter.sandbox.grammar import claims, patterns, read, sentences
from kilter.sandbox.phrases import FRAMES
from kilter.sandbox.tasks import is_held_out, prompts
from kilter.sandbox.world import HELD_OUT_FACTS, KINDS, RELATIONS, VERSION, default_world


def test_the_world_is_fixed_and_versioned():
    world = default_world()
    assert world.version == VERSION == 1
    assert world.facts["home", "Milo"] == ("Gullport",)
    assert world.facts["famous", "Gullport"] == ("lighthouse",)
    assert len(world.facts) == 302
    assert len(world.held_out) == HELD_OUT_FACTS


def test_a_word_has_one_kind_only():
    words = [word.lower() for words in KINDS.values() for word in words]
    assert len(words) == len(set(words))


def test_neighbours_are_mutual_and_every_relation_is_total():
    world = default_world()
    for relation, (subject, _) in RELATIONS.items():
        assert all((relation, word) in world.facts for word in KINDS[subject])
    for town in world.towns:
        (neighbour,) = world.facts["near", town]
        assert world.facts["near", neighbour] == (town,)


def test_a_sentence_has_one_reading():
    """A key that two frames share is told apart by a literal word, and never by luck."""
    for rows in patterns().values():
        assert len({pattern.literals for _, pattern in rows}) == len(rows)
    assert len(FRAMES) > 200


def test_every_fact_is_stated_in_the_corpus_and_few_statements_are_wrong():
    stated: set[tuple[str, str, str]] = set()
    right = total = 0
    for document in documents(1, 12_000):
        if document.startswith("Question:"):
            continue
        for sentence in sentences(document):
            reading = read(sentence)
            if reading and reading.frame in RELATIONS:
                subject, value = RELATIONS[reading.frame]
                (true,) = claims(reading)
                right, total = right + true, total + 1
                if true:
                    stated.add((reading.frame, reading.slots[subject], reading.slots[value]))
    world = default_world()
    missing = {(r, s, v) for (r, s), values in world.facts.items() for v in values} - stated
    assert not missing
    assert 0.03 < 1 - right / total < 0.07


def test_documents_are_the_same_for_the_same_seed_and_differ_for_another():
    assert list(documents(3, 50)) == list(documents(3, 50))
    assert list(documents(3, 50)) != list(documents(4, 50))
    assert list(documents(3, 50)) == list(documents(3, 80))[:50]


def test_three_documents_in_ten_are_questions_and_none_of_them_is_held_out():
    found = list(documents(2, 5000))
    asked = [d for d in found if d.startswith("Question:")]
    assert 0.27 < len(asked) / len(found) < 0.33
    for document in asked:
        for question in re.findall(r"^Question: (.*)$", document, re.MULTILINE):
            assert not is_held_out([{"role": "user", "content": question}])


def test_the_base_form_holds_no_chat_tokens_and_ends_where_the_answer_begins():
    for prompt in prompts("eval", 0, 200):
        text = qa_form(prompt)
        assert "<|" not in text
        assert text.endswith("\nAnswer:")
        assert prompt.messages[-1]["content"] in text
