"""`kilter demo --you`: a person chooses between pairs of answers, and the choices join the training.

runs/<run>/you/
  pairs.jsonl       the pairs to be shown, drawn from the SFT model on prompts that were never ranked
  judgments.jsonl   one Judgment per choice, appended and synced at once; skipped.jsonl beside it
  model/            the SFT model after DPO on collected rankings and all your choices
  summary.json      how far the model moved towards choices it had not seen (see `taste`)
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kilter.data import render, streams
from kilter.data.records import Candidate, Judgment, Message, Prompt, read_jsonl, write_jsonl
from kilter.errors import RunError
from kilter.feedback import taste
from kilter.runs import Lock, hash_path, make_folder, read_done
from kilter.text import printable

RATER = {"id": "you", "type": "person"}
TIERS = {"1": ((0,), (1,)), "2": ((1,), (0,)), "0": ((0, 1),)}
"""What each key means; s skips, q ends."""
DRAWS = 6
"""Answers drawn per prompt; the shortest and the longest are shown. Pairs that differ visibly are quick to judge and
teach most: with the first two draws, even the plainest taste is lost in twenty choices (docs/LOG.md)."""
BATCHES = 50
"""Batches of 40 prompts after which it is given up: such a model answers alike however often it is asked."""
WORLD_SEED = 20_000
"""Added to the run's seed: prompts of the ranking split that no other stage has drawn."""


def play(run_folder: Path, pairs: int, train: Callable[..., Any]) -> dict[str, Any] | None:
    """Show pairs until `pairs` of them are judged, then train and measure; None where too few choices were made.

    `train` is `kilter.pipeline.train_one`.
    """
    folder = make_folder(run_folder / "you")
    with Lock(folder):
        shown = load_pairs(run_folder, folder, pairs)
        ask(shown, folder, pairs)
        judged = load_judgments(folder)
        if len(taste.decided(judged)) < taste.FOLDS:
            print(
                f"{len(taste.decided(judged))} decided choices so far; from {taste.FOLDS} on they join the training: "
                "the same command goes on where you stopped"
            )
            return None
        return taste.learn(run_folder, folder, judged, train)


# --- pairs ------------------------------------------------------------------------------------------------------------


def load_pairs(run_folder: Path, folder: Path, wanted: int) -> list[tuple[Prompt, tuple[Candidate, Candidate]]]:
    """The pairs of this run's SFT model: those wanted, those skipped and as many again; a longer list begins alike."""
    model = run_folder / "sft" / "model"
    done = read_done(run_folder / "collect")
    if not model.is_dir() or done is None:
        raise RunError(f"{run_folder} has no finished stages `sft` and `collect`; run the recipe until collect first")
    revision = hash_path(model)
    path = folder / "pairs.jsonl"
    rows = [row for _, row in read_jsonl(path)] if path.is_file() else []
    needed = 2 * wanted + len(rows_of(folder / "skipped.jsonl"))
    if len(rows) < needed or rows[0]["revision"] != revision:
        rows = [
            {"revision": revision, "prompt": p.to_json(), "candidates": [c.to_json() for c in pair]}
            for p, pair in itertools.islice(draw_pairs(run_folder, model, revision), needed)
        ]
        if len(rows) < wanted:
            raise RunError(f"{model} gives the same answer however often it is asked: no pairs to choose from")
        write_jsonl(path, rows)
    return [(Prompt.from_json(r["prompt"]), tuple(Candidate.from_json(c) for c in r["candidates"])) for r in rows]  # type: ignore[misc]


def draw_pairs(
    run_folder: Path, model_folder: Path, revision: str
) -> Iterator[tuple[Prompt, tuple[Candidate, Candidate]]]:
    """Two different answers at temperature 1 to each prompt that the model was not ranked on; every draw is keyed."""
    from kilter.models import load
    from kilter.models.sample import Sampling, sample, text_of

    stage = json.loads((run_folder / "collect" / "stage.json").read_text(encoding="utf-8"))
    seed, settings = int(stage["seed"]), Sampling(temperature=1.0, max_new=int(stage["config"].get("max_new", 64)))
    tokenizer = load.load_tokenizer(str(model_folder))
    model = load.load(str(model_folder), "causal")
    eos, room = tokenizer.eos_token_id, load.context_of(str(model_folder)) - settings.max_new
    for prompts in itertools.islice(_batches(unranked_prompts(run_folder, seed), 40), BATCHES):
        ids = render.prompt_ids(tokenizer, [p.messages for p in prompts])
        flat = [(i, draw) for i in range(len(prompts)) if len(ids[i]) <= room for draw in range(DRAWS)]
        keys = [(seed, "you", prompts[i].id, draw) for i, draw in flat]
        drawn = sample(model, [ids[i] for i, _ in flat], keys, settings, eos)
        found: dict[int, dict[str, Candidate]] = {}
        for (i, number), answer in zip(flat, drawn, strict=True):
            text = text_of(tokenizer, answer, eos)
            if text.strip():
                generator = {
                    "model": "sft",
                    "revision": revision,
                    "draw": number,
                    "seed": seed,
                    "finished": answer.finished,
                    "tokens": len(answer.ids),
                    **dataclasses.asdict(settings),
                }
                one = Candidate(prompt_id=prompts[i].id, answer=text, generator=generator)
                found.setdefault(i, {}).setdefault(text.strip(), one)
        for i, mine in found.items():
            if len(mine) > 1:
                yield prompts[i], _furthest(list(mine.values()), seed)


def _furthest(answers: list[Candidate], seed: int) -> tuple[Candidate, Candidate]:
    """The shortest and the longest answer, of the finished ones if there are two, in an order drawn for the prompt."""
    finished = [c for c in answers if c.generator["finished"]]
    among = finished if len(finished) > 1 else answers
    ranked = sorted(among, key=lambda c: (c.generator["tokens"], c.generator["draw"]))
    short, long = ranked[0], ranked[-1]
    flip = streams.draw(seed, "you", short.prompt_id, "order").random() < 0.5
    return (long, short) if flip else (short, long)


def unranked_prompts(run_folder: Path, seed: int) -> Iterator[Prompt]:
    """Prompts of the sandbox's ranking split whose text stands in none of the collected rankings; endless."""
    from kilter.sandbox.tasks import prompts

    files = (run_folder / "collect").glob("rankings*.jsonl")
    seen = {row["prompt"]["id"] for file in files for _, row in read_jsonl(file)}
    for part in itertools.count():
        for prompt in prompts("rank", seed + WORLD_SEED + part, 200):
            if prompt.id not in seen:
                seen.add(prompt.id)
                yield prompt


def _batches(items: Iterator[Prompt], size: int) -> Iterator[list[Prompt]]:
    while batch := list(itertools.islice(items, size)):
        yield batch


# --- the ledger -------------------------------------------------------------------------------------------------------


def append(path: Path, row: Mapping[str, Any]) -> None:
    """Add one row and sync it, so that no choice is ever asked for twice; a line torn by a kill is cut off first."""
    with open(path, "a+b") as out:
        out.seek(0)
        whole = out.read()
        out.truncate(whole.rfind(b"\n") + 1)
        out.write(json.dumps(row, ensure_ascii=False).encode() + b"\n")
        out.flush()
        os.fsync(out.fileno())


def rows_of(path: Path) -> list[dict[str, Any]]:
    """The whole lines of a ledger."""
    lines = path.read_bytes().split(b"\n")[:-1] if path.is_file() else []
    return [json.loads(line) for line in lines]


def load_judgments(folder: Path) -> list[Judgment]:
    """The choices made so far."""
    return [Judgment.from_json(row) for row in rows_of(folder / "judgments.jsonl")]


# --- asking -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Keys:
    """One key at a time from a terminal, without return; lines where standard input is a file or a pipe."""

    live: bool

    @classmethod
    def of_stdin(cls) -> Keys:
        return cls(sys.stdin.isatty())

    def read(self) -> str:
        """The next key in lower case; `q` when there are no more."""
        if self.live:
            with contextlib.suppress(ImportError):
                return self._raw()
        line = sys.stdin.readline()
        return line.strip()[:1].lower() if line else "q"

    def _raw(self) -> str:
        import termios
        import tty

        before = termios.tcgetattr(sys.stdin)
        try:
            tty.setcbreak(sys.stdin, termios.TCSADRAIN)  # Ctrl-C still interrupts; keys typed ahead are kept
            key = os.read(sys.stdin.fileno(), 1)
        finally:
            termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)
        return key.decode("latin-1").lower() if key and key != b"\x04" else "q"


def ask(shown: list[tuple[Prompt, tuple[Candidate, Candidate]]], folder: Path, wanted: int) -> None:
    """Show the pairs that are not judged yet, one key each, until `wanted` are judged."""
    past = load_judgments(folder)
    judged = {tuple(c.id for c in j.candidates) for j in past}
    skipped = {tuple(row["candidates"]) for row in rows_of(folder / "skipped.jsonl")}
    count, keys = len(past), Keys.of_stdin()
    if count >= wanted:
        return
    print(
        f"Which answer do you prefer? {wanted - count} pairs, one key each; every choice is kept at once."
        if count == 0
        else f"{count} of {wanted} pairs are judged already; it goes on."
    )
    for prompt, pair in shown:
        names = tuple(c.id for c in pair)
        if count >= wanted:
            break
        if names in judged or names in skipped:
            continue
        show_pair(prompt, pair, f"{count + 1} of {wanted}")
        began = time.monotonic()
        key = _valid_key(keys)
        if key == "q":
            break
        if key == "s":
            append(folder / "skipped.jsonl", {"prompt": prompt.id, "candidates": names})
            continue
        seconds = round(time.monotonic() - began, 2)
        append(
            folder / "judgments.jsonl",
            Judgment(
                prompt=prompt,
                candidates=pair,
                tiers=TIERS[key],
                kind="pair",
                order_shown=(0, 1),
                rater=RATER,
                raw=key,
                seconds=seconds,
            ).to_json(),
        )
        count += 1
    print()


def _valid_key(keys: Keys) -> str:
    while True:
        print("  1 first   2 second   0 tie   s skip   q enough  > ", end="", flush=True)
        key = keys.read()
        print(key if key.isprintable() else "")
        if key in (*TIERS, "s", "q"):
            return key


def show_pair(prompt: Prompt, pair: tuple[Candidate, Candidate], label: str) -> None:
    """The conversation, and the two answers side by side."""
    from rich.table import Table
    from rich.text import Text

    from kilter.terminal import console

    out = console()
    out.rule(Text(label, style="dim"), style="dim")
    for message in prompt.messages:
        out.print(_turn(message))
    table = Table(expand=True, show_edge=False, pad_edge=False, header_style="bold cyan", padding=(0, 2, 0, 0))
    table.add_column("1", ratio=1, overflow="fold")
    table.add_column("2", ratio=1, overflow="fold")
    table.add_row(*(Text(_shown(c)) for c in pair))
    out.print(table)


def _turn(message: Message) -> Any:
    from rich.text import Text

    return Text.assemble((f"{message['role']}: ", "bold"), printable(message["content"]))


def _shown(candidate: Candidate) -> str:
    cut = "" if candidate.generator.get("finished", True) else " … (cut off)"
    return printable(candidate.answer).strip() + cut
