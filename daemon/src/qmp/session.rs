//! One client of the QMP door.

use std::{io, sync::Arc};

use serde_json::{Value, json};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    time::{Instant, sleep_until},
};
use vmd_proto::v1::{Event, event::Kind};

use super::{
    arguments::{Arguments, not_accepted},
    commands,
    events::{self, WatchdogLimit},
    input::{Input, InputError},
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
}

/// Serves one client until it goes away or the machine has ended.
pub(crate) async fn serve(
    machine: Machine,
    mut reader: impl AsyncRead + Unpin,
    writer: impl AsyncWrite + Unpin,
) -> io::Result<()> {
    let newest = machine.daemon.events.newest();
    let mut session = Session {
        events: Cursor::new(machine.daemon.clone(), newest),
        machine,
        writer,
        negotiated: false,
        ended: false,
        watchdog: WatchdogLimit::default(),
    };
    session.send(&message::greeting()).await?;
    let mut input = Input::default();
    let mut buffer = [0; READ];
    loop {
        while let Some(value) = input.next() {
            session.request(value).await?;
            if session.has_ended().await? {
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
                if !more || session.has_ended().await? {
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
    /// The machine's end was among the events: it may run again by now, but this client's machine is gone.
    ended: bool,
    watchdog: WatchdogLimit,
}

impl<W: AsyncWrite + Unpin> Session<W> {
    async fn request(&mut self, value: Result<Value, InputError>) -> io::Result<()> {
        // What came before is not for a client that negotiates only now; and if that was the end, there is nothing to do.
        self.send_events().await?;
        if self.ended {
            return Ok(());
        }
        let (id, request) = match value {
            Ok(value) => message::parse(value),
            Err(InputError::Syntax(what)) => (
                None,
                Err(QmpError::generic(format!("JSON parse error, {what}"))),
            ),
            Err(InputError::TooLong) => {
                let error = QmpError::generic("JSON token size limit exceeded");
                self.send(&message::reply(None, Err(error))).await?;
                return Err(io::ErrorKind::InvalidData.into());
            }
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
        // The only one that QEMU knows.
        let mut names = enable.iter().enumerate();
        if let Some((n, name)) = names.find(|(_, name)| *name != "oob") {
            return Err(not_accepted(&format!("enable[{n}]"), name));
        }
        arguments.finish()?;
        if let Some(capability) = enable.first() {
            return Err(QmpError::generic(format!(
                "Capability {capability} not available"
            )));
        }
        self.negotiated = true;
        Ok(json!({}))
    }

    /// Whether the machine has ended, and the client has all its events: then it is disconnected, as by the end of a
    /// QEMU process.
    async fn has_ended(&mut self) -> io::Result<bool> {
        if !self.ended && self.machine.vm.status().end.is_none() {
            return Ok(false);
        }
        // SHUTDOWN was in the log before the status said so.
        self.send_events().await?;
        Ok(true)
    }

    /// Waits until there are events to send; false if there will be none any more.
    async fn more_events(&mut self) -> bool {
        let held = self.watchdog.due();
        let held = async {
            match held {
                Some(time) => sleep_until(time).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            more = self.events.changed() => more,
            () = held => true,
        }
    }

    /// Sends the machine's events up to now.
    async fn send_events(&mut self) -> io::Result<()> {
        let now = Instant::now();
        if self.watchdog.due().is_some_and(|due| due <= now)
            && let Some(event) = self.watchdog.take(now)
        {
            self.send_event(&event).await?;
        }
        while !self.ended {
            // A client too slow for the log cannot be told so in QMP: it loses its connection, and knows.
            let events = self.events.read().map_err(io::Error::other)?;
            if events.is_empty() {
                return Ok(());
            }
            for event in events {
                if event.vm_id != self.machine.vm.record.id {
                    continue;
                }
                if matches!(event.kind, Some(Kind::Ended(_))) {
                    self.ended = true;
                    return Ok(());
                }
                if !self.negotiated {
                    continue;
                }
                let event = match event.kind {
                    Some(Kind::Watchdog(_)) => self.watchdog.pass(event, Instant::now()),
                    _ => Some(event),
                };
                if let Some(event) = event {
                    self.send_event(&event).await?;
                }
            }
        }
        Ok(())
    }

    async fn send_event(&mut self, event: &Event) -> io::Result<()> {
        match &event.kind {
            Some(kind) if events::is_qemus(kind) => self.send(&events::message(event, kind)).await,
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
