"""The world's tokenizer: each word of the world is one token, and any other input is encoded byte by byte.

A byte-level unigram model, whose only pieces are the bytes and the words counted in corpus and demonstrations.
Byte-pair merges would need twice the entries for the same words (every merge on the way to a word is an entry that
nothing else uses), and in a model this small those rows cost more than they give.
"""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from kilter.sandbox.answers import demonstrations
from kilter.sandbox.corpus import documents
from kilter.sandbox.grammar import SLOT
from kilter.sandbox.phrases import FRAMES
from kilter.sandbox.wordings import SYSTEM as SYSTEM_MESSAGES
from kilter.sandbox.wordings import WORDINGS
from kilter.sandbox.world import KINDS

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

PAD, END, SYSTEM, USER, ASSISTANT = "<|pad|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>"
LETTER_SCORE = -30.0
"""The log-probability of a lone byte: so low that a word is never spelt where it can be said."""
CONTEXT = 256

CHAT_TEMPLATE = (
    "{%- for message in messages -%}"
    "{{- '<|' + message['role'] + '|>' -}}"
    "{%- if message['role'] == 'assistant' -%}"
    "{%- generation -%}{{- message['content'] + eos_token -}}{%- endgeneration -%}"
    "{%- else -%}{{- message['content'] -}}{%- endif -%}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|assistant|>' -}}{%- endif -%}"
)
"""Role token and content of each message; an assistant's turn ends with `<|end|>` and is marked as generation."""


def sample_texts(seed: int) -> Iterator[str]:
    """Everything that the world can say or ask, once, and enough of the corpus to know how often."""
    for kind, words in KINDS.items():
        yield from words
        if kind in ("number", "order"):
            yield from (word.capitalize() for word in words)  # the only ones that can begin a sentence
    for texts in (*FRAMES.values(), *SYSTEM_MESSAGES.values(), *(w.texts + w.reserved for w in WORDINGS.values())):
        for text in texts:
            yield from (plain := SLOT.sub("", text), plain[:1].upper() + plain[1:])
    yield from documents(seed, 3000)
    for demonstration in demonstrations(seed, 3000):
        yield from (m["content"] for m in demonstration.prompt.messages)
        yield demonstration.answer


def build(folder: str | os.PathLike[str], seed: int = 0) -> PreTrainedTokenizerFast:
    """Count the world's words, and save the tokenizer as a plain folder for `AutoTokenizer.from_pretrained`."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    # A word is the same token at the start of a text as within it, so a name copied to the front of an answer is one.
    split = pre_tokenizers.ByteLevel(add_prefix_space=True)
    counts = Counter(word for text in sample_texts(seed) for word, _ in split.pre_tokenize_str(text))
    total = sum(counts.values())
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = sorted(word for word in counts if len(word) > 1)
    special = [PAD, END, SYSTEM, USER, ASSISTANT]
    scores = [(token, 0.0) for token in special] + [(letter, LETTER_SCORE) for letter in alphabet]
    scores += [(word, math.log(counts[word] / total)) for word in words]
    tokenizer = Tokenizer(models.Unigram(scores, unk_id=None, byte_fallback=False))
    tokenizer.pre_tokenizer = split
    tokenizer.decoder = decoders.Sequence([decoders.ByteLevel(), decoders.Strip(" ", 1, 0)])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=END,
        additional_special_tokens=[SYSTEM, USER, ASSISTANT],
        model_max_length=CONTEXT,
        clean_up_tokenization_spaces=False,
    )
    fast.chat_template = CHAT_TEMPLATE
    Path(folder).mkdir(parents=True, exist_ok=True)
    fast.save_pretrained(folder)
    return fast
