//! A recording, as it is in its file (spec, section 18).

use std::{fs, path::Path};

use serde_json::Value;
use vmctl::{names::Spelled, v1};

use super::blkdebug;

/// A recording.
pub(crate) struct Vector {
    /// The file's name, without `.jsonl`.
    pub(crate) name: String,
    /// What it shows.
    pub(crate) description: String,
    /// How the machine starts.
    pub(crate) start: Start,
    /// What went on; where runs of QEMU differ, the other sequences follow.
    pub(crate) sequences: Vec<Vec<Line>>,
}

/// A start, from QEMU's command line.
#[derive(Default)]
pub(crate) struct Start {
    pub(crate) paused: bool,
    pub(crate) memory_mib: u64,
    pub(crate) actions: v1::Actions,
    /// A disk whose first write fails (see [`blkdebug`](super::blkdebug)).
    pub(crate) disk: Option<v1::Disk>,
    /// What vmd has no counterpart of.
    pub(crate) unfed: Vec<String>,
}

/// A line of a sequence.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Line {
    /// A request; pipelined ones are sent in one piece.
    Request { message: Value, pipelined: bool },
    /// An event or a reply.
    Message(Value),
    /// Letters for the guest.
    Typed(String),
    /// What the guest writes.
    Written(String),
    /// A signal to the process.
    Signal(String),
    /// Port writes, delivered in one piece.
    PortWrites(Vec<String>),
    /// Input or output of a kind that vmd has nothing for, or that is not compared.
    Other { input: bool, via: String },
    /// The process was alive when the recording ended, or had exited.
    End(End),
}

/// How the process was at the recording's end.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum End {
    Alive,
    Exited(i64),
    Killed(String),
}

impl Vector {
    /// Reads a file. Fails, by panicking, if there is anything in it that is not understood.
    pub(crate) fn read(path: &Path) -> Self {
        let text = fs::read_to_string(path).unwrap();
        let mut lines = text.lines().map(|line| {
            serde_json::from_str::<Value>(line)
                .unwrap_or_else(|error| panic!("{}: {error}: {line}", path.display()))
        });
        let meta = lines.next().unwrap();
        assert_eq!(meta["t"], "meta", "{}", path.display());
        let mut sequences = vec![Vec::new()];
        for line in lines {
            if line["t"] == "alternatives" {
                let others = line["sequences"].as_array().unwrap();
                let parse = |other: &Value| {
                    let lines = other.as_array().unwrap();
                    lines.iter().filter_map(Line::parse).collect()
                };
                sequences.extend(others.iter().map(parse));
            } else {
                sequences[0].extend(Line::parse(&line));
            }
        }
        for sequence in &sequences {
            let ends = sequence.iter().filter(|line| matches!(line, Line::End(_)));
            assert_eq!(ends.count(), 1, "{}: one end", path.display());
        }
        let arguments = meta["cmdline"].as_array().unwrap().iter();
        Self {
            name: path.file_stem().unwrap().to_str().unwrap().to_owned(),
            description: text_of(&meta["desc"]),
            start: Start::parse(arguments.skip(1).map(|word| word.as_str().unwrap())),
            sequences,
        }
    }

    /// The number that its name starts with.
    pub(crate) fn number(&self) -> u16 {
        let (number, _) = self.name.split_once('_').unwrap();
        number.parse().unwrap()
    }

    /// Whether any line is as `is` says.
    pub(crate) fn any(&self, is: impl Fn(&Line) -> bool) -> bool {
        self.sequences.iter().flatten().any(is)
    }
}

impl Line {
    /// `None` for a note.
    fn parse(line: &Value) -> Option<Self> {
        let input = match line["t"].as_str().unwrap() {
            "in" => true,
            "out" => false,
            "note" => return None,
            "end" => return Some(Self::End(End::parse(line))),
            other => panic!("a line of kind {other}"),
        };
        let via = line["via"].as_str().unwrap();
        Some(match (input, via) {
            (true, "qmp") => Self::Request {
                message: line["msg"].clone(),
                pipelined: line["pipelined"] == true,
            },
            (false, "qmp") => Self::Message(line["msg"].clone()),
            (true, "serial") => Self::Typed(text_of(&line["text"])),
            (false, "serial") => Self::Written(text_of(&line["text"])),
            (true, "signal") => Self::Signal(text_of(&line["signal"])),
            (true, _) if via.starts_with("qtest") => Self::PortWrites(
                line["text"]
                    .as_array()
                    .unwrap()
                    .iter()
                    .map(text_of)
                    .collect(),
            ),
            _ => Self::Other {
                input,
                via: via.to_owned(),
            },
        })
    }

    /// What a sequence is told from another by: all but what the guest writes, whose place among the rest is not known.
    pub(crate) fn is_ordered(&self) -> bool {
        !matches!(self, Self::Written(_))
    }
}

impl End {
    fn parse(line: &Value) -> Self {
        if line["process"].as_str().unwrap().starts_with("alive") {
            Self::Alive
        } else if let Some(status) = line["exit_code"].as_i64() {
            Self::Exited(status)
        } else {
            Self::Killed(text_of(&line["signal"]))
        }
    }
}

impl Start {
    fn parse<'a>(mut words: impl Iterator<Item = &'a str>) -> Self {
        let mut start = Self::default();
        while let Some(word) = words.next() {
            match word {
                "-S" => start.paused = true,
                "-no-reboot" => start.action("reboot=shutdown"),
                "-no-shutdown" => start.action("shutdown=pause"),
                "-nodefaults" | "-no-user-config" => {}
                _ => {
                    let value = words.next();
                    match (word, value) {
                        ("-action", Some(actions)) => {
                            actions.split(',').for_each(|action| start.action(action));
                        }
                        ("-watchdog-action", Some(action)) => {
                            start.action(&format!("watchdog={action}"));
                        }
                        ("-m", Some(mib)) => start.memory_mib = mib.parse().unwrap(),
                        ("-blockdev", Some(node)) if node.contains("blkdebug") => {
                            start.disk = Some(blkdebug::disk(node));
                        }
                        ("-device", Some(device)) if device.starts_with("ide-hd,drive=d0,") => {
                            start.disk_options(device);
                        }
                        // vmd's machines have both.
                        ("-device", Some("ib700" | "pvpanic"))
                        // What the machine is like, and how QEMU was recorded.
                        | ("-accel" | "-cpu" | "-M" | "-bios" | "-display" | "-chardev", _)
                        | ("-mon" | "-serial" | "-qtest" | "-qtest-log", _) => {}
                        _ => start.unfed.push(word.to_owned()),
                    }
                }
            }
        }
        start
    }

    /// vmd's disks are on virtio; the guest does not tell.
    fn disk_options(&mut self, device: &str) {
        let disk = self.disk.as_mut().unwrap();
        for option in device.split(',').skip(1) {
            match option.split_once('=').unwrap() {
                ("werror", policy) => disk.set_werror(Spelled::from_spelling(policy).unwrap()),
                ("drive" | "bus" | "id", _) => {}
                other => panic!("a disk with {other:?}"),
            }
        }
    }

    fn action(&mut self, action: &str) {
        fn value<T: Spelled + Into<i32>>(text: &str) -> i32 {
            T::from_spelling(text).unwrap().into()
        }
        let (what, action) = action.split_once('=').unwrap();
        let actions = &mut self.actions;
        match what {
            "reboot" => actions.reboot = value::<v1::RebootAction>(action),
            "shutdown" => actions.shutdown = value::<v1::ShutdownAction>(action),
            "panic" => actions.panic = value::<v1::PanicAction>(action),
            "watchdog" => actions.watchdog = value::<v1::WatchdogAction>(action),
            other => panic!("an action on {other}"),
        }
    }
}

fn text_of(value: &Value) -> String {
    value.as_str().unwrap().to_owned()
}
