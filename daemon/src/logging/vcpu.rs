//! Lines of vCPUs' threads, which are in no span (see [`vmm::log`]): they look as if they were.

use std::{fmt, thread};

use tracing::{Event, Subscriber};
use tracing_subscriber::{
    fmt::{
        FmtContext,
        format::{FormatEvent, FormatFields, Writer},
    },
    registry::LookupSpan,
};
use vmm::log::vcpu_of;

/// Formats as `format` does, with the vCPU put in by `put_in`: into the line, its index and its machine's name.
pub(super) struct OfVcpus<F> {
    pub(super) format: F,
    pub(super) put_in: fn(&str, u32, &str) -> Option<String>,
}

impl<S, N, F> FormatEvent<S, N> for OfVcpus<F>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
    F: FormatEvent<S, N>,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let thread = thread::current();
        let vcpu = thread.name().and_then(vcpu_of);
        let Some((index, vm)) = vcpu.filter(|_| context.lookup_current().is_none()) else {
            return self.format.format_event(context, writer, event);
        };
        let mut line = String::new();
        self.format
            .format_event(context, Writer::new(&mut line), event)?;
        writer.write_str(&(self.put_in)(&line, index, vm).unwrap_or(line))
    }
}

/// Into a line for people: after its time and level, where spans are.
pub(super) fn into_text(line: &str, index: u32, vm: &str) -> Option<String> {
    let (time, rest) = line.split_once(' ')?;
    let (level, rest) = rest.trim_start().split_once(' ')?;
    Some(format!(
        "{time} {level:>5} vcpu{{vm={vm} index={index}}}: {rest}"
    ))
}

/// Into an object: the span it would be in.
pub(super) fn into_json(line: &str, index: u32, vm: &str) -> Option<String> {
    let line = line.trim_end().strip_suffix('}')?;
    let span = serde_json::json!({"vm": vm, "index": index, "name": "vcpu"});
    Some(format!("{line},\"span\":{span}}}\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_tells_whose_it_is() {
        let text = "2026-11-30T20:00:00.000000Z  WARN vmm::devices: too much\n";
        assert_eq!(
            into_text(text, 1, "web").unwrap(),
            "2026-11-30T20:00:00.000000Z  WARN vcpu{vm=web index=1}: vmm::devices: too much\n"
        );
        let json = "{\"level\":\"WARN\",\"fields\":{\"message\":\"too much\"}}\n";
        let with_vcpu = into_json(json, 1, "web").unwrap();
        assert_eq!(
            serde_json::from_str::<serde_json::Value>(&with_vcpu).unwrap(),
            serde_json::json!({
                "level": "WARN",
                "fields": {"message": "too much"},
                "span": {"vm": "web", "index": 1, "name": "vcpu"},
            })
        );
        assert!(with_vcpu.ends_with("}\n"));
        assert_eq!(into_text("", 0, "a"), None);
        assert_eq!(into_json("", 0, "a"), None);
    }
}
