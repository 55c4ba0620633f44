//! The console, with a driver that writes its own rings.

use std::path::PathBuf;

use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{UnixListener, UnixStream},
    time::timeout,
};

use super::{
    super::testing::{DEADLINE, FREE, MEMORY, NEXT, Rig, WRITE},
    control::{CONSOLE_PORT, DEVICE_READY, MESSAGE, PORT_ADD, PORT_NAME, PORT_OPEN, PORT_READY},
    *,
};

/// Where the driver's control messages and data are, and the buffers for the device's.
const OUT: u64 = FREE;
const CONTROL: u64 = FREE + 0x1_0000;
const INPUT: u64 = FREE + 0x2_0000;
const DATA: u64 = FREE + 0x10_0000;
/// Buffers for control messages.
const BUFFERS: u64 = 8;
/// The console; the other port is 0.
const TERMINAL: usize = 1;

struct Guest {
    rig: Rig,
    device: Console,
    directory: TempDir,
}

impl Guest {
    fn new(features: u64) -> Self {
        Self::with_room(features, 256)
    }

    /// The same, with so many bytes for each control message.
    fn with_room(features: u64, room: u32) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let port = |name: &str, is_console| PortConfig {
            name: name.to_owned(),
            is_console,
            listener: UnixListener::bind(directory.path().join(name))
                .unwrap()
                .into(),
        };
        let mut device = Console::new(vec![port("org.data", false), port("tty", true)]);
        let mut rig = Rig::new(&mut device, features);
        for index in 0..BUFFERS {
            rig.submit(CONTROL_TO_GUEST, &[(CONTROL + 256 * index, room, WRITE)]);
        }
        Self {
            rig,
            device,
            directory,
        }
    }

    /// One whose driver has made both ports.
    async fn ready() -> Self {
        let mut guest = Self::new(F_MULTIPORT);
        guest.says(0, DEVICE_READY, 1).await;
        for id in [0, 1] {
            assert_eq!(guest.hears().await, (id, PORT_ADD, 1, String::new()));
        }
        guest.says(0, PORT_READY, 1).await;
        let name = (0, PORT_NAME, 1, "org.data".to_owned());
        assert_eq!(guest.hears().await, name);
        guest.says(1, PORT_READY, 1).await;
        assert_eq!(guest.hears().await, (1, CONSOLE_PORT, 1, String::new()));
        assert_eq!(guest.hears().await, (1, PORT_NAME, 1, "tty".to_owned()));
        assert_eq!(guest.hears().await, (1, PORT_OPEN, 1, String::new()));
        guest
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Connects a client, which the guest is told of.
    async fn client(&mut self) -> UnixStream {
        let client = UnixStream::connect(self.path("org.data")).await.unwrap();
        assert_eq!(self.hears().await, (0, PORT_OPEN, 1, String::new()));
        client
    }

    async fn says(&mut self, id: u32, event: u16, value: u16) {
        self.posts(id, event, value);
        self.rig.used(CONTROL_FROM_GUEST).await;
    }

    fn posts(&mut self, id: u32, event: u16, value: u16) {
        let mut message = id.to_le_bytes().to_vec();
        message.extend(event.to_le_bytes());
        message.extend(value.to_le_bytes());
        self.rig.write(&message, OUT);
        let part = (OUT, MESSAGE as u32, 0);
        self.rig.submit(CONTROL_FROM_GUEST, &[part]);
    }

    /// The next message of the device's. Its buffer is given again.
    async fn hears(&mut self) -> (u32, u16, u16, String) {
        let (address, written) = self.rig.used(CONTROL_TO_GUEST).await;
        let bytes = self.rig.read(address, written as usize);
        self.rig.submit(CONTROL_TO_GUEST, &[(address, 256, WRITE)]);
        let half = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
        let id = u32::from_le_bytes(bytes[..4].try_into().unwrap());
        let name = String::from_utf8(bytes[MESSAGE..].to_vec()).unwrap();
        (id, half(4), half(6), name)
    }

    fn writes(&mut self, port: usize, bytes: &[u8]) {
        self.rig.write(bytes, DATA);
        let part = (DATA, bytes.len() as u32, 0);
        self.rig.submit(queues_of(port).1, &[part]);
    }

    fn gives_room(&mut self, port: usize, len: u32) {
        self.rig.submit(queues_of(port).0, &[(INPUT, len, WRITE)]);
    }

    async fn reads(&mut self, port: usize) -> Vec<u8> {
        let (address, written) = self.rig.used(queues_of(port).0).await;
        self.rig.read(address, written as usize)
    }
}

async fn read(client: &mut UnixStream, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    let read = client.read_exact(&mut bytes);
    timeout(DEADLINE, read).await.unwrap().unwrap();
    bytes
}

#[tokio::test]
async fn the_configuration_is_the_number_of_ports() {
    let guest = Guest::new(F_MULTIPORT);
    let mut bytes = [0xff; 12];
    guest.device.read_config(0, &mut bytes);
    assert_eq!(bytes, [0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(guest.device.queues().len(), 6);
    let queues: Vec<_> = (0..3).map(queues_of).collect();
    assert_eq!(queues, [(0, 1), (4, 5), (6, 7)]);
}

#[tokio::test]
async fn data_goes_both_ways_and_both_sides_are_told_who_is_there() {
    let mut guest = Guest::ready().await;
    let mut client = guest.client().await;
    guest.writes(0, b"to the host");
    assert_eq!(read(&mut client, 11).await, b"to the host");
    guest.rig.used(1).await;
    // What is sent before the guest opens the port waits.
    client.write_all(b"to the guest").await.unwrap();
    guest.gives_room(0, 5);
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    assert_eq!(guest.rig.try_used(0), None);
    guest.says(0, PORT_OPEN, 1).await;
    assert_eq!(guest.reads(0).await, b"to th");
    guest.gives_room(0, 4096);
    assert_eq!(guest.reads(0).await, b"e guest");
    // Another client has to wait for the first to go.
    let mut next = UnixStream::connect(guest.path("org.data")).await.unwrap();
    next.write_all(b"next").await.unwrap();
    drop(client);
    assert_eq!(guest.hears().await, (0, PORT_OPEN, 0, String::new()));
    assert_eq!(guest.hears().await, (0, PORT_OPEN, 1, String::new()));
    guest.gives_room(0, 4096);
    assert_eq!(guest.reads(0).await, b"next");
}

#[tokio::test]
async fn a_client_that_sends_no_more_still_gets_what_the_guest_writes() {
    let mut guest = Guest::ready().await;
    let mut client = guest.client().await;
    guest.says(0, PORT_OPEN, 1).await;
    guest.gives_room(0, 4096);
    client.write_all(b"question").await.unwrap();
    client.shutdown().await.unwrap();
    assert_eq!(guest.reads(0).await, b"question");
    guest.gives_room(0, 4096);
    guest.writes(0, b"answer");
    assert_eq!(read(&mut client, 6).await, b"answer");
    drop(client);
    assert_eq!(guest.hears().await, (0, PORT_OPEN, 0, String::new()));
}

#[tokio::test]
async fn a_port_waits_for_its_client_and_a_console_does_not() {
    let mut guest = Guest::ready().await;
    guest.writes(TERMINAL, b"lost");
    guest.rig.used(queues_of(TERMINAL).1).await;
    let first = [1; 0x1000];
    guest.writes(0, &first);
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    assert_eq!(guest.rig.try_used(1), None);
    let mut client = guest.client().await;
    assert_eq!(read(&mut client, first.len()).await, first);
    guest.rig.used(1).await;

    // A client that does not read: the buffer fills, and the guest waits; nothing is lost.
    let (mut sent, mut waits) = (0, false);
    while !waits {
        guest.writes(0, &[2; 0x8000]);
        sent += 0x8000;
        assert!(sent < 64 << 20);
        for _ in 0..200 {
            tokio::task::yield_now().await;
        }
        waits = guest.rig.try_used(1).is_none();
    }
    assert!(sent > BUFFER);
    assert!(read(&mut client, sent).await.iter().all(|byte| *byte == 2));
    guest.rig.used(1).await;

    let mut terminal = UnixStream::connect(guest.path("tty")).await.unwrap();
    guest.says(1, PORT_OPEN, 1).await;
    guest.gives_room(TERMINAL, 64);
    terminal.write_all(b"key").await.unwrap();
    assert_eq!(guest.reads(TERMINAL).await, b"key");
    guest.writes(TERMINAL, b"screen");
    assert_eq!(read(&mut terminal, 6).await, b"screen");
    guest.rig.used(queues_of(TERMINAL).1).await;
    for _ in 0..0x1000 {
        guest.writes(TERMINAL, &[3; 0x1000]);
        guest.rig.used(queues_of(TERMINAL).1).await;
    }
}

#[tokio::test]
async fn a_request_larger_than_the_buffer_arrives_whole() {
    let mut guest = Guest::ready().await;
    let mut client = guest.client().await;
    let bytes: Vec<u8> = (0..1 << 20).map(|at: u32| (at % 251) as u8).collect();
    guest.writes(0, &bytes);
    assert!(read(&mut client, bytes.len()).await == bytes);
    guest.rig.used(1).await;
}

#[tokio::test]
async fn clients_stay_over_a_reset() {
    let mut guest = Guest::ready().await;
    let mut client = guest.client().await;
    let Guest {
        rig,
        mut device,
        directory,
    } = guest;
    rig.reset().await;
    let mut rig = Rig::new(&mut device, F_MULTIPORT);
    for index in 0..BUFFERS {
        rig.submit(CONTROL_TO_GUEST, &[(CONTROL + 256 * index, 256, WRITE)]);
    }
    guest = Guest {
        rig,
        device,
        directory,
    };
    guest.says(0, PORT_READY, 1).await;
    assert_eq!(guest.hears().await.1, PORT_NAME);
    assert_eq!(guest.hears().await, (0, PORT_OPEN, 1, String::new()));
    guest.writes(0, b"again");
    assert_eq!(read(&mut client, 5).await, b"again");
}

#[tokio::test]
async fn a_driver_without_multiport_has_the_first_port() {
    let mut guest = Guest::new(0);
    let mut client = UnixStream::connect(guest.path("org.data")).await.unwrap();
    guest.gives_room(0, 4096);
    client.write_all(b"in").await.unwrap();
    assert_eq!(guest.reads(0).await, b"in");
    guest.writes(0, b"out");
    assert_eq!(read(&mut client, 3).await, b"out");
}

#[tokio::test]
async fn while_the_machine_is_stopped_data_waits() {
    let mut guest = Guest::ready().await;
    let mut client = guest.client().await;
    guest.says(0, PORT_OPEN, 1).await;
    guest.gives_room(0, 64);
    guest.rig.gate.close().await;
    client.write_all(b"in").await.unwrap();
    guest.writes(0, b"out");
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    assert_eq!((guest.rig.try_used(0), guest.rig.try_used(1)), (None, None));
    guest.rig.gate.open();
    assert_eq!(read(&mut client, 3).await, b"out");
    assert_eq!(guest.reads(0).await, b"in");
}

#[tokio::test]
async fn requests_that_are_none_stop_the_device() {
    for (part, problem) in [
        ((OUT, 7, 0), "is too short"),
        ((OUT, 64, WRITE), "is too short"),
        ((MEMORY, 8, 0), "queue"),
    ] {
        let mut guest = Guest::ready().await;
        guest.rig.submit(CONTROL_FROM_GUEST, &[part]);
        let error = guest.rig.broken().await;
        assert!(error.contains(problem), "{part:x?}: {error}");
    }
    for (queue, problem) in [(0, "has no room"), (1, "does not end")] {
        let mut guest = Guest::ready().await;
        let mut client = guest.client().await;
        guest.says(0, PORT_OPEN, 1).await;
        match queue {
            0 => guest.rig.submit(0, &[(INPUT, 64, 0)]),
            _ => {
                guest.rig.descriptor(1, 0, (DATA, 64, NEXT), 0);
                guest.rig.offer(1, 0);
            }
        }
        client.write_all(b"x").await.unwrap();
        let error = guest.rig.broken().await;
        assert!(error.contains(problem), "{error}");
    }
    let mut guest = Guest::with_room(F_MULTIPORT, 7);
    guest.posts(0, DEVICE_READY, 1);
    assert!(guest.rig.broken().await.contains("has no room for one"));
}

#[tokio::test]
async fn a_flood_of_control_messages_makes_nothing_grow() {
    let mut guest = Guest::new(F_MULTIPORT);
    for round in 0..2000_u32 {
        // Ports that are there and ports that are not, known events and others; the answers are not taken.
        let (id, event) = (round % 4 * 0x5555_5555, (round % 9) as u16);
        let mut message = id.to_le_bytes().to_vec();
        message.extend(event.to_le_bytes());
        message.extend([1, 0]);
        guest.rig.write(&message, OUT);
        guest.rig.submit(CONTROL_FROM_GUEST, &[(OUT, 8, 0)]);
        guest.rig.used(CONTROL_FROM_GUEST).await;
    }
    assert!(!guest.rig.is_broken());
    let told = std::iter::from_fn(|| guest.rig.try_used(CONTROL_TO_GUEST)).count();
    assert_eq!(told as u64, BUFFERS, "as many as there was room for");
}
