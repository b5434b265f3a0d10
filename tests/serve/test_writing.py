"""Text that only grows: pieces joined are the whole, characters stay whole, nothing of a stop string gets out."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kilter.serve.writing import Spelling, Token, Writer

TEXTS = st.text(st.characters(blacklist_categories=("Cs",)), max_size=24)


@pytest.fixture(scope="module")
def spelling(tokenizer: Any) -> Spelling:
    return Spelling(tokenizer)


def written(writer: Writer, ids: list[int]) -> tuple[list[str], list[Token], bool]:
    pieces, tokens = [], []
    for i in ids:
        text, more, stopped = writer.add(i, Token(str(i), b"", 0.0))
        pieces.append(text)
        tokens += more
        if stopped:
            return pieces, tokens, True
    text, more, stopped = writer.end()
    return [*pieces, text], tokens + more, stopped


@given(TEXTS)
def test_pieces_joined_are_the_text_and_no_character_is_split(spelling: Spelling, text: str) -> None:
    ids = spelling.tokenizer.backend_tokenizer.encode(text, add_special_tokens=False).ids
    pieces, tokens, stopped = written(Writer(spelling.decode), ids)
    assert "".join(pieces) == spelling.decode(ids)
    assert not stopped
    assert [int(t.text) for t in tokens] == ids
    if "\ufffd" not in spelling.decode(ids):
        assert not any("\ufffd" in p for p in pieces)
    assert b"".join(spelling.bytes_of(i) for i in ids).decode() == text


@given(st.lists(st.integers(5, 329), max_size=20))
def test_any_ids_at_all_give_what_decoding_them_whole_gives(spelling: Spelling, ids: list[int]) -> None:
    pieces, tokens, _ = written(Writer(spelling.decode), ids)
    assert "".join(pieces) == spelling.decode(ids) == spelling.tokenizer.decode(ids)
    assert len(tokens) == len(ids)
    whole = Writer(spelling.decode, whole=True)
    assert written(whole, ids) == (["" for _ in ids] + [spelling.decode(ids)], tokens, False)


@given(
    st.text("abc ", max_size=30),
    st.lists(st.text("abc ", min_size=1, max_size=4), min_size=1, max_size=3),
    st.integers(1, 4),
)
def test_a_stop_string_ends_the_text_before_it_wherever_pieces_fall(text: str, stops: list[str], size: int) -> None:
    writer = Writer(lambda _: "", stops)
    out, stopped = "", False
    tokens: list[Token] = []
    for begin in range(0, len(text), size):
        piece = text[begin : begin + size]
        more, fresh, stopped = writer.write(piece, Token(piece, b"", 0.0))
        out, tokens = out + more, tokens + fresh
        assert text.startswith(out)
        if stopped:
            break
    if not stopped:
        more, fresh, late = writer.end()
        out, tokens = out + more, tokens + fresh
        assert not late
    places = [text.find(s) for s in stops if s in text]
    assert stopped == bool(places)
    if stopped:
        assert not any(s in out for s in stops)
        assert "".join(t.text for t in tokens).startswith(out)
        assert len("".join(t.text for t in tokens)) - len(out) < size
    else:
        assert out == text
        assert "".join(t.text for t in tokens) == text


def test_what_cannot_become_a_stop_string_is_sent_at_once() -> None:
    writer = Writer(lambda _: "", ["END"])
    assert writer.write("the EN")[0] == "the "
    assert writer.write("T")[0] == "ENT"
    assert writer.write("EEND more") == ("E", [], True)


def test_bytes_of_other_tokenizers() -> None:
    class Backend:
        decoder = None

    class Tokenizer:
        backend_tokenizer = Backend()
        added_tokens_decoder = {9: "<end>"}

        def convert_ids_to_tokens(self, i: int) -> str:
            return {0: "\u2581the", 1: "<0xE4>", 2: "x"}[i]

    spelling = Spelling(Tokenizer())
    assert [spelling.bytes_of(i) for i in (0, 1, 2, 9)] == [b" the", b"\xe4", b"x", b"<end>"]
    assert [spelling.text_of(i) for i in (0, 1)] == [" the", "bytes:\\xe4"]
