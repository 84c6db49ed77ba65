"""What the suites share: the gateway under test, the mock expert behind it, and a runner that names each test.

A suite's argument is a JSON object with addresses and keys.
"""

import asyncio
import inspect
import json
import sys
import time
import traceback
import urllib.request
from contextlib import contextmanager

PLACE = json.loads(sys.argv[1])
GATEWAY = PLACE["gateway"]
KEYS = PLACE["keys"]

# One transparent pixel.
PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNkYPhfDwAChwGA60e6kgAAAABJRU5ErkJggg=="

# What a model that calls two tools at once streams: odd pieces, cut inside escapes and names.
WEATHER = '{"city": "S\\u00e3o Paulo", "quote": "a \\"b\\" \\\\ c", "days": [1, 2]}'
SEARCH = '{"query": "caf\u00e9 \U0001f600 near me"}'


def odd_pieces(text):
    """The text in pieces of 1, 2, 3, ... characters."""
    pieces, size = [], 1
    while text:
        pieces.append(text[:size])
        text, size = text[size:], size + 1
    return pieces


def call_delta(index, arguments, id=None, name=None):
    function = {"arguments": arguments} | ({"name": name} if name else {})
    return {"tool_calls": [{"index": index, "function": function} | ({"id": id, "type": "function"} if id else {})]}


TWO_CALLS = {
    "deltas": [
        {"content": "Let me look."},
        call_delta(0, "", id="call_w", name="get_weather"),
        *(call_delta(0, piece) for piece in odd_pieces(WEATHER)),
        call_delta(1, "", id="call_s", name="search"),
        *(call_delta(1, piece) for piece in odd_pieces(SEARCH)),
    ],
    "finish_reason": "tool_calls",
}


class Mock:
    """An expert behind the gateway."""

    def __init__(self, url):
        self.url = url

    def _ask(self, path, body=None):
        data = None if body is None else json.dumps(body).encode()
        with urllib.request.urlopen(urllib.request.Request(self.url + path, data)) as answer:
            return json.load(answer)

    def stats(self):
        return self._ask("/__stats")

    def last(self):
        """The body of the last request."""
        return json.loads(self.stats()["recent"][-1]["body"])

    @contextmanager
    def failing(self, fault, **step):
        """Strikes requests by a fault; `times`, `skip` and `model` say which."""
        self._ask("/__script", [{"fault": fault} | step])
        try:
            yield
        finally:
            self._ask("/__script", [])

    @contextmanager
    def counted(self, expected):
        """Asserts how many requests arrive."""
        before = self.stats()["requests"]
        yield
        same(self.stats()["requests"] - before, expected, "requests that reached the expert")

    @contextmanager
    def cancelled(self):
        """Asserts that the expert notices its client leave, and has nothing more to do."""
        before = self.stats()["cancelled"]
        yield
        until(lambda: self.stats()["cancelled"] == before + 1, "the expert's request is cancelled")
        until(lambda: self.stats()["in_flight"] == 0, "the expert has no request in flight")


mock = Mock(PLACE["mock"])
# The one that speaks Messages.
claude = Mock(PLACE["messages"])


def same(actual, expected, what="value"):
    if actual != expected:
        path, actual, expected = difference(actual, expected)
        raise AssertionError(f"{what}{path}\n  is        {actual!r}\n  should be {expected!r}")


def difference(actual, expected, path=""):
    """The first place where two values differ."""
    if isinstance(actual, dict) and isinstance(expected, dict) and actual.keys() == expected.keys():
        pairs = [(key, actual[key], expected[key]) for key in actual]
    elif isinstance(actual, (list, tuple)) and isinstance(expected, (list, tuple)) and len(actual) == len(expected):
        pairs = [(at, *pair) for at, pair in enumerate(zip(actual, expected))]
    else:
        return path, actual, expected
    for key, a, b in pairs:
        if a != b:
            return difference(a, b, f"{path}[{key!r}]")
    return path, actual, expected


def holds(whole, part, what="text"):
    assert part in whole, f"{what}: {part!r} is not in {whole!r}"


def counting(kind):
    """An HTTP client for `DefaultHttpxClient` as `kind`, and the list of the requests that it sends."""
    sent = []
    return kind(event_hooks={"request": [sent.append]}), sent


def until(condition, what):
    """Waits for what another process does."""
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline, f"not within 10 seconds: {what}"
        time.sleep(0.005)


@contextmanager
def raises(kind):
    """Asserts that this class of error, or one below it, is raised; gives a holder of the error."""
    class Caught:
        error = None

        def __getattr__(self, name):
            return getattr(self.error, name)

    caught = Caught()
    try:
        yield caught
    except kind as error:
        caught.error = error
        return
    except BaseException as error:
        raise AssertionError(f"{type(error).__name__} in place of {kind.__name__}: {error}") from error
    raise AssertionError(f"no {kind.__name__} was raised")


@contextmanager
def lasting(at_least, at_most):
    start = time.monotonic()
    yield
    took = time.monotonic() - start
    assert at_least <= took <= at_most, f"took {took:.3f} s, not {at_least} to {at_most} s"


def failure():
    """The error that is being handled, with the places in the suites that it came through."""
    kind, error, trace = sys.exc_info()
    own = [frame for frame in traceback.extract_tb(trace) if frame.filename.startswith(sys.path[0])]
    lines = [f"  {frame.filename.rsplit('/')[-1]}:{frame.lineno}: {frame.line}" for frame in own[1:]]
    return "\n".join([*lines, "".join(traceback.format_exception_only(kind, error))])


def main(suite):
    """Runs the functions of a suite whose names begin with `test_`."""
    tests = {name[5:]: test for name, test in suite.items() if name.startswith("test_")}
    failed = 0
    for name, test in tests.items():
        start = time.monotonic()
        try:
            result = test()
            if inspect.iscoroutine(result):
                asyncio.run(result)
            print(f"ok      {name} ({(time.monotonic() - start) * 1000:.0f} ms)", flush=True)
        except Exception:
            failed += 1
            print(f"FAILED  {name}\n{failure()}", flush=True)
    print(f"{len(tests) - failed} of {len(tests)} passed")
    sys.exit(1 if failed else 0)
