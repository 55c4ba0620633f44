//! Readers of option values: text in, checked values out; an error is a usage error.

use std::{fmt, path::absolute, time::Duration};

use clap::builder::{PossibleValuesParser, TypedValueParser};

use crate::{
    Endpoint,
    names::{Spelled, event_names},
    size::number,
    v1::{CpuModel, CpuPin, RunState, VirtioTransport},
};

/// What `wait` waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Goal {
    /// A live machine in this state.
    State(RunState),
    /// A machine whose guest is gone.
    Ended,
}

impl fmt::Display for Goal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::State(state) => f.write_str(state.spelling().unwrap_or_default()),
            Self::Ended => f.write_str("ended"),
        }
    }
}

/// After which event to begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Since {
    /// This one.
    Seq(u64),
    /// The last one that was seen.
    Last,
}

/// Reads a [`Since`]: a number, or `last`.
pub(super) fn since(text: &str) -> Result<Since, String> {
    match text {
        "last" => Ok(Since::Last),
        _ => text
            .parse()
            .map(Since::Seq)
            .map_err(|_| "expected an event's number, or last".to_owned()),
    }
}

/// Reads a [`Goal`]: a run state's spelling, or `ended`.
pub(super) fn goal() -> impl TypedValueParser<Value = Goal> {
    let spellings = RunState::TABLE
        .iter()
        .map(|(_, text)| *text)
        .chain(["ended"]);
    PossibleValuesParser::new(spellings)
        .map(|text| RunState::from_spelling(&text).map_or(Goal::Ended, Goal::State))
}

/// Reads a CPU model by its spelling.
pub(super) fn cpu_model() -> impl TypedValueParser<Value = CpuModel> {
    PossibleValuesParser::new(CpuModel::TABLE.iter().map(|(_, text)| *text))
        .map(|text| CpuModel::from_spelling(&text).unwrap_or_default())
}

/// Reads a virtio transport by its spelling.
pub(super) fn virtio_transport() -> impl TypedValueParser<Value = VirtioTransport> {
    PossibleValuesParser::new(VirtioTransport::TABLE.iter().map(|(_, text)| *text))
        .map(|text| VirtioTransport::from_spelling(&text).unwrap_or_default())
}

/// Reads a label, `KEY=VALUE`. What keys and values may be is the daemon's to say.
pub(super) fn label(text: &str) -> Result<(String, String), String> {
    let pair = text.split_once('=').filter(|(key, _)| !key.is_empty());
    let (key, value) = pair.ok_or("expected KEY=VALUE, for example env=prod")?;
    Ok((key.to_owned(), value.to_owned()))
}

/// Reads a change of a label: `KEY=VALUE`, or `KEY-` to remove it.
pub(super) fn label_change(text: &str) -> Result<(String, Option<String>), String> {
    match text.strip_suffix('-') {
        Some(key) if !key.is_empty() && !key.contains('=') => Ok((key.to_owned(), None)),
        _ if text.contains('=') => label(text).map(|(key, value)| (key, Some(value))),
        _ => Err("expected KEY=VALUE to set a label, or KEY- to remove one".to_owned()),
    }
}

/// Reads the name of an event, in any case.
pub(super) fn event_kind(text: &str) -> Result<String, String> {
    let name = text.to_uppercase();
    if event_names().contains(&name) {
        return Ok(name);
    }
    Err(format!("the events are {}", event_names().join(", ")))
}

/// Most CPUs in a range: more than any host has.
const MAX_CPUS: u32 = 1 << 16;

/// Reads a pin: a vCPU, `=`, and host CPUs as a list of numbers and ranges, `0-3,6`.
pub(super) fn pin(text: &str) -> Result<CpuPin, String> {
    const EXPECTED: &str = "expected VCPU=CPUS, for example 0=0-3 or 1=1,3";
    let cpu = |text: &str| {
        let number = number(text).ok_or(EXPECTED)?;
        let number = number.and_then(|number| u32::try_from(number).ok());
        number.ok_or_else(|| format!("{text}: the number is too large"))
    };
    let (vcpu, cpus) = text.split_once('=').ok_or(EXPECTED)?;
    let vcpu = cpu(vcpu)?;
    let mut host_cpus = Vec::new();
    for range in cpus.split(',') {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (first, last) = (cpu(first)?, cpu(last)?);
        if first > last {
            return Err(format!("{range}: the range ends before it begins"));
        }
        if last - first >= MAX_CPUS {
            return Err(format!("{range}: the range is too long"));
        }
        host_cpus.extend(first..=last);
    }
    Ok(CpuPin { vcpu, host_cpus })
}

/// Reads a number of CPUs, such as 2, 0.5 or 1.25: in thousandths.
pub(super) fn cpus(text: &str) -> Result<u32, String> {
    const EXPECTED: &str =
        "expected a number of CPUs with at most three digits after the point, for example 0.5";
    let (whole, part) = text.split_once('.').unwrap_or((text, "0"));
    let digits = |text: &str| {
        number(text)
            .flatten()
            .and_then(|value| u32::try_from(value).ok())
    };
    if !(1..=3).contains(&part.len()) {
        return Err(EXPECTED.to_owned());
    }
    let part = digits(&format!("{part:0<3}")).ok_or(EXPECTED)?;
    let whole = digits(whole).and_then(|whole| whole.checked_mul(1000));
    let sum = whole.and_then(|whole| whole.checked_add(part));
    sum.ok_or_else(|| EXPECTED.to_owned())
}

/// Reads a time: `500ms`, `30s`, `2m`, `1h`.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    const EXPECTED: &str = "expected a number with ms, s, m or h, for example 30s";
    const TOO_LONG: &str = "the time is too long";
    let split = text.find(|c: char| !c.is_ascii_digit()).ok_or(EXPECTED)?;
    let (digits, unit) = text.split_at_checked(split).ok_or(EXPECTED)?;
    let count = number(digits).ok_or(EXPECTED)?.ok_or(TOO_LONG)?;
    let seconds = match unit {
        "ms" => return Ok(Duration::from_millis(count)),
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        _ => return Err(EXPECTED.to_owned()),
    };
    count
        .checked_mul(seconds)
        .map(Duration::from_secs)
        .ok_or_else(|| TOO_LONG.to_owned())
}

/// Reads a path and makes it absolute: the daemon works elsewhere.
pub(super) fn absolute_path(text: &str) -> Result<String, String> {
    let path = absolute(text).map_err(|error| error.to_string())?;
    path.into_os_string()
        .into_string()
        .map_err(|path| format!("{} is not UTF-8", path.display()))
}

/// Reads `unix:PATH` of a serial port and makes the path absolute.
pub(super) fn serial(text: &str) -> Result<String, String> {
    let Ok(Endpoint::Unix(path)) = text.parse() else {
        return Err("expected unix:PATH".to_owned());
    };
    let path = absolute_path(&path.to_string_lossy())?;
    Endpoint::unix(&path).map_err(|error| error.to_string())?;
    Ok(path)
}

/// Reads the path of a QMP socket, with or without `unix:`, and makes it absolute.
pub(super) fn qmp(text: &str) -> Result<String, String> {
    let path = text.strip_prefix("unix:").unwrap_or(text);
    serial(&format!("unix:{path}")).map_err(|_| "expected a path".to_owned())
}

/// The words between single commas, with double ones made single: as with QEMU, a comma that belongs to a value is
/// written twice.
pub(super) fn split(text: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut chars = text.chars().peekable();
    while let Some(char) = chars.next() {
        match words.last_mut() {
            Some(word) if char != ',' || chars.next_if_eq(&',').is_some() => word.push(char),
            _ => words.push(String::new()),
        }
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpus_have_thousandths() {
        for (text, millis) in [("2", 2000), ("0.5", 500), ("1.25", 1250), ("0.001", 1)] {
            assert_eq!(cpus(text), Ok(millis), "{text}");
        }
        for bad in [
            "", ".", "-1", "1.2345", "1,5", "x", "1.", ".5", "1.x", "5000000",
        ] {
            assert!(cpus(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn times_have_a_unit() {
        assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(duration("30s"), Ok(Duration::from_secs(30)));
        assert_eq!(duration("2m"), Ok(Duration::from_secs(120)));
        assert_eq!(duration("1h"), Ok(Duration::from_secs(3600)));
        assert_eq!(duration("0s"), Ok(Duration::ZERO));
        for bad in [
            "",
            "30",
            "s",
            "1.5s",
            "-1s",
            "1d",
            "1 s",
            "99999999999999999999s",
            "é",
        ] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn pins_are_a_vcpu_and_a_list_of_host_cpus() {
        let read = |text| pin(text).map(|pin| (pin.vcpu, pin.host_cpus));
        assert_eq!(read("0=0"), Ok((0, vec![0])));
        assert_eq!(read("63=1,3"), Ok((63, vec![1, 3])));
        assert_eq!(read("1=0-3,6,8-9"), Ok((1, vec![0, 1, 2, 3, 6, 8, 9])));
        assert_eq!(read("1=5-5"), Ok((1, vec![5])));
        for bad in [
            "", "0", "=", "0=", "=0", "a=0", "0=a", "0=1,", "0=,1", "0=1-", "0=-1", "0=1-2-3",
            "0=+1", "0= 1", "0:1",
        ] {
            assert!(pin(bad).unwrap_err().starts_with("expected VCPU"), "{bad}");
        }
        for (bad, says) in [
            ("0=3-1", "3-1: the range ends before it begins"),
            ("0=0-65536", "0-65536: the range is too long"),
            ("4294967296=0", "4294967296: the number is too large"),
        ] {
            assert_eq!(pin(bad), Err(says.to_owned()));
        }
    }

    #[test]
    fn paths_become_absolute() {
        let here = std::env::current_dir().unwrap();
        assert_eq!(absolute_path("/a/b"), Ok("/a/b".to_owned()));
        assert_eq!(
            absolute_path("b"),
            Ok(here.join("b").to_str().unwrap().to_owned())
        );
        assert!(absolute_path("").is_err());
        assert_eq!(serial("unix:/run/s"), Ok("/run/s".to_owned()));
        assert_eq!(
            serial("unix:s"),
            Ok(here.join("s").to_str().unwrap().to_owned())
        );
        for bad in ["s", "unix:", "tcp:1", "http://127.0.0.1:1"] {
            assert!(serial(bad).is_err(), "{bad}");
        }
    }
}
