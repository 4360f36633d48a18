"""Marks around reasoning, and around the answer that follows it."""

from reconciler.worker.output.format import Description, Region


def _thinking(opens: str, closes: str, *, token: bool = False) -> Region:
    return Region("reasoning", opens, closes, interrupts=token)


REASONING = (
    Description(
        name="think",
        models="DeepSeek, Qwen 3, QwQ, GLM, Kimi K2 Thinking, MiniMax M2, Nemotron, Step, MiMo, "
        "SmolLM3, EXAONE 4, Hunyuan",
        signs=(("</think>",), ("<think>",)),
        tokens=("<think>", "</think>"),
        regions=(_thinking("<think>", "</think>"),),
    ),
    Description(
        name="seed:think",
        models="Seed-OSS",
        signs=(("<seed:think>",),),
        regions=(_thinking("<seed:think>", "</seed:think>"),),
    ),
    Description(
        name="[THINK]",
        models="Magistral, Ministral Reasoning",
        signs=(("[THINK]",),),
        tokens=("[THINK]", "[/THINK]"),
        regions=(_thinking(r"\[THINK\]", r"\[/THINK\]", token=True),),
    ),
    Description(
        name="thought channel",
        models="Gemma 4",
        signs=(("<|channel>", "<channel|>"),),
        regions=(_thinking(r"<\|channel>thought", r"<channel\|>", token=True),),
    ),
    Description(
        name="START_THINKING",
        models="Command A, Command R7B",
        signs=(("<|START_THINKING|>",),),
        regions=(_thinking(r"<\|START_THINKING\|>", r"<\|END_THINKING\|>", token=True),),
    ),
    Description(
        name="START_RESPONSE",
        models="Command A, Command R7B, Aya: around the answer",
        signs=(("<|START_RESPONSE|>",), ("<|START_TEXT|>",)),
        example="<|START_RESPONSE|>…<|END_RESPONSE|>",
        regions=(
            Region(
                "content",
                r"<\|START_(?:RESPONSE|TEXT)\|>",
                r"<\|END_(?:RESPONSE|TEXT)\|>",
                headed=True,
            ),
        ),
    ),
    Description(
        name="reasoning steps",
        models="Apriel 1.6",
        signs=(("Here are my reasoning steps:\\n", "[BEGIN FINAL RESPONSE]"),),
        regions=(
            _thinking("Here are my reasoning steps:\n", r"\[BEGIN FINAL RESPONSE\]"),
            Region("content", r"\[BEGIN FINAL RESPONSE\]", r"\[END FINAL RESPONSE\]", first=True),
        ),
    ),
    Description(
        name="thinking",
        models="Apriel 1.5",
        signs=(("<thinking>", "</thinking>"),),
        regions=(_thinking("<thinking>", "</thinking>"),),
    ),
    Description(
        name="thought",
        models="EXAONE Deep",
        signs=(("<thought>",),),
        regions=(_thinking("<thought>", "</thought>"),),
    ),
    Description(
        name="think:start",
        models="models with these marks",
        signs=(("<|think:start|>",),),
        tokens=("<|think:start|>", "<|think:end|>"),
        regions=(_thinking(r"<\|think:start\|>", r"<\|think:end\|>", token=True),),
    ),
    Description(
        name="longcat_think",
        models="LongCat",
        signs=(("<longcat_think>",),),
        tokens=("<longcat_think>", "</longcat_think>"),
        regions=(_thinking("<longcat_think>", "</longcat_think>"),),
    ),
    Description(
        name="XTML think",
        models="Kimi K3",
        signs=(("<|open|>think<|sep|>",),),
        regions=(
            _thinking(r"<\|open\|>think<\|sep\|>", r"<\|close\|>think<\|sep\|>", token=True),
            Region(
                "content",
                r"<\|open\|>response<\|sep\|>",
                r"<\|close\|>response<\|sep\|>",
                headed=True,
            ),
        ),
    ),
    Description(
        name="inner_prefix",
        models="Apertus",
        signs=(("<|inner_prefix|>",),),
        regions=(_thinking(r"<\|inner_prefix\|>", r"<\|inner_suffix\|>", token=True),),
    ),
    Description(
        name="response",
        models="Granite 3.3, ERNIE 4.5: around the answer",
        signs=(("<response>", "</response>"),),
        regions=(Region("content", "<response>", "</response>", first=True),),
    ),
    Description(
        name="answer",
        models="Hunyuan: around the answer",
        signs=(("<answer>", "<think>"),),
        regions=(Region("content", "<answer>", "</answer>", first=True),),
    ),
)
