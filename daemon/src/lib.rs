//! Many machines: the registry, one actor per VM, the gRPC service and the event log.
#![forbid(unsafe_code)]
