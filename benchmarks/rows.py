"""Same weights and same rows for both sides: `python rows.py FOLDER` writes them once, from a fixed seed.

Models are Llama-shaped with random weights, saved as plain Hugging Face folders; rows are token ids. A constant channel
holds the logits of end and padding far down, so that sampled answers run to their full length and a round is the same
work on both sides, whatever is drawn.
"""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path
from typing import Any

SPECIAL = ["<|pad|>", "<|end|>"]
TEMPLATE = "{% for m in messages %}{{ m['content'] }} {% endfor %}"
SHAPES: dict[str, dict[str, int]] = {
    "tiny": {"width": 128, "layers": 4, "heads": 4, "inner": 344, "vocabulary": 1024},
    "small": {"width": 512, "layers": 6, "heads": 8, "inner": 1376, "vocabulary": 6144},
    "tiny-152k": {"width": 128, "layers": 4, "heads": 4, "inner": 344, "vocabulary": 151936},
}
"""About 1.05 M, 25.2 M, and 1 M parameters under a vocabulary of 152k."""
ROWS: dict[str, dict[str, Any]] = {
    "demonstrations": {"rows": 480, "prompt": (8, 128), "answer": (8, 128), "answers": 1},
    "pairs": {"rows": 480, "prompt": (16, 64), "answer": (8, 48), "answers": 2},
    "rankings": {"rows": 60, "prompt": (48, 48), "answer": (16, 16), "answers": 9},
    "pairs-short": {"rows": 480, "prompt": (48, 48), "answer": (16, 16), "answers": 2},
    "pairs-long": {"rows": 240, "prompt": (512, 512), "answer": (128, 128), "answers": 2},
    "prompts": {"rows": 960, "prompt": (16, 48), "answer": (0, 0), "answers": 0},
    "prompts-even": {"rows": 64, "prompt": (64, 64), "answer": (0, 0), "answers": 0},
}
"""Lengths are drawn log-uniformly between their bounds; an answer's last token is the end token."""


def main() -> None:
    make(Path(sys.argv[1]))


def make(folder: Path) -> None:
    """Everything, unless it is there."""
    stamp = folder / "READY"
    wanted = json.dumps([SHAPES, ROWS, Path(__file__).read_text(encoding="utf-8")], sort_keys=True)
    if stamp.is_file() and stamp.read_text(encoding="utf-8") == wanted:
        return
    for name, shape in SHAPES.items():
        make_models(folder / name, shape)
    for model, shape in SHAPES.items():
        for name, spec in ROWS.items():
            make_rows(folder / model / f"{name}.jsonl", spec, shape["vocabulary"])
    stamp.write_text(wanted, encoding="utf-8")


def make_rows(path: Path, spec: dict[str, Any], vocabulary: int) -> None:
    """{"prompt": ids, "answers": [ids, ...]} a line, the best answer first."""
    draw = random.Random(path.stem)
    ids = lambda bounds: [draw.randrange(2, vocabulary) for _ in range(log_uniform(draw, bounds))]  # noqa: E731
    with open(path, "w", encoding="utf-8") as out:
        for _ in range(spec["rows"]):
            answers = [[*ids(spec["answer"])[:-1], 1] for _ in range(spec["answers"])]
            out.write(json.dumps({"prompt": ids(spec["prompt"]), "answers": answers}) + "\n")


def log_uniform(draw: random.Random, bounds: tuple[int, int]) -> int:
    low, high = bounds
    return low if low == high else round(low * (high / low) ** draw.random())


def make_models(folder: Path, shape: dict[str, int]) -> None:
    """`model` (causal), `reward` and `value` (one label, heads of their own) with one tokenizer: `t17` is id 17."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM, LlamaForSequenceClassification

    tokenizer = make_tokenizer(shape["vocabulary"])
    config = LlamaConfig(
        vocab_size=shape["vocabulary"],
        hidden_size=shape["width"],
        intermediate_size=shape["inner"],
        num_hidden_layers=shape["layers"],
        num_attention_heads=shape["heads"],
        num_key_value_heads=shape["heads"],
        max_position_embeddings=1024,
        initializer_range=0.05,
        tie_word_embeddings=False,
        pad_token_id=0,
        eos_token_id=1,
        bos_token_id=None,
    )
    torch.manual_seed(0)
    model = LlamaForCausalLM(config)
    hold_down_special(model)
    save(model, tokenizer, folder / "model")
    if shape["vocabulary"] > 100_000:
        return
    config.num_labels = 1
    for name in ("reward", "value"):
        scorer = LlamaForSequenceClassification(config)
        scorer.model.load_state_dict(model.model.state_dict())
        torch.nn.init.normal_(scorer.score.weight, std=0.05)
        save(scorer, tokenizer, folder / name)


def hold_down_special(model: Any) -> None:
    """Channel 0 of the residual stream is the same at every token; the head reads it for end and padding alone."""
    import torch

    with torch.no_grad():
        model.model.embed_tokens.weight[:, 0] = 0.5
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight[0] = 0.0
            layer.mlp.down_proj.weight[0] = 0.0
        model.lm_head.weight[:, 0] = 0.0
        model.lm_head.weight[:2] = 0.0
        model.lm_head.weight[:2, 0] = -20.0


def make_tokenizer(vocabulary: int) -> Any:
    """One word, one token."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = {**{name: i for i, name in enumerate(SPECIAL)}, **{f"t{i}": i for i in range(2, vocabulary)}}
    backend = Tokenizer(models.WordLevel(words, unk_token="t2"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token=SPECIAL[0], eos_token=SPECIAL[1], padding_side="left"
    )
    tokenizer.chat_template = TEMPLATE
    return tokenizer


def save(model: Any, tokenizer: Any, folder: Path) -> None:
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


if __name__ == "__main__":
    main()
