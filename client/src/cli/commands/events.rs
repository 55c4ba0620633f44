//! `vmctl events`: the event log, from a number on, to its end or as it grows.

use super::super::{
    args::{Events, Since},
    failure::{self, Failure},
    mark::Mark,
    output::Output,
    view,
};
use crate::{
    Client, Error, Lost, json,
    v1::{Event, WatchEventsRequest},
};

/// How often the start is moved to the oldest event while the log drops events faster than they are
/// asked for.
const CHASES: u32 = 100;

pub(super) async fn run(client: &Client, events: &Events, out: &mut Output) -> Result<(), Failure> {
    let mark = match events.since {
        Some(Since::Last) => Some(Mark::of(client.endpoint(), events)?),
        _ => None,
    };
    let mut after = match (events.since, &mark) {
        (Some(Since::Seq(seq)), _) => seq,
        (_, Some(mark)) => mark.read()?.unwrap_or(0),
        _ => 0,
    };
    let table = view::Events::new(out.columns(), events.color.wanted());
    let mut printer = Printer {
        out,
        table,
        mark,
        printed: false,
        seen: None,
        kept: None,
    };
    for _ in 0..CHASES {
        let error = match follow(client, events, after, &mut printer).await {
            Err(Failure::Call(_, error)) => error,
            Err(other) => return Err(other),
            Ok(()) => return printer.heads(),
        };
        printer.keep()?;
        let Some(lost) = error.lost() else {
            return Err(Failure::Call(DOING.to_owned(), error));
        };
        let oldest = lost.oldest_seq.saturating_sub(1);
        match events.since {
            // Whoever asks for what is new wants to know what is not to be had, and the rest.
            Some(Since::Last) => {
                let seen = printer.seen.take().unwrap_or(after);
                failure::say(&tell_new(lost, seen));
            }
            None if printer.seen.is_none() && oldest > after => failure::say(&format!(
                "events before {} are no longer kept: starting there",
                lost.oldest_seq
            )),
            _ => return Err(Failure::Told(tell(lost, after, printer.seen))),
        }
        after = oldest;
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
    let request = WatchEventsRequest {
        after_seq: after,
        name: events.name.clone().unwrap_or_default(),
        history_only: !events.follow,
        label_selector: events.selected.selector.clone().unwrap_or_default(),
        kinds: events.kinds.clone(),
        // What is not shown is seen all the same.
        progress: printer.mark.is_some(),
        audit: events.audit,
    };
    let mut stream = client.watch_events_of(request).await.map_err(call)?;
    loop {
        let next = tokio::select! {
            biased;
            next = stream.next() => next,
            // Nothing is there yet: what was printed is kept before what comes.
            () = std::future::ready(()) => {
                printer.keep()?;
                stream.next().await
            }
        };
        match next.map_err(call)? {
            Some(event) if event.kind.is_none() && event.vm_id.is_empty() => {
                printer.seen = Some(event.seq);
            }
            Some(event) => printer.print(&event)?,
            None => return printer.keep(),
        }
    }
}

/// Prints events, and knows the last one printed.
struct Printer<'a> {
    out: &'a mut Output,
    table: view::Events,
    mark: Option<Mark>,
    /// Whether there was an event already.
    printed: bool,
    /// The last one that was printed, or passed over.
    seen: Option<u64>,
    /// The last one whose number was kept.
    kept: Option<u64>,
}

impl Printer<'_> {
    fn print(&mut self, event: &Event) -> Result<(), Failure> {
        self.heads()?;
        self.printed = true;
        self.seen = Some(event.seq);
        let line = || self.table.line(event);
        self.out.show(|| json::event(event), line)
    }

    /// Prints the headings of a table, unless there was an event already.
    fn heads(&mut self) -> Result<(), Failure> {
        if self.out.is_json() || self.printed {
            return Ok(());
        }
        self.out.line(&self.table.heads())
    }

    /// Keeps the number of the last event printed, for `--since last`.
    fn keep(&mut self) -> Result<(), Failure> {
        if let (Some(mark), Some(seq)) = (&self.mark, self.seen)
            && self.kept != self.seen
        {
            mark.write(seq)?;
            self.kept = self.seen;
        }
        Ok(())
    }
}

/// What is lost to a reader that goes on by itself.
fn tell_new(lost: Lost, seen: u64) -> String {
    let Lost {
        oldest_seq,
        newest_seq,
    } = lost;
    if seen > newest_seq {
        return format!(
            "event {seen} was seen last, but the daemon's newest is {newest_seq}: it was started anew. Starting at \
             event {oldest_seq}"
        );
    }
    format!(
        "events {} to {} are lost: starting at event {oldest_seq}",
        seen.saturating_add(1),
        oldest_seq.saturating_sub(1)
    )
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
        assert!(tell_new(lost, 9).starts_with("events 10 to 16 are lost: starting at event 17"));
        assert!(tell_new(lost, 91).contains("started anew. Starting at event 17"));
    }
}
