//! Which role each method needs. What is not in the table needs admin: a new method is closed until it is put here, which
//! a test asks for.

use super::Role;

/// What is decided about a call before the service has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Rule {
    /// The role that is needed; `None` if whoever can connect may call it.
    pub(super) role: Option<Role>,
    /// Whether it changes something: calls are in the audit trail.
    pub(super) changes: bool,
}

/// The service whose methods are in the table.
pub(super) const SERVICE: &str = "vmd.v1.VmService";

const VIEWER: Rule = Rule {
    role: Some(Role::Viewer),
    changes: false,
};
const OPERATOR: Rule = Rule {
    role: Some(Role::Operator),
    changes: true,
};
const ADMIN: Rule = Rule {
    role: Some(Role::Admin),
    changes: true,
};
const ANYONE: Rule = Rule {
    role: None,
    changes: false,
};

/// The methods of [`SERVICE`].
pub(super) const METHODS: &[(&str, Rule)] = &[
    ("GetVm", VIEWER),
    ("ListVms", VIEWER),
    ("WatchEvents", VIEWER),
    ("WatchVms", VIEWER),
    ("QueryBalloon", VIEWER),
    ("Cont", OPERATOR),
    ("Stop", OPERATOR),
    ("SystemReset", OPERATOR),
    ("SystemPowerdown", OPERATOR),
    ("SystemWakeup", OPERATOR),
    ("InjectNmi", OPERATOR),
    ("SetAction", OPERATOR),
    ("Quit", OPERATOR),
    ("StartVm", OPERATOR),
    ("Balloon", OPERATOR),
    ("SetLink", OPERATOR),
    ("Console", OPERATOR),
    ("Qmp", OPERATOR),
    // One at a time: it keeps others from recording.
    ("Record", OPERATOR),
    // What takes of the host's, or gives it back.
    ("CreateVm", ADMIN),
    ("UpdateVm", ADMIN),
    ("DeleteVm", ADMIN),
    ("ResizeDisk", ADMIN),
    ("DeviceAdd", ADMIN),
    ("DeviceDel", ADMIN),
];

/// Services that tell nothing of machines.
const OPEN: &[&str] = &[
    "grpc.health.v1.Health",
    "grpc.reflection.v1.ServerReflection",
    "grpc.reflection.v1alpha.ServerReflection",
];

/// The rule for the call with the HTTP path `path`, and the method's name.
pub(super) fn rule(path: &str) -> (&str, Rule) {
    let path = path.strip_prefix('/').unwrap_or(path);
    match path.split_once('/') {
        Some((SERVICE, method)) => {
            let known = METHODS.iter().find(|(name, _)| *name == method);
            (method, known.map_or(ADMIN, |(_, rule)| *rule))
        }
        Some((service, _)) if OPEN.contains(&service) => (path, ANYONE),
        _ => (path, ADMIN),
    }
}

#[cfg(test)]
mod tests {
    use prost::Message;
    use prost_types::{FileDescriptorSet, field_descriptor_proto::Type};

    use super::*;

    #[test]
    fn every_method_of_the_interface_is_in_the_table_and_names_its_machine_first() {
        let set = FileDescriptorSet::decode(vmd_proto::FILE_DESCRIPTOR_SET).unwrap();
        let mut methods = Vec::new();
        let mut messages = Vec::new();
        for file in set.file {
            messages.extend(file.message_type.clone());
            if file.package() == "vmd.v1" {
                for service in file.service {
                    assert_eq!(format!("vmd.v1.{}", service.name()), SERVICE);
                    methods.extend(service.method);
                }
            }
        }
        for method in &methods {
            let name = method.name();
            assert!(METHODS.iter().any(|(known, _)| *known == name), "{name}");
            if rule(&format!("/{SERVICE}/{name}")).1.changes {
                // The audit trail reads it there.
                let request = method.input_type().rsplit('.').next();
                let request = messages
                    .iter()
                    .find(|it| Some(it.name()) == request)
                    .unwrap();
                let field = request.field.iter().find(|it| it.number() == 1).unwrap();
                assert_eq!(
                    (field.name(), field.r#type()),
                    ("name", Type::String),
                    "{name}"
                );
            }
        }
        for (name, _) in METHODS {
            assert!(methods.iter().any(|it| it.name() == *name), "{name}");
        }
    }

    #[test]
    fn what_is_unknown_is_closed() {
        assert_eq!(rule("/vmd.v1.VmService/NoSuchCall"), ("NoSuchCall", ADMIN));
        for path in [
            "/",
            "",
            "/x",
            "/x/y",
            "/vmd.v1.VmService",
            "vmd.v1.VmService/",
        ] {
            assert_eq!(rule(path).1, ADMIN, "{path}");
        }
        assert_eq!(rule("/grpc.health.v1.Health/Check").1, ANYONE);
    }
}
