//! What can be wrong with devices that have sockets, and with a balloon.

use std::path::Path;

use vmctl::v1;

use super::{Mistake, definition};

/// Every mistake that one can make with them; `directory` has a file called `file`.
pub(crate) fn mistakes(directory: &Path) -> Vec<Mistake> {
    let path = |name: &str| directory.join(name).to_str().unwrap().to_owned();
    let vsock = |what, reason, field, says, cid, path| {
        definition(what, reason, field, says, |d| {
            d.vsock = Some(v1::Vsock { cid, path });
        })
    };
    let (cid, socket) = ("definition.vsock.cid", "definition.vsock.path");
    let (invalid, unusable) = ("INVALID_FIELD", "SOCKET_UNUSABLE");
    let mut rows = Vec::new();
    for number in [0, 1, 2, u32::MAX] {
        let says = "is 3 to 4294967294";
        rows.push(vsock("CID", invalid, cid, says, number, path("vsock")));
    }
    let relative = "not an absolute path";
    rows.extend([
        vsock(
            "no vsock path",
            invalid,
            socket,
            "give the path",
            3,
            String::new(),
        ),
        vsock(
            "relative vsock",
            invalid,
            socket,
            relative,
            3,
            "vsock".into(),
        ),
        vsock(
            "vsock on a file",
            unusable,
            socket,
            "in use",
            3,
            path("file"),
        ),
        vsock(
            "vsock in no directory",
            unusable,
            socket,
            "No such file",
            3,
            path("no/vsock"),
        ),
        vsock(
            "long vsock",
            unusable,
            socket,
            "too long",
            3,
            path(&"x".repeat(120)),
        ),
    ]);
    let good = || v1::ConsolePort {
        name: "good".to_owned(),
        path: path("port"),
        console: false,
    };
    let port = |what, reason, field, says, change: &dyn Fn(&mut v1::ConsolePort)| {
        let mut other = v1::ConsolePort {
            name: "other".to_owned(),
            ..good()
        };
        change(&mut other);
        let ports = vec![good(), other];
        definition(what, reason, field, says, |d| d.console_ports = ports)
    };
    let (name, socket) = (
        "definition.console_ports[1].name",
        "definition.console_ports[1].path",
    );
    for bad in ["", "a b", "a/b", "\u{7}", "\u{e9}", &"x".repeat(64)] {
        let bad = bad.to_owned();
        let says = "a port's name has 1 to 63";
        let change = move |port: &mut v1::ConsolePort| port.name.clone_from(&bad);
        rows.push(port("port name", invalid, name, says, &change));
    }
    rows.extend([
        port("port name twice", invalid, name, "another port", &|port| {
            port.name = "good".to_owned();
        }),
        port("no port path", invalid, socket, "give the path", &|port| {
            port.path.clear();
        }),
        port("relative port", invalid, socket, relative, &|port| {
            port.path = "port".to_owned();
        }),
        port("port on a file", unusable, socket, "in use", &|port| {
            port.path = path("file");
        }),
        port("port on a port", unusable, socket, "in use", &|_| {}),
    ]);
    let many = |index: usize| v1::ConsolePort {
        name: format!("port{index}"),
        path: path(&format!("port{index}")),
        console: true,
    };
    let (field, says) = ("definition.console_ports", "at most 8 ports");
    rows.push(definition("ports", invalid, field, says, |d| {
        d.console_ports = (0..9).map(many).collect();
    }));
    let size = "definition.balloon.size_bytes";
    for (bytes, says) in [(0, "give its size"), (1 << 40, "has only 1048576 bytes")] {
        rows.push(definition("balloon", invalid, size, says, |d| {
            d.balloon = Some(v1::BalloonDevice {
                size_bytes: Some(bytes),
                ..Default::default()
            });
        }));
    }
    rows
}
