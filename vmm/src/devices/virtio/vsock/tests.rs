//! The socket device, with a guest that makes its own packets and programs of the host's.

mod flow;
mod hostile;
mod rig;
