//! A guest's serial port: over gRPC, and on a Unix socket of its own.
#![allow(clippy::indexing_slicing, clippy::unwrap_used)]

use std::{os::unix::fs::PermissionsExt, path::Path};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        UnixStream,
        unix::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::watch,
};
use vmctl::{ByteInput, Client, v1};
use vmd_tests::{ConsoleReader, Daemon, Guest, request, soon};

async fn console(client: &Client, skip_history: bool) -> (ByteInput, ConsoleReader) {
    let (input, output) = client.console("a", skip_history).await.unwrap();
    (input, ConsoleReader::new(output))
}

async fn with_socket(daemon: &Daemon) -> Guest {
    let socket = daemon.path("serial.sock").to_str().unwrap().to_owned();
    daemon
        .guest_of(v1::CreateVmRequest {
            definition: Some(v1::VmDefinition {
                serial_socket: socket,
                ..Default::default()
            }),
            ..request("a")
        })
        .await
}

/// A client of the serial socket.
struct Socket {
    reader: OwnedReadHalf,
    writer: OwnedWriteHalf,
}

impl Socket {
    async fn connect(daemon: &Daemon) -> Self {
        let (reader, writer) = UnixStream::connect(daemon.path("serial.sock"))
            .await
            .unwrap()
            .into_split();
        Self { reader, writer }
    }

    async fn send(&mut self, text: &str) {
        soon("the socket", self.writer.write_all(text.as_bytes()))
            .await
            .unwrap();
    }

    async fn expect(&mut self, text: &str) {
        let mut bytes = vec![0; text.len()];
        soon(&format!("{text:?}"), self.reader.read_exact(&mut bytes))
            .await
            .unwrap();
        assert_eq!(String::from_utf8_lossy(&bytes), text);
    }

    async fn expect_end(&mut self) {
        let mut rest = Vec::new();
        soon("the socket's end", self.reader.read_to_end(&mut rest))
            .await
            .unwrap();
        assert_eq!(String::from_utf8_lossy(&rest), "");
    }
}

#[tokio::test]
#[cfg_attr(no_kvm, ignore = "needs /dev/kvm")]
async fn every_reader_gets_everything_and_any_may_write() {
    let daemon = Daemon::start().await;
    let mut guest = daemon.guest("a").await;
    guest.letter("a").await;
    // Late, and with all that was written before.
    let (input, mut second) = console(&daemon.client().await, false).await;
    second.expect("!a").await;
    input.send(b"bcd").await.unwrap();
    second.expect("bcd").await;
    guest.console.expect("bcd").await;
    guest.letter("e").await;
    second.expect("e").await;
    // A reader that goes takes nothing with it; closing the input alone does not end the output.
    drop(input);
    guest.letter("f").await;
    second.expect("f").await;
    drop(second);
    guest.letter("g").await;
    let (_input, mut third) = console(&guest.client, false).await;
    third.expect("!abcdefg").await;
}

#[tokio::test]
#[cfg_attr(no_kvm, ignore = "needs /dev/kvm")]
async fn history_may_be_skipped() {
    let daemon = Daemon::start().await;
    let mut guest = daemon.guest("a").await;
    guest.letter("a").await;
    let (_input, mut output) = guest.client.console("a", true).await.unwrap();
    guest.letter("b").await;
    let next = soon("output", output.next()).await.unwrap().unwrap();
    assert_eq!((next.offset, next.output.as_slice()), (2, &b"b"[..]));
}

#[tokio::test]
#[cfg_attr(no_kvm, ignore = "needs /dev/kvm")]
async fn what_was_written_can_be_read_after_the_end() {
    let daemon = Daemon::start().await;
    let mut guest = daemon.guest("a").await;
    guest.send("abcO").await;
    guest.console.expect("abcO").await;
    guest.console.expect_end().await;
    let (input, mut late) = console(&guest.client, false).await;
    late.expect("!abcO").await;
    late.expect_end().await;
    guest.events.expect(&["SHUTDOWN", "ENDED"]).await;
    // Nobody takes input; nobody fails for it.
    let _ = input.send(b"x").await;
    let (_input, mut later) = console(&guest.client, true).await;
    later.expect_end().await;
    guest.is("ended").await;
}

#[tokio::test]
#[cfg_attr(no_kvm, ignore = "needs /dev/kvm")]
async fn input_waits_for_a_stopped_guest_without_bound_for_the_daemon() {
    let daemon = Daemon::start().await;
    let mut guest = daemon.guest("a").await;
    guest.serves(Client::stop, &["STOP -> paused"]).await;
    // More than the guest's queue and all buffers on the way hold.
    let text = "the quick brown fox jumps over the lazy dog. ".repeat(100_000);
    let text = text.replace('w', "v");
    let before = daemon.resources().resident;
    let (input, output) = guest.client.console("a", true).await.unwrap();
    let mut console = ConsoleReader::from(output, 1);
    let sent = tokio::spawn({
        let text = text.clone();
        async move { input.send(text.as_bytes()).await }
    });
    // It can be driven all the same.
    for _ in 0..100 {
        guest.serves(Client::system_powerdown, &["POWERDOWN"]).await;
    }
    let grown = daemon.resources().resident.saturating_sub(before);
    assert!(grown < 16 << 20, "{grown} bytes");
    assert!(!sent.is_finished());
    guest.serves(Client::cont, &["RESUME"]).await;
    let head = &text[..20_000];
    guest.console.expect(head).await;
    console.expect(head).await;
    guest.serves(Client::quit, &["SHUTDOWN", "ENDED"]).await;
    // The writer is told, if it had more.
    let _ = soon("the writer", sent).await.unwrap();
}

#[tokio::test]
#[cfg_attr(no_kvm, ignore = "needs /dev/kvm")]
async fn the_serial_socket_gives_each_byte_to_a_client() {
    let daemon = Daemon::start().await;
    let mut guest = with_socket(&daemon).await;
    let path = daemon.path("serial.sock");
    let mode = std::fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    guest.letter("a").await;

    let mut first = Socket::connect(&daemon).await;
    first.expect("!a").await;
    first.send("b").await;
    first.expect("b").await;
    guest.console.expect("b").await;
    // Two at a time hear the same, from now on.
    let mut second = Socket::connect(&daemon).await;
    second.send("c").await;
    second.expect("c").await;
    first.expect("c").await;
    guest.console.expect("c").await;
    // The asking connection makes one more, those of the clients two less.
    let connected = daemon.resources().descriptors;
    drop((first, second));
    // What is written while nobody is there is kept; what was given before is not given again. A client counts as there
    // until the daemon has seen it go.
    daemon
        .settle("the clients are gone", |now| now.descriptors < connected)
        .await;
    guest.letter("d").await;
    let mut third = Socket::connect(&daemon).await;
    third.send("e").await;
    guest.console.expect("e").await;
    third.expect("de").await;

    guest.serves(Client::quit, &["SHUTDOWN", "ENDED"]).await;
    assert!(!path.exists(), "removed with its machine");
    third.expect_end().await;
}

#[tokio::test]
#[cfg_attr(no_kvm, ignore = "needs /dev/kvm")]
async fn a_client_of_the_serial_socket_gets_the_last_byte() {
    let daemon = Daemon::start().await;
    let mut guest = with_socket(&daemon).await;
    for _ in 0..20 {
        let mut socket = Socket::connect(&daemon).await;
        socket.expect("!").await;
        let text = format!("{}O", "abc".repeat(200));
        socket.send(&text).await;
        socket.expect(&text).await;
        socket.expect_end().await;
        guest.events.expect(&["SHUTDOWN", "ENDED"]).await;
        guest.client.start("a", false).await.unwrap();
        guest.events.expect(&["STARTED", "RESUME"]).await;
    }
}

#[tokio::test]
#[cfg_attr(no_kvm, ignore = "needs /dev/kvm")]
async fn a_client_that_has_no_more_to_send_still_reads() {
    let daemon = Daemon::start().await;
    let mut guest = with_socket(&daemon).await;
    let mut socket = Socket::connect(&daemon).await;
    socket.send("a").await;
    socket.writer.shutdown().await.unwrap();
    socket.expect("!a").await;
    guest.console.expect("a").await;
    for letter in ["b", "c"] {
        guest.letter(letter).await;
        socket.expect(letter).await;
    }
    guest.serves(Client::quit, &["SHUTDOWN", "ENDED"]).await;
    socket.expect_end().await;
}

#[tokio::test]
#[cfg_attr(no_kvm, ignore = "needs /dev/kvm")]
async fn the_serial_socket_is_there_again_after_a_start() {
    let daemon = Daemon::start().await;
    let mut guest = with_socket(&daemon).await;
    let path = daemon.path("serial.sock");
    guest.serves(Client::quit, &["SHUTDOWN", "ENDED"]).await;
    assert!(!path.exists());
    guest.client.start("a", false).await.unwrap();
    let mut socket = Socket::connect(&daemon).await;
    socket.expect("!").await;
    guest.client.delete("a", true).await.unwrap();
    assert!(!path.exists());
    socket.expect_end().await;
}

#[tokio::test]
#[cfg_attr(no_kvm, ignore = "needs /dev/kvm")]
async fn a_serial_socket_that_cannot_be_made_fails_the_creation() {
    let daemon = Daemon::start().await;
    let client = daemon.client().await;
    let _guest = with_socket(&daemon).await;
    let file = daemon.path("file");
    std::fs::write(&file, "precious").unwrap();
    let nowhere = daemon.path("no/such/directory/socket");
    for path in [daemon.path("serial.sock"), file.clone(), nowhere] {
        let create = v1::CreateVmRequest {
            definition: Some(v1::VmDefinition {
                serial_socket: path.to_str().unwrap().to_owned(),
                ..Default::default()
            }),
            ..request("b")
        };
        let refusal = vmd_tests::refusal(client.create(create).await);
        assert_eq!(refusal.code, tonic::Code::InvalidArgument);
        assert_eq!(refusal.reason, "SOCKET_UNUSABLE");
        assert_eq!(refusal.violations[0].field, "definition.serial_socket");
        assert!(refusal.message.contains(path.to_str().unwrap()));
    }
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "precious");
    assert!(Path::new(&daemon.path("serial.sock")).exists());
    assert_eq!(client.list().await.unwrap().vms.len(), 1);
}

/// Letters without a meaning to the probe guest.
const LETTERS: &[u8] = b"abcdefghijklmnopqrstuvxyz012356789";

/// The byte at `position` of a long text: the letters in a row, each row beginning one letter later, so that bytes that
/// are lost, repeated or swapped are seen.
fn byte_at(position: usize) -> u8 {
    LETTERS[(position + position / LETTERS.len()) % LETTERS.len()]
}

#[tokio::test]
#[cfg_attr(no_kvm, ignore = "needs /dev/kvm")]
async fn a_thousand_pauses_lose_and_repeat_no_byte() {
    const CYCLES: usize = 1000;
    let daemon = Daemon::start().await;
    let mut guest = with_socket(&daemon).await;
    let client = daemon.client().await;
    let (input, mut other) = console(&client, false).await;
    other.expect("!").await;
    let mut socket = Socket::connect(&daemon).await;
    socket.expect("!").await;

    // One writes all the time, until it is told to stop; the answer is how much it was.
    let (stop_writing, stopped) = watch::channel(false);
    let writer = tokio::spawn(async move {
        let mut sent = 0;
        while !*stopped.borrow() {
            let bytes: Vec<_> = (sent..sent + 64).map(byte_at).collect();
            input.send(&bytes).await.unwrap();
            sent += bytes.len();
        }
        // Kept: dropping it closes the way in.
        (sent, input)
    });
    // One reads and checks, and tells how far it is.
    let (progress, mut read) = watch::channel(0);
    let (total, totalled) = watch::channel(usize::MAX);
    let reader = tokio::spawn(async move {
        let mut position = 0;
        while position < *totalled.borrow() {
            let byte = other.read(1).await[0];
            assert_eq!(
                char::from(byte),
                char::from(byte_at(position)),
                "at {position}"
            );
            position += 1;
            progress.send_replace(position);
        }
        other
    });
    let (socket_total, socket_totalled) = watch::channel(usize::MAX);
    let socket_reader = tokio::spawn(async move {
        let mut position = 0;
        while position < *socket_totalled.borrow() {
            socket
                .expect(char::from(byte_at(position)).encode_utf8(&mut [0; 4]))
                .await;
            position += 1;
        }
        socket
    });

    // Every other time at once; else as soon as something new has come.
    for cycle in 0..CYCLES {
        if cycle % 2 == 0 {
            let at = *read.borrow_and_update();
            soon("progress", read.wait_for(|now| *now > at))
                .await
                .unwrap();
        }
        guest.serves(Client::stop, &["STOP -> paused"]).await;
        guest.serves(Client::cont, &["RESUME -> running"]).await;
    }
    let before_last = *read.borrow();
    assert!(
        before_last >= CYCLES / 2,
        "the guest hardly wrote: {before_last}"
    );

    stop_writing.send_replace(true);
    let (sent, input) = soon("the writer", writer).await.unwrap();
    // A marker, so that both readers see the end even if they wait for it already.
    input.send(&[byte_at(sent)]).await.unwrap();
    total.send_replace(sent + 1);
    socket_total.send_replace(sent + 1);
    // Each byte has its deadline: a guest that is slow is not one that hangs.
    let mut other = reader.await.unwrap();
    let mut socket = socket_reader.await.unwrap();
    // And nothing more: a later letter is what follows.
    guest.send("!").await;
    other.expect("!").await;
    socket.expect("!").await;
    // The first reader has read nothing all the time, and finds it all, if it is still kept.
    let all: Vec<_> = (0..=sent).map(byte_at).chain([b'!']).collect();
    assert!(all.len() < vmm::devices::console::OUTPUT_KEPT);
    assert_eq!(guest.console.read(all.len()).await, all);
    guest.is("running").await;
}
