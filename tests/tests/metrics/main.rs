//! Metrics of a real daemon: what they count, what they cost, and that dashboard and alerts ask for what there is.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

mod cpu_time;
mod deploy;
mod http;
mod machines;
mod scrape;
mod waits;
