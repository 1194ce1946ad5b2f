"""Words and texts as each kind of file needs them: YAML, units, crontabs, Python."""

import json
import re
import shlex
from collections.abc import Sequence

import yaml

_NOT_PRINTED = re.compile("[\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff]")
"""What JSON leaves as it is, and YAML takes for a line break or refuses."""


def yaml_string(text: str) -> str:
    """A text as a double-quoted scalar."""
    as_json = json.dumps(text, ensure_ascii=False)
    return _NOT_PRINTED.sub(lambda found: f"\\u{ord(found[0]):04x}", as_json)


def yaml_list(words: Sequence[str]) -> str:
    """Texts as a flow sequence."""
    return f"[{', '.join(map(yaml_string, words))}]"


def yaml_literal(text: str, indent: int) -> str:
    """A text of several lines as a block scalar; double-quoted where a block would change it."""
    lines = text.splitlines()
    body = "".join(f"{' ' * indent}{line}\n" if line else "\n" for line in lines).rstrip("\n")
    block = f"|{'' if text.endswith(chr(10)) else '-'}\n{body}"
    try:
        same = yaml.safe_load(f"root:\n{' ' * (indent - 2)}key: {block}\n")["root"]["key"] == text
    except (yaml.YAMLError, TypeError, KeyError):
        same = False
    return block if same else yaml_string(text)


def unit_text(text: str) -> str:
    """A text of a systemd unit, in which % begins a specifier."""
    return text.replace("%", "%%")


def unit_command(words: Sequence[str]) -> str:
    """A command line of a systemd unit; variables are not looked for in its first word."""
    program, *others = words
    return " ".join(
        [_in_quotes(program), *(_in_quotes(each).replace("$", "$$") for each in others)]
    )


def _in_quotes(word: str) -> str:
    escaped = word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
    is_plain = word and escaped == word and not any(c in " ';" for c in word)
    return escaped if is_plain else f'"{escaped}"'


def crontab_command(command: str) -> str:
    """A shell command in a crontab, in which % is a line break.

    Some crons take two backslashes for one, and all of them read a backslash before `\\%` in
    another way. `shell` leaves backslashes in single quotes alone, which can end between two
    characters and begin again.
    """
    apart = re.sub(r"\\(?=[\\%])", r"\\''", command)
    return apart.replace("%", "\\%")


def shell(words: Sequence[str]) -> str:
    """Words as a shell command."""
    return shlex.join(words)


def python_list(words: Sequence[str]) -> str:
    """Texts as a Python list, one a line."""
    lines = "".join(f"    {python_string(word)},\n" for word in words)
    return f"[\n{lines}]"


def python_string(text: str) -> str:
    """A text as a Python string."""
    return json.dumps(text, ensure_ascii=False)


def in_docstring(text: str) -> str:
    """A text inside a Python docstring."""
    return text.replace("\\", "\\\\").replace('"', '\\"')
