"""The mathematics of learning from preferences, as pure functions: rankings, pairs, ties, ratings, good and bad.

Shapes: N answers, P pairs, K answers of one prompt, R tokens of one answer. Functions return values per element, not
means: what to divide by is the loop's business. A *gain* is log π(y|x) - log π_ref(y|x).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from kilter.methods.objectives import bradley_terry

NEARLY_SURE = -1e-7
"""Log-probabilities are held below this where log(1 - p) is taken, which has no value at p = 1."""


def either_way(loss: Callable[[Tensor, Tensor], Tensor], better_P: Tensor, worse_P: Tensor, sure_P: Tensor) -> Tensor:
    """q ℓ(w, l) + (1 - q) ℓ(l, w): a pairwise loss under the soft label q = P(better is better).

    For the logistic loss this is the cross-entropy with q; where every q is one it is the loss itself.
    """
    plain_P = loss(better_P, worse_P)
    if bool((sure_P == 1).all()):
        return plain_P
    return sure_P * plain_P + (1 - sure_P) * loss(worse_P, better_P)


def bradley_terry_margin(better_P: Tensor, worse_P: Tensor, margin_P: Tensor) -> Tensor:
    """-log σ(r_w - r_l - m) per pair (Touvron et al. 2023, arXiv:2307.09288, eq. 2)."""
    return bradley_terry(better_P - margin_P, worse_P)


def plackett_luce(worth_K: Tensor, tiers: Sequence[Sequence[int]]) -> Tensor:
    """-Σ_i log (e^{s_i} / (e^{s_i} + Σ_{j in lower tiers} e^{s_j})), i over all tiers but the last.

    Plackett 1975 for weak orders: each answer of a tier is chosen against all that stand below, and answers of one tier
    are never set against each other, so that a tie says nothing. Without ties it is Plackett-Luce (Rafailov et al.
    2023, arXiv:2305.18290, appendix A.3), for two answers Bradley-Terry; `choices` counts the summands.
    """
    total = worth_K.new_zeros(())
    for number, tier in enumerate(tiers[:-1]):
        below = [j for lower in tiers[number + 1 :] for j in lower]
        total = total + F.softplus(torch.logsumexp(worth_K[below], 0) - worth_K[list(tier)]).sum()
    return total


def choices(tiers: Sequence[Sequence[int]]) -> int:
    """How many choices a weak order tells of: the answers of all tiers but the last."""
    return sum(len(tier) for tier in tiers[:-1])


def davidson_decided(better_P: Tensor, worse_P: Tensor, tie: float) -> Tensor:
    """-log P(w beats l), P = e^{r_w} / (e^{r_w} + e^{r_l} + ν e^{(r_w + r_l) / 2}) (Davidson 1970).

    ν = 0 leaves Bradley-Terry; two equal answers tie with probability ν / (2 + ν).
    """
    lead_P = better_P - worse_P
    return torch.logaddexp(F.softplus(-lead_P), _log(tie, lead_P) - lead_P / 2)


def davidson_tied(one_P: Tensor, other_P: Tensor, tie: float) -> Tensor:
    """-log P(tie), P = ν e^{(r_a + r_b) / 2} / (e^{r_a} + e^{r_b} + ν e^{(r_a + r_b) / 2}) (Davidson 1970)."""
    lead_P = one_P - other_P
    strength = _log(tie, lead_P)
    return torch.logaddexp(torch.logaddexp(lead_P / 2, -lead_P / 2), strength) - strength


def _log(value: float, like: Tensor) -> Tensor:
    return torch.log(torch.full_like(like, value))


def top_one(worth_K: Tensor, best: Sequence[int]) -> Tensor:
    """-log Σ_{i in best} softmax(s)_i: one choice of the best of K (Ziegler et al. 2019, arXiv:1909.08593, eq. 1).

    It uses less of a ranking than its pairs do and overfits sooner: a baseline.
    """
    return torch.logsumexp(worth_K, 0) - torch.logsumexp(worth_K[list(best)], 0)


def ipo(gain_better_P: Tensor, gain_worse_P: Tensor, beta: float) -> Tensor:
    """(g_w - g_l - 1 / 2β)² (Azar et al. 2023, arXiv:2310.12036); gains are means over an answer's tokens."""
    return (gain_better_P - gain_worse_P - 1 / (2 * beta)) ** 2


def hinge(gain_better_P: Tensor, gain_worse_P: Tensor, beta: float) -> Tensor:
    """max(0, 1 - β (g_w - g_l)) (Zhao et al. 2023, arXiv:2305.10425; Liu et al. 2023, arXiv:2309.06657)."""
    return F.relu(1 - beta * (gain_better_P - gain_worse_P))


def robust(gain_better_P: Tensor, gain_worse_P: Tensor, beta: float, flipped: float) -> Tensor:
    """(-(1-ε) log σ(β Δ) + ε log σ(-β Δ)) / (1 - 2ε): unbiased when a share ε of labels is flipped.

    Chowdhury et al. 2024, arXiv:2403.00409.
    """
    margin_P = beta * (gain_better_P - gain_worse_P)
    return (flipped * F.logsigmoid(-margin_P) - (1 - flipped) * F.logsigmoid(margin_P)) / (1 - 2 * flipped)


def simpo(mean_better_P: Tensor, mean_worse_P: Tensor, beta: float, target: float) -> Tensor:
    """-log σ(β (m_w - m_l) - γ), m the mean log-probability per token (Meng et al. 2024, arXiv:2405.14734, eq. 6)."""
    return -F.logsigmoid(beta * (mean_better_P - mean_worse_P) - target)


def odds_ratio(mean_better_P: Tensor, mean_worse_P: Tensor) -> Tensor:
    """-log σ(log odds_w - log odds_l), odds = p / (1 - p), log p = m (Hong et al. 2024, arXiv:2403.07691, eq. 7)."""
    return -F.logsigmoid(mean_better_P - log_not(mean_better_P) - mean_worse_P + log_not(mean_worse_P))


def log_not(logp: Tensor) -> Tensor:
    """log(1 - e^{log p})."""
    return torch.log(-torch.expm1(logp.clamp(max=NEARLY_SURE)))


def desensitised(logps_R: Tensor, public: int, alpha: float) -> Tensor:
    """Σ_{t ≤ l} log p_t + α Σ_{t > l} log p_t, l the shorter answer's length: LD-DPO, arXiv:2409.06411."""
    return logps_R[:public].sum() + alpha * logps_R[public:].sum()


def kto(gain_N: Tensor, good_N: Tensor, drift: float, beta: float, desirable: float, undesirable: float) -> Tensor:
    """λ_D (1 - σ(β (g - z))) for a good answer, λ_U (1 - σ(β (z - g))) for a bad one; z estimates KL(π || π_ref) ≥ 0.

    Ethayarajh et al. 2024, arXiv:2402.01306.
    """
    lead_N = beta * (gain_N - drift)
    return torch.where(good_N, desirable * torch.sigmoid(-lead_N), undesirable * torch.sigmoid(lead_N))


def cpl(better_P: Tensor, worse_P: Tensor, bias: float) -> Tensor:
    """-log (e^{A_w} / (e^{A_w} + e^{λ A_l})), A = α Σ_t γ^t log π (Hejna et al. 2023, arXiv:2310.13639)."""
    return -F.logsigmoid(better_P - bias * worse_P)


def discounted(logps_R: Tensor, gamma: float) -> Tensor:
    """Σ_t γ^t log p_t."""
    if gamma == 1.0:
        return logps_R.sum()
    return (logps_R * gamma ** torch.arange(len(logps_R), device=logps_R.device, dtype=logps_R.dtype)).sum()
