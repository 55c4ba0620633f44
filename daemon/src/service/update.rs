//! UpdateVm: what a request changes of a machine, and what comes of it.
//!
//! ```text
//!   the machine's spec --- request, mask ---> the new one, checked --- actor: still that spec? ---> UPDATED
//!        ^                                                                   |
//!        +------------------- no: another update came between ---------------+
//! ```

use std::sync::Arc;

use tonic::Status as Refusal;
use vmd_proto::v1::{self, UpdateVmRequest, VmDefinition};

use super::{
    check::{self, Limits},
    errors,
    errors::invalid_field,
    labels,
};
use crate::{
    Daemon,
    access::Reach,
    convert,
    vm::{Labels, Spec, Status, Update, VmError, VmHandle},
};

/// What of a live machine's definition may change: it does nothing that its guest sees.
const LIVE_FIELDS: [&str; 3] = [
    "definition.restart",
    "definition.cpu_weight",
    "definition.cpu_limit_millis",
];

/// Serves a request of a caller whose paths may lead so far.
pub(super) async fn update(
    daemon: &Daemon,
    reach: Reach,
    vm: &VmHandle,
    request: &UpdateVmRequest,
) -> Result<Status, Refusal> {
    loop {
        let before = expect(vm, &request.etag)?;
        let update = prepare(daemon, reach, before, request)?;
        match vm.update(update).await {
            // It was another's that came between: this one is made anew, on top of that.
            Err(VmError::Updated) => {}
            done => return done.map_err(|error| errors::vm(&vm.record.name, &error)),
        }
    }
}

/// Forgets a machine, if it has this etag.
pub(super) async fn delete(vm: &VmHandle, force: bool, etag: &str) -> Result<Status, Refusal> {
    loop {
        let only = expect(vm, etag)?;
        let only = (!etag.is_empty()).then_some(only);
        match vm.delete_if(force, only).await {
            // Then it has another etag.
            Err(VmError::Updated) => {}
            done => return done.map_err(|error| errors::vm(&vm.record.name, &error)),
        }
    }
}

/// What the machine is to be, if that has this etag.
fn expect(vm: &VmHandle, etag: &str) -> Result<Arc<Spec>, Refusal> {
    let spec = vm.spec();
    let its = spec.etag(&vm.record.id);
    if etag.is_empty() || etag == its {
        Ok(spec)
    } else {
        Err(errors::etag_mismatch(&vm.record.name, &its))
    }
}

fn prepare(
    daemon: &Daemon,
    reach: Reach,
    before: Arc<Spec>,
    request: &UpdateVmRequest,
) -> Result<Update, Refusal> {
    let shown = convert::definition(&before.definition);
    let (labels, asked) = apply(&before.labels, &shown, request)?;
    labels::labels(&labels)?;
    let mut fields = changed_labels(&before.labels, &labels);
    // What is as it was needs no check: it may name what this host had when it was checked.
    let definition = if asked == shown {
        before.definition.clone()
    } else {
        // Who may name less has the last word: the paths of the others would be the machine's.
        let reach = match before.definition.reach {
            Reach::Anywhere => reach,
            Reach::Roots => Reach::Roots,
        };
        check::definition(&Limits::of(daemon), reach, asked)?
    };
    // Defaults are in place now.
    let changed = changed_fields(&shown, &convert::definition(&definition));
    let changed = changed.iter().map(|field| format!("definition.{field}"));
    fields.extend(changed);
    let needs_end = |field: &&String| {
        field.starts_with("definition.") && !LIVE_FIELDS.contains(&field.as_str())
    };
    Ok(Update {
        before,
        labels,
        definition,
        only_ended: fields.iter().find(needs_end).cloned(),
        fields,
    })
}

/// The labels and the definition as the request has them.
fn apply(
    labels: &Labels,
    definition: &VmDefinition,
    request: &UpdateVmRequest,
) -> Result<(Labels, VmDefinition), Refusal> {
    let (mut labels, mut definition) = (labels.clone(), definition.clone());
    let asked = request.definition.clone().unwrap_or_default();
    if request.update_mask.is_empty() {
        if !request.labels.is_empty() {
            labels.clone_from(&request.labels);
        }
        if request.definition.is_some() {
            definition = replaced(&definition, asked);
        }
        return Ok((labels, definition));
    }
    for (index, path) in request.update_mask.iter().enumerate() {
        let known = match path.split_once('.') {
            None if path == "labels" => {
                labels.clone_from(&request.labels);
                true
            }
            None if path == "definition" => {
                definition = replaced(&definition, asked.clone());
                true
            }
            Some(("labels", key)) => {
                match request.labels.get(key) {
                    Some(value) => labels.insert(key.to_owned(), value.clone()),
                    None => labels.remove(key),
                };
                true
            }
            Some(("definition", field)) => {
                let with_addresses = replaced(&definition, asked.clone());
                set_field(&mut definition, with_addresses, field)
            }
            _ => false,
        };
        if !known {
            let problem = format!("'{path}' is nothing that can be changed");
            return Err(invalid_field(&format!("update_mask[{index}]"), &problem));
        }
    }
    Ok((labels, definition))
}

/// The definition that is asked for; a network card without an address has the one that the card in its place has.
fn replaced(before: &VmDefinition, mut asked: VmDefinition) -> VmDefinition {
    for (card, had) in asked.nets.iter_mut().zip(&before.nets) {
        if card.mac.is_empty() {
            card.mac.clone_from(&had.mac);
        }
    }
    asked
}

/// The labels that differ, as a mask names them.
fn changed_labels(before: &Labels, after: &Labels) -> Vec<String> {
    let gone = before.keys().filter(|key| !after.contains_key(*key));
    let new = after
        .iter()
        .filter(|(key, value)| before.get(*key) != Some(*value));
    let mut keys: Vec<_> = gone.chain(new.map(|(key, _)| key)).collect();
    keys.sort_unstable();
    keys.iter().map(|key| format!("labels.{key}")).collect()
}

/// Writes what has to know every field of a definition.
macro_rules! fields {
    ($($field:ident)*) => {
        /// Sets one field to what `asked` has; false if there is no such field.
        fn set_field(definition: &mut VmDefinition, asked: VmDefinition, field: &str) -> bool {
            match field {
                $(stringify!($field) => definition.$field = asked.$field,)*
                _ => return false,
            }
            true
        }

        /// The fields that differ.
        fn changed_fields(before: &VmDefinition, after: &VmDefinition) -> Vec<&'static str> {
            // Fails to compile if a field is missing below.
            let v1::VmDefinition { $($field: _,)* } = before;
            let mut changed = Vec::new();
            $(if before.$field != after.$field {
                changed.push(stringify!($field));
            })*
            changed
        }
    };
}

fields! {
    memory_bytes vcpus firmware actions serial_socket qmp_socket kernel initrd cmdline cpu_model cpu_template cpu_pins
    disks rng nets vsock balloon console_ports virtio_transport restart cpu_weight cpu_limit_millis
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> Labels {
        let pairs = pairs.iter();
        pairs
            .map(|&(key, value)| (key.to_owned(), value.to_owned()))
            .collect()
    }

    fn card(mac: &str) -> v1::Net {
        v1::Net {
            mac: mac.to_owned(),
            ..Default::default()
        }
    }

    fn before() -> VmDefinition {
        VmDefinition {
            vcpus: Some(2),
            cmdline: "quiet".to_owned(),
            nets: vec![card("02::1"), card("02::2")],
            ..Default::default()
        }
    }

    /// What a request makes of the labels a=1, b=2 and of a definition.
    fn apply_to(
        mask: &[&str],
        request: UpdateVmRequest,
    ) -> Result<(Labels, VmDefinition), Refusal> {
        let request = UpdateVmRequest {
            update_mask: mask.iter().map(|&path| path.to_owned()).collect(),
            ..request
        };
        apply(&labels(&[("a", "1"), ("b", "2")]), &before(), &request)
    }

    #[test]
    fn labels_are_replaced_or_merged() {
        let with = |pairs: &[(&str, &str)]| UpdateVmRequest {
            labels: labels(pairs),
            ..Default::default()
        };
        for (mask, given, expected) in [
            (&[][..], &[][..], &[("a", "1"), ("b", "2")][..]),
            (&[], &[("c", "3")], &[("c", "3")]),
            (&["labels"], &[("c", "3")], &[("c", "3")]),
            (&["labels"], &[], &[]),
            (
                &["labels.c"],
                &[("c", "3")],
                &[("a", "1"), ("b", "2"), ("c", "3")],
            ),
            (
                &["labels.a"],
                &[("a", "9"), ("c", "3")],
                &[("a", "9"), ("b", "2")],
            ),
            (
                &["labels.a", "labels.x.y/z"],
                &[("x.y/z", "")],
                &[("b", "2"), ("x.y/z", "")],
            ),
            (
                &["definition.vcpus"],
                &[("c", "3")],
                &[("a", "1"), ("b", "2")],
            ),
        ] {
            let (after, _) = apply_to(mask, with(given)).unwrap();
            assert_eq!(after, labels(expected), "{mask:?} {given:?}");
        }
    }

    #[test]
    fn a_definition_is_replaced_whole_or_by_fields() {
        let with = |definition| UpdateVmRequest {
            definition,
            ..Default::default()
        };
        let asked = VmDefinition {
            vcpus: Some(4),
            memory_bytes: Some(1 << 20),
            nets: vec![card(""), card("02::9"), card("")],
            ..Default::default()
        };
        let kept = vec![card("02::1"), card("02::9"), card("")];
        let whole = VmDefinition {
            nets: kept.clone(),
            ..asked.clone()
        };
        let given = || with(Some(asked.clone()));
        assert_eq!(apply_to(&[], given()).unwrap().1, whole);
        assert_eq!(apply_to(&["definition"], given()).unwrap().1, whole);
        assert_eq!(apply_to(&["labels"], given()).unwrap().1, before());
        assert_eq!(apply_to(&[], with(None)).unwrap().1, before());
        let some = apply_to(&["definition.vcpus", "definition.nets"], given())
            .unwrap()
            .1;
        let expected = VmDefinition {
            vcpus: Some(4),
            nets: kept,
            ..before()
        };
        assert_eq!(some, expected);
        let default = apply_to(&["definition.cmdline"], with(None)).unwrap().1;
        assert_eq!(default.cmdline, "");
    }

    #[test]
    fn what_cannot_be_changed_is_named() {
        for bad in [
            "",
            "name",
            "status",
            "label",
            "definition.",
            "definition.disks.path",
            "labels\0",
        ] {
            let refusal = apply_to(&["labels.a", bad], UpdateVmRequest::default()).unwrap_err();
            assert!(
                refusal.message().starts_with("update_mask[1]: "),
                "{refusal}"
            );
        }
    }

    #[test]
    fn changes_are_told_as_a_mask_names_them() {
        let (one, other) = (
            labels(&[("a", "1"), ("b", "2"), ("c", "3")]),
            labels(&[("a", "1"), ("b", "0"), ("d", "4")]),
        );
        assert_eq!(
            changed_labels(&one, &other),
            ["labels.b", "labels.c", "labels.d"]
        );
        assert!(changed_labels(&one, &one).is_empty());
        let after = VmDefinition {
            rng: true,
            ..VmDefinition::default()
        };
        let changed = changed_fields(&before(), &after);
        assert_eq!(changed, ["vcpus", "cmdline", "rng", "nets"]);
    }
}
