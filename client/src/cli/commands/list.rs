//! `vmctl ls`: all machines as they are, or with `--watch` as they change.
//!
//! ```text
//! ListVms ----> rows
//! WatchVms ---> Machines (what was sent so far) ---> a terminal: the table, drawn over itself
//!                                              \---> elsewhere: a row, or an object, for each change
//! ```

use std::collections::BTreeMap;

use serde_json::{Value, json};
use tokio::signal::unix::{SignalKind, signal};

use super::super::{
    args::List,
    failure::Failure,
    frames::Frames,
    output::Output,
    table::{self, Layout},
    tone::Tone,
    view,
};
use crate::{
    Client, VmStream, json,
    v1::{ListVmsRequest, Vm, WatchVmsRequest, watch_vms_response::Update},
};

const DOING: &str = "list the machines";

/// NAME, PHASE, STATE, VCPUS, MEMORY, SEQ; how a machine ended and its labels come last, as long as they are.
const WIDTHS: [usize; 8] = [20, 5, 14, 5, 6, 6, 0, 0];
/// Where it says how a machine ended.
const END: usize = 6;

pub(super) async fn run(client: &Client, list: &List, out: &mut Output) -> Result<(), Failure> {
    if list.watch {
        return watch(client, list, out).await;
    }
    let request = ListVmsRequest {
        label_selector: list.selected.selector.clone().unwrap_or_default(),
        ..Default::default()
    };
    let vms = client.list_page(request).await;
    let vms = vms.map_err(Failure::call(DOING))?.vms;
    if out.is_json() {
        return vms
            .iter()
            .try_for_each(|vm| out.line(&json::vm(vm).to_string()));
    }
    let columns = out.columns();
    let lines = lines(vms.iter(), columns, list);
    lines.iter().try_for_each(|line| out.line(line))
}

/// The table of these machines.
fn lines<'a>(
    vms: impl Iterator<Item = &'a Vm>,
    columns: Option<usize>,
    list: &List,
) -> Vec<String> {
    let (rows, tones): (Vec<_>, Vec<_>) = vms.map(|vm| (row(vm, list), tone(vm))).unzip();
    let heads = heads(list);
    if !list.color.wanted() {
        return table::align(&heads, &rows, columns);
    }
    let layout = Layout::of(&heads, &rows, columns);
    let rows = rows.iter().zip(tones);
    let rows = rows.map(|(row, tone)| layout.painted(row, &[Tone::Plain, Tone::Plain, tone]));
    std::iter::once(layout.line(&heads)).chain(rows).collect()
}

fn heads(list: &List) -> Vec<&'static str> {
    let labels = list.show_labels.then_some("LABELS");
    view::MACHINE.into_iter().chain(labels).collect()
}

fn row(vm: &Vm, list: &List) -> Vec<String> {
    let labels = list.show_labels.then(|| view::labels(vm));
    view::machine(vm).into_iter().chain(labels).collect()
}

fn tone(vm: &Vm) -> Tone {
    vm.status.as_ref().map_or(Tone::Plain, Tone::of_status)
}

async fn watch(client: &Client, list: &List, out: &mut Output) -> Result<(), Failure> {
    let request = WatchVmsRequest {
        label_selector: list.selected.selector.clone().unwrap_or_default(),
        ..Default::default()
    };
    let stream = client.watch_vms_of(request).await;
    let stream = stream.map_err(Failure::call(DOING))?;
    match out.columns() {
        Some(_) if !out.is_json() => draw(stream, list, out).await,
        _ => print(stream, list, out).await,
    }
}

/// A line for each change, for what is no terminal.
async fn print(mut stream: VmStream, list: &List, out: &mut Output) -> Result<(), Failure> {
    let layout = Layout::new(&WIDTHS, None);
    let colored = list.color.wanted();
    if !out.is_json() {
        out.line(&layout.line(&heads(list)))?;
    }
    while let Some(change) = stream.next().await.map_err(Failure::call(DOING))? {
        let (vm, deleted) = match change.update {
            Some(Update::Vm(vm)) => (vm, false),
            Some(Update::Deleted(vm)) => (vm, true),
            Some(Update::Synced(_)) | None => continue,
        };
        let line = || {
            let mut row = row(&vm, list);
            if let (true, Some(end)) = (deleted, row.get_mut(END)) {
                "removed".clone_into(end);
            }
            let tone = if colored { tone(&vm) } else { Tone::Plain };
            layout.painted(&row, &[Tone::Plain, Tone::Plain, tone])
        };
        out.show(|| object(&vm, deleted), line)?;
    }
    Ok(())
}

/// A machine as ever, and whether that is its last record.
fn object(vm: &Vm, deleted: bool) -> Value {
    let mut object = json::vm(vm);
    if let Some(fields) = object.as_object_mut() {
        fields.insert("deleted".to_owned(), json!(deleted));
    }
    object
}

/// The table, drawn again when something has changed.
async fn draw(mut stream: VmStream, list: &List, out: &mut Output) -> Result<(), Failure> {
    let mut resized = signal(SignalKind::window_change())
        .map_err(|error| Failure::Told(format!("cannot watch for signals: {error}")))?;
    let mut machines = BTreeMap::new();
    let mut screen = Drawn::default();
    let mut frames = Frames::default();
    // The first drawing is of all machines.
    let mut synced = false;
    loop {
        let next = tokio::select! {
            biased;
            () = frames.due() => {
                screen.draw(&machines, list, out)?;
                frames.drawn();
                continue;
            }
            next = stream.next() => next,
            _ = resized.recv() => {
                frames.changed();
                continue;
            }
        };
        let Some(change) = next.map_err(Failure::call(DOING))? else {
            return Ok(());
        };
        match change.update {
            // By name, and by id if one goes while the next of its name is there.
            Some(Update::Vm(vm)) => {
                machines.insert((vm.name.clone(), vm.id.clone()), vm);
            }
            Some(Update::Deleted(vm)) => {
                machines.remove(&(vm.name, vm.id));
            }
            Some(Update::Synced(_)) => synced = true,
            None => {}
        }
        if synced {
            frames.changed();
        }
    }
}

/// What is on the screen.
#[derive(Default)]
struct Drawn {
    lines: usize,
}

impl Drawn {
    fn draw(
        &mut self,
        machines: &BTreeMap<(String, String), Vm>,
        list: &List,
        out: &mut Output,
    ) -> Result<(), Failure> {
        let columns = out.columns();
        let lines = lines(machines.values(), columns, list);
        let lines = shortened(lines, out.rows());
        let mut text = String::new();
        if self.lines > 0 {
            // To the first line's beginning, and everything below away.
            text.push_str(&format!("\x1b[{}F\x1b[J", self.lines));
        }
        for line in &lines {
            text.push_str(line);
            text.push('\n');
        }
        self.lines = lines.len();
        out.bytes(text.as_bytes())?;
        out.flush()
    }
}

/// The lines that a screen of so many rows has room for: what has scrolled away cannot be drawn over.
fn shortened(mut lines: Vec<String>, rows: usize) -> Vec<String> {
    // The cursor stays below them.
    let room = rows.saturating_sub(1).max(2);
    if lines.len() > room {
        let left_out = lines.len() - (room - 1);
        lines.truncate(room - 1);
        lines.push(format!("… and {left_out} more"));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_as_long_as_the_screen_at_most() {
        let lines = |count: usize| (0..count).map(|at| at.to_string()).collect::<Vec<_>>();
        assert_eq!(shortened(lines(4), 5), lines(4));
        assert_eq!(shortened(lines(5), 5), ["0", "1", "2", "… and 2 more"]);
        assert_eq!(shortened(lines(5), 0), ["0", "… and 4 more"]);
    }
}
