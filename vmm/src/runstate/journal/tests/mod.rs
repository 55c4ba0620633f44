//! Tests of the journal: what is recorded replays, and what was changed is refused.

mod altered;
mod golden;
mod random;
mod rig;
mod scenes;
mod spelling;
