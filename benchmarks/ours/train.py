"""One training measurement of kilter: `python -m ours.train SPEC`, through `train.loop.Loop` itself.

Only two things stand in for what a recipe would give: the rows come as token ids, and in the order of the file.
"""

from __future__ import annotations

import importlib
import tempfile
from pathlib import Path
from typing import Any

from measure import Clock, memory, read_rows, read_spec, write_result

METHODS = {"sft": "sft", "reward": "reward", "dpo": "dpo", "grpo": "grpo", "rloo": "grpo", "ppo": "ppo"}


def main() -> None:
    spec = read_spec()
    try:
        method = importlib.import_module(f"kilter.methods.{METHODS[spec['method']]}")
    except ModuleNotFoundError as error:
        write_result(spec, {"skipped": f"this checkout of kilter has no method {spec['method']} ({error})"})
        return
    import torch
    from transformers import LlamaForCausalLM, LlamaForSequenceClassification  # noqa: F401

    import kilter.models.logprobs
    import kilter.models.sample
    import kilter.train.loop  # noqa: F401

    torch.set_num_threads(1)
    imported = memory("VmRSS")
    with tempfile.TemporaryDirectory() as folder:
        write_result(spec, {"import_kib": imported, **measure(spec, method, Path(folder))})


def measure(spec: dict[str, Any], method: Any, folder: Path) -> dict[str, Any]:
    """Train for the steps asked for; seconds and loss of each, and the log-probs that training starts from."""
    from kilter.config import build
    from kilter.models.roles import load_actors
    from kilter.runs import Stage
    from kilter.train.loop import Interrupts, Loop
    from kilter.train.optim import Optimizers

    clock = Clock()

    class Timed(Loop):
        def _optimise(self, batch: Any) -> dict[str, float]:
            row = super()._optimise(batch)
            clock.mark()
            return row

    config = build(method.Config, settings(spec, method), spec["method"])
    stage = Stage(spec["method"], folder, config, 1)
    actors = load_actors(method, config, 1, spec["method"])
    streams = {"data": make_stream(spec, actors.tokenizer)}
    start = starting_logps(actors, streams, spec) if spec["method"] == "dpo" else {}
    loop = Timed(stage, method, actors, streams, Optimizers(method, actors, config), method.rounds(config, streams))
    with Interrupts() as interrupts:
        loop.run(interrupts)
    rows = read_metrics(folder / "metrics.jsonl")
    per_round = len(rows) // spec["steps"]
    clock.marks = clock.marks[per_round - 1 :: per_round]
    return {"losses": [r["loss"] for r in rows], **clock.steps(spec["warm"]), **start}


def settings(spec: dict[str, Any], method: Any) -> dict[str, Any]:
    """The configuration: everything that has a twin on the rival's side is given its value."""
    given = {
        "model": spec["reward"] if spec["method"] == "reward" else spec["model"],
        "data": spec["rows"],
        "steps": spec["steps"],
        "batch": spec["batch"],
        "lr": spec["rate"],
        "schedule": "constant",
        "warmup": 0,
        "weight_decay": 0.0,
        "clip": 1.0,
        "checkpoint_every": 10**6,
        "dtype": {"fp32": "float32", "bf16": "bfloat16"}[spec["precision"]],
        **spec.get("ours", {}),
    }
    if spec["method"] in ("ppo", "grpo", "rloo"):
        given["reward"] = spec["reward"]
    if spec["method"] == "ppo":
        given |= {"value": spec["value"], "value_lr": spec["rate"]}
    return given


def make_stream(spec: dict[str, Any], tokenizer: Any) -> Any:
    """The rows as kilter's items, in the order of the file."""
    import numpy as np

    from kilter.data.batches import PackedStream
    from kilter.data.judgments import pairs
    from kilter.data.records import Prompt
    from kilter.data.streams import PromptItem, RankedItem, Stream

    class InOrder(Stream):
        def order(self, epoch: int) -> Any:
            return np.arange(len(self.items))

    class PackedSteps(PackedStream):
        """The documents of a step, packed together: the rival's rows of the same step, and no others."""

        def at(self, start: int, n: int) -> Any:
            step = PackedStream(InOrder(self.stream.at(start, n)), self.context, self.pad)
            return step.at(0, step.rows_in(0))

    rows = read_rows(spec)
    wheres = [f"row {n}" for n in range(len(rows))]
    prompts = [Prompt(messages=({"role": "user", "content": words(r["prompt"])},)) for r in rows]
    if spec["method"] == "sft":
        items: list[Any] = [demonstration(r["prompt"], r["answers"][0], w) for r, w in zip(rows, wheres, strict=True)]
        return PackedSteps(InOrder(items), max(len(i) for i in items), tokenizer.pad_token_id)
    if spec["method"] in ("reward", "dpo"):
        return InOrder(
            [
                RankedItem(
                    p,
                    [r["prompt"] + a for a in r["answers"]],
                    [len(r["prompt"])] * len(r["answers"]),
                    pairs([[i] for i in range(len(r["answers"]))]),
                    w,
                )
                for p, r, w in zip(prompts, rows, wheres, strict=True)
            ]
        )
    return InOrder([PromptItem(p, r["prompt"], w) for p, r, w in zip(prompts, rows, wheres, strict=True)])


def demonstration(prompt: list[int], answer: list[int], where: str) -> Any:
    from kilter.data.streams import TextItem

    return TextItem(prompt + answer, [False] * len(prompt) + [True] * len(answer), where)


def words(ids: list[int]) -> str:
    return " ".join(f"t{i}" for i in ids)


def starting_logps(actors: Any, streams: dict[str, Any], spec: dict[str, Any]) -> dict[str, list[float]]:
    """Log-probs of the first batch's chosen and rejected answers, which the gate compares."""
    import torch

    from kilter.models.logprobs import sequence_logps

    items = streams["data"].at(0, spec["batch"])
    with torch.no_grad():
        found = sequence_logps(
            actors.policy, [s for i in items for s in i.sequences], [s for i in items for s in i.starts]
        )
    return {"chosen": found[0::2].tolist(), "rejected": found[1::2].tolist()}


def read_metrics(path: Path) -> list[dict[str, Any]]:
    import json

    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


if __name__ == "__main__":
    main()
