"""What a training step and a decoding step cost in operations and multiplications: a lead must not leak away unseen.

Counts, never seconds: they are the same on every machine. A change that raises one must be meant, and its figure moved.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode
from transformers import LlamaConfig, LlamaForCausalLM

from kilter.models import layout, logprobs
from kilter.models.sample import Sampling, sample

DPO_CALLS, PPO_CALLS = 825, 1040
LAYERS, WIDTH, INNER, HEADS, KEYS, VOCABULARY = 4, 64, 160, 4, 2, 256


class Operations(TorchDispatchMode):
    """Counts the operators that reach a kernel; views cost nothing and don't count."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()
        self.largest = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if not func.is_view:
            self.counts[func.overloadpacket.__name__] += 1
        if isinstance(out, torch.Tensor):
            self.largest = max(self.largest, out.numel())
        return out

    @property
    def total(self) -> int:
        return sum(self.counts.values())


@pytest.fixture(scope="module")
def model() -> Any:
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=WIDTH,
        intermediate_size=INNER,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=KEYS,
        max_position_embeddings=512,
        tie_word_embeddings=False,
    )
    torch.manual_seed(0)
    return LlamaForCausalLM(config).eval()


def rows(prompts: int, answers: int, prompt: int, answer: int) -> tuple[list[list[int]], list[int]]:
    draw = np.random.default_rng(0)
    asked = [draw.integers(3, VOCABULARY, prompt).tolist() for _ in range(prompts)]
    told = [p + draw.integers(3, VOCABULARY, answer).tolist() for p in asked for _ in range(answers)]
    return told, [prompt] * len(told)


def products(tokens: int, read: int) -> int:
    """Multiply-adds of the linear layers: all of them for every token but, in the last layer, keys and values alone."""
    kv = 2 * WIDTH * WIDTH * KEYS // HEADS
    rest = 2 * WIDTH * WIDTH + 3 * WIDTH * INNER
    return (LAYERS - 1) * (kv + rest) * tokens + kv * tokens + rest * read


def linear_flops(run: Callable[[], Any]) -> int:
    with FlopCounterMode(display=False) as counter:
        run()
    counts = counter.get_flop_counts()["Global"]
    return sum(n for op, n in counts.items() if op in (torch.ops.aten.mm, torch.ops.aten.addmm))


@pytest.mark.parametrize("answers", [1, 2, 9])
def test_a_forward_multiplies_what_its_tokens_need_and_no_more(model: Any, answers: int) -> None:
    told, starts = rows(2, answers, 24, 8)
    logprobs.answer_logps(model, told, starts)  # the probe is behind us
    with torch.no_grad():
        found = linear_flops(lambda: logprobs.answer_logps(model, told, starts))
    shared = answers > 1
    tokens = 2 * (24 + answers * 7) if shared else 2 * 31  # an answer's last token predicts nothing
    read = 2 * (1 + answers * 7)  # its first is predicted from the prompt's last, once for all answers
    assert found == 2 * products(tokens, read) + 2 * WIDTH * VOCABULARY * 2 * answers * 8


def test_a_ranking_of_nine_costs_a_fifteenth_of_its_pairs_as_rows(model: Any) -> None:
    told, starts = rows(1, 9, 256, 128)
    alone = [told[i] for pair in [(a, b) for a in range(9) for b in range(a)] for i in pair]
    with torch.no_grad():
        tree = linear_flops(lambda: logprobs.answer_logps(model, told, starts))
        pairs = linear_flops(lambda: [logprobs.answer_logps(model, [s], [256]) for s in alone])
    assert pairs / tree > 15


def test_a_training_step_makes_no_more_calls_than_it_did(model: Any) -> None:
    told, starts = rows(4, 2, 24, 8)

    def step() -> None:
        model.zero_grad(set_to_none=True)
        torch.cat(logprobs.answer_logps(model, told, starts)[0]).sum().backward()

    step()
    with Operations() as seen:
        step()
    assert seen.total <= 570, seen.counts.most_common(12)
    assert seen.largest <= max(VOCABULARY * 64, INNER * 128 * 2)  # no logits of prompts, nothing by rows squared


def test_a_step_of_dpo_makes_no_more_calls_than_it_did(model: Any) -> None:
    """The reference's pass, which keeps nothing, and the policy's forward and backward."""
    told, starts = rows(4, 2, 24, 8)

    def step() -> None:
        model.zero_grad(set_to_none=True)
        with torch.no_grad():
            reference_N = logprobs.sequence_logps(model, told, starts)
        gain_N = logprobs.sequence_logps(model, told, starts) - reference_N
        torch.nn.functional.logsigmoid(gain_N[0::2] - gain_N[1::2]).sum().backward()

    step()
    with Operations() as seen:
        step()
    assert seen.total <= DPO_CALLS, seen.counts.most_common(12)


def test_an_epoch_of_ppo_makes_no_more_calls_than_it_did_and_lays_nothing_out_anew(model: Any) -> None:
    """Policy and value model on answers that were scored before."""
    told, starts = rows(8, 1, 24, 8)
    torch.manual_seed(0)
    head = torch.nn.Linear(WIDTH, 1, bias=False)
    model.score = head

    def epoch() -> None:
        model.zero_grad(set_to_none=True)
        torch.cat(logprobs.answer_logps(model, told, starts)[0]).sum().backward()
        torch.cat(logprobs.token_values(model, told, starts)).sum().backward()

    try:
        epoch()
        before = layout._lay_out.cache_info().misses
        with Operations() as seen:
            epoch()
    finally:
        del model.score
    assert layout._lay_out.cache_info().misses == before
    assert seen.total <= PPO_CALLS, seen.counts.most_common(12)


def test_a_decoding_step_makes_no_more_calls_than_it_did(model: Any) -> None:
    asked = [p for p, _ in zip(rows(16, 1, 24, 1)[0], range(16), strict=True)]

    def run(new: int) -> int:
        with Operations() as seen:
            sample(model, asked, [(i,) for i in range(16)], Sampling(max_new=new), eos=-1)
        return seen.total

    run(2)
    assert (run(22) - run(2)) / 20 <= 100


def test_answers_to_one_prompt_prefill_it_once(model: Any) -> None:
    prompt = rows(1, 1, 64, 1)[0][0]
    cost = lambda n: linear_flops(  # noqa: E731
        lambda: sample(model, [prompt] * n, [(i,) for i in range(n)], Sampling(max_new=1), eos=-1)
    )
    head = 2 * WIDTH * VOCABULARY
    cost(4)  # the probe is behind us
    assert cost(12) - cost(4) == 8 * head
