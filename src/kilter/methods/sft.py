"""Supervised fine-tuning: imitate the answers, and the end-of-answer token, of demonstrations.

    loss = -Σ_answers log p(y_t | x, y_<t) / answer tokens   +   c · (-Σ_corpus log p / corpus tokens)

The second term mixes corpus rows in, so that the model keeps what pretraining taught it (the alignment tax).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from kilter.methods import Loss, Round, Training, rounds_of

EATS = {"data": "packed-demonstrations", "corpus": "packed-text"}
NEEDS = {"policy": "causal"}
PARAMS = {"policy": "lr"}
State = Round


@dataclass(frozen=True, kw_only=True)
class Config(Training):
    """Fine-tuning; the defaults suit training every weight of a full model, `recipes/sandbox.yaml` has a tiny one's."""

    corpus: str = ""
    """Text rows mixed in against forgetting: a JSONL file or `stage/file.jsonl`; empty for none."""
    corpus_rows: int = 2
    """Packed corpus rows beside each batch, when a corpus is given."""
    corpus_coef: float = 0.25
    """Weight of the corpus term."""
    turns: Literal["last", "all"] = "last"
    """Take the loss on the last answer only, or on every assistant turn."""
    row_tokens: int = 128
    """Tokens in a packed row; a longer demonstration raises it."""
    lr: float = 1e-5
    warmup: int = 20
    checkpoint_every: int = 200


@dataclass(frozen=True)
class SftBatch:
    """Packed demonstrations, and packed corpus rows beside them."""

    demos: Any
    corpus: Any = None
    metrics: dict[str, float] = field(default_factory=dict)

    @property
    def wheres(self) -> list[str]:
        """The rows that it comes from."""
        return [w for b in (self.demos, self.corpus) if b for w in b.wheres]

    def split(self, tokens: int) -> list[SftBatch]:
        parts = [SftBatch(demos=b) for b in self.demos.split(tokens)]
        return parts + ([SftBatch(None, b) for b in self.corpus.split(tokens)] if self.corpus else [])


def rounds(config: Config, streams: Mapping[str, Any]) -> int:
    return rounds_of(config, streams["data"].rows_in(0))


def batches(actors: Any, streams: Mapping[str, Any], state: Round) -> Iterator[SftBatch]:
    c = actors.config
    demos = streams["data"].at(state.round * c.batch, c.batch)
    corpus = streams["corpus"].at(state.round * c.corpus_rows, c.corpus_rows) if c.corpus else None
    yield SftBatch(demos, corpus)


def weights(batch: SftBatch) -> dict[str, float]:
    return {
        "nll": batch.demos.answer_tokens if batch.demos else 0,
        "corpus": batch.corpus.answer_tokens if batch.corpus else 0,
    }


def loss(actors: Any, batch: SftBatch) -> Loss:
    from kilter.models.logprobs import text_logps

    terms = {}
    if batch.demos:
        terms["nll"] = -text_logps(actors.policy, batch.demos).sum()
    if batch.corpus:
        terms["corpus"] = -actors.config.corpus_coef * text_logps(actors.policy, batch.corpus).sum()
    return Loss(terms)
