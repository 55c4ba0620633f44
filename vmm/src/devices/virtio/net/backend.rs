//! What is at the other end of a network card's cable.

use std::{
    fmt::Debug,
    io,
    task::{Context, Poll},
};

use vm_memory::VolatileSlice;

/// Takes a card's frames to a network, and back. Each frame has its header (section 5.1.6) before it, [`HEADER`] bytes.
///
/// A pair is a queue to receive by and one to send by; the calls of one direction of a pair come one after the other.
///
/// [`HEADER`]: super::HEADER
pub trait Backend: Debug + Send + Sync {
    /// Those of the features of section 5.1.3 that need it, and that it has.
    fn features(&self) -> u64;

    /// Most pairs, from 1 on.
    fn pairs(&self) -> u16 {
        1
    }

    /// A driver begins, with these features and one pair. May block. An error means that there is no connection.
    fn start(&self, features: u64) -> io::Result<()>;

    /// What received frames may leave to the driver, from now on: some of the features that it began with. May block.
    fn set_offloads(&self, features: u64) -> io::Result<()> {
        let _ = features;
        Ok(())
    }

    /// The first `pairs` are in use from now on. May block.
    fn set_pairs(&self, pairs: u16) -> io::Result<()> {
        let _ = pairs;
        Ok(())
    }

    /// Waits until there may be a frame to receive, or the connection is lost.
    fn poll_receive(&self, pair: u16, context: &mut Context<'_>) -> Poll<io::Result<()>>;

    /// Writes the next frame to `into`, as far as there is room, and says how long it was. Does not wait: without a
    /// frame the error is [`io::ErrorKind::WouldBlock`]. Any other means that the connection is lost.
    fn receive(&self, pair: u16, into: &[VolatileSlice<'_>]) -> io::Result<usize>;

    /// Waits until a frame may be sent.
    fn poll_send(&self, pair: u16, context: &mut Context<'_>) -> Poll<io::Result<()>>;

    /// Sends the frame in `from`, in whole. Does not wait: without room the error is [`io::ErrorKind::WouldBlock`]. After
    /// any other the frame is lost; with [`io::ErrorKind::NotConnected`] the connection is, too.
    fn send(&self, pair: u16, from: &[VolatileSlice<'_>]) -> io::Result<()>;

    /// Waits until nothing of what was sent is left here.
    fn poll_flush(&self, pair: u16, context: &mut Context<'_>) -> Poll<()> {
        let _ = (pair, context);
        Poll::Ready(())
    }
}
