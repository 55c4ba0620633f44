//! Network cards as typed on the command line: `tap=NAME|passt=PATH[,mac=M][,mtu=N][,queues=N][,link=down][,tx-bps=SIZE]...`.

use super::{
    rate,
    values::{absolute_path, split},
};
use crate::v1::{Net, net::Backend};

/// Reads a network card. As with QEMU, a comma that belongs to a value is written twice.
pub(super) fn read(text: &str) -> Result<Net, String> {
    let mut net = Net::default();
    for word in split(text) {
        let is_first = net.backend.is_none();
        match word.split_once('=') {
            Some(("tap", name)) if is_first => net.backend = Some(Backend::Tap(name.to_owned())),
            Some(("passt", path)) if is_first => {
                net.backend = Some(Backend::Passt(absolute_path(path)?));
            }
            _ if is_first => {
                return Err(
                    "expected tap=NAME or passt=PATH first, for example tap=tap0,mtu=9000"
                        .to_owned(),
                );
            }
            Some(("mac", mac)) => mac.clone_into(&mut net.mac),
            Some(("mtu", mtu)) => net.mtu = Some(number("mtu", mtu)?),
            Some(("queues", queues)) => net.queues = Some(number("queues", queues)?),
            Some(("link", "up")) => net.link_down = false,
            Some(("link", "down")) => net.link_down = true,
            Some((key, value)) if limit(&mut net, key, value)? => {}
            _ => {
                return Err(format!(
                    "'{word}' is none of mac=M, mtu=N, queues=N, link=up, link=down, and rx- or tx- with bps=SIZE, \
                     bps-burst=SIZE, pps=N, pps-burst=N"
                ));
            }
        }
    }
    Ok(net)
}

/// Puts an option of a rate limit, `rx-bps` for one, into `net`; whether it is one.
fn limit(net: &mut Net, key: &str, value: &str) -> Result<bool, String> {
    let (limit, rest) = match key.split_once('-') {
        Some(("rx", rest)) => (&mut net.rx_rate_limit, rest),
        Some(("tx", rest)) => (&mut net.tx_rate_limit, rest),
        _ => return Ok(false),
    };
    // A card's operations are packets.
    let option = match rest {
        "pps" => "iops",
        "pps-burst" => "iops-burst",
        "bps" | "bps-burst" => rest,
        _ => return Ok(false),
    };
    rate::read(limit, option, value)
}

fn number(key: &str, value: &str) -> Result<u32, String> {
    let problem = || format!("Parameter '{key}' expects a number, not '{value}'");
    value.parse().map_err(|_| problem())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::v1::RateLimit;

    #[test]
    fn a_card_is_what_it_is_connected_to_and_options() {
        let tap = Net {
            backend: Some(Backend::Tap("tap0".to_owned())),
            ..Default::default()
        };
        assert_eq!(read("tap=tap0"), Ok(tap.clone()));
        let all = Net {
            mac: "52:54:00:12:34:56".to_owned(),
            mtu: Some(9000),
            queues: Some(2),
            link_down: true,
            rx_rate_limit: Some(RateLimit {
                ops_per_second: 2048,
                ops_burst: 10,
                ..Default::default()
            }),
            tx_rate_limit: Some(RateLimit {
                bytes_per_second: 10 << 20,
                bytes_burst: 1 << 20,
                ..Default::default()
            }),
            ..tap
        };
        let text = "tap=tap0,mac=52:54:00:12:34:56,mtu=9000,queues=2,link=down,rx-pps=2K,\
                    rx-pps-burst=10,tx-bps=10M,tx-bps-burst=1M";
        assert_eq!(read(text), Ok(all));
        let passt = read("passt=/a,,b=c,link=up").unwrap();
        assert_eq!(passt.backend, Some(Backend::Passt("/a,b=c".to_owned())));
        let Some(Backend::Passt(path)) = read("passt=a").unwrap().backend else {
            panic!("no passt");
        };
        assert!(path.ends_with("/a") && path.starts_with('/'));
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (text, problem) in [
            ("", "expected tap=NAME or passt=PATH"),
            ("tap0", "expected tap=NAME or passt=PATH"),
            ("mtu=9000,tap=tap0", "expected tap=NAME or passt=PATH"),
            ("tap=a,passt=b", "'passt=b' is none of"),
            ("tap=a,link", "'link' is none of"),
            ("tap=a,link=on", "'link=on' is none of"),
            ("tap=a,", "'' is none of"),
            ("tap=a,bps=1", "'bps=1' is none of"),
            ("tap=a,tx-iops=1", "'tx-iops=1' is none of"),
            ("tap=a,tx-bps=x", "bps: expected bytes"),
            ("tap=a,mtu=x", "Parameter 'mtu' expects a number"),
            ("tap=a,queues=-1", "Parameter 'queues' expects a number"),
        ] {
            let error = read(text).unwrap_err();
            assert!(error.starts_with(problem), "{text}: {error}");
        }
    }
}
