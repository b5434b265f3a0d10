"""Hidden states, log-probabilities of answers and scalar scores, without ever keeping full logits.

B rows, T tokens, R answer tokens (right-padded), N sequences, V vocabulary, d width, M selected positions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from kilter.data.batches import TextBatch, budget_groups
from kilter.models.load import backbone, scalar_head

FORWARD_TOKENS = 4096
"""Padded tokens per forward pass of ragged sequences."""
WASTE = 256
"""Padding, in tokens, that costs about as much as one more forward pass: a group of ragged sequences ends there."""
HEAD_ROWS = 8192
"""Positions per tile of the vocabulary head."""


def device_of(model: Any) -> torch.device:
    device: torch.device = next(model.parameters()).device
    return device


def pad_right(sequences: Sequence[Sequence[int]], device: torch.device) -> Tensor:
    """Sequences as one ids_BT; the padding is token 0, which a causal model's earlier positions never see."""
    width = max(map(len, sequences))
    rows = [list(s) + [0] * (width - len(s)) for s in sequences]
    return torch.tensor(rows, device=device)


def hidden(model: Any, ids_BT: Tensor, mask: Tensor | None = None, positions_BT: Tensor | None = None) -> Tensor:
    """Last hidden states h_BTd; no mask means plain causal attention (right padding needs none)."""
    if positions_BT is None:
        positions_BT = torch.arange(ids_BT.shape[1], device=ids_BT.device)[None].expand_as(ids_BT)
    out = backbone(model)(input_ids=ids_BT, attention_mask=mask, position_ids=positions_BT, use_cache=False)
    states: Tensor = out.last_hidden_state
    return states


def token_logps(
    model: Any, h_Md: Tensor, targets_M: Tensor, temperature: float = 1.0, entropy: bool = True
) -> tuple[Tensor, Tensor]:
    """log p(target) and, when asked for, entropy at selected positions; by tiles, statistics in float32 or wider."""
    head = model.get_output_embeddings()
    softcap = getattr(model.config, "final_logit_softcapping", None)
    scale = getattr(model.config, "logit_scale", None) or 1.0 / (getattr(model.config, "logits_scaling", None) or 1.0)
    logps, entropies = [], []
    for h, targets in zip(h_Md.split(HEAD_ROWS), targets_M.split(HEAD_ROWS), strict=True):
        logits_MV = head(h) * scale if scale != 1.0 else head(h)
        logits_MV = logits_MV if logits_MV.dtype == torch.float64 else logits_MV.float()
        if softcap:
            logits_MV = softcap * torch.tanh(logits_MV / softcap)
        all_MV = F.log_softmax(logits_MV / temperature if temperature != 1.0 else logits_MV, dim=-1)
        logps.append(all_MV.gather(1, targets[:, None])[:, 0])
        with torch.no_grad():
            entropies.append(-(all_MV.exp() * all_MV).sum(-1) if entropy else torch.zeros_like(logps[-1]))
    return torch.cat(logps), torch.cat(entropies)


def packed_mask(segments_BT: Tensor, dtype: torch.dtype) -> Tensor:
    """Additive causal mask in which documents of one row do not see each other."""
    same = segments_BT[:, :, None] == segments_BT[:, None, :]
    T = segments_BT.shape[1]
    allowed = same & torch.ones(T, T, dtype=torch.bool, device=segments_BT.device).tril()
    return torch.zeros(allowed.shape, dtype=dtype, device=allowed.device).masked_fill(~allowed, torch.finfo(dtype).min)[
        :, None
    ]


def text_logps(model: Any, batch: TextBatch) -> Tensor:
    """log p of every trained token of a packed batch, as one vector."""
    device = device_of(model)
    ids, trained = batch.ids_BT.to(device), batch.trained_BT.to(device)
    mask = packed_mask(batch.segments_BT.to(device), next(model.parameters()).dtype)
    h_BTd = hidden(model, ids, mask, batch.positions_BT.to(device))
    logps, _ = token_logps(model, h_BTd[:, :-1][trained[:, 1:]], ids[:, 1:][trained[:, 1:]], entropy=False)
    return logps


def _by_length(
    sequences: Sequence[Sequence[int]],
    run: Callable[[list[int], Tensor], list[Tensor]],
    device: torch.device,
    tokens: int,
) -> list[Tensor]:
    """Run ragged sequences in length-sorted groups with little padding; results come back in the given order."""
    order = sorted(range(len(sequences)), key=lambda i: -len(sequences[i]))
    results: list[Tensor | None] = [None] * len(sequences)
    for group in budget_groups([len(sequences[i]) for i in order], tokens, WASTE):
        members = [order[g] for g in group]
        for i, value in zip(members, run(members, pad_right([sequences[i] for i in members], device)), strict=True):
            results[i] = value
    return [r for r in results if r is not None]


def answer_logps(
    model: Any,
    sequences: Sequence[Sequence[int]],
    starts: Sequence[int],
    temperature: float = 1.0,
    tokens: int = FORWARD_TOKENS,
    entropy: bool = False,
) -> tuple[list[Tensor], list[Tensor]]:
    """Per sequence, log p of each answer token (from `starts` to the end), and (when asked for) the entropy there."""
    device = device_of(model)
    entropies: dict[int, Tensor] = {}

    def run(members: list[int], ids_BT: Tensor) -> list[Tensor]:
        h_BTd = hidden(model, ids_BT)
        rows = torch.cat([torch.full((len(sequences[i]) - starts[i],), b) for b, i in enumerate(members)]).to(device)
        columns = torch.cat([torch.arange(starts[i], len(sequences[i])) for i in members]).to(device)
        logps, spread = token_logps(model, h_BTd[rows, columns - 1], ids_BT[rows, columns], temperature, entropy)
        sizes = [len(sequences[i]) - starts[i] for i in members]
        entropies.update(zip(members, spread.split(sizes), strict=True))
        return list(logps.split(sizes))

    logps = _by_length(sequences, run, device, tokens)
    return logps, [entropies[i] for i in range(len(sequences))]


def sequence_logps(
    model: Any, sequences: Sequence[Sequence[int]], starts: Sequence[int], tokens: int = FORWARD_TOKENS
) -> Tensor:
    """log p of each whole answer, logps_N."""
    return torch.stack([row.sum() for row in answer_logps(model, sequences, starts, tokens=tokens)[0]])


def scores(model: Any, sequences: Sequence[Sequence[int]], tokens: int = FORWARD_TOKENS) -> Tensor:
    """A reward model's score of each sequence, read at its last token: reward_N."""
    head = getattr(model, scalar_head(model))

    def run(members: list[int], ids_BT: Tensor) -> list[Tensor]:
        last = torch.tensor([len(sequences[i]) - 1 for i in members], device=ids_BT.device)
        h_Bd = hidden(model, ids_BT)[torch.arange(len(members), device=ids_BT.device), last]
        return list(head(h_Bd)[:, 0])

    return torch.stack(_by_length(sequences, run, device_of(model), tokens))


def token_values(
    model: Any, sequences: Sequence[Sequence[int]], starts: Sequence[int], tokens: int = FORWARD_TOKENS
) -> list[Tensor]:
    """A value model's estimate before each answer token is drawn."""
    head = getattr(model, scalar_head(model))

    def run(members: list[int], ids_BT: Tensor) -> list[Tensor]:
        values_BT = head(hidden(model, ids_BT))[..., 0]
        return [values_BT[b, starts[i] - 1 : len(sequences[i]) - 1] for b, i in enumerate(members)]

    return _by_length(sequences, run, device_of(model), tokens)


def pad_rows(rows: Sequence[Tensor], fill: float = 0.0) -> Tensor:
    """Ragged vectors as one right-padded matrix."""
    return torch.nn.utils.rnn.pad_sequence(list(rows), batch_first=True, padding_value=fill)
