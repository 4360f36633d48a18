"""Tool calls that begin with a single mark, or with none."""

from reconciler.worker.output.families.strings import PARAMETERS
from reconciler.worker.output.format import JSON_STRINGS, PYTHON_STRINGS, Description, Region

BARE = (
    Description(
        name="<|tool_call|>",
        models="Granite 3, Phi-4-mini",
        signs=(("<|tool_call|>",),),
        tokens=("<|tool_call|>",),
        example='<|tool_call|>[{"name": …, "arguments": {…}}]<|/tool_call|>',
        regions=(
            Region(
                "call",
                r"<\|tool_call\|>",
                r"<\|/tool_call\|>",
                reader="json",
                strings=JSON_STRINGS,
                balanced=True,
            ),
        ),
    ),
    Description(
        name="functools",
        models="Firefunction v2, Phi-4-mini",
        signs=(("functools",),),
        example='functools[{"name": …, "arguments": {…}}]',
        regions=(
            Region(
                "call",
                r"functools(?=\[)",
                reader="json",
                strings=JSON_STRINGS,
                balanced=True,
            ),
        ),
    ),
    Description(
        name="function call",
        models="GigaChat 3",
        signs=(("function call<|role_sep|>",),),
        example='<|message_sep|>function call<|role_sep|>{"name": …, "arguments": {…}}',
        regions=(
            Region(
                "call",
                r"function call<\|role_sep\|>",
                r"<\|message_sep\|>",
                reader="json",
                strings=JSON_STRINGS,
                balanced=True,
            ),
            Region("content", r"<\|message_sep\|>", headed=True),
        ),
    ),
    Description(
        name="bare JSON",
        models="Llama 3.1, 3.2, 3.3",
        signs=(
            ("<|python_tag|>",),
            ('"parameters": ', "<|start_header_id|>"),
            ('"parameters": dictionary of argument name',),
        ),
        tokens=("<|python_tag|>", "<|eom_id|>"),
        example='{"name": …, "parameters": {…}}',
        regions=(
            Region(
                "call",
                r"<\|python_tag\|>",
                r"<\|e(?:om|ot)_id\|>",
                reader="pythonic",
                strings=JSON_STRINGS,
                headed=True,
            ),
            Region(
                "call",
                r'\{\s{0,32}"(?:name|type|function|parameters)"',
                ";",
                reader="json",
                strings=JSON_STRINGS,
                balanced=True,
                keeps_open=True,
                first=True,
                offered=True,
            ),
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
        name="bare Python",
        models="Llama 4",
        signs=(("<|header_start|>",), ("<|python_start|>",), ("[func_name1(",)),
        tokens=("<|python_start|>", "<|python_end|>"),
        example='[NAME(KEY="…"), …]',
        regions=(
            Region(
                "call",
                r"<\|python_start\|>",
                r"<\|python_end\|>",
                reader="pythonic",
                strings=PYTHON_STRINGS,
                headed=True,
            ),
            Region(
                "call",
                r"\[\s{0,32}[A-Za-z_][\w.]{0,99}\(",
                reader="pythonic",
                strings=PYTHON_STRINGS,
                balanced=True,
                keeps_open=True,
                first=True,
                offered=True,
            ),
            Region(
                "call",
                r'\{\s{0,32}"(?:name|type|function|parameters)"',
                ";",
                reader="json",
                strings=JSON_STRINGS,
                balanced=True,
                keeps_open=True,
                first=True,
                offered=True,
            ),
        ),
    ),
)
