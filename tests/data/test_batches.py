"""Batches: packing loses and doubles nothing, and splits cover every row once."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from kilter.data.batches import (
    AnswerBatch,
    LabelledBatch,
    PackedStream,
    RankedBatch,
    RolloutBatch,
    budget_groups,
    packed,
    spent,
)
from kilter.data.judgments import pairs
from kilter.data.records import Prompt
from kilter.data.streams import RankedItem, Stream, TextItem

PROMPT = Prompt(messages=({"role": "user", "content": "q"},))


def items(lengths: list[int]) -> list[TextItem]:
    return [TextItem([100 * i + k for k in range(n)], [True] * n, f"f:{i}") for i, n in enumerate(lengths)]


@given(st.lists(st.integers(1, 20), min_size=1, max_size=60), st.integers(0, 3))
def test_packing_keeps_every_document_whole_and_once_per_epoch(lengths: list[int], epoch: int) -> None:
    stream = PackedStream(Stream(items(lengths), 1, "data"), 20, pad=0)
    plan = stream.plan(epoch)
    assert sorted(i for row in plan for i in row) == list(range(len(lengths)))
    assert all(sum(lengths[i] for i in row) <= 20 for row in plan)


@given(st.lists(st.integers(1, 20), min_size=1, max_size=30), st.integers(0, 60), st.integers(1, 8))
def test_any_rows_of_a_packed_stream_are_known_from_their_number(lengths: list[int], start: int, n: int) -> None:
    whole = PackedStream(Stream(items(lengths), 1, "data"), 20, pad=0).at(0, start + n)
    part = PackedStream(Stream(items(lengths), 1, "data"), 20, pad=0).at(start, n)
    assert torch.equal(part.ids_BT, whole.ids_BT[start:])
    assert part.wheres == [w for row in whole.rows[start:] for w in row]


def test_a_packed_row_by_hand() -> None:
    batch = packed([[TextItem([7, 8, 9], [False, True, True], "f:1"), TextItem([5, 6], [True, True], "f:2")]], 7, pad=3)
    assert batch.ids_BT.tolist() == [[7, 8, 9, 5, 6, 3, 3]]
    assert batch.trained_BT.tolist() == [[False, True, True, False, True, False, False]]  # a first token has no past
    assert batch.segments_BT.tolist() == [[1, 1, 1, 2, 2, 0, 0]]
    assert batch.positions_BT.tolist() == [[0, 1, 2, 0, 1, 0, 0]]
    assert batch.answer_tokens == 3
    assert batch.wheres == ["f:1", "f:2"]


@given(st.lists(st.integers(1, 20), min_size=1, max_size=12), st.integers(1, 120))
def test_a_text_batch_splits_into_its_rows(lengths: list[int], tokens: int) -> None:
    batch = PackedStream(Stream(items(lengths), 1, "data"), 20, pad=0).at(0, 5)
    parts = batch.split(tokens)
    assert torch.equal(torch.cat([p.ids_BT for p in parts]), batch.ids_BT)
    assert sum(p.answer_tokens for p in parts) == batch.answer_tokens
    assert [w for p in parts for w in p.wheres] == batch.wheres
    assert all(p.ids_BT.shape[0] == 1 or p.ids_BT.numel() <= tokens for p in parts)


@given(st.lists(st.lists(st.integers(1, 9), min_size=2, max_size=5), min_size=1, max_size=6), st.integers(1, 80))
def test_a_ranked_batch_splits_between_prompts_and_keeps_its_pairs(shape: list[list[int]], tokens: int) -> None:
    draw = np.random.default_rng(0)
    ranked = [
        RankedItem(
            PROMPT,
            [draw.integers(1, 99, k).tolist() for k in lengths],
            [0] * len(lengths),
            pairs([[i] for i in range(len(lengths))]),
            f"f:{p}",
            [[i] for i in range(len(lengths))],
            tuple(map(float, lengths)),
        )
        for p, lengths in enumerate(shape)
    ]
    batch = RankedBatch.of(ranked)
    parts = batch.split(tokens)
    assert [s for p in parts for s in p.sequences] == batch.sequences
    assert [w for p in parts for w in p.wheres] == batch.wheres
    assert sum(p.decided for p in parts) == batch.decided == len(shape)

    def spelled(b: RankedBatch) -> list[tuple[list[int], list[int], float]]:
        return [(b.sequences[p.better], b.sequences[p.worse], p.weight) for row in b.pairs for p in row]

    assert [x for p in parts for x in spelled(p)] == spelled(batch)
    assert [x for p in parts for x in p.tiers] == batch.tiers
    assert [x for p in parts for x in p.ratings] == batch.ratings
    assert batch.metrics == {"tied": 0.0}
    assert all(len(p.sizes) == 1 or sum(map(len, p.sequences)) <= tokens for p in parts)


@given(st.lists(st.integers(1, 30), min_size=1, max_size=40), st.integers(1, 200))
def test_budget_groups_cover_every_row_within_the_padded_budget(lengths: list[int], tokens: int) -> None:
    groups = budget_groups(lengths, tokens)
    assert [i for g in groups for i in g] == list(range(len(lengths)))
    assert all(len(g) == 1 or len(g) * max(lengths[i] for i in g) <= tokens for g in groups)


def labelled(number: int, labels: list[bool | None]) -> RankedItem:
    """An item whose k-th answer is [number, k, ...], of k + 1 tokens after its first."""
    rows = [[number, k, *[0] * k] for k in range(len(labels))]
    return RankedItem(PROMPT, rows, [1] * len(rows), (), f"f:{number}", labels=tuple(labels))


def test_a_labelled_batch_holds_the_answers_with_a_label_and_counts_the_others() -> None:
    batch = LabelledBatch.of([labelled(7, [True, None]), labelled(8, [None]), labelled(9, [False, True])])
    assert batch.sequences == [[7, 0], [9, 0], [9, 1, 0]]
    assert (batch.labels, batch.starts) == ([True, False, True], [1, 1, 1])
    assert batch.wheres == ["f:7", "f:9", "f:9"]
    assert batch.metrics == {"unlabelled": 2.0}
    assert LabelledBatch.of([labelled(1, [None])]).split(9) == []


@given(st.lists(st.lists(st.sampled_from([True, False, None]), min_size=1, max_size=5), min_size=1), st.integers(1, 60))
def test_a_labelled_batch_splits_into_its_answers(shape: list[list[bool | None]], tokens: int) -> None:
    whole = LabelledBatch.of([labelled(n, labels) for n, labels in enumerate(shape)])
    batch = replace(whole, reference_N=torch.arange(float(len(whole.sequences))), drift=0.25)
    parts = batch.split(tokens)
    for name in ("sequences", "starts", "labels", "prompts", "wheres"):
        assert [x for p in parts for x in getattr(p, name)] == getattr(batch, name)
    assert [x for p in parts for x in p.reference_N.tolist()] == batch.reference_N.tolist()
    assert all(p.drift == 0.25 for p in parts)
    assert all(len(p.sequences) == 1 or sum(map(len, p.sequences)) <= tokens for p in parts)


def test_a_rollout_batch_splits_into_its_rows() -> None:
    tensors = [torch.arange(12.0).reshape(4, 3) + 100 * k for k in range(6)]
    batch = RolloutBatch([[1] * n for n in (9, 7, 7, 2)], [1, 2, 3, 1], *tensors, wheres=list("abcd"))
    parts = batch.split(14)
    assert [p.wheres for p in parts] == [["a"], ["b", "c"], ["d"]]
    for name in ("mask_BR", "old_logps_BR", "ref_logps_BR", "old_values_BR", "advantages_BR", "returns_BR"):
        assert torch.equal(torch.cat([getattr(p, name) for p in parts]), getattr(batch, name))


def test_an_answer_batch_splits_into_its_rows_with_every_column() -> None:
    columns = {"mask": torch.arange(12.0).reshape(4, 3), "counts": torch.arange(4.0)}
    batch = AnswerBatch([[1] * n for n in (9, 7, 7, 2)], [1, 2, 3, 1], columns, list("abcd"), {"reward": 1.0}, [{}])
    assert batch.answer_tokens == 8 + 5 + 4 + 1
    parts = batch.split(14)
    assert [p.wheres for p in parts] == [["a"], ["b", "c"], ["d"]]
    assert all(torch.equal(torch.cat([p.columns[n] for p in parts]), t) for n, t in columns.items())
    assert not any(p.metrics or p.samples for p in parts)  # a round is shown once


def test_what_a_step_takes_up_is_rows_and_tokens_without_padding() -> None:
    text = packed([items([4, 3]), items([9])], 10, 0)
    assert spent(text)["tokens_trained"] == 16.0
    answers = AnswerBatch([[1, 2, 3], [4, 5], [6]], [1, 1, 0], {}, ["f:1", "f:1", "f:2"])
    assert spent(answers) == {"tokens_trained": 6.0, "rows": 2.0}

    class Mixed:
        def __init__(self) -> None:
            self.rollout, self.ptx, self.other = answers, text, "neither"

    assert spent(Mixed()) == {"tokens_trained": 22.0, "rows": 2.0}
    assert spent("of another make") == {}
