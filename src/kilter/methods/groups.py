"""The mathematics of several answers to one prompt: advantages within a group, and the best of n.

Shapes: B rows, R answer tokens (right-padded), N answers, G groups of K answers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor


def group_advantages(reward_GK: Tensor, baseline: str, scale: str) -> Tensor:
    """Each answer's reward against the other answers to its prompt: advantage_GK.

    baseline `group`: A = r - mean of the group (Shao et al. 2024, arXiv:2402.03300);
    `leave-one-out`: A = r - mean of the group's other answers (Ahmadian et al. 2024, arXiv:2402.14740); `none`: A = r.
    scale `group`: A / (s + 1e-4) with s the group's standard deviation (n - 1). Where all rewards of a group are equal
    a baseline leaves exactly zero.
    """
    k = reward_GK.shape[1]
    if baseline == "none":
        centred = reward_GK
    else:
        centred = reward_GK - reward_GK.mean(dim=1, keepdim=True)
        centred = centred * (k / (k - 1)) if baseline == "leave-one-out" else centred
        silent_G = reward_GK.amax(dim=1) == reward_GK.amin(dim=1)
        centred = centred.masked_fill(silent_G[:, None], 0.0)
    return centred / (reward_GK.std(dim=1, keepdim=True) + 1e-4) if scale == "group" else centred


def overlong_penalty(length_B: Tensor, limit: int, share: float) -> Tensor:
    """0 up to (1 - share) · limit tokens, then falling by a straight line to -1 at the limit.

    The soft punishment of Yu et al. 2025 (arXiv:2503.14476, eq. 13).
    """
    room = share * limit
    return -((length_B - (limit - room)) / room).clamp(0.0, 1.0) if room > 0 else torch.zeros_like(length_B)


def importance_weight(logps_BR: Tensor, sampler_logps_BR: Tensor, cap: float) -> Tensor:
    """min(cap, π_trainer / π_sampler) per token, not differentiated: mends what a sampler of other numerics drew.

    Truncated importance sampling (Ionides 2008).
    """
    return (logps_BR.detach() - sampler_logps_BR).exp().clamp(max=cap)


def best_of_n_kl(n: int) -> float:
    """log n - (n - 1)/n, an upper bound on KL(best of n ‖ policy).

    Stiennon et al. 2020 (arXiv:2009.01325) take it for the value; that it bounds it: Beirami et al. 2024
    (arXiv:2401.01879).
    """
    return math.log(n) - (n - 1) / n


def expected_best(reward_N: Sequence[float], n: int) -> float:
    """Unbiased estimate of the mean best reward of n answers from N ≥ n drawn ones.

    Σ_i C(i-1, n-1) / C(N, n) r_(i) over the sorted rewards: each is the best of those n-subsets that hold no greater.
    """
    ranked = sorted(reward_N)
    subsets = math.comb(len(ranked), n)
    return sum(math.comb(i, n - 1) / subsets * r for i, r in enumerate(ranked))
