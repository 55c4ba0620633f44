//! Tests of the run-state core against its specification, with a fake machine.
//!
//! Each file holds one subject. A test compares the whole trace of a [`fake::Rig`]: every call of the machine, handler
//! and notifier, and every event with its state, in one order.

mod actions;
mod cleanup;
mod commands;
mod ending;
mod failure;
mod fake;
mod names;
mod observers;
mod outside;
mod pass;
mod raise;
mod random;
mod stop_start;
mod suspend;
mod traces;
mod transitions;
