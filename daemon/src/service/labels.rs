//! What labels must look like. The rules of keys and values are those of Kubernetes.

use std::collections::BTreeMap;

use thiserror::Error;
use tonic::Status as Refusal;

use super::errors::invalid_field;

/// Most labels of a machine.
const MAX_LABELS: usize = 64;
/// Most bytes of all keys and values of a machine: each event carries them.
const MAX_BYTES: usize = 4096;
/// Longest name, in characters: of a key, or a value.
const MAX_NAME: usize = 63;
/// Longest prefix of a key, in characters.
const MAX_PREFIX: usize = 253;

/// What is wrong with a key or a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub(super) enum LabelError {
    #[error(
        "a key has 1 to {MAX_NAME} of the characters a-z, A-Z, 0-9, '-', '_' and '.', with a letter or digit at both ends"
    )]
    Key,
    #[error(
        "the prefix of a key is a host name: at most {MAX_PREFIX} of the characters a-z, 0-9, '-' and '.', with a letter \
         or digit at both ends of each part"
    )]
    Prefix,
    #[error(
        "a value is empty, or has at most {MAX_NAME} of the characters a-z, A-Z, 0-9, '-', '_' and '.', with a letter or \
         digit at both ends"
    )]
    Value,
}

/// A machine's labels.
pub(super) fn labels(labels: &BTreeMap<String, String>) -> Result<(), Refusal> {
    for (label, value) in labels {
        key(label)
            .and_then(|()| self::value(value))
            .map_err(|error| invalid_field(&format!("labels.{label}"), &error.to_string()))?;
    }
    if labels.len() > MAX_LABELS {
        let problem = format!("a machine has at most {MAX_LABELS} labels");
        return Err(invalid_field("labels", &problem));
    }
    let bytes: usize = labels
        .iter()
        .map(|(key, value)| key.len() + value.len())
        .sum();
    if bytes > MAX_BYTES {
        let problem = format!("a machine's labels have at most {MAX_BYTES} bytes in all");
        return Err(invalid_field("labels", &problem));
    }
    Ok(())
}

/// `[PREFIX/]NAME`.
pub(super) fn key(key: &str) -> Result<(), LabelError> {
    let name = match key.split_once('/') {
        None => key,
        Some((prefix, name)) => {
            if prefix.len() > MAX_PREFIX || !prefix.split('.').all(is_host_name_part) {
                return Err(LabelError::Prefix);
            }
            name
        }
    };
    if is_name(name) {
        Ok(())
    } else {
        Err(LabelError::Key)
    }
}

/// Empty, or a name.
pub(super) fn value(value: &str) -> Result<(), LabelError> {
    if value.is_empty() || is_name(value) {
        Ok(())
    } else {
        Err(LabelError::Value)
    }
}

fn is_name(text: &str) -> bool {
    let inner = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_.".contains(byte);
    text.len() <= MAX_NAME && has_form(text, u8::is_ascii_alphanumeric, inner)
}

fn is_host_name_part(part: &str) -> bool {
    let end = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    has_form(part, end, |byte| end(byte) || *byte == b'-')
}

/// Whether it has characters: `end` at both ends, `inner` between.
fn has_form(text: &str, end: impl Fn(&u8) -> bool, inner: impl Fn(&u8) -> bool) -> bool {
    let bytes = text.as_bytes();
    bytes.iter().all(inner) && bytes.first().is_some_and(&end) && bytes.last().is_some_and(end)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(pairs: &[(&str, &str)]) -> Option<String> {
        let pairs = pairs.iter();
        let all = pairs.map(|&(key, value)| (key.to_owned(), value.to_owned()));
        labels(&all.collect())
            .err()
            .map(|refusal| refusal.message().to_owned())
    }

    #[test]
    fn keys_and_values_have_the_form_of_kubernetes() {
        let (name, prefix) = ("x".repeat(63), "p".repeat(253));
        for good in [
            "a",
            "A.b_c-9",
            "9",
            "example.com/a",
            "a-b.c/D_e",
            &name,
            &format!("{prefix}/{name}"),
        ] {
            assert_eq!(key(good), Ok(()), "{good}");
        }
        for bad in [
            "",
            "-a",
            "a-",
            "a b",
            "ä",
            "a=b",
            "a,b",
            "a\0",
            &"x".repeat(64),
            "p/",
            "p/a/b",
        ] {
            assert_eq!(key(bad), Err(LabelError::Key), "{bad}");
        }
        for bad in [
            "/a",
            "P/a",
            ".p/a",
            "p./a",
            "p..q/a",
            "p_q/a",
            "-p/a",
            &format!("{prefix}p/a"),
        ] {
            assert_eq!(key(bad), Err(LabelError::Prefix), "{bad}");
        }
        for good in ["", "a", "v1.2_3-b", &name] {
            assert_eq!(value(good), Ok(()), "{good}");
        }
        for bad in ["-", "a/b", ".a", "a_", "a b", "ä", &"x".repeat(64)] {
            assert_eq!(value(bad), Err(LabelError::Value), "{bad}");
        }
    }

    #[test]
    fn the_label_at_fault_is_named() {
        assert_eq!(refusal(&[]), None);
        assert_eq!(refusal(&[("env", "prod"), ("empty", "")]), None);
        let bad_value = refusal(&[("a", "b"), ("env", "p d")]).unwrap();
        assert!(bad_value.starts_with("labels.env: a value "), "{bad_value}");
        let bad_key = refusal(&[("e nv", "prod")]).unwrap();
        assert!(bad_key.starts_with("labels.e nv: a key "), "{bad_key}");
    }

    #[test]
    fn number_and_size_are_bounded() {
        let many = |count: usize| -> BTreeMap<_, _> {
            (0..count)
                .map(|n| (format!("k{n}"), String::new()))
                .collect()
        };
        assert!(labels(&many(64)).is_ok());
        let refused = labels(&many(65)).unwrap_err();
        assert!(refused.message().starts_with("labels: "), "{refused}");
        let large = |count: usize| -> BTreeMap<_, _> {
            (0..count)
                .map(|n| (format!("{n:064}").split_off(1), "v".repeat(63)))
                .collect()
        };
        assert!(labels(&large(32)).is_ok());
        let refused = labels(&large(33)).unwrap_err();
        assert!(refused.message().starts_with("labels: "), "{refused}");
    }
}
