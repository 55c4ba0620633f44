//! The network device, driven by a driver that writes its own rings, on a wire that does what it is told.

mod control;
mod hostile;
mod limits;
mod link;
mod passt;
mod receive;
mod rig;
mod transmit;
