//! One port: its client, and the bytes both ways.

use std::{
    collections::VecDeque,
    io::{self, ErrorKind, Read, Write},
    os::fd::AsFd,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    net::UnixStream,
    sync::{Notify, watch},
    time::sleep,
};

use super::{
    super::{
        DeviceError,
        hung_up::hung_up,
        queue::{Chain, QueueError, VirtQueue},
        worker::Gate,
    },
    BUFFER, PortConfig,
    control::{CONSOLE_PORT, PORT_ADD, PORT_NAME, PORT_OPEN, Untold},
};

/// When the host is out of descriptors: until the next try.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);
/// Most bytes for the guest at a time.
const CHUNK: usize = 16 << 10;

pub(super) struct Port {
    config: PortConfig,
    /// Kept over a reset.
    client: Mutex<Option<Arc<UnixStream>>>,
    untold: Mutex<Untold>,
    untold_changed: Notify,
    is_open_in_guest: watch::Sender<bool>,
}

impl Port {
    pub(super) fn new(config: PortConfig) -> Arc<Self> {
        Arc::new(Self {
            config,
            client: Mutex::default(),
            untold: Mutex::default(),
            untold_changed: Notify::new(),
            is_open_in_guest: watch::Sender::new(false),
        })
    }

    /// A driver is ready, which has opened the port or not.
    pub(super) fn begin(&self, is_open: bool) {
        *lock(&self.untold) = Untold::default();
        self.is_open_in_guest.send_replace(is_open);
    }

    /// The driver knows of control messages.
    pub(super) fn ready_device(&self) {
        lock(&self.untold).add = true;
    }

    /// The driver has made what is the guest's of the port.
    pub(super) fn ready(&self) {
        *lock(&self.untold) = Untold {
            add: false,
            console: self.config.is_console,
            name: true,
            closed: false,
            open: self.is_open(),
        };
    }

    pub(super) fn guest_opens(&self, is_open: bool) {
        self.is_open_in_guest.send_replace(is_open);
    }

    /// Told when there is something to tell the guest.
    pub(super) fn untold_changed(&self) -> &Notify {
        &self.untold_changed
    }

    pub(super) fn is_untold(&self) -> bool {
        let Untold {
            add,
            console,
            name,
            closed,
            open,
        } = *lock(&self.untold);
        add || console || name || closed || open
    }

    /// The next message for the guest: event, value, name.
    pub(super) fn tell(&self) -> Option<(u16, u16, &str)> {
        let mut untold = lock(&self.untold);
        let take = std::mem::take::<bool>;
        if take(&mut untold.add) {
            return Some((PORT_ADD, 1, ""));
        }
        if take(&mut untold.console) {
            return Some((CONSOLE_PORT, 1, ""));
        }
        if take(&mut untold.name) {
            return Some((PORT_NAME, 1, &self.config.name));
        }
        if take(&mut untold.closed) {
            return Some((PORT_OPEN, 0, ""));
        }
        take(&mut untold.open).then_some((PORT_OPEN, 1, ""))
    }

    /// Whether the host's side is open. A console's always is.
    fn is_open(&self) -> bool {
        self.config.is_console || lock(&self.client).is_some()
    }

    fn set_client(&self, client: Option<Arc<UnixStream>>) {
        let is_open = client.is_some();
        *lock(&self.client) = client;
        if self.config.is_console {
            return;
        }
        {
            let mut untold = lock(&self.untold);
            // Of a client that the guest was not told of, it needs not be told that it has gone.
            untold.closed |= !is_open && !untold.open;
            untold.open = is_open;
        }
        self.untold_changed.notify_one();
    }

    /// Serves the port, with one client after the other.
    pub(super) async fn serve(
        &self,
        gate: &Gate,
        to_guest: VirtQueue,
        from_guest: VirtQueue,
    ) -> Result<(), DeviceError> {
        let mut lane = Lane {
            gate,
            to_guest,
            from_guest,
            chain: None,
            buffer: VecDeque::new(),
            is_console: self.config.is_console,
        };
        loop {
            let client = lock(&self.client).clone();
            let client = match client {
                Some(client) => client,
                None => {
                    let client = Arc::new(tokio::select! {
                        client = self.accept() => client,
                        lost = lane.lose_output() => return lost,
                    });
                    self.set_client(Some(client.clone()));
                    client
                }
            };
            lane.serve(&client, self.is_open_in_guest.subscribe())
                .await?;
            lane.buffer.clear();
            self.set_client(None);
        }
    }

    async fn accept(&self) -> UnixStream {
        loop {
            match self.config.listener.accept().await {
                Ok((stream, _)) => return stream,
                Err(_) => sleep(ACCEPT_AGAIN).await,
            }
        }
    }
}

/// A port's queues.
struct Lane<'a> {
    gate: &'a Gate,
    to_guest: VirtQueue,
    from_guest: VirtQueue,
    /// What the guest sends, and how much of it was taken: it may be more than the buffer takes.
    chain: Option<(Chain, usize)>,
    /// What waits for the client.
    buffer: VecDeque<u8>,
    is_console: bool,
}

impl Lane<'_> {
    /// Serves one client until it has gone.
    async fn serve(
        &mut self,
        client: &UnixStream,
        mut is_open_in_guest: watch::Receiver<bool>,
    ) -> Result<(), DeviceError> {
        let (mut has_ended, mut guest_has_room) = (false, true);
        let gone = hung_up(client.as_fd());
        let mut gone = std::pin::pin!(gone);
        // What was there before this client is looked at first.
        let mut is_first = true;
        loop {
            let may_read = *is_open_in_guest.borrow_and_update() && !has_ended && guest_has_room;
            let mut is_readable = false;
            let mut has_gone = false;
            tokio::select! {
                () = std::future::ready(()), if is_first => is_first = false,
                _ = &mut gone, if has_ended || !may_read => has_gone = true,
                _ = client.readable(), if may_read => is_readable = true,
                _ = client.writable(), if !self.buffer.is_empty() => {}
                kicked = self.to_guest.kicked() => {
                    kicked?;
                    guest_has_room = true;
                }
                kicked = self.from_guest.kicked() => kicked?,
                // The sender is the port's own.
                _ = is_open_in_guest.changed() => {}
            }
            if is_readable {
                let _inside = self.gate.enter().await;
                match self.read(client)? {
                    Got::Nothing => {}
                    Got::NoRoom => guest_has_room = false,
                    Got::End => has_ended = true,
                    Got::Gone => return Ok(()),
                }
            }
            if self.write(client).await?.is_err() {
                return Ok(());
            }
            // What the guest sent before is delivered as far as there is somebody to take it.
            if has_gone {
                return Ok(());
            }
        }
    }

    /// From the client to the guest.
    fn read(&mut self, client: &UnixStream) -> Result<Got, QueueError> {
        let Some(chain) = self.to_guest.pop()? else {
            return Ok(Got::NoRoom);
        };
        let mut writer = self.to_guest.writer(&chain)?;
        let room = writer.available_bytes().min(CHUNK);
        if room == 0 {
            return Err(QueueError::Request("for a port's input has no room for it"));
        }
        let mut bytes = vec![0; room];
        let got = match client.try_read(&mut bytes) {
            Ok(0) => Got::End,
            Ok(count) => {
                writer.write_all(bytes.get(..count).unwrap_or_default())?;
                drop(writer);
                self.to_guest.push(&chain, count as u32)?;
                return Ok(Got::Nothing);
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => Got::Nothing,
            Err(_) => Got::Gone,
        };
        drop(writer);
        self.to_guest.unpop();
        Ok(got)
    }

    /// From the guest to the client, until either has no more, or no more room. The inner error is the client's.
    async fn write(&mut self, client: &UnixStream) -> Result<io::Result<()>, QueueError> {
        loop {
            {
                let _inside = self.gate.enter().await;
                self.fill()?;
            }
            if self.buffer.is_empty() {
                return Ok(Ok(()));
            }
            match client.try_write(self.buffer.as_slices().0) {
                Ok(count) => drop(self.buffer.drain(..count)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(Ok(())),
                Err(error) => return Ok(Err(error)),
            }
        }
    }

    /// Takes what the guest sends, as much as there is room for; of a console all, and what there is no room for is lost.
    fn fill(&mut self) -> Result<(), QueueError> {
        // Each time it is called: as much as the buffer holds, in any case.
        for _ in 0..QUEUE_TURN {
            let (chain, taken) = match self.chain.take() {
                Some(begun) => begun,
                None => match self.from_guest.pop()? {
                    Some(chain) => (chain, 0),
                    None => return Ok(()),
                },
            };
            let mut reader = self.from_guest.reader(&chain)?;
            let skipped = reader.split_at(taken)?;
            let mut rest = skipped;
            let room = BUFFER - self.buffer.len();
            let count = rest.available_bytes().min(room);
            let mut bytes = vec![0; count];
            rest.read_exact(&mut bytes)?;
            let is_done = rest.available_bytes() == 0 || self.is_console;
            drop((reader, rest));
            self.buffer.extend(bytes);
            if !is_done {
                self.chain = Some((chain, taken + count));
                return Ok(());
            }
            self.from_guest.push(&chain, 0)?;
        }
        Ok(())
    }

    /// While there is no client: a console's output is lost, that of other ports waits.
    async fn lose_output(&mut self) -> Result<(), DeviceError> {
        if !self.is_console {
            return std::future::pending().await;
        }
        loop {
            let mut may_be_more = true;
            while may_be_more {
                let _inside = self.gate.enter().await;
                may_be_more = self.lose_some()?;
            }
            self.from_guest.kicked().await?;
        }
    }

    /// Whether there may be more.
    fn lose_some(&mut self) -> Result<bool, QueueError> {
        for _ in 0..QUEUE_TURN {
            let Some(chain) = self.from_guest.pop()? else {
                return Ok(false);
            };
            self.from_guest.push(&chain, 0)?;
        }
        Ok(true)
    }
}

/// Most requests that are taken at a time.
const QUEUE_TURN: usize = 64;

/// What came of reading from a client.
enum Got {
    /// Something or not; there may be more.
    Nothing,
    /// The guest has no place for it.
    NoRoom,
    /// It sends no more.
    End,
    Gone,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
