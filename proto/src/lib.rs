//! The gRPC interface of `vmd`, generated from `proto/vmd/v1/vm.proto`; nothing else lives here.
//!
//! The `.proto` file carries the documentation of every call, message and field.
//!
//! ```text
//!   vmd/v1/vm.proto -- build.rs: protox --> FileDescriptorSet -- tonic-prost-build --> v1 (messages, client, server)
//!                                                 \--> FILE_DESCRIPTOR_SET --> server reflection
//! ```
#![forbid(unsafe_code)]

/// Package `vmd.v1`: the messages, the client and the server traits of `VmService`.
pub mod v1 {
    // Generated code: its comments come from the .proto file and are not written as Rust docs.
    #![allow(missing_docs, unreachable_pub, rustdoc::all, clippy::all)]
    tonic::include_proto!("vmd.v1");
}

/// The encoded `FileDescriptorSet` of all `.proto` files, for server reflection.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
