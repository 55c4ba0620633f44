//! A device's connections: which of them a packet belongs to, and whose turn it is to speak.

use std::collections::{HashMap, VecDeque};

use super::{
    CONNECTIONS_MAX, HOST_CID, RESETS_MAX, VsockConfig,
    connection::{Connection, Credit, Fate, Said},
    host::{Event, Waits, Whose, path_of},
    packet::{Header, Ports, REQUEST, RST, STREAM},
};

/// The first of the host's ports for connections that its programs begin; as many as this follow.
const FIRST_PORT: u32 = 1 << 30;
/// Most things that are waited for, before packets have to wait.
const WAITS_MAX: usize = 8 * CONNECTIONS_MAX;

/// A connection, or one to be.
enum Entry {
    /// The guest wants it: the host's socket is being connected.
    Connecting { number: u64, credit: Credit },
    /// There is a socket for it.
    Open(Connection),
}

pub(super) struct Mux {
    config: VsockConfig,
    entries: HashMap<Ports, Entry>,
    /// Programs of the host's that have not said yet which port they want.
    greeting: usize,
    accepts: bool,
    /// Those that may have something to say, each once.
    ready: VecDeque<Ports>,
    /// Answers to packets that belong to no connection.
    resets: VecDeque<Header>,
    waits: Waits,
    last_port: u32,
    last_number: u64,
}

impl Mux {
    pub(super) fn new(config: VsockConfig) -> Self {
        Self {
            config,
            entries: HashMap::new(),
            greeting: 0,
            accepts: true,
            ready: VecDeque::new(),
            resets: VecDeque::new(),
            waits: Waits::default(),
            last_port: FIRST_PORT - 1,
            last_number: 0,
        }
    }

    /// Waits for what the host does. May be cancelled.
    pub(super) async fn event(&mut self) -> Event {
        let accepts = self.accepts && !self.is_full();
        tokio::select! {
            event = self.waits.next() => event,
            accepted = self.config.listener.accept(), if accepts => {
                Event::Accepted(accepted.map(|(stream, _)| stream))
            }
        }
    }

    /// Acts on it.
    pub(super) fn on(&mut self, event: Event) {
        match event {
            Event::Accepted(Ok(stream)) => {
                self.greeting += 1;
                self.waits.greeting(stream);
            }
            Event::Accepted(Err(_)) => {
                self.accepts = false;
                self.waits.accept_again();
            }
            Event::AcceptAgain => self.accepts = true,
            Event::Greeted(greeted) => {
                self.greeting -= 1;
                if let Some((stream, guest)) = greeted {
                    let whose = (self.free_port(guest), self.number());
                    let connection = Connection::wanted(whose, stream, &self.waits);
                    self.entries.insert(whose.0, Entry::Open(connection));
                    self.act(whose.0, Fate::Speaks);
                }
            }
            Event::Connected(whose, stream) => {
                let (ports, number) = whose;
                let credit = match self.entries.get(&ports) {
                    Some(Entry::Connecting {
                        number: this,
                        credit,
                    }) if *this == number => *credit,
                    // The guest did not wait for it.
                    _ => return,
                };
                let Ok(stream) = stream else {
                    return self.act(ports, Fate::Reset);
                };
                let connection = Connection::accepted(whose, stream, credit);
                self.entries.insert(ports, Entry::Open(connection));
                self.act(ports, Fate::Speaks);
            }
            Event::Readable(whose) => self.with(whose, |connection, _| connection.readable()),
            Event::Writable(whose) => self.with(whose, Connection::writable),
            Event::HungUp(whose) => self.with(whose, |connection, _| connection.hung_up()),
            Event::Expired(whose) => self.with(whose, |_, _| Fate::Reset),
        }
    }

    /// Whether a packet of the guest's may be taken now. A guest that does not take the answers has to wait.
    pub(super) fn may_receive(&self) -> bool {
        self.resets.len() < RESETS_MAX && self.waits.len() < WAITS_MAX
    }

    /// A packet of the guest's, with as much of its data as a connection may ever take.
    pub(super) fn receive(&mut self, header: &Header, data: &[u8]) {
        if header.src_cid != u64::from(self.config.cid) {
            // Nobody's: there is nobody to answer.
            return;
        }
        let ports = header.ports();
        let is_ours = header.dst_cid == HOST_CID && header.kind == STREAM;
        let (waits, is_full) = (&self.waits, self.is_full());
        let fate = match self.entries.get_mut(&ports).filter(|_| is_ours) {
            Some(Entry::Open(connection)) => connection.receive(header, data, waits),
            Some(Entry::Connecting { .. }) if header.op == RST => Fate::Gone,
            Some(Entry::Connecting { .. }) => Fate::Reset,
            None if header.op == RST => return,
            None if is_ours && header.op == REQUEST && !is_full => {
                return self.connect(ports, header);
            }
            None => return self.resets.push_back(header.reset()),
        };
        self.act(ports, fate);
    }

    /// Whether there may be a packet for the guest.
    pub(super) fn has_next(&self) -> bool {
        !self.resets.is_empty() || !self.ready.is_empty()
    }

    /// The next packet for the guest, which has room for `room` bytes of `data`.
    pub(super) fn next(&mut self, room: usize, data: &mut Vec<u8>) -> Option<Header> {
        loop {
            data.clear();
            if let Some(reset) = self.resets.pop_front() {
                return Some(reset);
            }
            let ports = self.ready.pop_front()?;
            let Some(Entry::Open(connection)) = self.entries.get_mut(&ports) else {
                continue;
            };
            connection.is_queued = false;
            match connection.next(room, data, &self.waits) {
                Said::Nothing => {}
                Said::Over(fate) => self.act(ports, fate),
                Said::Packet(op, flags) => {
                    let header = connection.header(self.config.cid, op, flags, data.len());
                    // After the others, for what else it has to say.
                    self.act(ports, Fate::Speaks);
                    return Some(header);
                }
            }
        }
    }

    fn is_full(&self) -> bool {
        self.entries.len() + self.greeting >= CONNECTIONS_MAX
    }

    /// Connects to the host's socket that the guest wants.
    fn connect(&mut self, ports: Ports, header: &Header) {
        let number = self.number();
        let path = path_of(&self.config.path, ports.host);
        let resolve = self.config.resolve.clone();
        self.waits.connect((ports, number), resolve, path);
        let credit = Credit::of(header);
        self.entries
            .insert(ports, Entry::Connecting { number, credit });
    }

    /// Has the connection act, unless it is another one by now.
    fn with(&mut self, whose: Whose, act: impl FnOnce(&mut Connection, &Waits) -> Fate) {
        let (ports, _) = whose;
        if let Some(Entry::Open(connection)) = self.entries.get_mut(&ports)
            && connection.whose() == whose
        {
            let fate = act(connection, &self.waits);
            self.act(ports, fate);
        }
    }

    fn act(&mut self, ports: Ports, fate: Fate) {
        if fate == Fate::Speaks {
            if let Some(Entry::Open(connection)) = self.entries.get_mut(&ports)
                && !connection.is_queued
            {
                connection.is_queued = true;
                self.ready.push_back(ports);
            }
            return;
        }
        if fate == Fate::Reset {
            let reset = Header::to_guest(self.config.cid, ports, RST);
            self.resets.push_back(reset);
        }
        if let Some(Entry::Open(connection)) = self.entries.remove(&ports)
            && connection.is_queued
        {
            self.ready.retain(|other| *other != ports);
        }
    }

    fn number(&mut self) -> u64 {
        self.last_number += 1;
        self.last_number
    }

    /// Ports that no connection has.
    fn free_port(&mut self, guest: u32) -> Ports {
        loop {
            self.last_port = FIRST_PORT + (self.last_port + 1) % FIRST_PORT;
            let ports = Ports {
                host: self.last_port,
                guest,
            };
            if !self.entries.contains_key(&ports) {
                return ports;
            }
        }
    }
}
