//! `vmctl record`: the lines of a recording into a file, which is complete however the recording ends.

use std::{
    fs::{File, OpenOptions},
    io::{self, Write},
    path::Path,
};

use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};
use vmm::runstate::journal::{Ending, Tail};

use super::super::{args::Record, failure::Failure, output::Output};
use crate::{Client, Error, RecordStream};

pub(super) async fn run(client: &Client, record: &Record, out: &mut Output) -> Result<(), Failure> {
    // Caught before anything is there to be left half done.
    let stop = stopped()?;
    tokio::pin!(stop);
    let path = &record.file;
    if !record.force && path.exists() {
        return Err(exists(path));
    }
    let doing = format!("record '{}'", record.name);
    let stream = tokio::select! {
        stream = client.record(&record.name) => stream,
        () = &mut stop => return Err(Failure::Told("ended before the recording began".to_owned())),
    };
    let mut stream = stream.map_err(Failure::call(doing.as_str()))?;
    let mut journal = JournalFile {
        file: open(path, record.force)?,
        path,
        tail: Tail::new(),
        lines: 0,
    };
    let ended = tokio::select! {
        ended = journal.follow(&mut stream) => ended,
        () = &mut stop => Ok(()),
    };
    journal.complete()?;
    ended.map_err(|ended| match ended {
        Ended::Call(error) => Failure::Call(doing, error),
        Ended::Told(failure) => failure,
    })?;
    let (name, lines) = (record.name.as_str(), journal.lines);
    let shown = path.display();
    out.show(
        || json!({"name": name, "file": path.to_string_lossy(), "lines": lines}),
        || format!("{name}: {lines} lines in {shown}"),
    )
}

/// SIGINT or SIGTERM.
fn stopped() -> Result<impl Future<Output = ()>, Failure> {
    let hook = |kind| {
        signal(kind).map_err(|error| Failure::Told(format!("cannot receive signals: {error}")))
    };
    let (mut interrupt, mut terminate) = (
        hook(SignalKind::interrupt())?,
        hook(SignalKind::terminate())?,
    );
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    })
}

/// Why the lines ended, if not in order.
enum Ended {
    Call(Error),
    Told(Failure),
}

/// The file, and where the journal in it ends.
struct JournalFile<'a> {
    file: File,
    path: &'a Path,
    tail: Tail,
    lines: usize,
}

impl JournalFile<'_> {
    /// Writes what comes, until the journal's end or the stream's.
    async fn follow(&mut self, stream: &mut RecordStream) -> Result<(), Ended> {
        while let Some(response) = stream.next().await.map_err(Ended::Call)? {
            self.tail
                .follow(&response.lines)
                .map_err(|_| Ended::Call(Error::Malformed("these are no lines of a recording")))?;
            self.write(&response.lines).map_err(Ended::Told)?;
        }
        Ok(())
    }

    /// Ends the journal, unless it has ended.
    fn complete(&mut self) -> Result<(), Failure> {
        if let Some(end) = self.tail.end(Ending::Interrupted) {
            self.write(end.as_bytes())?;
        }
        self.file
            .sync_all()
            .map_err(|error| self.unwritable(&error))
    }

    fn write(&mut self, lines: &[u8]) -> Result<(), Failure> {
        self.lines += lines.iter().filter(|byte| **byte == b'\n').count();
        let written = self.file.write_all(lines);
        written.map_err(|error| self.unwritable(&error))
    }

    fn unwritable(&self, error: &io::Error) -> Failure {
        unwritable(self.path, error)
    }
}

fn open(path: &Path, force: bool) -> Result<File, Failure> {
    let mut options = OpenOptions::new();
    options.write(true);
    if force {
        options.create(true).truncate(true);
    } else {
        options.create_new(true);
    }
    options.open(path).map_err(|error| match error.kind() {
        io::ErrorKind::AlreadyExists => exists(path),
        _ => unwritable(path, &error),
    })
}

fn exists(path: &Path) -> Failure {
    Failure::Told(format!(
        "{} exists. Name another file, or overwrite it with --force.",
        path.display()
    ))
}

fn unwritable(path: &Path, error: &io::Error) -> Failure {
    Failure::Told(format!("cannot write {}: {error}", path.display()))
}
