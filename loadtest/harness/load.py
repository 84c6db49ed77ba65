"""One run of gwload, with things that happen meanwhile."""

import json
import time

from .common import Failure

# What a result that is kept leaves out.
BULKY = ("slices", "items")


class Happening:
    """Something that is done at a time of the measured window, once or every so many seconds until an end."""

    def __init__(self, at, act, every=None, until=None):
        self.next = at
        self.act = act
        self.every = every
        self.until = until

    def run(self, now):
        if self.next is None or now < self.next:
            return
        self.act()
        again = self.every is not None and self.next + self.every <= (self.until or float("inf"))
        self.next = self.next + self.every if again else None


def drive(rig, address, happenings=(), warm_secs=1.0, **settings):
    """Runs gwload against `address` and returns its report.

    A setting `max_in_flight=9` becomes the option `--max-in-flight 9`; lists repeat the option."""
    command = [rig.binary("gwload"), "--addr", address, "--warm-secs", warm_secs]
    for name, value in settings.items():
        for one in value if isinstance(value, list) else [value]:
            command += [f"--{name.replace('_', '-')}", one]
    out = rig.path("gwload.json")
    with open(out, "wb") as result, open(rig.path("gwload.log"), "wb") as log:
        began = time.monotonic() + warm_secs
        process = rig.start(1, *command, stdout=result, stderr=log)
        while process.poll() is None:
            now = time.monotonic() - began
            for happening in happenings:
                happening.run(now)
            times = [h.next for h in happenings if h.next is not None]
            pause = min([0.05, *(t - (time.monotonic() - began) for t in times)])
            time.sleep(max(pause, 0.001))
    if process.returncode != 0:
        with open(rig.path("gwload.log"), errors="replace") as log:
            raise Failure(f"gwload failed: {log.read().strip()}")
    with open(out) as result:
        return json.load(result)


def kept(result):
    """A result as it is written to a file: without what is long."""
    return {name: value for name, value in result.items() if name not in BULKY}
