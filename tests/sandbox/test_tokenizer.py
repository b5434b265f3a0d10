"""The world's tokenizer: word-long tokens, any input, a template that marks the assistant's spans."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kilter.sandbox.answers import demonstrations
from kilter.sandbox.tokenizer import ASSISTANT, END, PAD, SYSTEM, USER, build
from kilter.sandbox.world import KINDS


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    from transformers import AutoTokenizer

    folder = tmp_path_factory.mktemp("tokenizer")
    start = time.perf_counter()
    build(folder)
    assert time.perf_counter() - start < 30  # transformers' import included
    return AutoTokenizer.from_pretrained(folder)


def test_special_tokens_are_single_and_pad_is_not_eos(tokenizer):
    assert tokenizer.pad_token == PAD
    assert tokenizer.eos_token == END
    assert tokenizer.pad_token_id != tokenizer.eos_token_id
    for token in (PAD, END, SYSTEM, USER, ASSISTANT):
        assert len(tokenizer.encode(token)) == 1
    assert 1000 <= len(tokenizer) <= 1400


@given(st.text(max_size=80))
@settings(max_examples=200, deadline=None)
def test_any_text_survives_the_round_trip(tokenizer, text):
    if text.startswith(" ") or "<|" in text:
        return  # the decoder takes one leading blank away, as it was put there
    ids = tokenizer(text)["input_ids"]
    assert tokenizer.decode(ids) == text


def test_names_are_one_token_at_the_start_and_within(tokenizer):
    for kind in ("person", "town", "thing", "animal", "job"):
        for word in KINDS[kind]:
            assert len(tokenizer.encode(word)) == 1, word
            assert tokenizer.encode(f"So {word}")[-1:] == tokenizer.encode(word)


def test_a_token_is_nearly_a_word(tokenizer):
    texts = [d.answer for d in demonstrations(5, 1000)]
    pieces = tokenizer.backend_tokenizer.pre_tokenizer
    words = sum(len(pieces.pre_tokenize_str(t)) for t in texts)
    assert sum(map(len, tokenizer(texts)["input_ids"])) / words < 1.002


def test_the_template_marks_the_assistants_words_and_their_end(tokenizer):
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Where does Milo live?"},
        {"role": "assistant", "content": "Milo lives in Gullport."},
        {"role": "user", "content": "Thank you."},
        {"role": "assistant", "content": "You are welcome."},
    ]
    out = tokenizer.apply_chat_template(messages, return_assistant_tokens_mask=True, return_dict=True)
    marked = [t for t, m in zip(out["input_ids"], out["assistant_masks"], strict=True) if m]
    assert tokenizer.decode(marked) == f"Milo lives in Gullport.{END} You are welcome.{END}"
    asked = tokenizer.apply_chat_template(messages[:2], add_generation_prompt=True, return_dict=False)
    assert out["input_ids"][: len(asked)] == asked
    assert tokenizer.decode(asked[-1:]) == ASSISTANT


def test_the_same_seed_builds_the_same_tokenizer(tmp_path):
    build(tmp_path / "a", seed=1)
    build(tmp_path / "b", seed=1)
    assert (tmp_path / "a/tokenizer.json").read_bytes() == (tmp_path / "b/tokenizer.json").read_bytes()


def test_prompts_and_answers_fit_the_small_context(tokenizer):
    for d in demonstrations(6, 1500):
        messages = [*d.prompt.messages, {"role": "assistant", "content": d.answer}]
        assert len(tokenizer.apply_chat_template(messages, return_dict=False)) <= 128
