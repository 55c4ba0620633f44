//! PCI (PCI Local Bus Specification 3.0): what every function has, whatever it does.
//!
//! ```text
//!   ECAM access ---> Config (config.rs): identity, command, base address, capabilities
//!                       |  base address                  | MSI-X control
//!                       v                                v
//!   MMIO access ---> the function's registers ----> Msix (msix.rs): table, masks, pending bits ---> Vector
//! ```
//! Models only: where functions are, and what makes an interrupt of a message, is the machine's.

pub mod config;
pub mod msix;
