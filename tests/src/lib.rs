//! The lab: four hosts in network namespaces of one machine, with real mail servers, for the demo, the
//! scenarios and the benchmarks. Needs root; leaves nothing behind, however it ends.

pub mod components;
pub mod corpus;
pub mod crafted;
pub mod detach;
pub mod foreign;
pub mod interop;
pub mod lab;
pub mod other_program;
pub mod probe;
pub mod smtp;
pub mod sockets;
pub mod wait;
