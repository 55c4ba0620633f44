//! Where a machine went another way than its recording, told with what both sides did around it.

use std::fmt;

use super::vector::Line;

/// How many lines of each side are shown.
const CONTEXT: usize = 6;

/// The first difference.
pub(crate) struct Difference {
    what: String,
    recorded: Vec<String>,
    seen: Vec<String>,
}

impl Difference {
    /// At line `position` of `sequence`; `seen` is what the machine did until then.
    pub(crate) fn new(
        what: impl Into<String>,
        sequence: &[Line],
        position: usize,
        seen: &[String],
    ) -> Self {
        let from = position.saturating_sub(CONTEXT - 2);
        let recorded = sequence.iter().enumerate().skip(from).take(CONTEXT);
        let recorded = recorded.map(|(n, line)| {
            let mark = if n == position { "=>" } else { "  " };
            format!("{mark} {}", show(line))
        });
        Self {
            what: what.into(),
            recorded: recorded.collect(),
            seen: seen[seen.len().saturating_sub(CONTEXT)..].to_vec(),
        }
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.what)?;
        for (title, lines) in [("recorded", &self.recorded), ("vmd", &self.seen)] {
            writeln!(f, "  {title}:")?;
            for line in lines {
                writeln!(f, "    {line}")?;
            }
        }
        Ok(())
    }
}

/// A line as a reader wants it.
pub(crate) fn show(line: &Line) -> String {
    match line {
        Line::Request { message, pipelined } => {
            format!(
                "in  qmp {message}{}",
                if *pipelined { " (pipelined)" } else { "" }
            )
        }
        Line::Message(message) => format!("out qmp {message}"),
        Line::Typed(text) => format!("in  serial {text:?}"),
        Line::Written(text) => format!("out serial {text:?}"),
        Line::Signal(signal) => format!("in  {signal}"),
        Line::PortWrites(writes) => format!("in  ports {}", writes.join(", ")),
        Line::Other { input, via } => format!("{} {via}", if *input { "in " } else { "out" }),
        Line::End(end) => format!("end {end:?}"),
    }
}
