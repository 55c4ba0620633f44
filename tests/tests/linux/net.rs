//! Linux's own driver, with vmd's network card: over tap interfaces in a network namespace, which the daemon runs in, and
//! over passt.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::TcpListener,
    path::Path,
    process::{Child, Stdio},
    sync::mpsc,
    thread,
};

use vmctl::{
    Client,
    v1::{self, device_add_request::Device},
};
use vmd_tests::{DEADLINE, Guest, LinuxHost, NetNs, in_thread, soon};

use crate::{RESUME, STOP, disk::shell};

/// Bytes of a transfer.
const SIZE: usize = 1 << 20;

fn tap(name: &str) -> v1::Net {
    v1::Net {
        backend: Some(v1::net::Backend::Tap(name.to_owned())),
        ..Default::default()
    }
}

/// A machine with this card, whose guest has a shell.
fn with_card(host: &LinuxHost, net: v1::Net) -> v1::VmDefinition {
    v1::VmDefinition {
        initrd: host.files().initramfs_busybox.to_str().unwrap().to_owned(),
        cmdline: "console=ttyS0 quiet".to_owned(),
        nets: vec![net],
        ..host.definition("")
    }
}

/// Its guest, up to its shell.
async fn boot(host: &LinuxHost, definition: v1::VmDefinition) -> Guest {
    let mut guest = host.boot("a", definition).await;
    guest.console.says("GUEST-UP").await;
    guest
}

/// Has the guest do something that must succeed.
async fn does(guest: &mut Guest, command: &str) {
    let command = format!("{command}; echo DONE $?");
    assert_eq!(shell(guest, &command, "DONE").await, "DONE 0", "{command}");
}

/// It has this address, and 10.0.0.1 for its gateway.
async fn set_up(guest: &mut Guest) {
    let command = "ip link set eth0 up && ip addr add 10.0.0.2/24 dev eth0 && \
                   ip route add default via 10.0.0.1";
    does(guest, command).await;
}

/// Has the guest take bytes from a connection into its file `data`; them.
async fn there(guest: &mut Guest, address: &str, listen: impl Fn() -> TcpListener) -> Vec<u8> {
    let sent: Vec<u8> = (0..SIZE as u32)
        .map(|at| (at.wrapping_mul(2_654_435_761) >> 13) as u8)
        .collect();
    let first = listen();
    let port = |listener: &TcpListener| listener.local_addr().unwrap().port();
    let to = port(&first);
    let there = {
        let sent = sent.clone();
        in_thread(move || first.accept()?.0.write_all(&sent))
    };
    // Its input does not end: it would close its direction before the other has begun.
    let command = format!("mkfifo open && nc {address} {to} <> open > data");
    let (there, ()) = tokio::join!(there, does(guest, &command));
    there.unwrap();
    shell(guest, "wc -c < data", &SIZE.to_string()).await;
    sent
}

/// The same, and what came is sent back by another connection.
async fn there_and_back(guest: &mut Guest, address: &str, listen: impl Fn() -> TcpListener) {
    let sent = there(guest, address, &listen).await;
    let second = listen();
    let from = second.local_addr().unwrap().port();
    let back = in_thread(move || {
        let mut bytes = vec![0; SIZE];
        second.accept()?.0.read_exact(&mut bytes)?;
        Ok::<_, std::io::Error>(bytes)
    });
    // Nor does this input end before the connection does.
    let command = format!(
        "( cat data; read end < open ) | ( nc {address} {from} > /dev/null; echo end > open )"
    );
    let (back, ()) = tokio::join!(back, does(guest, &command));
    assert!(back.unwrap() == sent, "{SIZE} bytes there and back");
}

async fn carrier(guest: &mut Guest, value: u8) {
    let wait =
        format!("until [ $(cat /sys/class/net/eth0/carrier) = {value} ]; do sleep 0.1; done");
    does(guest, &wait).await;
}

#[tokio::test]
#[cfg_attr(no_kvm, ignore = "needs /dev/kvm")]
async fn a_tap_takes_frames_both_ways() {
    let Some(namespace) = NetNs::new() else {
        return;
    };
    namespace.run("ip tuntap add dev tap0 mode tap");
    namespace.run("ip addr add 10.0.0.1/24 dev tap0");
    namespace.run("ip link set tap0 up");
    let host = LinuxHost::start_in(&namespace).await;
    let net = v1::Net {
        mac: "52:54:00:12:34:56".to_owned(),
        mtu: Some(1400),
        ..tap("tap0")
    };
    let mut guest = boot(&host, with_card(&host, net)).await;
    let command = "cat /sys/class/net/eth0/address /sys/class/net/eth0/mtu | tr '\\n' ' '; echo";
    shell(&mut guest, command, "52:54:00:12:34:56 1400").await;
    set_up(&mut guest).await;
    does(&mut guest, "ping -c 3 10.0.0.1 > /dev/null").await;
    namespace.run("busybox ping -c 3 10.0.0.2");
    there_and_back(&mut guest, "10.0.0.1", || namespace.listen("10.0.0.1")).await;

    // While it is stopped frames wait; then they are answered.
    guest.serves(Client::stop, &[STOP]).await;
    let mut ping = namespace.command("busybox");
    ping.args(["ping", "-c", "1", "-W", "200", "10.0.0.2"]);
    let ping = in_thread(move || ping.stdout(Stdio::null()).status());
    guest.serves(Client::cont, &[RESUME]).await;
    assert!(ping.await.unwrap().success());

    let answered = "ping -c 1 -W 2 10.0.0.1 > /dev/null";
    set_link(&mut guest, false).await;
    does(&mut guest, &format!("! {answered}")).await;
    set_link(&mut guest, true).await;
    // The guest may send the first before it sees the link.
    let comes_back = "until ping -c 1 -W 2 10.0.0.1 > /dev/null; do :; done";
    does(&mut guest, comes_back).await;
}

#[tokio::test]
#[cfg_attr(no_kvm, ignore = "needs /dev/kvm")]
async fn cards_on_a_bus_have_queues_for_each_vcpu_and_come_and_go() {
    let Some(namespace) = NetNs::new() else {
        return;
    };
    namespace.run("ip tuntap add dev tap0 mode tap multi_queue");
    namespace.run("ip addr add 10.0.0.1/24 dev tap0");
    namespace.run("ip link set tap0 up");
    namespace.run("ip tuntap add dev tap1 mode tap");
    let host = LinuxHost::start_in(&namespace).await;
    let net = v1::Net {
        queues: Some(2),
        ..tap("tap0")
    };
    let definition = v1::VmDefinition {
        vcpus: Some(2),
        virtio_transport: v1::VirtioTransport::Pci.into(),
        ..with_card(&host, net)
    };
    let mut guest = host.boot("a", definition).await;
    guest.console.says("GUEST-UP").await;
    let queues = "ls /sys/class/net/eth0/queues | tr '\\n' ' '; echo";
    shell(&mut guest, queues, "rx-0 rx-1 tx-0 tx-1").await;
    set_up(&mut guest).await;
    there_and_back(&mut guest, "10.0.0.1", || namespace.listen("10.0.0.1")).await;
    namespace.run("busybox ping -c 3 10.0.0.2");

    let client = guest.client.clone();
    for _ in 0..2 {
        let add = client.device_add("a", Device::Net(tap("tap1")));
        assert_eq!(soon("add", add).await.unwrap().device, "n1");
        let appears = "until [ -d /sys/class/net/eth1 ]; do sleep 0.1; done; echo THERE";
        shell(&mut guest, appears, "THERE").await;
        let remove = client.device_del("a", "n1");
        soon("remove", remove).await.unwrap();
        let deleted = "DEVICE_DELETED device=n1 path=/machine/peripheral/n1 -> running";
        guest.events.expect(&[deleted]).await;
        does(&mut guest, "[ ! -d /sys/class/net/eth1 ]").await;
        // The tap is free again: for the next turn.
    }
}

/// Takes the link up or down, which is no event.
async fn set_link(guest: &mut Guest, up: bool) {
    let set = async |client: &Client, name: &str| client.set_link(name, "n0", up).await;
    guest.serves(set, &[]).await;
    carrier(guest, up.into()).await;
}

/// passt, in the foreground, until this is dropped.
struct Passt(Child);

impl Passt {
    /// Starts one that listens at `socket`.
    async fn start(namespace: &NetNs, socket: &Path) -> Self {
        let mut passt = namespace.command("passt");
        passt
            .args(["--foreground", "--one-off", "--runas", "0", "--socket"])
            .arg(socket);
        let child = passt.stdin(Stdio::null()).stderr(Stdio::piped()).spawn();
        let mut passt = Self(child.unwrap());
        let said = passt.0.stderr.take().unwrap();
        // It says when it listens.
        let (listening, heard) = mpsc::channel();
        thread::spawn(move || {
            for line in BufReader::new(said).lines().map_while(Result::ok) {
                let _ = listening.send(line);
            }
        });
        let listens = in_thread(move || {
            let mut said = Vec::new();
            while let Ok(line) = heard.recv_timeout(DEADLINE) {
                if line.contains("socket bound at") {
                    return Ok(());
                }
                said.push(line);
            }
            Err(said)
        });
        if let Err(said) = listens.await {
            panic!("passt does not listen: {said:?}");
        }
        passt
    }
}

/// A user's network: passt's own end of it is in a namespace with a default route, and the gateway's address leads to it.
#[tokio::test]
#[cfg_attr(no_kvm, ignore = "needs /dev/kvm")]
async fn passt_takes_connections() {
    let Some(namespace) = NetNs::new() else {
        return;
    };
    namespace.run("ip link add up0 type veth peer name up1");
    namespace.run("ip addr add 10.0.0.2/24 dev up0");
    namespace.run("ip link set up0 up");
    namespace.run("ip link set up1 up");
    namespace.run("ip route add default via 10.0.0.1");
    let host = LinuxHost::start().await;
    let socket = host.daemon.path("passt.sock");
    let passt = Passt::start(&namespace, &socket).await;
    let net = v1::Net {
        backend: Some(v1::net::Backend::Passt(socket.to_str().unwrap().to_owned())),
        // The longest that passt takes.
        mtu: Some(65520),
        ..Default::default()
    };
    let mut guest = boot(&host, with_card(&host, net)).await;
    set_up(&mut guest).await;
    there(&mut guest, "10.0.0.1", || namespace.listen("127.0.0.1")).await;
    // It goes away: so does the link.
    carrier(&mut guest, 1).await;
    drop(passt);
    carrier(&mut guest, 0).await;
    guest.is("running").await;
}

impl Drop for Passt {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
