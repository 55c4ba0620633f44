//! What has to be done so that machines are as they should be: the machines there are and those of a file in, changes
//! out.
//!
//! | what differs | of a live machine | of one that has ended |
//! | --- | --- | --- |
//! | labels, restart policy, CPU share | UpdateVm | UpdateVm |
//! | actions | SetAction | UpdateVm |
//! | anything else | built anew | UpdateVm |

use serde_json::{Value, json};

use super::spec::{Labels, Spec};
use crate::{
    json,
    v1::{
        self, CpuModel, ErrorPolicy, IoEngine, RestartMode, UpdateVmRequest, VirtioTransport, Vm,
        VmDefinition, VmStatus,
    },
};

/// What is done to one machine.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Change {
    pub(super) name: String,
    pub(super) kind: Kind,
    /// What the machine had when this was planned: a change by another is not overwritten. Empty: it is not there.
    pub(super) etag: String,
    /// What differs, of a machine that is changed or replaced.
    pub(super) fields: Vec<Field>,
}

/// How it is done.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Kind {
    /// It is not there.
    Create(Box<Spec>),
    /// It can be changed as it is.
    Change(Box<InPlace>),
    /// It has to be built anew: quit, deleted and created.
    Replace(Box<Spec>),
    /// It is not in the file.
    Delete,
}

impl Kind {
    /// The word for it.
    pub(super) fn word(&self) -> &'static str {
        match self {
            Self::Create(_) => "create",
            Self::Change(_) => "change",
            Self::Replace(_) => "replace",
            Self::Delete => "delete",
        }
    }
}

/// What changes a machine as it is.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct InPlace {
    pub(super) update: Option<UpdateVmRequest>,
    pub(super) actions: Option<v1::Actions>,
}

/// A field that differs.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Field {
    /// As in `disks[0].rerror`.
    pub(super) path: String,
    pub(super) from: Value,
    pub(super) to: Value,
}

/// The changes, in the order in which they are made: what is given up comes first, as others may want what it uses.
pub(super) fn plan(there: &[Vm], wanted: Vec<Spec>, prune: bool) -> Vec<Change> {
    let mut changes = Vec::new();
    if prune {
        let extra = |vm: &&Vm| wanted.iter().all(|spec| spec.name != vm.name);
        changes.extend(there.iter().filter(extra).map(|vm| Change {
            name: vm.name.clone(),
            kind: Kind::Delete,
            etag: vm.etag.clone(),
            fields: Vec::new(),
        }));
    }
    for spec in wanted {
        match there.iter().find(|vm| vm.name == spec.name) {
            Some(vm) => changes.extend(change(vm, spec)),
            None => changes.push(Change {
                name: spec.name.clone(),
                kind: Kind::Create(Box::new(spec)),
                etag: String::new(),
                fields: Vec::new(),
            }),
        }
    }
    let rank = |kind: &Kind| match kind {
        Kind::Delete => 0,
        Kind::Replace(_) => 1,
        Kind::Change(_) => 2,
        Kind::Create(_) => 3,
    };
    changes.sort_by_key(|change| rank(&change.kind));
    changes
}

/// What is compared, by its name in JSON. What a newer daemon has besides is left alone.
const FIELDS: [&str; 23] = [
    LABELS,
    "memory_bytes",
    "vcpus",
    "firmware",
    "kernel",
    "initrd",
    "cmdline",
    "serial_socket",
    "qmp_socket",
    "cpu_model",
    "cpu_template",
    "cpu_pins",
    CPU_WEIGHT,
    CPU_LIMIT,
    "disks",
    "nets",
    "rng",
    "vsock",
    "balloon",
    "console_ports",
    "virtio_transport",
    ACTIONS,
    RESTART,
];

const LABELS: &str = "labels";
const ACTIONS: &str = "actions";
const RESTART: &str = "restart";
const CPU_WEIGHT: &str = "cpu_weight";
const CPU_LIMIT: &str = "cpu_limit_millis";

/// What makes the machine as it should be, unless it is.
fn change(vm: &Vm, spec: Spec) -> Option<Change> {
    let definition = vm.definition.clone().unwrap_or_default();
    let status = vm.status.clone().unwrap_or_default();
    let ended = status.end.is_some();
    // The actions in force count; of a machine that has ended, those that it would start with.
    let in_force = if ended {
        definition.actions
    } else {
        status.actions
    };
    let completed = with_defaults(spec.definition.clone(), &definition);
    let actions = actions_of(&completed);
    let from = shown(&vm.labels, &definition, in_force.unwrap_or_default());
    let to = shown(&spec.labels, &completed, actions);
    let mut fields = Vec::new();
    let mut differs = |name: &&str| {
        let before = fields.len();
        differ(name, field(&from, name), field(&to, name), &mut fields);
        fields.len() > before
    };
    let changed: Vec<_> = FIELDS.into_iter().filter(|name| differs(name)).collect();
    if changed.is_empty() {
        return None;
    }
    let kind = if changed.iter().any(|name| !ended && needs_end(name)) {
        Kind::Replace(Box::new(spec))
    } else {
        let (commanded, updated): (Vec<_>, Vec<_>) = changed
            .into_iter()
            .partition(|name| !ended && *name == ACTIONS);
        Kind::Change(Box::new(InPlace {
            update: (!updated.is_empty()).then(|| update(vm, spec, &updated)),
            actions: (!commanded.is_empty()).then_some(actions),
        }))
    };
    Some(Change {
        name: vm.name.clone(),
        kind,
        etag: vm.etag.clone(),
        fields,
    })
}

/// Whether a live machine cannot change this.
fn needs_end(field: &str) -> bool {
    ![LABELS, ACTIONS, RESTART, CPU_WEIGHT, CPU_LIMIT].contains(&field)
}

/// The request that changes these fields.
fn update(vm: &Vm, spec: Spec, fields: &[&str]) -> UpdateVmRequest {
    let path = |field: &&str| match *field {
        LABELS => LABELS.to_owned(),
        field => format!("definition.{field}"),
    };
    UpdateVmRequest {
        name: spec.name,
        update_mask: fields.iter().map(path).collect(),
        labels: spec.labels,
        definition: Some(spec.definition),
        etag: vm.etag.clone(),
        ..Default::default()
    }
}

/// A machine as it is printed.
fn shown(labels: &Labels, definition: &VmDefinition, actions: v1::Actions) -> Value {
    json::vm(&Vm {
        labels: labels.clone(),
        definition: Some(definition.clone()),
        status: Some(VmStatus {
            actions: Some(actions),
            ..Default::default()
        }),
        ..Default::default()
    })
}

/// What a definition that leaves something out means: the interface's defaults, and the address that a card was given.
fn with_defaults(mut wanted: VmDefinition, there: &VmDefinition) -> VmDefinition {
    fn or<E: Into<i32>>(value: &mut i32, default: E) {
        if *value == 0 {
            *value = default.into();
        }
    }
    let limit = |limit: &mut Option<v1::RateLimit>| {
        limit.take_if(|limit| *limit == v1::RateLimit::default());
    };
    wanted.memory_bytes.get_or_insert(256 << 20);
    wanted.vcpus.get_or_insert(1);
    wanted.cpu_weight.get_or_insert(100);
    or(&mut wanted.cpu_model, CpuModel::Host);
    or(&mut wanted.virtio_transport, VirtioTransport::Mmio);
    // Without restarts the rest of a policy says nothing.
    wanted
        .restart
        .take_if(|policy| matches!(policy.mode(), RestartMode::Unspecified | RestartMode::Never));
    if let Some(policy) = &mut wanted.restart {
        let first = *policy.initial_backoff.get_or_insert(seconds(1));
        let usual = seconds(60);
        let longer = (first.seconds, first.nanos) > (usual.seconds, usual.nanos);
        let longest = if longer { first } else { usual };
        policy.max_backoff.get_or_insert(longest);
    }
    for disk in &mut wanted.disks {
        or(&mut disk.rerror, ErrorPolicy::Report);
        or(&mut disk.werror, ErrorPolicy::Enospc);
        or(&mut disk.io_engine, IoEngine::Auto);
        disk.queues.get_or_insert(1);
        limit(&mut disk.rate_limit);
    }
    for (index, net) in wanted.nets.iter_mut().enumerate() {
        net.queues.get_or_insert(1);
        limit(&mut net.rx_rate_limit);
        limit(&mut net.tx_rate_limit);
        if let (true, Some(there)) = (net.mac.is_empty(), there.nets.get(index)) {
            net.mac.clone_from(&there.mac);
        }
    }
    wanted
}

fn seconds(seconds: i64) -> prost_types::Duration {
    prost_types::Duration { seconds, nanos: 0 }
}

/// The actions of a definition, with the defaults put in.
fn actions_of(definition: &VmDefinition) -> v1::Actions {
    let mut actions = definition.actions.unwrap_or_default();
    let v1::Actions {
        reboot,
        shutdown,
        panic,
        watchdog,
    } = &mut actions;
    // In each case the first value is the default.
    for action in [reboot, shutdown, panic, watchdog] {
        *action = (*action).max(1);
    }
    actions
}

/// A field of an object; null if it is not there.
fn field<'a>(object: &'a Value, name: &str) -> &'a Value {
    object.get(name).unwrap_or(&Value::Null)
}

/// Adds what differs between two values, and where.
fn differ(path: &str, from: &Value, to: &Value, fields: &mut Vec<Field>) {
    match (from, to) {
        (Value::Object(from), Value::Object(to)) => {
            let new = to.keys().filter(|key| !from.contains_key(*key));
            for key in from.keys().chain(new) {
                let [from, to] = [from, to].map(|map| map.get(key).unwrap_or(&Value::Null));
                differ(&format!("{path}.{key}"), from, to, fields);
            }
        }
        (Value::Array(from), Value::Array(to)) => {
            for index in 0..from.len().max(to.len()) {
                let [from, to] =
                    [from, to].map(|list| list.get(index).cloned().unwrap_or_default());
                differ(&format!("{path}[{index}]"), &from, &to, fields);
            }
        }
        _ if from == to => {}
        _ => fields.push(Field {
            path: path.to_owned(),
            from: from.clone(),
            to: to.clone(),
        }),
    }
}

impl Change {
    /// A change as an object: `name`, `change`, `fields` (`from` and `to` of each), `done`.
    pub(super) fn object(&self, done: bool) -> Value {
        let fields = self.fields.iter().map(|field| {
            let value = json!({ "from": field.from, "to": field.to });
            (field.path.clone(), value)
        });
        json!({
            "name": self.name,
            "change": self.kind.word(),
            "fields": Value::Object(fields.collect()),
            "done": done,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::{super::spec, *};
    use crate::v1::VmEnd;

    fn wanted(text: &str) -> Vec<Spec> {
        spec::read(text, Path::new("/srv")).unwrap()
    }

    /// The machine that a daemon has made of this.
    fn there(text: &str) -> Vec<Vm> {
        let machines = wanted(text).into_iter().map(|spec| {
            let mut definition = with_defaults(spec.definition, &VmDefinition::default());
            for net in &mut definition.nets {
                if net.mac.is_empty() {
                    "52:54:00:00:00:01".clone_into(&mut net.mac);
                }
            }
            let actions = Some(actions_of(&definition));
            definition.actions = actions;
            Vm {
                etag: format!("{}.0", spec.name),
                name: spec.name,
                labels: spec.labels,
                definition: Some(definition),
                status: Some(VmStatus {
                    actions,
                    ..Default::default()
                }),
                ..Default::default()
            }
        });
        machines.collect()
    }

    fn told(changes: &[Change]) -> Vec<String> {
        let told = changes.iter().map(|change| {
            let fields: Vec<_> = change
                .fields
                .iter()
                .map(|field| format!(" {}: {} -> {}", field.path, field.from, field.to))
                .collect();
            format!("{} {}{}", change.kind.word(), change.name, fields.concat())
        });
        told.collect()
    }

    const TWO: &str = "
- name: a
- name: b
  memory_bytes: 64M
  disks: [{path: d.img}]
  nets: [{tap: t0}]
  actions: {panic: pause}
";

    #[test]
    fn what_is_as_it_should_be_is_left_alone() {
        assert_eq!(plan(&there(TWO), wanted(TWO), true), []);
    }

    #[test]
    fn each_difference_is_told_and_done_in_order() {
        let now = "
- name: c
- name: b
  memory_bytes: 128M
  disks: [{path: d.img, rerror: stop}, {path: e.img}]
  nets: [{tap: t0}]
  actions: {panic: pause}
- name: a
  actions: {watchdog: pause}
";
        let mut machines = there(TWO);
        machines.extend(there("- name: old"));
        let second = r#"{"path":"/srv/e.img","read_only":false,"serial":null,"rerror":"report","werror":"enospc","format":null,"queues":1,"aio":"auto","rate_limit":null}"#;
        let replace = format!(
            "replace b memory_bytes: 67108864 -> 134217728 disks[0].rerror: \"report\" -> \"stop\" disks[1]: null -> {second}"
        );
        let change = "change a actions.watchdog: \"reset\" -> \"pause\"".to_owned();
        let changes = plan(&machines, wanted(now), false);
        assert_eq!(told(&changes), [replace, change, "create c".to_owned()]);
        let pruned = plan(&machines, wanted(now), true);
        assert_eq!(told(&pruned).first().unwrap(), "delete old");
    }

    /// The same machines, ended.
    fn ended(text: &str) -> Vec<Vm> {
        let mut machines = there(text);
        for vm in &mut machines {
            vm.status.as_mut().unwrap().end = Some(VmEnd::default());
        }
        machines
    }

    /// The one change, which is made in place: what is told of it, what UpdateVm changes, and whether there is a SetAction.
    fn in_place(there: &[Vm], text: &str) -> (String, Vec<String>, bool) {
        let [change] = plan(there, wanted(text), false).try_into().unwrap();
        let told = told(std::slice::from_ref(&change)).concat();
        let Kind::Change(in_place) = change.kind else {
            panic!("it is not made in place: {told}");
        };
        let mask = in_place.update.map(|request| {
            let spec = wanted(text).remove(0);
            assert_eq!(request.name, spec.name);
            assert_eq!(request.etag, format!("{}.0", spec.name));
            assert_eq!(request.labels, spec.labels);
            assert_eq!(request.definition, Some(spec.definition));
            request.update_mask
        });
        (told, mask.unwrap_or_default(), in_place.actions.is_some())
    }

    const LABELLED: &str = "
- name: a
  labels: {env: test, tier: web}
  restart: {mode: always}
";

    #[test]
    fn labels_restart_and_actions_of_a_live_machine_are_changed_in_place() {
        let now = "
- name: a
  labels: {env: prod, owner: me}
  restart: {mode: always, backoff: 2m}
  actions: {panic: none}
";
        let told = concat!(
            "change a labels.env: \"test\" -> \"prod\" labels.tier: \"web\" -> null labels.owner: null -> \"me\"",
            " actions.panic: \"shutdown\" -> \"none\"",
            " restart.backoff: 1.0 -> 120.0 restart.max_backoff: 60.0 -> 120.0"
        );
        let mask = ["labels", "definition.restart"].map(str::to_owned).to_vec();
        assert_eq!(
            in_place(&there(LABELLED), now),
            (told.to_owned(), mask, true)
        );
        let same = plan(&there(LABELLED), wanted(LABELLED), true);
        assert_eq!(same, []);
        // What is left out is at its default.
        let (told, mask, _) = in_place(&there(LABELLED), "- name: a");
        assert!(told.contains("labels.env: \"test\" -> null"), "{told}");
        assert!(told.ends_with("\"max_backoff\":60.0} -> null"), "{told}");
        assert_eq!(mask, ["labels", "definition.restart"]);
    }

    #[test]
    fn a_policy_that_restarts_nothing_is_none() {
        let never = "- name: a\n  restart: {mode: never, max: 3}";
        assert_eq!(plan(&there("- name: a"), wanted(never), false), []);
    }

    #[test]
    fn a_live_machine_that_is_built_anew_is_not_changed_besides() {
        let now = "- name: a\n  vcpus: 2\n  restart: {mode: always}";
        let [change] = plan(&there(LABELLED), wanted(now), false)
            .try_into()
            .unwrap();
        assert!(matches!(change.kind, Kind::Replace(_)), "{change:?}");
        assert_eq!((change.etag.as_str(), change.fields.len()), ("a.0", 3));
    }

    #[test]
    fn a_machine_that_has_ended_is_changed_for_its_next_start() {
        let now = "
- name: b
  vcpus: 2
  labels: {env: prod}
  disks: [{path: d.img, rerror: stop}]
  nets: [{tap: t0}]
";
        let told = concat!(
            "change b labels.env: null -> \"prod\" memory_bytes: 67108864 -> 268435456 vcpus: 1 -> 2",
            " disks[0].rerror: \"report\" -> \"stop\" actions.panic: \"pause\" -> \"shutdown\""
        );
        let mask = [
            "labels",
            "definition.memory_bytes",
            "definition.vcpus",
            "definition.disks",
            "definition.actions",
        ];
        let mask = mask.map(str::to_owned).to_vec();
        assert_eq!(in_place(&ended(TWO), now), (told.to_owned(), mask, false));
    }

    #[test]
    fn the_actions_that_an_ended_machine_starts_with_count() {
        let mut machines = ended("- name: a");
        for vm in &mut machines {
            // It was told so while it was live.
            let actions = vm.status.as_mut().unwrap().actions.as_mut().unwrap();
            actions.panic = v1::PanicAction::None.into();
        }
        assert_eq!(plan(&machines, wanted("- name: a"), false), []);
        let (told, mask, commanded) = in_place(&machines, "- name: a\n  actions: {panic: none}");
        assert_eq!(told, "change a actions.panic: \"shutdown\" -> \"none\"");
        assert_eq!(
            (mask, commanded),
            (vec!["definition.actions".to_owned()], false)
        );
    }
}
