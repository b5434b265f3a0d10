"""Whether PPO of a 7B model fits a small card: two rounds with all four roles on one 4-bit backbone, memory counted.

    python benchmarks/ppo_7b.py --shape llama2-7b --cap 14                          a 16 GB card, bfloat16
    python benchmarks/ppo_7b.py --shape qwen2.5-7b --cap 14
    python benchmarks/ppo_7b.py --shape llama2-7b --cap 14 --dtype float16 --no-flash   a card without bfloat16 (T4)
    python benchmarks/ppo_7b.py --shape llama2-7b --cap 8                           as the plan says for 8 GB
    python benchmarks/ppo_7b.py --shape llama2-7b --cap 8 --plan-only               what the plan says, and nothing run
    python benchmarks/ppo_7b.py --shape tiny --device cpu                           the script itself, in a minute

The weights are random and made on the device, layer by layer; so nothing is downloaded, and the figures are of memory
and time alone. A real run begins from an SFT adapter and a reward adapter; both are here, random and frozen. `--cap`
limits what PyTorch's allocator may take, so that a large card behaves like a small one; the driver's own half gigabyte
comes on top. What is too large for the cap is changed as `kilter plan` would have it, and what the plan computes for
each phase is printed first, beside what is then measured. float16 begins with a low loss scale here, so that no step is
skipped and the optimiser's state is there.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

GIB = 2**30
SHAPES: dict[str, dict[str, Any]] = {
    "llama2-7b": {
        "family": "Llama",
        "vocab_size": 32000,
        "hidden_size": 4096,
        "intermediate_size": 11008,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 32,
        "max_position_embeddings": 4096,
    },
    "qwen2.5-7b": {
        "family": "Qwen2",
        "vocab_size": 152064,
        "hidden_size": 3584,
        "intermediate_size": 18944,
        "num_hidden_layers": 28,
        "num_attention_heads": 28,
        "num_key_value_heads": 4,
        "max_position_embeddings": 32768,
    },
    "tiny": {
        "family": "Llama",
        "vocab_size": 320,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 256,
    },
}


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, default="llama2-7b")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--dtype", choices=("bfloat16", "float16", "float32"), default="bfloat16")
    parser.add_argument("--no-flash", action="store_true", help="attention without flash kernels")
    parser.add_argument("--quantize", choices=("nf4", "none"), default="nf4")
    parser.add_argument("--cap", type=float, default=0.0, help="GiB that the allocator may take; 0 for all there is")
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--answers", type=int, help="answers in a round (16)")
    parser.add_argument("--prompt", type=int, help="prompt tokens (256)")
    parser.add_argument("--max-new", type=int, help="answer tokens (256)")
    parser.add_argument("--micro-tokens", type=int, help="tokens of a forward and backward, at most (2048)")
    parser.add_argument("--plan-only", action="store_true", help="print what the plan computes, and run nothing")
    parser.add_argument("--rounds", type=int, default=2)
    args = parser.parse_args(argv)
    usual = {"answers": 16, "prompt": 256, "max_new": 256, "micro_tokens": 2048}
    if args.shape == "tiny":
        usual = {"answers": 4, "prompt": 16, "max_new": 16, "micro_tokens": 64}
    for name, value in usual.items():
        if getattr(args, name) is None:
            setattr(args, name, value)
    return args


def config_of(args: argparse.Namespace) -> Any:
    """The stage's configuration."""
    from kilter import config
    from kilter.methods import ppo

    given = {
        "model": "random",
        "reward": "random",
        "data": "random",
        "steps": args.rounds,
        "batch": args.answers,
        "max_new": args.max_new,
        "micro_tokens": args.micro_tokens,
        "ppo_epochs": 1,
        "minibatches": 2,
        "lora_rank": args.rank,
        "quantize": args.quantize,
        "dtype": args.dtype,
        "checkpointing": True,
        "lr": 1e-5,
    }
    return config.build(ppo.Config, given, "ppo")


def shape_config(args: argparse.Namespace) -> Any:
    """The model's configuration."""
    from transformers import AutoConfig

    shape = dict(SHAPES[args.shape])
    config = AutoConfig.for_model(shape.pop("family").lower(), **shape, tie_word_embeddings=False)
    config.update({"pad_token_id": 0, "eos_token_id": 1, "bos_token_id": None})
    return config


def plan(args: argparse.Namespace, c: Any) -> tuple[Any, dict[str, Any]]:
    """The configuration as it fits under the cap, and what the plan computes for each phase."""
    from kilter.methods import ppo
    from kilter.plan import fit, memory, show
    from kilter.plan.shapes import shape_of
    from kilter.plan.stages import Lengths, Planned, Source

    shape = shape_of(shape_config(args))
    source = {n: Source("random", shape, adapters=(memory.Frozen(n, args.rank),)) for n in ("sft", "reward")}
    roles = {"policy": "sft", "reference": "sft", "reward": "reward", "value": "reward"}
    lengths = Lengths(args.prompt, args.max_new, 1, args.prompt, args.max_new)
    cuda = args.device.startswith("cuda")
    whole = Planned(
        "ppo", "ppo", ppo, c, {r: source[s] for r, s in roles.items()}, lengths, cuda, trains=True, kind="prompts"
    )
    change: dict[str, Any] | None = {}
    if args.cap:
        change = fit.cheapest(whole, args.cap * GIB + (memory.CONTEXT if cuda else 0))
        if change is None:
            raise SystemExit(f"the plan knows no change that fits {args.shape} into {args.cap:g} GiB")
    made = whole.changed(**change) if change else whole
    told = {phase: {k: round(v, 3) for k, v in show.gib(x).items()} for phase, x in made.phases().items()}
    return made.config, {"change": change, "phases_gib": told}


def build(args: argparse.Namespace) -> Any:
    """A causal model with random weights, its trunk in four bits, never whole in any other form."""
    from transformers import AutoModelForCausalLM

    from kilter.models import load, quant

    config = shape_config(args)
    dtype = load.DTYPES[args.dtype]
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=dtype)
    trunk = model.base_model
    trunk.rotary_emb = type(trunk.rotary_emb)(config).to(args.device)  # its table is no weight
    for name in [n for n, _ in model.named_modules()]:  # by name: a list of the layers themselves would keep them all
        layer = model.get_submodule(name)
        if next(layer.parameters(recurse=False), None) is None:
            continue
        layer.to_empty(device=args.device, recurse=False)
        for parameter, p in layer.named_parameters(recurse=False):
            if p.ndim == 1:
                p.data.fill_(0.0 if parameter == "bias" else 1.0)
            else:
                p.data.normal_(std=0.02)
        if args.quantize == "nf4" and isinstance(layer, torch.nn.Linear) and name != "lm_head":
            parent, _, leaf = name.rpartition(".")
            setattr(model.get_submodule(parent), leaf, quant.Linear4bit(layer))
    return model.eval().requires_grad_(False)


def start(model: Any, folder: str, rank: int, head: dict[str, Any]) -> Any:
    """A frozen adapter as an earlier stage would have left it."""
    from kilter.models import lora

    adapters = lora.fresh_adapters(model, rank, 16.0, (folder,), torch.float32)
    layers = {
        n: (a.lora_A.data, torch.randn(a.lora_B.shape, device=a.lora_B.device) * 1e-3) for n, a in adapters.items()
    }
    return lora.AdapterFile(folder, "random", 16.0 / rank, layers, head)


class Prompts:
    """Random prompts of one length."""

    def __init__(self, length: int, vocabulary: int) -> None:
        self.length, self.vocabulary = length, vocabulary

    def __len__(self) -> int:
        return 1_000_000

    def at(self, begin: int, count: int) -> list[Any]:
        from kilter.data.records import Prompt
        from kilter.data.streams import PromptItem

        def item(number: int) -> Any:
            draw = random.Random(number)
            ids = [draw.randrange(2, self.vocabulary) for _ in range(self.length)]
            return PromptItem(Prompt(messages=({"role": "user", "content": str(number)},)), ids, f"random:{number}")

        return [item(n) for n in range(begin, begin + count)]


class Watch:
    """Peak memory and time by phase; on a CPU only the time, and the bytes of what is held."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.cuda, self.rows = args.device.startswith("cuda"), []
        self.began = time.perf_counter()

    def phase(self, name: str) -> None:
        """End a phase."""
        row: dict[str, Any] = {"phase": name}
        if self.cuda:
            torch.cuda.synchronize()
            row |= {
                "peak_gib": round(torch.cuda.max_memory_allocated() / GIB, 3),
                "reserved_gib": round(torch.cuda.max_memory_reserved() / GIB, 3),
                "held_gib": round(torch.cuda.memory_allocated() / GIB, 3),
            }
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        now = time.perf_counter()
        row["seconds"] = round(now - self.began, 2)
        self.began = now
        self.rows.append(row)
        print(json.dumps(row), flush=True)


def held_bytes(actors: Any) -> dict[str, int]:
    """Bytes of the backbone, once, and of each role's own adapters and head."""
    from kilter.models import quant, views

    found = {"backbone": sum(p.numel() * p.element_size() for _, p in views.backbone_parameters(actors.policy.model))}
    for module in actors.policy.model.modules():
        if isinstance(module, quant.Linear4bit):
            found["backbone"] += module.bytes() - module.weight.numel()
    seen = {id(p) for _, p in views.backbone_parameters(actors.policy.model)}
    for role in ("reference", "policy", "reward", "value"):
        own = {id(p): p for p in actors[role].parameters() if id(p) not in seen}
        found[role] = sum(p.numel() * p.element_size() for p in own.values())
        seen |= set(own)
    return found


def main(argv: list[str] | None = None) -> dict[str, Any]:
    args = parse(argv)
    c, planned = plan(args, config_of(args))
    print(json.dumps({"plan": planned}), flush=True)
    if args.plan_only:
        return {"plan": planned}
    from kilter.methods import ppo
    from kilter.models import checkpointing
    from kilter.models.roles import Actors, share
    from kilter.runs import Stage
    from kilter.train.loop import Loop
    from kilter.train.optim import Optimizers

    if args.device.startswith("cuda") and args.cap:
        whole = torch.cuda.get_device_properties(torch.cuda.current_device()).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, args.cap * GIB / whole))
    if args.no_flash:
        torch.backends.cuda.enable_flash_sdp(False)
        torch.backends.cuda.enable_cudnn_sdp(False)
    print(json.dumps({**vars(args), "torch": torch.__version__}), flush=True)
    watch = Watch(args)
    torch.manual_seed(0)
    model = build(args)
    watch.phase("backbone")
    tokenizer = SimpleNamespace(eos_token_id=1, pad_token_id=0, decode=lambda ids, **_: "")
    actors = Actors(c, tokenizer, 1, "ppo")
    width = model.config.hidden_size
    sft = start(model, "sft", args.rank, {})
    judge = start(model, "reward", args.rank, {"score.weight": torch.randn(1, width, device=args.device)})
    share(actors, ppo, model, "random", {"policy": [sft], "reference": [sft], "reward": [judge], "value": [judge]})
    del sft, judge
    checkpointing.enable(model.base_model)
    held = held_bytes(actors)
    print(json.dumps({"held_bytes": held}), flush=True)
    watch.phase("roles")
    with tempfile.TemporaryDirectory() as folder:
        loop = Loop(
            Stage("ppo", Path(folder), c, 1),
            ppo,
            actors,
            {"data": Prompts(args.prompt, model.config.vocab_size)},
            Optimizers(ppo, actors, c),
            args.rounds,
        )
        if args.dtype == "float16":
            loop.optimizers.scale.value = 16.0
        state, rows = ppo.State(), []
        for state.round in range(args.rounds):
            actors.begin_round()
            for number, batch in enumerate(ppo.batches(actors, loop.streams, state)):
                if number == 0:
                    watch.phase(f"round {state.round}: rollout and scores")
                rows.append(loop._optimise(batch))
                loop.step += 1
                watch.phase(f"round {state.round}: step {number}")
    peak = max((row.get("reserved_gib", 0.0) for row in watch.rows), default=0.0)
    shown = ("reward", "kl", "kl_max", "ratio_gap", "loss", "skipped", "loss_scale", "grad_norm_policy")
    taken = sum(not r.get("skipped") for r in rows)
    done = {
        "peak_gib": peak,
        "steps_taken": taken,
        "steps": [{k: r[k] for k in shown if k in r} for r in rows],
        "phases": watch.rows,
        "held_bytes": held,
        "plan": planned,
    }
    print(json.dumps({k: done[k] for k in ("peak_gib", "steps_taken", "steps")}), flush=True)
    return done


if __name__ == "__main__":
    main()
