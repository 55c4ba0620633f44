//! Linux's own driver for sockets between guest and host.

use std::path::Path;

use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{
        UnixListener, UnixStream,
        unix::{OwnedReadHalf, OwnedWriteHalf},
    },
};
use vmctl::{Client, v1};
use vmd_tests::{LINUX_DEADLINE, LinuxHost, within};

use crate::{HOST_RESET, RESUME, STOP};

/// More than a guest is told that there is room for, and than it has room for itself.
const LENGTH: usize = 300_000;

#[tokio::test]
#[cfg_attr(no_kvm, ignore = "needs /dev/kvm")]
async fn both_sides_call_and_are_answered() {
    let host = LinuxHost::start().await;
    let path = host.daemon.path("vsock");
    let listener = UnixListener::bind(host.daemon.path("vsock_77")).unwrap();
    let definition = v1::VmDefinition {
        vsock: Some(v1::Vsock {
            cid: 52,
            path: path.to_str().unwrap().to_owned(),
        }),
        ..host.definition("vsockcall:78,vsockcall:77,vsockecho:1024,vsockecho:1025")
    };
    let mut guest = host.boot("a", definition).await;
    guest.console.says_all(&["GUEST-UP", "GUEST-ACT"]).await;
    // Nobody is there: ECONNRESET.
    guest.console.says("GUEST-FAILED vsockcall:78 -104").await;
    guest.console.says("GUEST-ACT").await;

    let (mut stream, _) = within(LINUX_DEADLINE, "a call", listener.accept())
        .await
        .unwrap();
    let mut got = Vec::new();
    let read = stream.read_to_end(&mut got);
    within(LINUX_DEADLINE, "all of it", read).await.unwrap();
    let right: Vec<u8> = (0..10_000).map(|at| (at % 251) as u8).collect();
    assert!(got == right, "{} bytes", got.len());
    stream.write_all(&got).await.unwrap();
    drop(stream);
    guest.console.says("GUEST-VSOCK-CALLED 10000").await;

    guest
        .console
        .says_all(&["GUEST-ACT", "GUEST-VSOCK-LISTENS 1024"])
        .await;
    let (mut reader, mut writer) = call(&path, 1024).await;
    // While the machine is stopped, data waits.
    writer.write_all(b"early").await.unwrap();
    guest.serves(Client::stop, &[STOP]).await;
    writer.write_all(b"late!").await.unwrap();
    guest.serves(Client::cont, &[RESUME]).await;
    let sent: Vec<u8> = (0..LENGTH).map(|at| (at / 3) as u8).collect();
    let send = async {
        writer.write_all(&sent).await.unwrap();
        writer.shutdown().await.unwrap();
    };
    let mut got = Vec::new();
    let both = async { tokio::join!(send, reader.read_to_end(&mut got)).1 };
    within(LINUX_DEADLINE, "the echo", both).await.unwrap();
    assert_eq!(got.len(), LENGTH + 10);
    assert!(got.starts_with(b"earlylate!") && got.ends_with(&sent));
    guest.console.says("GUEST-VSOCK-ECHOED 300010").await;

    // Nobody listens at that port; then a reset of the machine's ends a connection.
    guest
        .console
        .says_all(&["GUEST-ACT", "GUEST-VSOCK-LISTENS 1025"])
        .await;
    let mut stream = UnixStream::connect(&path).await.unwrap();
    stream.write_all(b"CONNECT 9\n").await.unwrap();
    let end = stream.read_to_end(&mut got);
    assert_eq!(within(LINUX_DEADLINE, "a refusal", end).await.unwrap(), 0);
    let (mut reader, _writer) = call(&path, 1025).await;
    guest.serves(Client::system_reset, &[HOST_RESET]).await;
    let end = reader.read_to_end(&mut got);
    assert_eq!(within(LINUX_DEADLINE, "the end", end).await.unwrap(), 0);
    // The guest that starts anew finds the device as it was at first.
    guest
        .console
        .says_all(&["GUEST-UP", "GUEST-ACT", "GUEST-FAILED", "GUEST-ACT"])
        .await;
    within(LINUX_DEADLINE, "a call", listener.accept())
        .await
        .unwrap();
}

/// Calls the guest's port.
async fn call(path: &Path, port: u32) -> (BufReader<OwnedReadHalf>, OwnedWriteHalf) {
    let mut stream = UnixStream::connect(path).await.unwrap();
    let hello = format!("CONNECT {port}\n");
    stream.write_all(hello.as_bytes()).await.unwrap();
    let (reader, writer) = stream.into_split();
    let mut reader = BufReader::new(reader);
    let mut line = String::new();
    let read = reader.read_line(&mut line);
    within(LINUX_DEADLINE, "the answer", read).await.unwrap();
    assert!(
        line.starts_with("OK 1073741") && line.ends_with('\n'),
        "{line}"
    );
    (reader, writer)
}
