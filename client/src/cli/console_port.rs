//! A port of the console device as typed on the command line: `name=NAME,path=PATH[,console]`.

use super::values::{absolute_path, split};
use crate::v1::ConsolePort;

/// Reads a port. A comma that belongs to a path is written twice.
pub(super) fn read(text: &str) -> Result<ConsolePort, String> {
    let mut port = ConsolePort::default();
    for word in split(text) {
        match word.split_once('=') {
            None if word == "console" => port.console = true,
            Some(("name", name)) => name.clone_into(&mut port.name),
            Some(("path", path)) => port.path = absolute_path(path)?,
            _ => {
                return Err(format!(
                    "'{word}' is none of name=NAME, path=PATH and console"
                ));
            }
        }
    }
    if port.name.is_empty() || port.path.is_empty() {
        return Err(
            "expected name=NAME,path=PATH, for example name=org.agent,path=agent.sock".to_owned(),
        );
    }
    Ok(port)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_a_name_and_a_path() {
        let port = |console| ConsolePort {
            name: "org.x".to_owned(),
            path: "/a,b".to_owned(),
            console,
        };
        assert_eq!(read("name=org.x,path=/a,,b"), Ok(port(false)));
        assert_eq!(read("console,path=/a,,b,name=org.x"), Ok(port(true)));
        for (text, problem) in [
            ("", "'' is none of"),
            ("x", "'x' is none of"),
            ("name=x", "expected name=NAME"),
            ("path=/x", "expected name=NAME"),
            ("name=,path=/x", "expected name=NAME"),
            ("name=x,path=/x,console=on", "'console=on' is none of"),
        ] {
            let error = read(text).unwrap_err();
            assert!(error.starts_with(problem), "{text}: {error}");
        }
    }
}
