//! One client of the QMP door.

use std::{io, sync::Arc};

use serde_json::{Value, json};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    time::sleep_until,
};
use vmd_proto::v1::{Event, event::Kind};

use super::{
    arguments::{Arguments, not_accepted},
    commands,
    door::Door,
    events,
    input::Input,
    message::{self, QmpError, Request},
};
use crate::{Daemon, event_log::Cursor, vm::VmHandle};

/// Bytes read at a time.
const READ: usize = 4096;

/// The machine that a client drives.
#[derive(Clone)]
pub(crate) struct Machine {
    pub(crate) daemon: Arc<Daemon>,
    pub(crate) vm: Arc<VmHandle>,
    pub(crate) door: Arc<Door>,
}

/// Serves one client until it goes away or the machine's monitors are closed.
pub(crate) async fn serve(
    machine: Machine,
    mut reader: impl AsyncRead + Unpin,
    writer: impl AsyncWrite + Unpin,
) -> io::Result<()> {
    // First: a WATCHDOG event that comes in between is sent rather than lost.
    let watchdogs = machine.door.position();
    let newest = machine.daemon.events.newest();
    let mut session = Session {
        events: Cursor::new(machine.daemon.clone(), newest),
        watchdogs,
        machine,
        writer,
        negotiated: false,
        oob: false,
        ended: false,
    };
    session.send(&message::greeting()).await?;
    let mut input = Input::default();
    let mut buffer = [0; READ];
    loop {
        while let Some(value) = input.next() {
            session.request(value).await?;
            if session.is_over().await? {
                return Ok(());
            }
        }
        tokio::select! {
            count = reader.read(&mut buffer) => match buffer.get(..count?) {
                Some([]) | None => return Ok(()),
                Some(bytes) => input.push(bytes),
            },
            more = session.more_events() => {
                session.send_events().await?;
                if !more || session.is_over().await? {
                    return Ok(());
                }
            }
        }
    }
}

struct Session<W> {
    machine: Machine,
    writer: W,
    /// The client's place among the events.
    events: Cursor,
    /// Before this, a client is sent no events, and events are not kept for it.
    negotiated: bool,
    /// Whether it may send requests out of band. No command here may be one.
    oob: bool,
    /// The machine's end was among the events: it may run again by now, but this client's machine is gone. The door is
    /// closed before.
    ended: bool,
    /// How many of the WATCHDOG events that the door released have been sent, or were before this client's time.
    watchdogs: u64,
}

impl<W: AsyncWrite + Unpin> Session<W> {
    async fn request(&mut self, value: Result<Value, String>) -> io::Result<()> {
        // What came before is not for a client that negotiates only now; and if that was the end, there is nothing to do.
        self.send_events().await?;
        if self.is_over().await? {
            return Ok(());
        }
        let (id, request) = match value {
            Ok(value) => message::parse(value, self.oob),
            Err(what) => (None, Err(QmpError::generic(what))),
        };
        let result = match request {
            Ok(request) if !self.negotiated => self.negotiate(request),
            Ok(request) => commands::execute(&self.machine, request).await,
            Err(error) => Err(error),
        };
        // The events that it caused come first.
        self.send_events().await?;
        self.send(&message::reply(id, result)).await
    }

    fn negotiate(&mut self, request: Request) -> Result<Value, QmpError> {
        if request.execute != "qmp_capabilities" {
            return Err(QmpError::not_found(
                "Expecting capabilities negotiation with 'qmp_capabilities'",
            ));
        }
        let mut arguments = Arguments::new(request.arguments);
        let enable = arguments.strings("enable")?;
        // The only one that there is. QEMU does not say in which argument the other is.
        if let Some(other) = enable.iter().find(|name| *name != "oob") {
            return Err(not_accepted("null", other));
        }
        arguments.finish()?;
        self.oob = !enable.is_empty();
        self.negotiated = true;
        Ok(json!({}))
    }

    /// Whether the monitors are closed, and the client has all its events: then it is disconnected, as by the end of a
    /// QEMU process.
    async fn is_over(&mut self) -> io::Result<bool> {
        if !self.machine.door.is_closed() {
            return Ok(false);
        }
        // SHUTDOWN was in the log before.
        self.send_events().await?;
        Ok(true)
    }

    /// Waits until there are events to send; false if there will be none any more.
    async fn more_events(&mut self) -> bool {
        let held = self.machine.door.due();
        let held = async {
            match held {
                Some(time) => sleep_until(time).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            more = self.events.changed() => more,
            () = held => true,
            () = self.machine.door.closed() => true,
        }
    }

    /// Sends the machine's events up to now.
    async fn send_events(&mut self) -> io::Result<()> {
        while !self.ended {
            // A client too slow for the log cannot be told so in QMP: it loses its connection, and knows.
            let events = self.events.read().await.map_err(io::Error::other)?;
            if events.is_empty() {
                return self.send_watchdogs(self.events.seq).await;
            }
            for event in events {
                if event.vm_id != self.machine.vm.record.id {
                    continue;
                }
                self.send_watchdogs(event.seq.saturating_sub(1)).await?;
                if matches!(event.kind, Some(Kind::Ended(_))) {
                    self.ended = true;
                    return Ok(());
                }
                // The door's to release, at the latest when all that is here has been sent.
                if !matches!(event.kind, Some(Kind::Watchdog(_))) {
                    self.send_event(&event).await?;
                }
            }
        }
        Ok(())
    }

    /// Sends the WATCHDOG events that the door has released and that come before the events after number `seq`.
    async fn send_watchdogs(&mut self, seq: u64) -> io::Result<()> {
        for event in self.machine.door.released(&mut self.watchdogs, seq) {
            self.send_event(&event).await?;
        }
        Ok(())
    }

    async fn send_event(&mut self, event: &Event) -> io::Result<()> {
        match &event.kind {
            Some(kind) if self.negotiated && events::is_qemus(kind) => {
                self.send(&events::message(event, kind)).await
            }
            _ => Ok(()),
        }
    }

    async fn send(&mut self, value: &Value) -> io::Result<()> {
        let mut line = value.to_string();
        line.push_str("\r\n");
        self.writer.write_all(line.as_bytes()).await?;
        self.writer.flush().await
    }
}
