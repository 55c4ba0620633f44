//! A guest's end of the device, packet by packet.

use std::path::PathBuf;

use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{UnixListener, UnixStream},
    time::timeout,
};

use super::super::{
    super::testing::{self, DEADLINE, FREE, WRITE},
    HOST_CID, RX, TX, Vsock, VsockConfig,
    packet::{CREDIT_UPDATE, HEADER, Header, REQUEST, RESPONSE, RST, RW, STREAM},
};

pub(super) const CID: u32 = 3;
/// What it has room for, of each connection.
pub(super) const ROOM: u32 = 8192;
/// The guest's receive buffers.
const BUFFERS: u16 = 8;
const BUFFER_SIZE: u32 = 4096;
/// Where it puts what it sends.
pub(super) const OUT: u64 = FREE + 0x10_0000;

pub(super) struct Guest {
    pub(super) rig: testing::Rig,
    directory: TempDir,
}

impl Guest {
    /// With receive buffers, unless `is_deaf`.
    pub(super) fn new(is_deaf: bool) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("vsock");
        let listener = UnixListener::bind(&path).unwrap().into();
        let mut device = Vsock::new(VsockConfig {
            cid: CID,
            listener,
            path,
            resolve: Default::default(),
        });
        let mut guest = Self {
            rig: testing::Rig::new(&mut device, 0),
            directory,
        };
        if !is_deaf {
            for index in 0..BUFFERS {
                guest.give(FREE + u64::from(BUFFER_SIZE) * u64::from(index));
            }
        }
        guest
    }

    pub(super) fn give(&mut self, address: u64) {
        self.rig.submit(RX, &[(address, BUFFER_SIZE, WRITE)]);
    }

    pub(super) fn path(&self, suffix: &str) -> PathBuf {
        self.directory.path().join(format!("vsock{suffix}"))
    }

    /// A packet of the guest's with room for `ROOM` bytes.
    pub(super) fn header(op: u16, guest: u32, host: u32) -> Header {
        Header {
            src_cid: CID.into(),
            dst_cid: HOST_CID,
            src_port: guest,
            dst_port: host,
            kind: STREAM,
            op,
            buf_alloc: ROOM,
            ..Header::default()
        }
    }

    /// Sends a packet, and waits until the device has taken it.
    pub(super) async fn send(&mut self, header: Header, data: &[u8]) {
        self.post(header, data);
        self.rig.used(TX).await;
    }

    /// Sends a packet.
    pub(super) fn post(&mut self, header: Header, data: &[u8]) {
        let header = Header {
            len: data.len() as u32,
            ..header
        };
        self.rig.write(&header.to_bytes(), OUT);
        self.rig.write(data, OUT + 0x1000);
        let mut parts = vec![(OUT, HEADER as u32, 0)];
        if !data.is_empty() {
            parts.push((OUT + 0x1000, data.len() as u32, 0));
        }
        self.rig.submit(TX, &parts);
    }

    /// The next packet of the host's. Its buffer is given again.
    pub(super) async fn packet(&mut self) -> (Header, Vec<u8>) {
        let (address, written) = self.rig.used(RX).await;
        let (header, data) = self.parse(address, written);
        self.give(address);
        (header, data)
    }

    fn parse(&self, address: u64, written: u32) -> (Header, Vec<u8>) {
        let mut bytes = self.rig.read(address, written as usize);
        let data = bytes.split_off(HEADER);
        let header = Header::read(bytes.as_slice().try_into().unwrap());
        assert_eq!(header.len as usize, data.len());
        (header, data)
    }

    /// The next one that is no news of credit.
    pub(super) async fn news(&mut self) -> (Header, Vec<u8>) {
        loop {
            let (header, data) = self.packet().await;
            if header.op != CREDIT_UPDATE {
                return (header, data);
            }
        }
    }

    /// Expects a packet of this operation.
    pub(super) async fn expect(&mut self, op: u16) -> Header {
        let (header, _) = self.news().await;
        assert_eq!(header.op, op, "{header:?}");
        header
    }

    /// Expects so many bytes.
    pub(super) async fn receives(&mut self, len: usize) -> Vec<u8> {
        let mut received = Vec::new();
        while received.len() < len {
            let (header, data) = self.news().await;
            assert_eq!(header.op, RW, "{header:?}");
            received.extend(data);
        }
        received
    }

    /// Connects a program of the host's to the guest's port `port`: the program's end, and the host's port.
    pub(super) async fn called(&mut self, port: u32) -> (BufReader<UnixStream>, u32) {
        let mut stream = UnixStream::connect(self.path("")).await.unwrap();
        let hello = format!("CONNECT {port}\n");
        stream.write_all(hello.as_bytes()).await.unwrap();
        let request = self.expect(REQUEST).await;
        assert_eq!((request.src_cid, request.dst_cid), (HOST_CID, CID.into()));
        assert_eq!(request.dst_port, port);
        let host = request.src_port;
        self.send(Self::header(RESPONSE, port, host), &[]).await;
        let mut stream = BufReader::new(stream);
        let mut line = String::new();
        soon(stream.read_line(&mut line)).await.unwrap();
        assert_eq!(line, format!("OK {host}\n"));
        (stream, host)
    }

    /// Connects the guest to a program of the host's: its end.
    pub(super) async fn calls(&mut self, guest: u32, host: u32) -> UnixStream {
        let listener = UnixListener::bind(self.path(&format!("_{host}"))).unwrap();
        self.send(Self::header(REQUEST, guest, host), &[]).await;
        let (stream, _) = soon(listener.accept()).await.unwrap();
        let response = self.expect(RESPONSE).await;
        assert_eq!((response.src_port, response.dst_port), (host, guest));
        stream
    }

    /// Expects that a connection is reset.
    pub(super) async fn is_reset(&mut self, guest: u32, host: u32) {
        let reset = self.expect(RST).await;
        assert_eq!((reset.src_port, reset.dst_port), (host, guest));
    }
}

pub(super) async fn soon<F: Future>(future: F) -> F::Output {
    timeout(DEADLINE, future).await.unwrap()
}

/// What a program of the host's reads up to the end.
pub(super) async fn read_all(stream: &mut (impl AsyncReadExt + Unpin)) -> Vec<u8> {
    let mut all = Vec::new();
    soon(stream.read_to_end(&mut all)).await.unwrap();
    all
}

pub(super) async fn read(stream: &mut (impl AsyncReadExt + Unpin), len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    soon(stream.read_exact(&mut bytes)).await.unwrap();
    bytes
}
