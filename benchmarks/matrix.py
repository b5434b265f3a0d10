"""What is measured: one `Case` a line of the table, and how each side is asked for it."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
WORK = HERE / ".work"
DATA = WORK / "data"


@dataclass(frozen=True)
class Case:
    """A bench at a size and precision, with the rival's settings that it is held against."""

    bench: str
    method: str
    model: str
    rows: str
    batch: int
    """Rows of the file in a step (prompts, for rankings and rollouts)."""
    steps: int
    """Steps of the first run, all of them compared by the gate."""
    settings: tuple[str, ...]
    """The rival's; `shipped` is TRL's own configuration."""
    precision: str = "fp32"
    later: int = 0
    """Steps of later repeats, where all of `steps` would take too long; 0 for the same."""
    warm: int = 3
    """Steps that are not timed."""
    repeats: int = 5
    quick: tuple[str, ...] = ()
    """The settings that `--quick` measures; none leaves the case to the full run."""
    rival_rows: int = 1
    """Rows of the rival's per row of ours: a ranking of nine is 36 of its pairs, a prompt eight of its completions."""
    new: int = 0
    """Tokens generated, where generation is what is measured."""
    ours: dict[str, Any] = field(default_factory=dict, hash=False)
    rival: dict[str, Any] = field(default_factory=dict, hash=False)

    @property
    def name(self) -> str:
        return f"{self.bench} {self.model} {self.precision}"

    def spec(self, side: str, setting: str, repeat: int) -> dict[str, Any]:
        """What a runner is told."""
        folder = DATA / self.model
        spec: dict[str, Any] = {
            "method": self.method,
            "model": str(folder / "model"),
            "reward": str(folder / "reward"),
            "value": str(folder / "value"),
            "rows": str(folder / f"{self.rows}.jsonl"),
            "precision": self.precision,
            "steps": self.later if repeat and self.later else self.steps,
            "warm": self.warm,
            "batch": self.batch,
            "rate": RATE,
        }
        if self.new:
            spec |= {"max_new": self.new, "greedy_rows": 16}
        if side == "ours":
            return spec | {"ours": self.ours}
        return spec | {"setting": setting, "rival_batch": self.batch * self.rival_rows, "rival": self.rival}


RATE = 1e-4
GENTLE = {"beta": 0.01}
"""β for long answers: one bit of a log-probability of -900 is 6e-5 nats, which a larger β would show in the loss."""
GROUP = {"answers": 8, "max_new": 32, "eos_penalty": 0.0, "reward_clip": 0.0, "beta": 0.0}
TRL_GROUP = {
    "num_generations": 8,
    "max_completion_length": 32,
    "temperature": 1.0,
    "beta": 0.0,
    "shuffle_dataset": False,
}
PPO = {
    "ppo_epochs": 4,
    "minibatches": 1,
    "max_new": 32,
    "kl_coef": 0.05,
    "value_coef": 0.1,
    "value_clip": 0.2,
    "reward_clip": 0.0,
    "eos_penalty": 0.0,
    "clip": 0.0,
}
"""The rival's own defaults, and no clipping of gradients, which its PPO does not do."""
UNCENTRED = {"center_coef": 0.0}
BOTH, DPO = ("tuned", "shipped"), ("tuned", "precomputed", "shipped")
TUNED, CACHES = ("tuned",), ("dynamic", "static")

CASES = [
    Case("sft", "sft", "tiny", "demonstrations", 8, 50, BOTH, quick=BOTH),
    Case("reward pairs", "reward", "tiny", "pairs", 8, 50, BOTH, quick=TUNED, ours=UNCENTRED),
    Case("rankings of 9", "reward", "tiny", "rankings", 1, 50, BOTH, quick=TUNED, rival_rows=36, ours=UNCENTRED),
    Case("dpo 48+16", "dpo", "tiny", "pairs-short", 8, 50, DPO, quick=DPO),
    Case(
        "dpo 512+128", "dpo", "tiny", "pairs-long", 2, 50, DPO, quick=("precomputed",), ours=GENTLE, rival=GENTLE,
    ),
    Case(
        "grpo", "grpo", "tiny", "prompts", 2, 20, BOTH, quick=TUNED, rival_rows=8,
        ours={"variant": "grpo", **GROUP}, rival=TRL_GROUP,
    ),
    Case(
        "rloo", "rloo", "tiny", "prompts", 2, 20, BOTH, quick=TUNED, rival_rows=8,
        ours={"variant": "rloo", **GROUP}, rival=TRL_GROUP,
    ),
    Case("ppo", "ppo", "tiny", "prompts", 16, 5, BOTH, warm=2, quick=TUNED, ours=PPO),
    Case("generate 64+128", "generate", "tiny", "prompts-even", 64, 2, CACHES, quick=CACHES, new=128),
    Case("generate 64+32", "generate", "tiny-152k", "prompts-even", 64, 1, CACHES, quick=("dynamic",), new=32),
    Case("generate 64+128", "generate", "tiny-152k", "prompts-even", 64, 1, CACHES, repeats=3, new=128),
    Case("sft", "sft", "small", "demonstrations", 8, 50, BOTH, later=12, repeats=3),
    Case("sft", "sft", "small", "demonstrations", 8, 12, TUNED, "bf16", repeats=3),
    Case(
        "rankings of 9", "reward", "small", "rankings", 1, 20, TUNED, later=6, repeats=3, rival_rows=36, ours=UNCENTRED,
    ),
    Case("dpo 48+16", "dpo", "small", "pairs-short", 8, 50, DPO, later=8, repeats=3),
    Case("dpo 48+16", "dpo", "small", "pairs-short", 8, 12, ("tuned", "precomputed"), "bf16", repeats=3),
    Case("ppo", "ppo", "small", "prompts", 16, 3, TUNED, warm=1, repeats=3, ours=PPO),
]  # fmt: skip


def runner(side: str, case: Case) -> str:
    """The module that measures a case on a side."""
    if case.method == "generate":
        return f"{side}.generate"
    return "rival.ppo" if side == "rival" and case.method == "ppo" else f"{side}.train"


def venv_of(side: str, case: Case) -> str:
    """The virtual environment that a side's runner needs."""
    if side == "ours":
        return "kilter"
    return "trl112" if case.method == "ppo" else "trl116"


def sources(side: str) -> str:
    """A hash of the code that a measurement depends on: the runners, the rows, and kilter itself on its side."""
    files = [HERE / "measure.py", HERE / "rows.py", *sorted((HERE / side).glob("*.py"))]
    if side == "ours":
        files += sorted((HERE.parent / "src" / "kilter").rglob("*.py"))
    digest = hashlib.sha256()
    for file in files:
        digest.update(str(file.relative_to(HERE.parent)).encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()[:16]


def key(case: Case, side: str, setting: str, repeat: int, versions: dict[str, str], source: str) -> str:
    """What makes a measurement the one asked for: nothing of it may differ when it is used again."""
    spec = case.spec(side, setting, repeat)
    shown = {k: str(v).removeprefix(str(HERE)) if isinstance(v, str) else v for k, v in spec.items()}
    parts = [case.name, side, setting, repeat, shown, versions, source]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:24]
