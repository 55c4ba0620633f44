//! A guest's disk, beside what the host's own programs do with its image.

use std::{
    fs::{self, File},
    os::unix::fs::FileExt,
    time::{Duration, Instant},
};

use criterion::Criterion;
use vmd::vm::{Definition, Disk};
use vmd_tests::guests::driver::{Driver, Request};

use crate::{
    daemon::{self, Daemon},
    report::Report,
};

const F_FLUSH: u64 = 1 << 9;
const READ: u32 = 0;
const WRITE: u32 = 1;

/// A way to use a disk.
struct Load {
    name: &'static str,
    kind: u32,
    /// Bytes of each request.
    size: u32,
    /// Requests at a time.
    depth: u32,
    /// Requests in all.
    total: u32,
}

/// Latency: one small request after the other. Throughput: many large ones at a time.
const LOADS: [Load; 4] = [
    Load {
        name: "disk_read_4k",
        kind: READ,
        size: 4 << 10,
        depth: 1,
        total: 200,
    },
    Load {
        name: "disk_write_4k",
        kind: WRITE,
        size: 4 << 10,
        depth: 1,
        total: 200,
    },
    Load {
        name: "disk_read_64k_16",
        kind: READ,
        size: 64 << 10,
        depth: 16,
        total: 320,
    },
    Load {
        name: "disk_write_64k_16",
        kind: WRITE,
        size: 64 << 10,
        depth: 16,
        total: 320,
    },
];

impl Load {
    /// What the requests that are under way at a time look like.
    fn requests(&self) -> Vec<Request> {
        let request = |index| {
            let sector = u64::from(index) * u64::from(self.size / 512);
            let header = [self.kind, 0].into_iter().flat_map(u32::to_le_bytes);
            Request {
                header: header.chain(sector.to_le_bytes()).collect(),
                data: self.size,
                into: self.kind == READ,
                status: true,
            }
        };
        (0..self.depth).map(request).collect()
    }

    /// The same by a thread of the host.
    fn host(&self, file: &File, buffer: &mut [u8]) -> Duration {
        let (buffer, _) = buffer.split_at_mut(self.size as usize);
        let start = Instant::now();
        for index in 0..self.total {
            let at = u64::from(index % self.depth) * u64::from(self.size);
            match self.kind {
                READ => file.read_exact_at(buffer, at).expect("a read"),
                _ => file.write_all_at(buffer, at).expect("a write"),
            }
        }
        start.elapsed()
    }
}

/// A guest's disk, beside its image.
pub(crate) fn disk(criterion: &mut Criterion, report: &mut Report, vmd: &Daemon) {
    let path = vmd.directory().join("disk");
    fs::write(&path, vec![1; 1 << 20]).expect("an image");
    // Writes need not reach the disk before they are answered: the driver could flush.
    let mut driver = Driver::new(F_FLUSH, 1);
    let letters = LOADS.map(|load| driver.run(0, &load.requests(), load.total));
    let vm = vmd.guest_of(
        "a",
        Definition {
            disks: vec![Disk {
                path: path.clone(),
                ..Default::default()
            }],
            ..daemon::definition(Some(vmd.kernel(&driver.build())))
        },
    );
    daemon::stop(vmd, &vm);
    let file = File::options().read(true).write(true).open(&path);
    let file = file.expect("the image");
    let mut buffer = vec![1; 64 << 10];
    for (load, letter) in LOADS.iter().zip(letters) {
        let guest = || daemon::run_driver(vmd, &vm, letter, || ());
        report.measure(
            criterion,
            load.name,
            None,
            || load.host(&file, &mut buffer),
            guest,
        );
        report.rate(load.name, load.total, load.size);
    }
    drop(vm);
    vmd.clear();
}
