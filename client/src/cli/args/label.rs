//! Labels on the command line, and whom a command is about by them.

use clap::{Args as Group, builder::NonEmptyStringValueParser};

use super::super::values;

/// The labels of a new machine.
#[derive(Debug, Group)]
pub(in crate::cli) struct Labels {
    /// A label of the machine; may be given several times
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = values::label, value_delimiter = ',')]
    labels: Vec<(String, String)>,
}

impl Labels {
    /// As a request has them; the last one of a key counts.
    pub(in crate::cli) fn collect(self) -> std::collections::BTreeMap<String, String> {
        self.labels.into_iter().collect()
    }
}

/// Machines with certain labels.
#[derive(Debug, Group)]
pub(in crate::cli) struct Selected {
    /// Only machines with such labels: 'env=prod,tier!=db,app in (a,b),has,!gone'
    #[arg(short = 'l', long, value_name = "SELECTOR", value_parser = NonEmptyStringValueParser::new())]
    pub(in crate::cli) selector: Option<String>,
}

#[derive(Debug, Group)]
#[command(after_help = "\
Without changes it prints the labels there are.

Examples:
  vmctl label web env=prod tier=front   set two labels
  vmctl label web tier-                 remove one
  vmctl ls -l env=prod")]
pub(in crate::cli) struct Label {
    /// The machine's name
    pub(in crate::cli) name: String,

    /// A label to set, or with a '-' after its key to remove
    #[arg(value_name = "KEY=VALUE|KEY-", value_parser = values::label_change)]
    pub(in crate::cli) changes: Vec<(String, Option<String>)>,

    /// Only if the machine has this etag, which `-o json status` shows
    #[arg(long, value_name = "ETAG", value_parser = NonEmptyStringValueParser::new())]
    pub(in crate::cli) etag: Option<String>,
}
