//! The typed client library of `vmd`, and the `vmctl` command built on it.
#![forbid(unsafe_code)]
