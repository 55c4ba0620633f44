//! The back end for passt, with a test at the other end of its socket.

use std::path::PathBuf;

use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{UnixListener, UnixStream},
    time::timeout,
};

use super::{
    super::Passt,
    rig::{DATA, DEADLINE, RECEIVE, Rig, SEND, WRITE, config, frame},
};
use std::sync::Arc;

/// Where passt would be.
struct Other {
    _directory: TempDir,
    path: PathBuf,
    listener: UnixListener,
}

impl Other {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("passt.sock");
        Self {
            listener: UnixListener::bind(&path).unwrap(),
            _directory: directory,
            path,
        }
    }

    /// A card that is connected to it.
    async fn connect(&self) -> (Rig, UnixStream) {
        let passt = Passt::open(&self.path).unwrap();
        let rig = Rig::of(config(Arc::new(passt)), 0);
        (rig, self.accept().await)
    }

    async fn accept(&self) -> UnixStream {
        let accepted = timeout(DEADLINE, self.listener.accept()).await;
        accepted.unwrap().unwrap().0
    }
}

/// What goes over the socket for a frame of this many bytes with its header.
fn on_the_wire(len: usize) -> Vec<u8> {
    let frame = &frame(len)[12..];
    let mut bytes = (frame.len() as u32).to_be_bytes().to_vec();
    bytes.extend(frame);
    bytes
}

async fn read(stream: &mut UnixStream, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    let read = timeout(DEADLINE, stream.read_exact(&mut bytes)).await;
    read.unwrap().unwrap();
    bytes
}

#[tokio::test]
async fn frames_go_after_their_lengths() {
    let other = Other::new();
    let (mut rig, mut stream) = other.connect().await;
    for len in [60, 12 + 14, 1526] {
        rig.send(&frame(len));
        assert_eq!(read(&mut stream, len - 8).await, on_the_wire(len));
    }
    rig.sent().await;
}

#[tokio::test]
async fn what_the_socket_takes_in_part_goes_on_where_it_ended() {
    let other = Other::new();
    let (mut rig, mut stream) = other.connect().await;
    let len = 60_000;
    rig.write(&frame(len), DATA);
    // More than a socket holds.
    for _ in 0..100 {
        rig.submit(SEND, &[(DATA, 1, 0), (DATA + 1, len as u32 - 1, 0)]);
    }
    for _ in 0..100 {
        let there = read(&mut stream, len - 8).await;
        assert!(there == on_the_wire(len));
    }
    rig.sent().await;
}

#[tokio::test]
async fn frames_come_however_the_stream_is_cut() {
    let other = Other::new();
    let (mut rig, mut stream) = other.connect().await;
    let lens = [60, 26, 65_547, 1526, 61];
    let bytes: Vec<_> = lens.into_iter().flat_map(on_the_wire).collect();
    for index in 0..10 {
        rig.submit(RECEIVE, &[(DATA + 0x2_0000 * index, 70_000, WRITE)]);
    }
    // Byte by byte at first, and then in one piece.
    let (slowly, rest) = bytes.split_at(200);
    for byte in slowly {
        stream.write_all(&[*byte]).await.unwrap();
        tokio::task::yield_now().await;
    }
    stream.write_all(rest).await.unwrap();
    stream.write_all(&bytes).await.unwrap();
    rig.comes_back(RECEIVE, 10).await;
    for (index, len) in (0..).zip(lens.into_iter().chain(lens)) {
        let mut expected = frame(len);
        expected[10] = 1;
        let there = rig.read(DATA + 0x2_0000 * index, len);
        assert!(there == expected, "{index}");
    }
}

#[tokio::test]
async fn a_stream_that_is_not_passts_or_ends_takes_the_link_down() {
    for garbage in [&[][..], &[0, 0, 0, 0], &[0, 1, 0, 0], b"HTTP/1.1"] {
        let other = Other::new();
        let (mut rig, mut stream) = other.connect().await;
        rig.submit(RECEIVE, &[(DATA, 2000, WRITE)]);
        stream.write_all(garbage).await.unwrap();
        if garbage.is_empty() {
            drop(stream);
        }
        rig.reconfigured().await;
        assert!(!rig.card.link().is_up());
        rig.send(&frame(60));
        rig.sent().await;
    }
}

#[tokio::test]
async fn the_next_driver_connects_again() {
    use super::super::Backend;
    let other = Other::new();
    let passt = Arc::new(Passt::open(&other.path).unwrap());
    let mut first = Rig::of(config(passt.clone()), 0);
    // Who has no buffers does not look.
    first.submit(RECEIVE, &[(DATA + 0x1000, 2000, WRITE)]);
    drop(other.accept().await);
    first.reconfigured().await;
    drop(first);
    let mut second = Rig::of(config(passt.clone()), 0);
    second.submit(RECEIVE, &[(DATA + 0x1000, 2000, WRITE)]);
    let mut stream = other.accept().await;
    second.send(&frame(60));
    assert_eq!(read(&mut stream, 52).await, on_the_wire(60));
    // Nobody listens any more.
    drop((stream, other));
    second.reconfigured().await;
    assert!(passt.start(0).is_err());
    assert!(Passt::open(&std::env::temp_dir().join("there/is/none")).is_err());
}
