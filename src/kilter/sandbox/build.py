"""The stage that lays the sandbox world out as files: corpus, demonstrations, prompts, and a blank model."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from kilter.data.records import Prompt, write_jsonl
from kilter.errors import UserError
from kilter.progress import Bar
from kilter.runs import Stage, whole_folder, write_json

READS = ()
OUTPUT = "blank"


@dataclass(frozen=True, kw_only=True)
class Config:
    """How much of the world to write, and the shape of the model that will learn it."""

    documents: int = 56000
    """Documents of the corpus."""
    demonstrations: int = 32000
    """Demonstrations by imperfect hands."""
    rank_prompts: int = 1500
    """Prompts whose answers will be ranked."""
    rank_lookalikes: int = 150
    """Innocent look-alikes ranked beyond their share: where refusing is wrong must be shown, or refusing is learned."""
    heldout_rank_prompts: int = 300
    """Further such prompts, kept for measuring the reward model."""
    rl_prompts: int = 6000
    """Prompts for reinforcement learning."""
    eval_prompts: int = 600
    """Held-out prompts of the verdict."""
    eval_special: int = 200
    """Held-out unsafe requests, and as many innocent look-alikes."""
    heldout_documents: int = 400
    """Documents kept for measuring perplexity."""
    eval_seed: int = 7
    """Seed of the held-out prompts: the same for every run, so that runs can be compared."""
    width: int = 128
    """Width of the blank model."""
    layers: int = 2
    """Its layers."""
    heads: int = 4
    """Its attention heads."""
    hidden: int = 336
    """Width of its feed-forward layers."""
    context: int = 256
    """Longest sequence it is made for."""


def run(stage: Stage) -> None:
    """Write every file of the world; deterministic from the seed."""
    from kilter.sandbox import answers, corpus, tasks

    c: Config = stage.config
    seed = stage.seed
    held = others("rank", c.eval_seed + 10_000, c.heldout_rank_prompts, [])
    ranked = others("rank", seed, c.rank_prompts, held)
    ranked += others("rank", seed + 1, c.rank_lookalikes, held + ranked, "lookalike")
    files: dict[str, tuple[Iterable[Any], int]] = {
        "corpus": (({"text": t} for t in corpus.documents(seed, c.documents)), c.documents),
        "corpus-heldout": (
            ({"text": t} for t in corpus.documents(c.eval_seed + 10_000, c.heldout_documents)),
            c.heldout_documents,
        ),
        "demos": (answers.demonstrations(seed, c.demonstrations), c.demonstrations),
        "prompts-rank": (ranked, len(ranked)),
        "prompts-rank-heldout": (held, len(held)),
        "prompts-rl": (tasks.prompts("rl", seed, c.rl_prompts), c.rl_prompts),
        "prompts-eval": (tasks.prompts("eval", c.eval_seed, c.eval_prompts), c.eval_prompts),
        "prompts-unsafe": (tasks.prompts("test-unsafe", c.eval_seed, c.eval_special), c.eval_special),
        "prompts-lookalike": (tasks.prompts("test-lookalike", c.eval_seed, c.eval_special), c.eval_special),
    }
    with Bar(stage.label or stage.name, sum(n for _, n in files.values()) + 1, "row") as bar:
        for name, (rows, count) in files.items():
            write_jsonl(stage.path(f"{name}.jsonl"), rows)
            bar.advance(count, name)
        blank_model(stage, c)
        bar.advance(1, "tokenizer and blank model")


def others(split: str, seed: int, n: int, taken: list[Prompt], only: str | None = None) -> list[Prompt]:
    """`n` prompts of a split, all different from each other and from those already taken."""
    from kilter.sandbox import tasks

    seen = {p.id for p in taken}
    found: list[Prompt] = []
    for prompt in tasks.prompts(split, seed, 4 * n + 1000, only):
        if prompt.id not in seen and len(found) < n:
            seen.add(prompt.id)
            found.append(prompt)
    if len(found) < n:
        raise UserError(
            f"the sandbox has only {len(found)} of {n} different prompts of split {split!r} left; ask for fewer"
        )
    return found


def blank_model(stage: Stage, c: Config) -> None:
    """A folder with tokenizer and configuration but no weights, for `pretrain` with `scratch`."""
    from transformers import LlamaConfig

    from kilter.sandbox import tokenizer

    with whole_folder(stage.path("blank")) as folder:
        tokenizer.build(folder, stage.seed)
        from transformers import AutoTokenizer

        tok = AutoTokenizer.from_pretrained(folder)
        LlamaConfig(
            vocab_size=len(tok),
            hidden_size=c.width,
            num_hidden_layers=c.layers,
            num_attention_heads=c.heads,
            num_key_value_heads=c.heads,
            intermediate_size=c.hidden,
            max_position_embeddings=c.context,
            tie_word_embeddings=True,
            rope_parameters={"rope_type": "default", "rope_theta": 1000.0},
            pad_token_id=tok.pad_token_id,
            eos_token_id=tok.eos_token_id,
            bos_token_id=None,
            architectures=["LlamaForCausalLM"],
        ).save_pretrained(folder)
        write_json(folder / "shape.json", dataclasses.asdict(c))
