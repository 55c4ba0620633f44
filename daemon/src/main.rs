//! `vmd`: hosts virtual machines.
#![forbid(unsafe_code)]

fn main() {}
