//! ListVms: all machines, or a page of them.
//!
//! A page token holds the last name of the page before it, so that it stays right whatever comes and goes meanwhile.

use prost::Message;
use tonic::Status as Refusal;
use vmd_proto::v1;

use super::{errors::invalid_field, selector::Selector, stats};
use crate::{Daemon, convert};

/// Most machines of a page.
const MAX_PAGE: usize = 1000;
/// Most bytes of a page: below the 4 MiB that gRPC clients take unless told otherwise.
const MAX_BYTES: usize = 3 << 20;

/// Marks a token, so that no other text is taken for one.
const TOKEN: &str = "after:";

/// Answers a request.
pub(super) async fn list(
    daemon: &Daemon,
    request: &v1::ListVmsRequest,
) -> Result<v1::ListVmsResponse, Refusal> {
    let selector = Selector::of_field("label_selector", &request.label_selector)?;
    let after = read(&request.page_token)?;
    let (size, most_bytes) = match usize::try_from(request.page_size) {
        Ok(0) => (usize::MAX, usize::MAX),
        Ok(size) => (size.min(MAX_PAGE), MAX_BYTES),
        Err(_) => (MAX_PAGE, MAX_BYTES),
    };
    // Read first: the machines are at least as new.
    let seq = daemon.events.newest();
    let vms = daemon.registry.list();
    let begin = after.map_or(0, |last| vms.partition_point(|vm| vm.record.name <= last));
    let mut response = v1::ListVmsResponse {
        seq,
        ..Default::default()
    };
    let mut bytes = 0;
    for handle in vms.iter().skip(begin) {
        let vm = convert::vm(handle, &handle.stored_status().await);
        if !selector.matches(&vm.labels) {
            continue;
        }
        bytes += vm.encoded_len();
        // A page has at least one machine, so that there is an end to it.
        let is_full = response.vms.len() == size || bytes > most_bytes;
        if is_full && let Some(last) = response.vms.last() {
            response.next_page_token = write(&last.name);
            break;
        }
        response.vms.push(vm);
        if request.with_cpu_time {
            response.cpu_time_nanos.push(stats::cpu_time_nanos(handle));
        }
    }
    Ok(response)
}

/// The token for what comes after the machine called `last`: hexadecimal, so that nobody takes it for a name.
fn write(last: &str) -> String {
    let bytes = [TOKEN.as_bytes(), last.as_bytes()].concat();
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn read(token: &str) -> Result<Option<String>, Refusal> {
    if token.is_empty() {
        return Ok(None);
    }
    let digits = token.as_bytes().chunks(2);
    let bytes = digits.map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok());
    let text = bytes.collect::<Option<Vec<u8>>>();
    let text = text.and_then(|text| String::from_utf8(text).ok());
    let last = text.as_deref().and_then(|text| text.strip_prefix(TOKEN));
    // Written in one way only.
    last.filter(|last| write(last) == token)
        .map(|last| Some(last.to_owned()))
        .ok_or_else(|| invalid_field("page_token", "this is no token of an earlier reply"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_come_back_as_they_went_and_nothing_else_is_one() {
        for name in ["a", "0", "web.example-2", &"x".repeat(63)] {
            assert_eq!(read(&write(name)).unwrap().as_deref(), Some(name));
        }
        assert_eq!(read("").unwrap(), None);
        for bad in [
            "a",
            "web",
            "61",
            "é",
            "+1+1",
            "after:a",
            &write("a").to_uppercase(),
            &write("a")[1..],
        ] {
            let refusal = read(bad).unwrap_err();
            assert!(refusal.message().starts_with("page_token: "), "{bad}");
        }
    }
}
