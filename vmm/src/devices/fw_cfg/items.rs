//! The items, by key.

use std::collections::BTreeMap;

/// Keys of the device's own.
pub(super) const SIGNATURE: u16 = 0x0000;
const FEATURES: u16 = 0x0001;
pub(super) const FILE_DIRECTORY: u16 = 0x0019;
pub(super) const FIRST_FILE: u16 = 0x0020;

/// Version 1 of the interface, and DMA.
const FEATURE_BITS: u32 = 0b11;

/// Asked for write access once; it does not count.
const WRITE: u16 = 0x4000;

/// A name is shorter than its field, which ends with a 0.
const NAME_FIELD: usize = 56;

/// What the device offers.
#[derive(Clone, Debug)]
pub struct Items {
    items: BTreeMap<u16, Vec<u8>>,
    files: u16,
}

impl Default for Items {
    fn default() -> Self {
        Self {
            items: BTreeMap::from([
                (SIGNATURE, b"QEMU".to_vec()),
                (FEATURES, FEATURE_BITS.to_le_bytes().to_vec()),
                (FILE_DIRECTORY, 0_u32.to_be_bytes().to_vec()),
            ]),
            files: 0,
        }
    }
}

impl Items {
    /// Gives an item that has a key of its own its content.
    pub fn set(&mut self, key: u16, content: impl Into<Vec<u8>>) {
        self.items.insert(key & !WRITE, content.into());
    }

    /// Adds a file. `name` has at most 55 bytes, and there are at most 16,000 files; what is beyond that is left out.
    pub fn add_file(&mut self, name: &str, content: impl Into<Vec<u8>>) {
        let content = content.into();
        let key = FIRST_FILE + self.files;
        let (Ok(size), true) = (
            u32::try_from(content.len()),
            name.len() < NAME_FIELD && key < WRITE,
        ) else {
            return;
        };
        self.files += 1;
        let directory = self.items.entry(FILE_DIRECTORY).or_default();
        for (to, from) in directory
            .iter_mut()
            .zip(u32::from(self.files).to_be_bytes())
        {
            *to = from;
        }
        directory.extend(size.to_be_bytes());
        directory.extend(key.to_be_bytes());
        directory.extend([0; 2]);
        directory.extend(name.as_bytes());
        directory.resize(directory.len() + NAME_FIELD - name.len(), 0);
        self.items.insert(key, content);
    }

    /// The item of `key`; an empty one if there is none.
    pub fn get(&self, key: u16) -> &[u8] {
        self.items
            .get(&(key & !WRITE))
            .map(Vec::as_slice)
            .unwrap_or_default()
    }

    /// The file `name`, if there is one, for tests and logs.
    pub fn file(&self, name: &str) -> Option<&[u8]> {
        let directory = self.get(FILE_DIRECTORY).get(4..)?;
        directory
            .chunks_exact(8 + NAME_FIELD)
            .find(|entry| {
                let of_entry = entry.get(8..).unwrap_or_default();
                of_entry.split(|byte| *byte == 0).next() == Some(name.as_bytes())
            })
            .and_then(|entry| Some(u16::from_be_bytes([*entry.get(4)?, *entry.get(5)?])))
            .map(|key| self.get(key))
    }
}
