//! What a request must look like. Every refusal names the field.

use std::path::{Path, PathBuf};

use tonic::Status as Refusal;
use vmd_proto::v1;
use vmm::{
    machine::config::{check_memory, check_vcpus},
    runstate::{ActionChange, Actions},
};

use super::errors::invalid_field;
use crate::{Daemon, convert, vm::Definition};

const DEFAULT_MEMORY: u64 = 256 << 20;
const DEFAULT_VCPUS: u32 = 1;
/// Longest name, in characters.
const MAX_NAME: usize = 63;

/// A machine's name: `[a-z0-9]([-a-z0-9.]*[a-z0-9])?`.
pub(super) fn name(name: &str) -> Result<(), Refusal> {
    let end = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let inner = |byte: &u8| end(byte) || matches!(byte, b'-' | b'.');
    let bytes = name.as_bytes();
    let good = bytes.len() <= MAX_NAME
        && bytes.iter().all(inner)
        && bytes.first().is_some_and(end)
        && bytes.last().is_some_and(end);
    if good {
        return Ok(());
    }
    Err(invalid_field(
        "name",
        &format!(
            "a name has 1 to {MAX_NAME} of the characters a-z, 0-9, '-' and '.', and begins and ends with a letter or \
             a digit"
        ),
    ))
}

/// A definition, with the defaults put in.
pub(super) fn definition(
    daemon: &Daemon,
    definition: v1::VmDefinition,
) -> Result<Definition, Refusal> {
    let memory_bytes = definition.memory_bytes.unwrap_or(DEFAULT_MEMORY);
    check_memory(memory_bytes, daemon.host_memory)
        .map_err(|error| invalid_field("definition.memory_bytes", &error.to_string()))?;
    let vcpus = definition.vcpus.unwrap_or(DEFAULT_VCPUS);
    check_vcpus(vcpus, daemon.host.max_vcpus())
        .map_err(|error| invalid_field("definition.vcpus", &error.to_string()))?;
    let change = actions(
        "definition.actions",
        &definition.actions.unwrap_or_default(),
    )?;
    Ok(Definition {
        memory_bytes,
        vcpus,
        firmware: path("definition.firmware", definition.firmware)?,
        actions: Actions::default().with(change),
        serial_socket: path("definition.serial_socket", definition.serial_socket)?,
        qmp_socket: path("definition.qmp_socket", definition.qmp_socket)?,
    })
}

/// A change of actions, in the message `field`.
pub(super) fn actions(field: &str, actions: &v1::Actions) -> Result<ActionChange, Refusal> {
    convert::action_change(actions).map_err(|unknown| {
        invalid_field(
            &format!("{field}.{}", unknown.field),
            &format!(
                "Parameter '{}' does not accept value '{}'",
                unknown.field, unknown.value
            ),
        )
    })
}

/// A path on this host; `None` if it is empty. The daemon's working directory is nobody's business.
fn path(field: &str, path: String) -> Result<Option<PathBuf>, Refusal> {
    if path.is_empty() {
        return Ok(None);
    }
    if !Path::new(&path).is_absolute() || path.contains('\0') {
        return Err(invalid_field(
            field,
            &format!("'{path}' is not an absolute path"),
        ));
    }
    Ok(Some(path.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_host_names() {
        for good in ["a", "0", "vm-1", "web.example-2", &"x".repeat(63)] {
            assert!(name(good).is_ok(), "{good}");
        }
        for bad in [
            "",
            "-a",
            "a-",
            ".a",
            "a.",
            "A",
            "a/b",
            "a b",
            "ä",
            "a\0",
            "..",
            &"x".repeat(64),
            &"x".repeat(300),
        ] {
            let refusal = name(bad).unwrap_err();
            assert_eq!(refusal.code(), tonic::Code::InvalidArgument, "{bad}");
            assert!(refusal.message().starts_with("name: "), "{refusal}");
        }
    }

    #[test]
    fn paths_are_absolute() {
        assert_eq!(path("f", String::new()).unwrap(), None);
        assert_eq!(path("f", "/a/b".into()).unwrap(), Some("/a/b".into()));
        for bad in ["a/b", "./a", "/a\0b"] {
            assert!(
                path("f", bad.into())
                    .unwrap_err()
                    .message()
                    .starts_with("f: ")
            );
        }
    }
}
