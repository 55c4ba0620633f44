//! The lines of the human monitor that tools use through `human-monitor-command`.

use vmm::runstate::{Command, RunState};

use super::{commands::run, message::QmpError, session::Machine};

/// Carries a line out; the answer is what the monitor prints, lines ended by CR LF as QEMU's are.
pub(super) async fn execute(machine: &Machine, line: &str) -> Result<String, QmpError> {
    let words: Vec<&str> = line.split_whitespace().collect();
    match words.as_slice() {
        ["info", "status"] => {
            let state = machine.vm.status().state;
            Ok(match state {
                RunState::Running => "VM status: running\r\n".to_owned(),
                RunState::Paused => "VM status: paused\r\n".to_owned(),
                other => format!("VM status: paused ({other})\r\n"),
            })
        }
        ["o", rest @ ..] => match port_write(rest) {
            Ok(command) => run(machine, command).await.map(|()| String::new()),
            Err(text) => Ok(format!("{text}\r\n")),
        },
        // As QEMU: the name is what could not be found, in the output rather than as an error.
        [first, ..] => Ok(format!("unknown command: '{first}'\r\n")),
        [] => Ok(String::new()),
    }
}

/// `o /b|/w|/l PORT VALUE`.
fn port_write(words: &[&str]) -> Result<Command, String> {
    let (size, words) = match words {
        ["/b", rest @ ..] => (1, rest),
        ["/w", rest @ ..] => (2, rest),
        ["/l", rest @ ..] => (4, rest),
        [format, ..] if format.starts_with('/') => {
            return Err(format!("invalid char in format: '{format}'"));
        }
        rest => (4, rest),
    };
    let [port, value] = words else {
        return Err("o: o /b|/w|/l PORT VALUE".to_owned());
    };
    let number = |text: &str| number(text).ok_or_else(|| format!("invalid number '{text}'"));
    // As QEMU: what does not fit is cut off.
    Ok(Command::PortWrite {
        port: number(port)? as u16,
        value: number(value)? as u32,
        size,
    })
}

/// Decimal, or hexadecimal with `0x`.
fn number(text: &str) -> Option<u64> {
    match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        Some(digits) => u64::from_str_radix(digits, 16).ok(),
        None => text.parse().ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn port_writes_have_a_size_a_port_and_a_value() {
        let parse = |line: &str| port_write(&line.split_whitespace().collect::<Vec<_>>());
        let write = |port, value, size| Ok(Command::PortWrite { port, value, size });
        assert_eq!(parse("/w 0x604 0x2400"), write(0x604, 0x2400, 2));
        assert_eq!(parse("/b 1285 1"), write(0x505, 1, 1));
        assert_eq!(parse("/l 0x600 0x1ffffffff"), write(0x600, 0xffff_ffff, 4));
        for bad in ["", "/b 1", "/x 1 2", "/b z 1", "/b 1 2 3"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
