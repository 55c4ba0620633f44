//! The device's task: packets out of the tx queue, packets into the rx queue.

use std::{
    future::ready,
    io::{Read, Write},
};

use super::{
    super::{
        DeviceError, Driver,
        queue::{QueueError, VirtQueue},
    },
    BUFFER, RX, TX, VsockConfig,
    mux::Mux,
    packet::{HEADER, Header},
};

/// Most packets in each direction before others get their turn.
const BATCH_MAX: usize = 16;

/// Serves a driver and the host's programs until the driver does what it must not. Dropped, it closes the connections.
pub(super) async fn serve(config: VsockConfig, mut driver: Driver) -> Result<(), DeviceError> {
    let (mut rx, mut tx) = (driver.take(RX)?, driver.take(TX)?);
    let mut mux = Mux::new(config);
    let mut data = Vec::new();
    let mut may_be_more = false;
    loop {
        tokio::select! {
            biased;
            // First: a guest that always has another packet must not keep the host's programs waiting.
            event = mux.event() => mux.on(event),
            () = ready(()), if may_be_more => {}
            kicked = rx.kicked() => kicked?,
            kicked = tx.kicked() => kicked?,
        }
        let _inside = driver.gate.enter().await;
        may_be_more = false;
        for _ in 0..BATCH_MAX {
            let sent = give(&mut mux, &mut rx, &mut data)?;
            let received = take(&mut mux, &mut tx, &mut data)?;
            may_be_more = sent || received;
            if !may_be_more {
                break;
            }
        }
    }
}

/// Takes a packet of the guest's; whether there was one.
fn take(mux: &mut Mux, tx: &mut VirtQueue, data: &mut Vec<u8>) -> Result<bool, QueueError> {
    if !mux.may_receive() {
        return Ok(false);
    }
    let Some(chain) = tx.pop()? else {
        return Ok(false);
    };
    let mut reader = tx.reader(&chain)?;
    let mut header = [0; HEADER];
    let too_short = |_| QueueError::Request("of a socket has no header");
    reader.read_exact(&mut header).map_err(too_short)?;
    let header = Header::read(&header);
    let len = header.len as usize;
    if len > reader.available_bytes() {
        return Err(QueueError::Request("of a socket is shorter than it says"));
    }
    // A connection that is sent more than it has room for is reset, and needs none of it.
    data.resize(len.min(BUFFER as usize), 0);
    reader.read_exact(data)?;
    drop(reader);
    mux.receive(&header, data);
    tx.push(&chain, 0)?;
    Ok(true)
}

/// Gives the guest a packet; whether there was one, and a place for it.
fn give(mux: &mut Mux, rx: &mut VirtQueue, data: &mut Vec<u8>) -> Result<bool, QueueError> {
    if !mux.has_next() {
        return Ok(false);
    }
    let Some(chain) = rx.pop()? else {
        return Ok(false);
    };
    let mut writer = rx.writer(&chain)?;
    let room = writer.available_bytes();
    let room = room.checked_sub(HEADER).filter(|room| *room > 0);
    let room = room.ok_or(QueueError::Request("for a packet has no room for one"))?;
    let Some(header) = mux.next(room, data) else {
        drop(writer);
        rx.unpop();
        return Ok(false);
    };
    writer.write_all(&header.to_bytes())?;
    writer.write_all(data)?;
    drop(writer);
    rx.push(&chain, (HEADER + data.len()) as u32)?;
    Ok(true)
}
