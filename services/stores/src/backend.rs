use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex, PoisonError};

use redb::StorageBackend;

/// The store's file as the engine sees it.
///
/// The caller holds the file's lock for as long as the store is open, so the engine needs none.
#[derive(Debug)]
pub(crate) struct Direct(pub(crate) Arc<File>);

/// The store's file with every write kept in memory, to let the engine check and repair without changing
/// anything on disk.
#[derive(Debug)]
pub(crate) struct Rehearsal {
    file: Arc<File>,
    overlay: Mutex<Overlay>,
}

#[derive(Debug)]
struct Overlay {
    /// The length the engine believes in.
    len: u64,
    /// Bytes of the file that are still its own; the rest reads as zero.
    file_len: u64,
    /// Rewritten blocks by number.
    blocks: BTreeMap<u64, Box<[u8; BLOCK]>>,
}

const BLOCK: usize = 4096;

impl StorageBackend for Direct {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.0.read_exact_at(out, offset)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.0.write_all_at(data, offset)
    }
}

impl Rehearsal {
    pub(crate) fn new(file: Arc<File>) -> io::Result<Self> {
        let len = file.metadata()?.len();
        let overlay = Overlay { len, file_len: len, blocks: BTreeMap::new() };
        Ok(Self { file, overlay: Mutex::new(overlay) })
    }
}

impl Overlay {
    /// Fills `out`, which lies within block `number` from byte `start` on.
    fn read(&self, file: &File, number: u64, start: usize, out: &mut [u8]) -> io::Result<()> {
        if let Some(block) = self.blocks.get(&number) {
            out.copy_from_slice(&block[start..start + out.len()]);
            return Ok(());
        }
        let offset = number * BLOCK as u64 + start as u64;
        let on_disk = self.file_len.saturating_sub(offset).min(out.len() as u64) as usize;
        let (head, tail) = out.split_at_mut(on_disk);
        tail.fill(0);
        file.read_exact_at(head, offset)
    }
}

/// Cuts a range of bytes at block boundaries: (block, start within the block, range within the buffer).
fn pieces(offset: u64, len: usize) -> impl Iterator<Item = (u64, usize, std::ops::Range<usize>)> {
    let mut done = 0;
    std::iter::from_fn(move || {
        if done == len {
            return None;
        }
        let at = offset + done as u64;
        let start = (at % BLOCK as u64) as usize;
        let take = (BLOCK - start).min(len - done);
        let range = done..done + take;
        done += take;
        Some((at / BLOCK as u64, start, range))
    })
}

impl StorageBackend for Rehearsal {
    fn len(&self) -> io::Result<u64> {
        Ok(self.overlay.lock().unwrap_or_else(PoisonError::into_inner).len)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let overlay = self.overlay.lock().unwrap_or_else(PoisonError::into_inner);
        if offset.checked_add(out.len() as u64).is_none_or(|end| end > overlay.len) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        pieces(offset, out.len())
            .try_for_each(|(number, start, range)| overlay.read(&self.file, number, start, &mut out[range]))
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut overlay = self.overlay.lock().unwrap_or_else(PoisonError::into_inner);
        if len < overlay.len {
            // What is cut off must read as zero should the file grow again.
            drop(overlay.blocks.split_off(&len.div_ceil(BLOCK as u64)));
            let within = (len % BLOCK as u64) as usize;
            if let Some(block) = overlay.blocks.get_mut(&(len / BLOCK as u64)) {
                block[within..].fill(0);
            }
            overlay.file_len = overlay.file_len.min(len);
        }
        overlay.len = len;
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut overlay = self.overlay.lock().unwrap_or_else(PoisonError::into_inner);
        for (number, start, range) in pieces(offset, data.len()) {
            if !overlay.blocks.contains_key(&number) {
                let mut block = Box::new([0; BLOCK]);
                overlay.read(&self.file, number, 0, block.as_mut_slice())?;
                overlay.blocks.insert(number, block);
            }
            if let Some(block) = overlay.blocks.get_mut(&number) {
                block[start..start + range.len()].copy_from_slice(&data[range]);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Debug)]
    enum Op {
        Write(u64, Vec<u8>),
        SetLen(u64),
        Read(u64, usize),
    }

    fn op() -> impl Strategy<Value = Op> {
        prop_oneof![
            (0..20_000_u64, prop::collection::vec(any::<u8>(), 1..9000)).prop_map(|(o, d)| Op::Write(o, d)),
            (0..30_000_u64).prop_map(Op::SetLen),
            (0..30_000_u64, 0..9000_usize).prop_map(|(o, l)| Op::Read(o, l)),
        ]
    }

    proptest! {
        #[test]
        fn rehearsal_is_a_file_and_leaves_the_file(initial in prop::collection::vec(any::<u8>(), 0..15_000),
                                                   ops in prop::collection::vec(op(), 1..30)) {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("f");
            std::fs::write(&path, &initial).unwrap();
            let rehearsal = Rehearsal::new(Arc::new(File::open(&path).unwrap())).unwrap();
            let mut model = initial.clone();
            for op in ops {
                match op {
                    Op::Write(offset, data) => {
                        let end = offset as usize + data.len();
                        if end <= model.len() {
                            rehearsal.write(offset, &data).unwrap();
                            model[offset as usize..end].copy_from_slice(&data);
                        }
                    }
                    Op::SetLen(len) => {
                        rehearsal.set_len(len).unwrap();
                        model.resize(len as usize, 0);
                    }
                    Op::Read(offset, len) => {
                        let mut out = vec![7; len];
                        let end = offset as usize + len;
                        let result = rehearsal.read(offset, &mut out);
                        if end <= model.len() {
                            result.unwrap();
                            prop_assert_eq!(&out[..], &model[offset as usize..end]);
                        } else {
                            prop_assert!(result.is_err());
                        }
                    }
                }
                prop_assert_eq!(rehearsal.len().unwrap(), model.len() as u64);
            }
            prop_assert_eq!(std::fs::read(&path).unwrap(), initial);
        }
    }
}
