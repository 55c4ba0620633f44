//! A configuration as the text of a file, with every section and key, so that defaults can be seen.
//!
//! ```text
//!   Config --> File --(serde)--> one JSON object --> TOML: keys, then their sections; a comment for what is not set
//! ```
//! It goes by JSON because TOML has no word for what is not set.

use serde_json::{Map, Value};

use super::{Config, ConfigError, File};

impl Config {
    /// The file that says all of this. Read again, it is the same configuration.
    ///
    /// # Errors
    /// [`ConfigError::NotText`] if a path is not UTF-8: no file can say it.
    pub fn to_toml(&self) -> Result<String, ConfigError> {
        let file = serde_json::to_value(File::from(self)).map_err(ConfigError::NotText)?;
        let mut text = String::new();
        if let Value::Object(file) = &file {
            section(&mut text, "", file);
        }
        Ok(text.trim_start().to_owned())
    }
}

/// Writes the keys of the section called `name`, and then the sections in it.
fn section(text: &mut String, name: &str, keys: &Map<String, Value>) {
    for (key, value) in keys {
        match value {
            Value::Null => text.push_str(&format!("# {key} is not set\n")),
            value if sections(value).is_empty() => {
                text.push_str(&format!("{key} = {}\n", plain(value)));
            }
            _ => {}
        }
    }
    for (key, value) in keys {
        let name = match name {
            "" => key.clone(),
            outer => format!("{outer}.{key}"),
        };
        for inner in sections(value) {
            // One that has but sections in it needs no heading.
            if value.is_array() {
                text.push_str(&format!("\n[[{name}]]\n"));
            } else if inner.values().any(|value| sections(value).is_empty()) {
                text.push_str(&format!("\n[{name}]\n"));
            }
            section(text, &name, inner);
        }
    }
}

/// The section that a value is, or the sections that it lists; none of a plain value.
fn sections(value: &Value) -> Vec<&Map<String, Value>> {
    match value {
        Value::Object(section) => vec![section],
        Value::Array(values) => values.iter().filter_map(Value::as_object).collect(),
        _ => Vec::new(),
    }
}

/// A plain value. TOML writes them as JSON does, but for a character that a string of JSON may have as it is.
fn plain(value: &Value) -> String {
    match value {
        Value::Array(values) => {
            let values: Vec<_> = values.iter().map(plain).collect();
            format!("[{}]", values.join(", "))
        }
        value => value.to_string().replace('\u{7f}', r"\u007f"),
    }
}

#[cfg(test)]
mod tests {
    use std::{path::Path, time::Duration};

    use super::*;

    fn parse(text: &str) -> Config {
        let file = File::parse(Path::new("/etc/vmd.toml"), text);
        file.unwrap_or_else(|error| panic!("{error}\n{text}"))
            .into()
    }

    /// It reads back to the same; the text.
    fn shown(config: &Config) -> String {
        let text = config.to_toml().unwrap();
        let mut again = parse(&text);
        assert_eq!(config.needs_restart(&again), [""; 0], "{text}");
        assert_eq!(again.take_reloaded(config.clone()), [""; 0], "{text}");
        text
    }

    #[test]
    fn an_empty_file_shows_every_default() {
        let expected = r#"listen = []
# tls is not set

[roles.viewer]
users = []
groups = []
certificates = []

[roles.operator]
users = []
groups = []
certificates = []

[roles.admin]
users = []
groups = []
certificates = []

[paths]
roots = []

[daemon]
# data_dir is not set
# metrics is not set

[events]
kept = 65536
# max_age is not set

[shutdown]
grace_seconds = 0
press_interval_seconds = 5

[log]
format = "text"
filter = "info"

[containment]
seccomp = true
# landlock is not set
keep_capabilities = ["net_admin"]

[limits]
"#;
        let text = shown(&parse(""));
        assert!(text.starts_with(expected), "{text}");
        assert!(text.contains("\n# memory is not set\n"), "{text}");
        assert!(text.contains("\nquota = []\n"), "{text}");
    }

    #[test]
    fn what_is_shown_reads_back_to_the_same() {
        shown(&parse(include_str!("../../../deploy/vmd.toml")));
        let all = shown(&parse(&super::super::tests::shipped()));
        for line in [
            "address = \"unix:/run/vmd/vmd.sock\"\nmode = \"0600\"\ngroup = 0\n",
            "address = \"http://127.0.0.1:7070\"\nplaintext_role = \"admin\"\n",
            "[[limits.quota]]\nlabel = \"team\"\nmachines = 100\nvcpus = 32\nmemory = \"16G\"\n",
            "max_age = \"7d\"\n",
        ] {
            assert!(all.contains(line), "{line}\n{all}");
        }
        let mut config = parse(
            r#"
[[listen]]
address = "http://127.0.0.1:1"
plaintext_role = "none"
[[listen]]
address = "unix:/a \"b\"\u007f"
mode = "0666"
[roles.operator]
users = ["root", 7]
certificates = ["a\\b", "spiffe://c"]
[events]
max_age = "90m"
[containment]
seccomp = "log"
landlock = false
keep_capabilities = ["CAP_CHOWN", "sys_nice"]
[limits]
memory = 1000
[[limits.quota]]
label = "env=prod"
"#,
        );
        shown(&config);
        // As options of the command line would have it.
        config.grace = Duration::from_secs(3);
        config.metrics = Some("unix:/m".parse().unwrap());
        config.data_dir = Some("d".into());
        let text = shown(&config);
        assert!(
            text.contains("data_dir = \"d\"\nmetrics = \"unix:/m\"\n"),
            "{text}"
        );
    }
}
