//! The command on a machine's balloon.

use super::{
    super::{args::Balloon, failure::Failure, output::Output},
    machines::show,
};
use crate::{Client, json};

pub(super) async fn run(
    client: &Client,
    command: &Balloon,
    out: &mut Output,
) -> Result<(), Failure> {
    let name = &command.name;
    let doing = || format!("use the balloon of '{name}'");
    if let Some(size) = command.size {
        let reply = client.balloon(name, size).await;
        return show(name, &reply.map_err(Failure::call(doing()))?, out);
    }
    let balloon = client.query_balloon(name).await;
    let balloon = balloon.map_err(Failure::call(doing()))?;
    let line = || {
        let bytes = |bytes: Option<u64>| bytes.map_or_else(|| "?".to_owned(), crate::format_size);
        let stats = balloon.stats.unwrap_or_default();
        format!(
            "{name}: has {} of {} asked for, {} available to programs",
            crate::format_size(balloon.actual_bytes),
            crate::format_size(balloon.target_bytes),
            bytes(stats.available_memory),
        )
    };
    out.show(|| json::balloon(name, &balloon), line)
}
