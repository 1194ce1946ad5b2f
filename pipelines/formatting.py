"""Numbers formatted for people, in reports and on the terminal."""


def plural(number: int, noun: str) -> str:
    """`1 shard`, `1,632 shards`."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def duration(seconds: float) -> str:
    """`0.8 s`, `42 s`, `12 min 10 s`, `7 h 03 min`."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    if hours:
        return f"{hours:,} h {minute:02d} min"
    return f"{minute} min {second:02d} s" if minute else f"{second} s"


def size(num_bytes: float) -> str:
    """`512 B`, `73.4 MB`, in powers of ten."""
    for unit in ("B", "kB", "MB", "GB"):
        if num_bytes < 1000:
            return f"{num_bytes:.0f} {unit}" if unit == "B" else f"{num_bytes:.1f} {unit}"
        num_bytes /= 1000
    return f"{num_bytes:,.1f} TB"
