"""The requests that are sent."""

import json

SYSTEM = "You are a careful assistant that answers briefly and says so when it does not know."
QUESTION = (
    "Explain in a few sentences what an LLM router gateway does, how it decides between a small and a large model "
    "for one prompt, what it must keep in mind about latency, cost and quality, and how it should act when one of "
    "the backends is slow or fails. "
)
KILOBYTE = 1024


def body(model, text, **fields):
    """A chat completion request without needless spaces, as clients write it."""
    messages = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": text}]
    request = {"model": model, "messages": messages, "temperature": 0.2, "max_tokens": 60, **fields}
    return json.dumps(request, separators=(",", ":"))


def sized(model, size, **fields):
    """A request of `size` bytes."""
    room = size - len(body(model, "", **fields))
    return body(model, (QUESTION * (room // len(QUESTION) + 1))[:room], **fields)


def stream(model, tokens):
    """A request of the usual size whose answer is a stream of so many tokens."""
    return sized(model, KILOBYTE, stream=True, max_tokens=tokens)


def new_prompt(model):
    """Short, so that the encoder does not hide the rest; gwload puts a running number in."""
    return body(model, "How do I sort a list of ######## numbers in Python?")
