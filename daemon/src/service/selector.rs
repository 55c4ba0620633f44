//! Label selectors: the text of a request in, a test of labels out.
//!
//! ```text
//!   selector    = [ requirement *( "," requirement ) ]
//!   requirement = key | "!" key | key ( "=" | "==" | "!=" ) [ value ] | key ( "in" | "notin" ) "(" value *( "," value ) ")"
//! ```
//! Spaces may be between all of these. A selector without requirements takes everything.

use std::collections::BTreeMap;

use thiserror::Error;
use tonic::Status as Refusal;

use super::{
    errors::invalid_field,
    labels::{LabelError, key, value},
};

/// Longest selector, in bytes.
const MAX_BYTES: usize = 4096;

/// Which machines are wanted, by their labels.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Selector(Vec<Requirement>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Requirement {
    key: String,
    test: Test,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Test {
    Exists,
    Absent,
    In(Vec<String>),
    NotIn(Vec<String>),
}

/// Why a text is no selector. Places are bytes, from 0.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub(super) enum SelectorError {
    #[error("a selector has at most {MAX_BYTES} bytes")]
    TooLong,
    #[error("at {at}: expected {what}")]
    Expected { at: usize, what: &'static str },
    #[error("at {at}: '{word}': {problem}")]
    Label {
        at: usize,
        word: String,
        problem: LabelError,
    },
}

impl Selector {
    /// The selector in the field `field`.
    pub(super) fn of_field(field: &str, text: &str) -> Result<Self, Refusal> {
        Self::parse(text).map_err(|error| invalid_field(field, &error.to_string()))
    }

    /// Reads one.
    pub(super) fn parse(text: &str) -> Result<Self, SelectorError> {
        if text.len() > MAX_BYTES {
            return Err(SelectorError::TooLong);
        }
        let mut parser = Parser { text, at: 0 };
        if parser.is_at_end() {
            return Ok(Self::default());
        }
        let mut requirements = vec![parser.requirement()?];
        while parser.take(",") {
            requirements.push(parser.requirement()?);
        }
        if parser.is_at_end() {
            Ok(Self(requirements))
        } else {
            Err(parser.expected("',' or the end"))
        }
    }

    /// Whether a machine with these labels is wanted.
    pub(super) fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        self.0.iter().all(|Requirement { key, test }| {
            let value = labels.get(key);
            match test {
                Test::Exists => value.is_some(),
                Test::Absent => value.is_none(),
                Test::In(values) => value.is_some_and(|value| values.contains(value)),
                Test::NotIn(values) => value.is_none_or(|value| !values.contains(value)),
            }
        })
    }
}

/// What is left of a text.
struct Parser<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Parser<'a> {
    fn requirement(&mut self) -> Result<Requirement, SelectorError> {
        if self.take("!") {
            let key = self.key()?;
            return Ok(Requirement {
                key,
                test: Test::Absent,
            });
        }
        let key = self.key()?;
        let test = if self.take("!=") {
            Test::NotIn(vec![self.value()?])
        } else if self.take("==") || self.take("=") {
            Test::In(vec![self.value()?])
        } else {
            match self.word() {
                (_, "") => Test::Exists,
                (_, "in") => Test::In(self.set()?),
                (_, "notin") => Test::NotIn(self.set()?),
                (at, _) => {
                    let what = "',', '=', '!=', 'in' or 'notin'";
                    return Err(SelectorError::Expected { at, what });
                }
            }
        };
        Ok(Requirement { key, test })
    }

    fn set(&mut self) -> Result<Vec<String>, SelectorError> {
        if !self.take("(") {
            return Err(self.expected("'(' and values"));
        }
        let mut values = Vec::new();
        loop {
            let value = self.value()?;
            if value.is_empty() {
                return Err(self.expected("a value"));
            }
            values.push(value);
            if self.take(")") {
                return Ok(values);
            }
            if !self.take(",") {
                return Err(self.expected("',' or ')'"));
            }
        }
    }

    fn key(&mut self) -> Result<String, SelectorError> {
        match self.word() {
            (at, "") => Err(SelectorError::Expected { at, what: "a key" }),
            (at, word) => checked(at, word, key),
        }
    }

    /// Empty if there is none.
    fn value(&mut self) -> Result<String, SelectorError> {
        let (at, word) = self.word();
        checked(at, word, value)
    }

    /// The next word and where it begins; an empty one if something else comes.
    fn word(&mut self) -> (usize, &'a str) {
        let rest = self.rest();
        let begin = self.at;
        let end = rest
            .find(|next: char| next.is_ascii_whitespace() || ",()=!".contains(next))
            .unwrap_or(rest.len());
        self.at += end;
        (begin, rest.get(..end).unwrap_or_default())
    }

    /// Goes beyond `token` if it is what comes.
    fn take(&mut self, token: &str) -> bool {
        let found = self.rest().starts_with(token);
        if found {
            self.at += token.len();
        }
        found
    }

    fn is_at_end(&mut self) -> bool {
        self.rest().is_empty()
    }

    /// What is left, without the spaces before it.
    fn rest(&mut self) -> &'a str {
        let rest = self.text.get(self.at..).unwrap_or_default();
        let trimmed = rest.trim_ascii_start();
        self.at += rest.len() - trimmed.len();
        trimmed
    }

    fn expected(&mut self, what: &'static str) -> SelectorError {
        self.rest();
        SelectorError::Expected { at: self.at, what }
    }
}

fn checked(
    at: usize,
    word: &str,
    check: fn(&str) -> Result<(), LabelError>,
) -> Result<String, SelectorError> {
    let label = |problem| SelectorError::Label {
        at,
        word: word.to_owned(),
        problem,
    };
    check(word).map_err(label)?;
    Ok(word.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(text: &str) -> BTreeMap<String, String> {
        let pairs = text
            .split_terminator(' ')
            .map(|pair| pair.split_once('=').unwrap());
        pairs
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .collect()
    }

    fn selects(selector: &str, of: &str) -> bool {
        Selector::parse(selector).unwrap().matches(&labels(of))
    }

    #[test]
    fn each_requirement_is_as_in_kubernetes() {
        // For each selector: whether it takes a machine without the label, with it empty, with "a", and with "b".
        for (selector, expected) in [
            ("", [true, true, true, true]),
            (" \t ", [true, true, true, true]),
            ("k", [false, true, true, true]),
            ("!k", [true, false, false, false]),
            ("k=a", [false, false, true, false]),
            ("k==a", [false, false, true, false]),
            ("k!=a", [true, true, false, true]),
            ("k=", [false, true, false, false]),
            ("k!=", [true, false, true, true]),
            ("k in (a)", [false, false, true, false]),
            ("k in (a,b)", [false, false, true, true]),
            ("k notin (a)", [true, true, false, true]),
            ("k notin (a,b)", [true, true, false, false]),
            ("k,k!=a", [false, true, false, true]),
            ("k=a,k=b", [false, false, false, false]),
        ] {
            let found = ["", "k=", "k=a", "k=b"].map(|of| selects(selector, of));
            assert_eq!(found, expected, "{selector}");
        }
    }

    #[test]
    fn all_requirements_must_hold() {
        let selector = " env = prod , tier!=db,app in(a , b), ! gone ,example.com/has";
        assert!(selects(selector, "env=prod app=b example.com/has=yes"));
        for lacks_one in [
            "env=test app=b example.com/has=yes",
            "env=prod tier=db app=b example.com/has=yes",
            "env=prod app=c example.com/has=yes",
            "env=prod app=b example.com/has=yes gone=",
            "env=prod app=b",
        ] {
            assert!(!selects(selector, lacks_one), "{lacks_one}");
        }
    }

    #[test]
    fn words_of_the_language_are_keys_and_values_too() {
        assert!(selects("in", "in=x"));
        assert!(selects("in in (in,notin)", "in=notin"));
        assert!(selects("notin=in", "notin=in"));
        assert!(!selects("!notin", "notin=in"));
    }

    #[test]
    fn what_is_wrong_is_told_with_its_place() {
        for (text, says) in [
            (",", "at 0: expected a key"),
            ("a,", "at 2: expected a key"),
            ("a,,b", "at 2: expected a key"),
            ("!", "at 1: expected a key"),
            ("!!a", "at 1: expected a key"),
            ("=a", "at 0: expected a key"),
            ("(a)", "at 0: expected a key"),
            ("a b", "at 2: expected ',', '=', '!=', 'in' or 'notin'"),
            ("a!", "at 1: expected ',' or the end"),
            ("!a=b", "at 2: expected ',' or the end"),
            ("a=b c", "at 4: expected ',' or the end"),
            ("a=b=c", "at 3: expected ',' or the end"),
            ("a===c", "at 3: expected ',' or the end"),
            ("a in", "at 4: expected '(' and values"),
            ("a in b", "at 5: expected '(' and values"),
            ("a in ()", "at 6: expected a value"),
            ("a in (b,)", "at 8: expected a value"),
            ("a in (b", "at 7: expected ',' or ')'"),
            ("a in (b c)", "at 8: expected ',' or ')'"),
            ("a in (b))", "at 8: expected ',' or the end"),
            ("-a", "at 0: '-a': a key has"),
            ("A/b", "at 0: 'A/b': the prefix of a key"),
            ("a=b/c", "at 2: 'b/c': a value is"),
            ("ä", "at 0: 'ä': a key has"),
            ("a\0", "at 0: 'a\0': a key has"),
        ] {
            let error = Selector::parse(text).unwrap_err().to_string();
            assert!(error.starts_with(says), "{text}: {error}");
        }
        let long = "a".repeat(MAX_BYTES + 1);
        assert_eq!(Selector::parse(&long), Err(SelectorError::TooLong));
    }

    /// Every text of up to six tokens: none is taken for another's meaning, and nothing panics.
    #[test]
    fn every_short_text_is_read_or_refused() {
        const TOKENS: [&str; 9] = ["a", "b", "in", "=", "!", ",", "(", ")", " "];
        let mut texts = vec![String::new()];
        let mut read = 0;
        for _ in 0..6 {
            let longer = |text: &String| TOKENS.map(|token| format!("{text}{token}"));
            texts = texts.iter().flat_map(longer).collect();
            for text in &texts {
                let Ok(selector) = Selector::parse(text) else {
                    continue;
                };
                read += 1;
                // Written in one way it is read as the same.
                assert_eq!(
                    Selector::parse(&written(&selector)).as_ref(),
                    Ok(&selector),
                    "{text}"
                );
                let brackets = |which| text.matches(which).count();
                assert_eq!(brackets('('), brackets(')'), "{text}");
            }
        }
        assert!(read > 1000, "{read}");
    }

    fn written(selector: &Selector) -> String {
        let requirement = |Requirement { key, test }: &Requirement| match test {
            Test::Exists => key.clone(),
            Test::Absent => format!("!{key}"),
            Test::In(values) if values.len() > 1 => format!("{key} in ({})", values.join(",")),
            Test::NotIn(values) if values.len() > 1 => {
                format!("{key} notin ({})", values.join(","))
            }
            Test::In(values) => format!("{key}={}", values.concat()),
            Test::NotIn(values) => format!("{key}!={}", values.concat()),
        };
        selector
            .0
            .iter()
            .map(requirement)
            .collect::<Vec<_>>()
            .join(",")
    }
}
