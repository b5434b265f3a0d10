"""The rival's first round of an online method through kilter's own: `python -m ours.replay SPEC`.

Sampling alone is replaced, by the answers that the rival drew; scores, log-probs, values, advantages, losses and
gradients are kilter's.
"""

from __future__ import annotations

import importlib
import json
import tempfile
from pathlib import Path
from typing import Any

from measure import read_spec, write_result

from ours.train import METHODS, make_stream, settings


def main() -> None:
    spec = read_spec()
    try:
        method = importlib.import_module(f"kilter.methods.{METHODS[spec['method']]}")
    except ModuleNotFoundError as error:
        write_result(spec, {"skipped": f"this checkout of kilter has no method {spec['method']} ({error})"})
        return
    import torch

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        theirs = json.loads(Path(spec["rollouts"]).read_text(encoding="utf-8"))
        write_result(spec, replay(spec, method, theirs, Path(folder)))


def replay(spec: dict[str, Any], method: Any, theirs: dict[str, Any], folder: Path) -> dict[str, Any]:
    """One round on the rollouts given; numbers come back in the rival's order of rows."""
    from kilter.config import build
    from kilter.models.roles import load_actors
    from kilter.train.loop import accumulate
    from kilter.train.optim import Optimizers

    prompts = [[token for token in row if token != 0] for row in theirs["queries"]]
    group = spec["ours"].get("answers", 1)
    rows = folder / "rows.jsonl"
    rows.write_text("".join(json.dumps({"prompt": p, "answers": []}) + "\n" for p in prompts[::group]))
    config = build(method.Config, settings(spec, method), spec["method"])
    actors = load_actors(method, config, 1, spec["method"])
    streams = {"data": make_stream({**spec, "rows": str(rows)}, actors.tokenizer)}
    draw_instead(actors, prompts, theirs["responses"])
    optimizers = Optimizers(method, actors, config)
    steps, first, gradient = [], None, 0.0
    for batch in method.batches(actors, streams, method.State()):
        steps.append(accumulate(method, actors, batch.split(config.micro_tokens)))
        if first is None:
            first, gradient = getattr(batch, "answers", batch), norm(actors.policy)
        optimizers.step(1.0)
        optimizers.zero_grad()
    order = sorted(range(len(prompts)), key=lambda i: -len(prompts[i] + theirs["responses"][i]))
    back = sorted(range(len(order)), key=lambda i: order[i])  # a rollout lies longest first
    if spec["method"] == "ppo":
        return ppo_numbers(first, steps, back, config.value_coef)
    return {"advantages": first.columns["advantages"][back][:, 0].tolist(), "gradient": gradient}


def draw_instead(actors: Any, prompts: list[list[int]], responses: list[list[int]]) -> None:
    """Make rollouts out of the answers given, with the log-probs that the policy gives them."""
    import torch

    from kilter.methods import rollout
    from kilter.models.logprobs import answer_logps
    from kilter.models.sample import Answer

    sequences = [p + r for p, r in zip(prompts, responses, strict=True)]
    with torch.no_grad():
        logps, _ = answer_logps(actors.policy, sequences, [len(p) for p in prompts])
    drawn = [Answer(ids, row.tolist(), False) for ids, row in zip(responses, logps, strict=True)]
    rollout.sample = lambda *args, **kwargs: drawn


def ppo_numbers(answers: Any, steps: list[dict[str, float]], back: list[int], value_coef: float) -> dict[str, Any]:
    return {
        "returns": answers.returns_BR[back].tolist(),
        "logprobs": answers.old_logps_BR[back].tolist(),
        "values": answers.old_values_BR[back].tolist(),
        "policy": [s["policy"] for s in steps],
        "value": [s["value"] / value_coef for s in steps][:1],  # later ones have trained a bias that the rival lacks
    }


def norm(model: Any) -> float:
    """The length of the gradient as it stands."""
    import torch

    return float(torch.stack([p.grad.norm() for p in model.parameters() if p.grad is not None]).norm())


if __name__ == "__main__":
    main()
