//! The two text formats: OpenMetrics 1.0, and the older one of Prometheus (0.0.4), which every tool reads.

/// The older format of a text in OpenMetrics, as the encoder writes it: HELP, TYPE and perhaps UNIT of a family, then its
/// samples. A counter's family has the name of its samples, with `_total`; there is no UNIT and no EOF.
pub(super) fn prometheus(open_metrics: &str) -> String {
    let mut text = String::with_capacity(open_metrics.len());
    let mut help = None;
    for line in open_metrics.lines() {
        let words = line
            .strip_prefix("# ")
            .and_then(|rest| rest.split_once(' '));
        match words {
            Some(("HELP", rest)) => help = rest.split_once(' ').map(|(_, help)| help),
            Some(("TYPE", rest)) => {
                let (name, kind) = rest.split_once(' ').unwrap_or((rest, "untyped"));
                let suffix = if kind == "counter" { "_total" } else { "" };
                let help = help.take().unwrap_or_default();
                for part in ["# HELP ", name, suffix, " ", help, "\n"] {
                    text.push_str(part);
                }
                for part in ["# TYPE ", name, suffix, " ", kind, "\n"] {
                    text.push_str(part);
                }
            }
            Some(_) => {}
            None if line.starts_with('#') => {}
            None => {
                text.push_str(line);
                text.push('\n');
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_counters_family_gets_its_samples_name() {
        let open_metrics = "\
# HELP a_calls Calls there were.
# TYPE a_calls counter
a_calls_total{code=\"# HELP\"} 1
# HELP b_seconds How long.
# TYPE b_seconds gauge
# UNIT b_seconds seconds
b_seconds 2.0
# EOF
";
        let expected = "\
# HELP a_calls_total Calls there were.
# TYPE a_calls_total counter
a_calls_total{code=\"# HELP\"} 1
# HELP b_seconds How long.
# TYPE b_seconds gauge
b_seconds 2.0
";
        assert_eq!(prometheus(open_metrics), expected);
    }
}
