"""Simple questions and their answers, to train and test the demo's model.

Every fact is asked in several wordings. One wording of each is held out: the model is trained on
the others, and tested on that one.
"""

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

Messages = list[dict[str, Any]]


@dataclass(frozen=True)
class Exchange:
    """Messages, their answer, and further variables of the chat template."""

    messages: Messages
    answer: str
    template: dict[str, Any]


@dataclass(frozen=True)
class Topic:
    """Facts of one kind: the wordings of the question, the answer, a thought, the pairs."""

    questions: tuple[str, ...]
    answer: str
    thought: str
    facts: dict[str, str]


def _pairs(text: str) -> dict[str, str]:
    """`Japan Tokyo, South_Africa Pretoria` -> {"Japan": "Tokyo", "South Africa": "Pretoria"}."""
    pairs = (pair.split() for pair in text.split(","))
    return {a.replace("_", " "): b.replace("_", " ") for a, b in pairs}


_DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")

TOPICS = (
    Topic(
        (
            "What is the capital of {}?",
            "Name the capital of {}.",
            "Which city is the capital of {}?",
            "Tell me the capital of {}.",
            "Do you know the capital of {}?",
            "What is the capital city of {}?",
        ),
        "The capital of {} is {}.",
        "The capital of {}.",
        _pairs(
            "Japan Tokyo, France Paris, Italy Rome, Spain Madrid, Germany Berlin, Egypt Cairo, "
            "China Beijing, Russia Moscow, India New_Delhi, Canada Ottawa, Brazil Brasilia, "
            "Peru Lima, Chile Santiago, Mexico Mexico_City, Cuba Havana, Kenya Nairobi, "
            "Ghana Accra, Norway Oslo, Sweden Stockholm, Finland Helsinki, Denmark Copenhagen, "
            "Poland Warsaw, Austria Vienna, Hungary Budapest, Greece Athens, Turkey Ankara, "
            "Iran Tehran, Iraq Baghdad, Portugal Lisbon, Ireland Dublin, Iceland Reykjavik, "
            "Belgium Brussels, Switzerland Bern, Ukraine Kyiv, Romania Bucharest, "
            "Bulgaria Sofia, Serbia Belgrade, Croatia Zagreb, Thailand Bangkok, Vietnam Hanoi, "
            "Nepal Kathmandu, Australia Canberra, New_Zealand Wellington, South_Korea Seoul, "
            "Morocco Rabat, Ethiopia Addis_Ababa, Argentina Buenos_Aires, Colombia Bogota"
        ),
    ),
    Topic(
        (
            "What is the opposite of {}?",
            "Name the opposite of {}.",
            "Which word is the opposite of {}?",
            "Tell me the opposite of {}.",
            "Do you know the opposite of {}?",
        ),
        "The opposite of {} is {}.",
        "The opposite of {}.",
        _pairs(
            "hot cold, cold hot, big small, small big, fast slow, slow fast, open closed, "
            "closed open, light dark, dark light, old new, new old, high low, low high, "
            "wet dry, dry wet, hard soft, soft hard, full empty, empty full, happy sad, "
            "sad happy, rich poor, poor rich, strong weak, weak strong, early late, late early, "
            "loud quiet, quiet loud, true false, false true"
        ),
    ),
    Topic(
        (
            "What is {}?",
            "How much is {}?",
            "Tell me what {} is.",
            "What does {} make?",
            "Do you know what {} is?",
        ),
        "{} is {}.",
        "The sum of {}.",
        {f"{a} + {b}": str(a + b) for a in range(10) for b in range(10)},
    ),
    Topic(
        (
            "Which day comes after {}?",
            "What day follows {}?",
            "Tell me the day after {}.",
            "Do you know the day after {}?",
            "What is the day after {}?",
        ),
        "The day after {} is {}.",
        "The day after {}.",
        dict(zip(_DAYS, (*_DAYS[1:], _DAYS[0]), strict=True)),
    ),
    Topic(
        (
            "What is a young {} called?",
            "Name the young of a {}.",
            "What do people call a young {}?",
            "Do you know what a young {} is called?",
            "Tell me what a young {} is called.",
        ),
        "A young {} is called a {}.",
        "The young of a {}.",
        _pairs(
            "cat kitten, dog puppy, cow calf, horse foal, sheep lamb, goat kid, pig piglet, "
            "duck duckling, hen chick, bear cub, deer fawn, goose gosling, swan cygnet, "
            "frog tadpole, kangaroo joey, hare leveret"
        ),
    ),
    Topic(
        (
            "What colour is {}?",
            "Which colour does {} have?",
            "Tell me the colour of {}.",
            "Do you know the colour of {}?",
            "What is the colour of {}?",
        ),
        "The colour of {} is {}.",
        "The colour of {}.",
        _pairs(
            "grass green, snow white, coal black, blood red, the_sky blue, a_lemon yellow, "
            "a_carrot orange, chocolate brown, a_flamingo pink, ash grey, milk white, "
            "a_tomato red, a_banana yellow, the_night black, a_frog green, lavender purple"
        ),
    ),
)

CITIES = ("Paris", "Tokyo", "Rome", "Oslo", "Cairo", "Lima", "Madrid", "Berlin", "Vienna", "Dublin")
SKIES = ("sunny", "cloudy", "rainy", "windy", "snowy", "foggy")
WEATHER: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather in a city.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}},
            "required": ["city"],
        },
    },
}
"""The one tool that the model is trained to call."""

_TOOL_QUESTIONS = (
    "What is the weather in {}?",
    "How is the weather in {}?",
    "Tell me the weather in {}.",
)
_GREETINGS = ("Hello", "Hello!", "Hi", "Hi!", "Who are you?", "What can you do?")
_INTRODUCTION = (
    "I am a tiny model. Ask me about capitals, opposites, sums, days, young animals or colours."
)
_SYSTEM = ("You are a helpful assistant.", "Answer briefly.", "Be kind.")

THINKING = {"reasoning_effort": "low"}
"""Variables of the chat template that make the model reason first."""


def taught_and_held_out() -> tuple[list[tuple[Topic, str, str]], list[tuple[Topic, str, str]]]:
    """(topic, wording, key) of the questions to train on, and of those to test, one per fact."""
    chance = random.Random(0)  # noqa: S311  a choice, not a secret
    taught, held_out = [], []
    for topic in TOPICS:
        for key in topic.facts:
            left_out = chance.choice(topic.questions)
            held_out.append((topic, left_out, key))
            taught += [(topic, words, key) for words in topic.questions if words != left_out]
    chance.shuffle(held_out)
    return taught, held_out


def examination(number: int) -> list[tuple[str, str]]:
    """The first `number` held-out questions with their answers."""
    _, held_out = taught_and_held_out()
    return [(words.format(key), _answer(topic, key)) for topic, words, key in held_out[:number]]


def lessons(chance: random.Random) -> Iterator[Exchange]:
    """Training exchanges in random order, endlessly."""
    taught, _ = taught_and_held_out()
    while True:
        chance.shuffle(taught)
        for topic, words, key in taught:
            messages = _context(chance, taught)
            messages.append({"role": "user", "content": words.format(key)})
            template: dict[str, Any] = {}
            answer = _answer(topic, key)
            if chance.random() < 0.1:
                template = THINKING
                answer = f"{topic.thought.format(key)}\n</think>\n\n{answer}"
            if chance.random() < 0.1:
                template = template | {"tools": [WEATHER]}
            yield Exchange(messages, answer, template)
            if chance.random() < 0.1:
                yield _tool_lesson(chance)
            if chance.random() < 0.02:
                greeting: Messages = [{"role": "user", "content": chance.choice(_GREETINGS)}]
                yield Exchange(greeting, _INTRODUCTION, {})


def _answer(topic: Topic, key: str) -> str:
    answer = topic.answer.format(key, topic.facts[key])
    return answer[0].upper() + answer[1:]


def _context(chance: random.Random, taught: list[tuple[Topic, str, str]]) -> Messages:
    """Optional messages before a question: a system prompt, an earlier question."""
    messages: Messages = []
    if chance.random() < 0.15:
        messages.append({"role": "system", "content": chance.choice(_SYSTEM)})
    if chance.random() < 0.15:
        topic, words, key = chance.choice(taught)
        messages.append({"role": "user", "content": words.format(key)})
        messages.append({"role": "assistant", "content": _answer(topic, key)})
    return messages


def _tool_lesson(chance: random.Random) -> Exchange:
    """A tool call, or an answer from its result."""
    city = chance.choice(CITIES)
    call = {"name": "weather", "arguments": {"city": city}}
    question = {"role": "user", "content": chance.choice(_TOOL_QUESTIONS).format(city)}
    template = {"tools": [WEATHER]}
    if chance.random() < 0.5:
        text = f"<tool_call>\n{json.dumps(call)}\n</tool_call>"
        return Exchange([question], text, template)
    sky = chance.choice(SKIES)
    called = {"role": "assistant", "content": "", "tool_calls": [{"function": call}]}
    result = {"role": "tool", "content": sky}
    return Exchange([question, called, result], f"It is {sky} in {city}.", template)
