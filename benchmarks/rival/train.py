"""One training measurement of TRL 1.16's SFT, reward, DPO, GRPO and RLOO trainers: `python -m rival.train SPEC`.

`shipped` is TRL's own configuration on a CPU; the other settings are what its options honestly allow to go faster.
"""

from __future__ import annotations

from typing import Any

from measure import Clock, memory, read_rows, read_spec, write_result

END = "<|end|>"


def main() -> None:
    spec = read_spec()
    import torch
    from transformers import LlamaForCausalLM, LlamaForSequenceClassification  # noqa: F401

    trainer_class, config_class = classes(spec["method"])
    torch.set_num_threads(1)
    imported = memory("VmRSS")
    write_result(spec, {"import_kib": imported, **measure(spec, trainer_class, config_class)})


def classes(method: str) -> tuple[type[Any], type[Any]]:
    import trl

    name = {"sft": "SFT", "reward": "Reward", "dpo": "DPO", "grpo": "GRPO", "rloo": "RLOO"}[method]
    return getattr(trl, f"{name}Trainer"), getattr(trl, f"{name}Config")


def measure(spec: dict[str, Any], trainer_class: type[Any], config_class: type[Any]) -> dict[str, Any]:
    """Train for the steps asked for; seconds and loss of each, and the log-probs that training starts from."""
    from datasets import Dataset
    from transformers import AutoTokenizer, PrinterCallback, TrainerCallback

    clock, losses, reference = Clock(), [], Clock()
    first: dict[str, Any] = {}

    class Marks(TrainerCallback):
        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            clock.mark()

    class Recorded(trainer_class):
        def training_step(self, *args: Any, **kwargs: Any) -> Any:
            loss = super().training_step(*args, **kwargs)
            losses.append(loss)
            if first and "gradient" not in first:
                first["gradient"] = norm(self.model)
            return loss

        def _generate_and_score_completions(self, *args: Any, **kwargs: Any) -> Any:
            found = super()._generate_and_score_completions(*args, **kwargs)
            if not first:
                queries = found["prompt_ids"] * found["prompt_mask"]
                first.update(queries=queries.tolist(), responses=found["completion_ids"].tolist())
                first.update(advantages=found["advantages"].tolist())
            return found

        def compute_ref_log_probs(self, *args: Any, **kwargs: Any) -> Any:
            reference.mark()
            found = super().compute_ref_log_probs(*args, **kwargs)
            reference.mark()
            return found

    tokenizer = AutoTokenizer.from_pretrained(spec["model"])
    args = config_class(output_dir=spec["folder"], **settings(spec))
    given: dict[str, Any] = {"reward_funcs": spec["reward"]} if spec["method"] in ("grpo", "rloo") else {}
    trainer = Recorded(
        model=spec["reward"] if spec["method"] == "reward" else spec["model"],
        args=args,
        train_dataset=Dataset.from_list(examples(spec)),
        processing_class=tokenizer,
        callbacks=[Marks()],
        **given,
    )
    trainer.remove_callback(PrinterCallback)
    once = per_step(reference, spec) if spec["setting"] == "precomputed" else {}
    start = starting_logps(trainer, spec) if spec["method"] == "dpo" else {}
    trainer.train()
    seen = {"first": in_order(first)} if first else {}
    return {"losses": [float(x) for x in losses], **clock.steps(spec["warm"]), **once, **start, **seen}


def in_order(first: dict[str, Any]) -> dict[str, Any]:
    """The first round with its prompts' answers side by side: a round is shuffled before it is learned from."""
    order = sorted(range(len(first["queries"])), key=lambda i: first["queries"][i])
    return {k: [v[i] for i in order] if isinstance(v, list) else v for k, v in first.items()}


def norm(model: Any) -> float:
    """The length of the gradient as it stands, before it is clipped."""
    import torch

    return float(torch.stack([p.grad.norm() for p in model.parameters() if p.grad is not None]).norm())


def per_step(reference: Clock, spec: dict[str, Any]) -> dict[str, float]:
    """A step's share of the reference's forward passes alone; mapping and caching the data set is not counted."""
    marks = reference.marks
    return {
        "once_wall": sum(b[0] - a[0] for a, b in zip(marks[0::2], marks[1::2], strict=True)) / spec["steps"],
        "once_cpu": sum(b[1] - a[1] for a, b in zip(marks[0::2], marks[1::2], strict=True)) / spec["steps"],
    }


def settings(spec: dict[str, Any]) -> dict[str, Any]:
    """The trainer's arguments: what makes both sides the same work, then what the setting changes."""
    same = {
        "use_cpu": True,
        "max_steps": spec["steps"],
        "per_device_train_batch_size": spec["rival_batch"],
        "learning_rate": spec["rate"],
        "lr_scheduler_type": "constant",
        "adam_beta2": 0.95,
        "weight_decay": 0.0,
        "max_grad_norm": 1.0,
        "train_sampling_strategy": "sequential",
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        **spec.get("rival", {}),
    }
    if spec["setting"] == "shipped":
        return same
    faster: dict[str, Any] = {
        "gradient_checkpointing": False,
        "bf16": spec["precision"] == "bf16",
        "logging_steps": 10**6,
    }
    if spec["method"] == "sft":
        faster |= {"padding_free": True, "max_length": None}
    if spec["setting"] == "precomputed":
        faster |= {"precompute_ref_log_probs": True, "precompute_ref_batch_size": spec["rival_batch"]}
    return same | faster


def examples(spec: dict[str, Any]) -> list[dict[str, Any]]:
    """Exactly the rows of the steps asked for, in the order of the file; as ids wherever the trainer takes them."""
    rows = read_rows(spec)[: spec["steps"] * spec["batch"]]
    if spec["method"] == "sft":
        return [
            {"input_ids": r["prompt"] + r["answers"][0], "labels": [-100] * len(r["prompt"]) + r["answers"][0]}
            for r in rows
        ]
    if spec["method"] == "reward":
        return [
            {"chosen_ids": r["prompt"] + better, "rejected_ids": r["prompt"] + worse}
            for r in rows
            for n, better in enumerate(r["answers"])
            for worse in r["answers"][n + 1 :]
        ]
    if spec["method"] == "dpo":
        return [
            {
                "prompt": words(r["prompt"]),
                "chosen": " " + words(r["answers"][0]),
                "rejected": " " + words(r["answers"][1]),
            }
            for r in rows
        ]
    return [{"prompt": words(r["prompt"]) + " "} for r in rows]  # the reward model reads prompt + answer as one text


def words(ids: list[int]) -> str:
    return " ".join(END if i == 1 else f"t{i}" for i in ids)


def starting_logps(trainer: Any, spec: dict[str, Any]) -> dict[str, list[float]]:
    """Log-probs of the first batch's chosen and rejected answers, which the gate compares."""
    rows = [trainer.train_dataset[i] for i in range(spec["batch"])]
    chosen, rejected = trainer.compute_ref_log_probs(trainer.model, trainer.data_collator(rows))
    return {"chosen": chosen.tolist(), "rejected": rejected.tolist()}


if __name__ == "__main__":
    main()
