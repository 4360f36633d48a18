"""Tool calls between marks that only one family uses."""

from reconciler.worker.output.families.strings import PARAMETERS
from reconciler.worker.output.format import (
    JSON_STRINGS,
    PYTHON_STRINGS,
    Description,
    Quotes,
    Region,
)

_GEMMA_STRINGS = (
    Quotes(r'<\|"\|>', r'<\|"\|>'),
    Quotes("<escape>", "<escape>"),
)
_DSML = r"<｜DSML｜"
_XTML_ATTRIBUTES = r"(?:(?!<\|sep\|>).){0,200}"
MARKED = (
    Description(
        name="DSML",
        models="DeepSeek V3.2, V4",
        signs=(("｜DSML｜",),),
        example='<｜DSML｜invoke name="NAME"><｜DSML｜parameter name="KEY" string="true">…',
        regions=(
            Region(
                "call",
                rf"{_DSML}invoke\s",
                r"</｜DSML｜invoke>",
                reader="invokes",
                strings=PARAMETERS,
                keeps_open=True,
                interrupts=True,
            ),
        ),
        dropped=r"</?｜DSML｜(?:function_calls|tool_calls)>",
    ),
    Description(
        name="DeepSeek",
        models="DeepSeek R1, V3, V3.1 and their distillations",
        signs=(("<｜tool▁call▁begin｜>",),),
        example="<｜tool▁call▁begin｜>NAME<｜tool▁sep｜>{…}<｜tool▁call▁end｜>",
        regions=(
            Region(
                "call",
                "<｜tool▁call▁begin｜>",
                "<｜tool▁call▁end｜>",
                reader="named",
                pattern=r"\s*+(?:function\s*+<｜tool▁sep｜>)?\s*+(?P<name>[^\s<]++)\s*"
                r"(?:<｜tool▁sep｜>|\n)\s*(?P<arguments>.*)",
                strings=JSON_STRINGS,
                interrupts=True,
            ),
        ),
        dropped="<｜tool▁calls▁begin｜>|<｜tool▁calls▁end｜>",
    ),
    Description(
        name="Kimi",
        models="Kimi K2, K2 Thinking",
        signs=(("<|tool_call_begin|>", "<|tool_call_argument_begin|>"),),
        example="<|tool_call_begin|>functions.NAME:0<|tool_call_argument_begin|>{…}",
        regions=(
            Region(
                "call",
                r"<\|tool_call_begin\|>",
                r"<\|tool_call_end\|>",
                reader="named",
                pattern=r"\s*(?P<id>(?:functions\.)?(?P<name>[^\s<]+?)(?::\d+)?)\s*"
                r"<\|tool_call_argument_begin\|>(?P<arguments>.*)",
                strings=JSON_STRINGS,
                interrupts=True,
            ),
        ),
        dropped=r"<\|tool_calls_section_(?:begin|end)\|>",
    ),
    Description(
        name="XTML",
        models="Kimi K3",
        signs=(("<|open|>tools<|sep|>",), ("<|open|>call ",)),
        tokens=("<|open|>", "<|close|>", "<|sep|>"),
        example='<|open|>call tool="NAME" index="1"<|sep|>…<|close|>call<|sep|>',
        regions=(
            Region(
                "call",
                rf'<\|open\|>call{_XTML_ATTRIBUTES}\btool="(?P<name>[^"]{{1,200}})"{_XTML_ATTRIBUTES}'
                r"<\|sep\|>",
                r"<\|close\|>call<\|sep\|>",
                reader="xtml",
                interrupts=True,
            ),
        ),
        dropped=r"<\|(?:open|close)\|>tools<\|sep\|>",
    ),
    Description(
        name="[TOOL_CALLS]",
        models="Mistral, Ministral, Devstral, Magistral",
        signs=(("[TOOL_CALLS]",),),
        tokens=("[TOOL_CALLS]",),
        example="[TOOL_CALLS]NAME[CALL_ID]ID[ARGS]{…}, or [TOOL_CALLS][{…}]",
        regions=(
            Region(
                "call",
                r"\[TOOL_CALLS\]",
                reader="mistral",
                pattern=r"\s*(?P<name>[^\s\[\]{}]+)\s*(?:\[CALL_ID\](?P<id>[^\[\]{}]*))?"
                r"(?:\[ARGS\])?\s*(?P<arguments>.*)",
                strings=JSON_STRINGS,
                balanced=True,
                interrupts=True,
            ),
        ),
    ),
    Description(
        name="Gemma",
        models="Gemma 4",
        signs=(("<|tool_call>", "<tool_call|>"),),
        tokens=("<|tool_call>", "<tool_call|>"),
        example='<|tool_call>call:NAME{KEY:<|"|>…<|"|>}<tool_call|>',
        regions=(
            Region(
                "call",
                r"<\|tool_call>",
                r"<tool_call\|>",
                reader="gemma",
                strings=_GEMMA_STRINGS,
                interrupts=True,
            ),
        ),
    ),
    Description(
        name="FunctionGemma",
        models="FunctionGemma",
        signs=(("<start_function_call>",),),
        example="<start_function_call>call:NAME{KEY:<escape>…<escape>}<end_function_call>",
        regions=(
            Region(
                "call",
                "<start_function_call>",
                "<end_function_call>",
                reader="gemma",
                strings=_GEMMA_STRINGS,
                interrupts=True,
            ),
        ),
    ),
    Description(
        name="START_ACTION",
        models="Command A, Command R7B",
        signs=(("<|START_ACTION|>",),),
        example='<|START_ACTION|>[{"tool_call_id": "0", "tool_name": …, "parameters": {…}}]',
        regions=(
            Region(
                "call",
                r"<\|START_ACTION\|>",
                r"<\|END_ACTION\|>",
                reader="json",
                strings=JSON_STRINGS,
                interrupts=True,
            ),
        ),
    ),
    Description(
        name="Action:",
        models="Command R, R+",
        signs=(("Action:\\n```json", "tool_name"), ("Action:", '"tool_name"', "directly-answer")),
        example='Action: ```json [{"tool_name": …, "parameters": {…}}]```',
        regions=(
            Region("call", r"Action:\s{0,8}```json", "```", reader="json", strings=JSON_STRINGS),
        ),
    ),
    Description(
        name="LFM2",
        models="LFM2",
        signs=(("<|tool_list_start|>",), ("<|tool_call_start|>",)),
        tokens=("<|tool_call_start|>", "<|tool_call_end|>"),
        example='<|tool_call_start|>[NAME(KEY="…")]<|tool_call_end|>',
        regions=(
            Region(
                "call",
                r"<\|tool_call_start\|>",
                r"<\|tool_call_end\|>",
                reader="pythonic",
                strings=PYTHON_STRINGS,
                interrupts=True,
            ),
        ),
    ),
)
