//! The socket device as typed on the command line: `cid=N,path=PATH`, or `N:PATH`.

use super::values::{absolute_path, split};
use crate::v1::Vsock;

const EXPECTED: &str = "expected cid=N,path=PATH or N:PATH, for example 3:/run/web.vsock";

/// Reads a socket device. A comma that belongs to a path after `path=` is written twice.
pub(super) fn read(text: &str) -> Result<Vsock, String> {
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if let Some((cid, path)) = text.split_once(':')
        && is_number(cid)
    {
        return Ok(Vsock {
            cid: read_cid(cid)?,
            path: absolute_path(path)?,
        });
    }
    let (mut cid, mut path) = (None, None);
    for word in split(text) {
        match word.split_once('=') {
            Some(("cid", number)) => cid = Some(read_cid(number)?),
            Some(("path", text)) => path = Some(absolute_path(text)?),
            _ => {
                return Err(format!(
                    "'{word}' is neither cid=N nor path=PATH; {EXPECTED}"
                ));
            }
        }
    }
    match (cid, path) {
        (Some(cid), Some(path)) => Ok(Vsock { cid, path }),
        _ => Err(EXPECTED.to_owned()),
    }
}

fn read_cid(text: &str) -> Result<u32, String> {
    let cid = text.parse().ok().filter(|cid| (3..u32::MAX).contains(cid));
    cid.ok_or_else(|| format!("'{text}' is no CID of a guest: 3 to 4294967294"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_device_is_a_cid_and_a_path() {
        let vsock = |cid, path: &str| Vsock {
            cid,
            path: path.to_owned(),
        };
        assert_eq!(read("3:/run/x"), Ok(vsock(3, "/run/x")));
        assert_eq!(read("3:/run/x:y,z"), Ok(vsock(3, "/run/x:y,z")));
        assert_eq!(
            read("cid=4294967294,path=/run/x"),
            Ok(vsock(u32::MAX - 1, "/run/x"))
        );
        assert_eq!(read("path=/a,,b:c,cid=52"), Ok(vsock(52, "/a,b:c")));
        assert!(read("3:x").unwrap().path.ends_with("/x"));
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (text, problem) in [
            ("", "'' is neither"),
            ("/run/x", "'/run/x' is neither"),
            ("cid=3", "expected cid=N"),
            ("path=/x", "expected cid=N"),
            ("cid=2,path=/x", "'2' is no CID"),
            ("cid=4294967295,path=/x", "'4294967295' is no CID"),
            ("1:/x", "'1' is no CID"),
            ("cid=x,path=/x", "'x' is no CID"),
        ] {
            let error = read(text).unwrap_err();
            assert!(error.starts_with(problem), "{text}: {error}");
        }
    }
}
