//! Linux's own driver for consoles with several ports.

use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::UnixStream,
};
use vmctl::{Client, v1};
use vmd_tests::{LINUX_DEADLINE, LinuxHost, within};

use crate::{HOST_RESET, disk::shell};

/// The next line that a client gets.
async fn line(client: &mut BufReader<UnixStream>) -> String {
    let mut line = String::new();
    let read = client.read_line(&mut line);
    within(LINUX_DEADLINE, "a line", read).await.unwrap();
    line.trim_end().to_owned()
}

#[tokio::test]
#[cfg_attr(no_kvm, ignore = "needs /dev/kvm")]
async fn ports_have_names_and_carry_data_both_ways() {
    let host = LinuxHost::start().await;
    let port = |name: &str, console| v1::ConsolePort {
        name: name.to_owned(),
        path: host.daemon.path(name).to_str().unwrap().to_owned(),
        console,
    };
    let connect = async |name: &str| {
        let client = UnixStream::connect(host.daemon.path(name)).await;
        BufReader::new(client.unwrap())
    };
    let definition = v1::VmDefinition {
        initrd: host.files().initramfs_busybox.to_str().unwrap().to_owned(),
        cmdline: "console=ttyS0 quiet".to_owned(),
        console_ports: vec![
            port("org.one", false),
            port("tty", true),
            port("two", false),
        ],
        ..host.definition("")
    };
    let mut guest = host.boot("a", definition).await;
    guest.console.says("GUEST-UP").await;
    let names = "cat /sys/class/virtio-ports/*/name | tr '\\n' ' '; echo";
    shell(&mut guest, names, "org.one tty two").await;

    // A port answers while the other one is there, too.
    let (mut one, mut two) = (connect("org.one").await, connect("two").await);
    // A port is opened once: for both directions.
    for number in ["0", "2"] {
        let serve = format!(
            "(exec 3<>/dev/vport0p{number}; while read -r line <&3; do echo {number}:$line >&3; done) & echo SERVED"
        );
        shell(&mut guest, &serve, "SERVED").await;
    }
    one.write_all(b"first\n").await.unwrap();
    two.write_all(b"second\n").await.unwrap();
    assert_eq!(line(&mut one).await, "0:first");
    assert_eq!(line(&mut two).await, "2:second");
    // The next client goes on where the first one ended.
    drop(one);
    let mut one = connect("org.one").await;
    one.write_all(b"third\n").await.unwrap();
    assert_eq!(line(&mut one).await, "0:third");

    // The terminal, with a reader and a writer.
    let mut tty = connect("tty").await;
    let say = "(echo typed; read -r key; echo got:$key) </dev/hvc0 >/dev/hvc0 & echo SAID";
    shell(&mut guest, say, "SAID").await;
    assert_eq!(line(&mut tty).await, "typed");
    tty.write_all(b"key\n").await.unwrap();
    let mut answer = line(&mut tty).await;
    while answer != "got:key" {
        // What is typed is echoed.
        answer = line(&mut tty).await;
    }
    // The clients stay, and the guest that starts anew finds them.
    guest.serves(Client::system_reset, &[HOST_RESET]).await;
    guest.console.says("GUEST-UP").await;
    shell(
        &mut guest,
        "echo again > /dev/vport0p2; echo WROTE $?",
        "WROTE 0",
    )
    .await;
    assert_eq!(line(&mut two).await, "again");
}
