//! All rows of a hash map, thousands at a time.
//!
//! To read it key by key takes two system calls a row, and begins anew wherever the key that was read last has gone in
//! between: in a map that evicts rows as fast as it is read, that never ends. The kernel reads batches by the hash table's own
//! buckets (`__htab_map_lookup_and_delete_batch`, Linux 5.6): a row that stays comes once.

use std::io;
use std::marker::PhantomData;
use std::ops::Range;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd, RawFd};

use anyhow::{Context as _, Result, ensure};
use aya::maps::MapData;
use bytemuck::Pod;
use nix::libc;

/// `BPF_MAP_LOOKUP_BATCH` of `enum bpf_cmd` in `linux/bpf.h`.
const LOOKUP_BATCH: libc::c_int = 24;
/// So many rows are asked for at once: more than one bucket ever has, whose rows come together or not at all.
const AT_ONCE: u32 = 4096;

/// The `batch` part of `union bpf_attr`.
#[repr(C, align(8))]
struct Batch {
    /// Where to begin, as the last answer said; nowhere for the beginning.
    from: u64,
    /// Where the kernel writes where to go on.
    to: u64,
    keys: u64,
    values: u64,
    /// How many there is room for; the kernel answers with how many there are.
    count: u32,
    map: RawFd,
    flags_of_each: u64,
    flags: u64,
}

/// A hash map of any kind without rows per CPU, to be read.
pub(super) struct Reader<K, V> {
    map: OwnedFd,
    rows: PhantomData<(K, V)>,
}

impl<K: Pod, V: Pod> Reader<K, V> {
    /// # Errors
    /// Where keys and values of `map` are of other sizes, or nothing can be learned of it.
    pub(super) fn of(map: &MapData) -> Result<Self> {
        let info = map.info().context("cannot ask about a BPF map")?;
        let sizes = (info.key_size() as usize, info.value_size() as usize);
        ensure!(
            sizes == (size_of::<K>(), size_of::<V>()),
            "a BPF map has keys and values of {sizes:?} bytes"
        );
        let map = map.fd().as_fd().try_clone_to_owned().context("cannot duplicate a descriptor")?;
        Ok(Self { map, rows: PhantomData })
    }

    /// Every row.
    pub(super) fn rows(&self) -> Rows<'_, K, V> {
        let (keys, values) = (vec![K::zeroed(); AT_ONCE as usize], vec![V::zeroed(); AT_ONCE as usize]);
        Rows { map: self.map.as_fd(), from: None, is_over: false, keys, values, left: 0..0 }
    }
}

/// The rows of a hash map, one after another. It ends after the first error.
pub(super) struct Rows<'m, K, V> {
    map: BorrowedFd<'m>,
    /// Where the kernel is to go on; `None` before the first batch.
    from: Option<u32>,
    is_over: bool,
    keys: Vec<K>,
    values: Vec<V>,
    /// The rows of the last batch that are still to come.
    left: Range<usize>,
}

impl<K: Pod, V: Pod> Rows<'_, K, V> {
    /// Reads the next batch.
    fn read(&mut self) -> io::Result<()> {
        let mut to = 0_u32;
        let mut batch = Batch {
            from: self.from.as_ref().map_or(0, address),
            to: &raw mut to as u64,
            keys: self.keys.as_mut_ptr() as u64,
            values: self.values.as_mut_ptr() as u64,
            count: AT_ONCE,
            map: self.map.as_raw_fd(),
            flags_of_each: 0,
            flags: 0,
        };
        // SAFETY: the struct is of the kernel's layout and of the size given; the places it names are as large as `count` rows
        // of this map, whose sizes `Reader::of` has compared, and nobody else has them during the call.
        let answer =
            unsafe { libc::syscall(libc::SYS_bpf, LOOKUP_BATCH, &raw mut batch, size_of::<Batch>()) };
        if answer != 0 {
            let error = io::Error::last_os_error();
            // With the last rows, or after them.
            if error.raw_os_error() != Some(libc::ENOENT) {
                return Err(error);
            }
            self.is_over = true;
        }
        self.left = 0..batch.count.min(AT_ONCE) as usize;
        self.from = Some(to);
        Ok(())
    }
}

fn address<T>(of: &T) -> u64 {
    std::ptr::from_ref(of) as u64
}

impl<K: Pod, V: Pod> Iterator for Rows<'_, K, V> {
    type Item = io::Result<(K, V)>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(at) = self.left.next() {
                return Some(Ok((self.keys[at], self.values[at])));
            }
            if self.is_over {
                return None;
            }
            if let Err(error) = self.read() {
                self.is_over = true;
                return Some(Err(error));
            }
        }
    }
}
