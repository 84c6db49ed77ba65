"""What a run ran on, and what processes take, read from /proc."""

import os
import pathlib
import platform
import re
import subprocess
import sys
import time

from .common import ROOT

PAGE_KIB = os.sysconf("SC_PAGE_SIZE") // 1024


def first(path, pattern):
    try:
        found = re.search(pattern, pathlib.Path(path).read_text(), re.MULTILINE)
    except OSError:
        return ""
    return found.group(1).strip() if found else ""


def output(*command):
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=30, cwd=ROOT).stdout.strip()
    except (OSError, subprocess.TimeoutExpired):
        return ""


def describe(pinned):
    """The machine in words that a reader can compare with their own."""
    flags = set(first("/proc/cpuinfo", r"^flags\s*:(.*)").split())
    family, model = (first("/proc/cpuinfo", rf"^{name}\s*:(.*)") for name in ("cpu family", "model"))
    return {
        "cpu": first("/proc/cpuinfo", r"^model name\s*:(.*)") or platform.processor(),
        "family": f"family {family} model {model}",
        "cores": os.cpu_count(),
        "kernel": f"{platform.system()} {platform.release()}",
        "ram_gib": round(int(first("/proc/meminfo", r"^MemTotal:\s*(\d+)") or 0) / 1048576, 1),
        "virtualised": "hypervisor" in flags,
        "load_before": round(os.getloadavg()[0], 2),
        "placement": "gateway alone on CPU 0, mock and client on CPU 1" if pinned else "not pinned",
        "when": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
    }


def versions():
    return {
        "guildhall": output("git", "describe", "--always", "--dirty", "--exclude=*"),
        "rustc": output("rustc", "--version").removeprefix("rustc "),
        "python": platform.python_version(),
    }


# Options that say only where files lie.
PLACES = ("--bin", "--gateway", "--results")


def command(arguments):
    """The command line to repeat a run, without what concerns only this copy of the repository."""
    words = ["python3", "loadtest/run.py"]
    rest = iter(arguments)
    for word in rest:
        if word in PLACES:
            next(rest, None)
        elif word.split("=")[0] not in PLACES:
            words.append(word)
    return " ".join(words)


def record(kind, options):
    """The part that every result has."""
    return {
        "kind": kind,
        "command": command(sys.argv[1:]),
        "machine": describe(options.pinned),
        "versions": versions(),
    }


def sample(pid):
    """Memory, threads, open files and sockets of a process; empty when it is gone."""
    try:
        status = pathlib.Path(f"/proc/{pid}/status").read_text()
        links = os.listdir(f"/proc/{pid}/fd")
    except OSError:
        return {}
    sockets = 0
    for link in links:
        try:
            sockets += os.readlink(f"/proc/{pid}/fd/{link}").startswith("socket:")
        except OSError:
            pass
    field = lambda name: int(re.search(rf"^{name}:\s*(\d+)", status, re.MULTILINE).group(1))
    return {
        "rss_kib": field("VmRSS"),
        "threads": field("Threads"),
        "fds": len(links),
        "sockets": sockets,
    }
