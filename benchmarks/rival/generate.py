"""One measurement of transformers' `generate`, as TRL's trainers call it: `python -m rival.generate SPEC`."""

from __future__ import annotations

from typing import Any

from measure import Clock, memory, read_rows, read_spec, write_result


def main() -> None:
    spec = read_spec()
    import torch
    from transformers import AutoModelForCausalLM, LlamaForCausalLM  # noqa: F401
    from trl import GRPOTrainer  # noqa: F401  (what generates in a run has this in memory)

    torch.set_num_threads(1)
    imported = memory("VmRSS")
    model = AutoModelForCausalLM.from_pretrained(spec["model"], dtype=torch.float32).eval()
    model.generation_config.eos_token_id = None
    prompts = torch.tensor([r["prompt"] for r in read_rows(spec)[: spec["batch"]]])
    greedy = generate(model, prompts[: spec["greedy_rows"]], spec, do_sample=False)
    clock = Clock()
    clock.mark()
    for _ in range(spec["steps"]):
        torch.manual_seed(0)
        drawn = generate(model, prompts, spec, do_sample=True)
        assert drawn.shape == (spec["batch"], spec["max_new"])
        clock.mark()
    write_result(spec, {"import_kib": imported, "ids": greedy.tolist(), **clock.steps(1)})


def generate(model: Any, prompts: Any, spec: dict[str, Any], do_sample: bool) -> Any:
    """The new ids; drawn at temperature 1 from the whole vocabulary, as the trainers do by default."""
    import torch
    from transformers import GenerationConfig

    drawing = {"do_sample": True, "temperature": 1.0, "top_k": 0, "top_p": 1.0} if do_sample else {"do_sample": False}
    cache = {"cache_implementation": "static"} if spec["setting"] == "static" else {}
    config = GenerationConfig(max_new_tokens=spec["max_new"], pad_token_id=0, eos_token_id=None, **drawing, **cache)
    with torch.no_grad():
        found = model.generate(prompts, attention_mask=torch.ones_like(prompts), generation_config=config)
    return found[:, prompts.shape[1] :]


if __name__ == "__main__":
    main()
