//! Whether the program at the other end of a Unix socket has gone.

use std::{
    io::{self, ErrorKind},
    os::fd::BorrowedFd,
};

use tokio::{io::Interest, net::UnixStream};

/// Returns once the other side of a socket is closed in both directions. Nobody else's waiting for the socket is
/// disturbed: this waits through a descriptor of its own.
pub(super) async fn hung_up(socket: BorrowedFd<'_>) -> io::Result<()> {
    let socket = UnixStream::from_std(socket.try_clone_to_owned()?.into())?;
    while !socket.ready(Interest::WRITABLE).await?.is_write_closed() {
        // That there is room to write is no news; what comes next may be.
        let seen = || Err::<(), _>(ErrorKind::WouldBlock.into());
        let _ = socket.try_io(Interest::WRITABLE, seen);
    }
    Ok(())
}
