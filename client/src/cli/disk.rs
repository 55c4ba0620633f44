//! Disks as typed on the command line: `PATH[,format=F][,queues=N][,readonly][,serial=S][,rerror=P][,werror=P][,bps=SIZE]...`

use super::{
    rate,
    values::{absolute_path, split},
};
use crate::{
    names::Spelled,
    v1::{Disk, DiskFormat, ErrorPolicy, IoEngine},
};

/// Reads a disk. As with QEMU, a comma that belongs to a value is written twice.
pub(super) fn read(text: &str) -> Result<Disk, String> {
    let mut words = split(text).into_iter();
    let path = words.next().filter(|path| !path.is_empty());
    let path =
        path.ok_or("expected a path, with or without options, for example disk.img,readonly")?;
    let mut disk = Disk {
        path: absolute_path(&path)?,
        ..Default::default()
    };
    for word in words {
        match word.split_once('=') {
            None if word == "readonly" => disk.read_only = true,
            Some(("format", format)) => {
                let known = DiskFormat::from_spelling(format);
                disk.set_format(known.ok_or("format: expected raw or qcow2")?);
            }
            Some(("aio", engine)) => {
                // As QEMU spells it, too.
                let known = IoEngine::from_spelling(&engine.replace('_', "-"));
                disk.set_io_engine(known.ok_or("aio: expected auto, io-uring or threads")?);
            }
            Some(("queues", count)) => {
                let count = count.parse().map_err(|_| "queues: expected a number")?;
                disk.queues = Some(count);
            }
            Some(("serial", serial)) => serial.clone_into(&mut disk.serial),
            Some(("rerror", policy)) => disk.set_rerror(read_policy("rerror", policy)?),
            Some(("werror", policy)) => disk.set_werror(read_policy("werror", policy)?),
            Some((key, value)) if rate::read(&mut disk.rate_limit, key, value)? => {}
            _ => {
                return Err(format!(
                    "'{word}' is none of format=F, queues=N, aio=ENGINE, readonly, serial=S, rerror=P, werror=P, bps=SIZE, bps-burst=SIZE, iops=N and \
                     iops-burst=N"
                ));
            }
        }
    }
    Ok(disk)
}

fn read_policy(key: &str, value: &str) -> Result<ErrorPolicy, String> {
    ErrorPolicy::from_spelling(value)
        .ok_or_else(|| format!("Parameter '{key}' does not accept value '{value}'"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::v1::RateLimit;

    #[test]
    fn a_disk_is_a_path_and_options() {
        let plain = Disk {
            path: "/a".to_owned(),
            ..Default::default()
        };
        assert_eq!(read("/a"), Ok(plain.clone()));
        let all = Disk {
            path: "/a,b".to_owned(),
            read_only: true,
            serial: "x=y,z".to_owned(),
            rerror: ErrorPolicy::Stop.into(),
            werror: ErrorPolicy::Ignore.into(),
            format: DiskFormat::Qcow2.into(),
            queues: Some(4),
            io_engine: IoEngine::Threads.into(),
            rate_limit: Some(RateLimit {
                bytes_per_second: 10 << 20,
                ops_burst: 5,
                ..Default::default()
            }),
        };
        let text = "/a,,b,format=qcow2,queues=4,aio=threads,readonly,serial=x=y,,z,rerror=stop,werror=ignore,bps=10M,iops-burst=5";
        assert_eq!(read(text), Ok(all));
        assert!(read("a").unwrap().path.ends_with("/a"));
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (text, problem) in [
            ("", "expected a path"),
            (",readonly", "expected a path"),
            ("/a,", "'' is none of"),
            ("/a,ro", "'ro' is none of"),
            ("/a,aio=native", "aio: expected auto, io-uring or threads"),
            ("/a,queues=x", "queues: expected a number"),
            ("/a,format=vmdk", "format: expected raw or qcow2"),
            ("/a,readonly=on", "'readonly=on' is none of"),
            (
                "/a,werror=auto",
                "Parameter 'werror' does not accept value 'auto'",
            ),
        ] {
            let error = read(text).unwrap_err();
            assert!(error.starts_with(problem), "{text}: {error}");
        }
    }
}
