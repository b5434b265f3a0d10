"""The mathematics of every method as pure functions: tensors in, tensors out.

Shapes: B rows, R answer tokens (right-padded), N answers, P pairs, M tokens. Functions return values per element, not
means: what to divide by is the loop's business.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def bradley_terry(better_P: Tensor, worse_P: Tensor) -> Tensor:
    """-log σ(r_w - r_l) per pair (Bradley & Terry 1952; Ouyang et al. 2022, arXiv:2203.02155, eq. 1)."""
    return -F.logsigmoid(better_P - worse_P)


def dpo_sigmoid(gain_better_P: Tensor, gain_worse_P: Tensor, beta: float, smoothing: float = 0.0) -> Tensor:
    """-(1-ε) log σ(β Δ) - ε log σ(-β Δ) with Δ = gain_w - gain_l and gain = log π(y|x) - log π_ref(y|x).

    Rafailov et al. 2023, arXiv:2305.18290, eq. 7; ε > 0 is the conservative form for labels that may be flipped.
    """
    margin_P = beta * (gain_better_P - gain_worse_P)
    return -(1 - smoothing) * F.logsigmoid(margin_P) - smoothing * F.logsigmoid(-margin_P)


def kl_estimate(logps_BR: Tensor, ref_logps_BR: Tensor, kind: str) -> Tensor:
    """Estimates of KL(π ‖ π_ref) per token from tokens drawn from π (Schulman, "Approximating KL divergence", 2020).

    With d = log π - log π_ref:  k1 = d (unbiased, may be negative),  k2 = ½ d² (biased, small variance),
    k3 = exp(-d) - 1 + d (unbiased, never negative).
    """
    d = logps_BR - ref_logps_BR
    if kind == "k1":
        return d
    return 0.5 * d**2 if kind == "k2" else torch.expm1(-d) + d


def kl_penalised_rewards(
    score_B: Tensor, logps_BR: Tensor, ref_logps_BR: Tensor, mask_BR: Tensor, beta: float, kind: str = "k1"
) -> Tensor:
    """r_t = -β KL_t at every token, plus the score at the last (Ziegler et al. 2019, arXiv:1909.08593).

    KL_t is log π - log π_ref there, which is k1; the other estimators are `kl_estimate`'s.
    """
    rewards_BR = -beta * kl_estimate(logps_BR, ref_logps_BR, kind) * mask_BR
    last_B = mask_BR.long().sum(-1) - 1
    rows = torch.arange(len(score_B), device=score_B.device)
    return rewards_BR.index_put((rows, last_B), rewards_BR[rows, last_B] + score_B)


def gae(rewards_BR: Tensor, values_BR: Tensor, mask_BR: Tensor, gamma: float, lam: float) -> tuple[Tensor, Tensor]:
    """Generalised advantage estimation (Schulman 2015, arXiv:1506.02438), episodes ending at each row's last token.

    δ_t = r_t + γ V_{t+1} - V_t,  A_t = δ_t + γλ A_{t+1},  return_t = A_t + V_t; V after the last token is 0.
    """
    values_BR = values_BR * mask_BR
    advantages = torch.zeros_like(rewards_BR)
    running_B = torch.zeros_like(rewards_BR[:, 0])
    next_value_B = torch.zeros_like(running_B)
    for t in reversed(range(rewards_BR.shape[1])):
        delta_B = rewards_BR[:, t] + gamma * next_value_B - values_BR[:, t]
        running_B = (delta_B + gamma * lam * running_B) * mask_BR[:, t]
        advantages[:, t] = running_B
        next_value_B = values_BR[:, t]
    return advantages, (advantages + values_BR) * mask_BR


def whiten(values_BR: Tensor, mask_BR: Tensor, shift: bool = True) -> Tensor:
    """(x - mean) / std over the masked entries, std with n - 1; without `shift` the mean is put back.

    A constant, or a single entry, is only shifted.
    """
    chosen = values_BR[mask_BR.bool()]
    mean, var = chosen.mean(), chosen.var() if len(chosen) > 1 else chosen.new_zeros(())
    white = (values_BR - mean) * torch.rsqrt(var + 1e-8) if var > 0 else values_BR - mean
    return (white if shift else white + mean) * mask_BR


def clipped_surrogate(
    logps_BR: Tensor, old_logps_BR: Tensor, advantages_BR: Tensor, clip: float, clip_high: float | None = None
) -> tuple[Tensor, Tensor]:
    """-min(ρ A, clip(ρ, 1-ε, 1+ε) A) per token, ρ = π/π_old, and where clipped (Schulman 2017, arXiv:1707.06347).

    `clip_high` is an upper ε of its own (Yu et al. 2025, arXiv:2503.14476). ε = 0 does not clip: then, at ρ = 1, the
    gradient is -A ∇log π, the plain policy gradient.
    """
    ratio_BR = (logps_BR - old_logps_BR).exp()
    plain = ratio_BR * advantages_BR
    high = clip if clip_high is None else clip_high
    if not clip and not high:
        return -plain, torch.zeros_like(plain, dtype=torch.bool)
    clipped = ratio_BR.clamp(1 - clip, 1 + high) * advantages_BR
    return -torch.minimum(plain, clipped), clipped < plain


def clipped_value_loss(values_BR: Tensor, old_values_BR: Tensor, returns_BR: Tensor, clip: float) -> Tensor:
    """½ max((V - R)², (V_old + clip(V - V_old, ±ε) - R)²) per token; ε = 0 does not clip."""
    if not clip:
        return 0.5 * (values_BR - returns_BR) ** 2
    near = old_values_BR + (values_BR - old_values_BR).clamp(-clip, clip)
    return 0.5 * torch.maximum((values_BR - returns_BR) ** 2, (near - returns_BR) ** 2)


def adapted_kl_coef(coef: float, kl: float, target: float, horizon: float) -> float:
    """β ← β (1 + clip(KL / target - 1, ±0.2) / horizon), horizon in rollouts (Ziegler et al. 2019, section 2.2)."""
    error = min(max(kl / target - 1.0, -0.2), 0.2)
    return coef * (1.0 + error / horizon)
