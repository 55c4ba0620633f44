//! What may change of a machine by an update: its definition and its labels.

use std::{collections::BTreeMap, sync::Arc};

use super::Definition;

/// A machine's labels.
pub type Labels = BTreeMap<String, String>;

/// What a machine is to be.
#[derive(Clone, Debug)]
pub struct Spec {
    /// What it is built from, the next time.
    pub definition: Definition,
    /// What its users say of it.
    pub labels: Labels,
    /// How often these have changed.
    pub revision: u64,
}

impl Spec {
    /// Of a new machine.
    pub fn new(definition: Definition, labels: Labels) -> Self {
        Self {
            definition,
            labels,
            revision: 0,
        }
    }

    /// One from the store, by its etag.
    pub(crate) fn restored(definition: Definition, labels: Labels, etag: &str) -> Option<Self> {
        // The first stores had none.
        let revision = match etag {
            "" => 0,
            _ => etag.rsplit_once('.')?.1.parse().ok()?,
        };
        Some(Self {
            definition,
            labels,
            revision,
        })
    }

    /// What tells this one from every other, of the machine `id` and of all machines.
    pub fn etag(&self, id: &str) -> String {
        format!("{id}.{}", self.revision)
    }
}

impl From<Definition> for Spec {
    fn from(definition: Definition) -> Self {
        Self::new(definition, Labels::new())
    }
}

/// An update of a machine.
#[derive(Debug)]
pub struct Update {
    /// What the machine is, unless another update came between.
    pub before: Arc<Spec>,
    /// What its labels become.
    pub labels: Labels,
    /// What its definition becomes.
    pub definition: Definition,
    /// The fields that change; if there are none, nothing happens.
    pub fields: Vec<String>,
    /// One of them that can change only of a machine that has ended.
    pub only_ended: Option<String>,
}
