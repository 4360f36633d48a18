"""Families that write an answer as messages, each with a header."""

from reconciler.worker.output.format import JSON_STRINGS, Description, Region

# harmony: each message has a header, which ends with <|message|>.
_HEADER = r"<\|(?:start|channel|constrain)\|>[^<]{0,200}"
_ENDS = r"<\|(?:end|return|call)\|>"
_TO = rf"(?:{_HEADER})*?<\|(?:start|channel)\|>[^<]{{0,200}}?\bto=(?!(?:user|assistant|all)\b)"
HARMONY = Description(
    name="harmony",
    models="gpt-oss",
    signs=(("<|channel|>", "<|message|>"),),
    example="<|channel|>commentary to=functions.NAME <|constrain|>json<|message|>{…}<|call|>",
    regions=(
        Region(
            "call",
            rf"{_TO}(?P<name>[^\s<]+)[^<]{{0,200}}(?:{_HEADER})*<\|message\|>",
            _ENDS,
            reader="headed",
            strings=JSON_STRINGS,
            balanced=True,
            interrupts=True,
            headed=True,
        ),
        Region(
            "reasoning",
            rf"(?:<\|start\|>[^<]{{0,200}})?<\|channel\|>\s*analysis[^<]{{0,200}}"
            rf"(?:{_HEADER})*<\|message\|>",
            _ENDS,
            interrupts=True,
            headed=True,
        ),
        Region("content", rf"(?:{_HEADER})+<\|message\|>", _ENDS, interrupts=True, headed=True),
    ),
)

_FUNCTIONARY = r">>>(?P<name>[A-Za-z_][\w.\-]*)\n"
FUNCTIONARY = Description(
    name="functionary",
    models="functionary v3.2",
    signs=((">>>all", ">>>"), (">>>${recipient}",)),
    example=">>>NAME\\n{…}",
    regions=(
        Region("content", r">>>all\n", headed=True),
        Region(
            "call",
            _FUNCTIONARY,
            reader="headed",
            strings=JSON_STRINGS,
            balanced=True,
            offered=True,
        ),
    ),
)
