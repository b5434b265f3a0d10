"""The plan of a recipe as plain values, and as a table."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

from kilter.plan import fit, memory, work
from kilter.plan.memory import GIB, Parts
from kilter.plan.stages import Planned
from kilter.progress import clock

COLUMNS = ("weights", "state", "activations", "head", "rollout", "driver")
HEADINGS = ("weights", "train state", "activations", "head", "rollout", "driver")

WORDS = (
    ("batch", "rows of data (prompts, packed rows) in one round"),
    ("answers", "answers drawn, or ranked, to each prompt of them"),
    ("minibatches", "optimiser steps that share out a round's rows in one pass"),
    ("ppo_epochs, passes", "passes over a round's rows"),
    ("micro_tokens", "tokens of one forward and backward: memory and speed, never the result"),
)
"""One meaning per word of the batch."""


def memory_of_machine() -> tuple[float, bool, str]:
    """Bytes of this machine's GPU, or of its RAM; whether it is a GPU; its name."""
    import torch

    if torch.cuda.is_available():
        found = torch.cuda.get_device_properties(torch.cuda.current_device())
        return float(found.total_memory), True, str(found.name)
    return ram(), False, "this machine's RAM"


def ram() -> float:
    """Bytes of this machine's memory."""
    return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))


def describe(p: Planned, budget: float, flops: float) -> dict[str, Any]:
    """One stage's plan as plain values; bytes in GiB."""
    phase, parts = p.peak()
    change = fit.cheapest(p, budget) if p.sources else {}
    found: dict[str, Any] = {
        "stage": p.name,
        "method": p.method,
        "memory_gib": round(budget / GIB, 3),
        "peak": {"phase": phase, **gib(parts)},
        "phases": {name: gib(x) for name, x in p.phases().items()},
        "backbones": [
            {"roles": list(b.roles), "gib": round(memory.backbone_bytes(b, p.settings) / GIB, 4)}
            for b in memory.backbones(p.roles, p.settings)
        ],
        "fits": not change and change is not None,
        "change": change,
        "lengths": p.lengths.told,
    }
    if change:
        found["changed_peak_gib"] = round(p.changed(**change).peak()[1].total / GIB, 4)
    if p.sampled():
        found["rollout_rows"] = {"rows": p.sampled().rows, "largest": fit.largest_rollout(p, budget)}  # type: ignore[union-attr]
    return {**found, **(_training(p, budget, flops) if p.trains else {})}


def _training(p: Planned, budget: float, flops: float) -> dict[str, Any]:
    t, once = work.tokens(p), work.per_round(p)
    seconds = sum(once.values()) / flops
    return {
        "micro_tokens": {"set": p.config.micro_tokens, "largest": fit.largest_micro(p, budget)},
        "rows_per_update": p.rows_per_update,
        "tokens_per_update": round(t.update),
        "trained_tokens_per_update": round(t.update_read),
        "updates_per_round": p.updates_per_round,
        "tokens_per_round": round(t.round),
        "rounds": p.rounds,
        "seconds_per_round": seconds,
        "seconds": None if p.rounds is None else seconds * p.rounds,
        "flops_per_round": once,
    }


def gib(parts: Parts) -> dict[str, float]:
    """Bytes as GiB."""
    return {**{n: round(getattr(parts, n) / GIB, 4) for n in COLUMNS}, "total": round(parts.total / GIB, 4)}


def size(value: float) -> str:
    """`3.60 GiB`, `35 MiB` or a dash."""
    if value < 0.0005:
        return "–"
    return f"{value:.2f} GiB" if value >= 0.995 else f"{value * 1024:.0f} MiB"


def table(stages: list[dict[str, Any]]) -> Table:
    """A row a stage: its peak and what makes it up."""
    found = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    found.add_column("stage")
    shown = [(n, h) for n, h in zip(COLUMNS, HEADINGS, strict=True) if any(s["peak"][n] >= 0.0005 for s in stages)]
    for _, heading in (*shown, ("total", "peak")):
        found.add_column(heading, justify="right")
    found.add_column("when")
    found.add_column("fits")
    for s in stages:
        cells = [size(s["peak"][n]) for n, _ in (*shown, ("total", "peak"))]
        loaded = bool(s["backbones"])
        found.add_row(s["stage"], *cells, s["peak"]["phase"], ("yes" if s["fits"] else "NO") if loaded else "–")
    return found


def details(s: Mapping[str, Any]) -> list[str]:
    """What stands below the table for one stage."""
    lines = []
    shared = [", ".join(b["roles"]) + f" ({size(b['gib'])})" for b in s["backbones"]]
    if shared:
        together = "share one backbone" if len(shared) == 1 and len(s["backbones"][0]["roles"]) > 1 else "weights"
        lines.append(f"{together}: {' | '.join(shared)}")
    if s.get("lengths"):
        lines.append(f"rows: {s['lengths']}")
    if "micro_tokens" in s:
        micro, steps = s["micro_tokens"], s["updates_per_round"]
        most = micro["largest"] or "none"
        lines.append(f"micro_tokens {micro['set']}; largest that fits and is of use: {most}")
        several = f", {steps} updates a round of {s['tokens_per_round']} tokens" if steps > 1 else ""
        read = f", {s['trained_tokens_per_update']} of them trained on"
        lines.append(f"an update: {s['rows_per_update']} rows, about {s['tokens_per_update']} tokens{read}{several}")
    if "rollout_rows" in s:
        r = s["rollout_rows"]
        lines.append(f"rollout: {r['rows']} rows at once; largest that fits: {r['largest'] or 'none'}")
    if "seconds_per_round" in s:
        rounds = f", {clock(s['seconds'])} for {s['rounds']} rounds" if s["rounds"] else ""
        lines.append(f"time: at least {s['seconds_per_round']:.2g} s a round{rounds}")
    if not s["fits"]:
        lines.append(advice(s))
    return lines


def advice(s: Mapping[str, Any]) -> str:
    """The change that makes a stage fit, ready for the command line."""
    if s["change"] is None:
        return "does not fit, and no change that is known makes it: take a smaller model or a larger device"
    flags = " ".join(f"--set {s['stage']}.{k}={_plain(v)}" for k, v in s["change"].items())
    return f"does not fit; with {flags} it takes {size(s['changed_peak_gib'])}"


def _plain(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def show(plan: Mapping[str, Any], console: Console) -> None:
    """Print a plan."""
    console.print(f"{plan['recipe']} on {plan['device']}: {size(plan['memory_gib'])}, 5 % of it left free")
    console.print("computed from shapes and settings; nothing was loaded\n")
    console.print(table(plan["stages"]))
    for s in plan["stages"]:
        lines = details(s)
        if lines:
            console.print(f"\n{s['stage']}")
            for line in lines:
                console.print(f"  {line}", soft_wrap=True)
    console.print("\nwords")
    for word, meaning in WORDS:
        console.print(f"  {word:<19} {meaning}")
    console.print(
        f"\ntime counts matrix products at {plan['flops']:.3g} operations a second ({plan['flops_from']}): a floor"
    )


def make(
    recipe: str, settings: Mapping[str, Any] | None = None, gpu: float | None = None, flops: float | None = None
) -> dict[str, Any]:
    """The plan of a recipe: `gpu` in GiB (this machine's device when unset), `flops` a second (else measured)."""
    from kilter import recipes
    from kilter.plan.stages import planned

    found = recipes.load(recipe, settings, files=False)
    budget, cuda, device = (gpu * GIB, True, "a GPU") if gpu else memory_of_machine()
    stages = planned(found, cuda)
    rate = flops or _measured(stages, found.threads)
    own = ram()
    described = [describe(p, budget if p.cuda == cuda else own, rate) for p in stages]
    return {
        "recipe": found.name,
        "device": device,
        "memory_gib": round(budget / GIB, 3),
        "flops": rate,
        "flops_from": "given" if flops else "measured here",
        "fits": all(s["fits"] for s in described),
        "stages": described,
    }


def _measured(stages: list[Planned], threads: int) -> float:
    """This machine's speed in the number type of the stages that train."""
    import torch

    torch.set_num_threads(threads)
    dtypes = [p.config.dtype for p in stages if p.trains]
    return work.probe(torch.cuda.is_available(), dtypes[-1] if dtypes else "float32")
