//! One client of the QMP door.

use std::{io, sync::Arc};

use serde_json::{Value, json};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    time::{Instant, sleep_until},
};
use vmd_proto::v1::{Event, event::Kind};

use super::{
    arguments::Arguments,
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
    let mut session = Session {
        machine,
        writer,
        events: None,
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
    /// The client's place among the events, from its negotiation on.
    events: Option<Cursor>,
    watchdog: WatchdogLimit,
}

impl<W: AsyncWrite + Unpin> Session<W> {
    async fn request(&mut self, value: Result<Value, InputError>) -> io::Result<()> {
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
            Ok(request) if self.events.is_none() => self.negotiate(request),
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
        if let Some(capability) = arguments.strings("enable")?.first() {
            return Err(QmpError::generic(format!(
                "Capability {capability} not available"
            )));
        }
        arguments.finish()?;
        let newest = self.machine.daemon.events.newest();
        self.events = Some(Cursor::new(self.machine.daemon.clone(), newest));
        Ok(json!({}))
    }

    /// Whether the machine has ended, and the client has all its events: then it is disconnected, as by the end of a
    /// QEMU process.
    async fn has_ended(&mut self) -> io::Result<bool> {
        if self.machine.vm.status().end.is_none() {
            return Ok(false);
        }
        // SHUTDOWN was in the log before the status said so.
        self.send_events().await?;
        Ok(true)
    }

    /// Waits until there are events to send; false if there will be none any more.
    async fn more_events(&mut self) -> bool {
        let held = self.watchdog.due();
        let Some(cursor) = &mut self.events else {
            return std::future::pending().await;
        };
        let held = async {
            match held {
                Some(time) => sleep_until(time).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            more = cursor.changed() => more,
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
        loop {
            let Some(cursor) = &mut self.events else {
                return Ok(());
            };
            // A client too slow for the log cannot be told so in QMP: it loses its connection, and knows.
            let events = cursor.read().map_err(io::Error::other)?;
            if events.is_empty() {
                return Ok(());
            }
            for event in events {
                if event.vm_id != self.machine.vm.record.id {
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
