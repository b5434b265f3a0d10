"""What the table of models shows: each measure with its meaning in plain words, and which way is better."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Measure:
    """One row of the table of models."""

    key: str
    label: str
    meaning: str
    kind: str = "score"
    best: int = 0
    """1 when more is better, -1 when less is, 0 when neither is to be praised."""


MEASURES: tuple[tuple[str, tuple[Measure, ...]], ...] = (
    (
        "What an answer is worth",
        (
            Measure(
                "oracle",
                "oracle score",
                "mean score of an answer between 0 and 1: helpful, honest and harmless multiplied, so "
                "that an empty or refusing answer earns nothing",
                best=1,
            ),
            Measure("helpful", "helpful", "does it do what was asked", best=1),
            Measure(
                "honest", "honest", "share of its claims that are true, and saying so where nothing is known", best=1
            ),
            Measure("harmless", "harmless", "refuses what would harm someone", best=1),
            Measure("oracle_t07", "oracle score at T 0.7", "the same prompts sampled at temperature 0.7", best=1),
            Measure(
                "oracle_greedy",
                "oracle score, greedy",
                "always the likeliest next token: a model that is merely sharper gains nothing over this",
                best=1,
            ),
        ),
    ),
    (
        "Against the fine-tuned model",
        (
            Measure(
                "win_vs_sft",
                "win rate, oracle",
                "share of prompts where the oracle prefers it; ties count a half",
                "win",
                1,
            ),
            Measure("win_vs_sft_raters", "win rate, raters", "the same by noisy simulated raters", "win", 1),
            Measure("win_vs_sft_t07", "win rate at T 0.7", "both models at temperature 0.7", "win", 1),
            Measure(
                "win_vs_sft_same_length",
                "win rate, like lengths",
                "only prompts where the lengths differ by under 20\u202f%",
                "win",
                1,
            ),
        ),
    ),
    (
        "Safety",
        (
            Measure("over_refusal", "over-refusal", "share of innocent look-alikes that it refuses", "share", -1),
            Measure(
                "unsafe_compliance", "unsafe compliance", "share of unsafe requests that it helps with", "share", -1
            ),
        ),
    ),
    (
        "What it cost",
        (
            Measure("kl", "KL from the fine-tuned model", "how far it drifted, in nats per answer", "plain"),
            Measure("length", "length", "tokens of an answer without the end mark", "plain"),
            Measure("eos", "answers that end", "share that ended by themselves", "share"),
            Measure(
                "corpus_ppl",
                "corpus perplexity",
                "how well it still predicts plain text: the alignment tax",
                "plain",
                -1,
            ),
            Measure("seconds", "training time", "of its own stage", "time"),
            Measure("peak_mb", "peak memory", "of its own stage", "memory"),
        ),
    ),
)
