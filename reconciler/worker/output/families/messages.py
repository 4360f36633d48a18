"""Families that write a completion as messages, each with a header."""

from reconciler.worker.output.format import JSON_STRINGS, Description, Region

# harmony: each message has a header, which ends with <|message|>.
_ENDS = r"<\|(?:end|return|call)\|>"
_START = r"<\|start\|>[^<]{0,100}"
_MORE = r"(?:<\|(?:channel|constrain)\|>[^<]{0,100}){0,2}<\|message\|>"
# mlx-lm's detokenizer drops the leading space of a completion that begins with " to=".
_TO = (
    r"[^<]{0,100}(?:\b|(?<=assistant))to="
    r"(?!(?:user|assistant|all)\b)(?P<name>[^\s<]{1,100})[^<]{0,100}"
)
HARMONY = Description(
    name="harmony",
    models="gpt-oss",
    signs=(("<|channel|>", "<|message|>"),),
    example="<|channel|>commentary to=functions.NAME <|constrain|>json<|message|>{…}<|call|>",
    regions=(
        Region(
            "call",
            rf"(?:<\|start\|>{_TO}|(?:{_START})?<\|channel\|>{_TO}){_MORE}",
            _ENDS,
            reader="headed",
            strings=JSON_STRINGS,
            balanced=True,
            interrupts=True,
            headed=True,
        ),
        Region(
            "reasoning",
            rf"(?:{_START})?<\|channel\|>\s{{0,2}}analysis[^<]{{0,100}}{_MORE}",
            _ENDS,
            interrupts=True,
            headed=True,
            literal=("<|channel|>analysis<|message|>", "<|end|><|start|>assistant"),
        ),
        Region(
            "content",
            rf"(?:{_START})?{_MORE}",
            _ENDS,
            interrupts=True,
            headed=True,
            literal=("<|channel|>final<|message|>", ""),
        ),
    ),
)

_FUNCTIONARY = r">>>(?P<name>[A-Za-z_][\w.\-]{0,99})\n"
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
