//! One connection: what it has to say to the guest, and what the guest says to it (section 5.10.6).
//!
//! ```text
//!   guest --RW--> buffer (BUFFER bytes at most) --> Unix socket     forwarded: what is through; told to the guest, so
//!                                                                   that it knows what there is room for
//!   guest <--RW-- as much as it has room for    <-- Unix socket     sent, taken, room: what it told
//! ```
//! Either side may end one direction and go on with the other. The end of both is agreed on by a reset.

use std::{collections::VecDeque, io::ErrorKind, sync::Arc};

use tokio::net::UnixStream;

use super::{
    BUFFER,
    host::{Waits, Whose, close, close_receiving, close_sending},
    packet::{
        CREDIT_REQUEST, CREDIT_UPDATE, Header, NEITHER, NO_RECEIVE, NO_SEND, REQUEST, RESPONSE,
        RST, RW, SHUTDOWN,
    },
};

/// The guest is told of room once there is so much more than it knows of.
const UPDATE: u32 = BUFFER / 4;
/// Most data of a packet to the guest.
const PACKET_MAX: usize = 64 << 10;

/// What the guest has room for, by its own words.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Credit {
    room: u32,
    taken: u32,
}

impl Credit {
    pub(super) fn of(header: &Header) -> Self {
        Self {
            room: header.buf_alloc,
            taken: header.fwd_cnt,
        }
    }

    /// What may be sent after `sent` bytes. The counters wrap around; a guest that says it took what it was not sent has
    /// no room.
    fn left(self, sent: u32) -> u32 {
        self.room.saturating_sub(sent.wrapping_sub(self.taken))
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// The guest is to be asked whether it takes the connection.
    Wanted,
    /// It was asked.
    Requested,
    Established,
}

/// What becomes of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// It may have something to say.
    Speaks,
    /// It is over, and the guest is told.
    Reset,
    /// It is over, and the guest knows, or need not.
    Gone,
}

/// What it has to say.
pub(super) enum Said {
    Nothing,
    /// A packet of this operation and these flags.
    Packet(u16, u32),
    Over(Fate),
}

pub(super) struct Connection {
    whose: Whose,
    stream: Arc<UnixStream>,
    phase: Phase,
    /// It has its place in the row of those that speak.
    pub(super) is_queued: bool,

    credit: Credit,
    sent: u32,
    /// The guest was asked for more room.
    has_asked: bool,
    is_readable: bool,

    buffer: VecDeque<u8>,
    forwarded: u32,
    told: u32,
    is_writing: bool,

    /// What each side does not do any more: flags of [`SHUTDOWN`].
    guest_ends: u32,
    host_ends: u32,
    says_response: bool,
    says_shutdown: bool,
    says_update: bool,
}

impl Connection {
    /// One that a program of the host's wants: the guest is to be asked.
    pub(super) fn wanted(whose: Whose, stream: UnixStream, waits: &Waits) -> Self {
        let connection = Self::new(whose, stream, Phase::Wanted, Credit::default());
        waits.hung_up(whose, connection.stream.clone());
        connection
    }

    /// One that the guest has asked for, and is to be told of.
    pub(super) fn accepted(whose: Whose, stream: UnixStream, credit: Credit) -> Self {
        let mut connection = Self::new(whose, stream, Phase::Established, credit);
        connection.says_response = true;
        connection.is_readable = true;
        connection
    }

    fn new(whose: Whose, stream: UnixStream, phase: Phase, credit: Credit) -> Self {
        Self {
            whose,
            stream: Arc::new(stream),
            phase,
            is_queued: false,
            credit,
            sent: 0,
            has_asked: false,
            is_readable: false,
            buffer: VecDeque::new(),
            forwarded: 0,
            told: 0,
            is_writing: false,
            guest_ends: 0,
            host_ends: 0,
            says_response: false,
            says_shutdown: false,
            says_update: false,
        }
    }

    pub(super) fn whose(&self) -> Whose {
        self.whose
    }

    /// A packet of the guest's, with as much of its data as a connection may ever take.
    pub(super) fn receive(&mut self, header: &Header, data: &[u8], waits: &Waits) -> Fate {
        self.credit = Credit::of(header);
        self.has_asked = false;
        match (header.op, self.phase) {
            (RST, _) => Fate::Gone,
            (RESPONSE, Phase::Requested) => self.establish(),
            (RW, Phase::Established) => self.take(header.len, data, waits),
            (CREDIT_UPDATE, Phase::Established) => Fate::Speaks,
            (CREDIT_REQUEST, Phase::Established) => {
                self.says_update = true;
                Fate::Speaks
            }
            (SHUTDOWN, Phase::Established) => {
                self.guest_ends |= header.flags & NEITHER;
                if self.guest_ends & NO_RECEIVE != 0 {
                    close_receiving(&self.stream);
                }
                self.forward(waits)
            }
            _ => Fate::Reset,
        }
    }

    fn establish(&mut self) -> Fate {
        let (ports, _) = self.whose;
        let answer = format!("OK {}\n", ports.host);
        // The first of all that is written: there is room, unless the program has gone.
        match self.stream.try_write(answer.as_bytes()) {
            Ok(count) if count == answer.len() => {}
            _ => return Fate::Reset,
        }
        self.phase = Phase::Established;
        self.is_readable = true;
        Fate::Speaks
    }

    fn take(&mut self, len: u32, data: &[u8], waits: &Waits) -> Fate {
        let has_ended = self.guest_ends & NO_SEND != 0;
        if has_ended || self.buffer.len() + len as usize > BUFFER as usize {
            return Fate::Reset;
        }
        if self.host_ends & NO_RECEIVE != 0 {
            // It was sent before the guest knew.
            self.forwarded = self.forwarded.wrapping_add(len);
            return Fate::Speaks;
        }
        self.buffer.extend(data);
        self.forward(waits)
    }

    /// Writes what the guest sent, as far as the host takes it.
    fn forward(&mut self, waits: &Waits) -> Fate {
        while !self.buffer.is_empty() && !self.is_writing {
            match self.stream.try_write(self.buffer.as_slices().0) {
                Ok(count) => {
                    self.buffer.drain(..count);
                    self.forwarded = self.forwarded.wrapping_add(count as u32);
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    self.is_writing = true;
                    waits.writable(self.whose, self.stream.clone());
                }
                Err(_) => return Fate::Reset,
            }
        }
        self.says_update |= self.forwarded.wrapping_sub(self.told) >= UPDATE;
        if self.buffer.is_empty() {
            if self.guest_ends == NEITHER {
                return Fate::Reset;
            }
            if self.guest_ends & NO_SEND != 0 {
                close_sending(&self.stream);
            }
        }
        Fate::Speaks
    }

    /// There may be room to write.
    pub(super) fn writable(&mut self, waits: &Waits) -> Fate {
        self.is_writing = false;
        self.forward(waits)
    }

    /// There may be something to read.
    pub(super) fn readable(&mut self) -> Fate {
        self.is_readable = true;
        Fate::Speaks
    }

    /// The program of the host's has gone.
    pub(super) fn hung_up(&mut self) -> Fate {
        match self.phase {
            Phase::Wanted => return Fate::Gone,
            Phase::Requested => return Fate::Reset,
            Phase::Established => {}
        }
        if self.host_ends & NO_SEND == 0 {
            // What it wrote before is still to be read; then it is seen that it has gone.
            return Fate::Speaks;
        }
        self.host_ends = NEITHER;
        self.says_shutdown = true;
        self.forwarded = self.forwarded.wrapping_add(self.buffer.len() as u32);
        self.buffer.clear();
        if self.guest_ends == NEITHER {
            return Fate::Reset;
        }
        Fate::Speaks
    }

    /// The next packet for the guest, which has room for `room` bytes of `data`.
    pub(super) fn next(&mut self, room: usize, data: &mut Vec<u8>, waits: &Waits) -> Said {
        data.clear();
        match self.phase {
            Phase::Wanted => {
                self.phase = Phase::Requested;
                return Said::Packet(REQUEST, 0);
            }
            Phase::Requested => return Said::Nothing,
            Phase::Established => {}
        }
        if std::mem::take(&mut self.says_response) {
            return Said::Packet(RESPONSE, 0);
        }
        let may_read = self.host_ends & NO_SEND == 0 && self.guest_ends & NO_RECEIVE == 0;
        if self.is_readable && may_read {
            match self.read(room, data, waits) {
                Said::Nothing => {}
                said => return said,
            }
        }
        if std::mem::take(&mut self.says_shutdown) {
            if self.host_ends == NEITHER {
                waits.expiry(self.whose);
            }
            return Said::Packet(SHUTDOWN, self.host_ends);
        }
        if self.says_update {
            return Said::Packet(CREDIT_UPDATE, 0);
        }
        Said::Nothing
    }

    fn read(&mut self, room: usize, data: &mut Vec<u8>, waits: &Waits) -> Said {
        let credit = self.credit.left(self.sent) as usize;
        if credit == 0 {
            return match std::mem::replace(&mut self.has_asked, true) {
                true => Said::Nothing,
                false => Said::Packet(CREDIT_REQUEST, 0),
            };
        }
        data.resize(credit.min(room).min(PACKET_MAX), 0);
        match self.stream.try_read(data) {
            Ok(0) => {
                data.clear();
                self.host_ends |= NO_SEND;
                self.says_shutdown = true;
                // It may have closed its sending side only.
                waits.hung_up(self.whose, self.stream.clone());
                Said::Nothing
            }
            Ok(count) => {
                data.truncate(count);
                self.sent = self.sent.wrapping_add(count as u32);
                Said::Packet(RW, 0)
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                data.clear();
                self.is_readable = false;
                waits.readable(self.whose, self.stream.clone());
                Said::Nothing
            }
            Err(_) => Said::Over(Fate::Reset),
        }
    }

    /// A header for the guest, with what it is told each time.
    pub(super) fn header(&mut self, cid: u32, op: u16, flags: u32, len: usize) -> Header {
        self.says_update = false;
        self.told = self.forwarded;
        Header {
            len: len as u32,
            flags,
            buf_alloc: BUFFER,
            fwd_cnt: self.forwarded,
            ..Header::to_guest(cid, self.whose.0, op)
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        close(&self.stream);
    }
}
