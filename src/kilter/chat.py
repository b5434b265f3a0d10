"""Talking to a checkpoint in the terminal, or to two side by side; works from piped input too.

Each model keeps its own conversation: the same questions, its own answers. Both draw with the same luck.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path
from typing import Any

from rich.live import Live
from rich.table import Table
from rich.text import Text

from kilter.data import render
from kilter.data.records import Message
from kilter.errors import KilterError, UserError, nearest
from kilter.models import load
from kilter.models.sample import Sampling, stream
from kilter.terminal import console
from kilter.text import printable

COMMANDS = {
    "/reset": "forget the conversation",
    "/system": "TEXT  set the system message and start anew; without a text there is none",
    "/temp": "X  set the temperature; 0 is greedy",
    "/help": "this list",
    "/quit": "leave (as do Ctrl-D and Ctrl-C)",
}


@dataclass
class Speaker:
    """One model and its side of the conversation."""

    name: str
    model: Any
    tokenizer: Any
    context: int
    turns: list[Message] = field(default_factory=list)

    @classmethod
    def load(cls, checkpoint: str) -> Speaker:
        """A causal model from a folder, from a stage's folder that holds one, or from the hub."""
        path = Path(checkpoint).expanduser()
        if not load.is_model(path) and load.is_model(path / "model"):
            path = path / "model"
        name = str(path) if path.exists() else checkpoint
        load.check_model(name)
        _refuse_scorers(path)
        tokenizer = load.load_tokenizer(name)
        render.check_tokenizer(tokenizer, name)
        render.check_template(tokenizer, name)
        label = path.resolve().parent.name if path.name == "model" else path.name
        return cls(printable(label), load.load(name, "causal"), tokenizer, load.context_of(name))

    def ids(self, system: str, room: int) -> list[int]:
        """The conversation as ids that leave room for an answer; the oldest turns are dropped where they must be."""
        head: list[Message] = [{"role": "system", "content": system}] if system else []
        while True:
            ids = render.prompt_ids(self.tokenizer, [[*head, *self.turns]])[0]
            if len(ids) + room <= self.context:
                return ids
            if len(self.turns) < 3:
                raise UserError(
                    f"{len(ids)} tokens, but the context of {self.name} is {self.context} and the answer needs {room}"
                )
            del self.turns[:2]

    def answer(self, system: str, settings: Sampling, key: Sequence[object]) -> Iterator[str]:
        """The growing answer, printable; when it ends it joins the conversation."""
        eos, prompt = self.tokenizer.eos_token_id, self.ids(system, settings.max_new)
        ids: list[int] = []
        text = ""
        try:
            for token in stream(self.model, prompt, key, settings, eos):
                if token != eos:
                    ids.append(token)
                    text = self.tokenizer.decode(ids, skip_special_tokens=False)
                    yield printable(text.removesuffix("\ufffd")).lstrip()  # half a character is held back
        finally:
            self.turns.append({"role": "assistant", "content": text.strip() or "..."})


def _refuse_scorers(path: Path) -> None:
    """A reward or value model would load without its head and babble."""
    if path.is_dir() and load.scores(str(path)):
        raise UserError(f"{path} is a reward or value model: it scores answers and can't talk")


@dataclass
class Talk:
    """The state of a session: who speaks, under which system message, how boldly."""

    speakers: list[Speaker]
    system: str
    temperature: float
    max_new: int
    seed: int
    turn: int = 0

    def settings(self) -> Sampling:
        room = min(s.context for s in self.speakers) // 2
        return Sampling(temperature=self.temperature, max_new=max(1, min(self.max_new, room)))

    def reset(self) -> None:
        for speaker in self.speakers:
            speaker.turns.clear()

    def ask(self, question: str) -> list[Iterator[str]]:
        """Put a question to every speaker; their answers grow as they are read."""
        _take_back(self)  # what an interrupt left without an answer
        settings, self.turn = self.settings(), self.turn + 1
        for speaker in self.speakers:
            speaker.turns.append({"role": "user", "content": question})
        return [s.answer(self.system, settings, ("chat", self.seed, self.turn)) for s in self.speakers]

    def command(self, line: str) -> str | None:
        """Do what a line with a slash says; returns what to print, or None to leave."""
        word, _, rest = line.partition(" ")
        rest = rest.strip()
        if word in ("/quit", "/exit"):
            return None
        if word == "/reset":
            self.reset()
            return "the conversation is forgotten"
        if word == "/system":
            self.system = rest
            self.reset()
            return f"system message: {printable(rest)}" if rest else "no system message"
        if word == "/temp":
            try:
                Sampling(temperature=float(rest))
            except ValueError:
                return f"temperature {self.temperature}; give a number of 0 or more, e.g. /temp 0.7"
            self.temperature = float(rest)
            return f"temperature {self.temperature}"
        if word == "/help":
            return "\n".join(f"  {name:<8} {about}" for name, about in COMMANDS.items())
        return f"unknown command {printable(word)}{nearest(word, COMMANDS)}"


def converse(
    checkpoints: Sequence[str], *, system: str = "", temperature: float = 0.7, max_new: int = 256, seed: int = 1
) -> None:
    """Read lines until the end, answer each."""
    Sampling(temperature=temperature, max_new=max_new)
    talk = Talk([Speaker.load(c) for c in checkpoints], system, temperature, max_new, seed)
    if len(talk.speakers) == 2 and talk.speakers[0].name == talk.speakers[1].name:
        for speaker, checkpoint in zip(talk.speakers, checkpoints, strict=True):
            speaker.name = printable(checkpoint)
    show = side_by_side if len(talk.speakers) == 2 else alone
    names = " and ".join(s.name for s in talk.speakers)
    print(
        f"{names}: temperature {talk.temperature}, at most {talk.settings().max_new} tokens; /help lists the commands"
    )
    for line in questions():
        try:
            if line.startswith("/"):
                said = talk.command(line)
                if said is None:
                    return
                print(said)
            else:
                show(talk, line)
        except KilterError as error:  # this question can't be answered; the session goes on
            print(f"({printable(str(error))})")
            _take_back(talk)


def _take_back(talk: Talk) -> None:
    """Forget a question that got no answer."""
    for speaker in talk.speakers:
        while speaker.turns and speaker.turns[-1]["role"] != "assistant":
            speaker.turns.pop()


def questions() -> Iterator[str]:
    """Lines that a person types, or that stand in a pipe (then echoed, so that the output can be read alone)."""
    live = sys.stdin.isatty()
    if live:
        import contextlib

        with contextlib.suppress(ImportError):
            import readline  # noqa: F401  (editing and history at the prompt)
    while True:
        try:
            line = input("\nyou: " if live else "")
        except (EOFError, KeyboardInterrupt):
            print()
            return
        line = line.strip()
        if line:
            if not live:
                print(f"\nyou: {printable(line)}")
            yield line


def alone(talk: Talk, question: str) -> None:
    """One answer, as it is drawn."""
    print(f"{talk.speakers[0].name}: ", end="", flush=True)
    shown = ""

    def more(texts: list[str]) -> None:
        nonlocal shown
        if texts[0].startswith(shown):
            print(texts[0][len(shown) :], end="", flush=True)
            shown = texts[0]

    _play(talk.ask(question), more)
    print()


def side_by_side(talk: Talk, question: str) -> None:
    """Two answers in columns, growing together; in a pipe, printed when they are whole."""
    names = [s.name for s in talk.speakers]
    answers = talk.ask(question)
    if not sys.stdout.isatty():
        console().print(_columns(names, _play(answers, lambda _: None)))
        return
    with Live(_columns(names, ["", ""]), console=console(), refresh_per_second=12) as live:
        _play(answers, lambda texts: live.update(_columns(names, texts)))


def _play(answers: list[Iterator[str]], more: Callable[[list[str]], None]) -> list[str]:
    """Draw all answers in step until each has ended; Ctrl-C ends them where they are."""
    texts = [""] * len(answers)
    try:
        for step in zip_longest(*answers):
            texts = [new if new is not None else old for new, old in zip(step, texts, strict=True)]
            more(texts)
    except KeyboardInterrupt:
        for answer in answers:
            answer.close()  # type: ignore[attr-defined]
    return texts


def _columns(names: Sequence[str], texts: Sequence[str]) -> Table:
    table = Table(box=None, expand=True, padding=(0, 3, 0, 0), header_style="bold")
    for name in names:
        table.add_column(Text(name), ratio=1, overflow="fold")
    table.add_row(*(Text(t) for t in texts))
    return table
