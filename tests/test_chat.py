"""Chat: what is typed or piped is answered, commands do what they say, model text can't touch the terminal."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Any

import pytest

from kilter import chat, cli
from kilter.errors import UserError
from kilter.models import load
from kilter.models.sample import Sampling, sample, stream


def converse(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], typed: str, *argv: str) -> str:
    monkeypatch.setattr(sys, "stdin", io.StringIO(typed))
    assert cli.main(["chat", *argv, "--max-new", "12"]) == 0
    return capsys.readouterr().out


def test_streaming_draws_what_sampling_draws(world: Path) -> None:
    model, tokenizer = load.load(str(world / "llama"), "causal"), load.load_tokenizer(str(world / "llama"))
    prompt = tokenizer("the cat likes")["input_ids"]
    for temperature in (0.0, 0.7, 1.0):
        settings, key = Sampling(temperature=temperature, max_new=20), ("k", 1)
        whole = sample(model, [prompt], [key], settings, tokenizer.eos_token_id)[0].ids
        assert list(stream(model, prompt, key, settings, tokenizer.eos_token_id)) == whole


def test_one_checkpoint_from_a_pipe(
    world: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    typed = "the cat\n/temp 0\nthe cat\n/reset\nthe cat\n/tmep\n/system be kind\n/temp x\nthe dog\n/quit\nnever read\n"
    out = converse(monkeypatch, capsys, typed, str(world / "llama"))
    assert out.count("llama: ") == 5  # the greeting and four answers
    assert "did you mean '/temp'?" in out
    assert "system message: be kind" in out
    assert "give a number of 0 or more" in out
    assert "never read" not in out
    assert converse(monkeypatch, capsys, typed, str(world / "llama")) == out, "the same seed says the same"


def test_two_side_by_side(world: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    out = converse(monkeypatch, capsys, "the cat\nand then\n", str(world / "llama"), str(world / "qwen2"))
    headings = [line.split() for line in out.splitlines() if line.split() == ["llama", "qwen2"]]
    assert len(headings) == 2


def test_a_long_talk_drops_its_oldest_turns(
    world: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = converse(monkeypatch, capsys, "the dog eats the fish and the corn\n" * 12, str(world / "llama"))
    assert out.count("llama: ") == 13
    longer = "the cat likes tea " * 60
    out = converse(monkeypatch, capsys, f"{longer}\nthe cat\n", str(world / "llama"))
    assert "but the context of llama is" in out
    assert out.rstrip().splitlines()[-1].startswith("llama: "), "the session goes on"


class Hostile:
    """A tokenizer whose every token is a piece of an escape sequence."""

    eos_token_id = 0
    pieces = ("", "safe ", "\x1b", "[2J", "\x1b]0;title", "\x07", "end")

    def decode(self, ids: list[int], **_: Any) -> str:
        return "".join(self.pieces[i] for i in ids)


def test_hostile_tokens_are_stripped_as_they_come(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chat, "stream", lambda *_: iter([1, 2, 3, 4, 5, 6, 0]))
    monkeypatch.setattr(chat.Speaker, "ids", lambda *_: [1])
    speaker = chat.Speaker("h", None, Hostile(), 64)
    shown = list(speaker.answer("", Sampling(), ("k",)))
    assert shown[-1] == "safe end"
    assert not any("\x1b" in text or "title" in text for text in shown)


def test_what_can_not_talk_is_refused(world: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="reward or value model"):
        chat.Speaker.load(str(world / "reward"))
    with pytest.raises(UserError, match="not a model folder"):
        chat.Speaker.load(str(tmp_path))
