"""Randomly damaged job files and manifests."""

import json
from collections.abc import Callable
from random import Random
from typing import Any

import yaml

ODD_VALUES: tuple[Any, ...] = (
    *(None, True, -1, 0, 2**63, 1e308, float("nan"), float("inf"), "", " ", "null", "~", "../.."),
    *("\x00", "\u202e", "\u5370", "{", "{{}}", "{0.__class__}", "%s", "*", "s3://", "file:///etc"),
    *([], [[]], {}, {"a": {"b": {}}}, ["x"] * 50, "x" * 10_000),
)


def mutated_job(job: dict[str, Any], random: Random) -> bytes:
    """A job file with random mistakes."""
    if random.random() < 0.3:
        return mutated_bytes(yaml.safe_dump(job, allow_unicode=True).encode(), random)
    values = json.loads(json.dumps(job))
    for _ in range(random.randrange(1, 4)):
        _change(values, random)
    return yaml.safe_dump(values, allow_unicode=True).encode()


def _change(values: dict[str, Any], random: Random) -> None:
    """Drop, rename, replace or add a key in some section."""
    section = values
    while True:
        inner = [key for key, value in section.items() if isinstance(value, dict) and value]
        if not inner or random.random() < 0.5:
            break
        section = section[random.choice(inner)]
    if not section or random.random() < 0.2:
        section[random.choice(["prompt", "", "__proto__", "modle", "größe"])] = _odd(random)
        return
    key = random.choice(list(section))
    match random.randrange(3):
        case 0:
            del section[key]
        case 1:
            section[f"{key}s"] = section.pop(key)
        case _:
            section[key] = _odd(random)


def _odd(random: Random) -> Any:
    return random.choice(ODD_VALUES)


def mutated_bytes(data: bytes, random: Random) -> bytes:
    """The data with some bits flipped and some bytes removed, repeated or inserted."""
    changed = bytearray(data)
    for _ in range(random.randrange(1, 6)):
        at = random.randrange(len(changed) + 1)
        MUTATIONS[random.randrange(len(MUTATIONS))](changed, at, random)
    return bytes(changed)


def _flip(data: bytearray, at: int, random: Random) -> None:
    if data:
        data[at % len(data)] ^= 1 << random.randrange(8)


def _cut(data: bytearray, at: int, random: Random) -> None:
    del data[at : at + random.randrange(1, 40)]


def _repeat(data: bytearray, at: int, random: Random) -> None:
    data[at:at] = data[at : at + random.randrange(1, 40)] * random.randrange(1, 30)


def _insert(data: bytearray, at: int, random: Random) -> None:
    odd = (b"\x00", b"\xff\xfe", b'"', b"\n", b"\r", b"\t", b",", b"&a [*a]", b"\xf0\x9f\x92\xa9")
    data[at:at] = random.choice(odd)


MUTATIONS: tuple[Callable[[bytearray, int, Random], None], ...] = (_flip, _cut, _repeat, _insert)
