//! What the network cards of a request must look like.

use std::collections::HashSet;

use tonic::Status as Refusal;
use uuid::Uuid;
use vmd_proto::v1;
use vmm::devices::virtio::net::{Limits, MTUS, NAME_MAX, PAIRS_MAX};

use super::{check::path, errors::invalid_field, rate_limit::rate_limit};
use crate::vm::{Net, NetBackend};

/// The network cards of a definition, with the defaults put in.
pub(super) fn nets(nets: Vec<v1::Net>) -> Result<Vec<Net>, Refusal> {
    let mut macs = HashSet::new();
    let nets = nets.into_iter().enumerate().map(|(index, asked)| {
        let net = net(&format!("definition.nets[{index}]"), asked)?;
        if !macs.insert(net.mac) {
            let field = format!("definition.nets[{index}].mac");
            let problem = "another network card of the machine has this address";
            return Err(invalid_field(&field, problem));
        }
        Ok(net)
    });
    nets.collect()
}

/// A network card, in the field `of`.
pub(super) fn net(of: &str, net: v1::Net) -> Result<Net, Refusal> {
    let field = |name: &str| format!("{of}.{name}");
    let refuse = |name: &str, problem: &str| invalid_field(&field(name), problem);
    let v1::Net {
        backend,
        mac,
        mtu,
        queues,
        link_down,
        rx_rate_limit,
        tx_rate_limit,
    } = net;
    let backend = match backend {
        Some(v1::net::Backend::Tap(name)) => {
            check_name(&name).map_err(|problem| refuse("tap", &problem))?;
            NetBackend::Tap(name)
        }
        Some(v1::net::Backend::Passt(socket)) => {
            let socket = path(&field("passt"), socket)?;
            let socket = socket
                .ok_or_else(|| refuse("passt", "give the path of the socket it listens on"))?;
            NetBackend::Passt(socket)
        }
        None => {
            let problem = "a network card is connected to something: give `tap` or `passt`";
            return Err(refuse("backend", problem));
        }
    };
    let mac = match mac.as_str() {
        "" => random_mac(),
        text => read_mac(text).map_err(|problem| refuse("mac", &problem))?,
    };
    let mtu = mtu.map(|mtu| {
        let mtu = u16::try_from(mtu).ok().filter(|mtu| MTUS.contains(mtu));
        let problem = format!("an MTU is {} to {} bytes", MTUS.start(), MTUS.end());
        mtu.ok_or_else(|| refuse("mtu", &problem))
    });
    let most = match backend {
        NetBackend::Tap(_) => PAIRS_MAX,
        NetBackend::Passt(_) => 1,
    };
    let queues = queues.unwrap_or(1);
    let queues = u16::try_from(queues)
        .ok()
        .filter(|queues| (1..=most).contains(queues));
    Ok(Net {
        backend,
        mac,
        mtu: mtu.transpose()?,
        queues: queues.ok_or_else(|| {
            let problem = match most {
                1 => "passt has 1 pair of queues".to_owned(),
                most => format!("a network card has 1 to {most} pairs of queues"),
            };
            refuse("queues", &problem)
        })?,
        link_down,
        limits: Limits {
            receive: rate_limit(&field("rx_rate_limit"), rx_rate_limit)?,
            send: rate_limit(&field("tx_rate_limit"), tx_rate_limit)?,
        },
    })
}

/// What the kernel takes for the name of an interface.
fn check_name(name: &str) -> Result<(), String> {
    let odd = |byte: u8| matches!(byte, b'/' | b':' | b'%') || !byte.is_ascii_graphic();
    if name.is_empty() || name.len() > NAME_MAX {
        return Err(format!(
            "the name of an interface has 1 to {NAME_MAX} bytes"
        ));
    }
    if name == "." || name == ".." || name.bytes().any(odd) {
        return Err(format!("'{name}' is no name of an interface"));
    }
    Ok(())
}

/// An address as people write it: 52:54:00:12:34:56.
fn read_mac(text: &str) -> Result<[u8; 6], String> {
    let bytes: Vec<_> = text
        .split(':')
        .map_while(|byte| {
            let is_hex = byte.len() == 2 && byte.bytes().all(|digit| digit.is_ascii_hexdigit());
            is_hex.then(|| u8::from_str_radix(byte, 16).ok()).flatten()
        })
        .collect();
    // Six bytes, and nothing that was left out.
    let mac = <[u8; 6]>::try_from(bytes).ok().filter(|_| text.len() == 17);
    let mac =
        mac.ok_or_else(|| format!("'{text}' is no MAC address: write one as 52:54:00:12:34:56"))?;
    let [first, ..] = mac;
    if first & 1 != 0 {
        return Err(format!("'{text}' is the address of a group, not of a card"));
    }
    if mac == [0; 6] {
        return Err(format!("'{text}' is nobody's address"));
    }
    Ok(mac)
}

/// An address that is locally administered, and nobody else's.
fn random_mac() -> [u8; 6] {
    let [.., a, b, c, d, e, f] = Uuid::new_v4().into_bytes();
    [a & 0xfc | 0x02, b, c, d, e, f]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tap(name: &str) -> v1::Net {
        v1::Net {
            backend: Some(v1::net::Backend::Tap(name.to_owned())),
            ..Default::default()
        }
    }

    fn passt(path: &str) -> v1::Net {
        v1::Net {
            backend: Some(v1::net::Backend::Passt(path.to_owned())),
            ..Default::default()
        }
    }

    #[test]
    fn an_address_is_made_up_if_there_is_none() {
        let all = nets(vec![tap("t0"), tap("t1"), passt("/p")]).unwrap();
        for net in &all {
            assert_eq!(net.mac[0] & 3, 2, "{net:?}");
            assert_eq!((net.queues, net.mtu), (1, None));
        }
        assert_ne!(all[0].mac, all[1].mac);
        let mac = v1::Net {
            mac: "52:54:00:aB:cd:EF".to_owned(),
            mtu: Some(9000),
            queues: Some(8),
            ..tap("a-tap_0.1@b")
        };
        let net = net("net", mac).unwrap();
        assert_eq!(net.mac, [0x52, 0x54, 0, 0xab, 0xcd, 0xef]);
        assert_eq!((net.queues, net.mtu), (8, Some(9000)));
    }

    #[test]
    fn what_is_wrong_is_named() {
        let mac = |mac: &str| v1::Net {
            mac: mac.to_owned(),
            ..tap("t")
        };
        let mtu = |mtu| v1::Net {
            mtu: Some(mtu),
            ..tap("t")
        };
        let queues = |queues, net| v1::Net {
            queues: Some(queues),
            ..net
        };
        let burst = v1::Net {
            tx_rate_limit: Some(v1::RateLimit {
                bytes_burst: 1,
                ..Default::default()
            }),
            ..tap("t")
        };
        for (net, field, says) in [
            (v1::Net::default(), "backend", "give `tap` or `passt`"),
            (tap(""), "tap", "1 to 15 bytes"),
            (tap("sixteen-letters-"), "tap", "1 to 15 bytes"),
            (tap("a/b"), "tap", "no name"),
            (tap("a b"), "tap", "no name"),
            (tap("tap%d"), "tap", "no name"),
            (tap(".."), "tap", "no name"),
            (tap("é"), "tap", "no name"),
            (passt(""), "passt", "give the path"),
            (passt("p"), "passt", "not an absolute path"),
            (mac("52:54:00:12:34"), "mac", "no MAC address"),
            (mac("52:54:00:12:34:56:78"), "mac", "no MAC address"),
            (mac("52:54:00:12:34:+6"), "mac", "no MAC address"),
            (mac("52-54-00-12-34-56"), "mac", "no MAC address"),
            (mac("52:54:0:12:34:567"), "mac", "no MAC address"),
            (mac("01:00:5e:00:00:01"), "mac", "of a group"),
            (mac("ff:ff:ff:ff:ff:ff"), "mac", "of a group"),
            (mac("00:00:00:00:00:00"), "mac", "nobody's"),
            (mtu(67), "mtu", "68 to 65535"),
            (mtu(65536), "mtu", "68 to 65535"),
            (queues(0, tap("t")), "queues", "1 to 8"),
            (queues(9, tap("t")), "queues", "1 to 8"),
            (queues(65537, tap("t")), "queues", "1 to 8"),
            (queues(2, passt("/p")), "queues", "passt has 1"),
            (
                burst,
                "tx_rate_limit.bytes_burst",
                "give `bytes_per_second`",
            ),
        ] {
            let refusal = nets(vec![tap("good"), net]).unwrap_err();
            let start = format!("definition.nets[1].{field}: ");
            assert!(refusal.message().starts_with(&start), "{refusal}");
            assert!(refusal.message().contains(says), "{refusal}");
        }
        let same = "02:00:00:00:00:01";
        let refusal = nets(vec![mac(same), tap("t"), mac(same)]).unwrap_err();
        assert!(
            refusal
                .message()
                .starts_with("definition.nets[2].mac: another")
        );
    }
}
