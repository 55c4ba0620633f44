//! `vmctl apply`: makes the machines as a file says.
//!
//! ```text
//! file --> spec --+
//!                 +--> plan: changes --> shown --> confirmed --> made, one after the other
//! ListVms --------+
//! ```
//! What is as it should be is left alone, so that a second `apply` changes nothing.

mod plan;
mod spec;

use std::{
    fs,
    io::{self, IsTerminal, Read, Write, stderr, stdin},
    path::Path,
};

use serde_json::Value;

use self::{
    plan::{Change, Field, InPlace, Kind},
    spec::Spec,
};
use super::{args::Apply, failure::Failure, output::Output, progress, tone::Tone, view};
use crate::{
    Client, Error,
    v1::{CreateVmRequest, VmStatus},
};

pub(super) async fn run(client: &Client, apply: &Apply, out: &mut Output) -> Result<(), Failure> {
    let wanted = read(&apply.file)?;
    let there = client.list().await;
    let there = there.map_err(Failure::call("list the machines"))?.vms;
    let count = wanted.len();
    let changes = plan::plan(&there, wanted, apply.prune);
    let unchanged = count.saturating_sub(
        changes
            .iter()
            .filter(|change| change.kind != Kind::Delete)
            .count(),
    );
    let (todo, left): (Vec<_>, Vec<_>) = changes
        .iter()
        .partition(|change| !apply.dry_run && (apply.replace || !is_replacement(change)));
    if !out.is_json() {
        show(&changes, unchanged, apply, out)?;
    }
    for change in &left {
        if out.is_json() {
            out.line(&change.object(false).to_string())?;
        }
    }
    if !todo.is_empty() && !apply.yes {
        confirm(&apply.file)?;
    }
    let mut failed = false;
    for change in todo {
        if let Err(failure) = make(client, change, out).await {
            if failure.is_final() {
                return Err(failure);
            }
            failure.report();
            failed = true;
        }
    }
    match (failed, left.is_empty()) {
        (true, _) => Err(Failure::Silent),
        (false, false) => Err(Failure::Pending),
        (false, true) => Ok(()),
    }
}

/// The machines of a file, or of stdin as `-`. Paths in it are meant from where it is.
fn read(file: &Path) -> Result<Vec<Spec>, Failure> {
    let stdin_named = file == Path::new("-");
    let mut text = String::new();
    let read = match stdin_named {
        true => stdin().lock().read_to_string(&mut text).map(drop),
        false => fs::read_to_string(file).map(|content| text = content),
    };
    let shown = file.display();
    read.map_err(|error| Failure::Told(format!("cannot read {shown}: {error}")))?;
    let directory = file.parent().filter(|_| !stdin_named);
    let directory = directory.filter(|path| !path.as_os_str().is_empty());
    spec::read(&text, directory.unwrap_or(Path::new(".")))
        .map_err(|problem| Failure::Told(format!("{shown}: {problem}")))
}

fn is_replacement(change: &Change) -> bool {
    matches!(change.kind, Kind::Replace(_))
}

/// Shows what differs, and what is done about it.
fn show(
    changes: &[Change],
    unchanged: usize,
    apply: &Apply,
    out: &mut Output,
) -> Result<(), Failure> {
    let colored = apply.color.wanted();
    let paint = |tone: Tone, text: &str| match colored {
        true => tone.paint(text),
        false => text.to_owned(),
    };
    for change in changes {
        let tone = match change.kind {
            Kind::Create(_) => Tone::Good,
            Kind::Change(_) => Tone::Notice,
            Kind::Replace(_) | Kind::Delete => Tone::Bad,
        };
        let word = change.kind.word();
        let pad = " ".repeat("replace".len() - word.len());
        let note = match is_replacement(change) && !apply.replace {
            true => "  (built anew: only with --replace)",
            false => "",
        };
        out.line(&format!(
            "{}{pad}  {}{note}",
            paint(tone, word),
            view::printable(&change.name)
        ))?;
        for Field { path, from, to } in &change.fields {
            let value = |value: &Value| shown(path, value);
            out.line(&format!(
                "           {path}: {} -> {}",
                value(from),
                value(to)
            ))?;
        }
    }
    let count = |word: &str| {
        let count = changes
            .iter()
            .filter(|change| change.kind.word() == word)
            .count();
        format!("{count} to {word}")
    };
    let counts = ["create", "change", "replace", "delete"]
        .map(count)
        .join(", ");
    out.line(&format!("{counts}, {unchanged} as they should be"))
}

/// A field's value for people.
fn shown(path: &str, value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => view::printable(text),
        Value::Number(number) if path.ends_with("_bytes") => number
            .as_u64()
            .map_or_else(|| number.to_string(), crate::format_size),
        other => view::printable(&other.to_string()),
    }
}

/// Asks whoever is at the terminal.
fn confirm(file: &Path) -> Result<(), Failure> {
    if file == Path::new("-") || !stdin().is_terminal() || !stderr().is_terminal() {
        return Err(Failure::Usage(
            "nobody can be asked whether to make these changes: give --yes, or --dry-run"
                .to_owned(),
        ));
    }
    let mut answer = String::new();
    let asked = write!(stderr(), "Make these changes? [y/N] ")
        .and_then(|()| stderr().flush())
        .and_then(|()| io::stdin().read_line(&mut answer));
    asked.map_err(|error| Failure::Told(format!("cannot ask: {error}")))?;
    match answer.trim().to_ascii_lowercase().as_str() {
        "y" | "yes" => Ok(()),
        _ => Err(Failure::Told("nothing was changed".to_owned())),
    }
}

/// Makes a change, and says what the machine is then.
async fn make(client: &Client, change: &Change, out: &mut Output) -> Result<(), Failure> {
    let name = &change.name;
    let doing = || format!("{} '{name}'", change.kind.word());
    let call = async {
        Ok(match &change.kind {
            Kind::Create(spec) => create(client, spec).await?,
            Kind::Change(in_place) => adjust(client, name, in_place).await?,
            Kind::Replace(spec) => {
                client.delete_if(name, true, &change.etag).await?;
                create(client, spec).await?
            }
            Kind::Delete => (None, client.delete_if(name, true, &change.etag).await?),
        })
    };
    let made: Result<(Option<VmStatus>, u64), Error> = progress::during(out, doing, call).await;
    let (status, seq) = made.map_err(Failure::call(doing()))?;
    let line = || match status {
        Some(status) => view::status(name, &status, seq),
        None => format!("{name}: removed, event {seq}"),
    };
    out.show(|| change.object(true), line)
}

async fn create(client: &Client, spec: &Spec) -> Result<(Option<VmStatus>, u64), Error> {
    let request = CreateVmRequest {
        name: spec.name.clone(),
        definition: Some(spec.definition.clone()),
        labels: spec.labels.clone(),
        paused: spec.paused,
        ..Default::default()
    };
    let reply = client.create(request).await?;
    Ok((reply.vm.and_then(|vm| vm.status), reply.seq))
}

/// Changes a machine as it is. The update comes first: it is refused if another has changed the machine.
async fn adjust(
    client: &Client,
    name: &str,
    in_place: &InPlace,
) -> Result<(Option<VmStatus>, u64), Error> {
    let mut left = (None, 0);
    if let Some(request) = &in_place.update {
        let reply = client.update(request.clone()).await?;
        left = (reply.vm.and_then(|vm| vm.status), reply.seq);
    }
    if let Some(actions) = in_place.actions {
        let reply = client.set_action(name, actions).await?;
        left = (reply.status, reply.seq);
    }
    Ok(left)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn values_are_shown_for_people() {
        assert_eq!(shown("memory_bytes", &json!(64 << 20)), "64M");
        assert_eq!(shown("vcpus", &json!(1024)), "1024");
        assert_eq!(shown("kernel", &Value::Null), "-");
        assert_eq!(shown("cmdline", &json!("a\u{1b}[2J")), r"a\u{1b}[2J");
    }
}
