"""Words and small helpers that every part uses."""

import json
import os
import pathlib
import statistics

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
RESULTS = ROOT / "loadtest" / "results"
HOST = "127.0.0.1"


class Failure(Exception):
    """The run cannot go on or does not count; the message says why."""


def say(text=""):
    print(text, flush=True)


def median(values):
    values = list(values)
    return statistics.median(values) if values else None


def ratio(value, base):
    """A quotient, or None where there is nothing to divide by."""
    return value / base if value is not None and base else None


def look(result, path):
    """The value at `a.b.c` in nested dictionaries."""
    for name in path.split("."):
        result = result[name]
    return result


def save(folder, name, record):
    """Writes a result as JSON, whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    scratch = folder / f".{name}.tmp"
    scratch.write_text(json.dumps(record, indent=1) + "\n")
    os.replace(scratch, folder / f"{name}.json")
    say(f"kept in {folder / name}.json")


def table(head, rows):
    """Lines of a Markdown table."""
    yield "| " + " | ".join(head) + " |"
    yield "|" + "---|" * len(head)
    for row in rows:
        yield "| " + " | ".join(str(cell) for cell in row) + " |"
