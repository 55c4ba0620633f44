//! The disks of the recordings: QEMU's `null-co`, which reads as zeroes and forgets what is written, behind its
//! `blkdebug`, which fails the first write with a given error. There is no way to ask a vmd process for that: the machines
//! that have one are of a daemon within this process, which opens disks by [`open`].

use std::{
    io,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicI32, Ordering},
    },
};

use nix::sys::signal::Signal;
use serde_json::Value;
use tempfile::TempDir;
use tokio::{sync::oneshot, task::JoinHandle};
use vm_memory::VolatileSlice;
use vmctl::{Client, Endpoint, v1};
use vmd::{
    server::{self, Config, ServeError},
    vm::{Disk, OpenDisk},
};
use vmd_tests::{Daemon, soon};
use vmm::devices::virtio::block::{Backing, DiskError};

/// Where such a disk is; its size and its error follow.
const PREFIX: &str = "/blkdebug/";

/// The disk that QEMU's option `-blockdev` describes.
pub(crate) fn disk(blockdev: &str) -> v1::Disk {
    let node: Value = serde_json::from_str(blockdev).unwrap();
    assert_eq!(node["node-name"], "d0");
    let (debug, image) = (&node["file"], &node["file"]["image"]);
    let inject = debug["inject-error"].as_array().unwrap();
    let [inject] = inject.as_slice() else {
        panic!("one error: {debug}");
    };
    assert_eq!(
        (&node["driver"], &debug["driver"]),
        (&"raw".into(), &"blkdebug".into())
    );
    assert_eq!(image["driver"], "null-co");
    assert_eq!(
        (&inject["iotype"], &inject["event"]),
        (&"write".into(), &"none".into())
    );
    let times = if inject["once"] == true {
        "once"
    } else {
        "always"
    };
    v1::Disk {
        path: format!("{PREFIX}{}/{}/{times}", image["size"], inject["errno"]),
        ..Default::default()
    }
}

/// A disk that fails.
#[derive(Debug)]
struct Faulty {
    size: u64,
    /// The error of the next write; none if it is 0.
    errno: AtomicI32,
    once: bool,
}

fn open(disk: &Disk) -> Result<Arc<dyn Backing>, DiskError> {
    let path = disk.path.to_str().unwrap();
    let words: Vec<_> = path.strip_prefix(PREFIX).unwrap().split('/').collect();
    let [size, errno, times] = words.as_slice() else {
        panic!("{path}");
    };
    Ok(Arc::new(Faulty {
        size: size.parse().unwrap(),
        errno: AtomicI32::new(errno.parse().unwrap()),
        once: *times == "once",
    }))
}

impl Backing for Faulty {
    fn size(&self) -> u64 {
        self.size
    }

    fn is_read_only(&self) -> bool {
        false
    }

    fn read(&self, _: u64, into: &[VolatileSlice<'_>]) -> io::Result<()> {
        for slice in into {
            slice.copy_from(&vec![0_u8; slice.len()]);
        }
        Ok(())
    }

    fn write(&self, _: u64, _: &[VolatileSlice<'_>]) -> io::Result<()> {
        let errno = if self.once {
            self.errno.swap(0, Ordering::SeqCst)
        } else {
            self.errno.load(Ordering::SeqCst)
        };
        match errno {
            0 => Ok(()),
            errno => Err(io::Error::from_raw_os_error(errno)),
        }
    }

    fn flush(&self) -> io::Result<()> {
        Ok(())
    }

    fn discard(&self, _: u64, _: u64) -> io::Result<()> {
        Ok(())
    }

    fn write_zeroes(&self, _: u64, _: u64, _: bool) -> io::Result<()> {
        Ok(())
    }

    fn close(&self) {}
}

/// The daemon that a recording is replayed on.
pub(crate) enum Host<'a> {
    /// A process.
    Process(&'a Daemon),
    /// One within this process.
    Inner(Inner),
}

/// A daemon within this process, which has disks that fail.
pub(crate) struct Inner {
    directory: TempDir,
    endpoint: Endpoint,
    end: oneshot::Sender<()>,
    served: JoinHandle<Result<(), ServeError>>,
}

impl Inner {
    pub(crate) async fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let endpoint = Endpoint::unix(directory.path().join("vmd.sock")).unwrap();
        let config = Config {
            listen: vec![endpoint.clone().into()],
            open_disk: OpenDisk::new(open),
            ..Config::default()
        };
        let bound = server::bind(config).await.unwrap();
        let (end, ended) = oneshot::channel::<()>();
        let served = tokio::spawn(bound.serve(async { drop(ended.await) }));
        Self {
            directory,
            endpoint,
            end,
            served,
        }
    }

    /// Ends it.
    pub(crate) async fn end(self) {
        drop(self.end);
        soon("the daemon's end", self.served)
            .await
            .unwrap()
            .unwrap();
    }
}

impl Host<'_> {
    pub(crate) async fn client(&self) -> Client {
        match self {
            Self::Process(daemon) => daemon.client().await,
            Self::Inner(inner) => soon("connecting", Client::connect(&inner.endpoint))
                .await
                .unwrap(),
        }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        match self {
            Self::Process(daemon) => daemon.path(name),
            Self::Inner(inner) => inner.directory.path().join(name),
        }
    }

    pub(crate) fn signal(&self, signal: Signal) {
        match self {
            Self::Process(daemon) => daemon.signal(signal),
            Self::Inner(_) => panic!("{signal} would end the test"),
        }
    }
}
