"""Tool calls between tags that several families share."""

from reconciler.worker.output.families.strings import PARAMETERS, TAGGED
from reconciler.worker.output.format import JSON_STRINGS, PYTHON_STRINGS, Description, Region


def _tagged(opens: str, closes: str) -> Region:
    return Region("call", opens, closes, reader="tagged", strings=TAGGED)


TAGS = (
    Description(
        name="MiniMax",
        models="MiniMax M2",
        signs=(("<minimax:tool_call>",), ("minimax:tool_call",)),
        example='<minimax:tool_call><invoke name="NAME"><parameter name="KEY">…',
        regions=(
            Region(
                "call",
                r"<invoke\s",
                "</invoke>",
                reader="invokes",
                strings=PARAMETERS,
                keeps_open=True,
                offered=True,
            ),
        ),
        dropped="</?minimax:tool_call>",
    ),
    Description(
        name="atem",
        models="Muse Spark",
        signs=(("<atem:function_calls>",),),
        example='<atem:invoke name="NAME"><atem:parameter name="KEY">…',
        regions=(
            Region(
                "call",
                r"<atem:invoke\s",
                "</atem:invoke>",
                reader="invokes",
                strings=PARAMETERS,
                keeps_open=True,
                offered=True,
            ),
        ),
        dropped="</?atem:function_calls>",
    ),
    Description(
        name="param",
        models="MiniCPM 5",
        signs=(('<function name="', '<param name="'),),
        example='<function name="NAME"><param name="KEY">…</param></function>',
        regions=(
            Region(
                "call",
                r"<function\s",
                "</function>",
                reader="invokes",
                strings=PARAMETERS,
                keeps_open=True,
                offered=True,
            ),
        ),
    ),
    Description(
        name="seed:tool_call",
        models="Seed-OSS",
        signs=(("<seed:tool_call>",),),
        example="<seed:tool_call><function=NAME><parameter=KEY>…",
        regions=(
            _tagged("<seed:tool_call>", "</seed:tool_call>"),
            Region(
                "call",
                "<function=",
                "</function>",
                reader="invokes",
                strings=PARAMETERS,
                keeps_open=True,
                offered=True,
            ),
        ),
    ),
    Description(
        name="longcat_tool_call",
        models="LongCat",
        signs=(("<longcat_tool_call>",),),
        example="<longcat_tool_call>NAME<longcat_arg_key>KEY</longcat_arg_key>…",
        regions=(_tagged("<longcat_tool_call>", "</longcat_tool_call>"),),
    ),
    Description(
        name="TOOLCALL",
        models="Nemotron Nano v2",
        signs=(("<TOOLCALL>",),),
        example='<TOOLCALL>[{"name": …, "arguments": {…}}]</TOOLCALL>',
        regions=(Region("call", "<TOOLCALL>", "</TOOLCALL>", reader="json", strings=JSON_STRINGS),),
    ),
    Description(
        name="tools_prefix",
        models="Apertus",
        signs=(("<|tools_prefix|>",),),
        example='<|tools_prefix|>[{"NAME": {…}}]<|tools_suffix|>',
        regions=(
            Region(
                "call",
                r"<\|tools_prefix\|>",
                r"<\|tools_suffix\|>",
                reader="json",
                strings=JSON_STRINGS,
                interrupts=True,
            ),
        ),
    ),
    Description(
        name="action_start",
        models="InternLM 2, 2.5, 3",
        signs=(("<|action_start|>",),),
        tokens=("<|action_start|>", "<|action_end|>"),
        example='<|action_start|><|plugin|>{"name": …, "parameters": {…}}<|action_end|>',
        regions=(
            Region(
                "call",
                r"<\|action_start\|>\s{0,8}<\|plugin\|>",
                r"<\|action_end\|>",
                reader="json",
                strings=JSON_STRINGS,
                interrupts=True,
            ),
        ),
    ),
    Description(
        name="tool_calls",
        models="Apriel, Jamba, MiniMax M1, Hunyuan",
        signs=(("<tool_calls>",),),
        example='<tool_calls>[{"name": …, "arguments": {…}}]</tool_calls>',
        regions=(
            Region(
                "call",
                r"<tool_calls>(?=\s{0,8}[\[{])",
                "</tool_calls>",
                reader="json",
                strings=JSON_STRINGS,
                interrupts=True,
            ),
            Region(
                "call",
                "<tool_call>",
                "</tool_call>",
                reader="tagged",
                strings=TAGGED,
            ),
        ),
        dropped=r"<tool_calls>(?=\s{0,8}<tool_call>)|</tool_calls>",
    ),
    Description(
        name="function_calls",
        models="Olmo 3",
        signs=(("<function_calls>",),),
        example='<function_calls>NAME(KEY="…")</function_calls>',
        regions=(
            Region(
                "call",
                "<function_calls>",
                "</function_calls>",
                reader="pythonic",
                strings=PYTHON_STRINGS,
            ),
        ),
    ),
    Description(
        name="tool_call",
        models="Qwen, Hermes, GLM, Granite 4, Nemotron 3, Step, MiMo, SmolLM3, EXAONE 4",
        signs=(("<tool_call>",),),
        tokens=("<tool_call>", "</tool_call>"),
        example='<tool_call>{"name": …, "arguments": {…}}</tool_call>, '
        "<tool_call><function=NAME><parameter=KEY>…, or "
        "<tool_call>NAME<arg_key>KEY</arg_key><arg_value>…",
        regions=(
            _tagged("<tool_call>", "</tool_call>"),
            Region(
                "call",
                "<function=",
                "</function>",
                reader="invokes",
                strings=PARAMETERS,
                keeps_open=True,
                offered=True,
            ),
        ),
    ),
)

DESCRIBED = Description(
    name="described",
    models="any model whose template does not accept tools: they are described in a system turn",
    signs=(),
    example='<tool_call>{"name": …, "arguments": {…}}</tool_call>',
    regions=(_tagged("<tool_call>", "</tool_call>"),),
)
