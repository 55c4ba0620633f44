//! The lines of the human monitor that tools use through `human-monitor-command`.

use vmm::runstate::{Command, RunState};

use super::{commands::run, expression::Rest, message::QmpError, session::Machine};

/// Carries a line out; the answer is what the monitor prints, lines ended by CR LF as QEMU's are. What is wrong with a
/// line is printed, too, rather than an error.
pub(super) async fn execute(machine: &Machine, line: &str) -> Result<String, QmpError> {
    let (command, arguments) = command_of(line);
    match command {
        "" => Ok(String::new()),
        "info" => Ok(info(arguments, machine.vm.status().state)),
        "o" => match port_write(arguments) {
            Ok(command) => run(machine, command).await.map(|()| String::new()),
            Err(what) => Ok(misused(&what, "o")),
        },
        other => Ok(unknown(other)),
    }
}

/// The word that a line or the rest of one begins with, up to a format if that follows at once; and what comes after.
fn command_of(line: &str) -> (&str, &str) {
    let line = line.trim_ascii_start();
    let end = line.find(|c: char| c == '/' || c.is_ascii_whitespace());
    line.split_at_checked(end.unwrap_or(line.len()))
        .unwrap_or_default()
}

fn unknown(command: &str) -> String {
    format!("unknown command: '{command}'\r\n")
}

fn misused(what: &str, command: &str) -> String {
    format!("{what}\r\nTry \"help {command}\" for more information\r\n")
}

fn info(arguments: &str, state: RunState) -> String {
    let (what, rest) = command_of(arguments);
    match what {
        "status" if !rest.trim_ascii().is_empty() => misused(
            "status: extraneous characters at the end of line",
            "info status",
        ),
        "status" => match state {
            RunState::Running => "VM status: running\r\n".to_owned(),
            RunState::Paused => "VM status: paused\r\n".to_owned(),
            other => format!("VM status: paused ({other})\r\n"),
        },
        "" => "info status  -- show the current VM status (running|paused)\r\n".to_owned(),
        other => unknown(&format!("info {other}")),
    }
}

/// `o [/FORMAT] PORT VALUE`; the format's last size counts, which is `b` for a byte, `h` or `w` for two, `l` for four.
fn port_write(arguments: &str) -> Result<Command, String> {
    let mut size = 4;
    let mut arguments = arguments.trim_ascii_start();
    if let Some(rest) = arguments.strip_prefix('/') {
        let rest = rest.trim_start_matches(|c: char| c.is_ascii_digit());
        let format = rest.split(|c: char| c.is_ascii_whitespace()).next();
        let format = format.unwrap_or_default();
        for letter in format.chars() {
            match letter {
                'b' => size = 1,
                'h' | 'w' => size = 2,
                'l' => size = 4,
                // How it would be shown.
                'o' | 'd' | 'u' | 'x' | 'i' | 'c' => {}
                other => return Err(format!("invalid char in format: '{other}'")),
            }
        }
        arguments = rest.get(format.len()..).unwrap_or_default();
    }
    let mut rest = Rest::new(arguments);
    let mut number = || match u32::try_from(rest.number()?) {
        Ok(number) => Ok(number),
        Err(_) => Err("'o' has failed: integer is for 32-bit values".to_owned()),
    };
    let (port, value) = (number()?, number()?);
    if !rest.text.is_empty() {
        return Err("o: extraneous characters at the end of line".to_owned());
    }
    // As QEMU: what does not fit is cut off.
    Ok(Command::PortWrite {
        port: port as u16,
        value,
        size,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn port_writes_have_a_size_a_port_and_a_value() {
        let write = |port, value, size| Ok(Command::PortWrite { port, value, size });
        for (arguments, expected) in [
            (" /w 0x604 0x2400", write(0x604, 0x2400, 2)),
            (" /b 1285 1", write(0x505, 1, 1)),
            ("/b 1285 1 ", write(0x505, 1, 1)),
            (" /l 0x600 0xffffffff", write(0x600, 0xffff_ffff, 4)),
            (" 0x600 1", write(0x600, 1, 4)),
            (" / 0x600 1", write(0x600, 1, 4)),
            ("\t/2xh\t0x600+4\t(1+2)*3", write(0x604, 9, 2)),
            (" /b 0x10604 1", write(0x604, 1, 1)),
        ] {
            assert_eq!(port_write(arguments), expected, "{arguments}");
        }
    }

    #[test]
    fn what_is_wrong_with_a_port_write_is_said_as_qemu_does() {
        for (arguments, what) in [
            ("", "unexpected end of expression"),
            (" /b", "unexpected end of expression"),
            (" /b 1", "unexpected end of expression"),
            (" /b 0x80 -1", "unexpected end of expression"),
            (" /b z 1", "invalid char 'z' in expression"),
            (" /q 1 2", "invalid char in format: 'q'"),
            (" /b0x80 1", "invalid char in format: '0'"),
            (" /b 1 2 3", "o: extraneous characters at the end of line"),
            (" /b 1 2;", "o: extraneous characters at the end of line"),
            (
                " /b 0x100000080 1",
                "'o' has failed: integer is for 32-bit values",
            ),
            (" /b 1 ~1", "'o' has failed: integer is for 32-bit values"),
        ] {
            assert_eq!(port_write(arguments), Err(what.to_owned()), "{arguments}");
        }
    }

    #[test]
    fn a_command_ends_at_space_or_its_format() {
        for (line, parts) in [
            ("", ("", "")),
            (" info\tstatus", ("info", "\tstatus")),
            ("o/b 1 2", ("o", "/b 1 2")),
            ("nope x", ("nope", " x")),
        ] {
            assert_eq!(command_of(line), parts, "{line}");
        }
    }

    #[test]
    fn info_has_the_status_and_no_more() {
        let info = |arguments| info(arguments, RunState::Suspended);
        assert_eq!(info(" status \n"), "VM status: paused (suspended)\r\n");
        assert_eq!(
            info(" status x"),
            "status: extraneous characters at the end of line\r\n\
             Try \"help info status\" for more information\r\n"
        );
        assert_eq!(info(" nope"), "unknown command: 'info nope'\r\n");
        assert!(info("").starts_with("info status "));
    }
}
