//! What this process takes of the machine's memory, and whether what it frees goes back.

use std::io;
use std::path::Path;

/// The least block that glibc may be told to ask the system for by itself, so that its end gives it back, for
/// measurements to mean something: smaller ones are little beside weights.
const OWN_BLOCK_BYTES: u64 = 1 << 20;

/// Bytes that this process holds in memory: what it wrote to (anonymous memory), and its share of what it has mapped
/// of the files below `files`. Code and other files are left out, because they come and go by themselves.
///
/// # Errors
/// Where the system has no `/proc/self/smaps`.
pub(crate) fn resident(files: &Path) -> io::Result<u64> {
    let text = std::fs::read("/proc/self/smaps")?;
    Ok(sum(&String::from_utf8_lossy(&text), files))
}

fn sum(smaps: &str, files: &Path) -> u64 {
    let mut counted = "Anonymous";
    let mut kib = 0;
    for line in smaps.lines() {
        let Some((name, value)) = line.split_once(':') else { continue };
        if name.bytes().any(|byte| byte == b' ') {
            // A mapping's first line: five columns, then its file.
            let file = line.split_whitespace().nth(5).and_then(|path| line.find(path).map(|at| &line[at..]));
            let ours = file.is_some_and(|file| file.starts_with('/') && Path::new(file).starts_with(files));
            counted = if ours { "Pss" } else { "Anonymous" };
        } else if name == counted {
            kib += value.trim().trim_end_matches(" kB").parse::<u64>().unwrap_or(0);
        }
    }
    kib * 1_024
}

/// Whether large blocks that C++ code frees go back to the system at once. glibc keeps ever larger ones for itself
/// unless the environment, which `variable` reads, fixed its threshold when the process started.
pub(crate) fn gives_back(variable: impl Fn(&str) -> Option<String>) -> bool {
    let fixed = |value: &str| value.trim().parse().is_ok_and(|bytes: u64| bytes <= OWN_BLOCK_BYTES);
    let tunables = variable("GLIBC_TUNABLES").unwrap_or_default();
    let mut tunables = tunables.split(':').filter_map(|pair| pair.split_once('='));
    cfg!(target_os = "linux")
        && (variable("MALLOC_MMAP_THRESHOLD_").is_some_and(|value| fixed(&value))
            || tunables.any(|(name, value)| name == "glibc.malloc.mmap_threshold" && fixed(value)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMAPS: &str = "\
55d0c0a00000-55d0c0a21000 rw-p 00000000 00:00 0                          [heap]
Size:                132 kB
Pss:                 100 kB
Pss_Dirty:           100 kB
Anonymous:            90 kB
7f0000000000-7f0000800000 r--p 00000000 fe:00 1234                       /models of mine/a/weights.bin
Pss:                8192 kB
Anonymous:             0 kB
VmFlags: rd mr mw me sd
7f0001000000-7f0001800000 r-xp 00000000 fe:00 1235                       /usr/lib/libonnxruntime.so
Pss:                4096 kB
Anonymous:             4 kB
7f0002000000-7f0002800000 rw-p 00000000 00:00 0
Pss:                 512 kB
Anonymous:           512 kB
";

    #[test]
    fn own_memory_and_the_models_files_count_and_code_does_not() {
        assert_eq!(sum(SMAPS, Path::new("/models of mine/a")), (90 + 8_192 + 4 + 512) * 1_024);
        assert_eq!(sum(SMAPS, Path::new("/models")), (90 + 4 + 512) * 1_024);
    }

    #[test]
    fn memory_goes_back_only_where_the_environment_says_so() {
        let with = |name: &'static str, value: &'static str| {
            gives_back(|asked| (asked == name).then(|| value.to_owned()))
        };
        assert!(!gives_back(|_| None));
        let linux = cfg!(target_os = "linux");
        assert_eq!(with("MALLOC_MMAP_THRESHOLD_", "65536"), linux);
        assert_eq!(with("GLIBC_TUNABLES", "a.b=1:glibc.malloc.mmap_threshold=131072"), linux);
        assert!(!with("MALLOC_MMAP_THRESHOLD_", "33554432"));
        assert!(!with("MALLOC_MMAP_THRESHOLD_", "much"));
        assert!(!with("GLIBC_TUNABLES", "glibc.malloc.trim_threshold=131072"));
    }
}
