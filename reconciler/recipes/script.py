"""A recipe as commands of a POSIX shell, for `launch --print`."""

import re
import shlex

from reconciler.recipes.tools import DIRECTORY, TOKEN, Recipe

LINE = 90
"""Maximum length of a printed command on one line, in characters."""


def script(recipe: Recipe, arguments: tuple[str, ...], token_file: str = "") -> str:
    """The recipe as commands of a POSIX shell; the token is read from its file."""
    changes = [f"-u {name}" for name in recipe.removed]
    changes += [f"{key}={_shell(value, token_file)}" for key, value in recipe.environ.items()]
    command = _wrapped([_shell(word, token_file) for word in recipe.words(arguments)])
    lines = " \\\n  ".join([f"env {changes[0]}", *changes[1:], command] if changes else [command])
    if not recipe.files:
        return f"{lines}\n"
    made = "".join(_made(name, text, token_file) for name, text in recipe.files.items())
    return f'directory=$(mktemp -d)\n{made}{lines}\nrm -r "$directory"\n'


def _wrapped(words: list[str]) -> str:
    """A command; a long one has a line for each option."""
    short = " ".join(words)
    if len(short) <= LINE:
        return short
    breaks = [" \\\n    " if word.startswith("-") else " " for word in words]
    return "".join(f"{gap}{word}" for gap, word in zip(breaks, words, strict=True)).lstrip()


def _made(name: str, content: str, token_file: str) -> str:
    """Shell commands that write a file of the temporary directory."""
    folder, _, _ = name.rpartition("/")
    end = "'END'"
    if TOKEN in content:
        content = re.sub(r"[\\\\$`]", r"\\\g<0>", content)
        content, end = content.replace(TOKEN, f"$(cat {shlex.quote(token_file)})"), "END"
    made = f'mkdir -p "$directory/{folder}"\n' if folder else ""
    return f'{made}cat > "$directory/{name}" <<{end}\n{content.rstrip()}\nEND\n'


def _shell(word: str, token_file: str) -> str:
    """A word of a shell command, quoted, with its placeholders replaced."""
    read = f'"$(cat {shlex.quote(token_file)})"'
    parts = {DIRECTORY: '"$directory"', TOKEN: read}
    for place, written in parts.items():
        if place in word:
            before, _, after = word.partition(place)
            return "".join([before and shlex.quote(before), written, after and shlex.quote(after)])
    return shlex.quote(word)
