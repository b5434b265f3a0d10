"""One measurement of kilter's sampler: `python -m ours.generate SPEC`."""

from __future__ import annotations

from measure import Clock, memory, read_rows, read_spec, write_result

NO_END = -1
"""No token has this id, so every answer runs to its full length, as on the rival's side."""


def main() -> None:
    spec = read_spec()
    import torch
    from transformers import LlamaForCausalLM  # noqa: F401

    import kilter.train.loop  # noqa: F401  (what generates in a run has this in memory)
    from kilter.models.load import load
    from kilter.models.sample import Sampling, sample

    torch.set_num_threads(1)
    imported = memory("VmRSS")
    model = load(spec["model"], "causal")
    prompts = [r["prompt"] for r in read_rows(spec)[: spec["batch"]]]
    keys = [("benchmark", i) for i in range(len(prompts))]
    few = spec["greedy_rows"]
    greedy = sample(model, prompts[:few], keys[:few], Sampling(0.0, max_new=spec["max_new"]), NO_END)
    clock = Clock()
    clock.mark()
    for _ in range(spec["steps"]):
        drawn = sample(model, prompts, keys, Sampling(1.0, max_new=spec["max_new"]), NO_END)
        assert [len(a.ids) for a in drawn] == [spec["max_new"]] * spec["batch"]
        clock.mark()
    write_result(spec, {"import_kib": imported, "ids": [a.ids for a in greedy], **clock.steps(1)})


if __name__ == "__main__":
    main()
