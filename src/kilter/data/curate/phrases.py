"""Small lists of phrases by language: refusals, an assistant talking of itself, and words of a scaffold that leaked.

The lists are kilter's own and deliberately plain: each phrase is one that a good answer hardly ever begins with
(refusals) or contains (the rest). They are compared with texts made `normal`, so they stand in lower case.
"""

from __future__ import annotations

REFUSALS: dict[str, tuple[str, ...]] = {
    "en": (
        "i'm sorry, but i can't",
        "i'm sorry, but i cannot",
        "i am sorry, but i cannot",
        "i'm sorry, i can't",
        "i'm sorry, i cannot",
        "sorry, but i can't",
        "sorry, i can't",
        "i can't help with",
        "i cannot help with",
        "i can't assist with",
        "i cannot assist with",
        "i can't provide",
        "i cannot provide",
        "i'm unable to",
        "i am unable to",
        "i'm not able to",
        "i am not able to",
        "i won't help",
        "i must decline",
        "i cannot fulfill",
        "i can't fulfill",
        "i cannot comply",
        "i can't comply",
        "unfortunately, i cannot",
        "unfortunately, i can't",
    ),
    "de": (
        "es tut mir leid, aber ich kann",
        "tut mir leid, aber ich kann",
        "tut mir leid, ich kann",
        "ich kann ihnen dabei nicht helfen",
        "ich kann dir dabei nicht helfen",
        "dabei kann ich nicht helfen",
        "ich bin nicht in der lage",
        "leider kann ich",
    ),
    "fr": (
        "je suis désolé, mais je ne peux pas",
        "je suis désolée, mais je ne peux pas",
        "désolé, je ne peux pas",
        "je ne peux pas vous aider",
        "je ne suis pas en mesure",
    ),
    "es": (
        "lo siento, pero no puedo",
        "lo siento, no puedo",
        "no puedo ayudar",
        "no puedo proporcionar",
        "no me es posible",
    ),
    "it": ("mi dispiace, ma non posso", "mi dispiace, non posso", "non posso aiutarti", "non sono in grado di"),
    "pt": ("desculpe, mas não posso", "desculpe, não posso", "sinto muito, mas não posso", "não posso ajudar"),
    "zh": ("抱歉,我不能", "抱歉,我无法", "对不起,我不能", "对不起,我无法", "很抱歉,我", "我无法提供", "我不能提供"),
    "ja": ("申し訳ありませんが", "申し訳ございませんが", "お手伝いできません", "お答えできません", "お応えできません"),
    "ko": ("죄송하지만", "죄송합니다만", "도와드릴 수 없습니다"),
    "th": ("ขออภัย ฉันไม่สามารถ", "ขอโทษ ฉันไม่สามารถ"),
}
"""How an answer begins that refuses. NFKC writes the full-width comma as a plain one, and so do these."""

IDENTITY: dict[str, tuple[str, ...]] = {
    "en": (
        "as an ai language model",
        "as a large language model",
        "as a language model",
        "as an ai assistant",
        "as an artificial intelligence",
        "i am an ai language model",
        "i'm an ai language model",
        "my knowledge cutoff",
        "my training data only",
        "as of my last update",
        "trained by openai",
    ),
    "de": ("als ki-sprachmodell", "als ki-modell", "als ki-assistent", "als künstliche intelligenz"),
    "fr": ("en tant que modèle de langage", "en tant qu'ia", "en tant qu'intelligence artificielle"),
    "es": ("como modelo de lenguaje", "como un modelo de lenguaje", "como inteligencia artificial"),
    "it": ("come modello linguistico", "in quanto modello linguistico"),
    "pt": ("como um modelo de linguagem", "como modelo de linguagem"),
    "zh": ("作为一个人工智能", "作为一个语言模型", "作为ai语言模型", "作为一个ai", "作为人工智能"),
    "ja": ("ai言語モデルとして", "言語モデルとして", "私はaiなので"),
    "ko": ("ai 언어 모델로서", "인공지능 언어 모델로서"),
}
"""An assistant talking of what it is, where nobody asked."""

SCAFFOLD: dict[str, tuple[str, ...]] = {
    "any": (
        "### instruction:",
        "### response:",
        "### input:",
        "<|im_start|>",
        "<|im_end|>",
        "<|endoftext|>",
        "<|assistant|>",
        "<|user|>",
        "[/inst]",
        "<<sys>>",
        "#given prompt#",
        "#rewritten prompt#",
        "#created prompt#",
        "#the given prompt#",
        "<camel_task_done>",
        "<noinput>",
    ),
}
"""Words of templates and of synthesis prompts that belong in no text."""
