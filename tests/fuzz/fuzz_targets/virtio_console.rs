//! Queues of the console with two ports, as any driver may use them, with clients that come and go.
#![no_main]

mod driver;

use std::{
    io::{Read, Write},
    os::{
        linux::net::SocketAddrExt,
        unix::net::{SocketAddr, UnixListener, UnixStream},
    },
    sync::{Arc, LazyLock},
};

use libfuzzer_sys::fuzz_target;
use vmm::devices::virtio::console::{Console, PortConfig};

/// Several ports.
const FEATURES: u32 = 1 << 1;

/// Sockets without files.
fn address(port: usize) -> SocketAddr {
    let name = format!("vmd-fuzz-{}-{port}", std::process::id());
    SocketAddr::from_abstract_name(name).unwrap()
}

/// Of each port, for the device and for this.
static LISTENERS: LazyLock<[(Arc<tokio::net::UnixListener>, UnixListener); 2]> =
    LazyLock::new(|| {
        let _in_runtime = driver::RUNTIME.enter();
        [0, 1].map(|port| {
            let listener = UnixListener::bind_addr(&address(port)).unwrap();
            listener.set_nonblocking(true).unwrap();
            let same = listener.try_clone().unwrap();
            let listener = tokio::net::UnixListener::from_std(listener).unwrap();
            (Arc::new(listener), same)
        })
    });

fuzz_target!(|input: &[u8]| {
    let ports = LISTENERS.iter().zip(["data", "terminal"]);
    let ports = ports.map(|((listener, same), name)| {
        driver::forget_waiting(same);
        PortConfig {
            name: name.to_owned(),
            is_console: name == "terminal",
            listener: listener.clone(),
        }
    });
    let device = Box::new(Console::new(ports.collect()));
    let mut clients: Vec<UnixStream> = Vec::new();
    driver::drive(device, FEATURES, input, |what| match what % 4 {
        port @ (0 | 1) => {
            let client = UnixStream::connect_addr(&address(port.into())).unwrap();
            client.set_nonblocking(true).unwrap();
            clients.push(client);
            clients.truncate(4);
        }
        2 => {
            for client in &mut clients {
                let _ = client.write(&[7; 300]);
                let _ = client.read(&mut [0; 4096]);
            }
        }
        _ => drop(clients.pop()),
    });
});
