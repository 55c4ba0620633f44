//! `vmctl replay`: a recording, replayed and shown. Needs neither daemon nor KVM.

use std::{
    fs::File,
    io::{self, Read},
    path::Path,
};

use serde_json::json;
use vmm::runstate::journal::{Ending, Moment, Transcript, replay};

use super::super::{
    args::Replay,
    failure::{self, Failure},
    output::Output,
    table,
};

/// LINE, KIND, STATE; what happened comes last, as long as it is.
const WIDTHS: [usize; 4] = [6, 8, 14, 0];

/// The largest file that is read, in bytes: some ten million commands.
const MAX_FILE: u64 = 1 << 30;

pub(super) fn run(args: &Replay, out: &mut Output) -> Result<(), Failure> {
    let path = args.file.display();
    let bytes =
        read(&args.file).map_err(|error| Failure::Told(format!("cannot read {path}: {error}")))?;
    let transcript = Transcript::read(&bytes)
        .map_err(|error| Failure::Told(format!("{path} is not as it was recorded: {error}")))?;
    let replayed = replay(&transcript);
    if !out.is_json() {
        out.line(&table::row(&["LINE", "KIND", "STATE", "WHAT"], &WIDTHS))?;
    }
    for moment in &replayed.timeline {
        out.show(|| object(moment), || row(moment))?;
    }
    if let Some(divergence) = replayed.divergence {
        return Err(Failure::Told(format!(
            "{path} does not replay: {divergence}"
        )));
    }
    match transcript.ending() {
        Ending::Interrupted => failure::say("the recording was ended before the machine"),
        Ending::Lost => failure::say("the recording ended when its reader could not keep up"),
        Ending::Exit | Ending::Failed | Ending::Stopped => {}
    }
    Ok(())
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    // What says nothing of its size, as a device, has no more either.
    File::open(path)?
        .take(MAX_FILE + 1)
        .read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_FILE {
        return Err(io::ErrorKind::FileTooLarge.into());
    }
    Ok(bytes)
}

fn row(moment: &Moment) -> String {
    let cells = [
        moment.line.to_string(),
        moment.entry.kind().to_owned(),
        moment.state.to_string(),
        moment.entry.to_string(),
    ];
    table::row(&cells, &WIDTHS)
}

fn object(moment: &Moment) -> serde_json::Value {
    json!({
        "line": moment.line,
        "step": moment.step,
        "kind": moment.entry.kind(),
        "what": moment.entry.to_string(),
        "state": moment.state.name(),
    })
}
