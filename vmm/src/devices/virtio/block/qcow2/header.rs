//! The header of a qcow2 image (QEMU's `docs/interop/qcow2.txt`), checked before anything else of the image is used: an
//! image that cannot be used is told from what its header says, and nothing in it is changed.

use std::{fs::File, io, os::unix::fs::FileExt};

use super::{Qcow2Error, SECTOR};

/// What every qcow2 image begins with.
pub(in super::super) const MAGIC: [u8; 4] = *b"QFI\xfb";

const V2_LEN: usize = 72;
const V3_LEN: usize = 104;
/// Longest name of a backing file, in bytes.
const NAME_MAX: u32 = 1023;
/// Largest tables, in bytes, as QEMU has them.
const L1_MAX: u64 = 32 << 20;
const REFCOUNTS_MAX: u64 = 8 << 20;

// Incompatible features.
const DIRTY: u64 = 1 << 0;
const CORRUPT: u64 = 1 << 1;
const DATA_FILE: u64 = 1 << 2;
const COMPRESSION: u64 = 1 << 3;
const EXTENDED_L2: u64 = 1 << 4;

// Header extensions.
const END: u32 = 0;
const BACKING_FORMAT: u32 = 0xe279_2aca;
const FEATURE_NAMES: u32 = 0x6803_f857;
/// Bytes of a feature's name and number.
const FEATURE_NAME: usize = 48;

/// What a backing file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    Raw,
    Qcow2,
}

/// A header without mistakes.
#[derive(Debug)]
pub(super) struct Header {
    pub(super) cluster_bits: u32,
    /// Of the disk, in bytes.
    pub(super) size: u64,
    /// Where the first table is, and how many entries it has.
    pub(super) l1: (u64, u64),
    /// Where the table of reference counts is, and how many entries it has.
    pub(super) refcounts: (u64, u64),
    /// The backing file: its name, and what it is.
    pub(super) backing: Option<(String, Format)>,
}

impl Header {
    /// Reads and checks the header of `file`, which is `len` bytes long.
    pub(super) fn read(file: &File, len: u64, read_only: bool) -> Result<Self, Qcow2Error> {
        let mut bytes = vec![0; V2_LEN];
        read(file, &mut bytes, 0)?;
        let fields = Fields(&bytes);
        if !bytes.starts_with(&MAGIC) {
            return Err(Qcow2Error::Magic);
        }
        let version = fields.u32(4);
        let cluster_bits = fields.u32(20);
        if !(2..=3).contains(&version) {
            return Err(Qcow2Error::Version(version));
        }
        if !(9..=21).contains(&cluster_bits) {
            return Err(Qcow2Error::ClusterBits(cluster_bits));
        }
        let cluster = 1_u64 << cluster_bits;
        let header_len = match version {
            2 => V2_LEN as u64,
            _ => check_version_3(file, cluster)?,
        };
        if fields.u32(32) != 0 {
            return Err(Qcow2Error::Encrypted);
        }
        if fields.u32(60) != 0 && !read_only {
            return Err(Qcow2Error::Snapshots);
        }
        let size = fields.u64(24);
        if size == 0 || !size.is_multiple_of(SECTOR) {
            return Err(Qcow2Error::Size(size));
        }

        let table = |what, offset: u64, bytes: u64, max: u64| {
            let end = offset.checked_add(bytes);
            let good = offset > 0
                && offset.is_multiple_of(cluster)
                && bytes <= max
                && end.is_some_and(|end| end <= len);
            good.then_some((offset, bytes / 8))
                .ok_or(Qcow2Error::Outside(what))
        };
        let l1_bytes = u64::from(fields.u32(36)) * 8;
        let l1 = table("its L1 table", fields.u64(40), l1_bytes, L1_MAX)?;
        // Each entry is for a cluster of entries for a cluster.
        if size.div_ceil(cluster * (cluster / 8)) > l1.1 {
            return Err(Qcow2Error::ShortTable);
        }
        let refcounts_bytes = u64::from(fields.u32(56)) * cluster;
        let refcounts = match refcounts_bytes {
            0 => return Err(Qcow2Error::Outside("its refcount table")),
            bytes => table("its refcount table", fields.u64(48), bytes, REFCOUNTS_MAX)?,
        };

        let extensions = extensions(file, header_len, cluster)?;
        let (name_at, name_len) = (fields.u64(8), fields.u32(16));
        let backing = match name_at {
            0 => None,
            _ => Some(backing(file, name_at, name_len, cluster, &extensions)?),
        };
        Ok(Self {
            cluster_bits,
            size,
            l1,
            refcounts,
            backing,
        })
    }

    pub(super) fn cluster(&self) -> u64 {
        1 << self.cluster_bits
    }
}

/// Checks what version 3 has added; the header's length.
fn check_version_3(file: &File, cluster: u64) -> Result<u64, Qcow2Error> {
    let mut bytes = vec![0; V3_LEN];
    read(file, &mut bytes, 0)?;
    let fields = Fields(&bytes);
    let features = fields.u64(72);
    for (bit, error) in [
        (CORRUPT, Qcow2Error::Corrupt),
        (DIRTY, Qcow2Error::Dirty),
        (DATA_FILE, Qcow2Error::DataFile),
        (COMPRESSION, Qcow2Error::Compression),
        (EXTENDED_L2, Qcow2Error::ExtendedL2),
    ] {
        if features & bit != 0 {
            return Err(error);
        }
    }
    if features != 0 {
        return Err(Qcow2Error::Features(features));
    }
    let (order, len) = (fields.u32(96), u64::from(fields.u32(100)));
    if order > 6 {
        return Err(Qcow2Error::RefcountOrder(order));
    }
    if len < V3_LEN as u64 || len > cluster || !len.is_multiple_of(8) {
        return Err(Qcow2Error::HeaderLength(len));
    }
    Ok(len)
}

/// What an image says of its backing file's format, if it does.
fn extensions(file: &File, from: u64, cluster: u64) -> Result<Option<String>, Qcow2Error> {
    let (mut at, mut format) = (from, None);
    loop {
        let mut head = [0; 8];
        if at + 8 > cluster {
            return Err(Qcow2Error::Extensions);
        }
        read(file, &mut head, at)?;
        let fields = Fields(&head);
        let (kind, len) = (fields.u32(0), u64::from(fields.u32(4)));
        if kind == END {
            return Ok(format);
        }
        if at + 8 + len > cluster {
            return Err(Qcow2Error::Extensions);
        }
        let mut data = vec![0; len as usize];
        read(file, &mut data, at + 8)?;
        match kind {
            BACKING_FORMAT if format.is_none() => {
                format = Some(String::from_utf8_lossy(&data).into_owned());
            }
            BACKING_FORMAT => return Err(Qcow2Error::Extensions),
            FEATURE_NAMES if !data.len().is_multiple_of(FEATURE_NAME) => {
                return Err(Qcow2Error::Extensions);
            }
            _ => {}
        }
        at += 8 + len.next_multiple_of(8);
    }
}

fn backing(
    file: &File,
    at: u64,
    len: u32,
    cluster: u64,
    format: &Option<String>,
) -> Result<(String, Format), Qcow2Error> {
    let end = at.checked_add(len.into());
    if len == 0 || len > NAME_MAX || end.is_none_or(|end| end >= cluster) {
        return Err(Qcow2Error::Outside("its backing file's name"));
    }
    let mut name = vec![0; len as usize];
    read(file, &mut name, at)?;
    let name = String::from_utf8(name).map_err(|_| Qcow2Error::BackingName)?;
    // What QEMU takes for something else than a file is none here.
    if name.contains('\0') || name.starts_with("json:") {
        return Err(Qcow2Error::BackingName);
    }
    match format.as_deref() {
        Some("raw" | "file" | "host_device") => Ok((name, Format::Raw)),
        Some("qcow2") => Ok((name, Format::Qcow2)),
        Some(other) => Err(Qcow2Error::BackingFormat(other.to_owned())),
        None => Err(Qcow2Error::NoBackingFormat),
    }
}

fn read(file: &File, into: &mut [u8], at: u64) -> Result<(), Qcow2Error> {
    let read = file.read_exact_at(into, at);
    read.map_err(|error| match error.kind() {
        io::ErrorKind::UnexpectedEof => Qcow2Error::Outside("its header"),
        _ => error.into(),
    })
}

/// Numbers in a header; 0 beyond its end.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn array<const N: usize>(&self, at: usize) -> [u8; N] {
        let bytes = self.0.get(at..).and_then(<[u8]>::first_chunk);
        bytes.copied().unwrap_or([0; N])
    }

    fn u32(&self, at: usize) -> u32 {
        u32::from_be_bytes(self.array(at))
    }

    fn u64(&self, at: usize) -> u64 {
        u64::from_be_bytes(self.array(at))
    }
}
