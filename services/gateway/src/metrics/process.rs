//! What the system knows of this process, read when metrics are asked for. The names are those of
//! Prometheus' own client libraries.

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

/// Reads `/proc`; elsewhere than on Linux there is nothing to read, and the metrics are absent.
#[derive(Debug)]
pub(crate) struct Process;

/// Clock ticks per second in `/proc/PID/stat`: the kernel scales to this on every architecture.
const USER_HZ: f64 = 100.0;

impl Collector for Process {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), std::fmt::Error> {
        let mut gauge = |name: &str, help: &str, value: Option<u64>| {
            let Some(value) = value else { return Ok(()) };
            let metric = ConstGauge::new(value);
            metric.encode(encoder.encode_descriptor(name, help, None, metric.metric_type())?)
        };
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let bytes = |key: &str| field(&status, key).map(|kib| kib * 1024);
        gauge("process_resident_memory_bytes", "Resident memory in bytes", bytes("VmRSS:"))?;
        gauge("process_virtual_memory_bytes", "Virtual memory in bytes", bytes("VmSize:"))?;
        gauge("process_threads", "Threads", field(&status, "Threads:"))?;
        let files = std::fs::read_dir("/proc/self/fd").ok().map(|entries| entries.count() as u64);
        gauge("process_open_fds", "Open file descriptors", files)?;
        let limits = std::fs::read_to_string("/proc/self/limits").unwrap_or_default();
        gauge("process_max_fds", "Most file descriptors that may be open", field(&limits, "Max open files"))?;
        let tasks = tokio::runtime::Handle::try_current().ok();
        let tasks = tasks.map(|runtime| runtime.metrics().num_alive_tasks() as u64);
        gauge("guildhall_tasks", "Tasks of the asynchronous runtime", tasks)?;
        let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
        if let Some(seconds) = cpu_seconds(&stat) {
            let metric = ConstCounter::new(seconds);
            let help = "User and system CPU time in seconds";
            let encoder =
                encoder.encode_descriptor("process_cpu_seconds", help, None, metric.metric_type())?;
            metric.encode(encoder)?;
        }
        Ok(())
    }
}

/// The resident memory of this process in bytes, where the system tells it.
pub(crate) fn resident_bytes() -> Option<u64> {
    field(&std::fs::read_to_string("/proc/self/status").ok()?, "VmRSS:").map(|kib| kib * 1024)
}

/// The first number after a key of `/proc/self/status`, `/proc/self/limits` or `/proc/meminfo`, without its unit.
pub(crate) fn field(text: &str, key: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(key))?;
    line.split_whitespace().next()?.parse().ok()
}

/// User and system time out of `/proc/self/stat`. The process's name, which comes before, may hold anything.
fn cpu_seconds(stat: &str) -> Option<f64> {
    let (_, rest) = stat.rsplit_once(')')?;
    let mut ticks = rest.split_whitespace().skip(11).map(str::parse::<f64>);
    let (user, system) = (ticks.next()?.ok()?, ticks.next()?.ok()?);
    Some((user + system) / USER_HZ)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_writes_is_read() {
        let status = "Name:\tx\nVmSize:\t  204 kB\nVmRSS:\t   1234 kB\nThreads:\t7\n";
        assert_eq!((field(status, "VmRSS:"), field(status, "Threads:")), (Some(1234), Some(7)));
        assert_eq!(field(status, "VmSwap:"), None);
        let limits =
            "Max processes      63432   63432   processes\nMax open files     1024    524288  files\n";
        assert_eq!(field(limits, "Max open files"), Some(1024));
        assert_eq!(field("Max open files     unlimited   unlimited   files\n", "Max open files"), None);
        let stat = "42 (a) b) S 1 42 42 0 -1 4194560 100 0 0 0 150 50 0 0 20 0 3 0 1 1 1";
        assert_eq!(cpu_seconds(stat), Some(2.0));
        assert_eq!(cpu_seconds(""), None);
    }
}
