//! `vmctl events`: the event log, from a number on, to its end or as it grows.

use super::super::{
    args::Events,
    failure::{self, Failure},
    output::Output,
    view,
};
use crate::{Client, Error, Lost, json, v1::Event};

/// How often the start is moved to the oldest event while the log drops events faster than they are
/// asked for.
const CHASES: u32 = 100;

pub(super) async fn run(client: &Client, events: &Events, out: &mut Output) -> Result<(), Failure> {
    let mut printer = Printer { out, seen: None };
    let mut after = events.since.unwrap_or(0);
    for _ in 0..CHASES {
        let error = match follow(client, events, after, &mut printer).await {
            Err(Failure::Call(_, error)) => error,
            Err(other) => return Err(other),
            Ok(()) => return printer.heads(),
        };
        let Some(lost) = error.lost() else {
            return Err(Failure::Call(DOING.to_owned(), error));
        };
        let oldest = lost.oldest_seq.saturating_sub(1);
        if events.since.is_some() || printer.seen.is_some() || oldest <= after {
            return Err(Failure::Told(tell(lost, after, printer.seen)));
        }
        after = oldest;
        failure::say(&format!(
            "events before {} are no longer kept: starting there",
            lost.oldest_seq
        ));
    }
    Err(Failure::Told(
        "events are dropped faster than they can be read".to_owned(),
    ))
}

const DOING: &str = "show the events";

async fn follow(
    client: &Client,
    events: &Events,
    after: u64,
    printer: &mut Printer<'_>,
) -> Result<(), Failure> {
    let call = |error: Error| Failure::Call(DOING.to_owned(), error);
    let name = events.name.as_deref();
    let mut stream = client
        .watch_events(after, name, !events.follow)
        .await
        .map_err(call)?;
    while let Some(event) = stream.next().await.map_err(call)? {
        printer.print(&event)?;
    }
    Ok(())
}

/// Prints events, and knows the last one printed.
struct Printer<'a> {
    out: &'a mut Output,
    seen: Option<u64>,
}

impl Printer<'_> {
    fn print(&mut self, event: &Event) -> Result<(), Failure> {
        self.heads()?;
        self.seen = Some(event.seq);
        self.out.show(|| json::event(event), || view::event(event))
    }

    /// Prints the headings of a table, unless there was an event already.
    fn heads(&mut self) -> Result<(), Failure> {
        if self.out.is_json() || self.seen.is_some() {
            return Ok(());
        }
        self.out.line(&view::event_heads())
    }
}

/// What is lost, and how to go on.
fn tell(lost: Lost, after: u64, seen: Option<u64>) -> String {
    let Lost {
        oldest_seq,
        newest_seq,
    } = lost;
    let resume = oldest_seq.saturating_sub(1);
    match seen {
        Some(seen) => format!(
            "this reader was too slow: events {} to {resume} are lost. Go on with `--since {resume}`",
            seen.saturating_add(1)
        ),
        None if after > newest_seq => format!(
            "the daemon has not reached event {after}: its newest is {newest_seq}. \
             If it was started anew, its numbers were too: leave --since out"
        ),
        None => format!(
            "events after {after} are no longer kept: the oldest kept is {oldest_seq}, the newest \
             {newest_seq}. Go on with `--since {resume}`, or leave --since out"
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loss_is_told_with_how_to_go_on() {
        let lost = Lost {
            oldest_seq: 17,
            newest_seq: 90,
        };
        assert!(tell(lost, 5, None).contains("`--since 16`"));
        assert!(tell(lost, 900, None).starts_with("the daemon has not reached event 900"));
        assert!(tell(lost, 0, Some(9)).contains("events 10 to 16 are lost"));
    }
}
