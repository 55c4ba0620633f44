//! A disk in a file, by io_uring and on threads.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    path::PathBuf,
    sync::Arc,
    task,
};

use tempfile::TempDir;
use vm_memory::VolatileSlice;

use super::super::{
    super::testing::{FREE, Rig, WRITE},
    Backing, Block, BlockConfig, Disk, Engine, F_FLUSH, Policies, RawFile,
    ring::Ring,
};
use crate::runstate::{Actions, ErrorPolicy, Request, Requests, TransitionTable};

const SECTORS: u64 = 64;
const HEAD: u64 = FREE;
const STATUS: u64 = FREE + 0x800;
const DATA: u64 = FREE + 0x1000;

struct Scene {
    rig: Rig,
    requests: Requests,
    path: PathBuf,
    _directory: TempDir,
}

fn block(backing: Arc<dyn Backing>, engine: Engine, requests: &Requests) -> Block {
    Block::new(Disk::new(
        BlockConfig {
            backing,
            serial: "serial".to_owned(),
            policies: Policies {
                read: ErrorPolicy::Stop,
                write: ErrorPolicy::Report,
            },
            rate_limit: Default::default(),
            queues: 1,
            engine,
        },
        0,
        requests.clone(),
    ))
}

fn requests() -> Requests {
    Requests::new(TransitionTable::Seed, Actions::default(), || ())
}

impl Scene {
    fn new(engine: Engine, features: u64) -> Self {
        let directory = TempDir::new().unwrap();
        let path = directory.path().join("disk");
        File::create(&path).unwrap().set_len(SECTORS * 512).unwrap();
        let image = Arc::new(RawFile::open(&path, false).unwrap());
        let requests = requests();
        let rig = Rig::new(&mut block(image, engine, &requests), features);
        Self {
            rig,
            requests,
            path,
            _directory: directory,
        }
    }

    /// Makes request number `index` available, with data in two parts.
    fn submit(&mut self, index: u64, kind: u32, sector: u64, len: u32) {
        let (at, data) = (HEAD + 16 * index, DATA + 0x4000 * index);
        let mut head = kind.to_le_bytes().to_vec();
        head.extend([0; 4]);
        head.extend(sector.to_le_bytes());
        self.rig.write(&head, at);
        let flags = if matches!(kind, 0 | 8) { WRITE } else { 0 };
        let mut parts = vec![(at, 16, 0)];
        if len > 0 {
            parts.extend([(data, 100, flags), (data + 100, len - 100, flags)]);
        }
        parts.push((STATUS + index, 1, WRITE));
        self.rig.submit(0, &parts);
    }

    /// Serves a request: its status, and how much was written.
    async fn serve(&mut self, kind: u32, sector: u64, len: u32) -> (u8, u32) {
        self.rig.write(&[0xff], STATUS);
        self.submit(0, kind, sector, len);
        let (_, written) = self.rig.used(0).await;
        (self.rig.read(STATUS, 1)[0], written)
    }

    fn file(&self) -> File {
        OpenOptions::new().write(true).open(&self.path).unwrap()
    }
}

#[tokio::test]
async fn requests_are_served_alike() {
    assert!(Ring::new().is_ok(), "these tests need a host with io_uring");
    for (engine, features) in [
        (Engine::IoUring, F_FLUSH),
        (Engine::Auto, F_FLUSH),
        (Engine::Threads, F_FLUSH),
        (Engine::IoUring, 0),
    ] {
        let mut scene = Scene::new(engine, features);
        scene.rig.write(&[7; 1024], DATA);
        assert_eq!(scene.serve(1, 5, 1024).await, (0, 1));
        assert_eq!(scene.serve(4, 0, 0).await, (0, 1), "a flush");
        assert_eq!(scene.serve(4, 0, 0).await, (0, 1), "of nothing");
        let image = fs::read(&scene.path).unwrap();
        assert!(image[5 * 512..7 * 512].iter().all(|byte| *byte == 7));
        assert!(image[..5 * 512].iter().all(|byte| *byte == 0));
        scene.rig.write(&[9; 2048], DATA);
        assert_eq!(scene.serve(0, 4, 1536).await, (0, 1537));
        let data = scene.rig.read(DATA, 1537);
        assert!(data[..512].iter().all(|byte| *byte == 0));
        assert!(data[512..1536].iter().all(|byte| *byte == 7));
        assert_eq!(data[1536], 9);
        assert_eq!(scene.serve(8, 0, 200).await, (0, 21), "the serial number");
        assert_eq!(scene.serve(77, 0, 512).await, (2, 1));
        for (kind, sector, len) in [(0, SECTORS, 512), (1, SECTORS - 1, 1024), (1, 0, 513)] {
            assert_eq!(scene.serve(kind, sector, len).await, (1, 1));
        }
        assert_eq!(fs::metadata(&scene.path).unwrap().len(), SECTORS * 512);
        assert!(scene.requests.take_raised().is_empty());
    }
}

#[tokio::test]
async fn a_batch_has_all_its_answers() {
    for engine in [Engine::IoUring, Engine::Threads] {
        let mut scene = Scene::new(engine, F_FLUSH);
        scene.rig.gate.close().await;
        for index in [0, 2] {
            scene.rig.write(&[7; 4096], DATA + 0x4000 * index);
        }
        scene.submit(0, 1, 0, 4096);
        // One that is for a thread between them, and one that asks for too much behind them.
        scene.submit(1, 8, 0, 200);
        scene.submit(2, 1, 16, 4096);
        scene.submit(3, 1, SECTORS, 512);
        scene.rig.gate.open();
        let mut heads = Vec::new();
        for _ in 0..4 {
            heads.push(scene.rig.used(0).await.0);
        }
        heads.sort_unstable();
        assert_eq!(heads, [0, 1, 2, 3].map(|index| HEAD + 16 * index));
        assert_eq!(scene.rig.read(STATUS, 4), [0, 0, 0, 1]);
        let image = fs::read(&scene.path).unwrap();
        for (chunk, byte) in image.chunks(4096).zip([7, 0, 7, 0]) {
            assert!(chunk.iter().all(|it| *it == byte), "{engine:?}");
        }
    }
}

#[tokio::test]
async fn what_failed_is_kept_and_tried_again() {
    for engine in [Engine::IoUring, Engine::Threads] {
        let mut scene = Scene::new(engine, F_FLUSH);
        scene.rig.gate.close().await;
        scene.file().set_len(8 * 512).unwrap();
        // Of the second a part is there.
        for (index, sector) in [(0, 0), (1, 4), (2, 8)] {
            scene.submit(index, 0, sector, 4096);
        }
        scene.rig.gate.open();
        assert_eq!(scene.rig.used(0).await.0, HEAD);
        scene.rig.gate.close().await;
        let raised = scene.requests.take_raised();
        let is_error =
            |request: &Request| matches!(request, Request::BlockIoError(error) if error.errno == 5);
        assert!(
            !raised.is_empty() && raised.iter().all(is_error),
            "{raised:?}"
        );
        assert_eq!(scene.rig.try_used(0), None);
        scene.file().set_len(SECTORS * 512).unwrap();
        scene.rig.gate.open();
        for index in 1..3 {
            assert_eq!(scene.rig.used(0).await, (HEAD + 16 * index, 4097));
        }
        assert!(scene.requests.take_raised().is_empty());
    }
}

#[tokio::test]
async fn a_driver_that_lies_in_the_middle_of_a_batch_stops_the_device() {
    for engine in [Engine::IoUring, Engine::Threads] {
        let mut scene = Scene::new(engine, F_FLUSH);
        scene.rig.gate.close().await;
        scene.submit(0, 0, 0, 4096);
        scene.rig.submit(0, &[(HEAD, 15, 0), (STATUS, 1, WRITE)]);
        scene.rig.gate.open();
        assert!(scene.rig.broken().await.contains("has no head"));
        scene.rig.gate.close().await;
    }
}

/// A disk in a pipe: what is read comes when it is written.
#[derive(Debug)]
struct Pipe(File);

impl Backing for Pipe {
    fn size(&self) -> u64 {
        512
    }

    fn is_read_only(&self) -> bool {
        true
    }

    fn read(&self, _: u64, _: &[VolatileSlice<'_>]) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn write(&self, _: u64, _: &[VolatileSlice<'_>]) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
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

    fn file(&self) -> Option<&File> {
        Some(&self.0)
    }

    fn close(&self) {}
}

/// A driver's reset ends the device's task; the kernel still has the guest's memory, and a pause must know.
#[tokio::test]
async fn what_is_under_way_is_waited_for_when_the_task_ends() {
    let (reader, mut writer) = io::pipe().unwrap();
    let file = File::from(std::os::fd::OwnedFd::from(reader));
    let image = Arc::new(Pipe(file));
    let mut rig = Rig::new(&mut block(image, Engine::IoUring, &requests()), F_FLUSH);
    rig.write(&[0; 16], HEAD);
    rig.submit(0, &[(HEAD, 16, 0), (DATA, 512, WRITE), (STATUS, 1, WRITE)]);
    // The first part of it has come: it is under way.
    writer.write_all(&[1; 100]).unwrap();
    while rig.read(DATA + 99, 1) != [1] {
        tokio::task::yield_now().await;
    }
    let (memory, gate) = (rig.memory.clone(), rig.gate.clone());
    rig.reset().await;
    let mut close = std::pin::pin!(gate.close());
    let mut context = task::Context::from_waker(task::Waker::noop());
    for _ in 0..10 {
        assert!(close.as_mut().poll(&mut context).is_pending());
        tokio::task::yield_now().await;
    }
    writer.write_all(&[2; 412]).unwrap();
    close.await;
    let mut data = [0; 512];
    use vm_memory::{Bytes, GuestAddress};
    memory.read_slice(&mut data, GuestAddress(DATA)).unwrap();
    assert!(data[..100] == [1; 100] && data[100..] == [2; 412]);
}
