//! What processes cost, read from `/proc`.

use std::fs;

use serde::Serialize;

/// Ticks a second in `/proc/PID/stat`: fixed by the kernel's interface with user programs.
const TICKS: f64 = 100.0;
/// By how many seconds a process's ticks and the sum of its living threads may differ where all its threads
/// live: two counters, each in whole ticks.
const TICKS_APART: f64 = 0.03;

/// CPU time and memory of some processes together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Usage {
    /// Seconds on a CPU, user and system.
    pub cpu_s: f64,
    /// The part of it that threads with the named prefix took.
    pub named_cpu_s: f64,
    /// Resident memory in KiB.
    pub rss_kib: u64,
    /// Its peak so far.
    pub peak_kib: u64,
}

/// `pids` and all their descendants as of now: a server may be a script that starts the real one.
pub fn tree(pids: &[u32]) -> Vec<u32> {
    let all: Vec<(u32, u32)> = fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter_map(|pid: u32| Some((pid, parent(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)?)))
        .collect();
    let mut family = pids.to_vec();
    let mut next = 0;
    while let Some(member) = family.get(next).copied() {
        let children = all.iter().filter(|(pid, parent)| *parent == member && !family.contains(pid));
        let children: Vec<u32> = children.map(|(pid, _)| *pid).collect();
        family.extend(children);
        next += 1;
    }
    family
}

/// The fourth field of `/proc/PID/stat`, counted after the name, which may hold spaces.
fn parent(stat: &str) -> Option<u32> {
    stat.rsplit(") ").next()?.split_whitespace().nth(1)?.parse().ok()
}

/// Reads the usage of `pids`. `named` is the beginning of the names of threads that are counted apart; when
/// empty, none are. A process that is gone counts nothing.
pub fn usage(pids: &[u32], named: &str) -> Usage {
    let mut all = Usage::default();
    for pid in pids {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        all.cpu_s += process_time(ticks(&stat) / TICKS, threads(*pid, ""));
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        all.rss_kib += kib(&status, "VmRSS:");
        all.peak_kib += kib(&status, "VmHWM:");
        if !named.is_empty() {
            all.named_cpu_s += threads(*pid, named);
        }
    }
    all
}

/// A process's CPU seconds. Ticks of a hundredth of a second are too coarse for a light load, which takes a
/// few of them; the nanoseconds of its threads leave out those of threads that have ended.
fn process_time(ticks: f64, living_threads: f64) -> f64 {
    if ticks > living_threads + TICKS_APART { ticks } else { living_threads }
}

/// User and system ticks: the 14th and 15th field, counted after the name, which may hold spaces.
fn ticks(stat: &str) -> f64 {
    let fields = stat.rsplit(") ").next().unwrap_or_default().split_whitespace();
    fields.skip(11).take(2).filter_map(|field| field.parse::<f64>().ok()).sum()
}

fn kib(status: &str, key: &str) -> u64 {
    let line = status.lines().find_map(|line| line.strip_prefix(key));
    line.and_then(|value| value.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

/// CPU seconds of the living threads whose name begins with `named`.
fn threads(pid: u32, named: &str) -> f64 {
    let Ok(tasks) = fs::read_dir(format!("/proc/{pid}/task")) else { return 0.0 };
    let mut nanos = 0.0;
    for task in tasks.filter_map(Result::ok) {
        let read = |file| fs::read_to_string(task.path().join(file)).unwrap_or_default();
        if read("comm").starts_with(named) {
            // First number: nanoseconds on a CPU.
            nanos += read("schedstat").split_whitespace().next().and_then(|n| n.parse().ok()).unwrap_or(0.0);
        }
    }
    nanos / 1e9
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_spaces_does_not_shift_the_fields() {
        let stat = "12 (a) b) S 1 2 3 4 5 6 7 8 9 10 150 50 0 0 20";
        assert!((ticks(stat) - 200.0).abs() < 1e-9);
        assert_eq!(parent(stat), Some(1));
    }

    #[test]
    fn time_is_exact_while_all_threads_live() {
        assert!((process_time(1.23, 1.2345) - 1.2345).abs() < 1e-9);
        assert!((process_time(1.25, 1.2345) - 1.2345).abs() < 1e-9);
        assert!((process_time(5.0, 1.2345) - 5.0).abs() < 1e-9, "threads have ended");
        let before = usage(&[std::process::id()], "").cpu_s;
        let mut sum = 0u64;
        while usage(&[std::process::id()], "").cpu_s < before + 0.001 {
            sum = std::hint::black_box(sum + 1);
        }
    }

    #[test]
    fn a_child_belongs_to_the_tree() {
        let mut child = std::process::Command::new("sleep").arg("10").spawn().unwrap();
        let family = tree(&[std::process::id()]);
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(family.contains(&child.id()), "{family:?}");
    }

    #[test]
    fn memory_is_read_by_its_key() {
        assert_eq!(kib("VmPeak:\t  9 kB\nVmRSS:\t  1234 kB\n", "VmRSS:"), 1234);
        assert_eq!(kib("", "VmRSS:"), 0);
    }
}
