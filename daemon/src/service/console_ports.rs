//! What the ports of a console device of a request must look like.

use tonic::Status as Refusal;
use vmd_proto::v1;
use vmm::devices::virtio::console::{NAME_MAX, PORTS_MAX};

use super::{check::path, errors::invalid_field};
use crate::vm::ConsolePort;

/// The ports of a definition.
pub(super) fn console_ports(asked: Vec<v1::ConsolePort>) -> Result<Vec<ConsolePort>, Refusal> {
    if asked.len() > PORTS_MAX {
        let problem = format!("a console device has at most {PORTS_MAX} ports");
        return Err(invalid_field("definition.console_ports", &problem));
    }
    let mut ports: Vec<ConsolePort> = Vec::new();
    for (index, asked) in asked.into_iter().enumerate() {
        let field = |name: &str| format!("definition.console_ports[{index}].{name}");
        let v1::ConsolePort {
            name,
            path: socket,
            console,
        } = asked;
        let is_known = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        if name.is_empty() || name.len() > NAME_MAX || !name.bytes().all(is_known) {
            let problem = format!(
                "a port's name has 1 to {NAME_MAX} of the characters a-z, A-Z, 0-9, '.', '_' and '-'"
            );
            return Err(invalid_field(&field("name"), &problem));
        }
        if ports.iter().any(|port| port.name == name) {
            let problem = format!("another port is called '{name}'");
            return Err(invalid_field(&field("name"), &problem));
        }
        let path = path(&field("path"), socket)?;
        let path = path
            .ok_or_else(|| invalid_field(&field("path"), "give the path of a socket to create"))?;
        ports.push(ConsolePort {
            name,
            path,
            is_console: console,
        });
    }
    Ok(ports)
}
