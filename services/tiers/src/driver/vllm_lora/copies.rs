//! Adapters that rest as compressed copies, and are expanded where the engine loads them from.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use routing::ExpertId;
use tokio::task::spawn_blocking;
use tokio::time::{Instant, timeout_at};

use super::Adapter;
use crate::residency::{Source, Tier};
use crate::server::report::{DriverError, ErrorKind, Inventory, Residence};
use crate::ternary::folder::{WEIGHTS, discard, expand_for_engine};
use crate::ternary::{TernaryError, TernaryErrorKind};

/// A copy, and the folder that it is expanded into.
#[derive(Clone)]
struct Copy {
    file: PathBuf,
    folder: PathBuf,
}

pub(super) struct Copies {
    of: Arc<BTreeMap<ExpertId, Copy>>,
    /// One change of folders at a time, also of calls that nobody waits for any more.
    one: Arc<Mutex<()>>,
}

/// Tells work on another thread that nobody waits for it any more.
struct Caller(Arc<AtomicBool>);

impl Drop for Caller {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

impl Copies {
    pub(super) fn new(adapters: &BTreeMap<ExpertId, Adapter>) -> Result<Self, DriverError> {
        let mut of: BTreeMap<ExpertId, Copy> = BTreeMap::new();
        for (id, adapter) in adapters {
            let Some(file) = adapter.compressed.clone() else { continue };
            let folder = PathBuf::from(&adapter.path);
            let wrong = |what: String| Err(DriverError::unsupported(format!("adapters.{id}: {what}")));
            if !folder.is_absolute() || folder.file_name().is_none() {
                return wrong(format!(
                    "path {:?} must be absolute where there is `compressed`",
                    adapter.path
                ));
            }
            if file.starts_with(&folder) {
                return wrong(format!("compressed is inside of path {:?}, which is removed", adapter.path));
            }
            let shares = |(other, of): (&ExpertId, &Adapter)| {
                let theirs = Path::new(&of.path);
                other != id && (theirs.starts_with(&folder) || folder.starts_with(theirs))
            };
            if adapters.iter().any(shares) {
                return wrong(format!("path {:?} is another adapter's, too; it needs its own", adapter.path));
            }
            of.insert(id.clone(), Copy { file, folder });
        }
        Ok(Self { of: Arc::new(of), one: Arc::default() })
    }

    pub(super) fn is_empty(&self) -> bool {
        self.of.is_empty()
    }

    /// Expands an adapter's copy, where it has one. Its folder is whole when this returns.
    pub(super) async fn expand(&self, expert: &ExpertId, deadline: Instant) -> Result<(), DriverError> {
        self.change(expert, deadline, |copy, is_wanted| {
            expand_for_engine(&copy.file, &copy.folder, is_wanted)
        })
        .await
    }

    /// Removes what an adapter's copy was expanded into.
    pub(super) async fn discard(&self, expert: &ExpertId, deadline: Instant) -> Result<(), DriverError> {
        self.change(expert, deadline, |copy, _| discard(&copy.folder)).await
    }

    async fn change(
        &self,
        expert: &ExpertId,
        deadline: Instant,
        what: impl FnOnce(&Copy, &dyn Fn() -> bool) -> Result<(), TernaryError> + Send + 'static,
    ) -> Result<(), DriverError> {
        let Some(copy) = self.of.get(expert).cloned() else { return Ok(()) };
        let caller = Caller(Arc::default());
        let (left, one) = (caller.0.clone(), self.one.clone());
        let folder = copy.folder.display().to_string();
        let work = spawn_blocking(move || {
            let _one = one.lock().unwrap_or_else(PoisonError::into_inner);
            let is_wanted = || !left.load(Ordering::Acquire);
            // Whoever waits now may rely on what the folder has become meanwhile.
            if is_wanted() { what(&copy, &is_wanted) } else { Ok(()) }
        });
        match timeout_at(deadline, work).await {
            Ok(Ok(done)) => done.map_err(DriverError::from),
            Ok(Err(error)) => Err(DriverError::half_done(format!("{folder}: {error}"))),
            Err(_) => {
                Err(DriverError::half_done(format!("{folder}: the deadline passed before it was done")))
            }
        }
    }

    /// Adds to an inventory what the files take: the copy's in `disk`, the expanded weights' in `dram`.
    pub(super) async fn weigh(&self, inventory: &mut Inventory, deadline: Instant) {
        if self.is_empty() {
            return;
        }
        let of = self.of.clone();
        let length = |path: &Path| fs::metadata(path).map(|file| file.len()).ok();
        let sizes = spawn_blocking(move || -> BTreeMap<ExpertId, [Option<u64>; 2]> {
            let size = |copy: &Copy| [length(&copy.file), length(&copy.folder.join(WEIGHTS))];
            of.iter().map(|(id, copy)| (id.clone(), size(copy))).collect()
        });
        // Without them the declared bytes count.
        let Ok(Ok(sizes)) = timeout_at(deadline, sizes).await else { return };
        for (id, [copy, whole]) in sizes {
            let Some(placed) = inventory.experts.get_mut(&id) else { continue };
            let is_nearer = matches!(placed.residence, Residence::In(tier) if tier < Tier::Disk);
            let sizes = [(Tier::Disk, copy), (Tier::Dram, whole.filter(|_| is_nearer))];
            for (tier, bytes) in sizes {
                if let Some(bytes) = bytes {
                    placed.bytes.insert(tier, (bytes, Source::Measured));
                }
            }
        }
    }
}

impl From<TernaryError> for DriverError {
    fn from(error: TernaryError) -> Self {
        let kind = match error.kind {
            TernaryErrorKind::Full => ErrorKind::Busy,
            TernaryErrorKind::Unfit | TernaryErrorKind::Damaged | TernaryErrorKind::Io => ErrorKind::Refused,
        };
        Self::new(kind, error.message)
    }
}
