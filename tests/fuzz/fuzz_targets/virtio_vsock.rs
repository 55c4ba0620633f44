//! Queues of the socket device, as any driver may use them, with programs of the host's at both ends.
#![no_main]

mod driver;

use std::{
    io::{Read, Write},
    os::{
        linux::net::SocketAddrExt,
        unix::net::{SocketAddr, UnixListener, UnixStream},
    },
    path::PathBuf,
    sync::{Arc, LazyLock},
};

use libfuzzer_sys::fuzz_target;
use vmm::devices::virtio::vsock::{Vsock, VsockConfig};

/// Sockets without files.
fn name(suffix: &str) -> String {
    format!("vmd-fuzz-{}{suffix}", std::process::id())
}

fn address(suffix: &str) -> SocketAddr {
    SocketAddr::from_abstract_name(name(suffix)).unwrap()
}

fn listen(suffix: &str) -> UnixListener {
    let listener = UnixListener::bind_addr(&address(suffix)).unwrap();
    listener.set_nonblocking(true).unwrap();
    listener
}

/// Where the guest's calls to port 1 end.
static CALLED: LazyLock<UnixListener> = LazyLock::new(|| listen("_1"));
/// For the device, and for this.
static LISTENER: LazyLock<(Arc<tokio::net::UnixListener>, UnixListener)> = LazyLock::new(|| {
    let _in_runtime = driver::RUNTIME.enter();
    let listener = listen("");
    let same = listener.try_clone().unwrap();
    let listener = tokio::net::UnixListener::from_std(listener).unwrap();
    (Arc::new(listener), same)
});

fuzz_target!(|input: &[u8]| {
    let (listener, same) = &*LISTENER;
    driver::forget_waiting(same);
    driver::forget_waiting(&CALLED);
    let device = Box::new(Vsock::new(VsockConfig {
        cid: 3,
        listener: listener.clone(),
        path: PathBuf::from(format!("\0{}", name(""))),
        resolve: Default::default(),
    }));
    let mut programs: Vec<UnixStream> = Vec::new();
    driver::drive(device, 0, input, |what| match what % 4 {
        0 => {
            let mut program = UnixStream::connect_addr(&address("")).unwrap();
            program.set_nonblocking(true).unwrap();
            let _ = program.write(b"CONNECT 1\n");
            programs.push(program);
            programs.truncate(8);
        }
        1 => {
            if let Ok((program, _)) = CALLED.accept() {
                program.set_nonblocking(true).unwrap();
                programs.push(program);
                programs.truncate(8);
            }
        }
        2 => {
            for program in &mut programs {
                let _ = program.write(&[7; 300]);
                let _ = program.read(&mut [0; 4096]);
            }
        }
        _ => drop(programs.pop()),
    });
});
