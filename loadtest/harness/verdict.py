"""Rules that turn numbers into a verdict. Pure: no clock, no files, no processes."""

import statistics

# Most that a level may drift over the last half of a run and still be called flat.
FLAT_SHARE = 0.02

# Failures of gwload in which no byte of the answer's body had come.
BEFORE_FIRST_BYTE = ("refused", "unreachable", "before_first_byte", "late_first_byte", "malformed")
# A stream that broke off without saying so, or never ended.
SILENT = ("cut", "unfinished", "late_end")


def lost(result):
    """Requests that got no answer or a refusal although nothing of an answer had been sent."""
    refused = sum(count for status, count in result["statuses"].items() if status != "200")
    return refused + sum(result["failures"].get(kind, 0) for kind in BEFORE_FIRST_BYTE) + result["hung"]


def silent(result):
    """Answers that broke off in the middle without an error event."""
    return sum(result["failures"].get(kind, 0) for kind in SILENT)


def broken(result):
    """Everything that is not a whole good answer; clients that left on purpose are not counted."""
    return result["bad"] + result["errors"] + result["hung"]


def last_half(points):
    """The points (time, value) of the second half of the time."""
    points = sorted(points)
    if not points:
        return []
    middle = (points[0][0] + points[-1][0]) / 2
    return [point for point in points if point[0] >= middle]


def slope(points, most=400):
    """Theil-Sen: the median of the slopes between all pairs, which single outliers do not move.

    More than `most` points are thinned evenly first."""
    step = -(-len(points) // most)
    points = points[:: step or 1]
    slopes = [
        (b[1] - a[1]) / (b[0] - a[0]) for i, a in enumerate(points) for b in points[i + 1 :] if b[0] > a[0]
    ]
    return statistics.median(slopes) if slopes else 0.0


def growth(points):
    """What a level gains over the last half of the time: its slope there times the length."""
    half = last_half(points)
    return slope(half) * (half[-1][0] - half[0][0]) if len(half) > 1 else 0.0


def is_flat(points, allowance):
    """Whether the gain over the last half is at most 2 % of its median level, or `allowance` where that is more."""
    half = last_half(points)
    level = statistics.median(value for _, value in half) if half else 0.0
    return growth(points) <= max(FLAT_SHARE * level, allowance)


def later_failures(slices):
    """Failures after the first second that had a good answer and no failure."""
    begun = next((i for i, s in enumerate(slices) if s["ok"] and not s["failed"]), len(slices))
    return sum(s["failed"] for s in slices[begun:])


def pooled(slices, key="p99_us"):
    """The median over slices of a figure, of those that have answers; None when none has."""
    values = [s[key] for s in slices if s["ok"]]
    return statistics.median(values) if values else None
