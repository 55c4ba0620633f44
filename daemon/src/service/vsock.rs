//! What the socket device of a request must look like.

use tonic::Status as Refusal;
use vmd_proto::v1;
use vmm::devices::virtio::vsock::{CID_MAX, CID_MIN};

use super::{check::path, errors::invalid_field};
use crate::vm::Vsock;

/// The socket device of a definition.
pub(super) fn vsock(vsock: v1::Vsock) -> Result<Vsock, Refusal> {
    let v1::Vsock { cid, path: socket } = vsock;
    if !(CID_MIN..=CID_MAX).contains(&cid) {
        let problem = format!("a guest's CID is {CID_MIN} to {CID_MAX}, not {cid}");
        return Err(invalid_field("definition.vsock.cid", &problem));
    }
    let field = "definition.vsock.path";
    let path = path(field, socket)?;
    let path = path.ok_or_else(|| invalid_field(field, "give the path of a socket to create"))?;
    Ok(Vsock { cid, path })
}
