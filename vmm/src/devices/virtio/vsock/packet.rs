//! A packet's header (section 5.10.6).
//!
//! | offset | field | offset | field |
//! | --- | --- | --- | --- |
//! | 0 | source CID | 28 | type: 1 is a stream |
//! | 8 | destination CID | 30 | operation |
//! | 16 | source port | 32 | flags |
//! | 20 | destination port | 36 | the sender's buffer, in bytes |
//! | 24 | bytes of data that follow | 40 | bytes that the sender took out of it |

use super::HOST_CID;

/// Bytes of a header.
pub(super) const HEADER: usize = 44;

/// A stream socket.
pub(super) const STREAM: u16 = 1;

// Operations.
pub(super) const REQUEST: u16 = 1;
pub(super) const RESPONSE: u16 = 2;
pub(super) const RST: u16 = 3;
pub(super) const SHUTDOWN: u16 = 4;
pub(super) const RW: u16 = 5;
pub(super) const CREDIT_UPDATE: u16 = 6;
pub(super) const CREDIT_REQUEST: u16 = 7;

// Flags of `SHUTDOWN`: what the sender does not do any more.
pub(super) const NO_RECEIVE: u32 = 1 << 0;
pub(super) const NO_SEND: u32 = 1 << 1;
pub(super) const NEITHER: u32 = NO_RECEIVE | NO_SEND;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) src_cid: u64,
    pub(super) dst_cid: u64,
    pub(super) src_port: u32,
    pub(super) dst_port: u32,
    pub(super) len: u32,
    pub(super) kind: u16,
    pub(super) op: u16,
    pub(super) flags: u32,
    pub(super) buf_alloc: u32,
    pub(super) fwd_cnt: u32,
}

/// A connection's ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Ports {
    pub(super) host: u32,
    pub(super) guest: u32,
}

impl Header {
    pub(super) fn read(bytes: &[u8; HEADER]) -> Self {
        let (src_cid, rest) = take(bytes);
        let (dst_cid, rest) = take(rest);
        let (src_port, rest) = take(rest);
        let (dst_port, rest) = take(rest);
        let (len, rest) = take(rest);
        let (kind, rest) = take(rest);
        let (op, rest) = take(rest);
        let (flags, rest) = take(rest);
        let (buf_alloc, rest) = take(rest);
        let (fwd_cnt, _) = take(rest);
        Self {
            src_cid: u64::from_le_bytes(src_cid),
            dst_cid: u64::from_le_bytes(dst_cid),
            src_port: u32::from_le_bytes(src_port),
            dst_port: u32::from_le_bytes(dst_port),
            len: u32::from_le_bytes(len),
            kind: u16::from_le_bytes(kind),
            op: u16::from_le_bytes(op),
            flags: u32::from_le_bytes(flags),
            buf_alloc: u32::from_le_bytes(buf_alloc),
            fwd_cnt: u32::from_le_bytes(fwd_cnt),
        }
    }

    pub(super) fn to_bytes(self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(HEADER);
        bytes.extend(self.src_cid.to_le_bytes());
        bytes.extend(self.dst_cid.to_le_bytes());
        bytes.extend(self.src_port.to_le_bytes());
        bytes.extend(self.dst_port.to_le_bytes());
        bytes.extend(self.len.to_le_bytes());
        bytes.extend(self.kind.to_le_bytes());
        bytes.extend(self.op.to_le_bytes());
        bytes.extend(self.flags.to_le_bytes());
        bytes.extend(self.buf_alloc.to_le_bytes());
        bytes.extend(self.fwd_cnt.to_le_bytes());
        bytes
    }

    /// The connection that a packet of the guest's belongs to.
    pub(super) fn ports(&self) -> Ports {
        Ports {
            host: self.dst_port,
            guest: self.src_port,
        }
    }

    /// One to the guest, for the connection `ports`.
    pub(super) fn to_guest(cid: u32, ports: Ports, op: u16) -> Self {
        Self {
            src_cid: HOST_CID,
            dst_cid: cid.into(),
            src_port: ports.host,
            dst_port: ports.guest,
            kind: STREAM,
            op,
            ..Self::default()
        }
    }

    /// What says that there is no such connection as the guest means.
    pub(super) fn reset(&self) -> Self {
        Self {
            src_cid: self.dst_cid,
            dst_cid: self.src_cid,
            src_port: self.dst_port,
            dst_port: self.src_port,
            kind: self.kind,
            op: RST,
            ..Self::default()
        }
    }
}

/// The next `N` bytes, and the rest; zeroes if there are none.
fn take<const N: usize>(bytes: &[u8]) -> ([u8; N], &[u8]) {
    match bytes.split_first_chunk() {
        Some((first, rest)) => (*first, rest),
        None => ([0; N], &[]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_is_as_the_specification_has_it() {
        let bytes: Vec<u8> = (1..=HEADER as u8).collect();
        let header = Header::read(bytes.as_slice().try_into().unwrap());
        assert_eq!(header.src_cid, 0x0807_0605_0403_0201);
        assert_eq!((header.src_port, header.len), (0x1413_1211, 0x1c1b_1a19));
        assert_eq!((header.kind, header.op), (0x1e1d, 0x201f));
        assert_eq!(header.fwd_cnt, 0x2c2b_2a29);
        assert_eq!(header.to_bytes(), bytes);
    }
}
