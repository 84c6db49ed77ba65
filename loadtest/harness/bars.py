"""The bars: what must be reached and what is aimed at, and what the results say."""


class Bar:
    """One measure. `read` takes a figure out of the results by name, or None when it was not measured."""

    def __init__(self, measure, must, aim, read, unit="x"):
        self.measure = measure
        self.must = must
        self.aim = aim
        self.read = read
        self.unit = unit

    def shown(self, number):
        if self.unit == "yes":
            return "no" if number else "yes"
        if not self.unit:
            return f"{number:,}"
        return f"{number:.2f} x" if self.unit == "x" else f"{number:.3g} {self.unit}"

    def verdict(self, results):
        """Words for the median: the aim reached, the bar reached, missed, not measured."""
        figure = self.read(results)
        if figure is None:
            return None, "not measured"
        middle = figure["median"]
        if middle <= self.aim:
            return figure, "aim reached"
        return figure, "reached" if middle <= self.must else "not reached"


def figure(name):
    return lambda results: results.get("hop", {}).get("figures", {}).get(name)


def spread(values):
    values = list(values)
    return {"median": sorted(values)[len(values) // 2], "worst": max(values)} if values else None


def ready(way):
    return lambda results: spread(results.get("hop", {}).get("ready_s", {}).get(way, []))


def idle(results):
    kib = results.get("hop", {}).get("idle_rss_kib")
    return spread([round(kib * 1024 / 1e6, 1)]) if kib else None


def holds(name, key):
    """0 where a result holds and 1 where it does not, so that less is better as everywhere."""

    def read(results):
        held = results.get(name, {}).get(key)
        return None if held is None else spread([0 if held else 1])

    return read


def lost(results):
    """Requests lost in all runs of the scenario in which one of three endpoints fails."""
    runs = results.get("scenario-dead-expert", {}).get("figures", {})
    counts = [value for name, value in runs.items() if name.startswith("lost:")]
    return spread([sum(counts)]) if counts else None


BARS = [
    Bar("CPU per request, static route, no keys, to a bare proxy", 1.5, 1.2, figure("static_x_floor")),
    Bar("the same with key check, limits, metrics, decision record and access log", 2.0, 1.5, figure("guarded_x_floor")),
    Bar("the same with the router deciding from its cache", 3.0, 2.0, figure("router_known_x_floor")),
    Bar("CPU per request at 100 requests a second, to a bare proxy", 2.0, 1.3, figure("light_x_floor")),
    Bar("first byte of a stream, to a bare proxy", 1.5, 1.2, figure("first_byte_x_floor")),
    Bar("ready after start, router model included", 3.0, 1.0, ready("with_router"), "s"),
    Bar("ready after start, without", 0.15, 0.05, ready("without_router"), "s"),
    Bar("latency p99 at half of saturation, over direct", 1.0, 0.5, figure("half_added_p99_ms"), "ms"),
    Bar("CPU per chunk, paced, to a bare proxy", 1.1, 1.0, figure("paced_x_floor")),
    Bar("CPU per chunk, burst, to a bare proxy", 1.0, 0.3, figure("burst_x_floor")),
    Bar("resident memory idle, no router model", 40.0, 25.0, idle, "MB"),
    Bar("memory flat over many requests and many streams at once", 0, 0, holds("memory", "flat"), "yes"),
    Bar("requests lost when one of three endpoints fails", 0, 0, lost, ""),
    Bar("soak with faults flat, and no request lost", 0, 0, holds("soak", "held"), "yes"),
]


def missed(results):
    """Those that were measured and missed."""
    return [bar for bar in BARS if bar.verdict(results)[1] == "not reached"]
