//! What can be wrong with a network card.

use std::path::Path;

use vmctl::v1::{self, net::Backend};

use super::{Mistake, definition};

fn net(backend: Backend) -> v1::Net {
    v1::Net {
        backend: Some(backend),
        ..Default::default()
    }
}

fn tap(name: &str) -> v1::Net {
    net(Backend::Tap(name.to_owned()))
}

fn passt(path: &Path) -> v1::Net {
    net(Backend::Passt(path.to_str().unwrap().to_owned()))
}

/// Every mistake that one can make with a network card, but for those that need an interface of one's own.
pub(crate) fn mistakes(directory: &Path) -> Vec<Mistake> {
    let mut rows = Vec::new();
    let mut wrong = |what, reason, field, says, nets: Vec<v1::Net>| {
        rows.push(definition(what, reason, field, says, |d| d.nets = nets));
    };
    let unusable = "NET_UNUSABLE";
    let passt_field = "definition.nets[0].passt";
    let missing = directory.join("missing");
    wrong(
        "no passt",
        unusable,
        passt_field,
        "No such file",
        vec![passt(&missing)],
    );
    let says = "start one first";
    wrong(
        "a directory for passt",
        unusable,
        passt_field,
        says,
        vec![passt(directory)],
    );
    let tap_field = "definition.nets[0].tap";
    wrong(
        "no tap",
        unusable,
        tap_field,
        "it is no tap",
        vec![tap("lo")],
    );

    let invalid = "INVALID_FIELD";
    let backend = "definition.nets[0].backend";
    wrong(
        "no backend",
        invalid,
        backend,
        "give `tap` or `passt`",
        vec![v1::Net::default()],
    );
    let says = "1 to 15 bytes";
    wrong(
        "a long name",
        invalid,
        tap_field,
        says,
        vec![tap("sixteen-letters-")],
    );
    wrong("no name", invalid, tap_field, says, vec![tap("")]);
    wrong(
        "a path for a name",
        invalid,
        tap_field,
        "no name",
        vec![tap("../tap")],
    );
    wrong(
        "a relative path",
        invalid,
        passt_field,
        "not an absolute path",
        vec![passt(Path::new("p"))],
    );
    let mac = |mac: &str| v1::Net {
        mac: mac.to_owned(),
        ..tap("lo")
    };
    let mac_field = "definition.nets[0].mac";
    wrong(
        "a short address",
        invalid,
        mac_field,
        "no MAC address",
        vec![mac("52:54:00")],
    );
    wrong(
        "a group's address",
        invalid,
        mac_field,
        "of a group",
        vec![mac("01:00:5e:00:00:01")],
    );
    let mut same = mac("52:54:00:12:34:56");
    let twice = vec![same.clone(), same.clone()];
    wrong(
        "an address twice",
        invalid,
        "definition.nets[1].mac",
        "another network card",
        twice,
    );
    same.mtu = Some(67);
    wrong(
        "a small MTU",
        invalid,
        "definition.nets[0].mtu",
        "68 to 65535",
        vec![same.clone()],
    );
    (same.mtu, same.queues) = (None, Some(9));
    wrong(
        "many queues",
        invalid,
        "definition.nets[0].queues",
        "1 to 8",
        vec![same.clone()],
    );
    same.queues = None;
    same.tx_rate_limit = Some(v1::RateLimit {
        ops_burst: 1,
        ..Default::default()
    });
    let field = "definition.nets[0].tx_rate_limit.ops_burst";
    wrong(
        "a burst without a rate",
        invalid,
        field,
        "give `ops_per_second`",
        vec![same],
    );
    let many = (0..17).map(|_| tap("lo")).collect();
    wrong("cards", invalid, "definition.disks", "at most 16", many);
    rows
}
