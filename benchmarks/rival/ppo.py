"""One PPO measurement of TRL 1.12, the last release that has it: `python -m rival.ppo SPEC`.

Its loop keeps everything in local variables, so the first round's are read where the loop calls its own helpers:
`masked_whiten` (rollouts, rewards, raw and whitened advantages, returns) and `masked_mean` (the losses of its steps).
"""

from __future__ import annotations

import sys
from typing import Any

from measure import Clock, memory, read_rows, read_spec, write_result

EPOCHS = 4


def main() -> None:
    spec = read_spec()
    import torch
    from transformers import LlamaForCausalLM, LlamaForSequenceClassification  # noqa: F401
    from trl.experimental.ppo import PPOTrainer  # noqa: F401

    torch.set_num_threads(1)
    imported = memory("VmRSS")
    write_result(spec, {"import_kib": imported, **measure(spec)})


def measure(spec: dict[str, Any]) -> dict[str, Any]:
    """Train for the rounds asked for; seconds of each, and the first round's rollouts with all that came of them."""
    from datasets import Dataset
    from transformers import (
        AutoModelForCausalLM,
        AutoModelForSequenceClassification,
        AutoTokenizer,
        PrinterCallback,
        TrainerCallback,
    )
    from trl.experimental.ppo import PPOConfig, PPOTrainer

    clock = Clock()

    class Marks(TrainerCallback):
        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            clock.mark()

    first = watch_first_round()
    rows = read_rows(spec)[: spec["steps"] * spec["batch"]]
    trainer = PPOTrainer(
        args=PPOConfig(output_dir=spec["folder"], **settings(spec)),
        processing_class=AutoTokenizer.from_pretrained(spec["model"]),
        model=AutoModelForCausalLM.from_pretrained(spec["model"], dtype="float32"),
        ref_model=AutoModelForCausalLM.from_pretrained(spec["model"], dtype="float32"),
        reward_model=AutoModelForSequenceClassification.from_pretrained(spec["reward"], dtype="float32"),
        value_model=AutoModelForSequenceClassification.from_pretrained(spec["value"], dtype="float32"),
        train_dataset=Dataset.from_list([{"input_ids": r["prompt"]} for r in rows]),
        callbacks=[Marks()],
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    return {"first": first, **clock.steps(spec["warm"])}


def settings(spec: dict[str, Any]) -> dict[str, Any]:
    """The trainer's arguments: what makes both sides the same work, then what the setting changes."""
    same = {
        "use_cpu": True,
        "total_episodes": spec["steps"] * spec["batch"],
        "per_device_train_batch_size": spec["batch"],
        "gradient_accumulation_steps": 1,
        "num_mini_batches": 1,
        "num_ppo_epochs": EPOCHS,
        "response_length": 32,
        "temperature": 1.0,
        "num_sample_generations": 0,
        "learning_rate": spec["rate"],
        "lr_scheduler_type": "constant",
        "adam_beta2": 0.95,
        "weight_decay": 0.0,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
    }
    if spec["setting"] == "shipped":
        return same
    return same | {"gradient_checkpointing": False, "bf16": False, "logging_steps": 10**6}


def watch_first_round() -> dict[str, Any]:
    """Copies of the loop's variables in its first round, filled while it runs."""
    from trl.experimental.ppo import ppo_trainer

    found: dict[str, Any] = {}
    whiten, mean = ppo_trainer.masked_whiten, ppo_trainer.masked_mean

    def watched_whiten(values: Any, *args: Any, **kwargs: Any) -> Any:
        white = whiten(values, *args, **kwargs)
        if not found:
            loop = sys._getframe(1).f_locals
            names = ("queries", "responses", "logprobs", "ref_logprobs", "values", "scores", "rewards", "returns")
            found.update({n: loop[n].tolist() for n in names})
            found.update(advantages=values.tolist(), whitened=white.tolist(), means=[])
        return white

    def watched_mean(values: Any, *args: Any, **kwargs: Any) -> Any:
        result = mean(values, *args, **kwargs)
        loop = sys._getframe(1).f_locals
        if found and "b_inds" in loop and len(found["means"]) < 4 * EPOCHS:
            found["means"].append(float(result))  # each step: squared value error, clipped share, policy loss, share
        return result

    ppo_trainer.masked_whiten, ppo_trainer.masked_mean = watched_whiten, watched_mean
    return found


if __name__ == "__main__":
    main()
