"""Inputs and outputs of a task as Self-Instruct asks for them: worked examples, readers of replies, what can be used.

Classification tasks are asked for a label first and an input that has it, or most inputs would get the same label; all
others for an input first.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from kilter.synth.asking import Tally
from kilter.synth.seeds import no_input

YES = (
    "Decide whether the review is favourable or unfavourable.",
    "Say which of the four seasons the paragraph describes.",
    "Is the following sentence a question or a statement?",
    "Mark the email as spam or not spam.",
    "Name the language in which the sentence is written, out of English, French and German.",
    "Does the second sentence follow from the first? Answer yes, no or maybe.",
    "Choose the topic of the headline: sports, politics, science or culture.",
    "Tell whether the number is odd or even.",
    "Given a symptom, say whether it calls for a doctor, a pharmacist or rest.",
    "Rate the politeness of the message as low, medium or high.",
    "Sort the animal into mammal, bird, fish or reptile.",
    "Find out whether the two questions ask for the same thing.",
)
NO = (
    "Explain to a child why the sky is blue.",
    "Translate the sentence into Spanish.",
    "Suggest three names for a small bakery.",
    "Put the paragraph into simpler words.",
    "Plan a week of vegetarian dinners.",
    "Write a short letter to a landlord about a broken heater.",
    "Compute the sum of the listed prices.",
    "Describe how to change a bicycle tyre.",
    "Tell a joke about penguins.",
    "List the ingredients that the recipe needs.",
    "Who wrote the quoted poem?",
    "Continue the story by two sentences.",
    "Turn the table into a sentence for each row.",
    "Correct the spelling in the text.",
    "What would you ask a beekeeper in an interview?",
    "Summarise the meeting notes in one line.",
    "Give the opposite of each word.",
    "Arrange the words to make a sentence.",
    "Compare living in a village with living in a city.",
)
"""Tasks whose answer is one of a few labels, and tasks whose answer isn't: twelve and nineteen, as in the paper."""
INPUT_FIRST = (
    (
        "Translate the sentence into Spanish.",
        "Example 1\nInput: The shop opens at nine.\nOutput: La tienda abre a las nueve.\n"
        "Example 2\nInput: I have two sisters.\nOutput: Tengo dos hermanas.",
    ),
    ("Suggest three names for a small bakery.", "Output: The Early Loaf, Crumb and Co, Flour Hour"),
    ("Compute the sum of the listed prices.", "Example 1\nInput: 3.50, 2.25, 4.00\nOutput: 9.75"),
    ("Tell a joke about penguins.", "Output: Why do penguins never lose their way? They always waddle back."),
)
OUTPUT_FIRST = (
    (
        "Tell whether the number is odd or even.",
        "Class label: Odd\nInput: 7\nClass label: Even\nInput: 24",
    ),
    (
        "Decide whether the review is favourable or unfavourable.",
        "Class label: Favourable\nInput: I have read it twice and given it to all my friends.\n"
        "Class label: Unfavourable\nInput: It broke on the second day, and nobody answered my letters.",
    ),
    (
        "Mark the email as spam or not spam.",
        "Class label: Spam\nInput: You have won! Send us your card number to get the prize.\n"
        "Class label: Not spam\nInput: Shall we meet at ten instead of nine tomorrow?",
    ),
)


def input_first(text: str) -> list[tuple[str, str]]:
    """Inputs and outputs of `Example 1 / Input: ... / Output: ...`; without examples there is one."""
    found = []
    for part in re.split(r"(?:^|\n)[ \t]*Example[ \t]+\d+[.:]?[ \t]*", text):
        given, mark, output = part.partition("Output:")
        if mark:
            given = re.sub(r"^\s*Input:[ \t]*", "", given).strip()
            found.append(("" if no_input(given) else given, output.strip()))
    return found


def output_first(text: str) -> list[tuple[str, str]]:
    """Inputs and labels of `Class label: ... / Input: ...`."""
    found = []
    for part in re.split(r"(?:^|\n)[ \t]*Class label:", text)[1:]:
        label, _, given = part.strip().partition("\n")
        given = re.sub(r"^\s*Input:[ \t]*", "", given).strip()
        found.append(("" if no_input(given) else given, label.strip()))
    return found


def sound(found: Sequence[tuple[str, str]], most: int, tally: Tally, name: str) -> list[tuple[str, str]]:
    """The instances of a task that can be used; if one input has two outputs, none can."""
    whole: list[tuple[str, str]] = []
    for given, output in found:
        raw = f"Input: {given}\nOutput: {output}"
        if not output:
            tally.reject("empty-output", "the output is empty", raw, instruction=name)
        elif given == output:
            tally.reject("same-as-input", "the output repeats the input", raw, instruction=name)
        elif given.endswith(":") or output.endswith(":"):
            tally.reject("ends-with-colon", "something is missing behind the colon at its end", raw, instruction=name)
        else:
            whole.append((given, output))
    outputs: dict[str, set[str]] = {}
    for given, output in whole:
        outputs.setdefault(given, set()).add(output)
    torn = [given for given, several in outputs.items() if given and len(several) > 1]
    for given, output in whole if torn else ():
        detail = f"an input of this task has {len(outputs[torn[0]])} different outputs"
        tally.reject("contradiction", detail, f"Input: {given}\nOutput: {output}", instruction=name)
    once = [] if torn else list(dict.fromkeys(whole))
    if not torn and len(once) < len(whole):
        for _ in range(len(whole) - len(once)):
            tally.reject("repeated-instance", "the same input and output occur before", "", instruction=name)
    for given, output in once[most:]:
        tally.reject("too-many", f"at most {most} of a task", f"Input: {given}\nOutput: {output}", instruction=name)
    return once[:most]
