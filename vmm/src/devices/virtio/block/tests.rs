//! The block device, driven by a driver that writes its own rings.

mod engines;
mod errors;
mod hostile;
mod queues;
mod rate;
mod requests;
mod resize;
mod rig;
