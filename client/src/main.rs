//! `vmctl`: drives the machines of a `vmd` daemon.
#![forbid(unsafe_code)]

fn main() {}
